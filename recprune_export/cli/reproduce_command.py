"""Write the options of one command as the arguments of another."""

from collections.abc import Iterator
from typing import Any

import click

# The target and the form of results differ between commands; with `max_drop`, the main job runs a search, in `jobs` processes.
COMMAND_ONLY = frozenset({"output", "as_json", "quiet", "verbose", "config", "max_drop", "jobs"})


# Options of a job with a sparsity; a job with a byte limit chooses these values by the predicted loss.
SPARSITY_ONLY = frozenset(
    {
        "sparsity", "embedding_sparsity", "hidden_sparsity", "structured_fraction", "sparsity_schedule", "pruning_stages",
        "score", "quantize", "max_quantize_drop",
    }
)  # fmt: skip


def reproduce_command(
    arguments: click.Context, command: click.Command, without: frozenset[str] = frozenset()
) -> list[str]:
    """Return the arguments and options of the command of `arguments` that `command` also has.

    Options at their default are left out, since both commands have the same default; the names in `without` are also left out.
    """
    common = {parameter.name for parameter in command.params} - COMMAND_ONLY - without
    words: list[str] = []
    for parameter in arguments.command.params:
        name = parameter.name or ""
        if name in common and arguments.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            words += _format_parameter(parameter, arguments.params[name])
    return words


def _format_parameter(parameter: click.Parameter, value: Any) -> Iterator[str]:
    if not isinstance(parameter, click.Option):
        yield str(value)
    elif parameter.is_flag:
        yield parameter.secondary_opts[0] if parameter.secondary_opts and not value else parameter.opts[0]
    else:
        for item in value if parameter.multiple else (value,):
            yield from (parameter.opts[0], str(item))
