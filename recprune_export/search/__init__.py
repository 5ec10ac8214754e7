"""Search the operating point, a sparsity or a number of bytes, for a quality or a speed by trials; sweep over points."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
