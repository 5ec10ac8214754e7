"""The inputs of a file of scores, recorded in its Parquet metadata: with it an interrupted job can be continued."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recprune_export.codec import DictMixin
from recprune_export.data.csv_format import file_state
from recprune_export.data.streaming.data_files import DataFile, is_parquet
from recprune_export.settings import DataSettings

KEY = "recprune_export.scores"


@dataclass(frozen=True)
class ScoredOf(DictMixin):
    """The checksum of the bundle's manifest, its ONNX file, size in bytes and modification time (ns) of the rows, and the options.

    For rows in an object store, `remote_rows` is their number, since polars provides neither size nor time.
    """

    bundle: str
    file: str
    bytes: int
    changed_ns: int
    remote_rows: int | None
    keep: tuple[str, ...]
    probability: bool
    separator: str | None
    encoding: str | None

    def to_metadata(self) -> dict[str, str]:
        """Return the entry of the metadata of a Parquet file."""
        return {KEY: json.dumps(self.to_dict())}


def describe_scores(
    bundle: str, file: str, data: DataFile, keep: Sequence[str], probability: bool, reading: DataSettings
) -> ScoredOf:
    """Return the inputs of the scores of `data`."""
    size, changed, _ = file_state(data)
    rows = count_parquet_rows(data) if isinstance(data, str) and is_parquet(data) else None
    return ScoredOf(bundle, file, size, changed, rows, tuple(keep), probability, reading.separator, reading.encoding)


def read_description(path: Path) -> ScoredOf | None:
    """Return the recorded inputs of the scores in `path`; None if the file is incomplete or has no such record."""
    import polars as pl

    try:
        return ScoredOf.from_dict(json.loads(pl.read_parquet_metadata(path)[KEY]))
    except (pl.exceptions.PolarsError, OSError, LookupError, ValueError, TypeError):
        return None


def is_finished(before: ScoredOf | None, expected: ScoredOf) -> bool:
    """Return whether scores need not be computed again; for remote CSV files, changes cannot be detected."""
    return before == expected and bool(expected.bytes or expected.remote_rows is not None)


def count_parquet_rows(path: DataFile) -> int:
    """Return the number of rows in the footer of a Parquet file."""
    import polars as pl

    return int(pl.scan_parquet(str(path), glob=False).select(pl.len()).collect().item())
