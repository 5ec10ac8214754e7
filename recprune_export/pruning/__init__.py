"""Structured pruning: score channels, plan within a budget, rewrite the program, and check its soundness."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
