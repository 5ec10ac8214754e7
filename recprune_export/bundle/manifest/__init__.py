"""Manifest of a bundle: model, sections, published JSON schema and migration of older formats."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
