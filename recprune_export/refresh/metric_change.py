"""Compare the metric of the artifact on new rows with the recorded one, and with the dense model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import hypot

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.distributed.shares import share_prediction
from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.finetuning.task import AnswerFunction, Task
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.metrics.deciding_metric import read_metric
from recprune_export.number_formats import CHANGE, format_estimate
from recprune_export.refresh.verdicts import DriftFinding
from recprune_export.row_resolution import estimate_with_error, format_resolution

Metrics = Mapping[str, Mapping[str, float]]  # "dense", "pruned" -> metric -> value
METRIC, GAP = "metric", "distance from dense"


@dataclass(frozen=True)
class MetricComparison(ToDictMixin):
    """Metrics of both models `then` and `now`, on `rows` new rows; without a dense model only those of the artifact.

    `change` is from the dense model to the artifact, or, without a dense model, from the artifact to itself. `recorded_change` is the
    change when the bundle was made; None if it was not recorded. `is_same_rows`: it was measured on the same rows, so that there is no
    sampling error between the two.
    """

    ENCODED = ("then", "now", "change", "recorded_gap", "recorded_change", "is_same_rows", "rows")

    then: Metrics
    now: Metrics
    change: MetricChange
    rows: int
    recorded_change: MetricChange | None = None
    is_same_rows: bool = field(default=False, metadata=json_name("same_rows"))

    @property
    def recorded(self) -> float | None:
        """The metric of the artifact when it was made; None if none was measured."""
        return read_metric(self.then.get("pruned", {}), self.change.metric)

    @property
    def recorded_gap(self) -> float:
        """The change of the metric from dense to artifact when the bundle was made; 0 if unknown."""
        dense = read_metric(self.then.get("dense", {}), self.change.metric)
        return 0.0 if self.recorded is None or dense is None else self.recorded - dense

    @property
    def fall_of_dense(self) -> float | None:
        """The loss of the dense model against its recorded metric; None if unknown."""
        then, now = (read_metric(metrics.get("dense", {}), self.change.metric) for metrics in (self.then, self.now))
        if then is None or now is None:
            return None
        return then - now if self.change.greater_is_better else now - then


def compare_metrics(
    artifact: AnswerFunction,
    dense: AnswerFunction | None,
    task: Task,
    rows: int,
    recorded: Metrics,
    *,
    recorded_changes: Mapping[str, MetricChange],
    is_same_file: bool = False,
) -> MetricComparison:
    """Measure on the test rows of `task`, which are also its validation rows.

    `recorded_changes` are those of the bundle, by metric; `is_same_file`: they were measured on rows of the same file. With several
    processes, each evaluates a share of the rows.
    """
    artifact, dense = share_prediction(artifact), None if dense is None else share_prediction(dense)
    models = {"dense": dense, "pruned": artifact}
    now = {name: task.test(model) for name, model in models.items() if model is not None}
    change = task.change(dense or artifact, artifact)
    before = recorded_changes.get(change.metric)
    is_same_rows = is_same_file and before is not None and before.rows == change.rows
    return MetricComparison(recorded, now, change, rows, before, is_same_rows)


def judge_metric(quality: MetricComparison, max_fall: float) -> DriftFinding:
    """Judge the claim that the metric is worse than recorded by at most `max_fall`.

    The recorded metric and that of the new rows were measured on different rows, so both standard errors count. If that of the recorded
    metric is unknown, it is assumed to be as large as the other.
    """
    change, recorded = quality.change, quality.recorded
    if recorded is None:
        text = "The bundle does not record quality, since it was made without --data."
        return DriftFinding(METRIC, Verdict.SKIPPED, text)
    loss = _estimate_fall(quality, recorded)
    verdict = judge_at_most(loss, max_fall)
    fall = loss if change.greater_is_better else -loss
    text = (
        f"The {change.metric} of the artifact is {change.after:.4f} on the new rows; recorded was {recorded:.4f}: a change of "
        f"{format_estimate(-fall)}; {_say_allowance(max_fall, verdict, loss, quality.rows)}."
    )
    if verdict is Verdict.FAILS and quality.fall_of_dense is not None and quality.fall_of_dense > max_fall:
        text += (
            " The dense model became worse as well: train it again and give it with --model, since it is the teacher."
        )
    return DriftFinding(METRIC, verdict, text, loss, max_fall)


def judge_gap(quality: MetricComparison, max_drop: float) -> DriftFinding:
    """Judge the claim that the artifact is further behind the dense model than recorded by at most `max_drop`."""
    change, recorded = quality.change, quality.recorded_gap
    if "dense" not in quality.now:
        text = "The bundle was written with --no-dense: give the dense model with --model."
        return DriftFinding(GAP, Verdict.SKIPPED, text)
    loss = _estimate_further_loss(quality, recorded)
    verdict = judge_at_most(loss, max_drop)
    was = f"recorded was {recorded:{CHANGE}}" if quality.recorded is not None else "no earlier value is recorded"
    text = (
        f"On the new rows, the {change.metric} of the artifact differs from the dense model by {format_estimate(change.estimate)}; {was}; "
        f"{_say_allowance(max_drop, verdict, loss, quality.rows)}."
    )
    return DriftFinding(GAP, verdict, text, loss, max_drop)


def _estimate_fall(quality: MetricComparison, recorded: float) -> Estimate:
    """Return the loss of the artifact on the new rows against the recorded ones, which may be the same rows."""
    change = quality.change
    fall = (recorded - change.after) * (1.0 if change.greater_is_better else -1.0)
    if quality.is_same_rows:
        return Estimate(fall, fall, fall)
    before = change.error if quality.recorded_change is None else quality.recorded_change.error
    return estimate_with_error(fall, hypot(before, change.error))


def _estimate_further_loss(quality: MetricComparison, recorded_gap: float) -> Estimate:
    """Return the increase of the loss of the artifact against the dense model; both intervals count."""
    loss, before = quality.change.loss, quality.recorded_change
    further = loss.estimate + (recorded_gap if quality.change.greater_is_better else -recorded_gap)
    if quality.is_same_rows:
        return Estimate(further, further, further)
    spread = (
        (0.0, 0.0)
        if before is None
        else (before.loss.high - before.loss.estimate, before.loss.estimate - before.loss.low)
    )
    below, above = hypot(loss.estimate - loss.low, spread[0]), hypot(loss.high - loss.estimate, spread[1])
    return Estimate(further, further - below, further + above)


def _say_allowance(limit: float, verdict: Verdict, loss: Estimate, rows: int) -> str:
    resolution = format_resolution(rows, loss.resolution)
    return {
        Verdict.HOLDS: f"the limit of {limit:g} is met",
        Verdict.FAILS: f"the limit of {limit:g} is exceeded",
    }.get(verdict, f"the result is inconclusive for the limit of {limit:g}: {resolution}")
