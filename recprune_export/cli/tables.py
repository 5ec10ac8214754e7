"""Functions for the output of all commands: tables for people, JSON for programs."""

import errno
import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from recprune_export.cli.stream_encoding import discard_output
from recprune_export.codec import encode, finite_or_none
from recprune_export.evidence import Verdict
from recprune_export.progress import print_warning, prints_errors_only
from recprune_export.terminal_text import escape_for_terminal, escape_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from recprune_export.refresh.verdicts import DriftFinding

HAS_PRINTED_JSON = f"{__name__}.has_printed_json"  # key in the metadata of the context
VERDICT_STYLES = {Verdict.FAILS: "red", Verdict.UNDECIDED: "yellow", Verdict.SKIPPED: "dim"}


def echo(text: str, *, err: bool = False) -> None:
    """Print text, which may contain untrusted names, on stdout or stderr; print nothing with `--quiet`."""
    if not prints_errors_only():
        click.echo(escape_for_terminal(text), err=err)


def make_table(title: str, *columns: str, texts: Collection[str] = ()) -> "Table":
    """Return a table; its cells may contain untrusted names. The first column and those in `texts` are aligned to the left."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    class Table(RichTable):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(_escape_cell(cell) if isinstance(cell, str) else cell for cell in cells), **options)

    title = _escape_cell(title)
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        is_text = number == 0 or column in texts
        table.add_column(_escape_cell(column), justify="left" if is_text else "right", overflow="fold")
    return table


def _escape_cell(text: str) -> str:
    return escape_for_terminal(escape_line(text))


P = ParamSpec("P")


def prints_after_work(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a function that prints the result of finished work.

    The files are already written and the verdict is known: a closed pipe ends the output, and a full disk causes a warning.
    """

    @functools.wraps(function)
    def printed(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except OSError as error:
            discard_output()
            if error.errno != errno.EPIPE:
                print_warning(f"The result cannot be printed ({error.strerror}), but it is valid.")

    return printed


def make_console() -> "Console":
    from rich.console import Console as RichConsole

    class Console(RichConsole):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))  # rich ends the process with exit code 1

        def print(self, *objects: Any, **options: Any) -> None:
            texts = (escape_for_terminal(value) if isinstance(value, str) else value for value in objects)
            super().print(*texts, **options)

    # Names of fields and paths are printed unchanged, including brackets and colons.
    console = Console(markup=False, emoji=False, quiet=prints_errors_only())
    # A pipe has no width; with 80 columns the tables of a log would be broken into lines.
    return console if console.is_terminal else Console(width=140, markup=False, emoji=False, quiet=console.quiet)


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


def print_verdict(findings: Sequence["DriftFinding"], sentence: str) -> None:
    """Print the verdict on each measure of a plan, and the verdict on the plan."""
    console, table = make_console(), make_table("Is the plan still valid?", "measure", "verdict", "")
    table.columns[2].justify = "left"
    for finding in findings:
        table.add_row(finding.measure, finding.verdict.text, finding.reason, style=VERDICT_STYLES.get(finding.verdict))
    console.print(table)
    console.print(f"Verdict: {sentence}", highlight=False, soft_wrap=True, markup=False)


def print_json(values: Any) -> None:
    """Print `values` as JSON: in ASCII, with null for numbers that are not finite, and without text that GitHub Actions would treat as a
    command.
    """
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[HAS_PRINTED_JSON] = True
    text = json.dumps(finite_or_none(encode(values)), indent=1, allow_nan=False)
    click.echo(text.replace("\x7f", "\\u007f").replace("##[", "\\u0023#["))


def print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        echo(f"Note: {note}", err=True)


def quote_for_shell(path: Path | str) -> str:
    """Quote a path for a shell.

    >>> quote_for_shell("artifacts/ctr"), quote_for_shell("my models/größe")
    ('artifacts/ctr', "'my models/größe'")
    """
    return shlex.quote(str(path))


def format_figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
