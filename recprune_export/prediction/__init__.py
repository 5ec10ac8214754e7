"""Scores for the rows of a file, by a bundle and ONNX Runtime alone."""
