"""Captures: photos or a video in, a scene with cameras, points, masks and a verdict out."""
