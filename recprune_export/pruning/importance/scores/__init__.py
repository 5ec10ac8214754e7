"""Scores: which channels of each group go first. One idea per file; `registry.py` has them all."""
