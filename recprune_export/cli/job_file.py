"""The job file: the arguments and options of a job as TOML. `--config` reads it; each bundle contains one as job.toml."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from recprune_export.cli.input_paths import InputPath
from recprune_export.column_names import suggest_name
from recprune_export.errors import InputFileError

# These options run code or write outside the bundle. A job file may be untrusted, so it contains them as comments.
COMMENTED = ("factory", "factory_args", "unsafe_unpickle", "mlflow", "shards")
# These options, a key, and the options of a single run are accepted only on the command line.
COMMAND_LINE_ONLY = frozenset(
    {*COMMENTED, "sign", "config", "help", "output", "resume", "plan_only", "dry_run", "verbose", "as_json", "quiet"}
)
JOB_FILE = InputPath(InputFileError, "a TOML file of options, such as the job.toml of a bundle")


def config_option(command: Any) -> Any:
    """Add `--config`: a file of options; options on the command line override it."""
    return click.option(
        "--config",
        type=JOB_FILE,
        is_eager=True,
        expose_value=False,
        callback=_use_job_file,
        metavar="JOB.toml",
        help="Read arguments and options that are not on the command line from this file, such as the job.toml of a bundle.",
    )(command)


def format_job(context: click.Context) -> str:
    """Return the arguments and options that differ from their default as TOML; `read_job` reads it.

    Options of `COMMAND_LINE_ONLY` are left out; those of `COMMENTED` are comments.
    """
    lines = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in context.params or context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            continue
        if name in COMMENTED:
            given = "" if context.params[name] is True else f" {context.params[name]}"
            lines.append("# On the command line: " + json.dumps(f"{parameter.opts[0]}{given}"))
        elif name not in COMMAND_LINE_ONLY:
            lines.append(f"{_key(parameter)} = {_format_value(parameter, context.params[name])}")
    return "".join(f"{line}\n" for line in lines)


def read_job(path: Path, command: click.Command) -> dict[str, Any]:
    """Return the values of a job file by the names of the parameters of `command`.

    Raises `InputFileError` for a file that is not TOML, for an unknown option, and for an option of `COMMAND_LINE_ONLY`.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}. Give {JOB_FILE.expected}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputFileError(f"{path} is not a job file: {error}.") from error
    parameters = {_key(parameter): parameter for parameter in command.params}
    return {(parameters[key].name or ""): value for key, value in _check_values(path, values, parameters)}


def _check_values(
    path: Path, values: Mapping[str, Any], parameters: Mapping[str, click.Parameter]
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        parameter = parameters.get(key)
        if parameter is None:
            nearest = suggest_name(key, parameters)
            suggestion = "" if nearest is None else f" Did you mean '{nearest}'?"
            raise InputFileError(f"'{key}' in {path} is not an option of this command.{suggestion}")
        if parameter.name in COMMAND_LINE_ONLY:
            raise InputFileError(
                f"'{key}' in {path} cannot be set in a file: give {parameter.opts[0]} on the command line."
            )
        if isinstance(value, dict) or (isinstance(value, list) and not parameter.multiple):
            raise InputFileError(f"'{key}' in {path} must be a single value, as on the command line.")
        if isinstance(parameter, click.Option) and parameter.is_flag:
            if not isinstance(value, bool):
                raise InputFileError(f"'{key}' in {path} must be true or false.")
            if parameter.secondary_opts:
                yield key, value
            elif value:
                yield key, parameter.flag_value is not False  # it is False for --no-triton, and not set for others
        elif isinstance(value, bool):
            raise InputFileError(f"'{key}' in {path} requires a value, not {str(value).lower()}.")
        else:
            if isinstance(value, float) and isinstance(parameter.type, click.types.IntParamType):
                raise InputFileError(f"'{key}' in {path} must be an integer, not {value}.")  # click would cut 1.5 to 1
            yield key, [value] if parameter.multiple and not isinstance(value, list) else value


def _use_job_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_job(path, context.command)}


def _key(parameter: click.Parameter) -> str:
    """Return the name of a parameter as the user writes it: `max-bytes`, `no-triton`, `model`."""
    return parameter.opts[0].lstrip("-") if isinstance(parameter, click.Option) else (parameter.name or "")


def _format_value(parameter: click.Parameter, value: Any) -> str:
    """Return a value as TOML; a JSON string is also a TOML string."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(_format_value(parameter, item) for item in value)}]"
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return "false" if parameter.secondary_opts and not value else "true"
    return json.dumps(value if isinstance(value, int | float) else str(value))
