"""Softmax of masked scores without results too small for a normal float."""

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import add_initializer, find_nodes, find_producer, get_constant_array, get_rank
from recprune_export.onnx.optimizer._rewrite import SelectivePass

_MASKED = -1e4  # numbers of a mask are at most this
# Of a row's largest score: e^-80 = 2e-35 changes no sum of float32, and is above the smallest normal number, 1e-38.
_DEPTH = 80.0
_MOVING = ("Slice", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Cast", "Add", "Where")


def _find(model: ir.Model) -> Sequence[str]:
    return tuple(str(node.outputs[0].name) for node in find_nodes(model.graph, "Softmax") if _reads_masked_scores(node))


def _clamp(model: ir.Model, places: Collection[str]) -> int:
    """Raise masked scores to 80 below the largest of their row.

    Before: `Softmax(z)`, z a sum with a mask, or scores of which a mask replaces some. After:
    `Softmax(Max(z, ReduceMax(z) - 80))`, whose results differ by 2e-35. ONNX Runtime's exp takes 9 times as long if its results are
    subnormal, as for all numbers below -87: with half of the positions masked, a softmax over 50 positions takes 5.4 ns for each score,
    and .6 ns without masked positions.

    Returns the number of changed places.
    """
    changed = [
        node
        for node in find_nodes(model.graph, "Softmax")
        if node.outputs[0].name in places and _reads_masked_scores(node)
    ]
    for node in changed:
        scores, name = node.inputs[0], node.outputs[0].name
        axis, rank = node.attributes.get_int("axis", -1), get_rank(scores) or 0
        axes = add_initializer(model.graph, f"{name}_axes", np.array([axis]))
        # With fewer axes ONNX Runtime would start a loop for each row.
        depth = add_initializer(model.graph, f"{name}_depth", np.full([1] * rank, _DEPTH, np.float32))
        largest = ir.node("ReduceMax", [scores, axes], attributes={"keepdims": 1})
        lowest = ir.node("Sub", [largest.outputs[0], depth])
        clamped = ir.node("Max", [scores, lowest.outputs[0]])
        model.graph.insert_before(node, [largest, lowest, clamped])
        node.replace_input_with(0, clamped.outputs[0])
    if changed:
        fill_shapes(model)
    return len(changed)


clamp_masked_scores = SelectivePass("clamp_masked_scores", _find, _clamp)


def _reads_masked_scores(softmax: ir.Node) -> bool:
    scores = softmax.inputs[0]
    if scores is None or scores.dtype != ir.DataType.FLOAT or not get_rank(scores):
        return False
    return find_producer(scores, "Add", "Where") is not None and _holds_mask(scores)


def _holds_mask(value: ir.Value | None) -> bool:
    """Return whether some numbers of a value may come from a mask: a low constant, moved, added or chosen."""
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        operand = waiting.pop()
        if operand is None or operand in seen:
            continue
        seen.add(operand)
        array = get_constant_array(operand)
        if array is not None:
            if array.dtype == np.float32 and array.size and array.min() <= _MASKED:
                return True
        elif (node := find_producer(operand, *_MOVING, "Mul")) is not None:
            waiting += node.inputs[1:] if node.op_type == "Where" else node.inputs
    return False
