"""Allocation of widths: the number of channels that each group keeps at a given sparsity."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
