"""Requests of a program: their example, their tensors in any container, rows of different lengths, drawn and valid ones."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
