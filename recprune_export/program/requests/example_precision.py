"""The precision of an example request: numbers in another one than that of the weights are converted, with a note."""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from recprune_export.program.capture.passes.to_float32 import HALF


@dataclass(frozen=True)
class PreparedRequest:
    """A module and a request that it accepts, with a sentence on conversions."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    notes: tuple[str, ...] = ()


def match_precision(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PreparedRequest:
    """Return the request in the precision of the weights if the model accepts only this precision.

    A request made with NumPy is in float64, and one for a model in bfloat16 or float16 is usually in float32. If a model in half
    precision accepts neither, because an operator has no such form on CPU, a copy of it in float32 is returned.
    """
    given = PreparedRequest(module, args, dict(kwargs))
    weights = Counter(p.dtype for p in module.parameters() if p.is_floating_point())
    numbers = {x.dtype for x in pytree.tree_leaves((args, given.kwargs)) if _has_fraction(x)}
    if not weights or (numbers <= set(weights) and not set(weights) & set(HALF)) or _answers(given):
        return given
    dtype = weights.most_common(1)[0][0]
    if numbers and numbers != {dtype}:
        note = (
            f"The numbers of the example request are in {_names(numbers)}, but the model accepts only {_names({dtype})}: "
            "they are converted."
        )
        converted = _convert(given, dtype, (note,))
        if _answers(converted):
            return converted
    if dtype in HALF:
        note = f"The model is in {_names({dtype})}, in which it cannot run on this machine: a float32 copy is used."
        converted = _convert(given, torch.float32, (note,))
        in_float32 = PreparedRequest(copy.deepcopy(module).float(), converted.args, converted.kwargs, converted.notes)
        if _answers(in_float32):
            return in_float32
    return given


def _convert(request: PreparedRequest, dtype: torch.dtype, notes: tuple[str, ...]) -> PreparedRequest:
    args, kwargs = pytree.tree_map(lambda x: x.to(dtype) if _has_fraction(x) else x, (request.args, request.kwargs))
    return PreparedRequest(request.module, args, kwargs, notes)


def _has_fraction(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _answers(request: PreparedRequest) -> bool:
    try:
        with torch.no_grad():
            request.module(*request.args, **request.kwargs)
    except Exception:  # any error of the user's code
        return False
    return True


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
