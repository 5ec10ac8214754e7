"""Reading, splitting and encoding of rows with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.rows import Rows
from recprune_export.data.schema._infer_schema import SPLIT_VALUES
from recprune_export.data.schema.schema import Schema, Split
from recprune_export.data.tabular_files import collect, raise_data_errors, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

PARTITION_COLUMN = "__part"


@dataclass(frozen=True)
class ClickData:
    """Encoded rows of the three splits, and their encoder."""

    encoder: Encoder
    train: Rows
    valid: Rows
    test: Rows


def load_clicks(path: Path, schema: Schema, encoder: Encoder | None = None) -> ClickData:
    """Read rows and split them; without an `encoder`, one is fitted on the training split.

    Raises `DataError` if a column of the schema is missing or has another type, a label is not 0 and 1, or a split
    has no rows.
    """
    frame = scan(path)
    columns = frame.collect_schema().names()
    used = (*schema.labels, *schema.categorical, *schema.numeric, *(field.name for field in schema.multi_valued))
    missing = [name for name in used if name not in columns]
    if missing:
        raise DataError(
            f"{path} has no column '{missing[0]}', which the model's schema names; its columns are {', '.join(columns)}."
        )
    check_types(path, frame, schema)
    partitioned = _add_partition_column(path, frame, schema.split)
    with raise_data_errors(path):
        _check_infinite(path, frame, schema.numeric)
        encoder = encoder or Encoder.fit(_select_partition(partitioned, "train"), schema)
        splits = {
            name: _rows(path, _select_partition(partitioned, name), encoder, name)
            for name in ("train", "valid", "test")
        }
    return ClickData(encoder, **splits)


def check_types(path: Path, frame: "pl.LazyFrame", schema: Schema) -> None:
    """Raise `DataError` if the type of a column does not fit its role in the schema."""
    types = frame.collect_schema()
    for name in schema.numeric:
        if not (types[name].is_numeric() or str(types[name]) in ("Boolean", "Null")):
            raise DataError(f"The column '{name}' of {path} holds {types[name]}, but the model takes it as a number.")
    for field in schema.multi_valued:
        if (field.separator is None) != (str(types[field.name]).startswith(("List", "Array"))):
            expected = "lists" if field.separator is None else f"text with '{field.separator}' between values"
            raise DataError(
                f"The column '{field.name}' of {path} holds {types[field.name]}, but the model takes {expected}."
            )


def _check_infinite(path: Path, frame: "pl.LazyFrame", names: Sequence[str]) -> None:
    """Raise `DataError` for infinity, with which mean and deviation are not finite. NaN is a missing value, encoded as the mean."""
    import polars as pl

    if not names:
        return
    counts = collect(
        frame.select(pl.col(name).cast(pl.Float64, strict=False).is_infinite().sum() for name in names), path
    )
    infinite = {name: counts[name].item() for name in names if counts[name].item()}
    if infinite:
        name, count = next(iter(infinite.items()))
        raise DataError(
            f"The column '{name}' of {path} holds infinity in {count:,} row{'' if count == 1 else 's'}: clip it or leave it empty there."
        )


def _add_partition_column(path: Path, frame: "pl.LazyFrame", split: Split) -> "pl.LazyFrame":
    """Add a column with the name of the split of each row."""
    import polars as pl

    if split.column is not None:
        if split.column not in frame.collect_schema().names():
            raise DataError(f"{path} has no column '{split.column}', which the schema names for its splits.")
        names = pl.col(split.column).cast(pl.String).str.to_lowercase()
        return frame.with_columns(
            names.replace_strict(SPLIT_VALUES, default=None, return_dtype=pl.String).alias(PARTITION_COLUMN)
        )
    count = int(collect(frame.select(pl.len()), path).item())
    draw = np.random.default_rng(split.seed).random(count)
    # 0, 1, 2: test, valid, train
    code = (draw >= split.test).astype(np.int8) + (draw >= split.test + split.valid).astype(np.int8)
    partition = pl.Series(PARTITION_COLUMN, code).replace_strict(
        [0, 1, 2], ["test", "valid", "train"], return_dtype=pl.String
    )
    return frame.with_columns(partition)


def _select_partition(frame: "pl.LazyFrame", name: str) -> "pl.LazyFrame":
    import polars as pl

    return frame.filter(pl.col(PARTITION_COLUMN) == name)


def _rows(path: Path, frame: "pl.LazyFrame", encoder: Encoder, name: str) -> Rows:
    import polars as pl

    labels = collect(frame.select(pl.col(encoder.schema.labels).cast(pl.Float32, strict=False)), path)
    if not len(labels):
        raise DataError(
            f"The {name} part of {path} has no rows; give more rows, or a split column that fills train, valid and test."
        )
    arrays = {label: labels[label].to_numpy() for label in encoder.schema.labels}
    for label, values in arrays.items():
        if not np.isin(values, (0.0, 1.0)).all():
            invalid = values[~np.isin(values, (0.0, 1.0))][0]
            raise DataError(
                f"The label '{label}' of {path} must be 0 or 1 in every row, but there is {invalid:g} in the {name} part."
            )
    return Rows(encoder.encode(frame), arrays)
