"""Which rows are for training, validation and testing, and in what order the rows of a user are."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
