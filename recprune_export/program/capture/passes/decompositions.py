"""Decompositions of operators into simpler ones, so that analyses of the graph need fewer rules.

An in-place write to a slice, `x[:, 2:4] = y`, is captured as a `slice_scatter`; its decomposition is a `cat` of the
unchanged slices and y, so that each slice has separate channels.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import add_constant, remove_dead_code
from recprune_export.program.capture.passes.element_rows import bucketed, reduced_segments, repeated_rows
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.operator_registry import OPERATORS, Facet

aten = torch.ops.aten

Decomposition = Callable[[fx.Graph, fx.Node], fx.Node | None]  # None if the operator is not decomposed
_DECOMPOSITIONS: Mapping[Any, Decomposition] = OPERATORS.rules(Facet.DECOMPOSITION)
_decomposition = partial(OPERATORS.register, Facet.DECOMPOSITION)


def decompose(module: fx.GraphModule) -> bool:
    """Decompose every operator that has a decomposition, in place; return whether there was one.

    New nodes have no shapes: `recapture` the graph.
    """
    changed = False
    for node in list(module.graph.nodes):
        if node.target not in _DECOMPOSITIONS:
            continue
        with module.graph.inserting_before(node):
            new = _DECOMPOSITIONS[node.target](module.graph, node)
        if new is not None:
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
            changed = True
    remove_dead_code(module)
    return changed


def _value(node: fx.Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


def _cat(graph: fx.Graph, tensors: Sequence[fx.Node], axis: int) -> fx.Node:
    return tensors[0] if len(tensors) == 1 else graph.call_function(aten.cat.default, (list(tensors), axis))


@_decomposition(aten.hstack.default, aten.concat.default, aten.concatenate.default, aten.column_stack.default)
def joined(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`hstack(xs: B×L×D)` is `cat(xs, 1)`."""
    tensors = arguments(node)[0]
    axis = argument(node, "dim") if node.target in (aten.concat.default, aten.concatenate.default) else 1
    if axis == 1 and any(_value(tensor).ndim < 2 for tensor in tensors):
        return None
    return _cat(graph, tensors, axis)


@_decomposition(aten.cat.default)
def joined_with_nothing(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`cat([tensor([]), x: B×L×D], 1)` is x: PyTorch skips an empty tensor of one axis, as caches of keys begin with."""
    tensors = arguments(node)[0]
    if any("val" not in tensor.meta for tensor in tensors):  # of another pass, which joins no caches
        return None
    full = [tensor for tensor in tensors if tuple(_value(tensor).shape) != (0,)]
    dtypes = {_value(tensor).dtype for tensor in full}
    if len(full) == len(tensors) or not full or dtypes != {_value(node).dtype} or _value(full[0]).ndim < 2:
        return None
    return _cat(graph, full, argument(node, "dim"))


@_decomposition(aten.einsum.default)
def outer_product(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`einsum("bhd,bmd->bhmd", x, y)` is `x[:, :, None] * y[:, None]`, if no axis is summed over; Einsum of ONNX Runtime is slow."""
    equation, operands = arguments(node)[:2]
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    repeated = any(len(set(letters)) < len(letters) for letters in (*terms, output))
    if not arrow or "." in equation or len(terms) != 2 or repeated or set(output) != set(inputs) - {","}:
        return None

    def align(operand: fx.Node, letters: str) -> fx.Node:
        order = sorted(letters, key=output.index)
        if order != list(letters):
            axes = [letters.index(letter) for letter in order]
            operand = _move_axes(graph, aten.permute.default, operand, axes)
        for axis, letter in enumerate(output):
            if letter not in letters:
                operand = _move_axes(graph, aten.unsqueeze.default, operand, axis)
        return operand

    return graph.call_function(aten.mul.Tensor, tuple(map(align, operands, terms)))


def _move_axes(graph: fx.Graph, operator: Callable[..., Tensor], x: fx.Node, axes: Any) -> fx.Node:
    """Insert an operator on axes, with its shape: passes that follow in the same round look for factors of a product."""
    node = graph.call_function(operator, (x, axes))
    node.meta["val"] = operator(_value(x), axes)
    return node


@_decomposition(aten.slice_scatter.default)
def slice_scatter(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`x[:, start:end] = y` is the `cat` of the slice before, y, and the slice after."""
    x, written = arguments(node)[:2]
    axis, start, end, step = (argument(node, name) for name in ("dim", "start", "end", "step"))
    size = _value(x).shape[axis]
    if (start or 0) == 0 and (end is None or end == torch.iinfo(torch.int64).max) and step == 1:
        return written
    if not all(isinstance(n, int | None) for n in (start, end, size)):
        return None
    if step != 1:
        return _overwritten_in_steps(graph, x, written, axis, range(size)[slice(start, end, step)])
    first, last, _ = slice(start, end).indices(size)
    return _overwritten(graph, x, written, axis, first, last)


def _overwritten_in_steps(graph: fx.Graph, x: fx.Node, written: fx.Node, axis: int, positions: range) -> fx.Node:
    """`x[..., ::2] = y`, as in rotary position embeddings: the `cat` of the unchanged elements and y, reordered."""
    unchanged = [position for position in range(_value(x).shape[axis]) if position not in positions]
    order = torch.tensor([*unchanged, *positions]).argsort()
    rest = graph.call_function(aten.index_select.default, (x, axis, _constant(graph, torch.tensor(unchanged))))
    unordered = _cat(graph, [rest, written] if unchanged else [written], axis)
    return graph.call_function(aten.index_select.default, (unordered, axis, _constant(graph, order)))


def _constant(graph: fx.Graph, value: Tensor) -> fx.Node:
    assert graph.owning_module is not None
    return add_constant(graph.owning_module, "written_out", value)


@_decomposition(aten.select_scatter.default)
def select_scatter(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`x[:, i] = y` as `slice_scatter` of one index."""
    x, written, axis, index = arguments(node)
    size = _value(x).shape[axis]
    if not isinstance(size, int) or not isinstance(index, int):
        return None
    axis, index = axis % _value(x).ndim, index % size
    return _overwritten(graph, x, graph.call_function(aten.unsqueeze.default, (written, axis)), axis, index, index + 1)


def _overwritten(graph: fx.Graph, x: fx.Node, written: fx.Node, axis: int, first: int, last: int) -> fx.Node:
    size = _value(x).shape[axis]
    before = [graph.call_function(aten.slice.Tensor, (x, axis, 0, first))] if first > 0 else []
    behind = [graph.call_function(aten.slice.Tensor, (x, axis, last, size))] if last < size else []
    return _cat(graph, [*before, written, *behind], axis)


@_decomposition(aten.diagonal_scatter.default)
def diagonal_scatter(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`x.diagonal(dim1=-2, dim2=-1)[:] = y` for x: B×L×L is y where row and column are equal; ONNX has no operator."""
    x, written, offset, one, other = (argument(node, name) for name in ("self", "src", "offset", "dim1", "dim2"))
    *_, rows, columns = shape = _value(x).shape
    last_two = {one % len(shape), other % len(shape)} == {len(shape) - 2, len(shape) - 1}
    if offset or not last_two or not isinstance(rows, int) or rows != columns:
        return None
    mask = _constant(graph, torch.eye(rows, dtype=torch.bool))
    return graph.call_function(aten.where.self, (mask, graph.call_function(aten.unsqueeze.default, (written, -1)), x))


@_decomposition(aten.zero.default, aten.empty_like.default)
def zeros(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """`x.zero_()` is zeros of the shape of x; an uninitialized tensor may be zeros as well."""
    return graph.call_function(aten.zeros_like.default, arguments(node)[:1], {"dtype": _value(node).dtype})


@_decomposition(aten.empty.memory_format, aten.new_empty.default)
def blank(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """`empty(sizes)`, which is uninitialized, may be zeros."""
    return graph.call_function(aten.zeros.default, (argument(node, "size"),), {"dtype": _value(node).dtype})


@_decomposition(aten.fill.Scalar)
def filled(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """`x.fill_(2.0)` is twos of the shape of x."""
    return graph.call_function(aten.full_like.default, arguments(node)[:2], {"dtype": _value(node).dtype})


@_decomposition(aten.index.Tensor)
def picked_complex(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`x[:, frequencies]` of complex x selects real and imaginary parts; ONNX cannot index complex numbers."""
    x, indices = arguments(node)[:2]
    if not _value(x).is_complex() or sum(index is not None for index in indices) != 1:
        return None
    real = graph.call_function(aten.view_as_real.default, (x,))
    selected = graph.call_function(aten.index.Tensor, (real, indices))
    return graph.call_function(aten.view_as_complex.default, (selected,))


@_decomposition(aten.copy.default)
def copy(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """`copy(x, y)` is y in the shape and the dtype of x."""
    destination, source = arguments(node)[:2]
    expanded = (
        source
        if _same_shape(source, destination)
        else graph.call_function(aten.expand_as.default, (source, destination))
    )
    if _value(source).dtype == _value(destination).dtype:
        return expanded
    return graph.call_function(aten.to.dtype, (expanded, _value(destination).dtype))


@_decomposition(operator.getitem)
def broadcast(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`broadcast_tensors([x, y])[0]` is x in the shape of y, or x where it has that shape."""
    source, position = arguments(node)
    if source.target is not aten.broadcast_tensors.default:
        return None
    tensors = arguments(source)[0]
    like = next((tensor for tensor in (tensors[position], *tensors) if _same_shape(tensor, node)), None)
    if like is None or like is tensors[position]:
        return like
    return graph.call_function(aten.expand_as.default, (tensors[position], like))


def _same_shape(one: fx.Node, other: fx.Node) -> bool:
    """Return whether two shapes are equal for every batch."""
    return [str(size) for size in _value(one).shape] == [str(size) for size in _value(other).shape]


@_decomposition(aten.linalg_norm.default)
def vector_norm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`linalg.norm(x: B×L×D, dim=-1)` is the length of each vector of D."""
    x, order, axes, keepdim, dtype = (argument(node, name) for name in ("self", "ord", "dim", "keepdim", "dtype"))
    if axes is None or len(axes) != 1 or not isinstance(order, int | float | None) or dtype is not None:
        return None
    return graph.call_function(aten.linalg_vector_norm.default, (x, 2 if order is None else order, axes, keepdim))


@_decomposition(aten.mse_loss.default)
def squared_error(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """`mse_loss(x, y)` is the mean of (x - y)²."""
    difference = graph.call_function(aten.sub.Tensor, arguments(node)[:2])
    squared = graph.call_function(aten.square.default, (difference,))
    reduction = {0: None, 1: aten.mean.default, 2: aten.sum.default}[argument(node, "reduction")]
    return squared if reduction is None else graph.call_function(reduction, (squared,))


@_decomposition(aten.repeat_interleave.self_int)
def repeated_value(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`repeat_interleave(x: B×L×1, D, 2)` is x expanded, where the repeated axis has size 1."""
    x, repeats = arguments(node)[:2]
    axis, shape = argument(node, "dim"), _value(x).shape
    if axis is None or not isinstance(repeats, int) or not (isinstance(shape[axis], int) and shape[axis] == 1):
        return None
    sizes = [-1] * len(shape)
    sizes[axis] = repeats
    return graph.call_function(aten.expand.default, (x, sizes))


@_decomposition(aten.pairwise_distance.default)
def distance(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`pairwise_distance(x: B×D, y: B×D)` is √Σ(x - y + ε)², whose terms are a constant where x and y are zero."""
    left, right, order, epsilon, keepdim = (argument(node, name) for name in ("x1", "x2", "p", "eps", "keepdim"))
    if order != 2:
        return None
    shifted = graph.call_function(aten.add.Scalar, (graph.call_function(aten.sub.Tensor, (left, right)), epsilon))
    squares = graph.call_function(aten.square.default, (shifted,))
    return graph.call_function(
        aten.sqrt.default, (graph.call_function(aten.sum.dim_IntList, (squares, [-1], keepdim)),)
    )


@_decomposition(aten.cdist.default)
def distances(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """`cdist(x: B×P×D, y: B×R×D)` is ‖x - y‖ of all pairs; for many pairs, as in PyTorch, √(‖x‖² + ‖y‖² - 2 x·y).

    ONNX has no operator for it.
    """
    max_direct = 25  # vectors on each side, as in PyTorch
    left, right, order, mode = (argument(node, name) for name in ("x1", "x2", "p", "compute_mode"))
    if order != 2:
        return None
    counts = (_value(left).shape[-2], _value(right).shape[-2])
    few = mode == 2 or (mode != 1 and all(isinstance(n, int) and n <= max_direct for n in counts))
    if few:
        one, other = (graph.call_function(aten.unsqueeze.default, (x, axis)) for x, axis in ((left, -2), (right, -3)))
        difference = graph.call_function(aten.sub.Tensor, (one, other))
        return graph.call_function(aten.linalg_vector_norm.default, (difference, 2, [-1]))
    lengths = []
    for x, axis in ((left, -1), (right, -2)):
        squares = graph.call_function(aten.square.default, (x,))
        sums = graph.call_function(aten.sum.dim_IntList, (squares, [-1]))
        lengths.append(graph.call_function(aten.unsqueeze.default, (sums, axis)))
    transposed = graph.call_function(aten.transpose.int, (right, -1, -2))
    twice = graph.call_function(aten.mul.Scalar, (graph.call_function(aten.matmul.default, (left, transposed)), 2))
    squared_distances = graph.call_function(
        aten.sub.Tensor, (graph.call_function(aten.add.Tensor, tuple(lengths)), twice)
    )
    return graph.call_function(
        aten.sqrt.default, (graph.call_function(aten.clamp_min.default, (squared_distances, 1e-30)),)
    )


_decomposition(aten.bucketize.Tensor, aten.searchsorted.Tensor)(bucketed)
_decomposition(aten.repeat_interleave.Tensor, aten.repeat_interleave.self_Tensor)(repeated_rows)
_decomposition(aten.segment_reduce.default)(reduced_segments)
