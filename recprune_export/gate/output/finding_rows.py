"""Formatting of findings, shared by the table, the Markdown and the JUnit text."""

from recprune_export.figures import format_bytes
from recprune_export.gate.findings import Finding

HEADINGS = ("gate", "BASE", "NEW", "change", "limit", "verdict")


def format_finding(finding: Finding) -> tuple[str, ...]:
    """Return the cells of a finding, one for each of HEADINGS."""
    return (
        finding.gate,
        format_amount(finding.base, finding.unit),
        format_amount(finding.new, finding.unit),
        format_change(finding),
        finding.limit,
        finding.verdict.words,
    )


def format_amount(value: float | None, unit: str) -> str:
    """Format a value with its unit.

    >>> format_amount(20_971_520, "bytes"), format_amount(0.123456, "ms"), format_amount(5218816, "")
    ('21.0 MB', '0.123 ms', '5,218,816')
    >>> format_amount(0.7771, ""), format_amount(None, "")
    ('0.77710', '')
    """
    if value is None:
        return ""
    if unit == "bytes":
        return format_bytes(value)
    if unit:
        return f"{value:.3f} {unit}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.5f}"


def format_change(finding: Finding) -> str:
    """Format the change from BASE to NEW, with its interval if there is one."""
    if finding.ratio is not None:
        low, middle, high = (
            _format_signed(100 * (r - 1), 1) for r in (finding.ratio.low, finding.ratio.estimate, finding.ratio.high)
        )
        return f"{middle} % [{low}, {high}]"
    if finding.change is not None:
        change = finding.change
        estimate, low, high = (_format_signed(value, 5) for value in (change.estimate, change.low, change.high))
        return f"{estimate} [{low}, {high}]"
    if finding.base is None or finding.new is None:
        return ""
    return f"{100 * (finding.new / finding.base - 1):+.1f} %" if finding.base else f"{finding.new - finding.base:+g}"


def _format_signed(value: float, digits: int) -> str:
    """Format a change with its sign; what is rounded to zero is not negative.

    >>> _format_signed(-1e-9, 5), _format_signed(-0.25, 1), _format_signed(3.0, 1)
    ('+0.00000', '-0.2', '+3.0')
    """
    return f"{round(value, digits) + 0.0:+.{digits}f}"
