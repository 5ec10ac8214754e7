"""What `check` says."""

from typing import TYPE_CHECKING

from recprune_export.console.tables import make_console, make_table, print_json

if TYPE_CHECKING:
    from recprune_export.gate.check import Check
    from recprune_export.gate.latency.calibration import Calibration


def print_check(check: "Check", *, as_json: bool) -> None:
    """Show every gate, and the verdict."""
    from recprune_export.gate.findings import Verdict
    from recprune_export.gate.output.finding_rows import HEADINGS, format_finding

    if as_json:
        return print_json(check.to_dict())
    console = make_console()
    table = make_table(f"{check.new} against {check.base}", *HEADINGS)
    styles = {Verdict.FAIL: "red", Verdict.UNDECIDED: "yellow", Verdict.SKIPPED: "dim"}
    for finding in check.findings:
        table.add_row(*format_finding(finding), style=styles.get(finding.verdict))
    console.print(table)
    if check.latency:
        batches = list(check.latency)
        tails = make_table("Latency in ms, p50 / p95 / p99, not judged", "", *(f"batch {batch}" for batch in batches))
        times = [check.latency[batch].to_dict()["milliseconds"] for batch in batches]
        for name in ("BASE", "NEW"):
            tails.add_row(name, *(" / ".join(f"{ms:.3f}" for ms in of[name].values()) for of in times))
        console.print(tails)
    for finding in check.findings:
        if finding.verdict is not Verdict.PASS:
            console.print(f"{finding.gate}: {finding.reason}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"Verdict: {check.verdict.value}, after {check.seconds:.1f} s", highlight=False)


def print_calibration(calibration: "Calibration", *, as_json: bool) -> None:
    """Say what this machine can tell apart."""
    if as_json:
        return print_json(calibration.to_dict())
    console = make_console()
    table = make_table(
        f"{calibration.name} against itself, {calibration.seconds:.0f} s", "", "ratio", "processes", "resolved"
    )
    for batch, found in calibration.resolutions.items():
        ratio = f"{found.ratio.estimate:.3f} [{found.ratio.low:.3f}, {found.ratio.high:.3f}]"
        table.add_row(f"batch {batch}", ratio, str(found.processes), f"{found.smallest:.1%}")
    console.print(table)
    console.print(
        f"In this time a regression of {calibration.detectable:.1%} or more is found with --max-regression "
        f"{calibration.tolerance:.1%}, 95 times in 100 at each batch size.",
        highlight=False,
    )
    if not calibration.decides:
        console.print(
            "Equal artifacts may stay undecided: give more --time-limit, a larger --max-regression, or a quieter machine.",
            highlight=False,
        )
