"""How much a quantised file loses: of the metric on validation rows, or, without rows, of its answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Protocol

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.quantization.observers import GraphFunction
from recprune_export.validation.edge_requests import RequestArrays

if TYPE_CHECKING:
    from recprune_export.training._paired_change import MetricChange


@dataclass(frozen=True)
class QualityLoss(ToDictMixin):
    """`lost` is what the metric fell by, or the error of the answers; at most `limit` is allowed.

    `interval`: of `lost`, 95 %, over validation rows; None where there are none.
    """

    ENCODED = ("metric", "lost", "limit", "interval", "passed")

    metric: str
    lost: float
    limit: float
    interval: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether it is no more than allowed."""
        return self.lost <= self.limit


class Judge(Protocol):
    """Compares the answers of a quantised graph with those of the same graph in fp32."""

    def __call__(self, before: GraphFunction, after: GraphFunction) -> QualityLoss: ...


def make_metric_judge(change: Callable[[GraphFunction, GraphFunction], "MetricChange"], limit: float) -> Judge:
    """Judge by the metric of validation rows: its fall itself, not the end of its interval, may be `limit`."""

    def judge(before: GraphFunction, after: GraphFunction) -> QualityLoss:
        found = change(before, after)
        return QualityLoss(found.metric, -found.change, limit, (-found.high, -found.low))

    return judge


def make_error_judge(requests: Sequence[RequestArrays], limit: float) -> Judge:
    """Judge by the error of the answers, where there are no rows.

    An error of the relative size e, independent of the answer, takes about e² of their correlation with anything else, so
    that √limit is allowed.
    """

    def judge(before: GraphFunction, after: GraphFunction) -> QualityLoss:
        return QualityLoss("error of the answers", relative_error(requests, before, after), sqrt(limit))

    return judge


def relative_error(requests: Sequence[RequestArrays], before: GraphFunction, after: GraphFunction) -> float:
    """Return the root mean square difference of the worst output, as a fraction of how much that output varies.

    Infinite where one answer is finite and the other is not.
    """
    wanted, found = ([answers(request) for request in requests] for answers in (before, after))
    return max((_error(_whole(wanted, name), _whole(found, name)) for name in wanted[0]), default=0.0)


def _whole(answers: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(answer[name], dtype=np.float64).reshape(-1) for answer in answers])


def _error(wanted: np.ndarray, found: np.ndarray) -> float:
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    wanted, found = wanted[finite], found[finite]
    difference = float(np.sqrt(np.square(wanted - found).mean())) if wanted.size else 0.0
    varies = float(wanted.std()) if wanted.size else 0.0
    return difference / varies if varies else float("inf" if difference else 0.0)


def largest_errors(requests: Sequence[RequestArrays], before: GraphFunction, after: GraphFunction) -> dict[str, float]:
    """Return by output the largest difference of any number that both have finite."""
    largest: dict[str, float] = {}
    for request in requests:
        wanted, found = before(request), after(request)
        for name, values in wanted.items():
            with np.errstate(invalid="ignore"):  # a difference of infinities
                difference = np.abs(np.asarray(values, np.float64) - np.asarray(found[name], np.float64))
            worst = float(difference[np.isfinite(difference)].max(initial=0.0))
            largest[name] = max(largest.get(name, 0.0), worst)
    return largest
