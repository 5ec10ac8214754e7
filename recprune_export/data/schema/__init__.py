"""The roles of the columns of a file: categorical or numeric field, label, split."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
