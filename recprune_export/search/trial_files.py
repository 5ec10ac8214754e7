"""Files of a search: written whole or not at all, and what stands in the way is said."""

import json
from pathlib import Path
from typing import Any

from recprune_export.errors import UsageError


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises `UsageError` where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def write_json(file: Path, values: Any) -> None:
    """Write JSON in the place of what was there. Raises `UsageError` where that cannot be."""
    make_folder(file.parent)
    scratch = file.with_suffix(".part")
    try:
        scratch.write_text(json.dumps(values, indent=1))
        scratch.replace(file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise UsageError(f"{file} cannot be written: {error.strerror}.") from error
