"""Options of every command for its printed output: `--json`, `--quiet`, and for a job `--verbose`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import click

from recprune_export.progress import errors_only, quiet

F = TypeVar("F", bound=Callable[..., Any])


def screen_options() -> Callable[[F], F]:
    """Add `--json`, which is passed to the command as `as_json`, and `--quiet`, which is not passed on.

    The result under `--json` is one document, with its keys in `cli/json_output/`.

    With `--json`, no progress is printed on standard error. With `--quiet`, both streams contain only errors and, with `--json`,
    the JSON.
    """

    def add(command: F) -> F:
        command = click.option(
            "--quiet", "-q", is_flag=True, expose_value=False, is_eager=True, callback=_enter(errors_only),
            help="Print only errors.",
        )(command)  # fmt: skip
        json_option = click.option(
            "--json", "as_json", is_flag=True, is_eager=True, callback=_enter(quiet), help="Print the result as JSON."
        )
        return json_option(command)

    return add


verbose_option = click.option("--verbose", "-v", is_flag=True, help="Print all tables instead of only the key figures.")


def _enter(block: Callable[[], AbstractContextManager[None]]) -> Callable[[click.Context, click.Parameter, bool], bool]:
    """Return a callback that runs the rest of the command inside a block if the flag is given."""

    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
        if value:  # the root context closes at the end, even if the arguments of this command are wrong
            context.find_root().with_resource(block())
        return value

    return callback
