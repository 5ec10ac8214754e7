"""`check`: a regression gate in CI."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.input_paths import ARTIFACT, DATA
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, undecided_option
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.show_import import ONNXRUNTIME, show_import
from recprune_export.cli.tables import VERDICT_STYLES, make_console, make_table, print_json, prints_after_work
from recprune_export.errors import UsageError
from recprune_export.installation import require_whole_tool
from recprune_export.progress import print_warning
from recprune_export.terminal_text import escape_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recprune_export.gate._check import Check
    from recprune_export.gate.latency.calibration import Calibration
    from recprune_export.metrics._paired_change import MetricChange


@main.command(context_settings={"allow_extra_args": True})
@click.argument("new", type=ARTIFACT)
@click.option("--against", "base", type=ARTIFACT, metavar="BASE", help="The artifact that NEW replaces.")
@click.option("--calibrate", is_flag=True, help="Report the smallest regression that this machine can detect.")
@click.option(
    "--max-regression", default="5%", show_default=True, help="Largest allowed regression of latency, counts and sizes."
)
@click.option(
    "--max-drop",
    type=float,
    default=0.001,
    show_default=True,
    metavar="DROP",
    help="Largest allowed drop of each quality metric.",
)
@click.option(
    "--data",
    type=DATA,
    help="Labeled rows on which both artifacts are evaluated; requires PyTorch.  [default: the recorded metrics]",
)
@click.option("--limit", "limits", multiple=True, metavar="GATE=5%|off", help="Limit of one gate. May be repeated.")
@click.option(
    "--latency-batch-sizes", default="1,32,256", show_default=True, help="Batch sizes for the latency measurement."
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of threads for the latency measurement.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0),
    default=40.0,
    show_default=True,
    help="Seconds for the latency of each ONNX file, and for the load times. At least 8 processes are measured, even if they take longer.",
)
@undecided_option
@click.option("--junit", "junit_file", type=FILE, help="Write the result as JUnit XML to this file.")
@click.option("--markdown", "markdown_file", type=FILE, help="Write the result as Markdown to this file.")
@click.option("--report", "report_file", type=FILE, help="Write the result as an HTML page to this file.")
@click.option(
    "--history", "history_file", type=FILE, help="Append the result to this .jsonl file; --report plots the trend."
)
@click.option(
    "--benchmark-json", "benchmark_file", type=FILE, help="Write the figures for github-action-benchmark to this file."
)
@screen_options()
@click.pass_context
def check(
    context: click.Context,
    new: Path,
    base: Path | None,
    calibrate: bool,
    max_regression: str,
    max_drop: float,
    data: Path | None,
    limits: tuple[str, ...],
    latency_batch_sizes: str,
    threads: int,
    time_limit: float,
    undecided: str | None,
    junit_file: Path | None,
    markdown_file: Path | None,
    report_file: Path | None,
    history_file: Path | None,
    benchmark_file: Path | None,
    as_json: bool,
) -> None:
    """Compare NEW with BASE: a regression gate for CI.

    The gates cover latency, sizes, quality and the signature; only ONNX Runtime is required. NEW and BASE are bundles or
    plain .onnx files; some gates are skipped for plain files. Exit code 0: no regression;
    1: a regression; 5: inconclusive. In GitHub Actions, the Markdown is added to the step summary, and each gate that does
    not hold becomes an annotation on the pull request.
    """
    if context.args:
        raise click.UsageError(f"check takes one artifact: write `check {new} --against {context.args[0]}`.")
    if calibrate == (base is not None):
        raise click.UsageError("Give --against BASE to compare two artifacts, or --calibrate to test this machine.")
    with show_import(ONNXRUNTIME):
        from recprune_export.bundle.archive.unpacking import open_bundle_path
        from recprune_export.gate.limits import Limits, parse_fraction, parse_gate_limits
        from recprune_export.report._write_page import check_page_path
        from recprune_export.settings import parse_batch_sizes

    outputs = CheckOutputs(junit_file, markdown_file, report_file, history_file, benchmark_file)
    outputs.check()
    if report_file is not None:
        check_page_path(report_file, tuple(path for path in (new, base) if path is not None))
    if data is not None:
        require_whole_tool("check --data")
    tolerance = parse_fraction(max_regression, "--max-regression")
    gate_limits = Limits(tolerance, max_drop, parse_gate_limits(limits))
    measurement: dict[str, Any] = {
        "batches": parse_batch_sizes(latency_batch_sizes),
        "threads": threads,
        "time_limit": time_limit,
    }
    if base is None:
        from recprune_export.gate.latency.calibration import calibrate as run_calibration

        with open_bundle_path(new) as folder:
            calibration = run_calibration(folder, tolerance=gate_limits.limit_for("latency"), **measurement)
        return print_calibration(calibration, as_json=as_json)
    from recprune_export.evidence import Verdict
    from recprune_export.gate._check import check as run

    with open_bundle_path(new) as new_folder, open_bundle_path(base) as base_folder:
        if data is not None:
            measurement["quality"] = _measure_quality(base_folder, new_folder, data)
        result = run(new_folder, base_folder, gate_limits, undecided=Verdict(undecided or "undecided"), **measurement)
    result = replace(result, new=str(new), base=str(base))
    print_check(result, as_json=as_json)
    failures = write_files(result, outputs, (new, base))
    result.raise_verdict()
    if failures:
        raise failures[0]


@dataclass(frozen=True)
class CheckOutputs:
    """The output files of the options; None for those that are not written."""

    junit: Path | None = None
    markdown: Path | None = None
    report: Path | None = None
    history: Path | None = None
    benchmark: Path | None = None

    def check(self) -> None:
        """Raise `UsageError` for a file that cannot be written, or for an invalid history file, before the measurement."""
        from recprune_export.gate.history import read_history
        from recprune_export.output_files import check_output_file

        for path in (self.junit, self.markdown, self.history):
            if path is not None:
                check_output_file(path, replaced=False)
        if self.benchmark is not None:
            check_output_file(self.benchmark)
        if self.history is not None:
            read_history(self.history)


def write_files(check: "Check", outputs: CheckOutputs, bundles: Sequence[Path]) -> list[UsageError]:
    """Write the output files and the step summary; return the errors of files that cannot be written.

    `CheckOutputs.check` tested them, but the disk may have filled up since: the verdict has priority.
    """
    from recprune_export.gate.output.annotations import render_annotations
    from recprune_export.gate.output.benchmark_json import write_benchmark
    from recprune_export.gate.output.junit import write_junit
    from recprune_export.gate.output.markdown import write_markdown
    from recprune_export.workflow_commands import writes_github_log

    if writes_github_log():
        for command in render_annotations(check):
            click.echo(command, err=True)
    writers: list[Callable[[], object]] = [partial(write_markdown, check, outputs.markdown)]
    if outputs.junit is not None:
        writers.append(partial(write_junit, check, outputs.junit))
    if outputs.benchmark is not None:
        writers.append(partial(write_benchmark, check, outputs.benchmark))
    if outputs.history is not None:
        from recprune_export.gate.history import append_record, make_record

        writers.append(partial(append_record, outputs.history, make_record(check)))
    if outputs.report is not None:
        writers.append(partial(_write_report, check, outputs, bundles))
    failures = []
    for write in writers:
        try:
            write()
        except UsageError as error:
            print_warning(str(error))
            failures.append(error)
    return failures


def _write_report(check: "Check", outputs: CheckOutputs, bundles: Sequence[Path]) -> None:
    from recprune_export.gate.history import read_history
    from recprune_export.report._write_page import write_page
    from recprune_export.report.check_page import render_check_report

    assert outputs.report is not None
    history = () if outputs.history is None else read_history(outputs.history)
    write_page(render_check_report(check, history), outputs.report, bundles)


def _measure_quality(base: Path, new: Path, data: Path) -> "Mapping[str, MetricChange]":
    if not (base.is_dir() and new.is_dir()):
        raise click.UsageError("--data requires two bundles: a plain ONNX file does not specify its inputs and labels.")
    from recprune_export.refresh.paired_quality import compare_on_rows

    return compare_on_rows(base, new, data)


@prints_after_work
def print_check(check: "Check", *, as_json: bool) -> None:
    """Print every gate, and the verdict."""
    from recprune_export.evidence import Verdict
    from recprune_export.gate.output.finding_rows import HEADINGS, format_finding

    if as_json:
        return print_json(check.to_dict())
    console = make_console()
    table = make_table(f"{check.new} against {check.base}", *HEADINGS)
    for finding in check.findings:
        table.add_row(*format_finding(finding), style=VERDICT_STYLES.get(finding.verdict))
    console.print(table)
    if check.latency:
        batches = list(check.latency)
        tails = make_table("Latency in ms, p50 / p95 / p99, not judged", "", *(f"batch {batch}" for batch in batches))
        times = [check.latency[batch].to_dict()["milliseconds"] for batch in batches]
        for name in ("BASE", "NEW"):
            tails.add_row(
                name, *(" / ".join(f"{ms:.3f}" for ms in milliseconds[name].values()) for milliseconds in times)
            )
        console.print(tails)
    for finding in check.findings:
        if finding.verdict is not Verdict.HOLDS:
            console.print(
                escape_line(f"{finding.gate}: {finding.reason}"), highlight=False, soft_wrap=True, markup=False
            )
    console.print(f"Verdict: {check.verdict.text}, after {check.seconds:.1f} s", highlight=False)


def print_calibration(calibration: "Calibration", *, as_json: bool) -> None:
    """Print the smallest regression that this machine can resolve."""
    from recprune_export.number_formats import format_estimate

    if as_json:
        return print_json(calibration.to_dict())
    console = make_console()
    table = make_table(
        f"{calibration.name} against itself, {calibration.seconds:.0f} s", "", "ratio", "processes", "resolved"
    )
    for batch, resolution in calibration.resolutions.items():
        ratio = format_estimate(resolution.ratio, ".3f")
        table.add_row(f"batch {batch}", ratio, str(resolution.processes), f"{resolution.smallest:.1%}")
    console.print(table)
    console.print(
        f"With --max-regression {calibration.tolerance:.1%} and this time limit, a regression of "
        f"{calibration.detectable:.1%} or more is detected with a probability of 95 % at each batch size.",
        highlight=False,
    )
    if not calibration.decides:
        console.print(
            "A comparison of equal artifacts may be inconclusive: raise --time-limit or --max-regression, or use a less busy machine.",
            highlight=False,
        )
