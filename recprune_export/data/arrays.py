"""Rows for third-party models: columns or arrays that already have the form of the inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.column_names import check_columns_exist, describe_missing_column
from recprune_export.data.group_codes import encode_groups, require_group_column
from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.list_columns import ABSENT, find_present
from recprune_export.data.named_columns import Columns, NamedColumns, as_column, open_columns, stack_columns
from recprune_export.data.read_labels import check_any_label, check_training_rows, describe_constant_labels, read_labels
from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Rows
from recprune_export.data.schema.schema import Split
from recprune_export.data.splits.row_split import (
    RowSplit,
    SplitMixin,
    count_rows,
    holds_split_words,
    make_split,
    split_by_words,
    split_rows,
)
from recprune_export.data.splits.split_column import find_split_columns
from recprune_export.errors import DataError, UsageError
from recprune_export.settings import DEFAULT_ROW_SETTINGS, RowSettings

if TYPE_CHECKING:
    import polars as pl

IdRange = tuple[int, int]
_REMEDY = "Correct those rows, or name another column by --split; if it is no split, rename it."
HasAnswer = Callable[
    [Mapping[str, np.ndarray]], np.ndarray
]  # inputs of N rows -> whether a model answers each, bool [N]


@dataclass(frozen=True)
class ArraySpec:
    """One input: dtype, shape without the batch, and the range of ids by column of the last axis (as in `signature.Input`).

    Rows of a `jagged` input have different numbers of elements; it names the input that says how many, itself or another one.
    Where they are padded, a row has at most `width` elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    ids: tuple[IdRange | None, ...] = ()
    jagged: str | None = None
    width: int | None = None


@dataclass(frozen=True)
class ArrayData(SplitMixin):
    """Rows of the three splits; `has_split_column` if they are split by a column, `split_description` says how in words.

    `label_values` describes the labels. `notes` say how they were read, and which columns could have been meant as a split.
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

    An input of shape (batch, n) is a list column, or n columns named `name_0` ... . Rows are split by the column that the
    settings name, else by one called `split`, `fold` or `subset`, else at random by `seed`, 80/10/10. A column called `fold`
    or `subset` that holds something else is not used, and named in a note. Rows without any label are left out.
    `label_kinds`, if known, are the kinds of labels for which the model was trained. Rows with NaN are taken where
    `has_answer` says that the model answers them, as one that fills missing values itself.

    Raises `DataError` if an array is missing or has another type or shape, has no id in some rows, or an id lies outside
    its table, if a number is infinite, a row with NaN has no answer, or a column of splits names something else.
    """
    columns = open_columns(data, settings.reading)
    path, weight, group = columns.path, settings.labels.weight, settings.group
    extra = [name for name in (weight, group) if name is not None]
    roles = [*(i.name for i in inputs), *labels, *extra]
    rule, split_notes = _choose_split(columns, roles, make_split(settings.split, seed))
    arrays = _read_arrays(columns, inputs, labels, settings, rule)
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
    requests = {i.name: check_input_array(path, i, arrays[i.name]) for i in inputs}
    check_jagged_rows(path, inputs, requests)
    for i in inputs:
        infinite = np.isinf(requests[i.name])
        _refuse_rows(path, i, requests[i.name], infinite, "infinity", "clip it or leave these rows out")
    _check_missing_numbers(path, inputs, requests, has_answer)
    rows = Rows(
        requests,
        dict(read.labels),
        weights=read.weights,
        groups=None if group is None else encode_groups(path, group, arrays[group]),
    )
    row_split = _assign_splits(columns, len(rows), rule)
    known = read.known if labels else np.ones(len(rows), dtype=bool)
    splits = [rows.take(np.flatnonzero((row_split.codes == code) & known)) for code in range(3)]
    if not all(len(s) for s in splits):
        raise DataError(f"{path} has {int(known.sum())} rows, too few to fill train, valid and test.")
    check_training_rows(path, splits[0])
    return ArrayData(
        splits[0],
        splits[1],
        splits[2],
        has_split_column=rule.source is not None,
        label_values=read.values,
        split_description=row_split.description,
        notes=(*split_notes, *read.notes, *describe_constant_labels(splits[0])),
    )


def _choose_split(columns: NamedColumns, roles: Sequence[str], requested: Split) -> tuple[Split, tuple[str, ...]]:
    """Return the requested split; without one that of a column which is named like a split and is no input or label.

    Raises `DataError` for a column `split`, or one with some of the words, that holds anything else.
    """
    if requested.source is not None:
        return requested, ()
    usable, unused = [], []
    for name in find_split_columns(columns.names, roles):
        column = _read_split_column(columns, name)
        if name.strip().lower() == "split" or holds_split_words(column):
            split_by_words(columns.path, column, _REMEDY)
            usable.append(name)
        else:
            unused.append(name)
    if len(usable) > 1:
        raise UsageError(
            f"The columns {' and '.join(map(repr, usable))} of {columns.path} both name splits: give one by --split."
        )
    notes = tuple(f"'{name}' is not used: it does not hold train, valid and test." for name in unused)
    return replace(requested, column=usable[0] if usable else None), notes


def _read_arrays(
    columns: NamedColumns, inputs: Sequence[ArraySpec], labels: Sequence[str], settings: RowSettings, split: Split
) -> dict[str, np.ndarray]:
    """Return the arrays of inputs, labels, weights and groups.

    Raises `DataError` if one, or the column of the split, is missing.
    """
    sources = find_input_columns(columns.names, inputs)
    for spec in inputs:
        if spec.name not in sources:
            role = f"an input of the model{_spread_columns(spec)}"
            raise DataError(describe_missing_column(columns.path, spec.name, columns.names, role))
    check_columns_exist(columns.path, labels, columns.names, "the label that --label names")
    sources |= {label: [label] for label in labels}
    weight, group = settings.labels.weight, settings.group
    if weight is not None:
        check_columns_exist(columns.path, [weight], columns.names, "which --weight names")
    if group is not None:
        require_group_column(columns.path, group, columns.names)
    sources |= {name: [name] for name in (weight, group) if name is not None and name not in sources}
    if split.source is not None:
        check_columns_exist(columns.path, [split.source], columns.names, "by which the rows are to be split")
    table = columns.read(list(dict.fromkeys(column for names in sources.values() for column in names)))
    return stack_columns(table, sources, columns.path, {spec.name for spec in inputs if spec.jagged is not None})


def _spread_columns(spec: ArraySpec) -> str:
    return (
        f" (a column of lists, or the columns {spec.name}_0 to {spec.name}_{spec.shape[0] - 1})"
        if len(spec.shape) == 1
        else ""
    )


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


def check_input_array(path: str, spec: ArraySpec, values: np.ndarray, first_row: int | None = None) -> np.ndarray:
    """Return `values` in the dtype and shape of an input.

    `first_row` is the position of their first row in `path`, None if they are all of its rows.

    Raises `DataError` if they have another shape or kind, or hold an id outside the table.
    """
    dtype = np.dtype(spec.dtype)
    if values.ndim == 1 and spec.shape == (1,):
        values = values[:, None]
    if spec.jagged is not None:
        values = _check_elements(path, spec, values[:, None] if values.ndim == 1 else values)
    elif values.shape[1:] != spec.shape:
        raise DataError(
            f"'{spec.name}' in {path} has rows of shape {list(values.shape[1:])}; the model takes {list(spec.shape)}."
        )
    if np.issubdtype(dtype, np.integer) and spec.jagged is None:
        _check_no_missing(path, f"'{spec.name}'", values, first_row)
        if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.floor(values)).all():
            values = values.astype(np.int64)  # whole numbers that a file writes as 12.0
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        remedy = _suggest_ids(spec) if values.dtype.kind in "OUST" else ""
        raise DataError(
            f"'{spec.name}' in {path} holds {_describe_dtype(values)}; the model takes {spec.dtype}{remedy}."
        )
    _check_ids(path, spec, values, first_row or 0)
    return np.ascontiguousarray(values, dtype=dtype)


def _check_elements(path: str, spec: ArraySpec, values: np.ndarray) -> np.ndarray:
    """Return the matrix of an input whose rows have different numbers of elements. Raises `DataError` for another shape."""
    if values.shape[2:] != spec.shape[1:] or values.ndim < 2:
        raise DataError(f"'{spec.name}' in {path} has rows of shape {list(values.shape[1:])}; the model takes lists.")
    if spec.width is not None and values.shape[1] > spec.width:
        longer = np.asarray(find_present(values[:, spec.width :]).any(axis=1))
        if longer.any():
            raise DataError(
                f"'{spec.name}' in {path} has more than {spec.width} elements in {count_rows(longer)}: give --padded as many as the "
                "longest row has."
            )
        values = values[:, : spec.width]
    if np.issubdtype(np.dtype(spec.dtype), np.integer) and values.dtype.kind == "f":
        present = ~np.isnan(values)
        if (values[present] == np.floor(values[present])).all():
            values = np.where(present, values, ABSENT).astype(np.int64)
    return values


def check_jagged_rows(path: str, inputs: Sequence[ArraySpec], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise `DataError` where a row has as many elements of one input as it has not of another that belongs to it."""
    for spec in inputs:
        if spec.jagged is None or spec.jagged == spec.name:
            continue
        one, other = (find_present(arrays[name]).sum(1) for name in (spec.jagged, spec.name))
        if not np.array_equal(one, other):
            row = int(np.argmax(one != other))
            raise DataError(
                f"Row {row} of {path} has {one[row]} elements in '{spec.jagged}' and {other[row]} in '{spec.name}': each of the one "
                "needs one of the other."
            )


def _check_missing_numbers(
    path: str, inputs: Sequence[ArraySpec], arrays: Mapping[str, np.ndarray], has_answer: HasAnswer | None
) -> None:
    """Raise `DataError` for rows with NaN that the model does not answer."""
    floats = [i for i in inputs if i.jagged is None and np.issubdtype(np.dtype(i.dtype), np.floating)]
    missing = {i.name: np.isnan(arrays[i.name]) for i in floats}
    rows = np.flatnonzero(sum(mask.reshape(len(mask), -1).any(axis=1) for mask in missing.values())) if missing else ()
    if not len(rows):
        return
    refused = np.ones(len(rows), dtype=bool)
    if has_answer is not None:
        refused = ~has_answer({name: values[rows] for name, values in arrays.items()})
    for i in inputs:
        if i.name in missing:
            places = np.zeros_like(missing[i.name])
            places[rows[refused]] = missing[i.name][rows[refused]]
            reason = "the model answers NaN there: fill the missing values or leave these rows out"
            _refuse_rows(path, i, arrays[i.name], places, "NaN", reason)


def _refuse_rows(path: str, spec: ArraySpec, values: np.ndarray, places: np.ndarray, kind: str, reason: str) -> None:
    """Raise `DataError` where `places` marks numbers of an input, with the column, the rows and the reason."""
    rows = np.flatnonzero(places.reshape(len(values), -1).any(axis=1))
    if not len(rows):
        return
    column = f", column {int(np.argwhere(places[rows[0]].reshape(-1))[0][0])}," if values.ndim > 1 else ""
    several = "s" if len(rows) > 1 else ""
    raise DataError(
        f"'{spec.name}'{column} in {path} holds {kind} in {len(rows):,} row{several}, such as row {rows[0]}: {reason}."
    )


def _check_ids(path: str, spec: ArraySpec, values: np.ndarray, first_row: int) -> None:
    for column, pair in enumerate(spec.ids):
        if pair is None:
            continue
        ids = values if len(spec.ids) == 1 else values.reshape(len(values), -1, len(spec.ids))[..., column]
        outside = ~((ids >= pair[0]) & (ids <= pair[1]))  # so is NaN
        if spec.jagged is not None:
            outside &= ids != ABSENT
        if outside.any():
            where = f"'{spec.name}'" + ("" if len(spec.ids) == 1 else f", column {column},")
            rows = np.flatnonzero(outside.reshape(len(values), -1).any(axis=1))
            first = ids[outside].flat[0]
            kind = "NaN" if np.isnan(first) else f"the id {first:g}"
            more = f" (the first of {len(rows):,} such rows)" if len(rows) > 1 else ""
            raise DataError(
                f"{where} in {path} holds {kind} at row {first_row + int(rows[0])}{more}, but the table has ids {pair[0]} to {pair[1]}: "
                "give the id that stands for an unknown value there, or leave those rows out."
            )


def _check_no_missing(path: str, name: str, values: np.ndarray, first_row: int | None = None) -> None:
    """Raise `DataError` if a row has no value: NaN, which takes the place of null in a column of integers as well."""
    if not np.issubdtype(values.dtype, np.floating):
        return
    missing = np.isnan(values).reshape(len(values), -1).any(axis=1)
    if not missing.any():
        return
    rows = count_rows(missing) if first_row is None else f"row {first_row + int(np.argmax(missing)):,}"
    raise DataError(f"{name} in {path} is missing in {rows}: fill them, or leave those rows out.")


def _suggest_ids(spec: ArraySpec) -> str:
    pair = next((pair for pair in spec.ids if pair is not None), None)
    if pair is None:
        return ": write numbers"
    return f": write ids from {pair[0]} to {pair[1]}, as the model was trained with them"


def _describe_dtype(values: np.ndarray) -> str:
    if values.dtype.kind in "OUST":
        example = next((value for value in values.ravel() if isinstance(value, str)), None)
        return f"objects of {values.dtype}" if example is None else f"text such as '{example}'"
    return str(values.dtype)


def _assign_splits(columns: NamedColumns, count: int, split: Split) -> RowSplit:
    if split.source is None:
        draw = np.random.default_rng(split.seed).random(count)
        codes = (draw >= 0.8).astype(np.int8) + (draw >= 0.9).astype(np.int8)
        return RowSplit(codes, f"at random with seed {split.seed}")
    values = _read_split_column(columns, split.source)
    if len(values) != count:
        raise DataError(
            f"'{split.source}' in {columns.path}, by which rows are split, has {len(values):,} values for {count:,} rows."
        )
    return split_rows(columns.path, values, split, _REMEDY)


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
