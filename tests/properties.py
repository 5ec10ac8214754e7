"""The property that holds the product up, for any module: masked equals pruned, whatever the plan."""

import random
from typing import Any

import torch
from torch import nn

from recprune_export.channels import Analysis
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import GroupPlan, ParameterCounter, Plan, apply_plan, check_soundness


def no_zeros(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value that is not special, so that no error hides behind a zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.3, 0.7)
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    return module.eval()


def random_plan(analysis: Analysis, seed: int) -> Plan:
    """Keep a random part of each group, at least one channel."""
    rng = random.Random(seed)
    parts = (
        GroupPlan(g.name, g.kind, g.width, tuple(sorted(rng.sample(range(g.width), rng.randint(1, g.width)))))
        for g in analysis.groups
    )
    return Plan("random", tuple(parts))


def half_plan(analysis: Analysis) -> Plan:
    """Keep the second half of each group."""
    parts = (GroupPlan(g.name, g.kind, g.width, tuple(range(g.width // 2, g.width))) for g in analysis.groups)
    return Plan("half", tuple(parts))


def check_any_plan(module: nn.Module, *args: Any, plans: int = 3) -> tuple[Program, Analysis]:
    """Assert that masked equals pruned, and that as much is gone as was planned; return what was analysed."""
    program = capture(no_zeros(module), args)
    analysis = program.analysis
    sizes = ParameterCounter(program)
    for plan in (half_plan(analysis), *(random_plan(analysis, seed) for seed in range(plans))):
        pruned = apply_plan(program, plan)
        soundness = check_soundness(program, plan, pruned)
        assert soundness.error <= soundness.tolerance
        expected = sizes.sizes(plan.removed(analysis))
        assert sum(p.numel() for p in pruned.parameters().values()) == expected.tables + expected.rest
    return program, analysis


def prunable(analysis: Analysis) -> set[tuple[str, int]]:
    """Return every (tensor, axis) that some group lies on."""
    return {axis for group in analysis.groups for axis in group.axes()}


def group_of(analysis: Analysis, tensor: str, axis: int) -> set[tuple[str, int]]:
    """Return all axes of the group that lies on (tensor, axis)."""
    (group,) = [g for g in analysis.groups if (tensor, axis) in g.axes()]
    return set(group.axes())


def reasons(analysis: Analysis, tensor: str, axis: int) -> str:
    """Return why an axis is frozen."""
    return "; ".join(f.reason.text for f in analysis.frozen if (f.tensor, f.axis) == (tensor, axis))


class Tower(nn.Module):
    """Linear, the operator under test, linear."""

    def __init__(self, operator: Any, width: int = 6, left: int | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.operator = operator
        self.last = nn.Linear(left or width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.operator(self.first(x)))  # type: ignore[no-any-return]
