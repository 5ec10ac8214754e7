"""The main job: prune in stages, export, quantize, evaluate, write; `compress.py` runs it from top to bottom."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
