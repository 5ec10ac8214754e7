"""Projections that make groups rotatable: identity matrices where values leave or enter the rotated region of the graph.

The axis of a table may be vector-like except on one branch: the bottom MLP of a DLRM ends in a ReLU, the stream of a
transformer begins with a LayerNorm. An identity matrix on that edge changes no output, and ends the table's group there:
the group can be rotated and truncated, and the matrix with it (the projections of a factorized embedding: Lan et al.
2020, "ALBERT", section 3.1; those between the blocks of SliceGPT). Where no dimension of a table can be removed, because
its rows are sorted, transformed or returned, the projection follows the lookup.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group, slice_positions
from recprune_export.codec import DictMixin, json_name
from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.inserted_parameters import PROJECTION
from recprune_export.program.program import Program
from recprune_export.program.row_chunks import row_chunks
from recprune_export.program.streamed_tables.streamed_table import StreamedTable
from recprune_export.pruning.pruning_constants import MAX_PROJECTIONS_PER_GROUP, MIN_ROWS_PER_DIMENSION
from recprune_export.pruning.rotation.eligibility import find_rotatable_groups
from recprune_export.pruning.rotation.rotation_walk import RotationWalk
from recprune_export.pruning.rotation.table_projections import (
    PerTableProjection,
    insert_per_table_projections,
)

aten = torch.ops.aten


@dataclass(frozen=True)
class Projection:
    """An identity matrix on the edges from `source` to `readers`, along `axis` of the value, of size `width`."""

    source: str
    axis: int
    width: int
    readers: tuple[str, ...]


@dataclass(frozen=True)
class ProjectionPlan(DictMixin):
    """The rewrites of a program before channels are rotated; they change no output.

    `projections` are inserted first; then the weights that multiply the channels of each group in `diagonals` are folded
    into a factor; then each of `per_table_projections` is inserted after the lookups of its tables.
    """

    projections: tuple[Projection, ...] = field(default=(), metadata=json_name("cuts"))
    diagonals: tuple[str, ...] = ()
    per_table_projections: tuple[PerTableProjection, ...] = field(default=(), metadata=json_name("spaces"))

    def __bool__(self) -> bool:
        return bool(self.projections or self.diagonals or self.per_table_projections)


NO_PROJECTIONS = ProjectionPlan()


@dataclass(frozen=True)
class ProjectedProgram:
    """A program whose tables can be rotated, and the rewrites that made them so."""

    projection_plan: ProjectionPlan
    program: Program


def plan_projections(program: Program) -> ProjectionPlan:
    """Return the rewrites after which more groups of tables can be rotated."""
    return project_tables(program).projection_plan


def project_tables(program: Program) -> ProjectedProgram:
    """Rewrite a program so that more groups of tables can be rotated."""
    projections, projected = _project(program)
    diagonals = tuple(find_rotatable_groups(projected).diagonals)
    return ProjectedProgram(ProjectionPlan(projections, diagonals), fold_diagonals(projected, diagonals))


def insert_projections(program: Program, plan: ProjectionPlan) -> Program:
    """Return a program with the outputs of `program` and the rewrites of `plan`; unchanged parameters are shared.

    Raises `PruningError` if the plan was made for another program.
    """
    names = {node.name for node in program.module.graph.nodes}
    unknown = next((p.source for p in plan.projections if not {p.source, *p.readers} <= names), None)
    if unknown is not None:
        raise PruningError(
            f"The plan inserts a projection at '{unknown}', which this model does not have: make a plan for this model."
        )
    rotatable = fold_diagonals(insert_identity_layers(program, plan.projections), plan.diagonals)
    return insert_per_table_projections(rotatable, plan.per_table_projections)


def find_projections(program: Program) -> tuple[Projection, ...]:
    """Return the projections after which more tables can be rotated; a group or table without benefit gets none.

    The walks are linear in the graph; each group that only a projection makes rotatable costs one more program.
    """
    return _project(program)[0]


class _Insertions:
    """A cache of programs with inserted projections, because the same projections are often needed again."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._programs: dict[tuple[Projection, ...], Program] = {}

    def insert(self, projections: Sequence[Projection]) -> Program:
        if tuple(projections) not in self._programs:
            self._programs[tuple(projections)] = insert_identity_layers(self._program, projections)
        return self._programs[tuple(projections)]


def _project(program: Program) -> tuple[tuple[Projection, ...], Program]:
    """Return the projections, and the program with them.

    The candidates of all groups are tried in one program, and only those that do not work there again one by one, so that most
    programs are analyzed once more, not once for each group.
    """
    analysis, insertions = program.analysis, _Insertions(program)
    projections = _projections_of_frozen_tables(program, insertions)
    rotatable = find_rotatable_groups(program).rotatable
    wide, tight = (_ProjectionWalk(program, at_once) for at_once in (False, True))
    for node in program.module.graph.nodes:
        wide.visit(node)
        tight.visit(node)
    choices: list[tuple[Group, list[list[Projection]]]] = []
    for number, group in enumerate(analysis.groups):
        if group.kind != "embedding" or group.name in rotatable:
            continue
        rows = sum(len(tensor_at(program.module, t)) for t, axis in group.axes() if t in analysis.tables and axis == 1)
        small = [
            candidates
            for candidates in (tracing.projections(number, group.width) for tracing in (wide, tight))
            if 0 < len(candidates) <= MAX_PROJECTIONS_PER_GROUP
            and rows >= MIN_ROWS_PER_DIMENSION * group.width * len(candidates)
        ]
        if small:
            choices.append((group, small))
    first = tuple(dict.fromkeys(p for _, (candidates, *_) in choices for p in candidates))
    together = _rotatable_axes(insertions.insert(first)) if len(choices) > 1 else set()
    for group, small in choices:
        if _table_axes(analysis, group) <= together:
            projections += small[0]
            continue
        for candidates in small:
            if _table_axes(analysis, group) <= _rotatable_axes(insertions.insert(candidates)):
                projections += candidates
                break
    distinct = tuple(dict.fromkeys(projections))
    return distinct, insertions.insert(distinct)


def _projections_of_frozen_tables(program: Program, insertions: _Insertions) -> list[Projection]:
    """Return a projection for each lookup in a table without removable dimensions, if it makes the table rotatable."""
    analysis = program.analysis
    grouped = {axis for group in analysis.groups for axis in group.axes()}
    readers: dict[str, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in analysis.tables and (str(node.target), 1) not in grouped:
            readers.setdefault(str(node.target), []).extend(node.users)
    candidates = {
        name: projections
        for name, lookups in readers.items()
        if (projections := _lookup_projections(program, name, lookups))
    }
    if not candidates:
        return []
    rotatable = _rotatable_axes(insertions.insert([p for projections in candidates.values() for p in projections]))
    return [p for name, projections in candidates.items() if (name, 1) in rotatable for p in projections]


def _lookup_projections(program: Program, table: str, lookups: Sequence[fx.Node]) -> list[Projection]:
    """Return a projection after each lookup in a table, rows × dim, that only lookups read and that is large enough."""
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
    """Return a program with identity matrices on the edges of `projections`; other parameters are shared with `program`."""
    if not projections:
        return program
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    through: dict[tuple[str, str], fx.Node] = {}
    by_source: dict[str, list[Projection]] = defaultdict(list)
    for projection in projections:
        by_source[projection.source].append(projection)
    tensors: dict[str, Tensor] = {}
    for node in program.module.graph.nodes:
        read = {source: through.get((source.name, node.name), new[source]) for source in node.all_input_nodes}
        new[node] = graph.node_copy(node, read.__getitem__)
        if node.op == "get_attr":
            tensors[str(node.target)] = tensor_at(program.module, str(node.target))
        for projection in by_source.get(node.name, ()):
            weight = f"{PROJECTION}{node.name}"
            tensors[weight] = torch.nn.Parameter(torch.eye(projection.width, dtype=node.meta["val"].dtype))
            value = new[node]
            last = node.meta["val"].ndim - 1
            matrix = graph.get_attr(weight)
            if projection.axis != last:
                value = graph.call_function(aten.transpose.int, (value, projection.axis, last))
            value = graph.call_function(aten.linear.default, (value, matrix))
            if projection.axis != last:
                value = graph.call_function(aten.transpose.int, (value, projection.axis, last))
            through |= {(node.name, reader): value for reader in projection.readers}
    return Program.from_graph(graph, tensors, program.signature)


def _table_axes(analysis: Analysis, group: Group) -> set[tuple[str, int]]:
    """Return the axes of a group that are dimensions of tables."""
    return {(tensor, axis) for tensor, axis in group.axes() if tensor in analysis.tables and axis == 1}


def _rotatable_axes(program: Program) -> set[tuple[str, int]]:
    rotatable = find_rotatable_groups(program).rotatable
    return {axis for group in program.analysis.groups if group.name in rotatable for axis in group.axes()}


def fold_diagonals(program: Program, groups: Sequence[str]) -> Program:
    """Return a program in which the weights of each elementwise product are folded into one of its factors.

    Tensors without such weights are shared with `program`. Memory: the changed tensors once, and a chunk of rows.

    Raises `PruningError` for a group that has no such weights.
    """
    if not groups:
        return program
    diagonals = find_rotatable_groups(program).diagonals
    parameters = program.parameters()
    copies: dict[str, Tensor] = {}

    def copy_once(name: str) -> Tensor:
        if name not in copies:
            original = parameters[name]
            copies[name] = torch.nn.Parameter(original.detach().clone(), original.requires_grad)
        return copies[name]

    for name in groups:
        if name not in diagonals:
            raise PruningError(
                f"The plan moves the weights of '{name}', which has no weights: make a plan for this model."
            )
        diagonal, group = diagonals[name], program.analysis.group(name)
        with torch.no_grad():
            row = copy_once(diagonal.weight).movedim(diagonal.axis, -1)
            (indices,) = slice_positions(group, diagonal.weight, diagonal.axis)
            factors = row[..., indices].reshape(-1).clone()
            for tensor, axis in diagonal.scaled:
                scaled = copy_once(tensor)
                if isinstance(scaled, StreamedTable):
                    copies[tensor] = _scale_streamed(scaled, axis, slice_positions(group, tensor, axis), factors)
                    continue
                for rows in row_chunks(scaled) if axis else (...,):
                    view = scaled[rows].movedim(axis, -1)
                    for positions in slice_positions(group, tensor, axis):
                        view[..., positions] = view[..., positions] * factors
            row[..., indices] = 1.0
    return program.with_tensors(copies)


def _scale_streamed(table: StreamedTable, axis: int, positions: Tensor, factors: Tensor) -> torch.nn.Parameter:
    """Return a streamed table with each copy of the channels multiplied by `factors`."""
    if axis != 1:
        raise PruningError(f"The rows of '{table.rows.name}' cannot be scaled: the table is larger than memory.")
    rows = table.rows.multiply_columns(positions, torch.diag(factors.double()))
    return torch.nn.Parameter(StreamedTable(rows), table.requires_grad)


class _ProjectionWalk(RotationWalk):
    """A walk that records the edges between the rotated region, which begins at tables, and the rest of the graph.

    It adds two forms to those of `RotationWalk`: a *free* value, such as a layer's output, can be rotated or not; a
    *foreign* one cannot. With `at_once` the rotated region ends at the lookup; otherwise it is as large as possible.
    """

    def __init__(self, program: Program, at_once: bool) -> None:
        super().__init__(program)
        self._at_once = at_once
        self._tables = program.analysis.tables
        self._edges: dict[int, dict[fx.Node, list[fx.Node]]] = {}

    def projections(self, group: int, width: int) -> list[Projection]:
        """Return the projections of a group, or none where a value has other channels on the same axis."""
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
                self._add_edge(group, node, reader)

    def follow_operands(self, node: fx.Node, group: int, sources: Iterable[fx.Node]) -> None:
        carriers = list(sources)
        forms = {self.form(source, group) or "foreign" for source in carriers}
        if not carriers or ("quadratic" in forms and len(forms) > 1):
            return self.rule_out(group, node, "")
        if "vector" in forms:
            for source in carriers:
                if self.form(source, group) == "foreign":
                    self._add_edge(group, source, node)
        strongest = next(f for f in ("quadratic", "uniform", "vector", "foreign", "free") if f in forms)
        self.forms[node, group] = strongest
        return None

    def contract_values(self, node: fx.Node, group: int, first: fx.Node, second: fx.Node) -> None:
        forms = (self.form(first, group) or "foreign", self.form(second, group) or "foreign")
        if not set(forms) <= {"vector", "free", "foreign"}:
            return self.rule_out(group, node, "")
        if "vector" in forms:
            for form, source in zip(forms, (first, second), strict=True):
                if form == "foreign":
                    self._add_edge(group, source, node)
        return None

    def weight_channels(self, node: fx.Node, group: int, weight: fx.Node, tensor: Tensor) -> None:
        return None  # diagonals are found in the program with the projections

    def rule_out(self, group: int, node: fx.Node, reason: str) -> None:
        for source in node.all_input_nodes:
            if self.carries(source, group) and self.form(source, group) == "vector" and source.op != "get_attr":
                self._add_edge(group, source, node)
        if self.carries(node, group):
            self.forms[node, group] = "foreign"

    def _add_edge(self, group: int, source: fx.Node, reader: fx.Node) -> None:
        self._edges.setdefault(group, {}).setdefault(source, []).append(reader)
