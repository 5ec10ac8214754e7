"""Lazy reading of CSV and Parquet files, distinguished by their content."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl


def scan(path: Path) -> "pl.LazyFrame":
    """Return the rows of `path` as a lazy frame; only the head of the file is read.

    Raises `DataError` if the file is missing, empty, damaged, or neither CSV nor Parquet.
    """
    import polars as pl

    if path.is_dir():
        raise DataError(f"{path} is a directory; give a CSV or Parquet file.")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read: {error.strerror}.") from error
    if not head:
        raise DataError(f"The data file {path} is empty.")
    if b"\0" in head and not head.startswith(b"PAR1"):
        raise DataError(f"{path} is neither CSV nor Parquet (it begins with {head[:4]!r}).")
    frame = pl.scan_parquet(path) if head.startswith(b"PAR1") else pl.scan_csv(path, infer_schema_length=10_000)
    try:
        columns = len(frame.collect_schema())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is damaged or no table: {_first_line(error)}") from error
    if columns < 2:
        raise DataError(
            f"{path} has {columns} column; rows need a label and at least one field (is the separator a comma?)."
        )
    return frame


@contextmanager
def raise_data_errors(path: Path) -> Iterator[None]:
    """Raise `DataError` if a query inside the block fails to read rows."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"The rows of {path} cannot be read: {_first_line(error)}") from error


def collect(frame: "pl.LazyFrame", path: Path) -> "pl.DataFrame":
    """Run a query with the streaming engine. Raises `DataError` if the rows cannot be read."""
    with raise_data_errors(path):
        return frame.collect(engine="streaming")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
