"""Plain image networks: they know tensors of pictures and of numbers, nothing of scenes, fields or rendering."""
