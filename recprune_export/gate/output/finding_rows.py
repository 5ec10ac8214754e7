"""Formatting of findings, shared by the table, the Markdown and the JUnit text."""

from recprune_export.evidence import Estimate
from recprune_export.gate.findings import Finding
from recprune_export.number_formats import format_bytes, format_estimate

METRIC_CHANGE = "+z.5f"  # the format of a change of a metric
HEADINGS = ("gate", "BASE", "NEW", "change", "limit", "verdict")


def format_finding(finding: Finding) -> tuple[str, ...]:
    """Return the cells of a finding, one for each of HEADINGS."""
    return (
        finding.gate,
        format_amount(finding.base, finding.unit),
        format_amount(finding.new, finding.unit),
        format_change(finding),
        finding.limit,
        finding.verdict.text,
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
        return format_growth(finding.ratio)
    if finding.change is not None:
        return format_estimate(finding.change, METRIC_CHANGE)
    if finding.base is None or finding.new is None:
        return ""
    return f"{100 * (finding.new / finding.base - 1):+.1f} %" if finding.base else f"{finding.new - finding.base:+g}"


def format_growth(ratio: Estimate) -> str:
    """Format NEW / BASE as the growth from BASE, with its interval.

    >>> format_growth(Estimate(1.0 - 1e-9, 0.9975, 1.03))
    '+0.0 % [-0.2, +3.0]'
    """
    growth = ratio.apply(lambda r: 100 * (r - 1))
    return f"{growth.estimate:+z.1f} % [{growth.low:+z.1f}, {growth.high:+z.1f}]"
