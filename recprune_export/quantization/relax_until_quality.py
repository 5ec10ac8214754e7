"""The gate: quantise less until quality holds, the weights that do most harm first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from recprune_export.quantization.quality_loss import QualityLoss
from recprune_export.quantization.quantization_plan import (
    FP32,
    QuantizationPlan,
    WeightChoice,
)


class PlanEvaluator(Protocol):
    """What a graph quantised by a plan loses, and how far its answers are off (`relative_error`)."""

    def loss(self, plan: QuantizationPlan) -> QualityLoss: ...

    def error(self, plan: QuantizationPlan) -> float: ...


@dataclass(frozen=True)
class RelaxedPlan:
    """A plan that loses no more than it may, what it loses, and what had to be taken back, in sentences."""

    plan: QuantizationPlan
    loss: QualityLoss
    relaxations: tuple[str, ...]


def relax_until_quality(
    plan: QuantizationPlan, evaluator: PlanEvaluator, increase_bits: Callable[[WeightChoice], WeightChoice]
) -> RelaxedPlan:
    """Give more bits to one weight after the other until the loss is allowed; with all in fp32 it is.

    The next is always the one whose form alone puts the answers off most. `increase_bits` makes the next choice for a weight.
    """
    plan = measure_errors(plan, evaluator)
    taken_back: list[str] = []
    loss = evaluator.loss(plan)
    while not loss.passed and not plan.is_empty:
        worst = max((c for c in plan.choices if c.is_quantized), key=lambda c: (c.error or 0.0, c.name))
        new = increase_bits(worst)
        taken_back.append(f"'{worst.name}' went from {worst.form} to {new.form}: {loss.metric} lost {loss.lost:.2g}")
        plan = plan.with_choice(new)
        if new.is_quantized:
            plan = plan.with_choice(replace(new, error=evaluator.error(_alone(plan, new))))
        loss = evaluator.loss(plan)
    return RelaxedPlan(plan, loss, tuple(taken_back))


def measure_errors(plan: QuantizationPlan, evaluator: PlanEvaluator) -> QuantizationPlan:
    """Return the plan with the error of each form by itself."""
    for choice in plan.choices:
        if choice.is_quantized:
            plan = plan.with_choice(replace(choice, error=evaluator.error(_alone(plan, choice))))
    return plan


def _alone(plan: QuantizationPlan, kept: WeightChoice) -> QuantizationPlan:
    """The plan in which only one weight is quantised."""
    for choice in plan.choices:
        if choice.name != kept.name:
            plan = plan.with_choice(replace(choice, form=FP32))
    return plan
