"""Loosen what stands in the way of a rotation: an identity matrix where values leave or enter the rotated part.

The axis of a table may be vector-like but for one branch: the bottom MLP of a DLRM ends in a ReLU, the stream of a
transformer begins with a LayerNorm. An identity matrix on that edge changes nothing, and afterwards the table's group
ends there: it can be rotated and truncated, and the matrix with it (the projections of a factorised embedding: Lan et
al. 2020, "ALBERT", section 3.1; those between the blocks of SliceGPT). Where nothing of a table can go as it is, for its
rows are sorted, transformed or returned, it ends where it was looked up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from recprune_export.channels.groups import slice_positions
from recprune_export.codec import DictMixin, json_name
from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program
from recprune_export.pruning.rotation.eligibility import find_rotatable_groups
from recprune_export.pruning.rotation.rotation_walk import RotationWalk
from recprune_export.pruning.rotation.table_projections import (
    MIN_ROWS_PER_DIMENSION,
    PerTableProjection,
    insert_per_table_projections,
)

aten = torch.ops.aten

MAX_PROJECTIONS_PER_GROUP = 2  # on the way of one group; more would cost in serving what the tables save
PREFIX = "projection_"


@dataclass(frozen=True)
class Projection:
    """An identity matrix on the edges from `source` to `readers`, along `axis` of the value, of size `width`."""

    source: str
    axis: int
    width: int
    readers: tuple[str, ...]


@dataclass(frozen=True)
class ProjectionPlan(DictMixin):
    """What is done to a program before channels are rotated; it changes no answer.

    `projections` are made first; then the weights that multiply the channels of each group in `diagonals` move into a factor;
    then the tables of `per_table_projections` each get one of their own.
    """

    projections: tuple[Projection, ...] = field(default=(), metadata=json_name("cuts"))
    diagonals: tuple[str, ...] = ()
    per_table_projections: tuple[PerTableProjection, ...] = field(default=(), metadata=json_name("spaces"))

    def __bool__(self) -> bool:
        return bool(self.projections or self.diagonals or self.per_table_projections)


NO_PROJECTIONS = ProjectionPlan()


@dataclass(frozen=True)
class ProjectedProgram:
    """A program whose tables can be rotated, and what was done for that."""

    projection_plan: ProjectionPlan
    program: Program


def plan_projections(program: Program) -> ProjectionPlan:
    """Return what has to be done so that more groups of tables can be rotated."""
    return project_tables(program).projection_plan


def project_tables(program: Program) -> ProjectedProgram:
    """Do what has to be done so that more groups of tables can be rotated."""
    cuts, cut = _cut(program)
    diagonals = tuple(find_rotatable_groups(cut).diagonals)
    return ProjectedProgram(ProjectionPlan(cuts, diagonals), fold_diagonals(cut, diagonals))


def insert_projections(program: Program, plan: ProjectionPlan) -> Program:
    """Return a program that answers as `program` does, its groups free to rotate; parameters are shared where unchanged.

    Raises `PruningError` where the loosening was found for another program.
    """
    names = {node.name for node in program.module.graph.nodes}
    unknown = next((cut.source for cut in plan.projections if not {cut.source, *cut.readers} <= names), None)
    if unknown is not None:
        raise PruningError(f"The plan cuts at '{unknown}', which this model does not have: make a plan for this model.")
    rotatable = fold_diagonals(insert_identity_layers(program, plan.projections), plan.diagonals)
    return insert_per_table_projections(rotatable, plan.per_table_projections)


def find_projections(program: Program) -> tuple[Projection, ...]:
    """Return the matrices after which more tables can be rotated; each group, or stuck table, pays for its own."""
    return _cut(program)[0]


class _Insertions:
    """Programs with matrices on edges of one: what was tried is often what is wanted."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: dict[tuple[Projection, ...], Program] = {}

    def insert(self, cuts: Sequence[Projection]) -> Program:
        if tuple(cuts) not in self._made:
            self._made[tuple(cuts)] = insert_identity_layers(self._program, cuts)
        return self._made[tuple(cuts)]


def _cut(program: Program) -> tuple[tuple[Projection, ...], Program]:
    """Find the matrices; return them, and the program with them."""
    analysis, insertions = program.analysis, _Insertions(program)
    stuck = _cuts_behind_stuck_tables(program, insertions)
    legal = find_rotatable_groups(program).rotatable
    wide, tight = (_ProjectionWalk(program, at_once) for at_once in (False, True))
    for node in program.module.graph.nodes:
        wide.visit(node)
        tight.visit(node)
    cuts = list(stuck)
    for number, group in enumerate(analysis.groups):
        if group.kind != "embedding" or group.name in legal:
            continue
        rows = sum(len(tensor_at(program.module, t)) for t, axis in group.axes() if t in analysis.tables and axis == 1)
        for tracing in (wide, tight):
            found = tracing.projections(number, group.width)
            small = 0 < len(found) <= MAX_PROJECTIONS_PER_GROUP and rows >= MIN_ROWS_PER_DIMENSION * group.width * len(
                found
            )
            if small and _frees(insertions.insert(found), group.axes()):
                cuts += found
                break
    distinct = tuple(dict.fromkeys(cuts))
    return distinct, insertions.insert(distinct)


def _cuts_behind_stuck_tables(program: Program, insertions: _Insertions) -> list[Projection]:
    """Return a matrix for each lookup in a table of which no dimension can go as it is, where that frees the table."""
    analysis = program.analysis
    grouped = {axis for group in analysis.groups for axis in group.axes()}
    readers: dict[str, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in analysis.tables and (str(node.target), 1) not in grouped:
            readers.setdefault(str(node.target), []).extend(node.users)
    wanted = {name: cuts for name, lookups in readers.items() if (cuts := _behind(program, name, lookups))}
    if not wanted:
        return []
    freed = _rotatable_axes(insertions.insert([cut for cuts in wanted.values() for cut in cuts]))
    return [cut for name, cuts in wanted.items() if (name, 1) in freed for cut in cuts]


def _behind(program: Program, table: str, lookups: Sequence[fx.Node]) -> list[Projection]:
    """A cut behind each lookup in a table, rows × dim, that is read by lookups alone and large beside the matrices."""
    shape = tensor_at(program.module, table).shape
    if (
        len(shape) != 2
        or shape[1] < 2
        or len(lookups) > MAX_PROJECTIONS_PER_GROUP
        or shape[0] < MIN_ROWS_PER_DIMENSION * shape[1] * len(lookups)
    ):
        return []
    if any(node.target is not aten.embedding.default or not node.users for node in lookups):
        return []
    return [
        Projection(n.name, n.meta["val"].ndim - 1, shape[1], tuple(reader.name for reader in n.users)) for n in lookups
    ]


def insert_identity_layers(program: Program, projections: Sequence[Projection]) -> Program:
    """Return a program with identity matrices on the edges of `projections`; it shares all other parameters with `program`."""
    if not projections:
        return program
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    through: dict[tuple[str, str], fx.Node] = {}
    tensors: dict[str, Tensor] = {}
    for node in program.module.graph.nodes:
        read = {source: through.get((source.name, node.name), new[source]) for source in node.all_input_nodes}
        new[node] = graph.node_copy(node, read.__getitem__)
        if node.op == "get_attr":
            tensors[str(node.target)] = tensor_at(program.module, str(node.target))
        for cut in (c for c in projections if c.source == node.name):
            weight = f"{PREFIX}{node.name}"
            tensors[weight] = torch.nn.Parameter(torch.eye(cut.width, dtype=node.meta["val"].dtype))
            value = new[node]
            last = node.meta["val"].ndim - 1
            matrix = graph.get_attr(weight)
            if cut.axis != last:
                value = graph.call_function(aten.transpose.int, (value, cut.axis, last))
            value = graph.call_function(aten.linear.default, (value, matrix))
            if cut.axis != last:
                value = graph.call_function(aten.transpose.int, (value, cut.axis, last))
            through |= {(node.name, reader): value for reader in cut.readers}
    return Program.from_graph(graph, tensors, program.signature)


def _frees(program: Program, axes: Iterable[tuple[str, int]]) -> bool:
    """Whether the tables among `axes` can be rotated now."""
    tables = program.analysis.tables
    return {(tensor, axis) for tensor, axis in axes if tensor in tables and axis == 1} <= _rotatable_axes(program)


def _rotatable_axes(program: Program) -> set[tuple[str, int]]:
    legal = find_rotatable_groups(program).rotatable
    return {own for group in program.analysis.groups if group.name in legal for own in group.axes()}


def fold_diagonals(program: Program, groups: Sequence[str]) -> Program:
    """Return a program in which the weights of each elementwise product are ones, and one of its factors is scaled.

    Raises `PruningError` for a group that has no such weights.
    """
    if not groups:
        return program
    diagonals = find_rotatable_groups(program).diagonals
    moved = program.with_copied_parameters()
    parameters = moved.parameters()
    for name in groups:
        if name not in diagonals:
            raise PruningError(f"The plan moves the weights of '{name}', which has none: make a plan for this model.")
        diagonal, group = diagonals[name], program.analysis.group(name)
        with torch.no_grad():
            row = parameters[diagonal.weight].movedim(diagonal.axis, -1)
            (own,) = slice_positions(group, diagonal.weight, diagonal.axis)
            factors = row[..., own].reshape(-1).clone()
            for tensor, axis in diagonal.scaled:
                view = parameters[tensor].movedim(axis, -1)
                for places in slice_positions(group, tensor, axis):
                    view[..., places] = view[..., places] * factors
            row[..., own] = 1.0
    return moved


class _ProjectionWalk(RotationWalk):
    """Notes where values change between the rotated part, which begins at tables, and the rest.

    Beside the forms of `RotationWalk`: *free* can be rotated or not, as a layer's output; *foreign* cannot. With `at_once`
    the rotated part ends where a table was looked up; without it goes as far as it can.
    """

    def __init__(self, program: Program, at_once: bool) -> None:
        super().__init__(program)
        self._at_once = at_once
        self._tables = program.analysis.tables
        self._edges: dict[int, dict[fx.Node, list[fx.Node]]] = {}

    def projections(self, group: int, width: int) -> list[Projection]:
        """Return what was found for a group; nothing where a value has channels of others on the same axis."""
        edges = self._edges.get(group, {})
        if any(source.meta["val"].shape[self.axes(source)[group]] != width for source in edges):
            return []
        return [
            Projection(source.name, self.axes(source)[group], width, tuple(dict.fromkeys(r.name for r in readers)))
            for source, readers in edges.items()
        ]

    def set_form(self, node: fx.Node, group: int, form: str) -> None:
        is_weight = node.op == "get_attr" and str(node.target) not in self._tables
        super().set_form(node, group, "free" if is_weight else form)

    def start_at_weight(self, node: fx.Node, group: int, weight: fx.Node) -> None:
        self.forms[node, group] = self.form(weight, group) or "foreign"
        if self._at_once and self.forms[node, group] == "vector":
            self.forms[node, group] = "foreign"
            for reader in node.users:
                self._cut(group, node, reader)

    def follow_operands(self, node: fx.Node, group: int, sources: Iterable[fx.Node]) -> None:
        carriers = list(sources)
        forms = {self.form(source, group) or "foreign" for source in carriers}
        if not carriers or ("quadratic" in forms and len(forms) > 1):
            return self.rule_out(group, node, "")
        if "vector" in forms:
            for source in carriers:
                if self.form(source, group) == "foreign":
                    self._cut(group, source, node)
        strongest = next(f for f in ("quadratic", "uniform", "vector", "foreign", "free") if f in forms)
        self.forms[node, group] = strongest
        return None

    def contract_values(self, node: fx.Node, group: int, first: fx.Node, second: fx.Node) -> None:
        forms = (self.form(first, group) or "foreign", self.form(second, group) or "foreign")
        if not set(forms) <= {"vector", "free", "foreign"}:
            return self.rule_out(group, node, "")
        if "vector" in forms:
            for own, source in zip(forms, (first, second), strict=True):
                if own == "foreign":
                    self._cut(group, source, node)
        return None

    def weight_channels(self, node: fx.Node, group: int, weight: fx.Node, tensor: Tensor) -> None:
        return None  # of what is left when no diagonal can be moved

    def rule_out(self, group: int, node: fx.Node, reason: str) -> None:
        for source in node.all_input_nodes:
            if self.carries(source, group) and self.form(source, group) == "vector" and source.op != "get_attr":
                self._cut(group, source, node)
        if self.carries(node, group):
            self.forms[node, group] = "foreign"

    def _cut(self, group: int, source: fx.Node, reader: fx.Node) -> None:
        self._edges.setdefault(group, {}).setdefault(source, []).append(reader)
