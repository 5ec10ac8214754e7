"""A table that is written while its rows are made: whole or absent, never in memory at once."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".parquet", ".csv")


def check_output(path: Path, data: Path) -> None:
    """Raise `UsageError` where no table can be written to `path`; to be called before the work."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} must end in .parquet or .csv, so that it is clear what to write.")
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file to write.")
    if path.exists() and data.exists() and path.samefile(data):
        raise UsageError(f"{path} holds the rows themselves; name another file for the scores.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _partial(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def write_batches(
    path: Path, batches: Callable[[], Iterator["pl.DataFrame"]], schema: "Mapping[str, pl.DataType]"
) -> None:
    """Write what `batches` yields, in that order; all of it, or nothing and what `batches` raised.

    Raises `UsageError` where the file system refuses.
    """
    import polars as pl
    from polars.io.plugins import register_io_source

    raised: list[BaseException] = []

    def source(columns: object, predicate: object, rows: object, size: object) -> Iterator[pl.DataFrame]:
        try:
            yield from batches()
        except BaseException as error:  # polars would make text of it
            raised.append(error)
            raise

    frame, partial = register_io_source(source, schema=dict(schema)), _partial(path)
    try:
        try:
            if path.suffix.lower() == ".csv":
                frame.sink_csv(partial, engine="streaming")
            else:
                frame.sink_parquet(partial, engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            if raised:
                raise raised[0] from error
            raise UsageError(f"{path} cannot be written: {next(iter(str(error).splitlines()), '')}") from error
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
