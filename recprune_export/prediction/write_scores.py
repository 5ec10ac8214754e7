"""Write a table in a stream: the file is complete or absent, and never completely in memory."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.data.streaming.data_files import DataFile
from recprune_export.error_text import first_line
from recprune_export.errors import UsageError
from recprune_export.output_files import check_output_file, make_sibling_path

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".parquet", ".csv")


def check_output(path: Path, data: DataFile) -> None:
    """Raise `UsageError` if no table can be written to `path`; to be called before a long job."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} must end in .parquet or .csv: the extension selects the format.")
    if isinstance(data, Path) and path.exists() and data.exists() and path.samefile(data):
        raise UsageError(f"{path} is the file of the input rows; give another file for the scores.")
    check_output_file(path)


def write_batches(
    path: Path,
    batches: Callable[[], Iterator["pl.DataFrame"]],
    schema: "Mapping[str, pl.DataType]",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write all tables that `batches` yields, in that order; if `batches` raises, write nothing and raise its error.

    A Parquet file gets the `metadata`.

    Raises `UsageError` for an error of the file system.
    """
    import polars as pl
    from polars.io.plugins import register_io_source

    errors: list[BaseException] = []

    def source(columns: object, predicate: object, rows: object, size: object) -> Iterator[pl.DataFrame]:
        try:
            yield from batches()
        except BaseException as error:  # polars would convert it to a string
            errors.append(error)
            raise

    frame, partial = register_io_source(source, schema=dict(schema)), make_sibling_path(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() == ".csv":
                frame.sink_csv(partial, engine="streaming")
            else:
                frame.sink_parquet(partial, engine="streaming", metadata=dict(metadata or {}))
        except (pl.exceptions.PolarsError, OSError) as error:
            if errors:
                raise errors[0] from error
            raise UsageError(f"{path} cannot be written: {_describe_reason(error)}") from error
        os.replace(partial, path)
    finally:
        try:
            partial.unlink(missing_ok=True)
        except KeyboardInterrupt:  # polars raises one interrupt for Ctrl-C, and Python a second one at the next call
            partial.unlink(missing_ok=True)
            raise


def _describe_reason(error: Exception) -> str:
    """Return why a file cannot be written: the message of the system inside that of polars, or the first line."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return f"{os.strerror(int(number[1]))}." if number else first_line(error)
