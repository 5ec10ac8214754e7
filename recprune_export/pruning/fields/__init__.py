"""Pruning of whole categorical fields: their importance, and their removal from a program."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
