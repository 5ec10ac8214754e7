"""Budgets of parameters, and plans that meet them in tables and in other layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.allocate import ParameterLimit, allocate_widths
from recprune_export.pruning.allocation.group_plans import make_group_plan
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.pruning_constants import (
    LANES,
    MAX_ZEROS,
    REST_STRUCTURED_FRACTION,
    TABLE_STRUCTURED_FRACTION,
)

AllocationStrategy = Literal["loss", "uniform"]


@dataclass(frozen=True)
class Budget:
    """The target sparsity: the fraction of the dense parameters to remove, in tables and in other layers. `table_structured_fraction` and
    `rest_structured_fraction` are the fractions, in log space, that removal of channels contributes at first; zeros contribute the
    remainder.

    In tables zeros cost little, because most rows are rare; in other layers they do not make the model faster. Hidden widths of at least
    twice `width_multiple` are multiples of it. With `keep_tables` no table loses dimensions to make the layers after it smaller.
    """

    tables: float
    rest: float
    table_structured_fraction: float = TABLE_STRUCTURED_FRACTION
    rest_structured_fraction: float = REST_STRUCTURED_FRACTION
    width_multiple: int = LANES
    keep_tables: bool = False

    def limits(self, dense: ParameterCounts) -> dict[str, ParameterLimit]:
        """Return the numbers of parameters in tables and in other layers after channels are removed, by the kind of group."""
        return {
            "embedding": _limit(self.tables, self.table_structured_fraction, dense.tables),
            "hidden": _limit(self.rest, self.rest_structured_fraction, dense.rest),
        }

    def width(self, kind: str, target: int, full: int) -> int:
        """Return `target`, rounded down to a multiple of `width_multiple` for wide hidden groups."""
        in_blocks = kind == "hidden" and self.width_multiple > 1 and self.width_multiple * 2 <= target < full
        return target - target % self.width_multiple if in_blocks else target


def _limit(sparsity: float, share: float, dense: float) -> ParameterLimit:
    """Return (1 - S) ** share of the dense parameters as the target.

    The maximum allows one channel more, where that is nearer to the target and zeros can compensate for it.
    """
    target = (1.0 - sparsity) ** share * dense
    maximum = (1.0 - sparsity) / (1.0 - MAX_ZEROS) * dense if share < 1.0 else target
    return ParameterLimit(target, max(target, min(maximum, dense)))


def make_plan(
    program: Program,
    rankings: Mapping[str, Ranking],
    budget: Budget,
    score_name: str,
    strategy: AllocationStrategy = "loss",
    *,
    dense: ParameterCounts | None = None,
) -> Plan:
    """Make a plan that keeps the best channels of each group, as many as the budget allows.

    The widths of the embedding groups are set to meet the budget of tables, then those of the hidden groups to meet the budget of other
    layers. With `strategy` "loss", channels are removed in the order of loss per saved parameter; with "uniform", every group of a kind
    keeps the same fraction. `dense` are the sizes that sparsity refers to, by default those of `program`.
    """
    model = ParameterCounter(program)
    dense = dense or model.sizes()
    limits = budget.limits(dense)
    if strategy == "loss":
        widths = allocate_widths(program, model, rankings, limits, budget.width, keep_tables=budget.keep_tables)
    else:
        widths = _uniform_widths(program.analysis, rankings, model, budget, limits)
    plans = (make_group_plan(g, rankings[g.name], widths[g.name]) for g in program.analysis.groups)
    return Plan(score_name, tuple(plans))


def _uniform_widths(
    analysis: Analysis,
    rankings: Mapping[str, Ranking],
    model: ParameterCounter,
    budget: Budget,
    limits: Mapping[str, ParameterLimit],
) -> dict[str, int]:
    shares = {"embedding": 1.0, "hidden": 1.0}

    def width(group: Group, share: float) -> int:
        return budget.width(group.kind, max(1, round(share * group.width)), group.width)

    def removed(kind: str, share: float) -> frozenset[int]:
        candidate = {**shares, kind: share}
        return frozenset(
            group.channels[position].identity
            for group in analysis.groups
            for position in rankings[group.name].order[width(group, candidate[group.kind]) :]
        )

    def nearest(kind: str, size: Callable[[ParameterCounts], float]) -> float:
        limit = limits[kind]

        def at(share: float) -> float:
            return size(model.sizes(removed(kind, share)))

        def fits(maximum: float, share: float) -> bool:
            return at(share) <= maximum

        lower, upper = (_largest_share(partial(fits, maximum)) for maximum in (limit.target, limit.maximum))
        return upper if limit.is_closer(at(upper), at(lower)) and at(upper) <= limit.maximum else lower

    shares["embedding"] = nearest("embedding", lambda sizes: sizes.tables)
    shares["hidden"] = nearest("hidden", lambda sizes: sizes.rest)
    return {group.name: width(group, shares[group.kind]) for group in analysis.groups}


def _largest_share(fits: Callable[[float], bool]) -> float:
    """Return the largest share that fits, by bisection; zero where none fits."""
    steps = 256  # resolution of the search for a common share of all widths
    low, high = 0, steps
    if fits(1.0):
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle / steps):
            low = middle
        else:
            high = middle
    return low / steps
