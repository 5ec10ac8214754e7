"""Replacement of fbgemm's operators on jagged tensors by operators of PyTorch.

A jagged tensor holds the elements of all rows one after another, T×D, with the offsets of the rows, B+1. Sequence models such as
HSTU pack a padded history into one (`dense_to_jagged`), apply layers to each element, and pad it again for the attention
(`jagged_to_padded_dense`). How many elements there are depends on the values of the request, which no graph can hold; but an
operator that works on each element separately gives the same on padded steps, so those are kept, B·L×D, and cleared where the
tensor is padded again.
"""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from recprune_export.error_text import describe_place
from recprune_export.errors import CaptureError
from recprune_export.program.canonical import remove_dead_code
from recprune_export.program.nodes import argument, arguments, find_source_line, operator_name

aten = torch.ops.aten

_LIBRARY = "fbgemm::"
_TO_JAGGED, _TO_PADDED = "dense_to_jagged", "jagged_to_padded_dense"
# Forms of _TO_PADDED for one axis of offsets: values, offsets, the number of steps, and the padding where it is not 0.
_TO_PADDED_OF_ONE_AXIS = ("jagged_1d_to_dense", "jagged_2d_to_dense")
_CUMSUMS = ("asynchronous_complete_cumsum", "asynchronous_inclusive_cumsum", "asynchronous_exclusive_cumsum")
# Operators that compute each index of axis 0 only from the same index of their operands.
_BY_ELEMENT = frozenset(
    {
        aten.linear.default, aten.mm.default, aten.matmul.default, aten.addmm.default, aten.layer_norm.default,
        aten.rms_norm.default, aten.silu.default, aten.relu.default, aten.gelu.default, aten.sigmoid.default, aten.tanh.default,
        aten.dropout.default, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.add.Scalar,
        aten.mul.Scalar, aten.div.Scalar, aten.to.dtype, aten._to_copy.default, aten.detach.default, aten.alias.default,
        aten.clone.default, aten.contiguous.default, aten.embedding.default, operator.getitem, aten.sym_size.int,
    }
)  # fmt: skip
# The same where their axis is not 0.
_BY_AXIS = {
    aten.split_with_sizes.default: 2, aten.split.Tensor: 2, aten.split.sizes: 2, aten.chunk.default: 2, aten.slice.Tensor: 1,
    aten.cat.default: 1, aten.softmax.int: 1,
}  # fmt: skip


def replace_jagged_operators(module: fx.GraphModule) -> bool:
    """Replace fbgemm's operators on jagged tensors, in place; return whether there were any.

    New nodes have no shapes: `recapture` the graph. Raises `CaptureError` if elements are mixed between `dense_to_jagged` and
    `jagged_to_padded_dense`: their number is not a size of the graph.
    """
    for node in [node for node in module.graph.nodes if _name(node) in _TO_PADDED_OF_ONE_AXIS]:
        _use_general_form(module.graph, node)
    nodes = [node for node in module.graph.nodes if _name(node)]
    if not nodes:
        return False
    for node in nodes:
        if _name(node) in _CUMSUMS:
            _replace_cumsum(module.graph, node)
    packing = [node for node in nodes if _name(node) == _TO_JAGGED]
    for steps in dict.fromkeys(_steps(node) for node in packing):
        _keep_padded(module.graph, [node for node in packing if _steps(node) == steps], steps)
    for node in nodes:
        if _name(node) == _TO_PADDED and node.users:
            _pad(module.graph, node)
    remove_dead_code(module)
    for node in module.graph.nodes:
        if _name(node) == _TO_JAGGED:
            raise CaptureError(
                f"The items of the rows are packed{describe_place(find_source_line(node))}and mixed before they are padded "
                "again, but a graph cannot contain a number of elements that depends on the values of a request. Mix "
                "padded items, B×L×D, with a mask."
            )
    return True


def _name(node: fx.Node) -> str:
    """Return the name of an operator of fbgemm, an empty string for others."""
    if node.target is aten._jagged_to_padded_dense_forward.default:
        return _TO_PADDED
    name = operator_name(node)
    return name.removeprefix(_LIBRARY) if name.startswith(_LIBRARY) else ""


def _replace_cumsum(graph: fx.Graph, node: fx.Node) -> None:
    """Sums up to each element: with a zero before them, without it, or without the last one."""
    (values,) = arguments(node)
    with graph.inserting_before(node):
        sums = graph.call_function(aten.cumsum.default, (values, -1))
        if _name(node) == _CUMSUMS[2]:
            new = graph.call_function(aten.sub.Tensor, (sums, values))
        elif _name(node) == _CUMSUMS[1]:
            new = sums
        else:
            first = graph.call_function(aten.slice.Tensor, (values, -1, 0, 1))
            zero = graph.call_function(aten.zeros_like.default, (first,), {"dtype": values.meta["val"].dtype})
            if values.meta["val"].dtype != torch.int64:
                sums = graph.call_function(aten.to.dtype, (sums, values.meta["val"].dtype))
            new = graph.call_function(aten.cat.default, ([zero, sums], -1))
    _replace(node, new)


def _use_general_form(graph: fx.Graph, node: fx.Node) -> None:
    values, offsets, steps = argument(node, "values"), argument(node, "offsets"), argument(node, "max_sequence_length")
    padding = float(argument(node, "padding_value") or 0)
    with graph.inserting_before(node):
        new = graph.call_function(
            torch.ops.fbgemm.jagged_to_padded_dense.default, (values, [offsets], [steps], padding)
        )
    _replace(node, new)


def _replace(node: fx.Node, new: fx.Node) -> None:
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _steps(node: fx.Node) -> int | None:
    """Return the number of steps of x: B×L×D that is packed by one tensor of offsets; None for others."""
    dense, offsets = arguments(node)[:2]
    steps = dense.meta["val"].shape[1]
    return steps if len(offsets) == 1 and isinstance(steps, int) else None


def _keep_padded(graph: fx.Graph, nodes: list[fx.Node], steps: int | None) -> None:
    """Replace the elements of the rows of each x: B×L×D by all steps, B·L×D, if each reader processes elements separately."""
    elements = [user for node in nodes for user in node.users if arguments(user)[1] == 0]
    region = list(_list_region(elements))
    ends = [user for inner in (*elements, *region) for user in inner.users if _name(user) == _TO_PADDED]
    if steps is None or not _is_by_element(elements, region) or any(_width(end) != steps for end in ends):
        return
    for node in nodes:
        dense, offsets = arguments(node)[:2]
        with graph.inserting_before(node):
            flat = graph.call_function(aten.flatten.using_ints, (dense, 0, 1))
        for user in list(node.users):
            if user in elements:
                user.replace_all_uses_with(flat)
            else:  # the offsets, as a list
                for item in list(user.users):
                    item.replace_all_uses_with(offsets[0])
                    graph.erase_node(item)
            graph.erase_node(user)
        graph.erase_node(node)
    for end in dict.fromkeys(ends):
        _clear(graph, end, steps)


def _list_region(elements: list[fx.Node]) -> Iterator[fx.Node]:
    """Yield the nodes that are computed from jagged elements, up to where they are padded or packed again."""
    waiting, seen = list(elements), set(elements)
    while waiting:
        for user in waiting.pop().users:
            if user not in seen and _name(user) != _TO_PADDED:
                seen.add(user)
                yield user
                waiting.append(user)


def _is_by_element(elements: list[fx.Node], region: list[fx.Node]) -> bool:
    sizes = {str(node.meta["val"].shape[0]) for node in elements}
    for node in region:
        if node.op == "output":
            return False
        if node.target in _BY_AXIS:
            axis = arguments(node)[_BY_AXIS[node.target]] if len(arguments(node)) > _BY_AXIS[node.target] else 0
            rank = arguments(node)[0][0] if isinstance(arguments(node)[0], list | tuple) else arguments(node)[0]
            if axis % rank.meta["val"].ndim == 0:
                return False
        elif node.target not in _BY_ELEMENT:
            return False
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and (not value.ndim or str(value.shape[0]) not in sizes):
            return False
    return True


def _width(node: fx.Node) -> Any:
    lengths = argument(node, "max_lengths")
    return lengths[0] if len(lengths) == 1 else None


def _clear(graph: fx.Graph, node: fx.Node, steps: int) -> None:
    """Write the padding of a tensor that still holds all steps, B·L×D, over those beyond the ends of the rows."""
    values, offsets = argument(node, "values"), argument(node, "offsets")[0]
    sizes = list(values.meta["val"].shape[1:])
    with graph.inserting_before(node):
        starts = graph.call_function(aten.slice.Tensor, (offsets, 0, 0, -1))
        ends = graph.call_function(aten.slice.Tensor, (offsets, 0, 1, torch.iinfo(torch.int64).max))
        lengths = graph.call_function(aten.unsqueeze.default, (graph.call_function(aten.sub.Tensor, (ends, starts)), 1))
        positions = graph.call_function(aten.unsqueeze.default, (graph.call_function(aten.arange.default, (steps,)), 0))
        absent = graph.call_function(aten.ge.Tensor, (positions, lengths))
        for _ in sizes:
            absent = graph.call_function(aten.unsqueeze.default, (absent, -1))
        matrix = graph.call_function(aten.reshape.default, (values, [-1, steps, *sizes]))
        new = graph.call_function(aten.masked_fill.Scalar, (matrix, absent, argument(node, "padding_value")))
    _replace(node, new)


def _pad(graph: fx.Graph, node: fx.Node) -> None:
    """Write the elements of the rows, T×D, as a matrix with L steps, B×L×D."""
    values, offsets, steps = argument(node, "values"), argument(node, "offsets"), _width(node)
    if len(offsets) != 1 or not isinstance(steps, int):
        return
    padding = argument(node, "padding_value")
    with graph.inserting_before(node):
        call = graph.call_function
        starts = call(aten.unsqueeze.default, (call(aten.slice.Tensor, (offsets[0], 0, 0, -1)), 1))
        ends = call(
            aten.unsqueeze.default, (call(aten.slice.Tensor, (offsets[0], 0, 1, torch.iinfo(torch.int64).max)), 1)
        )
        positions = call(aten.add.Tensor, (starts, call(aten.arange.default, (steps,))))
        absent = call(aten.ge.Tensor, (positions, ends))  # B×L
        total = call(aten.sym_size.int, (values, 0))
        sizes = list(values.meta["val"].shape[1:])
        last = call(aten.new_full.default, (values, [1, *sizes], padding))
        known = call(aten.minimum.default, (positions, call(aten.full_like.default, (positions, total))))
        chosen = call(aten.where.self, (absent, call(aten.full_like.default, (positions, total)), known))
        elements = call(aten.cat.default, ([values, last],))
        picked = call(aten.index_select.default, (elements, 0, call(aten.reshape.default, (chosen, [-1]))))
        new = call(aten.reshape.default, (picked, [-1, steps, *sizes]))
    _replace(node, new)
