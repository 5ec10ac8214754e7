"""Functions that all commands print with: tables for people, JSON for programs."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recprune_export.evidence import Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


VERDICT_STYLES = {Verdict.FAILS: "red", Verdict.UNDECIDED: "yellow", Verdict.SKIPPED: "dim"}


def make_table(title: str, *columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def make_console() -> "Console":
    from rich.console import Console

    # Names of fields and paths are printed as they are, brackets and colons too.
    console = Console(markup=False, emoji=False)
    # A pipe has no width; 80 columns would break the tables of a log.
    return console if console.is_terminal else Console(width=140, markup=False, emoji=False)


def rewrite_table(rewrites: Sequence[Mapping[str, Any]]) -> "Table":
    """Return a table of the graph rewrites of a manifest, with the estimated change of cost at each batch size."""
    batches = list(rewrites[0]["before"]) if rewrites else []
    table = make_table("Rewrites of the graph, estimated change", "", "places", *(f"batch {b}" for b in batches), "")
    for rewrite in rewrites:
        changes = [f"{rewrite['after'][b] / rewrite['before'][b] - 1:+.1%}" for b in batches]
        table.add_row(
            rewrite["name"], str(rewrite["places"]), *changes, "kept" if rewrite["kept"] else rewrite["reason"]
        )
    return table


def print_json(values: Any) -> None:
    click.echo(json.dumps(values, indent=1))


def print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"Note: {note}", err=True)


def quote_for_shell(path: Path | str) -> str:
    """Quote a path for a shell.

    >>> quote_for_shell("artifacts/ctr"), quote_for_shell("my models/größe")
    ('artifacts/ctr', "'my models/größe'")
    """
    return shlex.quote(str(path))


def format_figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
