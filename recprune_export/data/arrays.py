"""Rows for a model that is not ours: columns or arrays that already are what its inputs take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.data.npz import read_npz
from recprune_export.data.rows import Rows
from recprune_export.data.schema.infer_schema import SPLIT_VALUES
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

IdRange = tuple[int, int]
Columns = Mapping[str, Any]  # name -> array, or anything that numpy.asarray takes, such as a tensor
SPLIT = "split"
IN_MEMORY = "the data"
SHARES = (0.8, 0.1)  # of the rows, for train and valid, where there is no split column


@dataclass(frozen=True)
class ArraySpec:
    """One input: dtype, shape without the batch, and the range of ids by column of the last axis (as `signature.Input`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    ids: tuple[IdRange | None, ...] = ()


@dataclass(frozen=True)
class ArrayData:
    """Rows in three parts; `has_split_column` where a column of the data says which is which."""

    train: Rows
    valid: Rows
    test: Rows
    has_split_column: bool = False


def load_arrays(data: Path | str | Columns, inputs: Sequence[ArraySpec], labels: Sequence[str], seed: int) -> ArrayData:
    """Read the arrays of an `.npz`, or the columns of a CSV or Parquet file, that are named as the inputs and labels.

    Arrays by name will do as well.

    An input of shape (batch, n) is a list column, or n columns called `name_0` ... . A column or array `split` divides
    the rows; without one they are divided by `seed`, 80/10/10.

    Raises `DataError` where something is missing or has another type or shape, or an id lies beyond its table.
    """
    if isinstance(data, Mapping):
        path, columns = IN_MEMORY, {name: np.asarray(values) for name, values in data.items()}
    else:
        path = str(data)
        columns = read_npz(Path(path)) if _is_zip(Path(path)) else _read_table(Path(path), inputs, labels)
    missing = [name for name in (*(i.name for i in inputs), *labels) if name not in columns]
    if missing:
        raise DataError(
            f"{path} has nothing called '{missing[0]}', which the model takes; it holds {', '.join(columns)}."
        )
    arrays = {i.name: check_input_array(path, i, columns[i.name]) for i in inputs}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise DataError(f"The arrays of {path} must have the same number of rows, at least one: {lengths}.")
    rows = Rows(arrays, {label: _number(path, label, columns[label]) for label in labels})
    part = _assign_splits(path, columns.get(SPLIT), len(rows), seed)
    divided = [rows.take(np.flatnonzero(part == code)) for code in range(3)]
    if not all(len(d) for d in divided):
        raise DataError(f"{path} has {len(rows)} rows, too few to fill train, valid and test.")
    return ArrayData(divided[0], divided[1], divided[2], has_split_column=SPLIT in columns)


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False  # `scan` says what is wrong


def _read_table(path: Path, inputs: Sequence[ArraySpec], labels: Sequence[str]) -> dict[str, np.ndarray]:
    frame = scan(path)
    names = frame.collect_schema().names()
    sources = find_input_columns(names, inputs)
    others = [name for name in (*labels, SPLIT) if name in names]
    table = collect(frame.select(*dict.fromkeys((*(c for found in sources.values() for c in found), *others))), path)
    return stack_columns(table, {**sources, **{name: [name] for name in others}})


def find_input_columns(names: Sequence[str], inputs: Sequence[ArraySpec]) -> dict[str, list[str]]:
    """Return the columns that hold each input: one of its name, or several called `name_0` ...; without those that are not there.

    >>> find_input_columns(["user", "x_0", "x_1"], [ArraySpec("user", "int64", ()), ArraySpec("x", "float32", (2,)), ArraySpec("y", "int64", ())])
    {'user': ['user'], 'x': ['x_0', 'x_1']}
    """
    found = {}
    for i in inputs:
        spread = [f"{i.name}_{n}" for n in range(i.shape[0])] if len(i.shape) == 1 else []
        if i.name in names:
            found[i.name] = [i.name]
        elif spread and set(spread) <= set(names):
            found[i.name] = spread
    return found


def stack_columns(table: "pl.DataFrame", sources: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return an array for each name, from its one column or from several side by side.

    Raises `DataError` where the lists of a column differ in length.
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
    """Return `values` in the dtype and shape that an input takes; `first_row` is where they begin in `path`.

    Raises `DataError` where they have another shape or kind, are not finite, or hold an id beyond the table.
    """
    wanted = np.dtype(spec.dtype)
    if values.ndim == 1 and spec.shape == (1,):
        values = values[:, None]
    if values.shape[1:] != spec.shape:
        raise DataError(
            f"'{spec.name}' in {path} has rows of shape {list(values.shape[1:])}; the model takes {list(spec.shape)}."
        )
    if not np.can_cast(values.dtype, wanted, "same_kind"):
        raise DataError(f"'{spec.name}' in {path} holds {values.dtype}; the model takes {spec.dtype}.")
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise DataError(f"'{spec.name}' in {path} holds NaN or infinity; fill the missing values first.")
    _check_ids(path, spec, values, first_row)
    return np.ascontiguousarray(values, dtype=wanted)


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


def _number(path: str, label: str, values: np.ndarray) -> np.ndarray:
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool) or values.ndim != 1:
        raise DataError(f"The label '{label}' in {path} must be one number for each row.")
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise DataError(f"The label '{label}' in {path} is missing in some rows.")
    return numbers


def _assign_splits(path: str, names: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """0, 1, 2 for train, valid, test."""
    if names is None:
        draw = np.random.default_rng(seed).random(count)
        return (draw >= SHARES[0]).astype(np.int8) + (draw >= sum(SHARES)).astype(np.int8)
    code: Mapping[str, int] = {"train": 0, "valid": 1, "test": 2}
    known = {spelling: code[part] for spelling, part in SPLIT_VALUES.items()}
    values = [str(name).lower() for name in np.unique(names)]
    unknown = [value for value in values if value not in known]
    if unknown:
        raise DataError(f"The split '{unknown[0]}' in {path} is none of train, valid, test.")
    lookup = np.array([known[value] for value in values])
    return lookup[np.searchsorted(np.unique(names), names)]
