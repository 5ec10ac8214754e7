"""Encoding of raw values as ids and numbers: vocabularies, and the encoder that is saved with a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
