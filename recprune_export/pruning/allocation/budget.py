"""How wide each group stays, so that tables and the rest each meet their share of the sparsity asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.allocate import ParameterLimit, allocate_widths
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.plan import GroupPlan, Plan

# ONNX Runtime's matrix product works on blocks of 16 columns and pays for a whole block where 1 is used:
# 256 × 87 × 144 takes 66 µs, × 155 takes 73, as much as × 160 (1.32, AVX-512, one thread).
LANES = 16
TABLE_STRUCTURED_FRACTION, REST_STRUCTURED_FRACTION = 0.8, 0.95
MOST_ZEROS = 1 / 3  # of what removal leaves, where one channel more or less is that much
STEPS = 256  # resolution at which a common share of all widths is searched

AllocationStrategy = Literal["loss", "uniform"]


@dataclass(frozen=True)
class Budget:
    """The sparsity asked for: the fraction of the dense parameters that is gone, in tables and in the rest.

    `table_structured_fraction` and `rest_structured_fraction` are the parts, in log space, that removal of channels takes, at first; zeros take the
    remainder: in tables they cost little, for most rows are rare; in the rest nothing runs faster for them. Hidden
    widths of twice `width_multiple` and more end on a multiple of it. With `keep_tables` no table loses dimensions in order to
    make the layers behind it smaller.
    """

    tables: float
    rest: float
    table_structured_fraction: float = TABLE_STRUCTURED_FRACTION
    rest_structured_fraction: float = REST_STRUCTURED_FRACTION
    width_multiple: int = LANES
    keep_tables: bool = False

    def limits(self, dense: ParameterCounts) -> dict[str, ParameterLimit]:
        """Return how many parameters stay in tables and in the rest after channels are removed, by the kind of group."""
        return {
            "embedding": _limit(self.tables, self.table_structured_fraction, dense.tables),
            "hidden": _limit(self.rest, self.rest_structured_fraction, dense.rest),
        }

    def width(self, kind: str, target: int, full: int) -> int:
        """Return the nearest width not above the wanted one that layers like."""
        in_blocks = kind == "hidden" and self.width_multiple > 1 and self.width_multiple * 2 <= target < full
        return target - target % self.width_multiple if in_blocks else target


def _limit(sparsity: float, share: float, dense: float) -> ParameterLimit:
    """(1 - S) ** share of the dense parameters.

    Channels are whole: one more may stay where that is nearer to what is wanted and zeros can make up for it.
    """
    wanted = (1.0 - sparsity) ** share * dense
    made_up = (1.0 - sparsity) / (1.0 - MOST_ZEROS) * dense if share < 1.0 else wanted
    return ParameterLimit(wanted, max(wanted, min(made_up, dense)))


def make_plan(
    program: Program,
    rankings: Mapping[str, Ranking],
    budget: Budget,
    score_name: str,
    strategy: AllocationStrategy = "loss",
    *,
    dense: ParameterCounts | None = None,
) -> Plan:
    """Keep the best channels of each group, as many as the budget allows.

    The tables meet their budget by the widths of the embedding groups, then the rest meets its own by the hidden ones.
    With `strategy` "loss" channels go where least is lost for each parameter that is saved; with "uniform" every group of a
    kind keeps the same share. `dense` are the sizes that sparsity is a part of, if not those of `program`.
    """
    model = ParameterCounter(program)
    dense = dense or model.sizes()
    limits = budget.limits(dense)
    if strategy == "loss":
        widths = allocate_widths(program, rankings, limits, budget.width, keep_tables=budget.keep_tables)
    else:
        widths = _uniform_widths(program.analysis, rankings, model, budget, limits)
    parts = (
        GroupPlan(
            group=g.name,
            kind=g.kind,
            width=g.width,
            keep=tuple(sorted(rankings[g.name].order[: widths[g.name]])),
            transform=rankings[g.name].transform if widths[g.name] < g.width else None,
        )
        for g in program.analysis.groups
    )
    return Plan(score_name, tuple(parts))


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
        tried = {**shares, kind: share}
        return frozenset(
            group.channels[position].identity
            for group in analysis.groups
            for position in rankings[group.name].order[width(group, tried[group.kind]) :]
        )

    def nearest(kind: str, size: Callable[[ParameterCounts], float]) -> float:
        limit = limits[kind]

        def at(share: float) -> float:
            return size(model.sizes(removed(kind, share)))

        def fits(most: float, share: float) -> bool:
            return at(share) <= most

        below, above = (_largest_share(partial(fits, most)) for most in (limit.target, limit.maximum))
        return above if limit.is_closer(at(above), at(below)) and at(above) <= limit.maximum else below

    shares["embedding"] = nearest("embedding", lambda sizes: sizes.tables)
    shares["hidden"] = nearest("hidden", lambda sizes: sizes.rest)
    return {group.name: width(group, shares[group.kind]) for group in analysis.groups}


def _largest_share(fits: Callable[[float], bool]) -> float:
    """Bisect for the largest share that fits; the smallest of all where none does."""
    low, high = 0, STEPS
    if fits(1.0):
        return 1.0
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle / STEPS):
            low = middle
        else:
            high = middle
    return low / STEPS
