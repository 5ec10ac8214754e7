"""`--unsafe-unpickle`: load the module in a pickle, which runs any code in the file."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recprune_export.error_text import summarize_error
from recprune_export.errors import ModelFileError, UsageError
from recprune_export.program.loading.detect import find_unsafe_globals, is_legacy_torch_file
from recprune_export.program.loading.model_kind import ModelKind
from recprune_export.program.loading.module_factory import current_directory_importable
from recprune_export.program.loading.weights.describe_mismatch import list_some
from recprune_export.program.loading.weights.state_dicts import select_key

_MAX_LEVELS = 4  # dicts inside each other


def refuse_to_unpickle(path: Path) -> ModelFileError:
    """Return the error for a pickle without `--unsafe-unpickle` and without `--factory`."""
    classes = find_unsafe_globals(path)
    named = f" ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})" if classes else ""
    return ModelFileError(
        f"{path} is {ModelKind.PICKLED_MODULE.value}{named}, and loading it executes any code that it contains: give --factory, "
        "with which only its tensors are read and nothing is executed, or, if you trust the file, give --unsafe-unpickle."
    )


def unpickle_module(path: Path, key: str | None) -> nn.Module:
    """Unpickle a file and return the module in it, itself or in a dict. This runs any code in the file.

    Raises `ModelFileError` if it cannot be unpickled or contains no module, `UsageError` if it contains several and `key` selects none.
    """
    with current_directory_importable():
        try:
            content = _unpickle(path)
        except Exception as error:  # unpickling can call any code
            raise ModelFileError(
                f"{path} cannot be unpickled ({summarize_error(error)}): give --factory instead, with which only its "
                "tensors are read, or make the class importable from this folder."
            ) from error
    if key is not None:
        try:
            content = select_key(content, key)
        except KeyError:
            raise UsageError(f"--key {key}: {path} contains nothing under this key.") from None
    modules = dict(_find_modules("", content, _MAX_LEVELS))
    if not modules:
        raise ModelFileError(
            f"{path} is a pickle of {type(content).__name__}, without an nn.Module: save the module itself, or give --factory "
            "for its weights."
        )
    # Losses and activations are modules as well.
    modules = {name: module for name, module in modules.items() if module.state_dict()} or modules
    if len({id(module) for module in modules.values()}) > 1:
        raise UsageError(f"{path} contains several modules: choose one with --key ({list_some(modules)}).")
    return next(iter(modules.values()))


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        plain = file.read(2) != b"PK" and not is_legacy_torch_file(path)
        file.seek(0)
        return pickle.load(file) if plain else torch.load(file, weights_only=False, map_location="cpu")


def _find_modules(key: str, content: Any, levels: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules in dicts and sequences, each under its keys."""
    if isinstance(content, nn.Module):
        yield key, content
        return
    entries: Mapping[Any, Any] = {}
    if isinstance(content, Mapping):
        entries = content
    elif isinstance(content, list | tuple):
        entries = dict(enumerate(content))
    for name, entry in entries.items() if levels else ():
        yield from _find_modules(f"{key}.{name}" if key else str(name), entry, levels - 1)
