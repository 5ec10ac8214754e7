"""The gate in CI."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE


@main.command()
@click.argument("new", type=FILE)
@click.option("--against", "base", type=FILE, metavar="BASE", help="The artifact that NEW is to replace.")
@click.option("--calibrate", is_flag=True, help="Tell the smallest regression that this machine can resolve.")
@click.option("--max-regression", default="5%", show_default=True, help="Of latency, counts and sizes.")
@click.option("--max-drop", type=float, default=0.001, show_default=True, help="Of each quality metric.")
@click.option("--limit", "limits", multiple=True, metavar="GATE=5%|off", help="Of one gate; may be repeated.")
@click.option(
    "--latency-batch-sizes", default="1,32,256", show_default=True, help="Batch sizes of the latency measurement."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the latency measurement.")
@click.option(
    "--time-limit", type=click.FloatRange(0), default=40.0, show_default=True, help="Seconds of latency measurement."
)
@click.option("--undecided", type=click.Choice(["fail", "pass"]), help="What it counts for.  [default: exit code 5]")
@click.option("--junit", "junit_file", type=FILE, help="Write JUnit XML.")
@click.option("--markdown", "markdown_file", type=FILE, help="Write Markdown.")
@click.option("--report", "report_file", type=FILE, help="Write a page in HTML.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def check(
    new: Path,
    base: Path | None,
    calibrate: bool,
    max_regression: str,
    max_drop: float,
    limits: tuple[str, ...],
    latency_batch_sizes: str,
    threads: int,
    time_limit: float,
    undecided: str | None,
    junit_file: Path | None,
    markdown_file: Path | None,
    report_file: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare NEW with BASE, as a gate in CI: latency, sizes, quality, signature. Needs ONNX Runtime alone.

    Both are bundles, or plain .onnx files, of which only what can be known is judged. Exit code 0: no regression;
    1: a regression; 5: the measurements leave it open. In GitHub Actions the step summary gets the Markdown.
    """
    from recprune_export.bundle.archive.unpacking import open_bundle_path
    from recprune_export.console.check import print_calibration, print_check
    from recprune_export.gate.limits import Limits, parse_fraction, parse_gate_limits
    from recprune_export.progress import quiet as silently
    from recprune_export.settings import parse_batch_sizes

    if calibrate == (base is not None):
        raise click.UsageError("Give --against BASE to compare, or --calibrate to try the machine.")
    tolerance = parse_fraction(max_regression, "--max-regression")
    given = Limits(tolerance, max_drop, parse_gate_limits(limits))
    measured: dict[str, Any] = {
        "batches": parse_batch_sizes(latency_batch_sizes),
        "threads": threads,
        "time_limit": time_limit,
    }
    if base is None:
        from recprune_export.gate.latency.calibration import calibrate as try_machine

        with silently(quiet or as_json), open_bundle_path(new) as folder:
            calibration = try_machine(folder, tolerance=given.limit_for("latency"), **measured)
        return print_calibration(calibration, as_json=as_json)
    from recprune_export.gate.check import check as run
    from recprune_export.gate.findings import Verdict
    from recprune_export.gate.output.junit import write_junit
    from recprune_export.gate.output.markdown import write_markdown

    with silently(quiet or as_json), open_bundle_path(new) as new_folder, open_bundle_path(base) as base_folder:
        checked = run(new_folder, base_folder, given, undecided=Verdict(undecided or "undecided"), **measured)
    checked = replace(checked, new=str(new), base=str(base))
    print_check(checked, as_json=as_json)
    if junit_file is not None:
        write_junit(checked, junit_file)
    write_markdown(checked, markdown_file)
    if report_file is not None:
        from recprune_export.report.check_page import render_check_report
        from recprune_export.report.write_page import write_page

        write_page(render_check_report(checked), report_file, (new, base))
    checked.raise_verdict()
