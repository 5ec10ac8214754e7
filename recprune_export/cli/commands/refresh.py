"""`refresh`: check whether the pruning plan of a bundle is still valid for new rows."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.input_paths import BUNDLE, MODEL, ROWS_OR_ARRAYS
from recprune_export.cli.job_file import config_option
from recprune_export.cli.main_group import main
from recprune_export.cli.option_groups import GroupedCommand
from recprune_export.cli.options import (
    FILE,
    SPLIT_OPTIONS,
    label_options,
    metric_options,
    reading_options,
    source_options,
    split_options,
    streaming_options,
    undecided_option,
)
from recprune_export.cli.parse_values import parse_json_object
from recprune_export.cli.screen_options import screen_options, verbose_option
from recprune_export.cli.show_import import PYTORCH, show_import
from recprune_export.cli.tables import (
    VERDICT_STYLES,
    format_figure,
    make_console,
    make_table,
    print_json,
    print_notes,
    print_verdict,
    prints_after_work,
)

if TYPE_CHECKING:
    from rich.table import Table

    from recprune_export.data.distribution.data_profile import Drift
    from recprune_export.pipeline.compress import CompressionResult
    from recprune_export.refresh.drift_report import DriftReport
    from recprune_export.refresh.plan_regret import GroupRegret

_QUALITY_COLUMNS = ("dense, recorded", "dense, now", "artifact, recorded", "artifact, now")
_PRINTED_DRIFTS = 12


@main.command(cls=GroupedCommand)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--data",
    type=ROWS_OR_ARRAYS,
    required=True,
    help="CSV or Parquet with new rows: a file, a folder, a glob, s3://...; or NPZ.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="COLUMN", help="Label column.  [default: as when the bundle was made]"
)
@label_options
@metric_options
@click.option(
    "--model", type=MODEL, help="The dense model or its successor.  [default: the model from which the bundle was made]"
)
@source_options
@split_options
@reading_options
@streaming_options
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    default=0.002,
    show_default=True,
    metavar="DROP",
    help="Largest additional drop compared with the dense model.",
)
@click.option(
    "--max-fall",
    type=click.FloatRange(0),
    default=0.01,
    show_default=True,
    help="Largest drop compared with the recorded metric.",
)
@undecided_option
@click.option("--check-only", is_flag=True, help="Do not compress again; exit with code 1 if the plan is not valid.")
@click.option("-o", "--output", type=FILE, help="Directory of the new bundle.  [default: BUNDLE-refreshed]")
@config_option
@verbose_option
@screen_options()
def refresh(
    bundle: Path,
    data: Path,
    labels: tuple[str, ...],
    weight: str | None,
    missing_label: str | None,
    metrics: tuple[str, ...],
    group: str | None,
    model: Path | None,
    factory_args: str | None,
    separator: str | None,
    encoding: str | None,
    allow_unknown: bool,
    stream: bool | None,
    readers: int,
    max_drop: float,
    max_fall: float,
    undecided: str | None,
    check_only: bool,
    output: Path | None,
    as_json: bool,
    verbose: bool,
    **source: Any,
) -> None:
    """Check whether the plan in BUNDLE is still valid for new data.

    If it is not, the dense model is compressed again. The check compares the metric with its recorded value and with the dense
    model, measures the drift of ids, numbers and labels, and tests whether the importance score would select the same channels
    again. Exit code 0: the plan is valid, or the model was compressed again; 1: the plan is not valid; 5: inconclusive,
    nothing is written.
    """
    from recprune_export.bundle.archive.packing import SUFFIX
    from recprune_export.bundle.write import check_target
    from recprune_export.distributed.main_process import call_on_main
    from recprune_export.evidence import Verdict
    from recprune_export.settings import DataSettings, EvaluationSettings, LabelSettings, RowSettings, SplitSettings

    split = SplitSettings(**{name: source.pop(name) for name in SPLIT_OPTIONS})
    source["factory_args"] = parse_json_object(factory_args)
    target = output or bundle.with_name(f"{bundle.resolve().name.removesuffix(SUFFIX)}-refreshed")
    if not check_only:
        call_on_main(partial(check_target, target))
    with show_import(PYTORCH):
        from recprune_export.cli.compression_tables import print_result
        from recprune_export.refresh.drift_report import make_drift_report, recompress

    report = make_drift_report(
        bundle, data, labels=labels, model=model, source=source, max_drop=max_drop, max_fall=max_fall,
        row_settings=RowSettings(
            LabelSettings(weight, missing_label),
            split,
            reading=DataSettings(separator, encoding, allow_unknown, stream, readers),
        ),
        evaluation=EvaluationSettings(metrics, group), undecided=Verdict(undecided or "undecided"),
    )  # fmt: skip
    result = None
    if not as_json:
        print_drift_report(report)
    try:
        if call_on_main(lambda: report.verdict) is Verdict.FAILS and not check_only:
            result = recompress(report, target, sys.argv[1:])
    finally:
        if as_json:
            print_refresh_json(report, result)
    if result is None:
        report.raise_verdict()
    elif not as_json:
        print_result(result, as_json=False, verbose=verbose)


@prints_after_work
def print_drift_report(report: "DriftReport") -> None:
    """Print the quality, drift, regrets and verdict of a bundle."""
    console, quality = make_console(), report.quality
    print_notes(report.notes)
    table = make_table(f"Quality on {quality.rows:,} new rows, {report.rows.description}", "", *_QUALITY_COLUMNS)
    for name in quality.now["pruned"]:
        models = ((when, model) for model in ("dense", "pruned") for when in (quality.then, quality.now))
        table.add_row(name, *(format_figure(when.get(model, {}).get(name), ".4f") for when, model in models))
    console.print(table)
    if report.drifts:
        console.print(_make_drift_table(report.drifts))
    if report.regrets:
        console.print(_make_regret_table(report.regrets))
    print_verdict(report.findings, report.sentence)


@prints_after_work
def print_refresh_json(report: "DriftReport", result: "CompressionResult | None") -> None:
    """Print the report and, if the model was compressed again, the new bundle and its manifest."""
    from recprune_export.bundle._verify import read_manifest

    new = {} if result is None else {"output": result.target, "manifest": read_manifest(result.target).to_dict()}
    print_json({**report.to_dict(), **new})


def _make_drift_table(drifts: Sequence["Drift"]) -> "Table":
    from recprune_export.data.distribution.stability_index import MAJOR, NOTICEABLE

    table = make_table(
        f"Drift: population stability index (below {NOTICEABLE:g} none, from {MAJOR:g} on major)",
        "field", "index beyond chance [95 %]", "unknown or mean, before", "now",
    )  # fmt: skip
    for drift in drifts[:_PRINTED_DRIFTS]:
        form = ".1%" if drift.kind == "ids" else ".3g"
        cells = (format_figure(value, form) for value in (drift.before, drift.now))
        table.add_row(drift.name, drift.format_index(), *cells, style=VERDICT_STYLES.get(drift.verdict))
    if len(drifts) > _PRINTED_DRIFTS:
        table.add_row(f"{len(drifts) - _PRINTED_DRIFTS} more with less drift", "", "", "")
    return table


def _make_regret_table(regrets: Sequence["GroupRegret"]) -> "Table":
    table = make_table(
        "Ranking on the new rows: predicted loss",
        "group", "kind", "kept", "kept again", "of the plan", "of the best plan", "without the group",
    )  # fmt: skip
    for regret in regrets:
        again = "rotated" if regret.overlap is None else f"{regret.overlap} of {regret.pruned_width}"
        table.add_row(
            regret.label,
            regret.kind,
            f"{regret.pruned_width} of {regret.width}",
            again,
            f"{regret.loss:.2g}",
            f"{regret.optimal_loss:.2g}",
            f"{regret.total:.2g}",
        )
    return table
