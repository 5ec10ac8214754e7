"""Fusion of tables: one lookup for many fields.

The start of a lookup costs ONNX Runtime half a microsecond, and a Concat of several results is another copy. Criteo's 26
fields take 39 µs at batch 1 and 66 at 32 with a Concat; in one table 8 and 28 (benchmarks/bench_rewrites.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx.graph import (
    add_initializer,
    copy_bits,
    copy_value_info,
    find_upstream_nodes,
    get_axis,
    get_constant_array,
    get_dims,
    get_rank,
)
from recprune_export.onnx.input_guards import GuardedVector, get_guarded_limits, match_guarded_vector, share_number
from recprune_export.onnx.mapped_tensors import concatenate_tables
from recprune_export.onnx.optimizer.columns import concat_columns
from recprune_export.onnx.optimizer.embedding_lookups import EmbeddingLookup, LookupRun, find_lookup_runs
from recprune_export.onnx.optimizer.optimizer_constants import MIN_FUSED_TABLES


@dataclass(frozen=True)
class _Fused:
    """Lookups that were fused, and their `combined` result, [batch, n, D]."""

    lookups: tuple[EmbeddingLookup, ...]
    combined: ir.Value

    def positions(self, run: LookupRun) -> list[int] | None:
        """Return the positions of the lookups of a run; None if one is missing."""
        place = {lookup.node: position for position, lookup in enumerate(self.lookups)}
        return [place[node] for node in run.nodes] if place.keys() >= set(run.nodes) else None


def fuse_tables(model: ir.Model) -> int:
    """Fuse tables of one width whose rows are concatenated.

    Before: `Concat(…, Gather(T₁, i₁), …, Gather(Tₙ, iₙ), …)`, n at least `MIN_FUSED_TABLES`, all Tₖ with D dimensions and
    the same planned bits, each iₖ one id a row, the results contiguous in the memory of a row. After: one table T, the concatenated rows
    of the Tₖ; one matrix of ids [batch, n], with one cast; and `Gather(T, Where(ids < rows, ids + offsets, rows of T))` instead of the n
    operands. An id that is too large for its table is refused, as before. If the inputs are guarded (`input_guards.py`), that test is
    left out; guards that replace ids by 0 in vectors become one for the matrix [n, batch], `Transpose(Add(Where(Less(Clip(ids, 0), rows),
    Clip(ids, 0), 0), offsets))`. Remaps, `Gather(Tₖ, Gather(rₖ, iₖ))`, become one remap as well, with the identity for fields without
    one. Other Concats of the same lookups, in any order, and consumers of a single one select from the result; other lookups in these
    tables have the offset added to their ids.

    Returns the number of fused tables.
    """
    graph = model.graph
    runs = list(find_lookup_runs(graph))
    fused = [_fuse(graph, lookups, f"tables_{number}") for number, lookups in enumerate(_choose_lookups(runs))]
    if not fused:
        return 0
    runs_by_concat: dict[ir.Node, list[tuple[LookupRun, _Fused]]] = {}
    for run in runs:
        fusion = next((f for f in fused if f.positions(run) is not None), None)
        if fusion is not None:
            runs_by_concat.setdefault(run.join, []).append((run, fusion))
    for node, fused_runs in runs_by_concat.items():
        _replace_concat_operands(graph, node, fused_runs)
    graph.sort()
    RemoveUnusedNodesPass()(model)  # removes unused views between a lookup and its Concat
    for fused_lookups in fused:
        _replace_single_lookups(graph, fused_lookups)
    graph.sort()
    return len(fused)


def _choose_lookups(runs: Sequence[LookupRun]) -> list[tuple[EmbeddingLookup, ...]]:
    """Return groups of lookups to fuse, the longest first: no table is in two groups, no id depends on its own lookups."""
    chosen: list[tuple[EmbeddingLookup, ...]] = []
    used_tables: set[ir.Value] = set()
    distinct = [tuple({lookup.node: lookup for lookup in run.lookups}.values()) for run in runs]
    for lookups in sorted(distinct, key=lambda lookups: -len(lookups)):
        tables, sources = {lookup.table for lookup in lookups}, {lookup.ids.source for lookup in lookups}
        if len(lookups) < MIN_FUSED_TABLES or tables & used_tables or len({source.dtype for source in sources}) != 1:
            continue
        if not find_upstream_nodes(sources) & {lookup.node for lookup in lookups}:
            chosen.append(lookups)
            used_tables |= tables
    return chosen


def _fuse(graph: ir.Graph, lookups: tuple[EmbeddingLookup, ...], name: str) -> _Fused:
    """Make the fused table and its lookup."""
    tables = {lookup.table: lookup.rows for lookup in lookups}
    starts = dict(zip(tables, np.cumsum([0, *tables.values()]).tolist(), strict=False))
    table = copy_bits(lookups[0].table, concatenate_tables(graph, name, list(tables), axis=0))
    remap, begins, end = _merge_remaps(lookups, starts, sum(tables.values()))
    guards = [match_guarded_vector(lookup.ids.source) if lookup.ids.index is None else None for lookup in lookups]
    vectors = [guard for guard in guards if guard is not None]
    if len(vectors) == len(lookups) and all(g.limit <= x.id_limit for g, x in zip(vectors, lookups, strict=True)):
        nodes = _guard_fields(graph, vectors, begins, name)
    else:
        nodes = _shift_rows(graph, lookups, begins, end, name)
    if remap is not None:
        remap_value = add_initializer(graph, f"{name}_remap", remap)
        nodes.append(ir.node("Gather", [remap_value, nodes[-1].outputs[0]], attributes={"axis": 0}))
    gather = ir.node("Gather", [table, nodes[-1].outputs[0]], attributes={"axis": 0})
    batch = get_dims(lookups[0].node.outputs[0])
    combined = gather.outputs[0]
    combined.name, combined.type = f"{name}_found", table.type
    combined.shape = ir.Shape([batch[0] if batch else None, len(lookups), lookups[0].width])
    graph.insert_before(graph[0], [*nodes, gather])  # sorted when all is in place
    _redirect_lookups(graph, lookups, table, starts)
    return _Fused(lookups, combined)


def _shift_rows(
    graph: ir.Graph, lookups: Sequence[EmbeddingLookup], begins: Sequence[int], end: int, name: str
) -> list[ir.Node]:
    """Return the nodes that compute rows of the fused table, [batch, n]; ids too large for their table become `end`."""
    ids, nodes = concat_columns(graph, [lookup.ids for lookup in lookups], name)
    if lookups[0].ids.source.dtype != ir.DataType.INT64:
        nodes.append(ir.node("Cast", [ids], attributes={"to": ir.DataType.INT64.value}))
        ids = nodes[-1].outputs[0]
    shifted = ir.node("Add", [ids, add_initializer(graph, f"{name}_offsets", np.array(begins))])
    nodes.append(shifted)
    if not all(_is_guarded(lookup) for lookup in lookups):
        limits = np.array([lookup.id_limit for lookup in lookups])
        sizes = add_initializer(graph, f"{name}_rows", share_number(limits))
        outside = add_initializer(graph, f"{name}_outside", np.array(end))
        valid = ir.node("Less", [ids, sizes])
        nodes += [valid, ir.node("Where", [valid.outputs[0], shifted.outputs[0], outside])]
    return nodes


def _guard_fields(graph: ir.Graph, vectors: Sequence[GuardedVector], begins: Sequence[int], name: str) -> list[ir.Node]:
    """Return the nodes that compute rows of the fused table, [batch, n]; ids out of range become 0 before.

    They work field by field: one number for all rows of a field is several times as fast as one for each column of a row.
    """
    joined = ir.node("Concat", [vector.source for vector in vectors], attributes={"axis": 0})
    sizes = add_initializer(graph, f"{name}_by_field", np.array([len(vectors), -1]))
    nodes = [joined, ir.node("Reshape", [joined.outputs[0], sizes])]
    if vectors[0].source.dtype != ir.DataType.INT64:
        nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], attributes={"to": ir.DataType.INT64.value}))
    zero = add_initializer(graph, f"{name}_unknown", np.array(0))
    limits = add_initializer(graph, f"{name}_rows", np.array([[vector.limit] for vector in vectors]))
    offsets = add_initializer(graph, f"{name}_offsets", np.array([[begin] for begin in begins]))
    raised = ir.node("Clip", [nodes[-1].outputs[0], zero])
    valid = ir.node("Less", [raised.outputs[0], limits])
    safe = ir.node("Where", [valid.outputs[0], raised.outputs[0], zero])
    shifted = ir.node("Add", [safe.outputs[0], offsets])
    return [
        *nodes,
        raised,
        valid,
        safe,
        shifted,
        ir.node("Transpose", [shifted.outputs[0]], attributes={"perm": [1, 0]}),
    ]


def _is_guarded(lookup: EmbeddingLookup) -> bool:
    """Return whether a guard keeps all ids of a lookup within its table."""
    limits = get_guarded_limits(lookup.ids.source)
    if limits is None:
        return False
    limit = limits if limits.ndim == 0 else limits[lookup.ids.index or 0]
    return bool(limit <= lookup.id_limit)


def _merge_remaps(
    lookups: Sequence[EmbeddingLookup], starts: Mapping[ir.Value, int], rows: int
) -> tuple[np.ndarray | None, list[int], int]:
    """Return the remap from ids to rows of the fused table, the offset of the ids of each lookup, and the number of ids.

    The remap is None if no lookup has one: then ids are rows.
    """
    if all(lookup.remap is None for lookup in lookups):
        return None, [starts[lookup.table] for lookup in lookups], rows
    shifted_remaps: dict[tuple[ir.Value, ir.Value | None], np.ndarray] = {}
    for lookup in lookups:
        remap_rows = get_constant_array(lookup.remap)
        shifted = (np.arange(lookup.rows) if remap_rows is None else remap_rows) + starts[lookup.table]
        shifted_remaps.setdefault((lookup.table, lookup.remap), shifted.astype(np.int32))
    ends = np.cumsum([0, *(len(remap) for remap in shifted_remaps.values())]).tolist()
    begin = dict(zip(shifted_remaps, ends, strict=False))
    return (
        np.concatenate(list(shifted_remaps.values())),
        [begin[lookup.table, lookup.remap] for lookup in lookups],
        ends[-1],
    )


def _redirect_lookups(
    graph: ir.Graph, lookups: Sequence[EmbeddingLookup], fused: ir.Value, starts: Mapping[ir.Value, int]
) -> None:
    """Redirect other lookups in one of the tables to the fused one."""
    fused_nodes = {lookup.node for lookup in lookups}
    for table, start in starts.items():
        for node in [use.node for use in table.uses() if use.node not in fused_nodes]:
            node.replace_input_with(0, fused)
            if start:
                node.replace_input_with(1, _shift_ids(graph, node, start))


def _shift_ids(graph: ir.Graph, node: ir.Node, start: int) -> ir.Value:
    """Return the ids of a lookup plus the first row of its table in the fused one."""
    ids = node.inputs[1]
    assert ids is not None
    new = [] if ids.dtype == ir.DataType.INT64 else [ir.node("Cast", [ids], attributes={"to": ir.DataType.INT64.value})]
    offset = add_initializer(graph, f"{node.outputs[0].name}_offset", np.array(start))
    new.append(ir.node("Add", [new[-1].outputs[0] if new else ids, offset]))
    new[-1].outputs[0].shape, new[-1].outputs[0].type = ids.shape, ir.TensorType(ir.DataType.INT64)
    graph.insert_before(node, new)
    return new[-1].outputs[0]


def _replace_concat_operands(graph: ir.Graph, node: ir.Node, fused_runs: Sequence[tuple[LookupRun, _Fused]]) -> None:
    """Replace the operands of a Concat that are lookups by blocks of the fused result."""
    result, operands = node.outputs[0], list(node.inputs)
    new: list[ir.Node] = []
    for run, fused in sorted(fused_runs, key=lambda fused_run: -fused_run[0].first):
        block = _make_block(graph, run, fused, new)
        operands[run.first : run.first + len(run.lookups)] = [block]
    if len(operands) > 1:
        shape = get_dims(result)
        assert shape is not None
        new.append(ir.node("Concat", operands, attributes={"axis": get_axis(node, len(shape))}))
    elif not new:
        new.append(ir.node("Identity", operands))
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], [copy_value_info(new[-1], result)])


def _make_block(graph: ir.Graph, run: LookupRun, fused: _Fused, new: list[ir.Node]) -> ir.Value:
    """Return the rows of a run in the shape of the Concat's operands; the nodes are appended to `new`."""
    value, positions, count = fused.combined, fused.positions(run), len(run.lookups)
    assert positions is not None
    if positions != list(range(len(fused.lookups))):
        new.append(_select_fields(graph, value, positions))
        value = new[-1].outputs[0]
    shape = get_dims(run.join.inputs[run.first])
    assert shape is not None
    shape[get_axis(run.join, len(shape))] *= count
    if shape[1:] != [count, run.lookups[0].width]:
        new.append(
            ir.node("Reshape", [value, add_initializer(graph, f"{value.name}_joined", np.array([-1, *shape[1:]]))])
        )
        value = new[-1].outputs[0]
        value.shape, value.type = ir.Shape(shape), run.join.outputs[0].type
    return value


def _select_fields(graph: ir.Graph, combined: ir.Value, positions: Sequence[int]) -> ir.Node:
    """Select fields from [batch, n, D]; the result is [batch, len(positions), D]."""
    first, last = positions[0], positions[-1]
    if list(positions) != list(range(first, last + 1)):
        index = add_initializer(graph, f"{combined.name}_fields", np.array(positions))
        return ir.node("Gather", [combined, index], attributes={"axis": 1})
    bounds = {"from": first, "to": last + 1, "axis": 1}
    return ir.node(
        "Slice",
        [
            combined,
            *(add_initializer(graph, f"{combined.name}_{label}", np.array([bound])) for label, bound in bounds.items()),
        ],
    )


def _replace_single_lookups(graph: ir.Graph, fused: _Fused) -> None:
    """Replace lookups that are also read outside a Concat by selections from the fused result."""
    for position, lookup in enumerate(fused.lookups):
        result = lookup.node.outputs[0]
        if lookup.node.graph is None:
            continue
        index = np.array(position) if get_rank(result) == 2 else np.array([position])
        selection = ir.node(
            "Gather", [fused.combined, add_initializer(graph, f"{result.name}_field", index)], attributes={"axis": 1}
        )
        ir.convenience.replace_nodes_and_values(
            graph, lookup.node, [lookup.node], [selection], [result], [copy_value_info(selection, result)]
        )
