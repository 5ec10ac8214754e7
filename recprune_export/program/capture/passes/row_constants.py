"""Evaluation of values that depend only on the number of rows of a request."""

from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import arguments

aten = torch.ops.aten


def evaluate_for_batch_size(node: fx.Node, rows: int) -> Any:
    """Return the value of a node for a request of `rows` rows, or None if it depends on other properties of the request."""
    values: dict[fx.Node, Any] = {}

    def compute(source: fx.Node) -> Any:
        if source not in values:
            values[source] = _evaluate(source, rows, compute)
        return values[source]

    try:
        return compute(node)
    except _DependsOnRequest:
        return None


class _DependsOnRequest(Exception):
    pass


def _evaluate(node: fx.Node, rows: int, compute: Any) -> Any:
    if node.op == "get_attr":
        return _constant_tensor(node)
    if node.op != "call_function":
        raise _DependsOnRequest
    if node.target is aten.sym_size.int:
        return _size(arguments(node)[0].meta["val"].shape[arguments(node)[1]], rows)
    if node.target is aten.sym_numel.default:
        return _size(arguments(node)[0].meta["val"].numel(), rows)
    args, kwargs = fx.node.map_arg((arguments(node), dict(node.kwargs)), compute)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _constant_tensor(node: fx.Node) -> Tensor:
    module = node.graph.owning_module
    assert module is not None
    value = tensor_at(module, str(node.target))
    if isinstance(value, torch.nn.Parameter) and value.requires_grad:
        raise _DependsOnRequest
    return value


def _size(size: Any, rows: int) -> int:
    """Return a traced size for a number of rows."""
    if isinstance(size, int):
        return size
    (symbol,) = size.node.expr.free_symbols
    return int(size.node.expr.subs(symbol, rows))
