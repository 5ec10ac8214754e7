"""Embedding lookups: one row of a table for each row of the batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from recprune_export.onnx.graph import (
    Dim,
    find_nodes,
    find_producer,
    get_axis,
    get_bits,
    get_constant_array,
    get_dims,
    get_rank,
)
from recprune_export.onnx.optimizer.columns import EXACT_IN_FLOAT, ColumnSource, trace_column


@dataclass(frozen=True)
class EmbeddingLookup:
    """A Gather of one row of `table` [rows, width] for each row of the batch, and the source of its ids.

    With a `remap` [ids] the row is `remap[id]`, and several ids may share a row.
    """

    node: ir.Node
    table: ir.Value
    ids: ColumnSource
    remap: ir.Value | None = None

    @property
    def rows(self) -> int:
        """The number of rows of the table."""
        return int(self.table.shape[0])  # type: ignore[index, arg-type]

    @property
    def id_limit(self) -> int:
        """The number below which every id is valid."""
        return self.rows if self.remap is None else int(self.remap.shape[0])  # type: ignore[index, arg-type]

    @property
    def width(self) -> int:
        """The number of dimensions of the table."""
        return int(self.table.shape[1])  # type: ignore[index, arg-type]

    @property
    def kind(self) -> tuple[int, int]:
        """The width and the planned bits of the table: tables of one kind can be fused."""
        return self.width, get_bits(self.table)


@dataclass(frozen=True)
class LookupRun:
    """Neighboring operands of a Concat, from `first` on, that are lookups of one width in tables of the same bits."""

    join: ir.Node
    first: int
    lookups: tuple[EmbeddingLookup, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The Gather nodes of the lookups."""
        return tuple(lookup.node for lookup in self.lookups)


def match_lookup(value: ir.Value | None) -> EmbeddingLookup | None:
    """Return the lookup that computes `value`, directly or followed by a new axis of size 1; None for others."""
    node = find_producer(value, "Gather", "Unsqueeze", "Reshape")
    if value is None or node is None:
        return None
    if node.op_type != "Gather":
        inner = node.inputs[0]
        same_row = _drop_unit_axes(get_dims(inner)) is not None and _drop_unit_axes(get_dims(inner)) == _drop_unit_axes(
            get_dims(value)
        )
        return match_lookup(inner) if same_row and find_producer(inner, "Gather") else None
    table, ids = node.inputs
    if table is None or ids is None or table.const_value is None or ids.const_value is not None:
        return None
    if get_rank(table) != 2 or table.dtype != ir.DataType.FLOAT or get_axis(node, 2):
        return None
    remap, ids = _split_remap(ids)
    column = None if ids is None else trace_column(ids)
    lookup = None if column is None else EmbeddingLookup(node, table, column, remap)
    return None if lookup is None or (lookup.ids.through_float and lookup.id_limit > EXACT_IN_FLOAT) else lookup


def _split_remap(ids: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the remap that computes `ids`, if any, and its operand; a remap is a constant vector of rows."""
    node = find_producer(ids, "Gather")
    if node is None or get_rank(node.inputs[0]) != 1 or get_constant_array(node.inputs[0]) is None:
        return None, ids
    return node.inputs[0], node.inputs[1]


def find_lookup_runs(graph: ir.Graph) -> Iterator[LookupRun]:
    """Yield the runs of every Concat whose operands are contiguous in the memory of a row."""
    for node in find_nodes(graph, "Concat"):
        if not concatenates_rows(node):
            continue
        current: list[EmbeddingLookup] = []
        for position, value in enumerate((*node.inputs, None)):
            lookup = match_lookup(value)
            lookup = lookup if lookup is not None and is_only_looked_up(lookup.table) else None
            if current and (lookup is None or lookup.kind != current[0].kind):
                yield LookupRun(node, position - len(current), tuple(current))
                current = []
            if lookup is not None:
                current.append(lookup)


def concatenates_rows(node: ir.Node) -> bool:
    """Return whether each operand of a Concat is one contiguous block in the memory of a row."""
    shape = get_dims(node.outputs[0])
    axis = 0 if shape is None else get_axis(node, len(shape))
    return shape is not None and axis > 0 and all(size == 1 for size in shape[1:axis])


def is_only_looked_up(table: ir.Value) -> bool:
    """Return whether only lookups of rows read a table: another consumer would need a copy."""
    return not table.is_graph_output() and all(
        use.node.op_type == "Gather" and use.idx == 0 and get_axis(use.node, 2) == 0 for use in table.uses()
    )


def _drop_unit_axes(sizes: Sequence[Dim] | None) -> list[Dim] | None:
    """Return a shape without axes of size 1, except for the batch."""
    return [sizes[0], *(size for size in sizes[1:] if size != 1)] if sizes else None
