"""The gate: weights get more bits until the loss is allowed."""

from dataclasses import dataclass, field, replace

from recprune_export.quantization.quality_loss import Loss
from recprune_export.quantization.quantization_plan import (
    BY_DIMENSION,
    MORE_BITS,
    PLAIN,
    STATIC,
    Choice,
    QuantisationPlan,
)
from recprune_export.quantization.relax_until_quality import settle

HARM = {"small": 0.1, "large": 1.0, "table": 0.5}
LESS = {BY_DIMENSION: 1.0, "int8 by row": 0.5, "fp16": 0.01, STATIC: 1.0}


@dataclass
class Additive:
    """Each weight does its own harm, less of it with more bits."""

    limit: float
    asked: list[QuantisationPlan] = field(default_factory=list)

    def error(self, plan: QuantisationPlan) -> float:
        return sum(HARM[choice.name] * LESS[choice.form] for choice in plan.choices if choice.is_quantised)

    def loss(self, plan: QuantisationPlan) -> Loss:
        self.asked.append(plan)
        return Loss("auc", self.error(plan), self.limit)


def plan() -> QuantisationPlan:
    layers = tuple(Choice(name, (8, 8), STATIC, "", {}, (256, 96)) for name in ("small", "large"))
    return QuantisationPlan("int8", layers, (Choice("table", (50, 4), BY_DIMENSION, "", {}, (800, 216)),))


def more_bits(choice: Choice) -> Choice:
    return replace(choice, form=MORE_BITS[choice.form])


def test_what_holds_is_left_as_it_is() -> None:
    settled = settle(plan(), Additive(2.0), more_bits)
    assert settled.plan.forms() == plan().forms()
    assert not settled.taken_back
    assert {choice.name: choice.error for choice in settled.plan.choices} == HARM


def test_what_does_most_harm_goes_first() -> None:
    settled = settle(plan(), Additive(0.7), more_bits)
    assert settled.plan.forms() == {"small": STATIC, "table": BY_DIMENSION}
    assert settled.loss.passed
    assert settled.taken_back == ("'large' went from int8 static to fp32: auc lost 1.6",)


def test_tables_get_more_bits_step_by_step() -> None:
    settled = settle(plan(), Additive(0.12), more_bits)
    assert settled.plan.forms() == {"small": STATIC, "table": "fp16"}
    assert [said.split()[3:6] for said in settled.taken_back[1:]] == [
        ["int8", "by", "dimension"],
        ["int8", "by", "row"],
    ]


def test_with_nothing_allowed_everything_stays_in_fp32() -> None:
    settled = settle(plan(), Additive(0.0), more_bits)
    assert settled.plan.is_empty
    assert {choice.form for choice in settled.plan.choices} == {PLAIN}
    assert settled.loss.lost == 0.0
