"""The canonical text of a value, by which vocabularies look it up, and the usual words for a missing value."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# The default `na_values` of pandas.read_csv, and those of databases, statistics programs and spreadsheets.
MISSING_WORDS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null", "-", "--", ".", "?", "\\N", "NaT", "NIL",
)  # fmt: skip
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}

WHITE_SPACE = " \t\n\v\f\r"  # removed around a string: the white space of ASCII, as in every language

CANONICAL_TEXT_RULE = (
    "A value is looked up by its text. An integer is its decimal digits, true and false are 'true' and 'false' (also where a "
    "text reads True, TRUE, False or FALSE). A whole number below 1e21 is the integer: 12.0 and the text '12.0' are '12', and -0 "
    "is '0'. Other floating-point numbers are as JavaScript writes them (RFC 8785): the shortest decimal that reads back as the "
    "same number, with an exponent below 1e-6 (1e-7) and from 1e21 on (1e+21). Zeros at the end of a text's fraction are dropped, "
    "and a text such as '1e+16' or '1.5e16' is that number. Leading zeros stay: '007' is not '7'. Any other text is itself. null, "
    "NaN and the empty text are missing. docs/encoding.md of recprune-export is the whole specification."
)

_PLAIN = r"^-?(?:0|[1-9][0-9]*)\.[0-9]*$"
# A text of digits with an e without sign, such as 12e4, may be a hexadecimal id and is not changed.
_SCIENTIFIC = r"^-?[0-9](?:\.[0-9]+[eE][+-]?|[eE][+-])[0-9]+$"
_LARGEST_WHOLE = 1e21  # from this number on, JavaScript writes an exponent
_MILLIONTHS = r"^(-?)([0-9])\.?([0-9]*)e-6$"  # polars writes an exponent below 1e-5, JavaScript below 1e-6


def canonical_text(column: "pl.Expr", dtype: "pl.DataType") -> "pl.Expr":
    """Return the canonical text of a column of `dtype`; null where the value is missing. `CANONICAL_TEXT_RULE` states the rule.

    >>> import polars as pl
    >>> texts = pl.Series(["12.0", "007", "1.50", "True", "", "1e+16", "u7"])
    >>> pl.select(canonical_text(pl.lit(texts), texts.dtype)).to_series().to_list()
    ['12', '007', '1.5', 'true', None, '10000000000000000', 'u7']
    >>> pl.select(canonical_text(pl.lit(pl.Series([12.0, 0.1, None])), pl.Float64())).to_series().to_list()
    ['12', '0.1', None]
    """
    import polars as pl

    if dtype.is_float():
        return _text_from_float(column)
    if isinstance(dtype, pl.Duration):
        return _text_from_float(column.dt.total_microseconds() / 1e6)
    text = column.cast(pl.String)
    if isinstance(dtype, pl.Decimal | pl.Datetime | pl.Time):
        return _without_zeros_at_the_end(text)
    if not isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return text
    number = pl.when(text.str.contains(_SCIENTIFIC)).then(text).cast(pl.Float64, strict=False)
    return (
        pl.when(text.str.contains(_PLAIN))
        .then(_without_zeros_at_the_end(text))
        .when(number.is_finite())
        .then(_text_from_float(number))
        .when(text.is_in(list(BOOLEANS)))
        .then(text.str.to_lowercase())
        .when(text == "-0")
        .then(pl.lit("0"))
        .when(text != "")
        .then(text)
    )


def is_missing_text(text: "pl.Expr", words: Collection[str] = ()) -> "pl.Expr":
    """Return whether a text is null, a usual word for a missing value in upper or lower case, or one of `words`."""

    stripped = text.str.strip_chars(WHITE_SPACE)
    usual = stripped.str.to_lowercase().pipe(is_among, [word.lower() for word in MISSING_WORDS])
    return text.is_null() | usual | is_among(stripped, words)


def is_among(text: "pl.Expr", words: Collection[str]) -> "pl.Expr":
    """Return whether a text is one of `words`; null for null."""
    import polars as pl

    return text.is_in(pl.Series([*words], dtype=pl.String).implode())


def _text_from_float(column: "pl.Expr") -> "pl.Expr":
    import polars as pl

    number = column.fill_nan(None)
    is_whole = (number == number.floor()) & (number.abs() < _LARGEST_WHOLE)
    whole = pl.when(is_whole).then(number).cast(pl.Int128, strict=False)
    decimals = number.cast(pl.String).str.replace(_MILLIONTHS, "${1}0.00000${2}${3}")
    return pl.when(is_whole).then(whole.cast(pl.String)).otherwise(decimals)


def _without_zeros_at_the_end(text: "pl.Expr") -> "pl.Expr":
    import polars as pl

    has_point = text.str.contains(".", literal=True)
    short = pl.when(has_point).then(text.str.strip_chars_end("0").str.strip_chars_end(".")).otherwise(text)
    return pl.when(short == "-0").then(pl.lit("0")).otherwise(short)
