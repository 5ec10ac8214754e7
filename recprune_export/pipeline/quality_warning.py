"""Judge the loss of quality on test rows with a usual allowance, and describe a large loss in a sentence."""

from dataclasses import dataclass
from typing import Annotated

from recprune_export.codec import JsonForm, ToDictMixin
from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.metrics.metric_catalogue import MEAN
from recprune_export.number_formats import format_estimate
from recprune_export.row_resolution import format_resolution

ALLOWED_LOSS = 0.002  # of metrics that are fractions of pairs, rows or probabilities
ALLOWED_FRACTION = 0.01  # of the dense model's value, for all others: their scale differs between data sets
FRACTIONS = ("auc", "gauc", "pr-auc", "accuracy", "ece")
REMEDY = "To lose less, use a smaller --sparsity or a larger --max-bytes, more --epochs, or a search with --max-drop."


@dataclass(frozen=True)
class QualityVerdict(ToDictMixin):
    """The verdict on the claim that the deciding metric loses at most `limit` on test rows, and a sentence about it."""

    metric: str
    loss: Estimate
    limit: float
    verdict: Annotated[Verdict, JsonForm(lambda verdict: verdict.words)]
    sentence: str

    @property
    def warning(self) -> str | None:
        """The sentence if the loss is, or may be, larger than allowed."""
        return None if self.verdict is Verdict.HOLDS else self.sentence


def find_usual_allowance(change: MetricChange) -> float:
    """Return the loss of a metric that causes no warning, in its unit.

    >>> find_usual_allowance(MetricChange("mean auc", 0.8, 0.7, -0.2, 0.0, 0.01))
    0.002
    >>> round(find_usual_allowance(MetricChange("ndcg@10", 0.05, 0.04, -0.02, 0.0, 0.01)), 6)
    0.0005
    """
    name = change.metric.rpartition("/")[2].removeprefix(MEAN)
    return ALLOWED_LOSS if name in FRACTIONS else ALLOWED_FRACTION * abs(change.before)


def judge_quality(change: MetricChange) -> QualityVerdict:
    """Judge the change of the deciding metric on test rows, from the dense to the pruned model."""
    limit = find_usual_allowance(change)
    verdict = judge_at_most(change.loss, limit)
    sentence = {
        Verdict.HOLDS: _say_small_loss,
        Verdict.FAILS: _say_large_loss,
    }.get(verdict, _say_unknown_loss)(change, limit)
    return QualityVerdict(change.metric, change.loss, limit, verdict, sentence)


def _say_large_loss(change: MetricChange, limit: float) -> str:
    direction = "fell" if change.greater_is_better else "rose"
    return (
        f"{change.metric} {direction} by {format_estimate(change.loss, '.4f')} on {change.rows:,} test rows, from "
        f"{change.before:.4f} to {change.after:.4f}: more than {limit:.2g}, a large loss. {REMEDY}"
    )


def _say_unknown_loss(change: MetricChange, limit: float) -> str:
    resolution = format_resolution(change.rows, change.loss.resolution, "test rows")
    return (
        f"{change.metric} changed by {format_estimate(change.estimate)}: it is inconclusive whether it loses more than {limit:.2g}, a "
        f"large loss, since {resolution}. Give more rows."
    )


def _say_small_loss(change: MetricChange, limit: float) -> str:
    return f"{change.metric} changed by {format_estimate(change.estimate)} on {change.rows:,} test rows: a loss of at most {limit:.2g}."
