"""Does a bundle still hold on new rows?"""

import sys
from pathlib import Path
from typing import Any

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE, source_options
from recprune_export.cli.parse_values import parse_json_object


@main.command()
@click.argument("bundle", type=FILE)
@click.option("--data", type=FILE, required=True, help="CSV, Parquet or NPZ with new rows.")
@click.option("--label", "labels", multiple=True, metavar="COLUMN", help="[default: as when the bundle was made]")
@click.option(
    "--model", type=FILE, help="The dense model, or its successor.  [default: the file the bundle was made of]"
)
@source_options
@click.option(
    "--max-drop", type=click.FloatRange(0), default=0.002, show_default=True, help="Further below the dense model."
)
@click.option(
    "--max-fall", type=click.FloatRange(0), default=0.01, show_default=True, help="Below the metric that was recorded."
)
@click.option("--check-only", is_flag=True, help="Do not compress again; exit code 1 where the plan does not hold.")
@click.option("-o", "--output", type=FILE, help="Directory of the new bundle.  [default: BUNDLE-refreshed]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def refresh(
    bundle: Path,
    data: Path,
    labels: tuple[str, ...],
    model: Path | None,
    factory_args: str | None,
    max_drop: float,
    max_fall: float,
    check_only: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **source: Any,
) -> None:
    """Say whether the plan of BUNDLE still holds on new rows, and compress the dense model again where it does not.

    Judged are the metric, its distance from the dense model, the drift of ids, numbers and labels, and whether the score
    would still keep what the plan keeps.
    """
    from recprune_export.bundle.archive.packing import SUFFIX
    from recprune_export.bundle.write import check_target
    from recprune_export.console.examination import print_drift_report, print_refresh_json
    from recprune_export.console.result import print_result
    from recprune_export.progress import quiet as silently
    from recprune_export.refresh.drift_report import make_drift_report, recompress

    source["factory_args"] = parse_json_object(factory_args)
    target = output or bundle.with_name(f"{bundle.resolve().name.removesuffix(SUFFIX)}-refreshed")
    if not check_only:
        check_target(target)
    with silently(quiet or as_json):
        found, result = make_drift_report(
            bundle, data, labels=labels, model=model, source=source, max_drop=max_drop, max_fall=max_fall
        ), None  # fmt: skip
        if not as_json:
            print_drift_report(found)
        try:
            if not (found.holds or check_only):
                result = recompress(found, target, sys.argv[1:])
        finally:
            if as_json:
                print_refresh_json(found, result)
    if result is None:
        found.raise_verdict()
    elif not as_json:
        print_result(result, as_json=False)
