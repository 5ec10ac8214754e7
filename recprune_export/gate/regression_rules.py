"""Gates that compare a count or size of both artifacts to a limit."""

from collections.abc import Callable
from dataclasses import dataclass

from recprune_export.evidence import Verdict
from recprune_export.gate.artifact import Artifact
from recprune_export.gate.findings import Finding, format_at_most, make_skipped_finding
from recprune_export.gate.limits import Limits
from recprune_export.gate.output.finding_rows import format_amount


@dataclass(frozen=True)
class CountRule:
    """A value of an artifact that may grow by the limit of its gate."""

    gate: str
    unit: str
    value: Callable[[Artifact], float]


RULES = (
    CountRule("parameters", "", lambda artifact: artifact.counts.total.parameters),
    CountRule("non-zeros", "", lambda artifact: artifact.counts.total.nonzero),
    CountRule("operations", "", lambda artifact: artifact.counts.operations),
    CountRule("nodes", "", lambda artifact: artifact.counts.nodes),
    CountRule("model size", "bytes", lambda artifact: artifact.counts.bytes),
)


def compare_counts(new: Artifact, base: Artifact, limits: Limits) -> list[Finding]:
    """Compare all counts and sizes."""
    findings = [compare_growth(r.gate, r.unit, r.value(new), r.value(base), limits) for r in RULES]
    partial = next((of for of in (new, base) if not of.counts.operations_complete), None)
    if partial is not None:
        reason = f"Only a lower bound of the operations of {partial.name} is known: it has a Loop, or sizes that the file does not state."
        findings = [make_skipped_finding(f.gate, reason) if f.gate == "operations" else f for f in findings]
    if new.is_bundle and base.is_bundle:
        findings.append(compare_growth("artifact size", "bytes", new.bytes, base.bytes, limits))
    else:
        findings.append(make_skipped_finding("artifact size", "Only bundles contain other files than the model."))
    return findings


def compare_growth(gate: str, unit: str, new: float, base: float, limits: Limits) -> Finding:
    """Return a failure if `new` exceeds `base` by more than the limit."""
    if limits.is_off(gate):
        return make_skipped_finding(gate, "Turned off.")
    grew = f"{gate} went from {format_amount(base, unit)} to {format_amount(new, unit)}"
    if limits.is_reported_only(gate):
        reason = f"{grew}; judged only with --limit {gate}=5%, since fewer or more {gate} are not better in themselves."
        return Finding(gate, Verdict.SKIPPED, reason, base, new, unit)
    tolerance = limits.limit_for(gate)
    allowed, words = base * (1 + tolerance), format_at_most(tolerance)
    if new > allowed:
        return Finding(
            gate,
            Verdict.FAILS,
            f"{grew}, allowed are {format_amount(allowed if unit else int(allowed), unit)}.",
            base,
            new,
            unit,
            words,
            None,
            tolerance,
        )
    return Finding(gate, Verdict.HOLDS, f"{grew}.", base, new, unit, words, None, tolerance)
