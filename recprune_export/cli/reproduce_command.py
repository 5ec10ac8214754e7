"""What was asked of one command, in the words in which another takes it."""

from collections.abc import Iterator
from typing import Any

import click

# Where results go and how they are told is each command's own.
OWN = frozenset({"output", "as_json", "quiet"})


def asked_again(asked: click.Context, command: click.Command) -> list[str]:
    """Return the arguments and options that were given to the command of `asked` and that `command` has as well.

    What was left out is left out again: both take the same default.
    """
    common = {parameter.name for parameter in command.params} - OWN
    words: list[str] = []
    for parameter in asked.command.params:
        name = parameter.name or ""
        if name in common and asked.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            words += _typed(parameter, asked.params[name])
    return words


def _typed(parameter: click.Parameter, value: Any) -> Iterator[str]:
    if not isinstance(parameter, click.Option):
        yield str(value)
    elif parameter.is_flag:
        yield parameter.opts[0]
    else:
        for each in value if parameter.multiple else (value,):
            yield from (parameter.opts[0], str(each))
