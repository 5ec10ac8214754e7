"""`report`: an HTML page about a bundle."""

import webbrowser
from pathlib import Path

import click

from recprune_export.cli.input_paths import BUNDLE, SWEEP_RESULTS
from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import echo, print_json


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.option("-o", "--output", type=FILE, metavar="HTML", help="File to write.  [default: BUNDLE.report.html]")
@click.option(
    "--sweep",
    type=SWEEP_RESULTS,
    metavar="DIR",
    help="Results of `sweep` for the Pareto curve.  [default: results for the same model next to the bundle]",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@screen_options("Print JSON instead of a sentence.")
def report(bundle: Path, output: Path | None, sweep: Path | None, show: bool, as_json: bool) -> None:
    """Write an HTML page about BUNDLE.

    It shows size, speed, quality, widths, parity, and how to call the model. Neither PyTorch nor a network is required. A
    bundle already contains such a page, report.html, unless it was made with --quick. This page can also show a sweep.
    """
    from recprune_export.report._write_page import check_page_path, default_page_path, write_page
    from recprune_export.report.bundle_page import render_saved_bundle_report

    path = check_page_path(output or default_page_path(bundle), (bundle,))
    write_page(render_saved_bundle_report(bundle, sweep), path, (bundle,))
    if as_json:
        print_json({"report": str(path)})
    else:
        echo(f"Report: {path}")
    if show and not webbrowser.open(path.as_uri()):
        echo("Note: No browser was found; open the file yourself.", err=True)
