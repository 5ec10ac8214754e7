"""One lookup for many fields.

A lookup costs ONNX Runtime half a microsecond to begin with, and joining what several of them found is another copy.
Criteo's 26 fields, joined: 39 µs at batch 1 and 66 at 32; in one table 8 and 28 (benchmarks/bench_rewrites.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx.graph import (
    add_initializer,
    copy_value_info,
    find_upstream_nodes,
    get_axis,
    get_constant_array,
    get_dims,
    get_rank,
)
from recprune_export.onnx.optimizer.columns import concat_columns
from recprune_export.onnx.optimizer.embedding_lookups import EmbeddingLookup, LookupRun, find_lookup_runs

FEWEST = 4  # lookups; the ids of fewer are joined in as many nodes as are saved


@dataclass(frozen=True)
class _Fused:
    """Lookups in one: what they find together, [batch, n, D]."""

    lookups: tuple[EmbeddingLookup, ...]
    combined: ir.Value

    def positions(self, run: LookupRun) -> list[int] | None:
        """Where the lookups of a run stand among these; None where one is missing."""
        place = {lookup.node: position for position, lookup in enumerate(self.lookups)}
        return [place[node] for node in run.nodes] if place.keys() >= set(run.nodes) else None


def fuse_tables(model: ir.Model) -> int:
    """Put tables of one width, whose rows are joined, into one table.

    Before: `Concat(…, Gather(T₁, i₁), …, Gather(Tₙ, iₙ), …)`, n at least `MIN_REQUESTS`, all Tₖ with D dimensions, each iₖ
    one id a row, the results side by side in the memory of a row. After: one table T, the rows of the Tₖ under each
    other; one matrix of ids [batch, n], cast once where they were cast one by one; and
    `Gather(T, Where(ids < rows, ids + offsets, rows of T))` in the place of the n operands. An id that is too large for
    its own table is refused, as before. Where rows are found by remaps, `Gather(Tₖ, Gather(rₖ, iₖ))`, these become one
    remap as well, the other fields' ids standing for themselves. Other joins of the same lookups, in any order, and what
    reads one of them by itself, pick from the result; lookups that are not joined, but read one of these tables, have the
    offset added to their ids.

    Returns the number of tables that were made.
    """
    graph = model.graph
    runs = list(find_lookup_runs(graph))
    fused = [_fuse(graph, lookups, f"tables_{number}") for number, lookups in enumerate(_chosen(runs))]
    if not fused:
        return 0
    by_join: dict[ir.Node, list[tuple[LookupRun, _Fused]]] = {}
    for run in runs:
        owner = next((f for f in fused if f.positions(run) is not None), None)
        if owner is not None:
            by_join.setdefault(run.join, []).append((run, owner))
    for node, parts in by_join.items():
        _rejoin(graph, node, parts)
    graph.sort()
    RemoveUnusedNodesPass()(model)  # what stood between a lookup and its join reads it no longer
    for each in fused:
        _pick_single(graph, each)
    graph.sort()
    return len(fused)


def _chosen(runs: Sequence[LookupRun]) -> list[tuple[EmbeddingLookup, ...]]:
    """The lookups that get a table of their own, the longest runs first: no table is put in two, no id waits for its row."""
    chosen: list[tuple[EmbeddingLookup, ...]] = []
    taken: set[ir.Value] = set()
    distinct = [tuple({lookup.node: lookup for lookup in run.lookups}.values()) for run in runs]
    for lookups in sorted(distinct, key=lambda lookups: -len(lookups)):
        tables, sources = {lookup.table for lookup in lookups}, {lookup.ids.source for lookup in lookups}
        if len(lookups) < FEWEST or tables & taken or len({source.dtype for source in sources}) != 1:
            continue
        if not find_upstream_nodes(sources) & {lookup.node for lookup in lookups}:
            chosen.append(lookups)
            taken |= tables
    return chosen


def _fuse(graph: ir.Graph, lookups: tuple[EmbeddingLookup, ...], name: str) -> _Fused:
    """Make the table and the lookup."""
    tables = {lookup.table: lookup.rows for lookup in lookups}
    starts = dict(zip(tables, np.cumsum([0, *tables.values()]).tolist(), strict=False))
    table = _stacked(graph, list(tables), sum(tables.values()), lookups[0].width, name)
    ids, nodes = concat_columns(graph, [lookup.ids for lookup in lookups], name)
    if lookups[0].ids.source.dtype != ir.DataType.INT64:
        nodes.append(ir.node("Cast", [ids], attributes={"to": ir.DataType.INT64.value}))
        ids = nodes[-1].outputs[0]
    remap, begins, end = _joint_remap(lookups, starts, sum(tables.values()))
    offsets = add_initializer(graph, f"{name}_offsets", np.array(begins))
    sizes = add_initializer(graph, f"{name}_rows", np.array([lookup.id_limit for lookup in lookups]))
    outside = add_initializer(graph, f"{name}_outside", np.array(end))
    moved, valid = ir.node("Add", [ids, offsets]), ir.node("Less", [ids, sizes])
    safe = ir.node("Where", [valid.outputs[0], moved.outputs[0], outside])
    nodes += [moved, valid, safe]
    if remap is not None:
        nodes.append(
            ir.node("Gather", [add_initializer(graph, f"{name}_remap", remap), safe.outputs[0]], attributes={"axis": 0})
        )
    gather = ir.node("Gather", [table, nodes[-1].outputs[0]], attributes={"axis": 0})
    batch = get_dims(lookups[0].node.outputs[0])
    found = gather.outputs[0]
    found.name, found.type = f"{name}_found", table.type
    found.shape = ir.Shape([batch[0] if batch else None, len(lookups), lookups[0].width])
    graph.insert_before(graph[0], [*nodes, gather])  # sorted when all is in place
    _redirect_others(graph, lookups, table, starts)
    return _Fused(lookups, found)


def _joint_remap(
    lookups: Sequence[EmbeddingLookup], starts: Mapping[ir.Value, int], rows: int
) -> tuple[np.ndarray | None, list[int], int]:
    """From ids to rows of the fused table; where the ids of each lookup begin in it, and where all end.

    None where no lookup has a remap: then ids are rows.
    """
    if all(lookup.remap is None for lookup in lookups):
        return None, [starts[lookup.table] for lookup in lookups], rows
    parts: dict[tuple[ir.Value, ir.Value | None], np.ndarray] = {}
    for lookup in lookups:
        own = get_constant_array(lookup.remap)
        moved = (np.arange(lookup.rows) if own is None else own) + starts[lookup.table]
        parts.setdefault((lookup.table, lookup.remap), moved.astype(np.int32))
    ends = np.cumsum([0, *(len(part) for part in parts.values())]).tolist()
    begin = dict(zip(parts, ends, strict=False))
    return np.concatenate(list(parts.values())), [begin[lookup.table, lookup.remap] for lookup in lookups], ends[-1]


def _stacked(graph: ir.Graph, tables: Sequence[ir.Value], rows: int, width: int, name: str) -> ir.Value:
    """One table under the other, put together when they are read: they are large, and the file needs them once."""
    parts = [table.const_value for table in tables]

    def stack() -> ir.TensorProtocol:
        return ir.tensor(np.concatenate([part.numpy() for part in parts if part is not None]))

    shape = ir.Shape([rows, width])
    tensor = ir.LazyTensor(stack, dtype=ir.DataType.FLOAT, shape=shape, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.register_initializer(value)
    return value


def _redirect_others(
    graph: ir.Graph, lookups: Sequence[EmbeddingLookup], fused: ir.Value, starts: Mapping[ir.Value, int]
) -> None:
    """Let lookups that are not joined, but read one of the tables, read the fused one."""
    joined = {lookup.node for lookup in lookups}
    for table, start in starts.items():
        for node in [use.node for use in table.uses() if use.node not in joined]:
            node.replace_input_with(0, fused)
            if start:
                node.replace_input_with(1, _moved(graph, node, start))


def _moved(graph: ir.Graph, node: ir.Node, start: int) -> ir.Value:
    """The ids of a lookup, moved to where its table begins."""
    ids = node.inputs[1]
    assert ids is not None
    new = [] if ids.dtype == ir.DataType.INT64 else [ir.node("Cast", [ids], attributes={"to": ir.DataType.INT64.value})]
    offset = add_initializer(graph, f"{node.outputs[0].name}_offset", np.array(start))
    new.append(ir.node("Add", [new[-1].outputs[0] if new else ids, offset]))
    new[-1].outputs[0].shape, new[-1].outputs[0].type = ids.shape, ir.TensorType(ir.DataType.INT64)
    graph.insert_before(node, new)
    return new[-1].outputs[0]


def _rejoin(graph: ir.Graph, node: ir.Node, parts: Sequence[tuple[LookupRun, _Fused]]) -> None:
    """Give a join what was found together in the place of the operands that were found one by one."""
    result, operands = node.outputs[0], list(node.inputs)
    new: list[ir.Node] = []
    for run, owner in sorted(parts, key=lambda part: -part[0].first):
        made = _block(graph, run, owner, new)
        operands[run.first : run.first + len(run.lookups)] = [made]
    if len(operands) > 1:
        shape = get_dims(result)
        assert shape is not None
        new.append(ir.node("Concat", operands, attributes={"axis": get_axis(node, len(shape))}))
    elif not new:
        new.append(ir.node("Identity", operands))
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], [copy_value_info(new[-1], result)])


def _block(graph: ir.Graph, run: LookupRun, owner: _Fused, new: list[ir.Node]) -> ir.Value:
    """What the lookups of a run found, in the shape in which they are joined; its nodes are appended to `new`."""
    value, positions, count = owner.combined, owner.positions(run), len(run.lookups)
    assert positions is not None
    if positions != list(range(len(owner.lookups))):
        new.append(_picked(graph, value, positions))
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


def _picked(graph: ir.Graph, found: ir.Value, positions: Sequence[int]) -> ir.Node:
    """[batch, n, D] to [batch, len(positions), D]."""
    first, last = positions[0], positions[-1]
    if list(positions) != list(range(first, last + 1)):
        index = add_initializer(graph, f"{found.name}_fields", np.array(positions))
        return ir.node("Gather", [found, index], attributes={"axis": 1})
    bounds = {"from": first, "to": last + 1, "axis": 1}
    return ir.node(
        "Slice", [found, *(add_initializer(graph, f"{found.name}_{w}", np.array([n])) for w, n in bounds.items())]
    )


def _pick_single(graph: ir.Graph, fused: _Fused) -> None:
    """Pick out of what was found together whatever is read by itself as well."""
    for position, lookup in enumerate(fused.lookups):
        result = lookup.node.outputs[0]
        if lookup.node.graph is None:
            continue
        index = np.array(position) if get_rank(result) == 2 else np.array([position])
        pick = ir.node(
            "Gather", [fused.combined, add_initializer(graph, f"{result.name}_field", index)], attributes={"axis": 1}
        )
        ir.convenience.replace_nodes_and_values(
            graph, lookup.node, [lookup.node], [pick], [result], [copy_value_info(pick, result)]
        )
