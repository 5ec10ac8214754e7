"""Quantization moved before data movement: bytes are copied faster than floats."""

from collections.abc import Collection, Sequence

import onnx_ir as ir

from recprune_export.onnx.graph import find_nodes, find_only_consumer, find_producer, replace_uses
from recprune_export.onnx.optimizer._rewrite import SelectivePass

_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "GatherND", "Expand")


def find_roundings(model: ir.Model) -> Sequence[str]:
    """Return the names of the results of QuantizeLinear nodes whose operand comes from a data movement."""
    return tuple(
        str(node.outputs[0].name) for node in find_nodes(model.graph, "QuantizeLinear") if _find_data_movement(node)
    )


def _hoist_quantize(model: ir.Model, places: Collection[str]) -> int:
    """Move quantization with a single scale before operators that only move data, as far as possible.

    Before: `QuantizeLinear(M(x), scale, zero)`, scale and zero of one element each, M an operator that moves data, or
    `Concat`, whose result nothing else reads. After: `M(QuantizeLinear(x, scale, zero))`, for a Concat on each operand.
    Every number is rounded as before; numbers that M drops are rounded too, which the cost estimate includes. Constants
    such as tables are not quantized.

    Returns the number of moved QuantizeLinear nodes.
    """
    quantize_nodes = [
        node
        for node in find_nodes(model.graph, "QuantizeLinear")
        if _find_data_movement(node) and node.outputs[0].name in places
    ]
    for node in quantize_nodes:
        _move_quantize(model.graph, node)
    return len(quantize_nodes)


hoist_quantize = SelectivePass("hoist_quantize", find_roundings, _hoist_quantize)


def _find_data_movement(quantize: ir.Node) -> ir.Node | None:
    """Return the data movement before a QuantizeLinear; None without one, or where its result has other consumers."""
    value, scale = quantize.inputs[:2]
    movement = find_producer(value, "Concat", *_MOVERS)
    if (
        movement is None
        or value is None
        or find_only_consumer(value) is None
        or scale is None
        or scale.const_value is None
    ):
        return None
    if scale.const_value.size != 1 or any(
        source is None or source.const_value is not None for source in _get_moved_operands(movement)
    ):
        return None
    return movement


def _get_moved_operands(movement: ir.Node) -> Sequence[ir.Value | None]:
    """Return the operands whose data is moved; the other operands are indices and shapes."""
    return movement.inputs if movement.op_type == "Concat" else movement.inputs[:1]


def _move_quantize(graph: ir.Graph, quantize: ir.Node) -> None:
    """Move a QuantizeLinear over one operator after the other, on each operand of a Concat."""
    movement = _find_data_movement(quantize)
    if movement is None:
        return
    (quantized,), result = quantize.outputs, movement.outputs[0]
    for position, source in enumerate(_get_moved_operands(movement)):
        assert source is not None
        earlier = ir.node("QuantizeLinear", [source, *quantize.inputs[1:]], attributes=dict(quantize.attributes))
        earlier.outputs[0].name = f"{source.name}_of_{quantized.name}"
        earlier.outputs[0].shape, earlier.outputs[0].type = source.shape, quantized.type
        graph.insert_before(movement, earlier)
        movement.replace_input_with(position, earlier.outputs[0])
        _move_quantize(graph, earlier)
    result.type = quantized.type
    graph.remove(quantize)
    replace_uses(quantized, result)
