"""`doctor`: check the environment."""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE
from recprune_export.cli.screen_options import screen_options
from recprune_export.cli.tables import print_json, prints_after_work
from recprune_export.progress import prints_errors_only, show_status
from recprune_export.terminal_text import escape_for_terminal

if TYPE_CHECKING:
    from recprune_export.diagnostics import Diagnosis


@main.command()
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=Path("artifacts"),
    show_default=True,
    help="Directory where bundles will be written.",
)
@click.option("--no-run", "run", flag_value=False, default=True, help="Do not export and run a small test model.")
@screen_options()
def doctor(output: Path, run: bool, as_json: bool) -> None:
    """Check the environment, and export and run a small test model.

    The checks cover Python, packages, processor, memory and disk. Exit code 1 if a requirement is missing.
    """
    from recprune_export.diagnostics import diagnose

    # `rich`, which draws the stage, may be the missing package.
    with show_status("Checking the environment") if find_spec("rich") else nullcontext():
        diagnosis = diagnose(output, run=run)
    print_diagnosis(diagnosis, as_json=as_json)
    diagnosis.raise_verdict()


@prints_after_work
def print_diagnosis(diagnosis: "Diagnosis", *, as_json: bool) -> None:
    """Print a plain line for each finding, since `rich` may be missing; with `--quiet` only findings that are not ok."""
    if as_json:
        return print_json(diagnosis.to_dict())
    colors = {"ok": "green", "warning": "yellow", "missing": "red"}
    width = max(len(finding.check) for finding in diagnosis.results)
    for finding in diagnosis.results:
        if prints_errors_only() and finding.state == "ok":
            continue
        state = click.style(f"{finding.state:8}", fg=colors[finding.state])
        click.echo(f"{state} {escape_for_terminal(f'{finding.check:{width}}  {finding.description}')}")
        if finding.advice:
            click.echo(escape_for_terminal(f"{'':9}{'':{width}}  → {finding.advice}"))
