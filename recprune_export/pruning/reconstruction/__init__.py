"""Reconstruction of layers and batch-norm statistics after channels are removed."""
