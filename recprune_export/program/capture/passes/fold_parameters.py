"""Folding of tables that a model computes from its parameters at every request.

Graph recommenders propagate all embeddings over the graph before they look up the few of a request (LightGCN: He et al.
2020, section 3.1); others normalize or project a whole table first. The exported model stores the result as its table.
The same holds for the weight of a layer that is reparametrized for training: weight norm, spectral norm, orthogonal
matrices.
"""

from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import remove_dead_code, tensor_at
from recprune_export.program.nodes import ancestors, arguments
from recprune_export.program.request_invariant import ROW_LOOKUPS, find_request_invariant_nodes, find_varying_readers
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

aten = torch.ops.aten

# Weight norm (Salimans and Kingma 2016), spectral norm (Miyato et al. 2018), and orthogonal matrices.
_REPARAMETRIZATIONS = frozenset(
    {
        aten._weight_norm.default,
        aten.dot.default,
        aten.vdot.default,
        aten.linalg_householder_product.default,
        aten.linalg_matrix_exp.default,
        aten.matrix_exp.default,
    }
)


def fold_parameters(module: fx.GraphModule) -> bool:
    """Replace values computed only from parameters by parameters, in place; return whether there were any.

    A value is folded where the request looks up rows of it, where it depends on a sparse matrix, which ONNX does not
    support, and where it is a weight that is reparametrized for training.
    Other values computed from parameters are not folded, so that their parameters can be pruned.
    """
    invariant = find_request_invariant_nodes(module)
    foldable = []
    for node in filter(_is_computed, invariant):
        read = find_varying_readers(node, invariant)
        looked_up = any(user.target in ROW_LOOKUPS and arguments(user)[0] is source for source, user in read)
        if looked_up or (read and any(_is_sparse(n) or n.target in _REPARAMETRIZATIONS for n in ancestors([node]))):
            foldable.append(node)
    for node in foldable:
        _replace(module, node)
    remove_dead_code(module)
    return bool(foldable)


def _is_computed(node: fx.Node) -> bool:
    """Return whether a node is a dense tensor of floats that an operator computed rather than moved."""
    value = node.meta.get("val")
    moves = node.target in DATA_MOVEMENT_OPERATORS or node.op != "call_function"
    dense = isinstance(value, Tensor) and value.layout == torch.strided and value.is_floating_point()
    return dense and not moves and not isinstance(arguments(node)[0], int | float)


def _is_sparse(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.layout != torch.strided


def _replace(module: fx.GraphModule, node: fx.Node) -> None:
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        value = _evaluate(module, node, values)
    name = f"precomputed_{node.name}"
    module.register_parameter(name, torch.nn.Parameter(value.detach().clone().contiguous()))
    with module.graph.inserting_before(node):
        table = module.graph.get_attr(name)
    table.meta = dict(node.meta)
    node.replace_all_uses_with(table)


def _evaluate(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node not in values:
        if node.op == "get_attr":
            values[node] = tensor_at(module, str(node.target))
        else:
            nodes = (arguments(node), dict(node.kwargs))
            args, kwargs = fx.node.map_arg(nodes, lambda source: _evaluate(module, source, values))
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]
