"""Reading, splitting and encoding of rows with labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.group_codes import encode_groups, require_group_column
from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.read_labels import check_any_label, check_training_rows, read_labels, refuse_texts
from recprune_export.data.rows import Rows
from recprune_export.data.schema._infer_schema import SPLIT_VALUES
from recprune_export.data.schema.schema import Schema, Split
from recprune_export.data.tabular_files import collect, raise_data_errors, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

PARTITION_COLUMN, WEIGHT_COLUMN, KNOWN_COLUMN, GROUP_COLUMN = "__part", "__weight", "__known", "__group"


@dataclass(frozen=True)
class ClickData:
    """Encoded rows of the three splits, their encoder, the values of their labels, and notes on how they were read."""

    encoder: Encoder
    train: Rows
    valid: Rows
    test: Rows
    label_values: Mapping[str, LabelValues] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_clicks(path: Path, schema: Schema, encoder: Encoder | None = None, group: str | None = None) -> ClickData:
    """Read rows and split them; without an `encoder`, one is fitted on the training split.

    Rows without any label are left out. Without an `encoder` the labels whose values are not 0 and 1 become those of
    numbers in its schema. `group` names the column over whose values metrics are means.

    Raises `DataError` if a column of the schema is missing or has another type, a label does not fit the schema, or a
    split has no rows.
    """
    frame = scan(path)
    columns = frame.collect_schema().names()
    fields = (*schema.categorical, *schema.numeric, *(several.name for several in schema.multi_valued))
    used = (*schema.labels, *fields, *((schema.weight,) if schema.weight else ()))
    missing = [name for name in used if name not in columns]
    if schema.weight in missing:
        raise DataError(
            f"{path} has no column '{schema.weight}', the weights of the model's rows: add it, or name another by --weight; its "
            f"columns are {', '.join(columns)}."
        )
    if missing:
        raise DataError(
            f"{path} has no column '{missing[0]}', which the model's schema names; its columns are {', '.join(columns)}."
        )
    check_types(path, frame, schema)
    frame, label_values, notes = _add_labels(path, frame, schema, schema.label_kinds if encoder else {})
    numbers = (name for name, values in label_values.items() if values.kind(1) is LabelKind.NUMBER)
    schema = replace(schema, value_labels=tuple(numbers))
    frame = frame if group is None else _add_groups(path, frame, group)
    partitioned = _add_partition_column(path, frame, schema.split)
    if KNOWN_COLUMN in frame.collect_schema().names():
        partitioned = _select_known(partitioned)
    with raise_data_errors(path):
        _check_infinite(path, frame, schema.numeric)
        encoder = encoder or Encoder.fit(_select_partition(partitioned, "train"), schema)
        splits = {
            name: _rows(path, _select_partition(partitioned, name), encoder, name)
            for name in ("train", "valid", "test")
        }
    check_training_rows(path, splits["train"])
    return ClickData(encoder, **splits, label_values=label_values, notes=notes)


def check_types(path: Path, frame: "pl.LazyFrame", schema: Schema) -> None:
    """Raise `DataError` if the type of a column does not fit its role in the schema."""
    types = frame.collect_schema()
    for name in schema.numeric:
        if not (types[name].is_numeric() or str(types[name]) in ("Boolean", "Null")):
            raise DataError(f"The column '{name}' of {path} holds {types[name]}, but the model takes it as a number.")
    for several in schema.multi_valued:
        if (several.separator is None) != (str(types[several.name]).startswith(("List", "Array"))):
            expected = "lists" if several.separator is None else f"text with '{several.separator}' between values"
            raise DataError(
                f"The column '{several.name}' of {path} holds {types[several.name]}, but the model takes {expected}."
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


def _add_labels(
    path: Path, frame: "pl.LazyFrame", schema: Schema, kinds: Mapping[str, LabelKind]
) -> tuple["pl.LazyFrame", dict[str, LabelValues], tuple[str, ...]]:
    """Return the frame with labels as Float32, null where missing, the weights, and a column of the rows with a label.

    There is no such column if all rows have one.
    """
    import polars as pl

    columns = (*schema.labels, *((schema.weight,) if schema.weight else ()))
    table = collect(frame.select(list(dict.fromkeys(columns))), path)
    read = read_labels(
        path,
        {name: table[name].to_numpy() for name in schema.labels},
        missing=schema.missing_label,
        kinds=kinds,
        weights=(schema.weight, table[schema.weight].to_numpy()) if schema.weight else None,
    )
    check_any_label(path, read)
    refuse_texts(path, read)
    series = [pl.Series(name, values, nan_to_null=True) for name, values in read.labels.items()]
    series += [] if read.weights is None else [pl.Series(WEIGHT_COLUMN, read.weights)]
    series += [] if read.known.all() else [pl.Series(KNOWN_COLUMN, read.known)]
    return frame.with_columns(series), dict(read.values), read.notes


def _add_groups(path: Path, frame: "pl.LazyFrame", name: str) -> "pl.LazyFrame":
    """Add a column of the codes of the groups."""
    import polars as pl

    require_group_column(path, name, frame.collect_schema().names())
    values = collect(frame.select(name), path)[name].to_numpy()
    return frame.with_columns(pl.Series(GROUP_COLUMN, encode_groups(path, name, values)))


def _select_known(frame: "pl.LazyFrame") -> "pl.LazyFrame":
    import polars as pl

    return frame.filter(pl.col(KNOWN_COLUMN))


def _select_partition(frame: "pl.LazyFrame", name: str) -> "pl.LazyFrame":
    import polars as pl

    return frame.filter(pl.col(PARTITION_COLUMN) == name)


def _rows(path: Path, frame: "pl.LazyFrame", encoder: Encoder, name: str) -> Rows:
    names = encoder.schema.labels
    has_groups = GROUP_COLUMN in frame.collect_schema().names()
    columns = (
        *names, *((WEIGHT_COLUMN,) if encoder.schema.weight else ()), *((GROUP_COLUMN,) if has_groups else ())
    )  # fmt: skip
    table = collect(frame.select(columns), path)
    if not len(table):
        raise DataError(
            f"The {name} part of {path} has no rows; give more rows, or a split column that fills train, valid and test."
        )
    weights = table[WEIGHT_COLUMN].to_numpy() if encoder.schema.weight else None
    groups = table[GROUP_COLUMN].to_numpy() if has_groups else None
    labels = {label: table[label].to_numpy() for label in names}
    return Rows(encoder.encode(frame), labels, weights=weights, groups=groups)
