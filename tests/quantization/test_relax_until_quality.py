"""The gate: weights get more bits until the loss is allowed."""

from dataclasses import dataclass, field, replace

from recprune_export.evidence import Verdict
from recprune_export.quantization import QualityLoss
from recprune_export.quantization.quantization_plan import (
    FP32,
    INT8_BY_DIMENSION,
    INT8_STATIC,
    WIDER_FORM,
    QuantizationPlan,
    WeightChoice,
)
from recprune_export.quantization.relax_until_quality import relax_until_quality

HARM = {"small": 0.1, "large": 1.0, "table": 0.5}
LESS = {INT8_BY_DIMENSION: 1.0, "int8 by row": 0.5, "fp16": 0.01, INT8_STATIC: 1.0}


@dataclass
class Additive:
    """Each weight does its own harm, less of it with more bits."""

    limit: float
    half: float | None = None  # of the interval of the loss
    asked: list[QuantizationPlan] = field(default_factory=list)

    def error(self, plan: QuantizationPlan) -> float:
        return sum(HARM[choice.name] * LESS[choice.form] for choice in plan.choices if choice.is_quantized)

    def loss(self, plan: QuantizationPlan) -> QualityLoss:
        self.asked.append(plan)
        lost = self.error(plan)
        interval = None if self.half is None else (lost - self.half, lost + self.half)
        return QualityLoss("auc", lost, self.limit, interval, rows=400)


def plan() -> QuantizationPlan:
    layers = tuple(WeightChoice(name, (8, 8), INT8_STATIC, "", {}, (256, 96)) for name in ("small", "large"))
    return QuantizationPlan("int8", layers, (WeightChoice("table", (50, 4), INT8_BY_DIMENSION, "", {}, (800, 216)),))


def more_bits(choice: WeightChoice) -> WeightChoice:
    return replace(choice, form=WIDER_FORM[choice.form])


def test_what_holds_is_left_as_it_is() -> None:
    settled = relax_until_quality(plan(), Additive(2.0), more_bits)
    assert settled.plan.forms() == plan().forms()
    assert not settled.relaxations
    assert {choice.name: choice.error for choice in settled.plan.choices} == HARM


def test_what_does_most_harm_goes_first() -> None:
    settled = relax_until_quality(plan(), Additive(0.7), more_bits)
    assert settled.plan.forms() == {"small": INT8_STATIC, "table": INT8_BY_DIMENSION}
    assert settled.loss.passed
    assert settled.relaxations == ("'large' went from int8 static to fp32: auc lost 1.6",)


def test_tables_get_more_bits_step_by_step() -> None:
    settled = relax_until_quality(plan(), Additive(0.12), more_bits)
    assert settled.plan.forms() == {"small": INT8_STATIC, "table": "fp16"}
    assert [said.split()[3:6] for said in settled.relaxations[1:]] == [
        ["int8", "by", "dimension"],
        ["int8", "by", "row"],
    ]


def test_with_nothing_allowed_everything_stays_in_fp32() -> None:
    settled = relax_until_quality(plan(), Additive(0.0), more_bits)
    assert settled.plan.is_empty
    assert {choice.form for choice in settled.plan.choices} == {FP32}
    assert settled.loss.lost == 0.0


def test_where_rows_cannot_tell_the_answers_decide() -> None:
    settled = relax_until_quality(plan(), Additive(0.25, half=1.0), more_bits)
    assert settled.loss.verdict is Verdict.UNDECIDED
    assert settled.loss.passed
    assert settled.loss.answers_error is not None
    assert settled.loss.answers_error <= 0.25**0.5
    assert settled.plan.forms() == {"small": INT8_STATIC, "table": "int8 by row"}
    assert settled.loss.note is not None
    assert "these 400 validation rows give an interval of +-1" in settled.loss.note
    assert "inconclusive" in settled.relaxations[1]


def test_where_rows_can_tell_the_answers_do_not_count() -> None:
    settled = relax_until_quality(plan(), Additive(2.0, half=0.1), more_bits)
    assert (settled.loss.verdict, settled.loss.answers_error, settled.loss.note) == (Verdict.HOLDS, None, None)
    assert settled.plan.forms() == plan().forms()
