"""The example request of `--inputs`, matched to the parameters of `forward`."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.data.npz import MAX_EXAMPLE_BYTES, read_npz
from recprune_export.errors import DataError
from recprune_export.program.capture.unwrap_module import forward_parameters

_POSITIONAL = re.compile(r"(?:arg|arr_)(\d+)")


def example_call(module: nn.Module, inputs: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read an example request from an `.npz` and match it to the parameters of `module.forward`.

    Keys that are parameters become keyword arguments; `arg0`, `arg1`, ... (also `arr_0`, as `numpy.savez` names
    them) are positional; otherwise a `forward` of one parameter gets the dict of all arrays. float64 arrays are converted
    to the dtype of the module's parameters.

    Raises `DataError` for a file that holds other than plain arrays or does not fit `forward`.
    """
    arrays = {name: _tensor(module, array) for name, array in _read_arrays(inputs).items()}
    parameters = {
        name: parameter
        for name, parameter in forward_parameters(module).items()
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    }
    named = {n: p for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    required = [name for name, parameter in named.items() if parameter.default is inspect.Parameter.empty]
    takes_any = len(named) < len(parameters)
    if set(required) <= set(arrays) and (takes_any or set(arrays) <= set(named)):
        return (), arrays
    numbers = {int(match[1]): name for name in arrays if (match := _POSITIONAL.fullmatch(name))}
    if len(numbers) == len(arrays) and len(required) <= len(arrays) and (len(arrays) <= len(named) or not named):
        return tuple(arrays[numbers[i]] for i in sorted(numbers)), {}
    if len(required) == 1 or (not required and len(named) == 1):
        return (arrays,), {}
    raise DataError(
        f"{inputs} contains {sorted(arrays)}, but forward takes {list(named)}: name the arrays after the parameters, or arg0, arg1, ..."
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(path, MAX_EXAMPLE_BYTES)
    if not arrays:
        raise DataError(f"{path} contains no array.")
    return arrays


def _tensor(module: nn.Module, array: np.ndarray) -> Tensor:
    try:
        tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError:
        raise DataError(
            f"The example request has an array of dtype {array.dtype}, which PyTorch does not support."
        ) from None
    if tensor.dtype != torch.float64:
        return tensor
    floats = [p.dtype for p in module.parameters() if p.is_floating_point()]
    return tensor.to(floats[0] if floats else torch.get_default_dtype())
