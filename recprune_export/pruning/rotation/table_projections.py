"""Per-table projections: a matrix after the lookup of each large table, so that its width does not depend on other tables.

Fields that are combined in inner products, sums or elementwise products have to keep the same dimensions of their
tables, as many as the most demanding of them needs. An identity matrix after the lookup separates a table from the
others: it may be transformed by any invertible matrix and truncated to a separate width, together with the matrix (mixed dimensions with
projections: Ginart et al. 2021, "Mixed dimension embeddings", section 3). Tables that the same ids look up (the weights and the vectors
of a factorization machine, the two tables of a NeuMF) are joined first, because they contain overlapping information.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.inserted_parameters import JOINED_TABLE, TABLE_PROJECTION
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.pruning.pruning_constants import MAX_PER_TABLE_PROJECTIONS, MIN_ROWS_PER_DIMENSION

aten = torch.ops.aten


@dataclass(frozen=True)
class PerTableProjection:
    """Lookups by the same ids, by the names of their nodes; their tables are joined, and share one matrix."""

    lookups: tuple[str, ...]


@dataclass(frozen=True)
class _SingleLookup:
    """A lookup in a table, rows × dim, that no other node reads."""

    node: fx.Node
    table: str
    rows: int
    dim: int
    padding: int


def find_per_table_projections(program: Program) -> tuple[PerTableProjection, ...]:
    """Return the projections whose matrices are small compared with their tables, those of the largest tables first."""
    groups: dict[object, list[_SingleLookup]] = {}
    numbering = _ValueNumbering()
    for lookup in _single_lookups(program):
        key = (numbering.key(argument(lookup.node, "indices")), lookup.rows, lookup.padding)
        groups.setdefault(key, []).append(lookup)
    candidates = [group for group in groups.values() if _is_worthwhile(group)]
    candidates.sort(key=lambda group: -group[0].rows * sum(lookup.dim for lookup in group))
    largest = candidates[:MAX_PER_TABLE_PROJECTIONS]
    return tuple(PerTableProjection(tuple(lookup.node.name for lookup in group)) for group in largest)


def insert_per_table_projections(program: Program, projections: Sequence[PerTableProjection]) -> Program:
    """Return a program with the outputs of `program` and an identity matrix after the lookups of each projection.

    Raises `PruningError` if the projections were made for another program.
    """
    if not projections:
        return program
    nodes = {node.name: node for node in program.module.graph.nodes}
    unknown = next((name for projection in projections for name in projection.lookups if name not in nodes), None)
    if unknown is not None:
        raise PruningError(f"The plan names a lookup '{unknown}', which this model does not have: make a new plan.")
    projection_by_lookup = {name: projection for projection in projections for name in projection.lookups}
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    tensors: dict[str, Tensor] = {}
    projected: dict[PerTableProjection, fx.Node] = {}
    for node in program.module.graph.nodes:
        projection = projection_by_lookup.get(node.name)
        if projection is None:
            new[node] = graph.node_copy(node, new.__getitem__)
            if node.op == "get_attr":
                tensors[str(node.target)] = tensor_at(program.module, str(node.target))
            continue
        lookups = [nodes[name] for name in projection.lookups]
        if projection not in projected:  # at the first lookup in graph order, whose operands are written already
            projected[projection] = _project(graph, program, lookups, new[argument(node, "indices")], tensors)
        new[node] = _slice_lookup(graph, projected[projection], lookups, node)
    graph.eliminate_dead_code()
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return Program.from_graph(graph, {name: t for name, t in tensors.items() if name in read}, program.signature)


def find_equal_groups(program: Program, other: Program) -> frozenset[str]:
    """Return the groups of `program` that have the same channels in `other`, which computes the same function."""
    slices = {group.name: [channel.slices for channel in group.channels] for group in program.analysis.groups}
    return frozenset(
        group.name
        for group in other.analysis.groups
        if slices.get(group.name) == [channel.slices for channel in group.channels]
    )


def _project(
    graph: fx.Graph, program: Program, lookups: Sequence[fx.Node], ids: fx.Node, tensors: dict[str, Tensor]
) -> fx.Node:
    """Write a lookup in the joined table, and a product with an identity matrix."""
    first = lookups[0]
    names = [str(argument(node, "weight").target) for node in lookups]
    weights = [tensor_at(program.module, name) for name in names]
    width = sum(weight.shape[1] for weight in weights)
    name = names[0]
    if len(names) > 1:
        name = f"{JOINED_TABLE}{first.name}"
        with torch.no_grad():
            tensors[name] = torch.nn.Parameter(torch.cat(weights, dim=1), requires_grad=weights[0].requires_grad)
    else:
        tensors[name] = weights[0]
    tensors[f"{TABLE_PROJECTION}{first.name}"] = torch.nn.Parameter(torch.eye(width, dtype=weights[0].dtype))
    rows = graph.call_function(aten.embedding.default, (graph.get_attr(name), ids, *first.args[2:]), first.kwargs)
    return graph.call_function(aten.linear.default, (rows, graph.get_attr(f"{TABLE_PROJECTION}{first.name}")))


def _slice_lookup(graph: fx.Graph, projected: fx.Node, lookups: Sequence[fx.Node], lookup: fx.Node) -> fx.Node:
    """Return the columns of the projected value that replace one lookup."""
    if len(lookups) == 1:
        return projected
    widths = [int(node.meta["val"].shape[-1]) for node in lookups]
    before = sum(widths[: lookups.index(lookup)])
    end = before + widths[lookups.index(lookup)]
    return graph.call_function(aten.slice.Tensor, (projected, lookup.meta["val"].ndim - 1, before, end))


def _is_worthwhile(lookups: Sequence[_SingleLookup]) -> bool:
    """Return whether the matrix is small compared with the tables, and no matrix follows the lookup already."""
    width = sum(lookup.dim for lookup in lookups)
    projected = len(lookups) == 1 and all(_is_matrix(reader) for reader in lookups[0].node.users)
    return width > 1 and lookups[0].rows >= MIN_ROWS_PER_DIMENSION * width and not projected


def _is_matrix(reader: fx.Node) -> bool:
    weight = argument(reader, "weight") if reader.target is aten.linear.default else None
    return isinstance(weight, fx.Node) and weight.op == "get_attr"


def _single_lookups(program: Program) -> Iterator[_SingleLookup]:
    readers: dict[str, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in program.analysis.tables:
            readers.setdefault(str(node.target), []).extend(node.users)
    for name, users in readers.items():
        (node, *other_readers) = users
        if other_readers or node.target is not aten.embedding.default:
            continue
        rows, dim = tensor_at(program.module, name).shape
        padding = argument(node, "padding_idx")
        yield _SingleLookup(node, name, rows, dim, -1 if padding is None else int(padding))


class _ValueNumbering:
    """Keys of nodes, equal for the same operators on the same values, because captured code repeats computations."""

    def __init__(self) -> None:
        self._keys: dict[fx.Node, str] = {}
        self._numbers: dict[str, int] = {}

    def key(self, node: fx.Node) -> str:
        if node not in self._keys:
            reads = fx.node.map_arg((node.args, tuple(sorted(node.kwargs.items()))), self.key)
            expression = f"{node.op} {node.target} {reads}"
            self._keys[node] = f"%{self._numbers.setdefault(expression, len(self._numbers))}"
        return self._keys[node]
