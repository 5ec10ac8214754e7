"""Candidates for a plan with a byte limit: a program with projections, and the choices of its widths and bits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.budget import Budget
from recprune_export.pruning.allocation.group_plans import make_group_plan
from recprune_export.pruning.allocation.rate_distortion import Allocation, RateDistortion
from recprune_export.pruning.allocation.request_time import DEFAULT_ROWS, RequestTime
from recprune_export.pruning.allocation.table_options import (
    GroupOptions,
    choose_widths,
    find_controlled_tables,
    is_narrowed,
    make_group_options,
    make_table_options,
)
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.rounding_loss import (
    predict_layer_losses,
    predict_table_losses,
    predict_whole_table_losses,
)
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.registry import rank_channels
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.pruning_constants import (
    HIDDEN_LOSS_AFTER_TUNING,
    MULTIPLIED_DIMENSIONS_LOSS_AFTER_TUNING,
    MULTIPLIED_ROUNDING_LOSS_AFTER_TUNING,
    ROUNDING_LOSS_AFTER_TUNING,
)
from recprune_export.pruning.rotation.eligibility import RotatableGroup, find_rotatable_groups
from recprune_export.pruning.rotation.projections import ProjectedProgram, project_tables
from recprune_export.pruning.rotation.table_projections import (
    find_equal_groups,
    find_per_table_projections,
    insert_per_table_projections,
)
from recprune_export.pruning.statistics.read_counts import count_reads
from recprune_export.pruning.statistics.weight_reads import TableReads, WeightReads, gather_weight_reads

READ_BATCHES = 4  # for the statistics of weights


@dataclass(frozen=True)
class RemainingLoss:
    """The fractions of predicted losses that remain after fine-tuning, relative to removed embedding dimensions.

    Fine-tuning recovers much of the loss of removed hidden units and of rounding. If all rows of a table are multiplied, as for scores of
    items, each row has a gradient in each step: then removed dimensions also cost less, and rounding hardly less. Without tuning all are
    1.
    """

    hidden: float = 1.0
    rounding: float = 1.0
    multiplied_dimensions: float = 1.0
    multiplied_rounding: float = 1.0

    def get_rounding(self, reads: TableReads) -> float:
        """Return the fraction of the rounding loss of a table that remains."""
        return self.multiplied_rounding if reads.is_multiplied else self.rounding

    def get_removal(self, tables: Sequence[TableReads]) -> float:
        """Return the fraction of the removal loss that remains, for dimensions of tables or, without tables, for hidden units."""
        if not tables:
            return self.hidden
        return self.multiplied_dimensions if any(reads.is_multiplied for reads in tables) else 1.0


UNTUNED = RemainingLoss()
TUNED = RemainingLoss(
    HIDDEN_LOSS_AFTER_TUNING,
    ROUNDING_LOSS_AFTER_TUNING,
    MULTIPLIED_DIMENSIONS_LOSS_AFTER_TUNING,
    MULTIPLIED_ROUNDING_LOSS_AFTER_TUNING,
)


@dataclass(frozen=True)
class Candidate:
    """A projected program with its rankings, and the choices of its widths and bits."""

    projected: ProjectedProgram
    rankings: Mapping[str, Ranking]
    rotatable: Mapping[str, RotatableGroup]
    choices: RateDistortion

    def make_plan(self, allocation: Allocation) -> Plan:
        """Return the plan of an allocation, without storage."""
        groups = (
            make_group_plan(g, self.rankings[g.name], allocation.widths[g.name], turned=g.name in allocation.turned)
            for g in self.projected.program.analysis.groups
        )
        return Plan(OUTPUT_ERROR, tuple(groups), self.projected.projection_plan)


def make_candidates(
    program: Program,
    inputs: ScoreInputs,
    width_multiple: int,
    remaining: RemainingLoss = TUNED,
    rows: int = DEFAULT_ROWS,
) -> list[Candidate]:
    """Return the choices for the program with the projections that are always made, and with an additional one for each table.

    Times are predicted for a request of `rows` rows.

    Time: that of the rankings by output error, and a forward and backward pass on `READ_BATCHES` batches, for each candidate.
    """
    projected = project_tables(program)
    candidates = [_make_candidate(projected, inputs, width_multiple, remaining, rows)]
    projections = find_per_table_projections(projected.program)
    if projections:
        per_table = ProjectedProgram(
            replace(projected.projection_plan, per_table_projections=projections),
            insert_per_table_projections(projected.program, projections),
        )
        equal = find_equal_groups(projected.program, per_table.program)
        computed = {name: ranking for name, ranking in candidates[0].rankings.items() if name in equal}
        candidates.append(
            _make_candidate(per_table, replace(inputs, computed=computed), width_multiple, remaining, rows)
        )
    return candidates


def _make_candidate(
    projected: ProjectedProgram, inputs: ScoreInputs, width_multiple: int, remaining: RemainingLoss, rows: int
) -> Candidate:
    program = projected.program
    rankings = rank_channels(OUTPUT_ERROR, replace(inputs, program=program))
    reads = gather_weight_reads(program, inputs.batches[:READ_BATCHES], inputs.probe, inputs.seed)
    rotatable = find_rotatable_groups(program).rotatable
    budget = Budget(0.0, 0.0, width_multiple=width_multiple)
    time = RequestTime(count_reads(program, inputs.batches[0][0]), rows)
    groups = [
        _make_group_options(
            program, group, rankings[group.name], rotatable.get(group.name), reads, budget, remaining, time
        )
        for group in program.analysis.groups
    ]
    tables = _make_options_of_whole_tables(program, reads, remaining, time)
    layers = {
        name: {bits: loss * remaining.rounding for bits, loss in losses.items()}
        for name, losses in predict_layer_losses(program, reads.layers).items()
    }
    return Candidate(projected, rankings, rotatable, RateDistortion(program, [*groups, *tables], layers, time))


def _make_group_options(
    program: Program,
    group: Group,
    ranking: Ranking,
    rotatable: RotatableGroup | None,
    reads: WeightReads,
    budget: Budget,
    remaining: RemainingLoss,
    time: RequestTime,
) -> GroupOptions:
    tables = [name for name in find_controlled_tables(program, group) if name in reads.tables]
    widths = choose_widths(group.width, partial(budget.width, group.kind, full=group.width), has_tables=bool(tables))
    roundings = [
        predict_table_losses(group, name, reads.tables[name], ranking, rotatable, widths).scaled(
            remaining.get_rounding(reads.tables[name])
        )
        for name in tables
    ]
    removal = ranking.scaled(remaining.get_removal([reads.tables[name] for name in tables]))
    return make_group_options(program, group, removal, widths, roundings, time)


def _make_options_of_whole_tables(
    program: Program, reads: WeightReads, remaining: RemainingLoss, time: RequestTime
) -> Iterator[GroupOptions]:
    """Yield the options of tables whose dimensions cannot be removed: their bits."""
    for name, table_reads in reads.tables.items():
        if not is_narrowed(program, name):
            rounding = predict_whole_table_losses(name, table_reads).scaled(remaining.get_rounding(table_reads))
            yield make_table_options(program, rounding, time)
