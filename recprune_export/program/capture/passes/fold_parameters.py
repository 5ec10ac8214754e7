"""Tables that a model computes from its parameters at every request, computed once.

Graph recommenders propagate all embeddings over the graph before they look up the few that a request asks for (LightGCN:
He et al. 2020, section 3.1); others normalise or project a whole table first. For serving the result is the table.
So is the weight of a layer that training states in other terms: weight norm, spectral norm, orthogonal matrices.
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
_RESTATING = frozenset(
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
    """Replace what is computed from parameters alone by a parameter that holds it, in place; tell whether there was any.

    That is done where rows of the result are looked up by the request, where a sparse matrix takes part, which ONNX
    cannot hold, and where a weight was stated in other terms for the sake of training.
    Anything else that is computed from parameters stays a computation, so that its parts can be pruned.
    """
    steady = find_request_invariant_nodes(module)
    wanted = []
    for node in filter(_is_computed, steady):
        read = find_varying_readers(node, steady)
        looked_up = any(user.target in ROW_LOOKUPS and arguments(user)[0] is source for source, user in read)
        if looked_up or (read and any(_is_sparse(part) or part.target in _RESTATING for part in ancestors([node]))):
            wanted.append(node)
    for node in wanted:
        _replace(module, node)
    remove_dead_code(module)
    return bool(wanted)


def _is_computed(node: fx.Node) -> bool:
    """A dense tensor of numbers that an operator made of others, and not only moved."""
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
            given = (arguments(node), dict(node.kwargs))
            args, kwargs = fx.node.map_arg(given, lambda source: _evaluate(module, source, values))
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values[node]
