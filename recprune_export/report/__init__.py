"""Report pages on a bundle or a check: one self-contained HTML file without scripts, rendered without PyTorch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
