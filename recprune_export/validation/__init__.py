"""Validation of exported files: parity with the program, and latency compared with the dense model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
