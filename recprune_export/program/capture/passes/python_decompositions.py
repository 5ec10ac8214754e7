"""`decomposition_rule`: decompositions that are written as PyTorch functions, for custom operators."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx

from recprune_export.error_text import describe_place, summarize_error
from recprune_export.errors import CaptureError
from recprune_export.program.canonical import add_constant, tensor_at
from recprune_export.program.capture.passes.decompositions import decompose
from recprune_export.program.nodes import find_source_line
from recprune_export.program.operator_registry import OPERATORS, Facet

Function = TypeVar("Function", bound=Callable[..., Any])


def decomposition_rule(*operators: OpOverload) -> Callable[[Function], Function]:
    """Return a decorator that registers a PyTorch function as the decomposition of each of `operators`.

    The function has the parameters of the operator and returns its only result, a tensor. It is traced once for each node, with a
    batch of symbolic size. The analysis, the export and the fine-tuning see the operators that it calls.

    Raises `ValueError` if an operator has a decomposition already, and `TypeError` for an operator without overload. A capture
    raises `CaptureError` if the function fails, or if its results are not those of the operator.
    """

    def register_function(function: Function) -> Function:
        @wraps(function)
        def decompose_node(graph: fx.Graph, node: fx.Node) -> fx.Node:
            return _insert_function(graph, node, function)

        OPERATORS.register(Facet.DECOMPOSITION, *operators)(decompose_node)
        return function

    return register_function


def _insert_function(graph: fx.Graph, node: fx.Node, function: Callable[..., Any]) -> fx.Node:
    """Insert the operators that `function` calls at the insertion point; return the node of its result."""
    operands = node.all_input_nodes
    traced = _trace_function(node, operands, function)
    sources: dict[fx.Node, Any] = {}
    placeholders = [inner for inner in traced.graph.nodes if inner.op == "placeholder"]
    sources.update(zip(placeholders, operands, strict=True))
    for inner in traced.graph.nodes:
        if inner.op == "get_attr":  # a tensor that the function has created outside of the graph
            assert graph.owning_module is not None
            sources[inner] = add_constant(graph.owning_module, "decomposition", tensor_at(traced, inner.target))
        elif inner.op == "call_function":
            sources[inner] = graph.node_copy(inner, sources.__getitem__)
            for key in ("stack_trace", "nn_module_stack"):  # reasons name the line of the model
                if key in node.meta:
                    sources[inner].meta[key] = node.meta[key]
    (output,) = [inner for inner in traced.graph.nodes if inner.op == "output"]
    result: fx.Node = sources[output.args[0]]
    return result


def _trace_function(node: fx.Node, operands: list[fx.Node], function: Callable[..., Any]) -> fx.GraphModule:
    """Trace `function` on the arguments of `node`. Raises `CaptureError` if it fails, or returns no tensor of the same shape."""

    def call(*values: Any) -> Any:
        given = dict(zip(operands, values, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), given.__getitem__)
        return function(*args, **kwargs)

    name = getattr(function, "__qualname__", repr(function))
    where = f"The decomposition `{name}` of {node.target}{describe_place(find_source_line(node))}"
    try:
        values = [operand.meta["val"] for operand in operands]
        with torch.no_grad():
            traced = make_fx(call, tracing_mode="symbolic", pre_dispatch=True)(*values)
    except Exception as error:  # any error of the function
        raise CaptureError(f"{where} fails: {summarize_error(error)}.") from error
    (output,) = [inner for inner in traced.graph.nodes if inner.op == "output"]
    answer = output.args[0]
    if not isinstance(answer, fx.Node) or not isinstance(answer.meta.get("val"), Tensor):
        raise CaptureError(f"{where} returns {type(answer).__name__}, not one tensor.")
    expected, found = node.meta["val"], answer.meta["val"]
    if (expected.ndim, expected.dtype) != (found.ndim, found.dtype):
        raise CaptureError(
            f"{where} returns a tensor of {found.ndim} axes and type {found.dtype}; the operator has {expected.ndim} axes and "
            f"type {expected.dtype}."
        )
    if any(inner.target == node.target for inner in traced.graph.nodes):
        raise CaptureError(f"{where} calls the operator itself: write it with PyTorch operators.")
    decompose(traced)  # operators that have a decomposition as well
    return traced
