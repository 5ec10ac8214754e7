"""The batch size in the sizes of views and new tensors, where torch.export writes it as a number, replaced by that of an input.

The graph is run on twice as many rows. The axis of a view that grows with the rows follows from the axes of its argument,
since a view splits and merges neighboring axes. For a new tensor it is unknown which of the sizes that are equal to the
number of rows is the batch, so several choices are yielded, to be tried.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

_ATEN: Any = torch.ops.aten
_VIEWS: frozenset[Any] = frozenset({_ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default})
# Operators that make a tensor, by the position of its sizes.
_NEW: dict[Any, int] = {
    **dict.fromkeys(
        (_ATEN.new_zeros.default, _ATEN.new_ones.default, _ATEN.new_full.default, _ATEN.new_empty.default), 1
    ),
    **dict.fromkeys((_ATEN.zeros.default, _ATEN.ones.default, _ATEN.full.default, _ATEN.empty.memory_format), 0),
}
_FACTOR = 2  # the graph is run on this multiple of the rows
_Choose = Callable[[Sequence[int]], Sequence[int]]
# The position, among the sizes of a new tensor that equal the number of rows, that is taken as the batch.
_CHOICES: tuple[_Choose, ...] = (
    lambda positions: (),
    lambda positions: positions[:1],
    lambda positions: positions[-1:],
    lambda positions: positions,
)


def list_freed(fixed: fx.GraphModule, example: Any, rows: int) -> Iterator[fx.GraphModule]:
    """Yield the graph itself, and then with its sizes freed, for each choice of those of new tensors.

    `example` is the request of `rows` rows for which `fixed` was exported.
    """
    yield fixed
    has_new = any(node.target in _NEW for node in fixed.graph.nodes)
    for choose in _CHOICES if has_new else _CHOICES[:1]:
        for last in (False, True):
            freed = _free(fixed, example, rows, choose, last)
            if freed is not None:
                yield freed


def scale_view(
    before: Sequence[int], after: Sequence[int], sizes: Sequence[int], rows: int, last_equal: bool = False
) -> list[int]:
    """Return the sizes of a view of a tensor that grew from shape `before` to `after` with the rows, where it had `sizes`.

    Where an axis that grows is split, it is the axis of `rows` that grows, the first or the last of several, else the first
    that is a multiple of it. Where the axis is the first of several that are rearranged, it is the first that grows.

    >>> scale_view((3, 8), (6, 8), (3, 2, 4), 3), scale_view((5, 3, 8), (5, 6, 8), (15, 8), 3)
    ([6, 2, 4], [30, 8])
    >>> scale_view((15, 8), (30, 8), (5, 3, 8), 3), scale_view((6, 5), (12, 5), (3, 2, 5), 3), scale_view((5,), (10,), (5, 1), 1)
    ([5, 6, 8], [6, 2, 5], [5, 2])
    """
    scaled = list(sizes)
    for start, end, first, last in _group_axes(before, sizes):
        growing = [axis for axis in range(start, end) if after[axis] != before[axis]]
        if growing and first < last:
            axes = range(first, last)
            if growing[0] == start < end - 1 and before[start] > 1:
                axes = range(first, first + 1)
            equal = [axis for axis in axes if sizes[axis] == rows]
            multiple = [axis for axis in axes if sizes[axis] % rows == 0 and sizes[axis] > 1]
            axis = (*(equal[::-1] if last_equal else equal), *multiple, first)[0]
            scaled[axis] = sizes[axis] * after[growing[0]] // before[growing[0]]
    return scaled


def _group_axes(before: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the ranges of axes of a tensor and of its view that hold the same elements, from the left.

    An axis of size 1 could belong to either neighbor. A new one belongs to the left. One of the tensor belongs to the left if the
    following axes are merged, and to the right if they are split, as attention does with its heads.
    """
    start = first = 0
    while start < len(before) or first < len(sizes):
        end, last = _find_group(before, sizes, start, first)
        while last < len(sizes) and sizes[last] == 1 and (end == len(before) or before[end] != 1):
            last += 1
        if end < len(before) and before[end] == 1 and last < len(sizes) and sizes[last] != 1:
            behind, viewed = _find_group(before, sizes, end + 1, last)
            end += behind - end - 1 > viewed - last
        yield start, end, first, last
        start, first = end, last


def _find_group(before: Sequence[int], sizes: Sequence[int], start: int, first: int) -> tuple[int, int]:
    """Return the ends of the shortest ranges from `start` and `first` that hold equally many elements."""
    end, last = min(start + 1, len(before)), min(first + 1, len(sizes))
    elements, viewed = _multiply(before[start:end]), _multiply(sizes[first:last])
    while elements != viewed and (end < len(before) or last < len(sizes)):
        if (elements < viewed and end < len(before)) or last == len(sizes):
            elements, end = elements * before[end], end + 1
        else:
            viewed, last = viewed * sizes[last], last + 1
    return end, last


def _multiply(sizes: Sequence[int]) -> int:
    return torch.Size(sizes).numel()


def _free(fixed: fx.GraphModule, example: Any, rows: int, choose: _Choose, last_equal: bool) -> fx.GraphModule | None:
    """Return the graph with its sizes freed; None if there is none, or the freed graph cannot be run on more rows."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(fixed.graph, {}))
    graph.set_codegen(fixed.graph._codegen)
    freed = fx.GraphModule(fixed, graph)
    runner = _SizeFreer(freed, rows, choose, last_equal)
    leaves = [leaf for leaf in pytree.tree_leaves(example) if leaf is not None]
    larger = [
        torch.cat([leaf] * _FACTOR) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows else leaf
        for leaf in leaves
    ]
    try:
        with torch.no_grad():
            runner.run(*larger, enable_io_processing=False)
    except Exception:  # any operator may refuse the shapes of a wrong choice
        return None
    if not runner.changes:
        return None
    _write_sizes(freed.graph, runner.changes, rows)
    freed.recompile()
    return freed


class _SizeFreer(fx.Interpreter):
    """Runs a graph on more rows, and collects in `changes` the sizes that grow with them, by node."""

    def __init__(self, module: fx.GraphModule, rows: int, choose: _Choose, last_equal: bool) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._rows, self._choose, self._last_equal = rows, choose, last_equal
        self.changes: dict[fx.Node, list[int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node with larger sizes where they grow."""
        index = 1 if n.target in _VIEWS or n.target is _ATEN.expand.default else _NEW.get(n.target)
        if index is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        sizes = self._scale(n, args, list(args[index]))
        if sizes != list(args[index]):
            self.changes[n] = sizes
        return self.call_function(n.target, (*args[:index], sizes, *args[index + 1 :]), kwargs)

    def _scale(self, node: fx.Node, args: tuple[Any, ...], sizes: list[int]) -> list[int]:
        if node.target in _NEW:
            chosen = self._choose([position for position, size in enumerate(sizes) if size == self._rows])
            return [size * _FACTOR if position in chosen else size for position, size in enumerate(sizes)]
        source: Any = node.args[0]
        before, after = source.meta["val"].shape, args[0].shape
        if node.target in _VIEWS:
            scaled = scale_view(before, after, node.meta["val"].shape, self._rows, self._last_equal)
            return [-1 if size == -1 else larger for size, larger in zip(sizes, scaled, strict=True)]
        skipped = len(sizes) - len(before)  # expand adds axes on the left
        return [
            size * _FACTOR
            if (position >= skipped and after[position - skipped] != before[position - skipped] and size != -1)
            or (size == self._rows > 1 and position == 0 and (skipped or before[0] == 1))
            else size
            for position, size in enumerate(sizes)
        ]


def _write_sizes(graph: fx.Graph, changes: dict[fx.Node, list[int]], rows: int) -> None:
    """Write sizes as multiples of the batch of the first input that has one."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    first = next(n for n in placeholders if n.meta["val"].ndim and len(n.meta["val"]) == rows)
    with graph.inserting_after(placeholders[-1]):
        batch = graph.call_function(_ATEN.sym_size.int, (first, 0))
    for node, sizes in changes.items():
        index, args = _NEW.get(node.target, 1), list[Any](node.args)
        written = list(args[index])
        for position, (size, larger) in enumerate(zip(written, sizes, strict=True)):
            if size != larger:
                with graph.inserting_before(node):
                    written[position] = graph.call_function(operator.mul, (batch, size // rows))
        args[index] = written
        node.args = tuple(args)
