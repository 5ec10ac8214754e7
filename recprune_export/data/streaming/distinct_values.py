"""The distinct values of columns and their numbers of rows, for checks of labels and splits without all rows in memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.occurrences import Occurrences
from recprune_export.data.splits.order import order_kinds
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.tabular_files import collect

if TYPE_CHECKING:
    import polars as pl

_EXACT_UNTIL = 64  # integers up to this value are distinguished: classes and stars, signs, 0 and 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_ROW = "__row"
_MANY_TIMES = 1 << 22  # the number of distinct times in memory
_BUCKETS = 1 << 16


@dataclass(frozen=True)
class DistinctValues:
    """A row of `table` for each combination of values, in the order in which they first occur, with its occurrences.

    `joined` are numeric columns whose values do not all have a separate row: values of the same kind share one.
    """

    table: "pl.DataFrame"
    occurrences: Occurrences
    joined: tuple[str, ...] = ()


def find_distinct(path: DataFile, frame: "pl.LazyFrame", name: str) -> DistinctValues:
    """Return the distinct values of a column, including null. Memory: that of these values."""
    import polars as pl

    rows = frame.select(name).with_row_index(_ROW).group_by(name).agg(pl.len().alias("__len"), pl.col(_ROW).min())
    return _in_file_order(collect(rows, path), [name])


def find_distinct_labels(
    path: DataFile, frame: "pl.LazyFrame", labels: Collection[str], weight: str | None, missing: Collection[float]
) -> DistinctValues:
    """Return values of labels and weights that represent those of all rows in every check of `read_labels`.

    Texts, integers up to 64 and the numbers in `missing` are distinguished. Of other numbers, the first integer, fraction, negative
    number and number that is infinite in float32 are kept. Memory: that of the combinations.
    """
    import polars as pl

    types = frame.collect_schema()
    columns = list(dict.fromkeys((*labels, *((weight,) if weight else ()))))
    numbers = [name for name in columns if types[name].is_numeric() or types[name] == pl.Boolean]
    keys = [
        (_number_key(pl.col(name), missing) if name in numbers else pl.col(name)).alias(f"__key {name}")
        for name in columns
    ]
    groups, first = _find_first_rows(path, frame, keys, columns)
    joined = tuple(
        name for name in numbers if (groups[f"__key {name}"].abs() > _EXACT_UNTIL).fill_null(value=False).any()
    )
    return DistinctValues(first, _occurrences(groups), joined)


def find_distinct_orders(path: DataFile, frame: "pl.LazyFrame", name: str) -> DistinctValues | None:
    """Return values of a column that represent those of all rows for `parse_order`; None if any value does.

    Memory: that of the values, which are few.
    """
    import polars as pl

    kinds = order_kinds(pl.col(name), frame.collect_schema()[name])
    if not kinds:
        return None
    groups, first = _find_first_rows(
        path, frame, [kind.alias(f"__key {number}") for number, kind in enumerate(kinds)], [name]
    )
    return DistinctValues(first, _occurrences(groups))


def find_distinct_times(path: DataFile, frame: "pl.LazyFrame", name: str, shares: Collection[float]) -> DistinctValues:
    """Return the distinct times of a column; if there are very many, only those near the borders of `shares`.

    A border is a value at which the fraction of rows from there on is one of `shares`. Far from the borders, the smallest value in each 1
    / 65,536 of the range represents the others: the nearest border is among the kept values. Time: two more passes; memory: the kept
    values.
    """
    import polars as pl

    dtype = frame.collect_schema()[name]
    if not (dtype.is_numeric() or dtype.is_temporal()) or dtype.is_decimal():
        return find_distinct(path, frame, name)
    value = pl.col(name).fill_nan(None) if dtype.is_float() else pl.col(name).to_physical()
    ends = frame.select(value.min().alias("low"), value.max().alias("high"), value.approx_n_unique().alias("count"))
    low, high, count = collect(ends, path).row(0)
    if not count or count < _MANY_TIMES or not np.isfinite([float(low), float(high)]).all():
        return find_distinct(path, frame, name)
    width = (float(high) - float(low)) / _BUCKETS or 1.0
    bucket = ((value - low) / width).cast(pl.Int64)
    counted = frame.select(value.alias("value"), bucket.alias("bucket")).group_by("bucket")
    buckets = collect(counted.agg(pl.len().alias("rows"), pl.col("value").min()), path).sort("bucket")
    buckets = buckets.drop_nulls()
    rows_from = buckets["rows"].to_numpy()[::-1].cumsum()[::-1]
    exact = {
        int(buckets["bucket"][max(int(np.count_nonzero(rows_from >= share * rows_from[0])) - 1, 0)]) for share in shares
    }
    least = bucket.replace_strict(buckets["bucket"], buckets["value"], default=None)
    key = pl.when(bucket.is_in([*exact, *buckets["bucket"].head(3)])).then(value).otherwise(least).alias("__key")
    rows = frame.select(key, name).with_row_index(_ROW)
    groups = collect(rows.group_by("__key").agg(pl.len().alias("__len"), pl.col(_ROW).min()), path).sort(_ROW)
    values = groups["__key"].cast(dtype) if dtype.is_numeric() else groups["__key"].cast(pl.Int64).cast(dtype)
    table = values.alias(name).to_frame().with_columns(groups["__len"], groups[_ROW])
    return _in_file_order(table, [name])


def summarize_numbers(
    path: DataFile, frame: "pl.LazyFrame", names: Collection[str], missing: Collection[float]
) -> Mapping[str, dict[str, float]]:
    """Return `low`, `high`, `variance` and `levels` of columns of numbers, without empty values and those in `missing`."""
    import polars as pl

    if not names:
        return {}
    known = {
        name: pl.col(name).cast(pl.Float64).fill_nan(None).pipe(lambda v: pl.when(~v.is_in(list(missing))).then(v))
        for name in names
    }
    table = collect(
        frame.select(
            pl.struct(
                low=value.min(), high=value.max(), variance=value.var(ddof=0), levels=value.drop_nulls().n_unique()
            ).alias(name)
            for name, value in known.items()
        ),
        path,
    )
    return table.row(0, named=True)


def _find_first_rows(
    path: DataFile, frame: "pl.LazyFrame", keys: "Sequence[pl.Expr]", columns: Sequence[str]
) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Return each combination of keys with its rows, and the `columns` of the first row of each, in the order of these rows."""
    import polars as pl

    names = [key.meta.output_name() for key in keys]
    rows = frame.select(*keys).with_row_index(_ROW)
    counted = rows.group_by(names).agg(pl.len().alias("__len"), pl.col(_ROW).min())
    groups = collect(counted, path).sort(_ROW)
    chosen = pl.col(_ROW).is_in(groups[_ROW].implode())
    first = collect(frame.select(columns).with_row_index(_ROW).filter(chosen), path).sort(_ROW)
    return groups, first.select(columns)


def _number_key(column: "pl.Expr", missing: Collection[float]) -> "pl.Expr":
    """Return a number for each kind of number that checks of labels and weights distinguish; null for a missing number."""
    import polars as pl

    value = column.cast(pl.Float64).fill_nan(None)
    is_whole = value == value.round()
    exact = (is_whole & (value.abs() <= _EXACT_UNTIL)) | value.is_in(list(missing))
    return (
        pl.when(exact)
        .then(value + 0.0)  # -0 is 0
        .when(value.abs() > _FLOAT32_MAX)
        .then(value.sign() * 1e6)
        .when(is_whole)
        .then(value.sign() * 1e4)
        .when(value.is_not_null())
        .then(value.sign() * 1e5)
    )


def _in_file_order(groups: "pl.DataFrame", names: list[str]) -> DistinctValues:
    groups = groups.sort(_ROW)
    return DistinctValues(groups.select(names), _occurrences(groups))


def _occurrences(groups: "pl.DataFrame") -> Occurrences:
    return Occurrences(groups["__len"].to_numpy().astype(np.int64), groups[_ROW].to_numpy().astype(np.int64))
