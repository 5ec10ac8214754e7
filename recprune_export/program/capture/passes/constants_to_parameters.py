"""What is a weight of a model, whatever holds it: parameters, and tables and matrices that the model keeps as constants.

Recommenders are often served from vectors that were computed beforehand: graph recommenders keep the tables that they have
propagated, others the features of their items, as buffers or as plain tensors. These take the room of tables, and their
dimensions can go like those of tables. And a model that was frozen as a whole, to be served, says nothing about which of its
weights are to stay as they are.
"""

import torch
from torch import Tensor, fx, nn

from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import arguments
from recprune_export.program.request_invariant import ROW_LOOKUPS, find_request_invariant_nodes, find_varying_readers

aten = torch.ops.aten

_PRODUCTS = frozenset({aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default})
# Masks, picks and one-hot features hold few numbers, again and again; hardly any two of trained numbers are the same.
DISTINCT = 0.5


def constants_to_parameters(module: fx.GraphModule) -> None:
    """Make parameters, which are not to be trained, of constant tables and matrices, in place.

    That are those with two axes or more of which requests look up rows, or that requests are multiplied with, and which hold
    numbers of their own, not a mask's.
    """
    steady = find_request_invariant_nodes(module)
    for node in steady:
        if node.op != "get_attr":
            continue
        tensor = tensor_at(module, str(node.target))
        if isinstance(tensor, nn.Parameter) or not _is_matrix(tensor) or not _meets_requests(node, steady):
            continue
        if len(tensor.unique()) > DISTINCT * tensor.numel():
            _set(module, str(node.target), nn.Parameter(tensor.detach(), requires_grad=False))


def unfreeze_if_all_frozen(module: fx.GraphModule) -> None:
    """Let all parameters be trained where none is to be, in place; the tensors stay those of the user's model."""
    parameters = dict(module.named_parameters())
    if any(parameter.requires_grad for parameter in parameters.values()):
        return
    for name, parameter in parameters.items():
        if parameter.is_floating_point() or parameter.is_complex():
            _set(module, name, nn.Parameter(parameter.detach()))


def _is_matrix(tensor: object) -> bool:
    """Graphs of their own, as of `with torch.no_grad():`, are attributes as well."""
    if not isinstance(tensor, Tensor):
        return False
    return tensor.layout == torch.strided and tensor.is_floating_point() and tensor.ndim > 1 and min(tensor.shape) > 1


def _meets_requests(node: fx.Node, steady: dict[fx.Node, None]) -> bool:
    """Whether rows of it are looked up by a request, or a request is multiplied with it, as it is or moved about."""
    return any(
        user.target in _PRODUCTS or (user.target in ROW_LOOKUPS and arguments(user)[0] is source)
        for source, user in find_varying_readers(node, steady)
    )


def _set(module: fx.GraphModule, name: str, weight: nn.Parameter) -> None:
    owner, _, own = name.rpartition(".")
    holder = module.get_submodule(owner)
    if hasattr(holder, own):
        delattr(holder, own)
    holder.register_parameter(own, weight)
