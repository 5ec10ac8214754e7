"""Gate on quality: each metric in both bundles, by the interval of its loss from BASE to NEW."""

from collections.abc import Mapping
from math import hypot, isfinite

from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.gate.artifact import Artifact, RecordedMetric
from recprune_export.gate.findings import Finding, make_skipped_finding
from recprune_export.gate.limits import Limits
from recprune_export.gate.output.finding_rows import METRIC_CHANGE
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.number_formats import format_estimate
from recprune_export.row_resolution import estimate_with_error, format_resolution


def compare_quality(new: Artifact, base: Artifact, limits: Limits) -> list[Finding]:
    """Compare each metric of BASE, in the direction in which it improves."""
    if limits.is_off("quality"):
        return [make_skipped_finding("quality", "Turned off.")]
    if not (new.is_bundle and base.is_bundle):
        return [make_skipped_finding("quality", "A plain ONNX file does not record quality.")]
    if not base.metrics:
        return [make_skipped_finding("quality", "BASE does not record quality: it was made without --data.")]
    return [_compare_metric(name, new, base, limits.limit_for("quality")) for name in base.metrics]


def compare_paired_quality(changes: Mapping[str, MetricChange], limits: Limits) -> list[Finding]:
    """Judge the change of each metric from BASE to NEW, measured on the same rows."""
    if limits.is_off("quality"):
        return [make_skipped_finding("quality", "Turned off.")]
    return [_judge_change(name, change, limits.limit_for("quality")) for name, change in changes.items()]


def _judge_change(name: str, measured: MetricChange, limit: float) -> Finding:
    verdict, text = judge_at_most(measured.loss, limit), f"at most {limit:g} worse"
    reason = (
        f"{name} went from {measured.before:.5f} to {measured.after:.5f}, a change of "
        f"{format_estimate(measured.estimate, METRIC_CHANGE)} on "
        f"{measured.rows:,} rows, scored by both"
    )
    if verdict is Verdict.UNDECIDED:
        resolution = format_resolution(measured.rows, measured.loss.resolution)
        reason += f"; the result is inconclusive for the limit, {text}: {resolution}; give more rows"
    return Finding(
        f"quality, {name}", verdict, f"{reason}.", measured.before, measured.after, limit=text, change=measured.estimate
    )  # fmt: skip


def _compare_metric(name: str, new: Artifact, base: Artifact, limit: float) -> Finding:
    gate, before = f"quality, {name}", base.metrics[name]
    text = f"at most {limit:g} worse"
    if name not in new.metrics:
        return Finding(
            gate, Verdict.FAILS, f"NEW does not record {name}: compress it with --data.", before.value, limit=text
        )
    after = new.metrics[name]
    if before.greater_is_better is None:
        return make_skipped_finding(gate, f"It is unknown whether a higher or a lower '{name}' is better.")
    loss = estimate_loss(new, base, name)
    verdict = judge_at_most(loss, limit) if isfinite(after.value) else Verdict.FAILS
    change = -loss if after.greater_is_better else loss
    reason = f"{name} went from {before.value:.5f} to {after.value:.5f}, a change of {format_estimate(change, METRIC_CHANGE)}"
    if new.data != base.data:
        reason += f"; the rows differ: {new.data} and {base.data}"
    if verdict is Verdict.UNDECIDED:
        reason += f"; the result is inconclusive for the limit, {text}: {_explain_resolution(loss, after, before)}"
    return Finding(gate, verdict, f"{reason}.", before.value, after.value, limit=text, change=change)


def estimate_loss(new: Artifact, base: Artifact, name: str) -> Estimate:
    """Return the loss of a metric from BASE to NEW.

    Bundles contain no answers to single rows. The same model with the same value has no error. For two models that were made from the
    same dense model, and measured on the same rows, the paired intervals of their changes from it bound the error of the difference;
    otherwise the standard errors of both metrics are combined, as for independent rows. The narrower applicable interval is used.
    """
    after, before = new.metrics[name], base.metrics[name]
    worse = (before.value - after.value) * (1.0 if after.greater_is_better else -1.0)
    if worse == 0.0 and new.weights_sha256 == base.weights_sha256:
        return Estimate(0.0, 0.0, 0.0)
    candidates = []
    if after.error is not None and before.error is not None:
        candidates.append(estimate_with_error(worse, hypot(after.error, before.error)))
    same_rows = new.data_sha256 is not None and (new.data_sha256, after.rows) == (base.data_sha256, before.rows)
    same_dense = new.dense_sha256 is not None and new.dense_sha256 == base.dense_sha256
    if same_rows and same_dense and after.loss is not None and before.loss is not None:
        half = sum(max(loss.high - loss.estimate, loss.estimate - loss.low) for loss in (after.loss, before.loss))
        candidates.append(Estimate(worse, worse - half, worse + half))
    return min(candidates, key=lambda e: e.resolution, default=Estimate(worse, -float("inf"), float("inf")))


def _explain_resolution(loss: Estimate, after: RecordedMetric, before: RecordedMetric) -> str:
    if not isfinite(loss.resolution):
        return "one of the bundles was made before errors of metrics were recorded; make it again"
    return (
        f"{format_resolution(min(after.rows, before.rows), loss.resolution)}; bundles do not record the scores of single rows, so give "
        "rows with --data to measure both on the same rows"
    )
