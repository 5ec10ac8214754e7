"""The quality gate: quantize fewer weights until the loss is allowed, those with the largest error first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from recprune_export.evidence import Verdict
from recprune_export.quantization.quality_loss import QualityLoss
from recprune_export.quantization.quantization_plan import (
    FP32,
    QuantizationPlan,
    WeightChoice,
)


class PlanEvaluator(Protocol):
    """Measures the loss of a graph quantized by a plan, and the `relative_error` of its outputs."""

    def loss(self, plan: QuantizationPlan) -> QualityLoss: ...

    def error(self, plan: QuantizationPlan) -> float: ...


@dataclass(frozen=True)
class RelaxedPlan:
    """A plan whose loss is allowed, that loss, and the relaxations that were needed, as sentences."""

    plan: QuantizationPlan
    loss: QualityLoss
    relaxations: tuple[str, ...]


def relax_until_quality(
    plan: QuantizationPlan, evaluator: PlanEvaluator, increase_bits: Callable[[WeightChoice], WeightChoice]
) -> RelaxedPlan:
    """Give more bits to one weight after the other until the loss is allowed, which is always the case with all weights in fp32.

    If the loss is inconclusive on these rows, the error of the outputs decides (docs/decisions/one-rule-of-evidence.md). The next weight
    is the one with the largest error by itself. `increase_bits` returns the next choice for a weight.
    """
    plan = measure_errors(plan, evaluator)
    relaxations: list[str] = []
    loss = _measure_loss(plan, evaluator)
    while not loss.passed and not plan.is_empty:
        worst = max((c for c in plan.choices if c.is_quantized), key=lambda c: (c.error or 0.0, c.name))
        new = increase_bits(worst)
        relaxations.append(f"'{worst.name}' went from {worst.form} to {new.form}: {_describe_loss(loss)}")
        plan = plan.with_choice(new)
        if new.is_quantized:
            plan = plan.with_choice(replace(new, error=evaluator.error(_quantize_alone(plan, new))))
        loss = _measure_loss(plan, evaluator)
    return RelaxedPlan(plan, loss, tuple(relaxations))


def judge_plan(plan: QuantizationPlan, evaluator: PlanEvaluator) -> RelaxedPlan:
    """Return the unchanged plan with its errors and its loss, allowed or not."""
    return RelaxedPlan(measure_errors(plan, evaluator), _measure_loss(plan, evaluator), ())


def _measure_loss(plan: QuantizationPlan, evaluator: PlanEvaluator) -> QualityLoss:
    loss = evaluator.loss(plan)
    return replace(loss, answers_error=evaluator.error(plan)) if loss.verdict is Verdict.UNDECIDED else loss


def _describe_loss(loss: QualityLoss) -> str:
    text = f"{loss.metric} lost {loss.lost:.2g}"
    if loss.answers_error is None:
        return text
    return f"{text}, which is inconclusive with these rows, and the error of the outputs was {loss.answers_error:.2%}"


def measure_errors(plan: QuantizationPlan, evaluator: PlanEvaluator) -> QuantizationPlan:
    """Return the plan with the error of each form by itself."""
    for choice in plan.choices:
        if choice.is_quantized:
            plan = plan.with_choice(replace(choice, error=evaluator.error(_quantize_alone(plan, choice))))
    return plan


def _quantize_alone(plan: QuantizationPlan, single: WeightChoice) -> QuantizationPlan:
    """Return the plan in which only one weight is quantized."""
    for choice in plan.choices:
        if choice.name != single.name:
            plan = plan.with_choice(replace(choice, form=FP32))
    return plan
