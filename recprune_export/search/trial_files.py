"""Write files of a search, whole or not at all."""

import json
from pathlib import Path
from typing import Any

from recprune_export.errors import UsageError


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises `UsageError` where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def write_json(file: Path, values: Any) -> None:
    """Write JSON, replacing the file. Raises `UsageError` where it cannot be written."""
    make_folder(file.parent)
    scratch = file.with_suffix(".part")
    try:
        scratch.write_text(json.dumps(values, indent=1))
        scratch.replace(file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise UsageError(f"{file} cannot be written: {error.strerror}.") from error
