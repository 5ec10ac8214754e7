"""Rows for third-party models: columns or arrays that already have the form of the inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.data.group_codes import encode_groups, require_group_column
from recprune_export.data.labels import LabelKind, LabelValues
from recprune_export.data.npz import read_npz
from recprune_export.data.read_labels import check_any_label, check_training_rows, read_labels
from recprune_export.data.rows import Rows
from recprune_export.data.schema._infer_schema import SPLIT_VALUES
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

IdRange = tuple[int, int]
Columns = Mapping[str, Any]  # name -> array, or anything that numpy.asarray accepts, such as a tensor
SPLIT = "split"
IN_MEMORY = "the data"


@dataclass(frozen=True)
class ArraySpec:
    """One input: dtype, shape without the batch, and the range of ids by column of the last axis (as in `signature.Input`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    ids: tuple[IdRange | None, ...] = ()


@dataclass(frozen=True)
class ArrayData:
    """Rows of the three splits; `has_split_column` if a column of the data names the split of each row.

    `label_values` describes the labels, `notes` say how they were read.
    """

    train: Rows
    valid: Rows
    test: Rows
    has_split_column: bool = False
    label_values: Mapping[str, LabelValues] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_arrays(
    data: Path | str | Columns,
    inputs: Sequence[ArraySpec],
    labels: Sequence[str],
    seed: int,
    *,
    weight: str | None = None,
    missing_label: str | None = None,
    label_kinds: Mapping[str, LabelKind] | None = None,
    group: str | None = None,
) -> ArrayData:
    """Read the arrays of an `.npz`, or the columns of a CSV or Parquet file, with the names of the inputs and labels.

    `data` may also be arrays by name.

    An input of shape (batch, n) is a list column, or n columns named `name_0` ... . A column or array `split` assigns
    the rows to splits; without one they are split at random by `seed`, 80/10/10. `weight` names the column of the weights
    of rows, `missing_label` is a value that stands for a missing label; rows without any label are left out.
    `label_kinds`, if known, are the kinds of labels for which the model was trained. `group` names the column over whose
    values metrics are means.

    Raises `DataError` if an array is missing or has another type or shape, or an id lies outside its table.
    """
    if isinstance(data, Mapping):
        path, columns = IN_MEMORY, {name: np.asarray(values) for name, values in data.items()}
    else:
        path = str(data)
        more = (*labels, *(name for name in (weight, group) if name))
        columns = read_npz(Path(path)) if _is_zip(Path(path)) else _read_table(Path(path), inputs, more)
    missing = [name for name in (*(i.name for i in inputs), *labels) if name not in columns]
    if missing:
        raise DataError(
            f"{path} has nothing called '{missing[0]}', which the model takes; it holds {', '.join(columns)}."
        )
    if weight is not None and weight not in columns:
        raise DataError(f"{path} has no column '{weight}', which --weight names; it holds {', '.join(columns)}.")
    if group is not None:
        require_group_column(path, group, tuple(columns))
    arrays = {i.name: check_input_array(path, i, columns[i.name]) for i in inputs}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise DataError(f"The arrays of {path} must have the same number of rows, at least one: {lengths}.")
    read = read_labels(
        path,
        {label: columns[label] for label in labels},
        missing=missing_label,
        kinds=label_kinds,
        weights=None if weight is None else (weight, columns[weight]),
    )
    check_any_label(path, read)
    groups = None if group is None else encode_groups(path, group, columns[group])
    rows = Rows(arrays, dict(read.labels), weights=read.weights, groups=groups)
    split = _assign_splits(path, columns.get(SPLIT), len(rows), seed)
    known = read.known if labels else np.ones(len(rows), dtype=bool)
    splits = [rows.take(np.flatnonzero((split == code) & known)) for code in range(3)]
    if not all(len(s) for s in splits):
        raise DataError(f"{path} has {int(known.sum())} rows, too few to fill train, valid and test.")
    check_training_rows(path, splits[0])
    return ArrayData(
        splits[0], splits[1], splits[2], has_split_column=SPLIT in columns, label_values=read.values, notes=read.notes
    )


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False  # `scan` raises the error


def _read_table(path: Path, inputs: Sequence[ArraySpec], labels: Sequence[str]) -> dict[str, np.ndarray]:
    frame = scan(path)
    names = frame.collect_schema().names()
    sources = find_input_columns(names, inputs)
    sources |= {name: [name] for name in (*labels, SPLIT) if name in names}
    table = collect(frame.select(*dict.fromkeys(column for columns in sources.values() for column in columns)), path)
    return stack_columns(table, sources)


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


def stack_columns(table: "pl.DataFrame", sources: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return an array for each name, from one column or from several columns side by side.

    Raises `DataError` if the lists of a column differ in length.
    """
    return {
        name: _column(table[columns[0]])
        if list(columns) == [name]
        else np.stack([table[c].to_numpy() for c in columns], 1)
        for name, columns in sources.items()
    }


def _column(series: object) -> np.ndarray:
    import polars as pl

    assert isinstance(series, pl.Series)
    if isinstance(series.dtype, pl.List):
        lengths = series.list.len().unique().to_list()
        if len(lengths) != 1 or lengths[0] is None:
            raise DataError(f"The lists in column '{series.name}' must all have the same length.")
        return series.list.to_array(lengths[0]).to_numpy()
    return series.to_numpy()


def check_input_array(path: str, spec: ArraySpec, values: np.ndarray, first_row: int = 0) -> np.ndarray:
    """Return `values` in the dtype and shape of an input; `first_row` is the position of their first row in `path`.

    Raises `DataError` if they have another shape or kind, are not finite, or hold an id outside the table.
    """
    dtype = np.dtype(spec.dtype)
    if values.ndim == 1 and spec.shape == (1,):
        values = values[:, None]
    if values.shape[1:] != spec.shape:
        raise DataError(
            f"'{spec.name}' in {path} has rows of shape {list(values.shape[1:])}; the model takes {list(spec.shape)}."
        )
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        raise DataError(f"'{spec.name}' in {path} holds {values.dtype}; the model takes {spec.dtype}.")
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise DataError(f"'{spec.name}' in {path} holds NaN or infinity; fill the missing values first.")
    _check_ids(path, spec, values, first_row)
    return np.ascontiguousarray(values, dtype=dtype)


def _check_ids(path: str, spec: ArraySpec, values: np.ndarray, first_row: int) -> None:
    for column, pair in enumerate(spec.ids):
        if pair is None:
            continue
        ids = values if len(spec.ids) == 1 else values.reshape(len(values), -1, len(spec.ids))[..., column]
        outside = (ids < pair[0]) | (ids > pair[1])
        if outside.any():
            where = f"'{spec.name}'" + ("" if len(spec.ids) == 1 else f", column {column},")
            row = first_row + int(np.argwhere(outside)[0][0])
            raise DataError(
                f"{where} in {path} holds the id {ids[outside].flat[0]:g} at row {row}, but the table has ids {pair[0]} to {pair[1]}."
            )


def _assign_splits(path: str, names: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Return 0, 1 or 2 for train, valid or test, [count]."""
    if names is None:
        draw = np.random.default_rng(seed).random(count)
        return (draw >= 0.8).astype(np.int8) + (draw >= 0.9).astype(np.int8)
    code: Mapping[str, int] = {"train": 0, "valid": 1, "test": 2}
    known = {spelling: code[name] for spelling, name in SPLIT_VALUES.items()}
    values = [str(name).lower() for name in np.unique(names)]
    unknown = [value for value in values if value not in known]
    if unknown:
        raise DataError(f"The split '{unknown[0]}' in {path} is none of train, valid, test.")
    lookup = np.array([known[value] for value in values])
    return lookup[np.searchsorted(np.unique(names), names)]
