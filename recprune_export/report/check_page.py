"""Report page of a check: the verdict, the findings against NEW, and all gates with their values."""

from collections.abc import Sequence

import numpy as np

from recprune_export.evidence import Verdict
from recprune_export.gate._check import Check
from recprune_export.gate.findings import Finding
from recprune_export.gate.gate_constants import CONFIDENCE
from recprune_export.gate.history import CheckRecord
from recprune_export.gate.latency.sequential_sampling import NEW
from recprune_export.gate.output.finding_rows import HEADINGS, format_finding
from recprune_export.report.history_trends import draw_history
from recprune_export.report.numbers import format_milliseconds
from recprune_export.report.page import (
    Cell,
    Headline,
    Page,
    PageFigure,
    PageTable,
    Section,
    code_markup,
    render_page,
    verdict_markup,
)
from recprune_export.report.plots.ratios import PlottedRatio, draw_ratios
from recprune_export.report.plots.strips import draw_strips
from recprune_export.validation.latency.statistics import DISTRIBUTION, distribution

SIGNS = {Verdict.HOLDS: "✓", Verdict.FAILS: "✕", Verdict.UNDECIDED: "?", Verdict.SKIPPED: "–"}
VERDICT_TEXT = {
    Verdict.HOLDS: "NEW is not worse than BASE beyond the limits.",
    Verdict.FAILS: "NEW is worse than BASE beyond a limit.",
    Verdict.UNDECIDED: "The comparison of NEW and BASE is inconclusive with these measurements and rows.",
}
PROBLEMS = (Verdict.FAILS, Verdict.UNDECIDED)
COLUMNS = ("median", "95th percentile", "99th percentile", "slowest")


def render_check_report(check: Check, history: Sequence[CheckRecord] = ()) -> str:
    """Return the page as HTML; `history`: the checks to draw, the oldest first, this one included."""
    problems = [f for f in check.findings if f.verdict in PROBLEMS]
    judged = [f for f in check.findings if f.verdict is not Verdict.SKIPPED]
    passed = sum(f.verdict is Verdict.HOLDS for f in judged)
    sections = (_gates(check.findings), _growth(judged), draw_history(history), _latency(check), _environment(check))
    page = Page(
        title=f"Check: {check.verdict.text}",
        kicker="Two artifacts compared",
        facts=(code_markup(check.new) + " against " + code_markup(check.base), f"It took {check.seconds:.0f} s."),
        sections=tuple(section for section in sections if section is not None),
        headlines=(
            Headline("verdict", f"{SIGNS[check.verdict]} {check.verdict.text}", (VERDICT_TEXT[check.verdict],)),
            Headline("gates that hold", f"{passed} of {len(judged)}", _skipped(check.findings)),
        ),
        notes=tuple(_describe_problem(finding) for finding in problems),
        verdict=check.verdict.value,
        footer=("NEW is the artifact that would replace BASE.",),
    )
    return render_page(page)


def _describe_problem(finding: Finding) -> str:
    """Return the reason of a gate, with its name if the reason does not begin with it."""
    return finding.reason if finding.reason.startswith(finding.gate) else f"{finding.gate}: {finding.reason}"


def _skipped(findings: Sequence[Finding]) -> tuple[str, ...]:
    skipped = [f.gate for f in findings if f.verdict is Verdict.SKIPPED]
    return (f"Not judged: {', '.join(skipped)}.",) if skipped else ("Every gate was judged.",)


def _gates(findings: Sequence[Finding]) -> Section:
    rows = []
    for finding in findings:
        gate, *figures, _ = format_finding(finding)
        rows.append(
            (gate, verdict_markup(finding.verdict.value, SIGNS[finding.verdict], finding.verdict.text), *figures)
        )
    gate, *figures, verdict = HEADINGS
    tables = [PageTable("Values compared by each gate", (gate, verdict, *figures), tuple(rows), frozenset({0, 1, 5}))]
    gates_by_reason: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict not in PROBLEMS:  # the reasons of other gates are at the top of the page
            gates_by_reason.setdefault(finding.reason, []).append(finding.gate)
    reasons = tuple((", ".join(gates), reason) for reason, gates in gates_by_reason.items())
    if reasons:
        caption = "Findings of gates that hold or were not judged"
        tables.append(PageTable(caption, ("gate", "finding"), reasons, frozenset({0, 1})))
    return Section("gates", "Gates", tables=tuple(tables))


def _growth(findings: Sequence[Finding]) -> Section | None:
    ratios = [ratio for ratio in map(_ratio, findings) if ratio is not None]
    if not ratios:
        return None
    title = "Increase from BASE to NEW"
    picture = draw_ratios("growth", title, ratios, "increase from BASE to NEW; right is worse")
    explanation = (
        f"A dot is the change, a line its {CONFIDENCE:.0%} interval if it was measured, and the vertical mark the limit. "
        "A gate fails if the whole interval lies beyond the limit, and is inconclusive if the limit lies inside the interval.",
    )
    return Section("growth", "Change against the limits", explanation, (PageFigure(picture, title),))


def _ratio(finding: Finding) -> PlottedRatio | None:
    """Return the growth of a finding that has a relative limit; None for others, such as metrics."""
    if finding.most is None or not finding.base or finding.new is None:
        return None
    name, verdict = finding.gate, finding.verdict.value
    if finding.ratio is None:
        return PlottedRatio(name, finding.new / finding.base - 1, verdict, most=finding.most)
    low, growth, high = (r - 1 for r in (finding.ratio.low, finding.ratio.estimate, finding.ratio.high))
    return PlottedRatio(name, growth, verdict, low, high, finding.most)


def _latency(check: Check) -> Section | None:
    if not check.latency:
        return None
    figures = []
    for batch, evidence in check.latency.items():
        distributions = {backend: distribution(np.array(times)) for backend, times in evidence.times.items()}
        by_percent = {
            backend: dict(zip(DISTRIBUTION, percentiles, strict=True)) for backend, percentiles in distributions.items()
        }
        rows = tuple(
            (backend, *(format_milliseconds(percentiles[p]) for p in (50, 95, 99, 100)))
            for backend, percentiles in by_percent.items()
        )
        picture = draw_strips(f"latency-{batch}", f"Latency at batch {batch}", by_percent, (NEW,))
        caption = f"Batch {batch}, {len(evidence.log_ratios)} processes each"
        figures.append(PageFigure(picture, caption, PageTable(f"Milliseconds at batch {batch}", ("", *COLUMNS), rows)))
    threads = "One thread" if check.threads == 1 else f"{check.threads} threads"
    explanation = (
        f"{threads}; all processes together. A strip is thin from the 1st to the 99th percentile, thicker from the 5th to the "
        "95th and thickest over the middle half; the mark is the median. The gate judges the tenth percentiles of each process.",
    )
    return Section("latency", "Latency", explanation, tuple(figures))


def _environment(check: Check) -> Section | None:
    environment = check.environment
    names = (("cpu", "Processor"), ("cores", "Available cores"), ("system", "System"), ("python", "Python"))
    rows: list[tuple[Cell, ...]] = [
        (label, str(environment[key])) for key, label in names if environment.get(key) is not None
    ]
    rows += [(name, version) for name, version in environment.get("packages", {}).items() if version is not None]
    if not rows:
        return None
    return Section(
        "environment",
        "Environment",
        tables=(PageTable("Machine and versions", ("name", "value"), tuple(rows), frozenset({0, 1})),),
        gist=str(environment.get("cpu") or ""),
        is_open=False,
    )
