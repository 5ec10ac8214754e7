"""Layers and batch-norm statistics fitted again after channels are removed."""
