"""Importance scores of channels, one idea per file; `registry.py` lists all of them."""
