"""`report`: an HTML page about a bundle, or about two of them side by side."""

import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.cli.input_paths import BUNDLE, SWEEP_RESULTS
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import echo, make_console, make_table, print_json
from recprune_export.number_formats import format_bytes, format_estimate, format_ratio, format_significant
from recprune_export.progress import show_status

if TYPE_CHECKING:
    from recprune_export.report.comparison.pair_figures import PairFigures, SideFigures


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.argument("other", type=BUNDLE, required=False)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="The HTML file to write.  [default: BUNDLE.report.html, or BUNDLE-and-OTHER.report.html, beside BUNDLE]",
)
@click.option(
    "--sweep",
    type=SWEEP_RESULTS,
    metavar="DIR",
    help="Results of `sweep` for the Pareto curve.  [default: results for the same model next to the bundle]",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@screen_options()
def report(
    bundle: Path, other: Path | None, output: Path | None, sweep: Path | None, show: bool, as_json: bool
) -> None:
    """Write an HTML page about BUNDLE.

    It shows size, speed, quality, widths, parity, and how to call the model. Neither PyTorch nor a network is required. A
    bundle already contains such a page, report.html, unless it was made with --quick. This page can also show a sweep.

    With OTHER the page puts two bundles of one model side by side, and a short table is printed: bytes, latency, quality, widths,
    bits, and the options that differ. It measures nothing; `check` does.
    """
    if other is not None and sweep is not None:
        raise click.UsageError("--sweep belongs to the page of one bundle: leave it out, or give one bundle.")
    bundles = (bundle,) if other is None else (bundle, other)
    figures = None
    with show_status(f"Writing the page of {' and '.join(map(str, bundles))}"):
        from recprune_export.report._write_page import check_page_path, default_page_path, write_page

        path = check_page_path(output or default_page_path(*bundles), bundles)
        if other is None:
            from recprune_export.report.bundle_page import render_saved_bundle_report

            page = render_saved_bundle_report(bundle, sweep)
        else:
            from recprune_export.report.comparison_page import render_saved_comparison

            page, figures = render_saved_comparison(bundle, other)
        write_page(page, path, bundles)
    if as_json:
        print_json(
            {"bundle": bundle, "output": path, **({} if figures is None else {"other": other, **figures.to_dict()})}
        )
    else:
        if figures is not None:
            print_comparison(figures)
        echo(f"Report: {path}")
    if show and not webbrowser.open(path.as_uri()):
        echo("Note: No browser was found; open the file yourself.", err=True)


def print_comparison(figures: "PairFigures") -> None:
    """Print the key figures of two bundles, and the reasons why some cannot be compared."""
    a, b = figures.a, figures.b
    table = make_table(f"A: {a.name}; B: {b.name}", "", "A", "B")
    for name, read in _list_rows(figures).items():
        cells = [read(side) for side in (a, b)]
        if any(cell is not None for cell in cells):
            table.add_row(name, *("–" if cell is None else cell for cell in cells))
    make_console().print(table)
    if figures.different_options:
        echo(f"Options that differ: {', '.join(figures.different_options)}.")
    if figures.latency_differences:
        echo(f"Latency cannot be compared: {'; '.join(figures.latency_differences)}.")
    if a.metric and b.metric and not figures.have_same_rows:
        echo("Quality cannot be compared: the test rows differ, or it is not recorded that they are the same.")


def _list_rows(figures: "PairFigures") -> dict[str, Callable[["SideFigures"], str | None]]:
    """Return the function that reads each row of the table from a bundle, by the name of the row."""
    metric, at_batch = figures.a.metric or figures.b.metric, f"batch {figures.batch}"
    return {
        "model.onnx": lambda side: _format(format_bytes, side.bytes),
        "embedding tables": lambda side: _format(format_bytes, side.table_bytes),
        "other weights": lambda side: _format(format_bytes, side.other_weight_bytes),
        f"median ms, {at_batch}": lambda side: _format(format_significant, side.milliseconds),
        f"times as fast as dense, {at_batch}": lambda side: _format(format_ratio, side.speedup),
        f"{metric} on test rows": lambda side: (
            f"{side.value:.4f}" if side.metric == metric and side.value is not None else None
        ),
        "change from dense": lambda side: _format(format_estimate, side.change),
    }


def _format(form: Callable[[Any], str], value: Any) -> str | None:
    return None if value is None else form(value)
