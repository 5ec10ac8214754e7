"""Columns that order rows, as numbers or times: text is parsed, since '10' sorts before '9' as text."""

from typing import TYPE_CHECKING

from recprune_export.data.occurrences import Occurrences
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

# Year, month, day, hour, minute, second, fraction, time zone. Only the year-first order is unambiguous.
_ISO = (
    r"^(\d{4})-?/?(\d{2})(?:-?/?(\d{2}))?"
    r"(?:[T ](\d{2}):?(\d{2})(?::?(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r" ?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?$"
)


_YEARS_IN_NANOSECONDS = (1700, 2200)  # nanoseconds of these years fit into int64


def parse_order(path: object, column: "pl.Series", occurrences: Occurrences | None = None) -> "pl.Series":
    """Return a column as values that sort as numbers or in time, null where it is missing; of the same length.

    Numbers, dates, times and durations are not changed; times with time zones become instants. Text becomes numbers or, from ISO dates
    and times, instants. Messages count the rows of `occurrences`, if each value stands for several.

    Raises `DataError` if the column has other values, or infinity.
    """
    import polars as pl

    dtype, occurrences = column.dtype, occurrences or Occurrences.once(len(column))
    if dtype.is_float():
        return _check_infinite(path, column.fill_nan(None), occurrences)
    if dtype.is_numeric() or dtype == pl.Null:
        return column
    if dtype.is_temporal():
        return column.to_physical()
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return _parse_text(path, column.cast(pl.String), occurrences)
    raise DataError(
        f"The column '{column.name}' of {path} contains {dtype}, which has no order in time: order the rows by a column of "
        "numbers, dates or times."
    )


def order_kinds(column: "pl.Expr", dtype: "pl.DataType") -> "list[pl.Expr]":
    """Return the properties of values by which `parse_order` interprets a whole column; empty if any value suffices.

    A column with the first row of each combination of these properties is interpreted like the whole column.
    """
    import polars as pl

    if dtype.is_float():
        return [column.is_infinite()]
    if dtype not in (pl.String, pl.Categorical, pl.Enum):
        return []
    text = _strip(column.cast(pl.String))
    number = text.cast(pl.Float64, strict=False)
    return [
        text.is_null(),
        text.cast(pl.Int64, strict=False).is_null(),
        number.is_null(),
        number.is_infinite(),
        _instant(text, 6).is_null(),
        _year(text).is_between(*_YEARS_IN_NANOSECONDS),
        _zone(text).is_null(),
    ]


def _strip(text: "pl.Expr") -> "pl.Expr":
    return text.str.strip_chars().replace("", None)


def _parse_text(path: object, column: "pl.Series", occurrences: Occurrences) -> "pl.Series":
    import polars as pl

    text = column.to_frame().select(_strip(pl.col(column.name))).to_series()
    for dtype in (pl.Int64, pl.Float64):
        numbers = text.cast(dtype, strict=False)
        if numbers.null_count() == text.null_count():
            return _check_infinite(path, numbers.fill_nan(None), occurrences) if dtype == pl.Float64 else numbers
    times = _parse_times(path, text, occurrences)
    if times.null_count() > text.null_count():
        # The rows of the rarer kind do not fit.
        read = numbers if numbers.null_count() < times.null_count() else times
        is_invalid = read.is_null() & text.is_not_null()
        invalid, count = text.filter(is_invalid), occurrences.count(is_invalid.to_numpy())
        raise DataError(
            f"The column '{column.name}' of {path} orders the rows, but contains text that is neither a number nor an ISO date or "
            f"time in {count:,} of {occurrences.total:,} rows, such as '{invalid[0]}': write them as numbers, or as "
            "2026-01-31 or 2026-01-31T09:30:00."
        )
    return times


def _parse_times(path: object, text: "pl.Series", occurrences: Occurrences) -> "pl.Series":
    """Return ISO dates and times as instants, null where there is none.

    They are nanoseconds since 1970, or microseconds if a year is out of range for nanoseconds in int64.
    """
    import polars as pl

    column = pl.col(text.name)
    year, zone = text.to_frame().select(_year(column).alias("year"), _zone(column).alias("zone")).get_columns()
    zoned = occurrences.count(zone.is_not_null().to_numpy())
    if zoned and zoned != occurrences.count(year.is_not_null().to_numpy()):
        raise DataError(
            f"The column '{text.name}' of {path} has a time zone in {zoned:,} rows and none in others, so their order is "
            "unknown: write all of them with a time zone, or none."
        )
    digits = 9 if year.is_between(*_YEARS_IN_NANOSECONDS).all() else 6
    return text.to_frame().select(_instant(column, digits).alias(text.name)).to_series()


def _instant(text: "pl.Expr", digits: int) -> "pl.Expr":
    """Return ISO dates and times as `digits` of a second since 1970."""
    import polars as pl

    year, month, day, hour, minute, second, fraction, zone = (text.str.extract(_ISO, group) for group in range(1, 9))
    date = pl.concat_str([year, month, day.fill_null("01")], separator="-")
    time = pl.concat_str([part.fill_null("00") for part in (hour, minute, second)], separator=":")
    seconds = (
        pl.concat_str([date, time], separator=" ").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    )
    offset_text = zone.fill_null("Z").str.replace(":", "")
    sign = pl.when(offset_text.str.starts_with("-")).then(-1).otherwise(1)
    hours, minutes = (offset_text.str.slice(start, 2).cast(pl.Int64, strict=False).fill_null(0) for start in (1, 3))
    fractions = fraction.fill_null("0").str.pad_end(9, "0").str.head(digits).cast(pl.Int64)
    return (seconds - sign * (hours * 60 + minutes) * 60) * 10**digits + fractions


def _year(text: "pl.Expr") -> "pl.Expr":
    import polars as pl

    return text.str.extract(_ISO, 1).cast(pl.Int64)


def _zone(text: "pl.Expr") -> "pl.Expr":
    return text.str.extract(_ISO, 8)


def _check_infinite(path: object, numbers: "pl.Series", occurrences: Occurrences) -> "pl.Series":
    count = occurrences.count(numbers.is_infinite().fill_null(False).to_numpy())
    if count:
        raise DataError(
            f"The column '{numbers.name}' of {path} orders the rows, but contains infinity in {count:,} of them: write the time, "
            "or leave those rows out."
        )
    return numbers
