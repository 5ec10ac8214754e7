"""`reapply`: apply the plan of a bundle to new weights of the same model."""

import sys
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
    reading_options,
    source_options,
    split_options,
    streaming_options,
    undecided_option,
)
from recprune_export.cli.parse_values import parse_json_object
from recprune_export.cli.screen_options import screen_options, verbose_option
from recprune_export.cli.show_import import PYTORCH, show_import
from recprune_export.cli.tables import print_json, print_verdict, prints_after_work

if TYPE_CHECKING:
    from recprune_export.reapply import ReappliedPlan


@main.command(cls=GroupedCommand)
@click.argument("bundle", type=BUNDLE)
@click.option("--model", type=MODEL, required=True, help="The new weights: a model of the same architecture.")
@source_options
@click.option(
    "--data",
    type=ROWS_OR_ARRAYS,
    help="Rows for statistics, fine-tuning and evaluation.  [default: the rows that --calibration-rows kept in BUNDLE]",
)
@click.option(
    "--label", "labels", multiple=True, metavar="COLUMN", help="Label column.  [default: as when the bundle was made]"
)
@label_options
@split_options
@reading_options
@streaming_options
@click.option("--epochs", type=click.IntRange(0), default=0, show_default=True, help="Epochs of fine-tuning.")
@click.option(
    "--quick/--no-quick",
    default=True,
    help="Measure latency at one batch size only, without cold starts and report page.  [default: quick]",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    default=0.002,
    show_default=True,
    metavar="DROP",
    help="Largest additional drop compared with the dense model.",
)
@undecided_option
@click.option("--sign", type=FILE, metavar="KEY.PEM", help="Sign the manifest with this Ed25519 key.")
@click.option("-o", "--output", type=FILE, help="Directory of the new bundle.  [default: BUNDLE-reapplied]")
@config_option
@verbose_option
@screen_options()
def reapply(
    bundle: Path,
    model: Path,
    data: Path | None,
    labels: tuple[str, ...],
    weight: str | None,
    missing_label: str | None,
    factory_args: str | None,
    separator: str | None,
    encoding: str | None,
    allow_unknown: bool,
    stream: bool | None,
    readers: int,
    epochs: int,
    quick: bool,
    max_drop: float,
    undecided: str | None,
    sign: Path | None,
    output: Path | None,
    as_json: bool,
    verbose: bool,
    **source: Any,
) -> None:
    """Apply the plan of BUNDLE to new weights of the same model, and write a bundle of them.

    Widths and bits stay; channels, rotations, zeros and scales are chosen anew. The verdict says whether the plan still holds. Exit
    code 0: it does; 1: it does not; 5: the rows cannot tell. The new bundle is written in each case.
    """
    from recprune_export.bundle.archive.packing import SUFFIX
    from recprune_export.evidence import Verdict
    from recprune_export.settings import DataSettings, LabelSettings, RowSettings, SplitSettings

    split = SplitSettings(**{name: source.pop(name) for name in SPLIT_OPTIONS})
    source["factory_args"] = parse_json_object(factory_args)
    with show_import(PYTORCH):
        from recprune_export.reapply import reapply as run

    applied = run(
        bundle,
        model,
        output or bundle.with_name(f"{bundle.resolve().name.removesuffix(SUFFIX)}-reapplied"),
        data=data,
        labels=labels,
        source=source,
        row_settings=RowSettings(
            LabelSettings(weight, missing_label),
            split,
            reading=DataSettings(separator, encoding, allow_unknown, stream, readers),
        ),
        epochs=epochs,
        quick=quick,
        max_drop=max_drop,
        undecided=Verdict(undecided or "undecided"),
        sign=sign,
        command=sys.argv[1:],
    )
    print_reapplied(applied, as_json=as_json, verbose=verbose)
    applied.raise_verdict()


@prints_after_work
def print_reapplied(applied: "ReappliedPlan", *, as_json: bool, verbose: bool) -> None:
    """Print the new bundle, the verdict on the plan, and the command that compares both bundles."""
    from recprune_export.bundle._verify import read_manifest
    from recprune_export.cli.compression_tables import print_result

    if as_json:
        return print_json({**applied.to_dict(), "manifest": read_manifest(applied.result.target).to_dict()})
    print_result(applied.result, as_json=False, verbose=verbose, baseline=applied.baseline)
    print_verdict(applied.findings, applied.sentence)
