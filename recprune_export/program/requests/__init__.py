"""Requests of a program: the example, tensors in any container, rows of different lengths, random and valid requests."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
