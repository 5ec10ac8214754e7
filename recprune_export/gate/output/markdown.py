"""Write a check as Markdown, to a file and to the summary of a GitHub Actions step."""

import os
from pathlib import Path

from recprune_export.errors import UsageError
from recprune_export.evidence import Verdict
from recprune_export.gate._check import Check
from recprune_export.gate.output.finding_rows import HEADINGS, format_finding
from recprune_export.markdown_text import code_span, escape_markdown
from recprune_export.output_files import optional_output

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_SIGNS = {Verdict.HOLDS: "✅", Verdict.FAILS: "❌", Verdict.UNDECIDED: "❔", Verdict.SKIPPED: "⏭️"}


def render_markdown(check: Check) -> str:
    """Return a heading, a sentence for each gate that did not pass, a table of all gates, and latency percentiles."""
    lines = [f"## {_SIGNS[check.verdict]} recprune-export check: {check.verdict.text}", ""]
    lines += [f"{code_span(check.new)} against {code_span(check.base)}, {check.seconds:.0f} s", ""]
    problems = [f for f in check.findings if f.verdict in (Verdict.FAILS, Verdict.UNDECIDED)]
    lines += [f"- **{escape_markdown(finding.gate)}**: {escape_markdown(finding.reason)}" for finding in problems]
    if problems:
        lines.append("")
    lines += _table(
        HEADINGS, [(*format_finding(f)[:-1], f"{_SIGNS[f.verdict]} {f.verdict.text}") for f in check.findings]
    )
    if check.latency:
        lines += ["", f"Latency in ms, {check.threads} thread(s), all processes together, not judged:", ""]
        tails = [
            (f"batch {batch}", name, *(f"{ms:.3f}" for ms in times.values()))
            for batch, evidence in check.latency.items()
            for name, times in evidence.to_dict()["milliseconds"].items()
        ]
        lines += _table(("", "", "p50", "p95", "p99"), tails)
    return "\n".join(lines) + "\n"


def write_markdown(check: Check, path: Path | None) -> None:
    """Write Markdown to `path`, and append it to the step summary of GitHub Actions, if there is one.

    A step summary that cannot be written is a warning on stderr. Raises `UsageError` if `path` cannot be written.
    """
    text, summary = render_markdown(check), os.environ.get(STEP_SUMMARY)
    if summary:
        with optional_output(f"The step summary {summary}"), Path(summary).open("a", encoding="utf-8") as file:
            file.write(text)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"Markdown cannot be written to {path}: {error.strerror}.") from error


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [" | ".join(map(escape_markdown, line)) for line in (headings, *rows)]
    return [f"| {cells[0]} |", "|" + "---|" * len(headings), *(f"| {line} |" for line in cells[1:])]
