"""Conversion of constant tables and matrices to parameters.

Recommenders are often deployed with vectors that were computed beforehand: graph recommenders store propagated tables, others
the features of their items, as buffers or as plain tensors. These take as much memory as tables, and their dimensions can be
pruned like those of tables. If a whole model was frozen for deployment, its flags do not show which weights must not change.
"""

import torch
from torch import Tensor, fx, nn

from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import arguments
from recprune_export.program.request_invariant import ROW_LOOKUPS, find_request_invariant_nodes, find_varying_readers

aten = torch.ops.aten

_PRODUCTS = frozenset({aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default})


def constants_to_parameters(module: fx.GraphModule) -> None:
    """Convert constant tables and matrices to parameters without gradients, in place.

    Converted are constants of two axes or more whose rows requests look up, or with which requests are multiplied, and most
    of whose numbers are distinct, unlike those of a mask.
    """
    # Masks, indices and one-hot features repeat few numbers; trained numbers are almost all distinct.
    min_distinct = 0.5
    invariant = find_request_invariant_nodes(module)
    for node in invariant:
        if node.op != "get_attr":
            continue
        tensor = tensor_at(module, str(node.target))
        if isinstance(tensor, nn.Parameter) or not _is_matrix(tensor) or not _meets_requests(node, invariant):
            continue
        if len(tensor.unique()) > min_distinct * tensor.numel():
            _set(module, str(node.target), nn.Parameter(tensor.detach(), requires_grad=False))


def unfreeze_if_all_frozen(module: fx.GraphModule) -> None:
    """Set `requires_grad` of all parameters, in place, if none has it; the tensors are still those of the user's model."""
    parameters = dict(module.named_parameters())
    if any(parameter.requires_grad for parameter in parameters.values()):
        return
    for name, parameter in parameters.items():
        if parameter.is_floating_point() or parameter.is_complex():
            _set(module, name, nn.Parameter(parameter.detach()))


def _is_matrix(tensor: object) -> bool:
    """Return whether an attribute is a dense matrix; subgraphs, as of `with torch.no_grad():`, are attributes as well."""
    if not isinstance(tensor, Tensor):
        return False
    return tensor.layout == torch.strided and tensor.is_floating_point() and tensor.ndim > 1 and min(tensor.shape) > 1


def _meets_requests(node: fx.Node, invariant: dict[fx.Node, None]) -> bool:
    """Return whether a request looks up rows of a node or of its views, or is multiplied with them."""
    return any(
        user.target in _PRODUCTS or (user.target in ROW_LOOKUPS and arguments(user)[0] is source)
        for source, user in find_varying_readers(node, invariant)
    )


def _set(module: fx.GraphModule, name: str, weight: nn.Parameter) -> None:
    owner, _, attribute = name.rpartition(".")
    holder = module.get_submodule(owner)
    if hasattr(holder, attribute):
        delattr(holder, attribute)
    holder.register_parameter(attribute, weight)
