"""Find the module inside a wrapper without computations: torch.compile, DataParallel, averaged weights."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_VARIABLE = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def unwrap_module(module: nn.Module) -> nn.Module:
    """Return the module inside all wrappers, which keeps the names of its inputs and weights.

    >>> network = nn.Linear(2, 1)
    >>> unwrap_module(nn.DataParallel(AveragedModel(network))).weight.shape
    torch.Size([1, 2])
    """
    inner = _find_inner(module)
    return module if inner is None else unwrap_module(inner)


def _find_inner(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | DistributedDataParallel | AveragedModel):
        return module.module
    # The classes of torch.compile and of Lightning Fabric are not imported unless they are used.
    name = f"{type(module).__module__}.{type(module).__name__}"
    if name == "torch._dynamo.eval_frame.OptimizedModule":
        return _get_module(module, "_orig_mod")
    if name.startswith(("lightning.fabric.", "lightning_fabric.")) and type(module).__name__ == "_FabricModule":
        return _get_module(module, "_original_module")
    return None


def _get_module(module: nn.Module, name: str) -> nn.Module | None:
    inner = getattr(module, name, None)
    return inner if isinstance(inner, nn.Module) else None


def forward_parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """Return the parameters of `forward`, in their order.

    A `forward(*args, **kwargs)` that passes its request on to the only child has the parameters of that child.
    """
    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        return {argument.name: _convert_argument(argument) for argument in forward.schema.arguments[1:]}
    parameters = dict(inspect.signature(module.forward).parameters)
    children = list(module.children())
    kinds = {parameter.kind for parameter in parameters.values()}
    passes_on = inspect.Parameter.VAR_POSITIONAL in kinds <= _VARIABLE
    return forward_parameters(children[0]) if passes_on and len(children) == 1 else parameters


def _convert_argument(argument: Any) -> inspect.Parameter:
    default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
    return inspect.Parameter(argument.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
