"""What was asked of one command, in the words in which another takes it."""

from collections.abc import Iterator
from typing import Any

import click

# Where results go and how they are told is each command's own.
COMMAND_ONLY = frozenset({"output", "as_json", "quiet"})


def reproduce_command(arguments: click.Context, command: click.Command) -> list[str]:
    """Return the arguments and options that were given to the command of `arguments` and that `command` has as well.

    What was left out is left out again: both take the same default.
    """
    common = {parameter.name for parameter in command.params} - COMMAND_ONLY
    words: list[str] = []
    for parameter in arguments.command.params:
        name = parameter.name or ""
        if name in common and arguments.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            words += _typed(parameter, arguments.params[name])
    return words


def _typed(parameter: click.Parameter, value: Any) -> Iterator[str]:
    if not isinstance(parameter, click.Option):
        yield str(value)
    elif parameter.is_flag:
        yield parameter.opts[0]
    else:
        for each in value if parameter.multiple else (value,):
            yield from (parameter.opts[0], str(each))
