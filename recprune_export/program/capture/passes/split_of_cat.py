"""Removal of a `split` that reverses a `cat`, with sizes of the parts from the request.

A KeyedJaggedTensor holds the ids of all keys in one tensor, and a model splits them by the sums of the lengths: numbers that
a graph reads from the request. Where the graph joins the ids of the keys itself, the parts are known, and so are those of
values computed from the joined ids element by element.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import remove_dead_code
from recprune_export.program.capture.passes.permuted_keys import replace_permuted_keys
from recprune_export.program.capture.passes.row_repeats import (
    replace_dense_to_jagged,
    replace_offsets_range,
    state_output_size,
)
from recprune_export.program.capture.passes.runs_on_requests import RunsOnRequests
from recprune_export.program.nodes import argument, arguments, operator_name

aten = torch.ops.aten

_SPLITS = frozenset({aten.split_with_sizes.default, aten.split.sizes})
_SLICES = frozenset({aten.slice.Tensor, aten.narrow.default})
_CATS = frozenset({aten.cat.default, aten.concat.default, aten.concatenate.default})
_ALIASES = frozenset(
    {aten.to.dtype, aten._to_copy.default, aten.clone.default, aten.contiguous.default, aten.detach.default, aten.alias.default}
)  # fmt: skip
# Lookups, with the position of the indices.
_LOOKUPS: dict[Any, int] = {aten.embedding.default: 1, aten.index_select.default: 2, aten.gather.default: 2}


def replace_split_of_cat(
    module: fx.GraphModule, requests: Sequence[Sequence[Tensor]], lengths: Mapping[int, int]
) -> bool:
    """Replace parts of joined tensors, selected by sizes from the request, by the tensors that were joined; return whether any may be.

    `requests` are tensors that the graph takes; the ends of a part have to be those of joined tensors in each of them.
    `lengths` leads from the position of each input of lengths to that of its elements. New nodes have no shapes: `recapture` the
    graph.
    """
    nodes = list(module.graph.nodes)
    if not any(_is_part(node) or _reads_ends(node) for node in nodes):
        return False
    joined = _Joined(RunsOnRequests(module, requests))
    inputs = [node for node in nodes if node.op == "placeholder"]
    elements = {inputs[one]: inputs[other] for one, other in lengths.items()}
    for node in nodes:
        with module.graph.inserting_before(node):
            if _is_part(node):
                joined.replace_part(node)
            elif not replace_permuted_keys(joined.runs, node, joined.parts):
                replace_offsets_range(joined.runs, node, elements)
                replace_dense_to_jagged(joined.runs, node, elements)
                state_output_size(joined.runs, node, elements)
    remove_dead_code(module)
    return True


def _reads_ends(node: fx.Node) -> bool:
    name = operator_name(node)
    return name.startswith("fbgemm::") or name == "aten::repeat_interleave"


def _is_part(node: fx.Node) -> bool:
    if node.target in _SLICES:
        return argument(node, "dim") == 0 and any(isinstance(a, fx.Node) for a in arguments(node)[2:])
    if node.op != "call_function" or not node.args or getattr(node.args[0], "target", None) not in _SPLITS:
        return False
    split = node.args[0]
    assert isinstance(split, fx.Node)
    sizes = arguments(split)[1]
    return (
        argument(split, "dim") == 0 and isinstance(sizes, list | tuple) and any(isinstance(a, fx.Node) for a in sizes)
    )


class _Joined:
    """The tensors that are joined on axis 0 in the nodes of a graph."""

    def __init__(self, runs: RunsOnRequests) -> None:
        self.runs = runs
        self._parts: dict[fx.Node, list[fx.Node]] = {}

    def replace_part(self, node: fx.Node) -> None:
        """Replace a part of joined tensors by the tensors that it consists of, if possible."""
        source = arguments(arguments(node)[0])[0] if node.target not in _SLICES else arguments(node)[0]
        parts = self.parts(source)
        bounds = self._bounds(node, source)
        ends = [[0] * len(self.runs.runs)]
        for part in parts:
            ends.append([end + size for end, size in zip(ends[-1], self.runs.sizes(part), strict=True)])
        starts = [start for start, _ in bounds]
        stops = [stop for _, stop in bounds]
        if starts not in ends or stops not in ends or ends.index(starts) >= ends.index(stops):
            return
        taken = parts[ends.index(starts) : ends.index(stops)]
        new = taken[0] if len(taken) == 1 else self.runs.call(aten.cat.default, taken)
        node.replace_all_uses_with(new)

    def parts(self, node: fx.Node) -> list[fx.Node]:
        """Return the tensors that a node joins; only the node if it joins none."""
        if node not in self._parts:
            self._parts[node] = self._find_parts(node)
        return self._parts[node]

    def _find_parts(self, node: fx.Node) -> list[fx.Node]:
        if node.target in _CATS:
            if (arguments(node)[1:] or (0,))[0] != 0:
                return [node]
            return [part for tensor in arguments(node)[0] for part in self.parts(tensor)]
        divided = self._find_divided(node)
        parts = [self.parts(node.args[position]) for position in divided]  # type: ignore[arg-type]
        sizes = [[self.runs.sizes(part) for part in found] for found in parts]
        if not parts or len(parts[0]) < 2 or any(other != sizes[0] for other in sizes):
            return [node]
        made = []
        with node.graph.inserting_before(node):
            for number in range(len(parts[0])):
                args = list(node.args)
                for position, found in zip(divided, parts, strict=True):
                    args[position] = found[number]
                new = self.runs.call(node.target, *args, **node.kwargs)  # type: ignore[arg-type]
                new.meta = {key: value for key, value in node.meta.items() if key != "val"}
                made.append(new)
        return made

    def _find_divided(self, node: fx.Node) -> list[int]:
        """Return the positions of the operands whose indices of axis 0 each affect only the same index of the result."""
        operands = {n: arg for n, arg in enumerate(node.args) if isinstance(arg, fx.Node)}
        tensors = {n: arg for n, arg in operands.items() if isinstance(self.runs.runs[0].get(arg), Tensor)}
        if node.target in _LOOKUPS:
            if node.target is not aten.embedding.default:
                table = self.runs.runs[0][arguments(node)[0]]
                if arguments(node)[1] != 0 or table.ndim != 1:
                    return []
            return [_LOOKUPS[node.target]]
        pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ()) or node.target in _ALIASES
        if not pointwise or len(tensors) < len(operands) or node.kwargs.keys() & {"out"}:
            return []
        rank, sizes = self.runs.runs[0][node].ndim, self.runs.sizes(node)
        return [
            n for n, arg in tensors.items() if self.runs.runs[0][arg].ndim == rank and self.runs.sizes(arg) == sizes
        ]

    def _bounds(self, node: fx.Node, source: fx.Node) -> list[tuple[int, int]]:
        """Return where a part starts and stops on axis 0 in each run."""
        if node.target in _SLICES:
            starts = self.runs.numbers(argument(node, "start") or 0)
            if node.target is aten.narrow.default:
                lengths = self.runs.numbers(argument(node, "length"))
                return [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
            end = argument(node, "end")
            totals = self.runs.sizes(source)
            stops = totals if end is None else self.runs.numbers(end)
            bounds = zip(starts, stops, totals, strict=True)
            return [slice(start, stop).indices(total)[:2] for start, stop, total in bounds]
        split, number = node.args
        assert isinstance(split, fx.Node) and isinstance(number, int)
        sizes = [self.runs.numbers(size) for size in arguments(split)[1]]
        found = [[size[run] for size in sizes] for run in range(len(self.runs.runs))]
        return [(sum(of_run[:number]), sum(of_run[: number + 1])) for of_run in found]
