"""Metrics of held-out rows: their names, values, and the intervals of their changes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
