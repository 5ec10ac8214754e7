"""Quantization of an exported graph: formats are chosen by measured speed and limited by the loss of the metric."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
