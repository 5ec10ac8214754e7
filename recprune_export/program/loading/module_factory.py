"""Making a module with the user's function, `--factory`."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from recprune_export.error_text import summarize_error
from recprune_export.errors import UsageError


def make_module(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call "package.module:function" with `arguments`; the package is searched in the current directory first.

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
        module = _call(factory, function, arguments)
    if not isinstance(module, nn.Module):
        raise UsageError(f"--factory {factory} returned {type(module).__name__}, not an nn.Module.")
    return module


def _call(factory: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
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
