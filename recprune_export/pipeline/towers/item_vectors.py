"""Compute the vectors of the rows of a file with one tower of a bundle."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.column_names import check_columns_exist
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.tabular_files import collect, raise_data_errors, read_column_names, scan
from recprune_export.derived.top_k.item_ids import parse_ids
from recprune_export.derived.towers.tower_files import OpenTower
from recprune_export.errors import DataError
from recprune_export.prediction.encode_requests import describe_unknown, encode_rows
from recprune_export.prediction.scorer import ROWS_PER_READ, ROWS_PER_RUN
from recprune_export.settings import DataSettings


@dataclass(frozen=True)
class ItemVectors:
    """`vectors` [items, width], float32; `ids` [items], int64 or strings, from the column `column`; notes on unknown values."""

    vectors: np.ndarray
    ids: np.ndarray
    column: str
    notes: tuple[str, ...]


def read_item_vectors(
    bundle: Path, manifest: Manifest, tower: OpenTower, path: Path, column: str | None, reading: DataSettings
) -> ItemVectors:
    """Return the vectors of the items in `path` by a tower, with their ids from `column`, the first by default.

    Raises `DataError` if a column is missing, an id is missing or occurs twice, or a vector is not finite.
    """
    ids, column = _read_ids(path, column, reading)
    vectors, notes = read_vectors_of_rows(bundle, manifest, tower, path, reading)
    return ItemVectors(vectors, ids, column, notes)


def read_vectors_of_rows(
    bundle: Path, manifest: Manifest, tower: OpenTower, path: Path, reading: DataSettings
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the vectors of all rows of `path`, [rows, width], and notes; raw values are encoded with the encoding of the bundle.

    Raises `DataError` if a vector is not finite.
    """
    requests = encode_rows(bundle, manifest, path, reading, (), tower.tower.signature)

    def answer() -> Iterator[np.ndarray]:
        first_row = 0
        with raise_data_errors(path):
            columns = requests.frame.select(*requests.columns)
            for rows in columns.collect_batches(chunk_size=ROWS_PER_READ, engine="streaming"):
                request = requests.request(rows, first_row)
                for start in range(0, len(rows), ROWS_PER_RUN):
                    part = {name: values[start : start + ROWS_PER_RUN] for name, values in request.items()}
                    yield tower.answer(part)
                first_row += len(rows)

    parts = [*answer()]
    if not parts:
        raise DataError(f"{path} has no rows.")
    vectors = np.concatenate(parts)
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(odd):
        raise DataError(
            f"{len(odd):,} of {len(vectors):,} rows in {path} have no finite vector, the first is row {odd[0]:,}: fill the missing "
            "values, or leave out these rows."
        )
    unknown = (f"{path.name}: {note}" for note in describe_unknown(requests.unknown))
    return vectors, (*requests.judge(), *unknown)


def _read_ids(path: Path, column: str | None, reading: DataSettings) -> tuple[np.ndarray, str]:
    options = CsvOptions(reading.separator, reading.encoding)
    names = read_column_names(path, options)
    column = names[0] if column is None else column
    check_columns_exist(path, (column,), names, "with the ids of the items")
    values, _ = parse_ids(path, collect(scan(path, options, text=(column,), columns=(column,)), path)[column])
    missing = sum(value is None for value in values)
    if missing:
        raise DataError(
            f"{missing:,} of {len(values):,} items in {path} have no id in '{column}': give every item an id."
        )
    return np.array(values), column
