"""Round to eight bits before numbers are moved about: a byte is moved faster than a float."""

from collections.abc import Collection, Sequence

import onnx_ir as ir

from recprune_export.onnx.graph import find_nodes, find_only_consumer, find_producer, replace_uses
from recprune_export.onnx.optimizer._rewrite import SelectivePass

_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "GatherND", "Expand")


def find_roundings(model: ir.Model) -> Sequence[str]:
    """Name the results of the roundings of what was only moved since it was computed."""
    return tuple(str(node.outputs[0].name) for node in find_nodes(model.graph, "QuantizeLinear") if _moved(node))


def _hoist_quantize(model: ir.Model, places: Collection[str]) -> int:
    """Move roundings in steps of one size ahead of what only moves numbers, as far as it goes.

    Before: `QuantizeLinear(M(x), scale, zero)`, scale and zero of one element each, M an operator that puts numbers in
    other places, or `Concat`, whose result nothing else reads. After: `M(QuantizeLinear(x, scale, zero))`, of a Concat each
    operand. Every number is rounded as before; those that M leaves out are rounded in vain, which the estimate knows.
    Stops at a constant: the table that is looked up stays as it is.

    Returns the number of roundings that were moved.
    """
    chosen = [n for n in find_nodes(model.graph, "QuantizeLinear") if _moved(n) and n.outputs[0].name in places]
    for rounding in chosen:
        _move(model.graph, rounding)
    return len(chosen)


hoist_quantize = SelectivePass("round_early", find_roundings, _hoist_quantize)


def _moved(rounding: ir.Node) -> ir.Node | None:
    """What moved the numbers that are rounded; None where nothing did, or where its result is needed as it is."""
    value, scale = rounding.inputs[:2]
    mover = find_producer(value, "Concat", *_MOVERS)
    if (
        mover is None
        or value is None
        or find_only_consumer(value) is None
        or scale is None
        or scale.const_value is None
    ):
        return None
    if scale.const_value.size != 1 or any(
        source is None or source.const_value is not None for source in _sources(mover)
    ):
        return None
    return mover


def _sources(mover: ir.Node) -> Sequence[ir.Value | None]:
    """The operands whose numbers are moved; the others say where to."""
    return mover.inputs if mover.op_type == "Concat" else mover.inputs[:1]


def _move(graph: ir.Graph, rounding: ir.Node) -> None:
    """Take one step after the other, on each operand of a Concat by itself."""
    mover = _moved(rounding)
    if mover is None:
        return
    (rounded,), result = rounding.outputs, mover.outputs[0]
    for position, source in enumerate(_sources(mover)):
        assert source is not None
        earlier = ir.node("QuantizeLinear", [source, *rounding.inputs[1:]], attributes=dict(rounding.attributes))
        earlier.outputs[0].name = f"{source.name}_of_{rounded.name}"
        earlier.outputs[0].shape, earlier.outputs[0].type = source.shape, rounded.type
        graph.insert_before(mover, earlier)
        mover.replace_input_with(position, earlier.outputs[0])
        _move(graph, earlier)
    result.type = rounded.type
    graph.remove(rounding)
    replace_uses(rounded, result)
