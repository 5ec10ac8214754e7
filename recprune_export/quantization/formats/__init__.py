"""Formats in which weights are stored and multiplied: int8 layers, tables in fewer bits."""
