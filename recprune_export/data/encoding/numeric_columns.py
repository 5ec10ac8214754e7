"""Columns of any type as numbers, float64, including strings, dates and durations."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from recprune_export.data.encoding.canonical_text import BOOLEANS, WHITE_SPACE, is_among, is_missing_text

if TYPE_CHECKING:
    import polars as pl

_SECONDS_A_DAY = 86_400.0
# An ISO 8601 date, or a date with a time, as pandas, polars and Spark write them.
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?Z?"
DATE_PATTERN = rf"^[1-9][0-9]{{3}}-[0-9]{{2}}-[0-9]{{2}}(?:[ T]{_TIME})?$"

DECIMAL_COMMA = r"^-?[0-9]+,[0-9]+$"


def unit_as_number(dtype: "pl.DataType") -> str | None:
    """Return the unit in which a column of dates or times becomes a number; None for other columns.

    >>> import polars as pl
    >>> unit_as_number(pl.Date()), unit_as_number(pl.Duration()), unit_as_number(pl.Int64())
    ('days since 1970-01-01', 'seconds', None)
    """
    import polars as pl

    if isinstance(dtype, pl.Date | pl.Datetime):
        return "days since 1970-01-01"
    if isinstance(dtype, pl.Time):
        return "seconds since midnight"
    return "seconds" if isinstance(dtype, pl.Duration) else None


def can_be_number(dtype: "pl.DataType") -> bool:
    """Return whether each value of a column may be one number; a text may contain a number."""
    import polars as pl

    texts = (pl.Boolean, pl.Null, pl.String, pl.Categorical, pl.Enum)
    return dtype.is_numeric() or dtype.is_temporal() or isinstance(dtype, texts)


def as_number(column: "pl.Expr", dtype: "pl.DataType", missing: Collection[str] = ()) -> "pl.Expr":
    """Return a column of `dtype` as float64: null if the value is missing, NaN, or a text that is not a number.

    A date is days since 1970-01-01, with the time as a fraction; a time or a duration is seconds; true is 1; a decimal comma
    is a point. A word in `missing` is missing, and so is the number that it names.

    >>> import polars as pl
    >>> texts = pl.Series(["1.5", " 2", "NA", "1970-01-02 12:00:00", "true", "old", "-9.0"])
    >>> pl.select(as_number(pl.lit(texts), texts.dtype, ["-9"])).to_series().to_list()
    [1.5, 2.0, None, 1.5, 1.0, None, None]
    """
    import polars as pl

    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        text = column.cast(pl.String).str.strip_chars(WHITE_SPACE)
        values = _number_of_text(text)
        values = pl.when(~is_among(text, missing)).then(values) if missing else values
    else:
        values = _number_of_type(column, dtype)
    numbers = pl.Series([*missing], dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    return pl.when(~values.is_in(numbers.implode())).then(values) if len(numbers) else values


def _number_of_type(column: "pl.Expr", dtype: "pl.DataType") -> "pl.Expr":
    import polars as pl

    if isinstance(dtype, pl.Date):
        return column.cast(pl.Int32).cast(pl.Float64)
    if isinstance(dtype, pl.Datetime):
        return column.dt.epoch("us") / (_SECONDS_A_DAY * 1e6)
    if isinstance(dtype, pl.Time):
        return column.cast(pl.Int64) / 1e9
    if isinstance(dtype, pl.Duration):
        return column.dt.total_microseconds() / 1e6
    return column.cast(pl.Float64).fill_nan(None)


def _number_of_text(text: "pl.Expr") -> "pl.Expr":
    import polars as pl

    return pl.coalesce(
        text.cast(pl.Float64, strict=False).fill_nan(None),
        as_number(_read_date(text), pl.Datetime("us")),
        pl.when(text.str.contains(DECIMAL_COMMA))
        .then(text)
        .str.replace(",", ".", literal=True)
        .cast(pl.Float64, strict=False),
        text.replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean).cast(pl.Float64),
    )


def _read_date(text: "pl.Expr") -> "pl.Expr":
    """Return ISO strings as times; null for others."""
    import polars as pl

    dates = pl.when(text.str.contains(DATE_PATTERN)).then(text)
    seconds = dates.str.head(19).str.replace("T", " ", literal=True).str.strip_chars_end("Z")
    return pl.coalesce(
        seconds.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False),
        seconds.str.to_datetime("%Y-%m-%d %H:%M", strict=False),
        seconds.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    )


def is_no_number(column: "pl.Expr", dtype: "pl.DataType", missing: Collection[str] = ()) -> "pl.Expr":
    """Return whether a value is neither missing nor a number."""
    import polars as pl

    if not isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return pl.lit(False)
    return ~is_missing_text(column.cast(pl.String), missing) & as_number(column, dtype).is_null()
