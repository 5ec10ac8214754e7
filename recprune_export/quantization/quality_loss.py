"""Quality loss of a quantized file: of the metric on validation rows or, without rows, the error of its outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.quantization.observers import GraphFunction
from recprune_export.row_resolution import format_resolution
from recprune_export.validation.edge_requests import RequestArrays

if TYPE_CHECKING:
    from recprune_export.metrics._paired_change import MetricChange


@dataclass(frozen=True)
class QualityLoss(ToDictMixin):
    """`lost` is the loss of the metric or the error of the outputs, of which at most `limit` is allowed.

    `interval`: the 95 % interval of `lost` over `rows` validation rows; None without rows. If it is inconclusive whether the loss is
    within the limit, the relative error of the outputs decides: `answers_error`, None if it is not needed.
    """

    ENCODED = ("metric", "lost", "limit", "interval", "rows", "words", "answers_error", "answers_limit", "passed")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"words": "verdict"}

    metric: str
    lost: float
    limit: float
    interval: tuple[float, float] | None = None
    rows: int = 0
    answers_error: float | None = None

    @property
    def estimate(self) -> Estimate:
        """`lost` with its interval, which is a point without rows."""
        return Estimate(self.lost, *(self.interval or (self.lost, self.lost)))

    @property
    def verdict(self) -> Verdict:
        """The verdict on the claim that at most `limit` is lost."""
        return judge_at_most(self.estimate, self.limit)

    @property
    def words(self) -> str:
        """The verdict in words."""
        return self.verdict.words

    @property
    def answers_limit(self) -> float:
        """The allowed error of the outputs, relative to their standard deviation: `limit_answers`."""
        return limit_answers(self.limit)

    @property
    def passed(self) -> bool:
        """Whether the loss is within the limit, or, if this is inconclusive, the error of the outputs is."""
        if self.verdict is Verdict.UNDECIDED:
            return self.answers_error is not None and self.answers_error <= self.answers_limit
        return self.verdict is Verdict.HOLDS

    @property
    def note(self) -> str | None:
        """A sentence if the outputs decided."""
        if self.verdict is not Verdict.UNDECIDED or self.interval is None or self.answers_error is None:
            return None
        resolution = format_resolution(self.rows, self.estimate.resolution, "validation rows")
        return (
            f"It is inconclusive whether quantization costs at most {self.limit:g} of {self.metric}, since {resolution}. The error of "
            f"the outputs was used instead: {self.answers_error:.2%} of their spread, at most {self.answers_limit:.2%} allowed."
        )


def limit_answers(limit: float) -> float:
    """Return the allowed error of the outputs, relative to their standard deviation, for an allowed loss of a metric.

    An error of the relative size e, independent of the answer, reduces the outputs' correlation with any other quantity
    by about e², so that √limit is allowed.
    """
    return sqrt(limit)


class Judge(Protocol):
    """Compares the outputs of a quantized graph with those of the same graph in fp32."""

    def __call__(self, before: GraphFunction, after: GraphFunction) -> QualityLoss: ...


def make_metric_judge(change: Callable[[GraphFunction, GraphFunction], "MetricChange"], limit: float) -> Judge:
    """Return a judge by the metric of validation rows, with its interval."""

    def judge(before: GraphFunction, after: GraphFunction) -> QualityLoss:
        metric_change = change(before, after)
        loss = metric_change.loss
        return QualityLoss(metric_change.metric, loss.estimate, limit, (loss.low, loss.high), metric_change.rows)

    return judge


def make_error_judge(requests: Sequence[RequestArrays], limit: float) -> Judge:
    """Return a judge by the error of the outputs, for models without rows, of which `limit_answers(limit)` is allowed."""

    def judge(before: GraphFunction, after: GraphFunction) -> QualityLoss:
        return QualityLoss("error of the answers", relative_error(requests, before, after), limit_answers(limit))

    return judge


def relative_error(requests: Sequence[RequestArrays], before: GraphFunction, after: GraphFunction) -> float:
    """Return the root mean square difference of the worst output, relative to the standard deviation of that output.

    Infinite where one answer is finite and the other is not.
    """
    expected, actual = ([answers(request) for request in requests] for answers in (before, after))
    return max(
        (
            _relative_output_error(_concatenate_output(expected, name), _concatenate_output(actual, name))
            for name in expected[0]
        ),
        default=0.0,
    )


def _concatenate_output(answers: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(answer[name], dtype=np.float64).reshape(-1) for answer in answers])


def _relative_output_error(expected: np.ndarray, actual: np.ndarray) -> float:
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(actual)):
        return float("inf")
    expected, actual = expected[finite], actual[finite]
    difference = float(np.sqrt(np.square(expected - actual).mean())) if expected.size else 0.0
    deviation = float(expected.std()) if expected.size else 0.0
    return difference / deviation if deviation else float("inf" if difference else 0.0)


def largest_errors(requests: Sequence[RequestArrays], before: GraphFunction, after: GraphFunction) -> dict[str, float]:
    """Return the largest difference of each output, over numbers that are finite in both answers."""
    largest: dict[str, float] = {}
    for request in requests:
        expected, actual = before(request), after(request)
        for name, values in expected.items():
            with np.errstate(invalid="ignore"):  # a difference of infinities
                difference = np.abs(np.asarray(values, np.float64) - np.asarray(actual[name], np.float64))
            worst = float(difference[np.isfinite(difference)].max(initial=0.0))
            largest[name] = max(largest.get(name, 0.0), worst)
    return largest
