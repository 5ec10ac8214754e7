"""Gates that need no statistics: a figure of each artifact, a limit, a verdict."""

from collections.abc import Callable
from dataclasses import dataclass

from recprune_export.gate.artifact import Artifact
from recprune_export.gate.findings import Finding, Verdict, skipped
from recprune_export.gate.limits import Limits
from recprune_export.validation.footprint import Footprint, FootprintReport

LOWER_IS_BETTER = ("logloss",)
HIGHER_IS_BETTER = ("auc", "hr@10", "ndcg@10")
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Rule:
    """A figure of an artifact that may grow by the limit of its gate."""

    gate: str
    unit: str
    value: Callable[[Artifact], float]


@dataclass(frozen=True)
class CostRule:
    """A figure that fresh processes measured; growth below `slack` is not worth a verdict."""

    gate: str
    unit: str
    value: Callable[[Footprint], float]
    slack: float


RULES = (
    Rule("parameters", "", lambda artifact: artifact.counts.total.parameters),
    Rule("non-zeros", "", lambda artifact: artifact.counts.total.nonzero),
    Rule("operations", "", lambda artifact: artifact.counts.operations),
    Rule("nodes", "", lambda artifact: artifact.counts.nodes),
    Rule("model size", "bytes", lambda artifact: artifact.counts.bytes),
)
COST_RULES = (
    CostRule("load time", "ms", lambda footprint: footprint.load, slack=5.0),
    CostRule("peak memory", "bytes", lambda footprint: footprint.peak, slack=4.0 * MEBIBYTE),
)


def judge_figures(new: Artifact, base: Artifact, limits: Limits) -> list[Finding]:
    """Judge all counts and sizes."""
    found = [judge_growth(r.gate, r.unit, r.value(new), r.value(base), limits) for r in RULES]
    if new.is_bundle and base.is_bundle:
        found.append(judge_growth("artifact size", "bytes", new.bytes, base.bytes, limits))
    else:
        found.append(skipped("artifact size", "Only bundles have files beside the model."))
    return found


def judge_costs(report: FootprintReport, new: str, base: str, limits: Limits) -> list[Finding]:
    """Judge load time and peak memory by the least that several fresh processes needed."""
    mine, theirs = Footprint.least(report.runs[new]), Footprint.least(report.runs[base])
    return [judge_growth(r.gate, r.unit, r.value(mine), r.value(theirs), limits, r.slack) for r in COST_RULES]


def judge_growth(gate: str, unit: str, new: float, base: float, limits: Limits, slack: float = 0.0) -> Finding:
    """Fail where `new` is more than `base` by more than its limit and more than `slack`."""
    if limits.is_off(gate):
        return skipped(gate, "Turned off.")
    tolerance = limits.of(gate)
    allowed = base + max(base * tolerance, slack)
    words = f"at most {100 * tolerance:g} % more"
    grew = f"{gate} went from {base:,.6g} to {new:,.6g} {unit}".rstrip()
    if new > allowed:
        return Finding(gate, Verdict.FAIL, f"{grew}, allowed are {allowed:,.6g}.", base, new, unit, words)
    return Finding(gate, Verdict.PASS, f"{grew}.", base, new, unit, words)


def judge_quality(new: Artifact, base: Artifact, limits: Limits) -> list[Finding]:
    """Judge each metric that BASE states, by its own direction."""
    if limits.is_off("quality"):
        return [skipped("quality", "Turned off.")]
    if not (new.is_bundle and base.is_bundle):
        return [skipped("quality", "A plain ONNX file states no quality.")]
    if not base.metrics:
        return [skipped("quality", "BASE states no quality: it was made without --data.")]
    return [_judge_metric(name, new, base, limits) for name in base.metrics]


def _judge_metric(name: str, new: Artifact, base: Artifact, limits: Limits) -> Finding:
    gate, plain, before = f"quality, {name}", name.rpartition("/")[2], base.metrics[name]
    limit = f"at most {limits.of('quality'):g} worse"
    if plain not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        return skipped(gate, f"It is not known whether more or less of '{name}' is better.")
    if name not in new.metrics:
        return Finding(gate, Verdict.FAIL, f"NEW does not state {name}: compress it with --data.", before, limit=limit)
    now = new.metrics[name]
    worse = (before - now) * (-1 if plain in LOWER_IS_BETTER else 1)
    reason = f"{name} went from {before:.5f} to {now:.5f}."
    if new.data != base.data:
        reason += f" It was measured on other rows: {new.data} and {base.data}."
    verdict = Verdict.FAIL if not worse <= limits.of("quality") else Verdict.PASS
    return Finding(gate, verdict, reason, before, now, limit=limit)
