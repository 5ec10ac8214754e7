"""Fine-tuning of a pruned program: distillation from the dense model, under masks that hold its zeros."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
