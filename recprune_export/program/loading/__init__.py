"""Loaders of model files, which execute no code from a file without the user's permission."""
