"""`make_group_plan`: the best channels of a group, and `renew_plan`: a plan for other weights of the same model."""

from collections.abc import Mapping
from dataclasses import replace

from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.rounding_loss import turn_matrix
from recprune_export.pruning.plan import GroupPlan, Plan
from recprune_export.pruning.rotation.transform import Transform


def make_group_plan(group: Group, ranking: Ranking, width: int, *, turned: bool = False) -> GroupPlan:
    """Return the plan that keeps the best `width` channels of a group.

    With `turned` the kept dimensions of a rotated group are multiplied by a random orthogonal matrix, since they are rounded.
    """
    transform = ranking.transform
    turned = turned and transform is not None
    if transform is not None and turned:
        matrix = transform.matrix.clone()
        matrix[:, :width] = matrix[:, :width] @ turn_matrix(width)
        transform = Transform(matrix)
    elif width == group.width:
        transform = None
    return GroupPlan(group.name, group.kind, group.width, tuple(sorted(ranking.order[:width])), transform, turned)


def renew_plan(plan: Plan, program: Program, rankings: Mapping[str, Ranking]) -> Plan:
    """Return the plan of one stage for other weights: fields, rows, widths and bits are kept, channels and rotations follow `rankings`.
    `program` has the new weights, in the form for which the plan was made: fields and rows removed, projections inserted.

    The same rankings give the same plan. Raises `PruningError` if the plan was made for another architecture.
    """
    plan.removed(program.analysis)
    groups = (
        make_group_plan(program.analysis.group(g.group), rankings[g.group], len(g.keep), turned=g.turned)
        for g in plan.groups
    )
    return replace(plan, groups=tuple(groups))
