"""Splits of rows into training, validation and test rows, and the order of the rows of a user."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
