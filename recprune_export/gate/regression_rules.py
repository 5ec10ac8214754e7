"""Gates that compare one value of both artifacts to a limit: counts, sizes, costs and quality."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recprune_export.evidence import Estimate, Verdict
from recprune_export.gate.artifact import Artifact
from recprune_export.gate.findings import Finding, make_skipped_finding
from recprune_export.gate.gate_constants import CONFIDENCE, LOAD_TIME_SLACK, PEAK_MEMORY_SLACK
from recprune_export.gate.limits import Limits
from recprune_export.gate.output.finding_rows import format_amount
from recprune_export.validation.latency.footprint import Footprint, FootprintReport
from recprune_export.validation.latency.statistics import interval_of_few

LOWER_IS_BETTER = ("logloss",)
HIGHER_IS_BETTER = ("auc", "hr@10", "ndcg@10")


@dataclass(frozen=True)
class CountRule:
    """A value of an artifact that may grow by the limit of its gate."""

    gate: str
    unit: str
    value: Callable[[Artifact], float]


@dataclass(frozen=True)
class CostRule:
    """A value measured in fresh processes; absolute growth up to `slack` is never a failure."""

    gate: str
    unit: str
    value: Callable[[Footprint], float]
    slack: float


RULES = (
    CountRule("parameters", "", lambda artifact: artifact.counts.total.parameters),
    CountRule("non-zeros", "", lambda artifact: artifact.counts.total.nonzero),
    CountRule("operations", "", lambda artifact: artifact.counts.operations),
    CountRule("nodes", "", lambda artifact: artifact.counts.nodes),
    CountRule("model size", "bytes", lambda artifact: artifact.counts.bytes),
)
COST_RULES = (
    CostRule("load time", "ms", lambda footprint: footprint.load, slack=LOAD_TIME_SLACK),
    CostRule("peak memory", "bytes", lambda footprint: footprint.peak, slack=PEAK_MEMORY_SLACK),
)


def compare_counts(new: Artifact, base: Artifact, limits: Limits) -> list[Finding]:
    """Compare all counts and sizes."""
    findings = [compare_growth(r.gate, r.unit, r.value(new), r.value(base), limits) for r in RULES]
    if new.is_bundle and base.is_bundle:
        findings.append(compare_growth("artifact size", "bytes", new.bytes, base.bytes, limits))
    else:
        findings.append(make_skipped_finding("artifact size", "Only bundles have files beside the model."))
    return findings


def compare_costs(report: FootprintReport, new: str, base: str, limits: Limits) -> list[Finding]:
    """Compare load time and peak memory; fail if the whole interval of the growth is above the limit.

    Process i of both artifacts ran next to each other, and the interval over these pairs decides: on a busy machine the
    minimum of five loads may be 1.9 times that of five others.
    """
    return [_compare_cost(rule, report.runs[new], report.runs[base], limits) for rule in COST_RULES]


def _compare_cost(rule: CostRule, new: Sequence[Footprint], base: Sequence[Footprint], limits: Limits) -> Finding:
    if limits.is_off(rule.gate):
        return make_skipped_finding(rule.gate, "Turned off.")
    tolerance = limits.limit_for(rule.gate)
    pairs = [(max(rule.value(n), 1e-9), max(rule.value(b), 1e-9)) for n, b in zip(new, base, strict=True)]
    log_ratio = interval_of_few([np.log(n / b) for n, b in pairs], confidence=CONFIDENCE)
    ratio = Estimate(*np.exp([log_ratio.estimate, log_ratio.low, log_ratio.high]).tolist())
    new_median, base_median = (float(np.median(values)) for values in zip(*pairs, strict=True))
    failed = ratio.low > 1 + tolerance and new_median - base_median > rule.slack
    before, after = format_amount(base_median, rule.unit), format_amount(new_median, rule.unit)
    reason = f"{rule.gate} went from {before} to {after}, medians of {len(pairs)} processes"
    if not failed and ratio.estimate > 1 + tolerance:
        reason += ", which is " + (
            "too little to count" if new_median - base_median <= rule.slack else "not beyond doubt"
        )
    verdict = Verdict.FAILS if failed else Verdict.HOLDS
    return Finding(
        rule.gate, verdict, f"{reason}.", base_median, new_median, rule.unit, _at_most(tolerance), ratio, tolerance
    )


def compare_growth(gate: str, unit: str, new: float, base: float, limits: Limits) -> Finding:
    """Return a failure if `new` exceeds `base` by more than the limit."""
    if limits.is_off(gate):
        return make_skipped_finding(gate, "Turned off.")
    tolerance = limits.limit_for(gate)
    allowed, words = base * (1 + tolerance), _at_most(tolerance)
    grew = f"{gate} went from {format_amount(base, unit)} to {format_amount(new, unit)}"
    if new > allowed:
        return Finding(
            gate,
            Verdict.FAILS,
            f"{grew}, allowed are {format_amount(allowed, unit)}.",
            base,
            new,
            unit,
            words,
            None,
            tolerance,
        )
    return Finding(gate, Verdict.HOLDS, f"{grew}.", base, new, unit, words, None, tolerance)


def _at_most(tolerance: float) -> str:
    return f"at most {100 * tolerance:g} % more"


def compare_quality(new: Artifact, base: Artifact, limits: Limits) -> list[Finding]:
    """Compare each metric of BASE, in the direction in which it is better."""
    if limits.is_off("quality"):
        return [make_skipped_finding("quality", "Turned off.")]
    if not (new.is_bundle and base.is_bundle):
        return [make_skipped_finding("quality", "A plain ONNX file states no quality.")]
    if not base.metrics:
        return [make_skipped_finding("quality", "BASE states no quality: it was made without --data.")]
    return [_compare_metric(name, new, base, limits) for name in base.metrics]


def _compare_metric(name: str, new: Artifact, base: Artifact, limits: Limits) -> Finding:
    gate, base_name, before = f"quality, {name}", name.rpartition("/")[2], base.metrics[name]
    limit = f"at most {limits.limit_for('quality'):g} worse"
    if base_name not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        return make_skipped_finding(gate, f"It is not known whether more or less of '{name}' is better.")
    if name not in new.metrics:
        return Finding(gate, Verdict.FAILS, f"NEW does not state {name}: compress it with --data.", before, limit=limit)
    now = new.metrics[name]
    worse = (before - now) * (-1 if base_name in LOWER_IS_BETTER else 1)
    reason = f"{name} went from {before:.5f} to {now:.5f}."
    if new.data != base.data:
        reason += f" It was measured on other rows: {new.data} and {base.data}."
    verdict = Verdict.FAILS if not worse <= limits.limit_for("quality") else Verdict.HOLDS
    return Finding(gate, verdict, reason, before, now, limit=limit)
