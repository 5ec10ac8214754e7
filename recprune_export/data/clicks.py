"""Reading, splitting and encoding of rows with labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recprune_export.column_names import describe_missing_column
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.group_codes import encode_groups, require_group_column
from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.read_labels import check_any_label, check_training_rows, read_labels, refuse_texts
from recprune_export.data.rows import Rows
from recprune_export.data.schema.schema import Schema, Split
from recprune_export.data.splits.row_split import SPLIT_NAMES, SplitSizes, split_at_random, split_rows
from recprune_export.data.tabular_files import collect, raise_data_errors, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

PARTITION_COLUMN, WEIGHT_COLUMN, KNOWN_COLUMN, GROUP_COLUMN = "__part", "__weight", "__known", "__group"
_REMEDY = "Correct those rows, or leave them out."


@dataclass(frozen=True)
class ClickData:
    """Encoded rows of the three splits, and their encoder.

    `label_values` describes the labels, `split_description` says in words how the rows are split, and `notes` how they were
    read, which of them are left out or doubtful.
    """

    encoder: Encoder
    train: Rows
    valid: Rows
    test: Rows
    label_values: Mapping[str, LabelValues] = field(default_factory=dict)
    split_description: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> SplitSizes:
        """How many rows each side has."""
        return SplitSizes(len(self.train), len(self.valid), len(self.test), self.split_description)


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
        role = "the label of the model" if missing[0] in schema.labels else "a field of the model"
        raise DataError(describe_missing_column(path, missing[0], columns, role))
    check_types(path, frame, schema)
    frame, label_values, notes = _add_labels(path, frame, schema, schema.label_kinds if encoder else {})
    numbers = (name for name, values in label_values.items() if values.kind(1) is LabelKind.NUMBER)
    schema = replace(schema, value_labels=tuple(numbers))
    frame = frame if group is None else _add_groups(path, frame, group)
    partitioned, description = _add_partition_column(path, frame, schema.split)
    if KNOWN_COLUMN in frame.collect_schema().names():
        partitioned = _select_known(partitioned)
    with raise_data_errors(path):
        _check_infinite(path, frame, schema.numeric)
        encoder = encoder or Encoder.fit(_select_partition(partitioned, "train"), schema)
        splits = {name: _rows(path, _select_partition(partitioned, name), encoder, name) for name in SPLIT_NAMES}
    check_training_rows(path, splits["train"])
    return ClickData(encoder, **splits, label_values=label_values, split_description=description, notes=notes)


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

    return frame.filter(pl.col(PARTITION_COLUMN) == SPLIT_NAMES.index(name))


def _rows(path: Path, frame: "pl.LazyFrame", encoder: Encoder, name: str) -> Rows:
    names = encoder.schema.labels
    has_groups = GROUP_COLUMN in frame.collect_schema().names()
    columns = (
        *names, *((WEIGHT_COLUMN,) if encoder.schema.weight else ()), *((GROUP_COLUMN,) if has_groups else ())
    )  # fmt: skip
    table = collect(frame.select(columns), path)
    if not len(table):
        raise DataError(
            f"The {name} part of {path} has no rows; give more rows, or a column with train, valid and test by --split."
        )
    weights = table[WEIGHT_COLUMN].to_numpy() if encoder.schema.weight else None
    groups = table[GROUP_COLUMN].to_numpy() if has_groups else None
    labels = {label: table[label].to_numpy() for label in names}
    return Rows(encoder.encode(frame), labels, weights=weights, groups=groups)
