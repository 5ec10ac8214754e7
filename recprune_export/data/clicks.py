"""Reading, splitting and encoding of rows with labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from recprune_export.column_names import check_columns_exist
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.numeric_columns import as_number, can_be_number, is_no_number
from recprune_export.data.encoding.unknown_values import (
    UnknownTally,
    count_unknown_if_many,
    judge_unknown,
    tally_unknown,
)
from recprune_export.data.group_codes import encode_groups, require_group_column
from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.read_labels import (
    check_any_label,
    check_training_rows,
    describe_constant_labels,
    read_labels,
    refuse_texts,
)
from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Rows
from recprune_export.data.schema.schema import Schema, Split
from recprune_export.data.splits.row_split import SPLIT_NAMES, SplitMixin, split_at_random, split_rows
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.label_rules import judge_labels, read_group_codes
from recprune_export.data.streaming.large_tables import is_large
from recprune_export.data.streaming.row_sides import SIDE, add_sides, choose_sides
from recprune_export.data.streaming.write_once import write_once
from recprune_export.data.streaming.write_rows import write_rows
from recprune_export.data.tabular_files import collect, count_frame_rows, describe_encoding, raise_data_errors, scan
from recprune_export.errors import DataError
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl

PARTITION_COLUMN, WEIGHT_COLUMN, KNOWN_COLUMN, GROUP_COLUMN = "__part", "__weight", "__known", "__group"
_REMEDY = "Correct these rows, or leave them out."


@dataclass(frozen=True)
class ClickData(SplitMixin):
    """Encoded rows of the three splits, and their encoder.

    `label_values` describes the labels, `split_description` describes the split of the rows, and `notes` how they were read, and which
    rows are left out or doubtful.
    """

    encoder: Encoder
    train: RowSource
    valid: RowSource
    test: RowSource
    label_values: Mapping[str, LabelValues] = field(default_factory=dict)
    split_description: str = ""
    notes: tuple[str, ...] = ()


def load_clicks(
    path: DataFile,
    schema: Schema,
    encoder: Encoder | None = None,
    group: str | None = None,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
) -> ClickData:
    """Read rows and split them; without an `encoder`, one is fitted on the training split.

    Rows without any label are left out. Without an `encoder`, labels whose values are not 0 and 1 become numeric labels in its schema.
    `group` is the column that defines the groups of metrics.

    Raises `DataError` if a column of the schema is missing or has another type, a label does not fit the schema, a split
    has no rows, or nearly all values of a field are unknown to a given `encoder`.
    """
    import polars as pl

    options = CsvOptions(reading.separator, reading.encoding)
    frame = scan(path, options, text=schema.texts, missing=schema.missing)
    columns = frame.collect_schema().names()
    check_columns_exist(path, schema.labels, columns, "the label of the model")
    check_columns_exist(path, schema.fields, columns, "a field of the model")
    weights = (schema.weight,) if schema.weight else ()
    check_columns_exist(path, weights, columns, "the weight of the rows, unless --weight gives another column")
    check_types(path, frame, schema)
    if group is not None:
        require_group_column(path, group, columns)
    count = count_frame_rows(frame, path)
    if reading.stream if reading.stream is not None else is_large(count, len(columns)):
        write = partial(_stream_clicks, path, frame, count, schema, encoder, group, reading)
        return write_once(write, reading.readers)
    frame, label_values, label_notes = _add_labels(path, frame, schema, schema.label_kinds if encoder else {})
    schema = _with_value_labels(schema, label_values)
    frame = frame if group is None else _add_groups(path, frame, group)
    partitioned, description = _add_partition_column(path, frame, count, schema.split)
    if KNOWN_COLUMN in frame.collect_schema().names():
        partitioned = _select_known(partitioned)
    with raise_data_errors(path):
        check_numbers(path, frame, schema)
        is_fitted = encoder is None
        encoder = encoder or Encoder.fit(_select_partition(partitioned, "train"), schema)
        splits = {name: _rows(path, _select_partition(partitioned, name), encoder, name) for name in SPLIT_NAMES}
        judged = SPLIT_NAMES[1:] if is_fitted else SPLIT_NAMES
        rows = partitioned.filter(pl.col(PARTITION_COLUMN) > 0) if is_fitted else partitioned
        tallies = tally_unknown(encoder, [splits[name].inputs for name in judged])
        notes = _describe_unknown(path, encoder, rows, tallies, reading, is_fitted=is_fitted)
    measured = check_training_rows(path, splits["train"])
    notes = (*label_notes, *describe_constant_labels(measured), *notes)
    return ClickData(encoder, **splits, label_values=label_values, split_description=description, notes=notes)


def _stream_clicks(
    path: DataFile,
    frame: "pl.LazyFrame",
    count: int,
    schema: Schema,
    encoder: Encoder | None,
    group: str | None,
    reading: DataSettings,
) -> ClickData:
    """Read rows as `load_clicks` does, into files of encoded rows."""
    import polars as pl

    labels = judge_labels(
        path,
        frame,
        schema.labels,
        missing=schema.missing_label,
        kinds=schema.label_kinds if encoder else {},
        weight=schema.weight,
    )
    check_any_label(path, labels.read)
    refuse_texts(path, labels.read)
    schema = _with_value_labels(schema, labels.read.values)
    groups = None if group is None else read_group_codes(path, frame, group)
    if schema.split.source is not None:
        names = frame.collect_schema().names()
        check_columns_exist(path, [schema.split.source], names, "by which the rows of the model are split")
    rule = choose_sides(path, frame, schema.split, _REMEDY)
    with add_sides(path, frame, count, rule, labels) as sided, raise_data_errors(path):
        check_numbers(path, frame, schema)
        is_fitted = encoder is None
        encoder = encoder or Encoder.fit(sided.filter(pl.col(SIDE) == 0), schema)
        written = write_rows(path, sided, count, encoder, labels, groups, reading.readers)
        for name, side in written.sides.items():
            _refuse_no_rows(path, name, len(side))
        judged = SPLIT_NAMES[1:] if is_fitted else SPLIT_NAMES
        rows = sided.filter(pl.col(SIDE).is_between(1 if is_fitted else 0, 2))
        notes = _describe_unknown(path, encoder, rows, written.tally(judged), reading, is_fitted=is_fitted)
    train = written.sides["train"]
    measured = check_training_rows(path, train)
    notes = (*labels.read.notes, *describe_constant_labels(measured), *notes)
    return ClickData(
        encoder,
        train,
        written.sides["valid"],
        written.sides["test"],
        label_values=dict(labels.read.values),
        split_description=rule.description,
        notes=notes,
    )


def _with_value_labels(schema: Schema, labels: Mapping[str, LabelValues]) -> Schema:
    """Return the schema with the labels whose values are numbers, and not 0 and 1."""
    numbers = (name for name, values in labels.items() if values.kind(1) is LabelKind.NUMBER)
    return replace(schema, value_labels=tuple(numbers))


def _describe_unknown(
    path: DataFile,
    encoder: Encoder,
    rows: "pl.LazyFrame",
    tallies: Mapping[str, UnknownTally],
    reading: DataSettings,
    *,
    is_fitted: bool,
) -> tuple[str, ...]:
    """Return notes on unknown values of `rows`, which are the held-out rows if the encoder was fitted on the other rows of `path`; for a
    given encoder, also notes on the encoding of the file.

    Raises `DataError` if nearly all values of a field are unknown.
    """
    counts = count_unknown_if_many(encoder, rows, tallies)
    if is_fitted:
        return judge_unknown(counts.values(), encoder.vocabularies, f"the held-out rows of {path}", allow=True)
    notes = judge_unknown(counts.values(), encoder.vocabularies, str(path), reading.allow_unknown)
    return (*describe_encoding(path, CsvOptions(reading.separator, reading.encoding)), *notes)


def check_types(path: DataFile, frame: "pl.LazyFrame", schema: Schema) -> None:
    """Raise `DataError` if the type of a column does not fit its role in the schema."""
    import polars as pl

    types = frame.collect_schema()
    empty = {name for name, dtype in types.items() if isinstance(dtype, pl.Null)}  # without a value there is no type
    for name in schema.categorical:
        if types[name].is_nested() or isinstance(types[name], pl.Binary | pl.Object):
            raise DataError(f"The column '{name}' of {path} contains {types[name]}, but the model expects one value.")
    for name in schema.numeric:
        if not can_be_number(types[name]):
            raise DataError(
                f"The column '{name}' of {path} contains {types[name]}, but the model expects it as a number."
            )
    for vector in schema.vectors:
        if vector.name not in empty and not isinstance(types[vector.name], pl.List | pl.Array):
            raise DataError(
                f"The column '{vector.name}' of {path} contains {types[vector.name]}, but the model expects vectors "
                f"of {vector.size} numbers."
            )
    for several in schema.multi_valued:
        if several.name in empty:
            continue
        if (several.separator is None) != (str(types[several.name]).startswith(("List", "Array"))):
            is_list = several.separator is None
            expected = "lists, as Parquet has them" if is_list else f"text with '{several.separator}' between values"
            raise DataError(
                f"The column '{several.name}' of {path} contains {types[several.name]}, but the model expects {expected}."
            )


def check_numbers(path: DataFile, frame: "pl.LazyFrame", schema: Schema, first_row: int = 0) -> None:
    """Raise `DataError` for a text that is not a number, and for infinity, because mean and deviation would not be finite.

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
                f"The column '{name}' of {path} contains infinity in {count:,} row{'' if count == 1 else 's'}: "
                "clip it, or leave the value empty."
            )


def _no_number_error(
    path: DataFile, frame: "pl.LazyFrame", name: str, mask: "pl.Expr", count: int, first_row: int
) -> DataError:
    row, value = collect(frame.with_row_index("__row").filter(mask).select("__row", name).head(1), path).row(0)
    return DataError(
        f"The column '{name}' of {path} contains '{value}' at row {first_row + row:,} ({count:,} such row{'' if count == 1 else 's'}), "
        f"but the model expects it as a number: leave the value empty, or train again with --missing '{value}' "
        f"(a missing value), --categorical {name} or --ignore {name}."
    )


def _add_partition_column(
    path: DataFile, frame: "pl.LazyFrame", count: int, split: Split
) -> "tuple[pl.LazyFrame, str]":
    """Add a column with the split of each row, 0 to 2; return it with a description of the split."""
    import polars as pl

    source = split.source
    if source is None:
        row_split = split_at_random(count, split)
    else:
        check_columns_exist(path, [source], frame.collect_schema().names(), "by which the rows of the model are split")
        row_split = split_rows(path, collect(frame.select(source), path)[source], split, _REMEDY)
    return frame.with_columns(pl.Series(PARTITION_COLUMN, row_split.codes)), row_split.description


def _add_labels(
    path: DataFile, frame: "pl.LazyFrame", schema: Schema, kinds: Mapping[str, LabelKind]
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


def _add_groups(path: DataFile, frame: "pl.LazyFrame", name: str) -> "pl.LazyFrame":
    """Add a column of the codes of the groups."""
    import polars as pl

    values = collect(frame.select(name), path)[name].to_numpy()
    return frame.with_columns(pl.Series(GROUP_COLUMN, encode_groups(path, name, values)))


def _select_known(frame: "pl.LazyFrame") -> "pl.LazyFrame":
    import polars as pl

    return frame.filter(pl.col(KNOWN_COLUMN))


def _select_partition(frame: "pl.LazyFrame", name: str) -> "pl.LazyFrame":
    import polars as pl

    return frame.filter(pl.col(PARTITION_COLUMN) == SPLIT_NAMES.index(name))


def _rows(path: DataFile, frame: "pl.LazyFrame", encoder: Encoder, name: str) -> Rows:
    names = encoder.schema.labels
    has_groups = GROUP_COLUMN in frame.collect_schema().names()
    columns = (
        *names, *((WEIGHT_COLUMN,) if encoder.schema.weight else ()), *((GROUP_COLUMN,) if has_groups else ())
    )  # fmt: skip
    table = collect(frame.select(columns), path)
    _refuse_no_rows(path, name, len(table))
    weights = table[WEIGHT_COLUMN].to_numpy(writable=True) if encoder.schema.weight else None
    groups = table[GROUP_COLUMN].to_numpy(writable=True) if has_groups else None
    labels = {label: table[label].to_numpy(writable=True) for label in names}
    return Rows(encoder.encode(frame), labels, weights=weights, groups=groups)


def _refuse_no_rows(path: DataFile, name: str, count: int) -> None:
    if not count:
        raise DataError(
            f"The {name} part of {path} has no rows; give more rows, or a column with train, valid and test with --split."
        )
