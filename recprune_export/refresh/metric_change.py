"""Compare the metric of the artifact on new rows with the recorded one, and with the dense model."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from recprune_export.codec import ToDictMixin
from recprune_export.finetuning.task import Predictor, Task
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.metrics.deciding_metric import read_metric
from recprune_export.refresh.verdicts import DriftFinding

Metrics = Mapping[str, Mapping[str, float]]  # "dense", "pruned" -> metric -> value
METRIC, GAP = "metric", "distance from dense"
WIDE = 1.96  # standard errors of a 95 % interval


@dataclass(frozen=True)
class MetricComparison(ToDictMixin):
    """Metrics of both models `then` and `now`, on `rows` new rows; without a dense model only those of the artifact.

    `change` leads from the dense model to the artifact, or where there is none from the artifact to itself.
    """

    ENCODED = ("then", "now", "change", "recorded_gap", "rows")

    then: Metrics
    now: Metrics
    change: MetricChange
    rows: int

    @property
    def recorded(self) -> float | None:
        """The metric of the artifact when it was made; None where none was measured."""
        return read_metric(self.then.get("pruned", {}), self.change.metric)

    @property
    def recorded_gap(self) -> float:
        """How the metric changed from dense to artifact when it was made; 0 where that is not known."""
        dense = read_metric(self.then.get("dense", {}), self.change.metric)
        return 0.0 if self.recorded is None or dense is None else self.recorded - dense

    @property
    def fall_of_dense(self) -> float | None:
        """How much worse the dense model is than recorded; None where that is not known."""
        then, now = (read_metric(metrics.get("dense", {}), self.change.metric) for metrics in (self.then, self.now))
        if then is None or now is None:
            return None
        return then - now if self.change.greater_is_better else now - then


def compare_metrics(
    artifact: Predictor, dense: Predictor | None, task: Task, rows: int, recorded: Metrics
) -> MetricComparison:
    """Measure on the test rows of `task`, which are its validation rows as well."""
    models = {"dense": dense, "pruned": artifact}
    now = {name: task.test(model) for name, model in models.items() if model is not None}
    return MetricComparison(recorded, now, task.change(dense or artifact, artifact), rows)


def judge_metric(quality: MetricComparison, tested: int | None, max_fall: float) -> DriftFinding:
    """Fail where the metric is lower than recorded by more than `max_fall`, beyond doubt.

    Both samples of rows count: the error of the old one follows from that of the new one and from the numbers of rows; it
    is taken to be as large where `tested` is None.
    """
    change, recorded = quality.change, quality.recorded
    if recorded is None:
        return DriftFinding(
            METRIC, None, "No quality was measured when the bundle was made, for it was made without --data."
        )
    sign = 1.0 if change.greater_is_better else -1.0
    fall = sign * (recorded - change.after)
    half = WIDE * change.error * sqrt(1.0 + quality.rows / max(tested or quality.rows, 1))
    text = (
        f"The {change.metric} of the artifact is {change.after:.4f} on the new rows and was {recorded:.4f}: a change of "
        f"{_signed(-sign * fall)} [{_signed(-sign * fall - half)}, {_signed(-sign * fall + half)}]"
    )
    holds = fall - half <= max_fall
    text += f"; a fall of {max_fall:g} is allowed." if holds else f", which is beyond the {max_fall:g} allowed."
    if not holds and quality.fall_of_dense is not None and quality.fall_of_dense > max_fall:
        text += (
            " The dense model fell as well: train it again and give it with --model, for its answers are tuned towards."
        )
    return DriftFinding(METRIC, holds, text)


def judge_gap(quality: MetricComparison, max_drop: float) -> DriftFinding:
    """Fail where the artifact is further below the dense model than recorded by more than `max_drop`, beyond doubt."""
    change, recorded = quality.change, quality.recorded_gap
    if "dense" not in quality.now:
        return DriftFinding(
            GAP,
            None,
            "The bundle was written with --no-dense, so there is no dense model to compare with: give --model.",
        )
    was = f"it was {_signed(recorded)}" if quality.recorded is not None else "it was not measured before"
    text = (
        f"From dense to artifact the {change.metric} changes by {_signed(change.change)} [{_signed(change.low)}, "
        f"{_signed(change.high)}] on the new rows; {was}"
    )
    further = change.loss.low - (-recorded if change.greater_is_better else recorded)
    holds = further <= max_drop
    return DriftFinding(
        GAP, holds, text + (f", and {max_drop:g} more is {'allowed' if holds else 'less than was lost'}.")
    )


def _signed(change: float) -> str:
    return f"{round(change, 4) + 0.0:+.4f}"  # no -0.0000
