"""Running a graph by the table of operators: on tensors, or while `torch.export` records what PyTorch computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import recprune_export.program.loading.onnx_graphs.operators  # noqa: F401  # registers all of them
from recprune_export.errors import CaptureError
from recprune_export.program.loading.onnx_graphs.onnx_graph import STANDARD, Node, OnnxGraph
from recprune_export.program.loading.onnx_graphs.operator_table import KNOWN_OPERATORS, find_operator
from recprune_export.program.loading.onnx_graphs.values import (
    MOST_ELEMENTS,
    Value,
    as_tensor,
    is_symbolic,
    whole_number,
)

MOST_STEPS = 200_000  # operators that a graph may run, those of each turn of its loops included
MOST_LEVELS = 32  # graphs inside each other


@dataclass
class _Steps:
    """How many operators have run."""

    count: int = 0
    level: int = 0


def run_graph(graph: OnnxGraph, values: Mapping[str, Value], steps: _Steps | None = None) -> list[Value]:
    """Return the outputs of a graph; `values` are its inputs, its weights as tensors, and what it reads from outside.

    Raises `CaptureError` for an operator that the table lacks, or does not take in this form.
    """
    steps = steps or _Steps()
    if steps.level >= MOST_LEVELS:
        raise CaptureError(
            f"The ONNX file holds graphs inside each other on more than {MOST_LEVELS} levels: export it without."
        )
    steps.level += 1
    scope = {**graph.initializers, **values}
    for node in graph.nodes:
        steps.count += 1
        if steps.count > MOST_STEPS:
            raise node.refuse(f"is one of more than {MOST_STEPS:,} that the file runs, loops included")
        scope.update(zip(node.outputs, run_node(node, scope, steps), strict=False))
    steps.level -= 1
    return [_look_up(name, scope, "an output") for name in graph.outputs]


def run_node(node: Node, scope: Mapping[str, Value], steps: _Steps | None = None) -> Sequence[Any]:
    """Return the outputs of one node; `scope` has all values that it reads, its inner graphs included."""
    steps = steps or _Steps()
    operands = [_look_up(name, scope, node.describe()) if name else None for name in node.inputs]
    if node.domain == STANDARD and node.operator in _CONTROL_FLOW:
        return _CONTROL_FLOW[node.operator](node, operands, scope, steps)
    result = None
    if (
        node.domain == STANDARD
        and node.operator in KNOWN_OPERATORS
        and not any(isinstance(value, Tensor) for value in operands)
    ):
        result = KNOWN_OPERATORS[node.operator](node, *operands)
    if result is None:
        result = find_operator(node)(node, *operands)
    results = result if isinstance(result, tuple) else (result,)
    for value in results:
        if isinstance(value, np.ndarray) and value.size > MOST_ELEMENTS:
            raise node.refuse(f"makes a tensor of {value.size:,} elements")
    return results


def _look_up(name: str, scope: Mapping[str, Value], reader: str) -> Value:
    if name not in scope:
        raise CaptureError(f"The ONNX file computes '{name}' nowhere before {reader} reads it: export it again.")
    return scope[name]


def _run_if(node: Node, operands: Sequence[Any], scope: Mapping[str, Value], steps: _Steps) -> Sequence[Any]:
    """Run the branch of an If whose condition follows from constants and sizes."""
    (condition,) = operands
    if isinstance(condition, Tensor):
        raise node.refuse("decides by the values of the request")
    taken = bool(condition.reshape(-1)[0])
    return run_graph(node.attributes["then_branch" if taken else "else_branch"], scope, steps)


def _run_loop(node: Node, operands: Sequence[Any], scope: Mapping[str, Value], steps: _Steps) -> Sequence[Any]:
    """Run each turn of a Loop whose number of turns follows from constants."""
    most, condition, *states = operands
    body: OnnxGraph = node.attributes["body"]
    turns = MOST_STEPS if most is None else whole_number(node, most, "number of turns")
    if is_symbolic(turns):
        raise node.refuse("has a turn for each row of the request")
    kept: list[list[Value]] = [[] for _ in body.outputs[1 + len(states) :]]
    goes_on = True if condition is None else _read_condition(node, condition)
    turn = 0
    while goes_on and turn < turns:
        inputs = dict(zip((i.name for i in body.inputs), (np.array(turn), np.array(True), *states), strict=True))
        going, *results = run_graph(body, {**scope, **inputs}, steps)
        states, goes_on, turn = results[: len(states)], _read_condition(node, going), turn + 1
        for values, value in zip(kept, results[len(states) :], strict=True):
            values.append(value)
    return [*states, *map(_stack, kept)]


def _read_condition(node: Node, condition: Value) -> bool:
    if isinstance(condition, Tensor):
        raise node.refuse("goes on as long as the values of the request say")
    return bool(condition.reshape(-1)[0])


def _stack(values: Sequence[Value]) -> Value:
    if any(isinstance(value, Tensor) for value in values):
        return torch.stack([as_tensor(value) for value in values])
    return np.stack(values) if values else np.zeros(0, dtype=np.int64)


_CONTROL_FLOW = {"If": _run_if, "Loop": _run_loop}
