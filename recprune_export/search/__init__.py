"""Search for the operating point, a sparsity or a number of bytes, that reaches a quality or a speed; sweep over points."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
