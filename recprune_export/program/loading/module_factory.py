"""Making a module with the user's function, `--factory`."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from recprune_export.column_names import list_names
from recprune_export.error_text import summarize_error
from recprune_export.errors import UsageError


def make_module(
    factory: str, arguments: Mapping[str, Any], stored: Mapping[str, Any] = MappingProxyType({})
) -> tuple[nn.Module, tuple[str, ...]]:
    """Call "package.module:function" with `arguments`; the package is searched in the current directory first.

    `stored` are values that the model file has for arguments: those that are parameters of the function and not in
    `arguments` are passed as well, as by `load_from_checkpoint` of Lightning. Returns the module, and the names of the stored
    values that were passed.

    Raises `UsageError` for a missing function, and for one that fails or does not return a module.
    """
    module_name, colon, function_name = factory.partition(":")
    if not (colon and module_name and function_name):
        raise UsageError(f"--factory {factory} is not of the form package.module:function.")
    with current_directory_importable():
        try:
            function: Any = importlib.import_module(module_name)
            for name in function_name.split("."):
                function = getattr(function, name)
        except AttributeError:
            raise UsageError(f"--factory {factory}: the module '{module_name}' has no '{function_name}'.") from None
        except Exception as error:  # the user's own module may raise anything while it is imported
            raise UsageError(
                f"--factory {factory}: '{module_name}' cannot be imported ({summarize_error(error)})."
            ) from error
        parameters = _list_parameters(function)
        taken = {name: value for name, value in stored.items() if name in parameters and name not in arguments}
        module = _call(factory, function, {**taken, **arguments}, parameters)
    if not isinstance(module, nn.Module):
        raise UsageError(f"--factory {factory} returned {type(module).__name__}, not an nn.Module.")
    return module, tuple(taken)


def _list_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function that may be passed by name; none where Python does not know them."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin, or no function
        return {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in by_name}


def _call(
    factory: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
) -> Any:
    required = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    missing = [name for name in required if name not in arguments]
    if missing:
        example = json.dumps(dict.fromkeys(missing, "..."))
        raise UsageError(
            f"--factory {factory} needs {list_names(missing)}: give --factory-args '{example}', or a function without arguments "
            "that builds the module."
        )
    try:
        return function(**arguments)
    except Exception as error:  # the user's own function may raise anything
        raise UsageError(
            f"--factory {factory} failed with --factory-args {dict(arguments)}: {summarize_error(error)}."
        ) from error


@contextmanager
def current_directory_importable() -> Iterator[None]:
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
