"""What `doctor` says."""

from typing import TYPE_CHECKING

import click

from recprune_export.console.tables import print_json

if TYPE_CHECKING:
    from recprune_export.diagnostics import Diagnosis


def print_diagnosis(diagnosis: "Diagnosis", *, as_json: bool, quiet: bool) -> None:
    """Print a line for each finding, plain, for `rich` may be what is missing; with `quiet` only those that are not ok."""
    if as_json:
        return print_json(diagnosis.to_dict())
    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    width = max(len(finding.check) for finding in diagnosis.results)
    for finding in diagnosis.results:
        if quiet and finding.state == "ok":
            continue
        state = click.style(f"{finding.state:8}", fg=colours[finding.state])
        click.echo(f"{state} {finding.check:{width}}  {finding.found}")
        if finding.advice:
            click.echo(f"{'':9}{'':{width}}  → {finding.advice}")
