"""The gate: quantise less until quality holds, the weights that do most harm first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from recprune_export.quantization.quality_loss import Loss
from recprune_export.quantization.quantization_plan import (
    PLAIN,
    Choice,
    QuantisationPlan,
)


class Trial(Protocol):
    """What a graph quantised by a plan loses, and how far its answers are off (`relative_error`)."""

    def loss(self, plan: QuantisationPlan) -> Loss: ...

    def error(self, plan: QuantisationPlan) -> float: ...


@dataclass(frozen=True)
class Settled:
    """A plan that loses no more than it may, what it loses, and what had to be taken back, in sentences."""

    plan: QuantisationPlan
    loss: Loss
    taken_back: tuple[str, ...]


def settle(plan: QuantisationPlan, trial: Trial, more_bits: Callable[[Choice], Choice]) -> Settled:
    """Give more bits to one weight after the other until the loss is allowed; with all in fp32 it is.

    The next is always the one whose form alone puts the answers off most. `more_bits` makes the next choice for a weight.
    """
    plan = with_errors(plan, trial)
    taken_back: list[str] = []
    loss = trial.loss(plan)
    while not loss.passed and not plan.is_empty:
        worst = max((c for c in plan.choices if c.is_quantised), key=lambda c: (c.error or 0.0, c.name))
        new = more_bits(worst)
        taken_back.append(f"'{worst.name}' went from {worst.form} to {new.form}: {loss.metric} lost {loss.lost:.2g}")
        plan = plan.with_choice(new)
        if new.is_quantised:
            plan = plan.with_choice(replace(new, error=trial.error(_alone(plan, new))))
        loss = trial.loss(plan)
    return Settled(plan, loss, tuple(taken_back))


def with_errors(plan: QuantisationPlan, trial: Trial) -> QuantisationPlan:
    """Return the plan with the error of each form by itself."""
    for choice in plan.choices:
        if choice.is_quantised:
            plan = plan.with_choice(replace(choice, error=trial.error(_alone(plan, choice))))
    return plan


def _alone(plan: QuantisationPlan, kept: Choice) -> QuantisationPlan:
    """The plan in which only one weight is quantised."""
    for choice in plan.choices:
        if choice.name != kept.name:
            plan = plan.with_choice(replace(choice, form=PLAIN))
    return plan
