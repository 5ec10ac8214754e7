"""Smaller tensors, and resize rules: the new arguments of an operator whose operands have become narrower.

`GraphResizer.resize_tensor` narrows embedding tables and weights: it removes the indices of removed channels on each axis.
Most operators take their sizes from their operands and are copied unchanged. Those that name a size, a position or a
count have a rule, registered on the `OpOverload`.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import AxisChannels
from recprune_export.channels.rules.data_movement import SPLITS
from recprune_export.channels.rules.indexing import picked_axes
from recprune_export.channels.rules.reduction import SUMS, reduced_axes
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.operator_registry import OPERATORS, Facet
from recprune_export.program.program import Program

aten = torch.ops.aten

MASKED_SUM = "masked_sum"  # prefix of buffers that hold the masked values of removed channels, where these are not zero

MaskedValue = Callable[[fx.Node], Tensor]  # the value of a node, in float64, when the removed channels are masked
ResizeRule = Callable[["GraphResizer", fx.Node], fx.Node]
RESIZES: Mapping[Any, ResizeRule] = OPERATORS.rules(Facet.RESIZE)
resize_rule = partial(OPERATORS.register, Facet.RESIZE)


class GraphResizer:
    """Writer of the resized graph, with the remaining indices of each value of the original graph."""

    def __init__(self, program: Program, removed: frozenset[int], masked_value: MaskedValue) -> None:
        self.module = program.module
        self.masked_value = masked_value
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.buffers: dict[str, Tensor] = {}
        self._analysis = program.analysis
        self._removed = removed

    def is_removed(self, node: fx.Node, output: int | None = None) -> bool:
        """Return whether a node's whole value is removed; of several outputs, one or all of them."""
        return self._analysis.is_removed(node, self._removed, output)

    def remaining_operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the operands that an operator still reads."""
        return self._analysis.remaining_operands(node, self._removed)

    def find_remaining_indices(self, node: fx.Node, axis: int, output: int | None = None) -> list[int] | None:
        """Return the remaining indices of an axis of a node's value, or None if none is removed."""
        axes: Any = self._analysis.removed_by.get(node.name)
        return self._find_remaining_axis_indices(axes if output is None else axes[output], axis) if axes else None

    def _find_remaining_axis_indices(self, axes: AxisChannels, axis: int) -> list[int] | None:
        removed_by = axes[axis]
        if removed_by is None:
            return None
        indices = [index for index, channels in enumerate(removed_by) if not channels & self._removed]
        return None if len(indices) == len(removed_by) else indices

    def resize_tensor(self, node: fx.Node) -> Tensor:
        """Return the parameter or buffer of a `get_attr` node without the removed indices."""
        value = tensor_at(self.module, str(node.target))
        for axis in range(value.ndim):
            remaining = self.find_remaining_indices(node, axis)
            if remaining is not None:
                value = value.index_select(axis, torch.tensor(remaining))
        return value

    def copy(self, node: fx.Node) -> fx.Node:
        """Write a node unchanged."""
        return self.graph.node_copy(node, lambda old: self.new[old])

    def call(self, operator: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Write a new call; arguments that are nodes of the original graph are replaced by their resized nodes."""
        args, kwargs = fx.node.map_arg((args, kwargs), lambda n: self.new.get(n, n))
        return self.graph.call_function(operator, args, kwargs)

    def constant(self, node: fx.Node, value: Tensor, kind: str = "kept") -> fx.Node:
        """Write a new buffer."""
        name = f"{kind}_{node.name}"
        self.buffers[name] = value
        return self.graph.get_attr(name)


def get_shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _replace_size(resizing: GraphResizer, node: fx.Node, sizes: Any, first_axis: int = 0) -> list[Any]:
    """Replace each size of a shrunken axis by the number of its remaining indices."""
    result = list(sizes)
    for position, size in enumerate(result):
        remaining = resizing.find_remaining_indices(node, first_axis + position)
        if remaining is not None and size != -1:
            result[position] = len(remaining)
    return result


@resize_rule(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def reshape(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`view(x, sizes)`: the new sizes, by `reshape`, since the resized x may have no view of that shape."""
    source, sizes = arguments(node)
    return resizing.call(aten.reshape.default, source, _replace_size(resizing, node, sizes))


@resize_rule(aten.new_zeros.default, aten.new_ones.default)
def resize_second_argument(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`new_zeros(x, sizes)`: the new sizes."""
    source, sizes, *rest = arguments(node)
    return resizing.call(node.target, source, _replace_size(resizing, node, sizes), *rest, **node.kwargs)


@resize_rule(aten.zeros.default, aten.ones.default, aten.full.default)
def resize_first_argument(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`zeros(sizes)`: the new sizes."""
    sizes, *rest = arguments(node)
    return resizing.call(node.target, _replace_size(resizing, node, sizes), *rest, **node.kwargs)


@resize_rule(aten.new_full.default)
def new_full(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`new_full(x, sizes, value)`: the new sizes."""
    return resize_second_argument(resizing, node)


@resize_rule(aten.expand.default)
def expand(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`expand(x, sizes)`: the new sizes."""
    return resize_second_argument(resizing, node)


@resize_rule(aten.repeat.default, aten.tile.default)
def repeat(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`repeat(x: B×1, [1, D])`: an axis made by repeating one value is repeated up to its new width."""
    source, repeats = arguments(node)
    before = get_shape(source)
    result = [*[1] * (len(before) - len(repeats)), *repeats]
    offset = len(result) - len(before)
    for axis in range(len(result)):
        remaining = resizing.find_remaining_indices(node, axis)
        if remaining is not None and (axis < offset or before[axis - offset] == 1):
            result[axis] = len(remaining)
    return resizing.call(node.target, source, result)


@resize_rule(aten.unflatten.int)
def unflatten(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`unflatten(x, axis, sizes)`: the new sizes."""
    source, axis, sizes = arguments(node)
    first = axis % len(get_shape(source))
    return resizing.call(node.target, source, axis, _replace_size(resizing, node, sizes, first))


@resize_rule(aten.slice.Tensor)
def slice_(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`slice(x, axis, start, end, step)`: the selected indices that remain, as a range or a list of positions."""
    args = arguments(node)
    defaults: tuple[Any, ...] = (None, 0, None, None, 1)
    source, axis, start, end, step = args + defaults[len(args) :]
    axis = axis % len(get_shape(source))
    remaining = resizing.find_remaining_indices(source, axis)
    if remaining is None:
        return resizing.copy(node)
    selected = set(range(get_shape(source)[axis])[slice(start, end, step)])
    positions = [position for position, index in enumerate(remaining) if index in selected]
    if not positions or positions == list(range(positions[0], positions[-1] + 1)):
        first = positions[0] if positions else 0
        return resizing.call(node.target, source, axis, first, first + len(positions))
    return resizing.call(aten.index_select.default, source, axis, resizing.constant(node, torch.tensor(positions)))


@resize_rule(aten.narrow.default)
def narrow(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`narrow(x, axis, start, length)`: the new start and length."""
    source, axis, start, _ = arguments(node)
    axis = axis % len(get_shape(source))
    source_indices = resizing.find_remaining_indices(source, axis)
    node_indices = resizing.find_remaining_indices(node, axis)
    if source_indices is None:
        return resizing.copy(node)
    before = sum(index < start for index in source_indices)
    length = get_shape(node)[axis] if node_indices is None else len(node_indices)
    return resizing.call(node.target, source, axis, before, length)


@resize_rule(aten.select.int)
def select(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`select(x, axis, index)`: the position of the index among the remaining ones."""
    source, axis, index = arguments(node)
    axis = axis % len(get_shape(source))
    remaining = resizing.find_remaining_indices(source, axis)
    if remaining is None:
        return resizing.copy(node)
    position = remaining.index(index % get_shape(source)[axis])
    return resizing.call(node.target, source, axis, position)


@resize_rule(*SPLITS)
def split(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`split(x, size, axis)`: chunks of the new widths."""
    source = arguments(node)[0]
    axis = argument(node, "dim") % len(get_shape(source))
    if resizing.find_remaining_indices(source, axis) is None:
        return resizing.copy(node)
    widths = []
    for output in find_remaining_outputs(resizing, node):
        remaining = resizing.find_remaining_indices(node, axis, output)
        widths.append(node.meta["val"][output].shape[axis] if remaining is None else len(remaining))
    return resizing.call(aten.split_with_sizes.default, source, widths, axis)


def find_remaining_outputs(resizing: GraphResizer, node: fx.Node) -> list[int]:
    """Return the numbers of the outputs that are not removed entirely."""
    return [output for output in range(len(node.meta["val"])) if not resizing.is_removed(node, output)]


@resize_rule(aten.index.Tensor, aten.index_select.default)
def pick(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`x[:, i, j]`: the remaining entries of the constant lists, as positions among the remaining indices of the axes."""
    source = arguments(node)[0]
    picked = picked_axes(node)
    if all(resizing.find_remaining_indices(source, axis) is None for axis in picked):
        return resizing.copy(node)
    first = min(picked)
    entries = resizing.find_remaining_indices(node, first)
    lists: list[fx.Node | None] = [None] * first
    for axis in sorted(picked):
        size, remaining = get_shape(source)[axis], resizing.find_remaining_indices(source, axis)
        position = {old: new for new, old in enumerate(range(size) if remaining is None else remaining)}
        indices = [i % size for i in tensor_at(resizing.module, str(picked[axis].target)).tolist()]
        positions = [position[indices[i]] for i in (range(len(indices)) if entries is None else entries)]
        lists.append(resizing.constant(node, torch.tensor(positions), f"kept{axis}"))
    if len(picked) == 1:
        return resizing.call(aten.index_select.default, source, first, lists[-1])
    return resizing.call(aten.index.Tensor, source, lists)


@resize_rule(*SUMS)
def sum_or_mean(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`mean(x, axes)` over n indices: the sum of the remaining ones divided by n, plus the masked values of the others."""
    source = arguments(node)[0]
    shape = get_shape(source)
    axes, _ = reduced_axes(node, len(shape))
    remaining = {
        axis: indices for axis in axes if (indices := resizing.find_remaining_indices(source, axis)) is not None
    }
    if not remaining:
        return resizing.copy(node)
    new = resizing.copy(node)
    share = 1.0
    if node.target in (aten.mean.dim, aten.mean.default):
        share = math.prod(len(indices) / shape[axis] for axis, indices in remaining.items())
        new = resizing.call(aten.mul.Tensor, new, share)
    missing = _missing(resizing, node, source, remaining, share)
    return new if missing is None else resizing.call(aten.add.Tensor, new, missing)


def _missing(
    resizing: GraphResizer, node: fx.Node, source: fx.Node, remaining: dict[int, list[int]], share: float
) -> fx.Node | None:
    """Return the masked values' contribution to a sum, which is the same for every request, or None if it is zero."""
    rounding = 1e-13  # of the largest addend, in float64
    value = resizing.masked_value(source)
    remaining_value = value
    for axis, indices in remaining.items():
        remaining_value = remaining_value.index_select(axis, torch.tensor(indices))

    def reduce(x: Tensor) -> Tensor:
        reduced: Tensor = node.target(x, *arguments(node)[1:], **node.kwargs)  # type: ignore[operator]
        return reduced

    missing = reduce(value) - reduce(remaining_value) * share
    for axis in range(missing.ndim):
        output_indices = resizing.find_remaining_indices(node, axis)
        if output_indices is not None:
            missing = missing.index_select(axis, torch.tensor(output_indices))
    if float(missing.abs().max()) <= rounding * float(value.abs().max()):
        return None
    varies = [not isinstance(size, int) for size in get_shape(node)]
    for axis, varying in enumerate(varies):
        missing = missing.narrow(axis, 0, 1) if varying else missing
    return resizing.constant(node, missing.to(node.meta["val"].dtype), MASKED_SUM)


@resize_rule(aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding)
def convolution(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`conv(x, W, groups=C)` with one kernel per channel: as many groups as channels remain."""
    new = resizing.copy(node)
    remaining = resizing.find_remaining_indices(node, node.meta["val"].ndim - len(get_shape(arguments(node)[1])) + 1)
    if remaining is None or argument(node, "groups") == 1:
        return new
    names = [parameter.name for parameter in node.target._schema.arguments]  # type: ignore[union-attr]
    new.args = tuple(
        resizing.new.get(a, a) if isinstance(a, fx.Node) else a for a in (argument(node, n) for n in names)
    )
    new.kwargs = {}
    new.update_arg(names.index("groups"), len(remaining))
    return new


@resize_rule(aten.scaled_dot_product_attention.default)
def attention(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`scaled_dot_product_attention`: the scale is 1/√E with the original E."""
    new = resizing.copy(node)
    if node.kwargs.get("scale") is None:
        width = get_shape(arguments(node)[0])[-1]
        new.kwargs = {**new.kwargs, "scale": 1.0 / math.sqrt(width)}
    return new


def resize(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """Write one node of the original graph into the new one."""
    return RESIZES.get(node.target, GraphResizer.copy)(resizing, node)
