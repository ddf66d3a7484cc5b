"""What a trained model is worth, and how it looks: metrics with their protocol, films, reports."""
