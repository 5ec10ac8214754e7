"""Reading of data files as requests and labels: schema, vocabularies, splits."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
