"""`LabelRules`: the labels and weights of a stream, judged once over all rows and then read chunk by chunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.group_codes import encode_groups
from recprune_export.data.labels import LabelKind
from recprune_export.data.read_labels import LabelColumns, parse_number, read_labels
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.distinct_values import (
    find_distinct,
    find_distinct_labels,
    summarize_numbers,
)
from recprune_export.data.streaming.value_codes import ValueCodes
from recprune_export.data.tabular_files import collect

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class LabelRules:
    """The result of `read_labels` for all rows, and the conversion of the value of a row to a label.

    `words` has strings and their numbers by label; numbers in `missing` are not labels, and `signs` are labels of -1 and 1.
    """

    read: LabelColumns
    weight: str | None
    words: Mapping[str, ValueCodes]
    missing: tuple[float, ...]
    signs: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The labels."""
        return tuple(self.read.labels)

    @property
    def all_known(self) -> bool:
        """Whether each row has a label."""
        return not self.names or bool(self.read.known.all())

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys((*self.names, *((self.weight,) if self.weight else ()))))

    def labels(self, rows: "pl.DataFrame") -> dict[str, np.ndarray]:
        """Return the labels of some rows, float32 [N] each, NaN where one is missing."""
        return {name: self._label(rows[name]) for name in self.names}

    def weights(self, rows: "pl.DataFrame") -> np.ndarray | None:
        """Return the weights of some rows, float32 [N]; None if there are none."""
        import polars as pl

        return None if self.weight is None else rows[self.weight].cast(pl.Float32).to_numpy(writable=True)

    def _label(self, column: "pl.Series") -> np.ndarray:
        import polars as pl

        if column.name in self.words:
            return self.words[column.name].encode(column.to_frame())
        values = column.cast(pl.Float64).to_numpy(writable=True)
        for number in self.missing:
            values[values == number] = np.nan
        if column.name in self.signs:
            values[values == -1.0] = 0.0
        return values.astype(np.float32)


def judge_labels(
    path: DataFile,
    frame: "pl.LazyFrame",
    labels: tuple[str, ...],
    *,
    missing: str | None,
    kinds: Mapping[str, LabelKind] | None = None,
    weight: str | None = None,
) -> LabelRules:
    """Judge labels and weights over all rows, as `read_labels` does. Time: three passes over their columns.

    Raises `DataError` for the labels and weights for which `read_labels` does.
    """
    number = parse_number(missing)
    missing_numbers = () if number is None else (number,)
    if not labels and weight is None:
        return LabelRules(read_labels(path, {}, missing=missing), None, {}, missing_numbers, frozenset())
    distinct = find_distinct_labels(path, frame, labels, weight, missing_numbers)
    table = distinct.table
    columns = {name: table[name].to_numpy() for name in labels}
    read = read_labels(
        path,
        columns,
        missing=missing,
        kinds=kinds,
        weights=(weight, table[weight].to_numpy()) if weight else None,
        occurrences=distinct.occurrences,
    )
    values = dict(read.values)
    joined = [name for name in distinct.joined if name in values]
    for name, numbers in summarize_numbers(path, frame, joined, missing_numbers).items():
        low, high = (float(np.float64(numbers[key])) for key in ("low", "high"))
        values[name] = replace(
            values[name], low=low, high=high, levels=int(numbers["levels"]), variance=float(numbers["variance"])
        )
    words = {name: ValueCodes.of(table[name], read.labels[name]) for name in labels if _is_text(table[name])}
    signs = {name for name in labels if name not in words and _has_signs(columns[name], read.labels[name])}
    return LabelRules(replace(read, values=values), weight, words, missing_numbers, frozenset(signs))


def as_labels(path: DataFile, frame: "pl.LazyFrame", names: Sequence[str]) -> "pl.LazyFrame":
    """Return the frame with decimals, and booleans of which some are missing, as numbers."""
    import polars as pl

    types = frame.collect_schema()
    booleans = [name for name in names if types[name] == pl.Boolean]
    missing = collect(frame.select(pl.col(booleans).null_count()), path).row(0, named=True) if booleans else {}
    numbers = [name for name in names if types[name].is_decimal() or missing.get(name)]
    return frame.with_columns(pl.col(list(dict.fromkeys(numbers))).cast(pl.Float64)) if numbers else frame


def read_group_codes(path: DataFile, frame: "pl.LazyFrame", name: str) -> ValueCodes:
    """Return the codes of the values of a group column, like `encode_groups`; memory: the distinct values."""
    values = find_distinct(path, frame, name).table[name]
    return ValueCodes.of(values, encode_groups(path, name, values.to_numpy()))


def _is_text(column: "pl.Series") -> bool:
    import polars as pl

    return isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum | pl.Binary)


def _has_signs(raw: np.ndarray, numbers: np.ndarray) -> bool:
    return bool(np.any((raw.astype(np.float64) == -1.0) & (numbers == 0.0)))
