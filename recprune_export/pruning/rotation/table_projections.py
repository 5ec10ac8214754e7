"""Give long tables spaces of their own: a matrix behind the lookup, so that each keeps the dimensions that it needs.

Fields that meet in inner products, sums or elementwise products have to keep the same dimensions of their tables, as many
as the most demanding of them needs. Behind an identity matrix a table ends: it may be transformed by any invertible
matrix, and truncated to a width of its own, and the matrix with it (mixed dimensions with projections: Ginart et al. 2021,
"Mixed dimension embeddings", section 3). Tables that the same ids look up (the weights of a factorisation machine beside its
vectors, the two of a NeuMF) become one first, for what they say of an id overlaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program

aten = torch.ops.aten

MAX_PER_TABLE_PROJECTIONS = 8  # the largest tables; each matrix costs a node of its own in serving
MIN_ROWS_PER_DIMENSION = 8  # rows for each dimension, from which a matrix is small beside the table
JOINED = "joined_"
PREFIX = "space_"


@dataclass(frozen=True)
class PerTableProjection:
    """Lookups by the same ids, by the names of their nodes: their tables become one, with one matrix behind it."""

    lookups: tuple[str, ...]


@dataclass(frozen=True)
class _SingleLookup:
    """A lookup in a table, rows × dim, that nothing else reads."""

    node: fx.Node
    table: str
    rows: int
    dim: int
    padding: int


def find_per_table_projections(program: Program) -> tuple[PerTableProjection, ...]:
    """Return the spaces that pay for their matrices, those of the largest tables first."""
    together: dict[object, list[_SingleLookup]] = {}
    same = _ValueNumbering()
    for lookup in _single_lookups(program):
        key = (same.key(argument(lookup.node, "indices")), lookup.rows, lookup.padding)
        together.setdefault(key, []).append(lookup)
    worth = [own for own in together.values() if _pays(own)]
    largest = sorted(worth, key=lambda own: -own[0].rows * sum(one.dim for one in own))[:MAX_PER_TABLE_PROJECTIONS]
    return tuple(PerTableProjection(tuple(one.node.name for one in own)) for own in largest)


def insert_per_table_projections(program: Program, projections: Sequence[PerTableProjection]) -> Program:
    """Return a program that answers as `program` does, with an identity matrix behind the lookups of each space.

    Raises `PruningError` where the spaces were found for another program.
    """
    if not projections:
        return program
    known = {node.name: node for node in program.module.graph.nodes}
    unknown = next((name for space in projections for name in space.lookups if name not in known), None)
    if unknown is not None:
        raise PruningError(f"The plan speaks of a lookup '{unknown}', which this model does not have: make a new plan.")
    space_of = {name: space for space in projections for name in space.lookups}
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    tensors: dict[str, Tensor] = {}
    projected: dict[PerTableProjection, fx.Node] = {}
    for node in program.module.graph.nodes:
        space = space_of.get(node.name)
        if space is None:
            new[node] = graph.node_copy(node, new.__getitem__)
            if node.op == "get_attr":
                tensors[str(node.target)] = tensor_at(program.module, str(node.target))
            continue
        own = [known[name] for name in space.lookups]
        if space not in projected:  # the first lookup, in the order of the graph: what it reads is there
            projected[space] = _project(graph, program, own, new[argument(node, "indices")], tensors)
        new[node] = _slice_lookup(graph, projected[space], own, node)
    graph.eliminate_dead_code()
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return Program.from_graph(graph, {name: t for name, t in tensors.items() if name in read}, program.signature)


def _project(
    graph: fx.Graph, program: Program, lookups: Sequence[fx.Node], ids: fx.Node, tensors: dict[str, Tensor]
) -> fx.Node:
    """Look up in one table, and multiply with an identity matrix."""
    first = lookups[0]
    names = [str(argument(node, "weight").target) for node in lookups]
    weights = [tensor_at(program.module, name) for name in names]
    width = sum(weight.shape[1] for weight in weights)
    name = names[0]
    if len(names) > 1:
        name = f"{JOINED}{first.name}"
        with torch.no_grad():
            tensors[name] = torch.nn.Parameter(torch.cat(weights, dim=1), requires_grad=weights[0].requires_grad)
    else:
        tensors[name] = weights[0]
    tensors[f"{PREFIX}{first.name}"] = torch.nn.Parameter(torch.eye(width, dtype=weights[0].dtype))
    found = graph.call_function(aten.embedding.default, (graph.get_attr(name), ids, *first.args[2:]), first.kwargs)
    return graph.call_function(aten.linear.default, (found, graph.get_attr(f"{PREFIX}{first.name}")))


def _slice_lookup(graph: fx.Graph, projected: fx.Node, lookups: Sequence[fx.Node], wanted: fx.Node) -> fx.Node:
    """The columns of what was projected that take the place of one lookup."""
    if len(lookups) == 1:
        return projected
    widths = [int(node.meta["val"].shape[-1]) for node in lookups]
    before = sum(widths[: lookups.index(wanted)])
    end = before + widths[lookups.index(wanted)]
    return graph.call_function(aten.slice.Tensor, (projected, wanted.meta["val"].ndim - 1, before, end))


def _pays(lookups: Sequence[_SingleLookup]) -> bool:
    """Whether the matrix is small beside the tables and does what nothing else does."""
    width = sum(one.dim for one in lookups)
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
        (node, *others) = users
        if others or node.target is not aten.embedding.default:
            continue
        rows, dim = tensor_at(program.module, name).shape
        padding = argument(node, "padding_idx")
        yield _SingleLookup(node, name, rows, dim, -1 if padding is None else int(padding))


class _ValueNumbering:
    """Keys of nodes that are equal where the same operators read the same values: captured code repeats itself."""

    def __init__(self) -> None:
        self._keys: dict[fx.Node, str] = {}
        self._numbers: dict[str, int] = {}

    def key(self, node: fx.Node) -> str:
        if node not in self._keys:
            reads = fx.node.map_arg((node.args, tuple(sorted(node.kwargs.items()))), self.key)
            said = f"{node.op} {node.target} {reads}"
            self._keys[node] = f"%{self._numbers.setdefault(said, len(self._numbers))}"
        return self._keys[node]
