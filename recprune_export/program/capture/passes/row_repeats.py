"""Operators whose number of rows is the sum of lengths in a request, which is the number of elements that the lengths divide."""

import operator
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import fx

from recprune_export.program.capture.passes.runs_on_requests import RunsOnRequests
from recprune_export.program.nodes import argument, operator_name

aten = torch.ops.aten

REPEATS = frozenset({aten.repeat_interleave.Tensor, aten.repeat_interleave.self_Tensor})

Elements = Mapping[fx.Node, fx.Node]  # the elements of an input, by the node of its lengths


def state_output_size(runs: RunsOnRequests, node: fx.Node, elements: Elements) -> None:
    """Set the number of rows of a `repeat_interleave` by lengths of inputs: the number of their elements."""
    if node.target not in REPEATS or argument(node, "output_size") is not None:
        return
    repeats = argument(node, "repeats")
    members = _find_members(runs, repeats, elements) if isinstance(repeats, fx.Node) else None
    if members is not None:
        node.kwargs = {**node.kwargs, "output_size": _count_elements(runs, members, elements)}


def replace_offsets_range(runs: RunsOnRequests, node: fx.Node, elements: Elements) -> None:
    """Replace fbgemm's `offsets_range`, the position of each element in its row, for offsets of inputs."""
    if operator_name(node) != "fbgemm::offsets_range":
        return
    offsets = argument(node, "offsets")
    counts = runs.call(aten.diff.default, offsets)
    members = _find_members(runs, counts, elements)
    if members is None:
        # Without the end of the last row, which is the number of all elements.
        total = runs.call(
            aten.full_like.default, runs.call(aten.slice.Tensor, offsets, 0, 0, 1), argument(node, "range_size")
        )
        counts = runs.call(aten.diff.default, runs.call(aten.cat.default, [offsets, total]))
        members = _find_members(runs, counts, elements)
    if members is None:
        return
    ranges = []
    for member in members:
        size = _count_elements(runs, [member], elements)
        starts = runs.call(aten.sub.Tensor, runs.call(aten.cumsum.default, member, 0), member)
        ranges.append(_find_steps(runs, member, starts, size)[1])
    node.replace_all_uses_with(ranges[0] if len(ranges) == 1 else runs.call(aten.cat.default, ranges))


def replace_dense_to_jagged(runs: RunsOnRequests, node: fx.Node, elements: Elements) -> None:
    """Replace fbgemm's `dense_to_jagged(x: B×L×D, [offsets])`, for offsets of inputs, by a lookup of the steps of each row, T×D."""
    if operator_name(node) != "fbgemm::dense_to_jagged":
        return
    dense, (offsets, *others) = argument(node, "dense"), argument(node, "x_offsets")
    steps = runs.runs[0][dense].shape[1]
    if others or any(run[dense].shape[1] != steps or run[dense].ndim != 3 for run in runs.runs):
        return
    starts = runs.call(aten.slice.Tensor, offsets, 0, 0, -1)
    lengths = runs.call(
        aten.sub.Tensor, runs.call(aten.slice.Tensor, offsets, 0, 1, torch.iinfo(torch.int64).max), starts
    )
    members = _find_members(runs, lengths, elements)
    if members is None:
        return
    size = _count_elements(runs, members, elements)
    rows, steps_in_row = _find_steps(runs, lengths, starts, size)
    lost = runs.call(aten.unsqueeze.default, runs.call(aten.ge.Scalar, steps_in_row, steps), 1)
    places = runs.call(
        aten.add.Tensor,
        runs.call(aten.mul.Scalar, rows, steps),
        runs.call(aten.clamp_max.default, steps_in_row, steps - 1),
    )
    picked = runs.call(aten.index_select.default, runs.call(aten.flatten.using_ints, dense, 0, 1), 0, places)
    values = runs.call(aten.masked_fill.Scalar, picked, lost, 0.0)
    if not all(torch.equal(run[values], run[node][0]) for run in runs.runs):
        return
    for user in list(node.users):
        if user.args[1] == 0:
            user.replace_all_uses_with(values)
        else:  # the offsets, as a list
            for item in list(user.users):
                item.replace_all_uses_with(offsets)


def _find_steps(runs: RunsOnRequests, lengths: fx.Node, starts: fx.Node, size: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Return the row of each of `size` elements, and its position in that row."""
    rows = runs.call(aten.repeat_interleave.Tensor, lengths, output_size=size)
    positions = runs.call(aten.arange.default, size, dtype=torch.int64)
    return rows, runs.call(aten.sub.Tensor, positions, runs.call(aten.index_select.default, starts, 0, rows))


def _find_members(runs: RunsOnRequests, counts: fx.Node, elements: Elements) -> list[fx.Node] | None:
    """Return the neighboring inputs whose lengths, one after another, are the numbers of a tensor in each run."""
    lengths = list(elements)
    found = (lengths[start:stop] for start, stop in combinations(range(len(lengths) + 1), 2))
    return next((members for members in found if runs.equal(counts, members)), None)


def _count_elements(runs: RunsOnRequests, members: Sequence[fx.Node], elements: Elements) -> fx.Node:
    total = runs.call(aten.sym_size.int, elements[members[0]], 0)
    for member in members[1:]:
        total = runs.call(operator.add, total, runs.call(aten.sym_size.int, elements[member], 0))
    return total
