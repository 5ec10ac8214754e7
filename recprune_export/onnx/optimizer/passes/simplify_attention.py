"""Attention without the nodes that the exporter adds for unknown shapes and masks."""

import onnx_ir as ir

from recprune_export.onnx.graph import (
    find_nodes,
    find_producer,
    get_constant_array,
    get_constant_integers,
    get_constant_scalar,
    replace_node,
    replace_uses,
)

_LOW = -1e30  # the exporter masks with the lowest finite float


def simplify_attention(model: ir.Model) -> None:
    """Apply the rewrites below to every attention of the model."""
    for node in find_nodes(model.graph, "IsNaN"):
        _zero_masked_rows(model.graph, node)
    for node in find_nodes(model.graph, "Reshape"):
        _merge_transpose(model.graph, node)


def _zero_masked_rows(graph: ir.Graph, is_nan: ir.Node) -> None:
    """Return zero for rows whose positions are all masked, as PyTorch does.

    Before: `P = Softmax(S + Where(M, 0, low))`, `Where(IsNaN(P), 0, P)`, which leaves such a row uniform, since `low` is
    finite. After: `Where(M, P, 0)`, or P itself where M is known to allow a position in each row, also where the sum is
    with a constant mask. S is finite.
    """
    softmax = find_producer(is_nan.inputs[0], "Softmax")
    guard = _only_consumer(is_nan.outputs[0], "Where")
    total = find_producer(softmax.inputs[0], "Add") if softmax else None
    mask = find_producer(total.inputs[1], "Where") if total else None
    if (
        softmax is not None
        and guard is not None
        and total is not None
        and _leaves_position_in_each_row(total.inputs[1])
    ):
        if guard.inputs[2] is softmax.outputs[0]:
            replace_uses(guard.outputs[0], softmax.outputs[0])
            graph.remove([guard, is_nan], safe=True)
        return
    if softmax is None or guard is None or mask is None:
        return
    allowed, zero, low = mask.inputs
    if get_constant_scalar(zero) != 0.0 or not (get_constant_scalar(low) or 0.0) <= _LOW:
        return
    if guard.inputs[2] is not softmax.outputs[0] or get_constant_scalar(guard.inputs[1]) != 0.0:
        return
    weights, result = softmax.outputs[0], guard.outputs[0]
    if _allows_position_in_each_row(allowed):
        replace_uses(result, weights)
        graph.remove([guard, is_nan], safe=True)
        return
    replace_node(graph, guard, [ir.node("Where", [allowed, weights, zero])])
    graph.remove(is_nan, safe=True)


def _leaves_position_in_each_row(mask: ir.Value | None) -> bool:
    """Return whether a constant additive mask has a number that is not low for each index of all axes except the last."""
    values = get_constant_array(mask)
    return values is not None and values.ndim > 0 and bool((values > _LOW).any(-1).all())


def _allows_position_in_each_row(mask: ir.Value | None) -> bool:
    """Return whether a Boolean mask is known to have a True for each index of all axes except the last."""
    if mask is None:
        return False
    if mask.const_value is not None:
        values = mask.const_value.numpy()
        return values.ndim > 0 and bool(values.any(-1).all())
    either = find_producer(mask, "Or")
    return either is not None and any(_allows_position_in_each_row(side) for side in either.inputs)


def _merge_transpose(graph: ir.Graph, last: ir.Node) -> None:
    """Swap the last two axes of a value of four axes by one Transpose.

    Before: `Reshape(Transpose(Reshape(k, [-1, L, E]), [0, 2, 1]), [B, H, E, L])`, sizes computed from `Shape(k)`.
    After: `Transpose(k, [0, 1, 3, 2])`.
    """
    swap = find_producer(last.inputs[0], "Transpose")
    first = find_producer(swap.inputs[0], "Reshape") if swap else None
    if swap is None or first is None or list(swap.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return
    key = first.inputs[0]
    if key is None or key.shape is None or len(key.shape) != 4:
        return
    batch, heads, length, width = key.shape
    if _trace_sizes(first.inputs[1]) != [-1, length, width] or _trace_sizes(last.inputs[1]) != [
        batch,
        heads,
        width,
        length,
    ]:
        return
    replace_node(graph, last, [ir.node("Transpose", [key], attributes={"perm": [0, 1, 3, 2]})])


def _trace_sizes(value: ir.Value | None) -> list[int | ir.SymbolicDim] | None:
    """Trace a vector of sizes to constants and shapes; None if that fails."""
    if value is None:
        return None
    if (constants := get_constant_integers(value)) is not None:
        return list(constants)
    if shape := find_producer(value, "Shape"):
        source = shape.inputs[0]
        is_full_shape = shape.attributes.get_int("start", 0) == 0 and "end" not in shape.attributes
        return list(source.shape) if is_full_shape and source is not None and source.shape is not None else None
    if size_slice := find_producer(value, "Slice"):
        sizes, start, end = (_trace_sizes(operand) for operand in size_slice.inputs[:3])
        is_plain = len(size_slice.inputs) == 3 and sizes and start and end
        return sizes[start[0] : end[0]] if is_plain else None  # type: ignore[index]
    if concat := find_producer(value, "Concat"):
        operand_sizes = [_trace_sizes(operand) for operand in concat.inputs]
        return None if None in operand_sizes else [size for sizes in operand_sizes for size in sizes]  # type: ignore[union-attr]
    return None


def _only_consumer(value: ir.Value, operator: str) -> ir.Node | None:
    consumers = value.consumers()
    return consumers[0] if len(consumers) == 1 and consumers[0].op_type == operator else None
