"""Replacement of `EmbeddingBag` by a lookup and a reduction.

Bags of equal length, the matrix of ids that most models pass, become `embedding` and a sum, mean or maximum over the
length. Bags that the request delimits by offsets become `embedding` and a sum, mean or maximum by bag. The exporter would write both as
a loop over the rows of the request: 14 ms, against .2 ms for the lookup and the sum.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import remove_dead_code
from recprune_export.program.capture.passes.element_rows import count_ends
from recprune_export.program.capture.passes.row_constants import evaluate_for_batch_size
from recprune_export.program.nodes import argument, arguments

aten = torch.ops.aten

BAGS = frozenset({aten.embedding_bag.padding_idx, aten.embedding_bag.default})
SUM, MEAN, MAX = range(3)  # the operator's codes of its modes


@dataclass(frozen=True)
class _Bag:
    """The operands of one call: W: V×D, ids: N, offsets: B, weights: N."""

    table: fx.Node
    ids: fx.Node
    offsets: fx.Node
    mode: int
    weights: fx.Node | None
    last_included: bool
    padding: int | None


def replace_embedding_bags(module: fx.GraphModule) -> bool:
    """Replace each `EmbeddingBag` if only its pooled rows are used, in place; return whether there was one.

    New nodes have no shapes: `recapture` the graph.
    """
    replaced = False
    for node in [n for n in module.graph.nodes if n.target in BAGS]:
        pooled = [user for user in node.users if arguments(user)[1] == 0]
        if len(pooled) < len(node.users):
            continue
        bag = _read(node)
        length = _length(bag)
        with module.graph.inserting_before(node):
            write = _Writer(module.graph)
            result = write.by_offsets(bag) if length is None else write.by_length(bag, length)
        for user in pooled:
            user.replace_all_uses_with(result)
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        replaced = True
    remove_dead_code(module)
    return replaced


def _read(node: fx.Node) -> _Bag:
    padding = argument(node, "padding_idx")
    rows = argument(node, "weight").meta["val"].shape[0]
    return _Bag(
        table=argument(node, "weight"),
        ids=argument(node, "indices"),
        offsets=argument(node, "offsets"),
        mode=argument(node, "mode"),
        weights=argument(node, "per_sample_weights"),
        last_included=bool(argument(node, "include_last_offset")),
        padding=None if padding in (None, -1) else padding % rows,
    )


def _length(bag: _Bag) -> int | None:
    """Return the length of every bag where the offsets are 0, L, 2L, ... for any number of rows, or None."""
    steps = set()
    for rows in (3, 5):  # batch sizes for which offsets are evaluated
        offsets = evaluate_for_batch_size(bag.offsets, rows)
        if not isinstance(offsets, Tensor) or len(offsets) != rows + bag.last_included:
            return None
        step = int(offsets[1] - offsets[0])
        if step < 1 or offsets.tolist() != list(range(0, step * len(offsets), step)):
            return None
        steps.add(step)
    return steps.pop() if len(steps) == 1 else None


class _Writer:
    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph

    def _call(self, operator: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self._graph.call_function(operator, args, kwargs)

    def by_length(self, bag: _Bag, length: int) -> fx.Node:
        """Write B bags of L ids as `embedding`, B×L×D, reduced over L."""
        ids = self._matrix(bag.ids, length)
        rows = self._call(aten.embedding.default, bag.table, ids)
        if bag.weights is not None:
            rows = self._call(
                aten.mul.Tensor, rows, self._call(aten.unsqueeze.default, self._matrix(bag.weights, length), -1)
            )
        if bag.padding is None:
            if bag.mode == MAX:
                return self._call(aten.amax.default, rows, [1])
            return self._call(aten.sum.dim_IntList if bag.mode == SUM else aten.mean.dim, rows, [1])
        counts = self._call(aten.ne.Scalar, ids, bag.padding)  # B×L
        mask = self._call(aten.unsqueeze.default, counts, -1)
        if bag.mode == MAX:
            padded = self._call(aten.logical_not.default, mask)
            largest = self._call(
                aten.amax.default, self._call(aten.masked_fill.Scalar, rows, padded, float("-inf")), [1]
            )
            empty = self._call(aten.logical_not.default, self._call(aten.any.dim, counts, 1, True))
            return self._call(aten.masked_fill.Scalar, largest, empty, 0.0)
        total = self._call(aten.sum.dim_IntList, self._call(aten.mul.Tensor, rows, mask), [1])
        if bag.mode == SUM:
            return total
        number = self._call(aten.clamp_min.default, self._call(aten.sum.dim_IntList, counts, [1], True), 1)
        return self._call(aten.div.Tensor, total, number)

    def _matrix(self, flat: fx.Node, length: int) -> fx.Node:
        """Return N values as B×L: the tensor before it was flattened, where that has the shape."""
        source = arguments(flat)[0] if flat.target in (aten.reshape.default, aten.view.default) else None
        if isinstance(source, fx.Node) and source.meta["val"].ndim == 2 and source.meta["val"].shape[1] == length:
            return source
        return self._call(aten.reshape.default, flat, [-1, length])

    def by_offsets(self, bag: _Bag) -> fx.Node:
        """Write N ids in B bags as `embedding`, N×D, reduced by bag."""
        starts = self._call(aten.slice.Tensor, bag.offsets, 0, 0, -1) if bag.last_included else bag.offsets
        number = self._call(aten.sym_size.int, starts, 0)
        bags = self._bag_of_each_id(starts, self._call(aten.sym_size.int, bag.ids, 0))
        rows = self._call(aten.embedding.default, bag.table, bag.ids)
        counts = self._call(aten.new_ones.default, rows, [self._call(aten.sym_size.int, bag.ids, 0), 1])
        if bag.padding is not None:
            present = self._call(aten.unsqueeze.default, self._call(aten.ne.Scalar, bag.ids, bag.padding), -1)
            counts = self._call(aten.mul.Tensor, counts, present)
            if bag.mode == MAX:
                absent = self._call(aten.logical_not.default, present)
                rows = self._call(aten.masked_fill.Scalar, rows, absent, float("-inf"))
            else:
                rows = self._call(aten.mul.Tensor, rows, counts)
        if bag.weights is not None:
            rows = self._call(aten.mul.Tensor, rows, self._call(aten.unsqueeze.default, bag.weights, -1))
        width = int(bag.table.meta["val"].shape[1])
        if bag.mode == MAX:
            return self._largest(rows, counts, bags, starts, width)
        total = self._sum(rows, bags, number, width)
        if bag.mode == SUM:
            return total
        sizes = self._call(aten.clamp_min.default, self._sum(counts, bags, number, 1), 1)
        return self._call(aten.div.Tensor, total, sizes)

    def _bag_of_each_id(self, starts: fx.Node, length: fx.Node) -> fx.Node:
        """Return the number of the bag of each id, N, from the offsets at which the bags start, B.

        It is the number of bags that start up to the id, less one; empty bags start at N.
        """
        started = count_ends(self._graph, starts, length)
        number = self._call(aten.sub.Tensor, started, 1)
        return self._call(aten.clamp_min.default, number, 0)  # a valid request starts at offset 0

    def _largest(self, rows: fx.Node, counts: fx.Node, bags: fx.Node, starts: fx.Node, width: int) -> fx.Node:
        """Return the maximum of the rows of each bag, B×D, and zeros for bags without ids.

        The first row of each bag is compared with all of its rows. A row is appended for empty bags, which may start at N.
        """
        first = self._call(
            aten.index_select.default, self._call(aten.constant_pad_nd.default, rows, [0, 0, 0, 1]), 0, starts
        )
        index = self._call(aten.expand.default, self._call(aten.unsqueeze.default, bags, -1), [-1, width])
        largest = self._call(aten.scatter_reduce.two, first, 0, index, rows, "amax")
        number = self._call(aten.sym_size.int, starts, 0)
        empty = self._call(aten.eq.Scalar, self._sum(counts, bags, number, 1), 0)
        return self._call(aten.masked_fill.Scalar, largest, empty, 0.0)

    def _sum(self, rows: fx.Node, bags: fx.Node, number: fx.Node, width: int) -> fx.Node:
        zeros = self._call(aten.new_zeros.default, rows, [number, width])
        return self._call(aten.index_add.default, zeros, 0, bags, rows)
