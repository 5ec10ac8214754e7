"""Distributions of ids, numbers and labels, and the distance of two distributions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
