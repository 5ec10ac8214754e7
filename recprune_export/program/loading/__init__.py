"""Loaders of model files, which execute no code from a file without the user's permission."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
