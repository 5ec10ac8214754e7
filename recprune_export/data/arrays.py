"""Rows for third-party models: columns or arrays that already have the form of the inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.column_names import check_columns_exist, describe_missing_column
from recprune_export.data.array_checks import ArrayChecks, HasAnswer
from recprune_export.data.array_spec import ArraySpec, describe_list_columns
from recprune_export.data.group_codes import encode_groups, require_group_column
from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.named_columns import Columns, NamedColumns, as_column, open_columns, stack_columns
from recprune_export.data.occurrences import Occurrences
from recprune_export.data.read_labels import (
    LabelColumns,
    check_any_label,
    check_training_rows,
    describe_constant_labels,
    read_labels,
)
from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Rows
from recprune_export.data.schema.schema import Split
from recprune_export.data.splits.random_sides import describe_random_sides, draw_array_sides
from recprune_export.data.splits.row_split import (
    RowSplit,
    SplitMixin,
    holds_split_words,
    make_split,
    split_by_words,
    split_rows,
)
from recprune_export.data.splits.split_column import find_split_columns
from recprune_export.data.streaming.distinct_values import find_distinct
from recprune_export.data.streaming.label_rules import as_labels, judge_labels, read_group_codes
from recprune_export.data.streaming.large_tables import is_large
from recprune_export.data.streaming.row_sides import choose_sides
from recprune_export.data.streaming.stream_arrays import (
    ArrayColumns,
    can_stream,
    check_arrays,
    count_values,
    even_lists,
    write_arrays,
)
from recprune_export.data.streaming.write_once import write_once
from recprune_export.data.tabular_files import count_frame_rows
from recprune_export.errors import DataError, UsageError
from recprune_export.settings import DEFAULT_ROW_SETTINGS, RowSettings

if TYPE_CHECKING:
    import polars as pl

_REMEDY = "Correct these rows, or give another column with --split; if the column is not a split, rename it."


@dataclass(frozen=True)
class ArrayData(SplitMixin):
    """Rows of the three splits; `has_split_column` if they are split by a column, `split_description` describes the split.

    `label_values` describes the labels. `notes` describe how they were read, and columns that may have been intended as a split.
    """

    train: RowSource
    valid: RowSource
    test: RowSource
    has_split_column: bool = False
    label_values: Mapping[str, LabelValues] = field(default_factory=dict)
    split_description: str = ""
    notes: tuple[str, ...] = ()


def load_arrays(
    data: Path | str | Columns,
    inputs: Sequence[ArraySpec],
    labels: Sequence[str],
    seed: int,
    settings: RowSettings = DEFAULT_ROW_SETTINGS,
    *,
    label_kinds: Mapping[str, LabelKind] | None = None,
    has_answer: HasAnswer | None = None,
) -> ArrayData:
    """Read the arrays of an `.npz`, or the columns of a CSV or Parquet file, with the names of the inputs and labels.

    `data` may also be arrays by name, or a frame of pandas or polars.

    An input of shape (batch, n) is a list column, or n columns named `name_0` ... . Rows are split by the column in the settings, or by a
    column called `split`, `fold` or `subset`, or at random by `seed`, 80/10/10. A column called `fold` or `subset` with other values is
    not used, and named in a note. Rows without any label are left out. `label_kinds`, if known, are the kinds of labels for which the
    model was trained. Rows with NaN are accepted if `has_answer` is true, that is, if the outputs for them are finite, as in a model that
    fills missing values.

    Raises `DataError` if an array is missing or has another type or shape, has no id in some rows, or an id lies outside
    its table, if a number is infinite, a row with NaN has no answer, or a column of splits names something else.
    """
    columns = open_columns(data, settings.reading)
    path, weight, group = columns.path, settings.labels.weight, settings.group
    extra = [name for name in (weight, group) if name is not None]
    roles = [*(i.name for i in inputs), *labels, *extra]
    rule, split_notes = _choose_split(columns, roles, make_split(settings.split, seed))
    sources = _find_sources(columns, inputs, labels, settings, rule)
    others = [*labels, *extra, *([] if rule.source is None else [rule.source])]
    if (streamed := _find_streamed(columns, inputs, sources, others, settings.reading.stream)) is not None:
        write = partial(_stream_arrays, streamed, labels, settings, rule, split_notes, label_kinds, has_answer)
        return write_once(write, settings.reading.readers)
    arrays = _read_arrays(columns, inputs, sources)
    lengths = {name: len(values) if values.ndim else 0 for name, values in arrays.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise DataError(f"The arrays of {path} must have the same number of rows, at least one: {lengths}.")
    read = read_labels(
        path,
        {label: arrays[label] for label in labels},
        missing=settings.labels.missing_label,
        kinds=label_kinds,
        weights=None if weight is None else (weight, arrays[weight]),
    )
    check_any_label(path, read)
    checks = ArrayChecks(path, inputs, has_answer)
    requests = checks.add(arrays)
    checks.raise_error()
    rows = Rows(
        requests,
        dict(read.labels),
        weights=read.weights,
        groups=None if group is None else encode_groups(path, group, arrays[group]),
    )
    row_split = _assign_splits(columns, len(rows), rule)
    known = read.known if labels else np.ones(len(rows), dtype=bool)
    splits = [rows.take(np.flatnonzero((row_split.codes == code) & known)) for code in range(3)]
    return _make_data(path, splits, rule, row_split.description, read, split_notes)


def _make_data(
    path: object,
    splits: Sequence[Rows],
    rule: Split,
    description: str,
    read: LabelColumns,
    split_notes: Sequence[str],
) -> ArrayData:
    """Return the rows of the three sides. Raises `DataError` if one has no rows, or if a label cannot be learned."""
    if not all(len(side) for side in splits):
        raise DataError(f"{path} has {sum(map(len, splits))} rows, too few to fill train, valid and test.")
    measured = check_training_rows(path, splits[0])
    return ArrayData(
        splits[0],
        splits[1],
        splits[2],
        has_split_column=rule.source is not None,
        label_values=read.values,
        split_description=description,
        notes=(*split_notes, *read.notes, *describe_constant_labels(measured)),
    )


def _find_streamed(
    columns: NamedColumns,
    inputs: Sequence[ArraySpec],
    sources: Mapping[str, Sequence[str]],
    others: Sequence[str],
    stream: bool | None,
) -> ArrayColumns | None:
    """Return the columns of the inputs if the rows are to be streamed; None if they are read into memory."""
    if columns.frame is None or columns.source is None or stream is False:
        return None
    if not can_stream(columns.frame.collect_schema(), inputs, sources, others):
        return None
    count = count_frame_rows(columns.frame, columns.source)
    if not count or not (stream or is_large(count, count_values(columns.source, columns.frame, inputs, sources))):
        return None
    return ArrayColumns(columns.source, columns.frame, count, tuple(inputs), sources)


def _stream_arrays(
    columns: ArrayColumns,
    labels: Sequence[str],
    settings: RowSettings,
    split: Split,
    split_notes: Sequence[str],
    label_kinds: Mapping[str, LabelKind] | None,
    has_answer: HasAnswer | None,
) -> ArrayData:
    """Read rows as `load_arrays` does, into files of records."""
    columns = even_lists(columns)
    path, weight, group = columns.path, settings.labels.weight, settings.group
    frame = as_labels(path, columns.frame, [*labels, *([weight] if weight else [])])
    rules = judge_labels(
        path, frame, tuple(labels), missing=settings.labels.missing_label, kinds=label_kinds, weight=weight
    )
    check_any_label(path, rules.read)
    shapes = check_arrays(columns, has_answer)
    groups = None if group is None else read_group_codes(path, columns.frame, group)
    sides = choose_sides(path, columns.frame, split, _REMEDY, draw_array_sides)
    written = write_arrays(columns, shapes, rules, groups, sides, settings.reading.readers)
    return _make_data(path, list(written.values()), split, sides.description, rules.read, split_notes)


def _choose_split(columns: NamedColumns, roles: Sequence[str], requested: Split) -> tuple[Split, tuple[str, ...]]:
    """Return the requested split, or that of a column which is named like a split and is not an input or label.

    Raises `DataError` for a column `split`, or one with some names of splits, that has other values.
    """
    if requested.source is not None:
        return requested, ()
    usable, unused = [], []
    for name in find_split_columns(columns.names, roles):
        column, occurrences = _read_split_values(columns, name)
        if name.strip().lower() == "split" or holds_split_words(column):
            split_by_words(columns.path, column, _REMEDY, occurrences)
            usable.append(name)
        else:
            unused.append(name)
    if len(usable) > 1:
        raise UsageError(
            f"The columns {' and '.join(map(repr, usable))} of {columns.path} both contain splits: choose one with --split."
        )
    notes = tuple(f"'{name}' is not used as a split: it does not contain train, valid and test." for name in unused)
    return replace(requested, column=usable[0] if usable else None), notes


def _find_sources(
    columns: NamedColumns, inputs: Sequence[ArraySpec], labels: Sequence[str], settings: RowSettings, split: Split
) -> dict[str, list[str]]:
    """Return the columns of inputs, labels, weights and groups.

    Raises `DataError` if one, or the column of the split, is missing.
    """
    sources = find_input_columns(columns.names, inputs)
    for spec in inputs:
        if spec.name not in sources:
            role = f"an input of the model{describe_list_columns(spec)}"
            raise DataError(describe_missing_column(columns.path, spec.name, columns.names, role))
    check_columns_exist(columns.path, labels, columns.names, "the label given with --label")
    sources |= {label: [label] for label in labels}
    weight, group = settings.labels.weight, settings.group
    if weight is not None:
        check_columns_exist(columns.path, [weight], columns.names, "given with --weight")
    if group is not None:
        require_group_column(columns.path, group, columns.names)
    sources |= {name: [name] for name in (weight, group) if name is not None and name not in sources}
    if split.source is not None:
        check_columns_exist(columns.path, [split.source], columns.names, "given to split the rows")
    return sources


def _read_arrays(
    columns: NamedColumns, inputs: Sequence[ArraySpec], sources: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    table = columns.read(list(dict.fromkeys(column for names in sources.values() for column in names)))
    return stack_columns(table, sources, columns.path, {spec.name for spec in inputs if spec.jagged is not None})


def find_input_columns(names: Sequence[str], inputs: Sequence[ArraySpec]) -> dict[str, list[str]]:
    """Return the columns of each input: one of its name, or several named `name_0` ...; missing inputs are omitted.

    >>> inputs = [ArraySpec("user", "int64", ()), ArraySpec("x", "float32", (2,)), ArraySpec("y", "int64", ())]
    >>> find_input_columns(["user", "x_0", "x_1"], inputs)
    {'user': ['user'], 'x': ['x_0', 'x_1']}
    """
    sources = {}
    for i in inputs:
        indexed = [f"{i.name}_{n}" for n in range(i.shape[0])] if len(i.shape) == 1 else []
        if i.name in names:
            sources[i.name] = [i.name]
        elif indexed and set(indexed) <= set(names):
            sources[i.name] = indexed
    return sources


def _assign_splits(columns: NamedColumns, count: int, split: Split) -> RowSplit:
    if split.source is None:
        return RowSplit(draw_array_sides(split, 0, count), describe_random_sides(split))
    values = _read_split_column(columns, split.source)
    if len(values) != count:
        raise DataError(
            f"'{split.source}' in {columns.path}, by which rows are split, has {len(values):,} values for {count:,} rows."
        )
    return split_rows(columns.path, values, split, _REMEDY)


def _read_split_values(columns: NamedColumns, name: str) -> "tuple[pl.Series, Occurrences | None]":
    """Return a column by which rows may be split; for a file, the distinct values and their numbers of rows."""
    if columns.frame is None or columns.source is None or columns.frame.collect_schema()[name].is_nested():
        return _read_split_column(columns, name), None
    distinct = find_distinct(columns.source, columns.frame, name)
    return distinct.table[name], distinct.occurrences


def _read_split_column(columns: NamedColumns, name: str) -> "pl.Series":
    """Return a column by which rows are split. Raises `DataError` if it has several values in a row."""
    import polars as pl

    values = columns.read([name])[name]
    if not isinstance(values, pl.Series):
        values = as_column(name, values)
    if isinstance(values, np.ndarray):
        values = values.astype(str) if values.dtype.kind == "S" else values
        if values.ndim != 1 or values.dtype == object:
            raise DataError(f"'{name}' in {columns.path}, by which rows are split, must be one value for each row.")
        values = pl.Series(name, values)
    return values
