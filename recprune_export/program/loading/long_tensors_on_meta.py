"""Create a module without its long tables, which a checkpoint larger than memory provides afterwards."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_RANDOM = frozenset({torch.empty, torch.rand, torch.randn})  # functions that create random or uninitialized numbers
_FILLED = frozenset({torch.zeros, torch.ones, torch.full})
_LEAST_FILLED = 1 << 26  # bytes; shorter ones may be constants of the model


class LongTensorsOnMeta(TorchFunctionMode):
    """Inside the block, new tensors of at least `least_bytes` that would be filled at random have no storage; others are created as
    usual.

    Constants that a module computes keep their values, unlike under `torch.device("meta")`.
    """

    def __init__(self, least_bytes: int) -> None:
        super().__init__()
        self._least = {
            **dict.fromkeys(_RANDOM, least_bytes),
            **dict.fromkeys(_FILLED, max(least_bytes, _LEAST_FILLED)),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        least = self._least.get(func)
        if least is None or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        described = {key: value for key, value in kwargs.items() if key not in ("generator", "pin_memory")}
        planned: Tensor = func(*args, **{**described, "device": "meta"})
        return planned if planned.nbytes >= least else func(*args, **kwargs)
