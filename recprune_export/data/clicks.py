"""Reading, splitting and encoding of rows with labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.numeric_columns import as_number, can_be_number, is_no_number
from recprune_export.data.encoding.unknown_values import count_unknown_if_many, judge_unknown
from recprune_export.data.rows import Rows
from recprune_export.data.schema._infer_schema import SPLIT_VALUES
from recprune_export.data.schema.schema import Schema, Split
from recprune_export.data.tabular_files import collect, describe_encoding, raise_data_errors, scan
from recprune_export.errors import DataError
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl

PARTITION_COLUMN = "__part"


@dataclass(frozen=True)
class ClickData:
    """Encoded rows of the three splits, their encoder, and notes about values that it does not know."""

    encoder: Encoder
    train: Rows
    valid: Rows
    test: Rows
    notes: tuple[str, ...] = ()


def load_clicks(
    path: Path, schema: Schema, encoder: Encoder | None = None, reading: DataSettings = DEFAULT_DATA_SETTINGS
) -> ClickData:
    """Read rows and split them; without an `encoder`, one is fitted on the training split.

    Raises `DataError` if a column of the schema is missing or has another type, a label is not 0 and 1, a split has no
    rows, or nearly all values of a field are unknown to a given `encoder`.
    """
    import polars as pl

    options = CsvOptions(reading.separator, reading.encoding)
    frame = scan(path, options, text=schema.texts, missing=schema.missing)
    columns = frame.collect_schema().names()
    used = (*schema.labels, *schema.fields)
    missing = [name for name in used if name not in columns]
    if missing:
        raise DataError(
            f"{path} has no column '{missing[0]}', which the model's schema names; its columns are {', '.join(columns)}."
        )
    check_types(path, frame, schema)
    partitioned = _add_partition_column(path, frame, schema.split)
    with raise_data_errors(path):
        check_numbers(path, frame, schema)
        is_fitted = encoder is None
        encoder = encoder or Encoder.fit(_select_partition(partitioned, "train"), schema)
        splits = {
            name: _rows(path, _select_partition(partitioned, name), encoder, name)
            for name in ("train", "valid", "test")
        }
        held_out = [splits[name].inputs for name in ("valid", "test")]
        if is_fitted:
            rows = partitioned.filter(pl.col(PARTITION_COLUMN).is_in(["valid", "test"]))
            counts = count_unknown_if_many(encoder, rows, held_out)
            notes = judge_unknown(counts.values(), encoder.vocabularies, f"the held-out rows of {path}", allow=True)
        else:
            rows = partitioned.filter(pl.col(PARTITION_COLUMN).is_not_null())
            counts = count_unknown_if_many(encoder, rows, [splits["train"].inputs, *held_out])
            notes = judge_unknown(counts.values(), encoder.vocabularies, str(path), reading.allow_unknown)
            notes = (*describe_encoding(path, options), *notes)
    return ClickData(encoder, **splits, notes=notes)


def check_types(path: Path, frame: "pl.LazyFrame", schema: Schema) -> None:
    """Raise `DataError` if the type of a column does not fit its role in the schema."""
    import polars as pl

    types = frame.collect_schema()
    for name in schema.categorical:
        if types[name].is_nested() or isinstance(types[name], pl.Binary | pl.Object):
            raise DataError(f"The column '{name}' of {path} holds {types[name]}, but the model takes one value.")
    for name in schema.numeric:
        if not can_be_number(types[name]):
            raise DataError(f"The column '{name}' of {path} holds {types[name]}, but the model takes it as a number.")
    for vector in schema.vectors:
        if not isinstance(types[vector.name], pl.List | pl.Array):
            raise DataError(
                f"The column '{vector.name}' of {path} holds {types[vector.name]}, but the model takes vectors of {vector.size} numbers."
            )
    for field in schema.multi_valued:
        if (field.separator is None) != (str(types[field.name]).startswith(("List", "Array"))):
            expected = "lists" if field.separator is None else f"text with '{field.separator}' between values"
            raise DataError(
                f"The column '{field.name}' of {path} holds {types[field.name]}, but the model takes {expected}."
            )


def check_numbers(path: Path, frame: "pl.LazyFrame", schema: Schema, first_row: int = 0) -> None:
    """Raise `DataError` for a text that is no number, and for infinity, with which mean and deviation are not finite.

    NaN is a missing value, encoded as the mean. `first_row` is the position of the first row of `frame` in `path`.
    """
    import polars as pl

    if not (schema.numeric or schema.vectors):
        return
    types = frame.collect_schema()
    texts = {name: is_no_number(pl.col(name), types[name], schema.missing) for name in schema.numeric}
    infinite = {name: as_number(pl.col(name), types[name], schema.missing).is_infinite() for name in schema.numeric}
    for vector in schema.vectors:
        numbers = pl.col(vector.name).cast(pl.List(pl.Float64))
        infinite[vector.name] = numbers.list.eval(pl.element().is_infinite()).list.any()
    counts = collect(
        frame.select(
            *(mask.sum().alias(f"text {name}") for name, mask in texts.items()),
            *(mask.sum().alias(f"infinite {name}") for name, mask in infinite.items()),
        ),
        path,
    ).row(0, named=True)
    for name, mask in texts.items():
        if count := counts[f"text {name}"]:
            raise _no_number_error(path, frame, name, mask, count, first_row)
    for name in infinite:
        if count := counts[f"infinite {name}"]:
            raise DataError(
                f"The column '{name}' of {path} holds infinity in {count:,} row{'' if count == 1 else 's'}: "
                "clip it or leave it empty there."
            )


def _no_number_error(
    path: Path, frame: "pl.LazyFrame", name: str, mask: "pl.Expr", count: int, first_row: int
) -> DataError:
    row, value = collect(frame.with_row_index("__row").filter(mask).select("__row", name).head(1), path).row(0)
    return DataError(
        f"The column '{name}' of {path} holds '{value}' at row {first_row + row:,} ({count:,} such row{'' if count == 1 else 's'}), "
        f"but the model takes it as a number: leave it empty there, or train again with --missing '{value}' "
        f"(the word is a missing value), --categorical {name} or --ignore {name}."
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
