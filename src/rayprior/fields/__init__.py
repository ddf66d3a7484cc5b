"""What is where: positions -> density and a feature, feature and direction -> colour."""
