"""`ColumnSummary`: how one column of a file was read, and the statistics of columns that decide this."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from recprune_export.codec import DictMixin, JsonForm, finite_or_none
from recprune_export.data.encoding.canonical_text import is_missing_text
from recprune_export.data.encoding.numeric_columns import as_number
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.tabular_files import collect

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class ColumnSummary(DictMixin):
    """How a column was read.

    `dtype` is its type in the file (for CSV: that of all of its values), `role` is "label", "categorical", "numeric",
    "multi-valued", "vector", "split", "user", "item", "order", "excluded" or "ignored". `values` is the number of distinct values with an
    id, `low` and `high` the range of numbers, `missing` the fraction of rows without a value.
    """

    name: str
    dtype: str
    role: str
    values: int | None = None
    low: Annotated[float | None, JsonForm(finite_or_none)] = None
    high: Annotated[float | None, JsonForm(finite_or_none)] = None
    missing: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of all rows of a column: missing values, and those of its type.

    `low` and `high`: range of numbers; `is_whole`: whether all of them are integers; `shortest` and `longest`: lengths of
    lists; `words`: strings that usually stand for a missing value.
    """

    rows: int
    missing: int
    low: float | None = None
    high: float | None = None
    is_whole: bool = False
    shortest: int | None = None
    longest: int | None = None
    words: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return self.missing == self.rows


def measure_columns(path: DataFile, frame: "pl.LazyFrame") -> dict[str, ColumnStatistics]:
    """Return the statistics of each column of `frame`, in one pass over the rows of `path`."""
    import polars as pl

    types = frame.collect_schema()
    if not types:
        return {}
    columns = [pl.struct(*_statistics(name, dtype)).alias(name) for name, dtype in types.items()]
    values: Mapping[str, Any] = collect(frame.select(*columns), path).row(0, named=True)
    return {name: ColumnStatistics(**values[name]) for name in types}


def _statistics(name: str, dtype: "pl.DataType") -> list["pl.Expr"]:
    import polars as pl

    column = pl.col(name)
    statistics = {"rows": pl.len(), "missing": column.null_count()}
    if dtype.is_numeric() or dtype.is_temporal() or isinstance(dtype, pl.Boolean):
        values = as_number(column, dtype)
        statistics |= {"missing": values.null_count(), "low": values.min(), "high": values.max()}
        if dtype.is_float() or dtype.is_decimal():
            statistics["is_whole"] = (values == values.floor()).all()
    elif isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        text = column.cast(pl.String)
        statistics["missing"] = (text.is_null() | (text == "")).sum()
        statistics["words"] = ((text != "") & is_missing_text(text)).sum()
    elif isinstance(dtype, pl.List | pl.Array):
        lengths = column.cast(pl.List(dtype.inner)).list.len()
        statistics |= {"shortest": lengths.min(), "longest": lengths.max()}
    return [expression.alias(key) for key, expression in statistics.items()]
