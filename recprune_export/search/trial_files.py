"""Write files of a search, completely or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from recprune_export.errors import UsageError
from recprune_export.output_files import make_sibling_path


def make_folder(folder: Path) -> None:
    """Create a folder for results. Raises `UsageError` if it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be created: {error.strerror}.") from error


def write_json(file: Path, values: Any) -> None:
    """Write JSON, replacing the file; processes that write it at the same time do not conflict. Raises `UsageError` if it cannot be
    written."""
    make_folder(file.parent)
    scratch = make_sibling_path(file)
    try:
        with scratch.open("w") as stream:
            json.dump(values, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise UsageError(f"{file} cannot be written: {error.strerror}.") from error
