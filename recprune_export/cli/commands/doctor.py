"""`doctor`: check the environment."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recprune_export.cli.main_group import main
from recprune_export.cli.options import FILE
from recprune_export.cli.tables import echo, print_json, prints_after_work

if TYPE_CHECKING:
    from recprune_export.diagnostics import Diagnosis


@main.command()
@click.option(
    "-o", "--output", type=FILE, default=Path("artifacts"), show_default=True, help="Where bundles will be written."
)
@click.option("--no-run", "run", flag_value=False, default=True, help="Do not export and run a tiny model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--quiet", is_flag=True, help="Say only what is not as it should be.")
def doctor(output: Path, run: bool, as_json: bool, quiet: bool) -> None:
    """Check Python, packages, processor, memory, disk, and that a tiny model can be exported and run.

    Exit code 1 where something needed is missing.
    """
    from recprune_export.diagnostics import diagnose

    diagnosis = diagnose(output, run=run)
    print_diagnosis(diagnosis, as_json=as_json, quiet=quiet)
    diagnosis.raise_verdict()


@prints_after_work
def print_diagnosis(diagnosis: "Diagnosis", *, as_json: bool, quiet: bool) -> None:
    """Print a line for each finding, plain, for `rich` itself may be missing; with `quiet` only those that are not ok."""
    if as_json:
        return print_json(diagnosis.to_dict())
    colors = {"ok": "green", "warning": "yellow", "missing": "red"}
    width = max(len(finding.check) for finding in diagnosis.results)
    for finding in diagnosis.results:
        if quiet and finding.state == "ok":
            continue
        state = click.style(f"{finding.state:8}", fg=colors[finding.state])
        click.echo(state, nl=False)
        echo(f" {finding.check:{width}}  {finding.description}")
        if finding.advice:
            echo(f"{'':9}{'':{width}}  → {finding.advice}")
