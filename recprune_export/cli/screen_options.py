"""Options of every command that say how much it prints: `--json`, `--quiet`, and for a job `--verbose`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import click

from recprune_export.progress import errors_only, quiet

F = TypeVar("F", bound=Callable[..., Any])


def screen_options() -> Callable[[F], F]:
    """Add `--json`, which the command gets as `as_json`, and `--quiet`, which needs nothing of the command.

    The result under `--json` is one document, with its keys in `cli/json_output/`.

    Under `--json` standard error has no progress, and under `--quiet` both streams have nothing but errors, and the JSON
    that was asked for.
    """

    def add(command: F) -> F:
        command = click.option(
            "--quiet", "-q", is_flag=True, expose_value=False, is_eager=True, callback=_enter(errors_only),
            help="Print nothing but errors.",
        )(command)  # fmt: skip
        json_option = click.option(
            "--json", "as_json", is_flag=True, is_eager=True, callback=_enter(quiet), help="Print the result as JSON."
        )
        return json_option(command)

    return add


verbose_option = click.option("--verbose", "-v", is_flag=True, help="Print all tables, not only the key figures.")


def _enter(block: Callable[[], AbstractContextManager[None]]) -> Callable[[click.Context, click.Parameter, bool], bool]:
    """Return a callback that runs the rest of a command inside a block where the flag is given."""

    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
        if value:  # the root is closed at the end, also where the arguments of this command are wrong
            context.find_root().with_resource(block())
        return value

    return callback
