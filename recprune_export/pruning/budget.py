"""How much of each group stays, so that tables and the rest each meet their share of the sparsity asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.plan import GroupPlan, Plan
from recprune_export.pruning.sizes import SizeModel

# ONNX Runtime's matrix product works on blocks of 16 columns and pays for a whole block where 1 is used:
# 256 × 87 × 144 takes 66 µs, × 155 takes 73, as much as × 160 (1.32, AVX-512, one thread).
LANES = 16
STEPS = 256  # resolution at which a common share of all widths is searched


@dataclass(frozen=True)
class Budget:
    """The sparsity asked for: the fraction of the dense parameters that is gone, in tables and in the rest.

    `structured_share` is the part, in log space, that removal of channels takes; zeros take the remainder.
    """

    tables: float
    rest: float
    structured_share: float = 0.95

    def structured_keep(self, sparsity: float) -> float:
        """Return the fraction of parameters that stays after channels are removed: (1 - S) ** share."""
        return float((1.0 - sparsity) ** self.structured_share)


def make_plan(
    program: Program, analysis: Analysis, scores: Mapping[str, Tensor], budget: Budget, score_name: str
) -> Plan:
    """Keep the best channels of each group, the same share of every group of a kind.

    The share of the embedding groups is the largest with which the tables meet their budget; after that the share of
    the hidden groups is the largest with which the rest does. `scores[group]` has shape [width]; higher stays.
    """
    model = SizeModel(program, analysis)
    dense = model.sizes()
    ranked = {g.name: scores[g.name].argsort(descending=True, stable=True).tolist() for g in analysis.groups}

    def removed(shares: Mapping[str, float]) -> frozenset[int]:
        gone: set[int] = set()
        for group in analysis.groups:
            gone |= {group.channels[p].identity for p in ranked[group.name][_width(group, shares[group.kind]) :]}
        return frozenset(gone)

    shares = {"embedding": 1.0, "hidden": 1.0}
    tables = budget.structured_keep(budget.tables) * dense.tables
    shares["embedding"] = _largest_share(lambda s: model.sizes(removed({**shares, "embedding": s})).tables <= tables)
    rest = budget.structured_keep(budget.rest) * dense.rest
    shares["hidden"] = _largest_share(lambda s: model.sizes(removed({**shares, "hidden": s})).rest <= rest)
    parts = (
        GroupPlan(g.name, g.kind, g.width, tuple(sorted(ranked[g.name][: _width(g, shares[g.kind])])))
        for g in analysis.groups
    )
    return Plan(score_name, tuple(parts))


def _width(group: Group, share: float) -> int:
    """Widths of layers end on a multiple of `LANES` where that costs little."""
    width = max(1, round(share * group.width))
    in_blocks = group.kind == "hidden" and LANES * 2 <= width < group.width
    return width - width % LANES if in_blocks else width


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
