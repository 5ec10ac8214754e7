"""Reading, splitting and encoding of rows with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.column_names import describe_missing_column
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.rows import Rows
from recprune_export.data.schema.schema import Schema, Split
from recprune_export.data.splits.row_split import SPLIT_NAMES, SplitSizes, split_at_random, split_rows
from recprune_export.data.tabular_files import collect, raise_data_errors, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

PARTITION_COLUMN = "__part"
_REMEDY = "Correct those rows, or leave them out."


@dataclass(frozen=True)
class ClickData:
    """Encoded rows of the three splits, and their encoder.

    `split_description` says in words how they are split, `notes` which of them are left out or doubtful.
    """

    encoder: Encoder
    train: Rows
    valid: Rows
    test: Rows
    split_description: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> SplitSizes:
        """How many rows each side has."""
        return SplitSizes(len(self.train), len(self.valid), len(self.test), self.split_description)


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
        role = "the label of the model" if missing[0] in schema.labels else "a field of the model"
        raise DataError(describe_missing_column(path, missing[0], columns, role))
    check_types(path, frame, schema)
    partitioned, description = _add_partition_column(path, frame, schema.split)
    with raise_data_errors(path):
        _check_infinite(path, frame, schema.numeric)
        encoder = encoder or Encoder.fit(_select_partition(partitioned, "train"), schema)
        splits = {name: _rows(path, _select_partition(partitioned, name), encoder, name) for name in SPLIT_NAMES}
    return ClickData(encoder, **splits, split_description=description)


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


def _add_partition_column(path: Path, frame: "pl.LazyFrame", split: Split) -> "tuple[pl.LazyFrame, str]":
    """Add a column with the split of each row, 0 to 2; return in words how the rows are split as well."""
    import polars as pl

    source, columns = split.source, frame.collect_schema().names()
    if source is None:
        row_split = split_at_random(int(collect(frame.select(pl.len()), path).item()), split)
    elif source not in columns:
        raise DataError(describe_missing_column(path, source, columns, "by which the model's rows are split"))
    else:
        row_split = split_rows(path, collect(frame.select(source), path)[source], split, _REMEDY)
    return frame.with_columns(pl.Series(PARTITION_COLUMN, row_split.codes)), row_split.description


def _select_partition(frame: "pl.LazyFrame", name: str) -> "pl.LazyFrame":
    import polars as pl

    return frame.filter(pl.col(PARTITION_COLUMN) == SPLIT_NAMES.index(name))


def _rows(path: Path, frame: "pl.LazyFrame", encoder: Encoder, name: str) -> Rows:
    import polars as pl

    labels = collect(frame.select(pl.col(encoder.schema.labels).cast(pl.Float32, strict=False)), path)
    if not len(labels):
        raise DataError(
            f"The {name} part of {path} has no rows; give more rows, or a column with train, valid and test by --split."
        )
    arrays = {label: labels[label].to_numpy() for label in encoder.schema.labels}
    for label, values in arrays.items():
        if not np.isin(values, (0.0, 1.0)).all():
            invalid = values[~np.isin(values, (0.0, 1.0))][0]
            raise DataError(
                f"The label '{label}' of {path} must be 0 or 1 in every row, but there is {invalid:g} in the {name} part."
            )
    return Rows(encoder.encode(frame), arrays)
