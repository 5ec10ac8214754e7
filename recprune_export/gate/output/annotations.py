"""Annotations of GitHub Actions: a workflow command for each gate that fails or is inconclusive."""

from recprune_export.evidence import Verdict
from recprune_export.gate._check import Check
from recprune_export.terminal_text import escape_line
from recprune_export.workflow_commands import render_command

_LEVELS = {Verdict.FAILS: "error", Verdict.UNDECIDED: "warning"}


def render_annotations(check: Check) -> list[str]:
    """Return the commands, one line each; an undecided gate is an error if it counts as a failure."""
    failed = {finding.gate for finding in check.failed()}
    return [
        render_command(
            "error" if finding.gate in failed else _LEVELS[finding.verdict],
            escape_line(finding.reason),
            title=escape_line(f"recprune-export check: {finding.gate}"),
        )
        for finding in check.findings
        if finding.verdict in _LEVELS
    ]
