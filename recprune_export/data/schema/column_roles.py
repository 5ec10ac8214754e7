"""The role of a column that the user does not specify, by its type and values, with a note if it may be unexpected."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from recprune_export.data.csv_types import TextCounts
from recprune_export.data.encoding.numeric_columns import DATE_PATTERN, DECIMAL_COMMA, unit_as_number
from recprune_export.data.schema.column_summary import ColumnStatistics

if TYPE_CHECKING:
    import polars as pl

Role = Literal["categorical", "numeric", "multi-valued", "vector", "excluded"]
SEPARATORS = ("|", ";", ",")
DATE_EXAMPLE = "2024-05-31 10:00:00"
_MAX_EXACT_FLOAT = 2**53
_PATTERN_ROWS = 1000
_BRACKETS = r"^\s*\[.*\]\s*$"
_BRACES = r"^\s*\{.*\}\s*$"
_FRACTION = r"[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?"
_VECTOR = rf"^\s*\(?{_FRACTION}(?:[\s,;|]+{_FRACTION})+\)?\s*$"
_NUMBER_WITH_UNIT = r"^\s*(?:[-+]?[%€$£¥]\s*[-+]?[0-9][0-9.,]*|[-+]?[0-9][0-9.,]*\s*[%€$£¥])\s*$"
_OTHER_DATE = (
    r"^(?:[0-9]{1,4}[/-][0-9]{1,2}[/-][0-9]{1,4}|[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4})(?:[ T].*)?$"
    r"|^(?:[0-9]+ days? )?[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?$"
)


@dataclass(frozen=True)
class ColumnData:
    """The properties of a column that determine its role: the first rows, statistics of all rows, and counts if it is text."""

    sample: "pl.Series"
    statistics: ColumnStatistics
    texts: TextCounts | None = None

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.sample.name

    @property
    def dtype(self) -> "pl.DataType":
        """The type of the column in the file."""
        return self.sample.dtype

    @property
    def is_list(self) -> bool:
        """Whether each row is a list of numbers or strings."""
        return is_list(self.dtype)


@dataclass(frozen=True)
class ChosenRole:
    """A role; `reason` is a few words for a table, `note` a sentence for the user if the role may be unexpected."""

    role: Role
    reason: str = ""
    note: str = ""


def is_list(dtype: "pl.DataType") -> bool:
    """Return whether a column holds lists of numbers or strings."""
    import polars as pl

    return isinstance(dtype, pl.List | pl.Array) and not _is_opaque(_inner(dtype))


def holds_integers(dtype: "pl.DataType") -> bool:
    """Return whether a column holds integers or lists of them."""
    return dtype.is_integer() or (is_list(dtype) and _inner(dtype).is_integer())


def can_be_multi_valued(dtype: "pl.DataType") -> bool:
    """Return whether a value of a column without lists may be several ids in one text."""
    import polars as pl

    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum) or dtype.is_integer()


def is_vector(column: ColumnData) -> bool:
    """Return whether a column holds lists of numbers that all have the same length."""
    return (
        column.is_list
        and _inner(column.dtype).is_numeric()
        and bool(column.statistics.longest)
        and column.statistics.shortest == column.statistics.longest
    )


def choose_role(column: ColumnData) -> ChosenRole:
    """Return the role of a column for which the user specifies none."""
    import polars as pl

    name, dtype, statistics = column.name, column.dtype, column.statistics
    if isinstance(dtype, pl.Null) or statistics.is_empty:
        return ChosenRole("excluded", "no values", f"'{name}' has no value in any row and is excluded.")
    if (dtype.is_nested() and not column.is_list) or isinstance(dtype, pl.Binary | pl.Object):
        return ChosenRole(
            "excluded",
            "nested" if dtype.is_nested() else "binary",
            f"'{name}' contains {dtype} and is excluded: a field is a number, a string, or a list of them; convert the column.",
        )
    if unit := find_date_unit(column):
        return ChosenRole(
            "excluded",
            "date or time",
            f"'{name}' contains dates or times ({dtype}) and is excluded; --numeric {name} reads it as a number ({unit}), "
            f"--categorical {name} as ids.",
        )
    if column.is_list:
        return _choose_list_role(column)
    if example := _find_list_in_text(column):
        return ChosenRole(
            "excluded",
            "lists as text",
            f"'{name}' contains lists written as strings, such as '{example}', and is excluded: write lists or vectors as Parquet lists, "
            f"numbers as columns {name}_0, {name}_1, ..., ids with '|' between them; --categorical {name} reads each string as one id.",
        )
    if example := _find_example(column, _BRACES):
        return ChosenRole(
            "excluded",
            "objects as text",
            f"'{name}' contains objects or sets written as strings, such as '{example}', and is excluded: write each of their "
            f"values as a column, or a Parquet list; --categorical {name} reads each string as one id.",
        )
    if example := find_other_date(column):
        return ChosenRole(
            "excluded",
            "date or time",
            f"'{name}' contains dates or times such as '{example}' and is excluded: write them as {DATE_EXAMPLE} to read them as "
            f"numbers with --numeric {name}; --categorical {name} reads ids.",
        )
    if example := find_decimal_comma(column):
        return ChosenRole(
            "excluded",
            "decimal commas",
            f"'{name}' contains texts such as '{example}', numbers with a decimal comma or pairs of ids, and is excluded; "
            f"--numeric {name} reads numbers, --multi-valued {name}:, ids.",
        )
    if dtype.is_decimal() or dtype.is_float():
        return ChosenRole("numeric")
    return ChosenRole("categorical")


def describe_ids(column: ColumnData) -> str:
    """Return a note if the ids of a categorical field differ from the apparent content of the file; otherwise ""."""
    import polars as pl

    name, dtype, statistics = column.name, column.dtype, column.statistics
    if dtype.is_float() or dtype.is_decimal():
        if not statistics.is_whole:
            return (
                f"'{name}' contains numbers with fractions ({dtype}) and is read as ids, one for each different number."
            )
        largest = max(abs(statistics.low or 0.0), abs(statistics.high or 0.0))
        lost = " Values above 2^53 have lost their last digits in the file." if largest > _MAX_EXACT_FLOAT else ""
        return f"'{name}' is stored as {dtype} and is read as integer ids: 12.0 is the id '12'.{lost}"
    if (unit := find_date_unit(column)) is not None:
        return f"'{name}' contains dates or times and is read as ids, one for each different value; --numeric {name} reads {unit}."
    if example := _find_example(column, _NUMBER_WITH_UNIT):
        return f"'{name}' contains texts such as '{example}' and is read as ids, one for each string: write numbers to read it as a number."
    texts = column.texts
    if texts is None or not isinstance(dtype, pl.String):
        return ""
    if texts.others and texts.numbers >= texts.others:
        at = "" if texts.other_row is None else f" (the first in row {texts.other_row:,})"
        return (
            f"'{name}' contains numbers in {texts.numbers:,} rows and other texts, such as '{texts.other}', in {texts.others:,}{at}: "
            f"it is read as ids; --numeric {name} reads numbers, with --missing for each string that stands for a missing value."
        )
    if isinstance(texts.dtype, pl.Float64):
        return f"'{name}' is text that contains numbers, and is read as ids; --numeric {name} reads numbers."
    return ""


def describe_numbers_in_text(column: ColumnData) -> str:
    """Return how a column of strings that are mostly numbers is read as numbers; "" for other columns."""
    texts = column.texts
    if texts is None or str(column.dtype) != "String" or not texts.numbers or texts.others > texts.numbers:
        return ""
    if not texts.others:
        return f" as ids, --numeric {column.name} as numbers"
    at = "" if texts.other_row is None else f", the first in row {texts.other_row:,}"
    return (
        f" as ids. It contains numbers in {texts.numbers:,} rows and other texts, such as '{texts.other}', in {texts.others:,}{at}: "
        f"--numeric {column.name} --missing '{texts.other}' reads numbers"
    )


def describe_list_ids(column: ColumnData) -> str:
    """Return a note if the ids of a multi-valued field are numbers with a fractional part; otherwise ""."""
    if not column.is_list or not (_inner(column.dtype).is_float() or _inner(column.dtype).is_decimal()):
        return ""
    return (
        f"'{column.name}' contains lists of {_inner(column.dtype)} and is read as ids, one for each different "
        "number: 12.0 is the id '12'."
    )


def describe_missing_words(column: ColumnData, role: Role) -> str:
    """Return a note about strings that usually stand for a missing value: whether they are, or have an id; "" without any."""
    texts, name = column.texts, column.name
    if texts is not None and texts.words and not texts.others and texts.numbers:
        return (
            f"'{name}' contains numbers, and strings for a missing value, such as '{texts.word}', in {texts.words:,} rows: "
            "they are read as missing values."
        )
    if role == "categorical" and column.statistics.words:
        word = find_missing_word(column)
        return (
            f"'{name}' contains '{word}' in some of {column.statistics.words:,} rows with a string that may stand for a missing value: "
            f"each such string is an id; --missing '{word}' reads it as missing."
        )
    return ""


def find_missing_word(column: ColumnData) -> str:
    """Return the first text that usually stands for a missing value."""
    import polars as pl

    from recprune_export.data.encoding.canonical_text import is_missing_text

    if column.texts is not None and column.texts.word is not None:
        return column.texts.word
    text = column.sample.drop_nulls().cast(pl.String)
    words = text.filter(pl.select(is_missing_text(pl.lit(text)) & (pl.lit(text) != "")).to_series())
    return str(words[0]) if len(words) else "NA"


def find_decimal_comma(column: ColumnData) -> str | None:
    """Return an example of a text column that may hold numbers with a decimal comma; None for other columns."""
    import polars as pl

    if not isinstance(column.dtype, pl.String):
        return None
    values = column.sample.drop_nulls().str.strip_chars()
    with_comma = values.filter(values.str.contains(DECIMAL_COMMA))
    if len(with_comma) <= 0.3 * len(values) or not values.str.contains(rf"{DECIMAL_COMMA}|^-?[0-9]+$").all():
        return None
    return str(with_comma[0])


def _find_list_in_text(column: ColumnData) -> str | None:
    """Return an example of a text column that holds lists in brackets or several numbers with a fraction; None for others."""
    return _find_example(column, _BRACKETS) or _find_example(column, _VECTOR)


def find_other_date(column: ColumnData) -> str | None:
    """Return an example of a text column of dates or times that are not read as numbers; None for other columns."""
    return _find_example(column, _OTHER_DATE)


def _find_example(column: ColumnData, pattern: str) -> str | None:
    """Return the first value of a text column if all of the first ones match `pattern`."""
    import polars as pl

    if not isinstance(column.dtype, pl.String):
        return None
    values = column.sample.drop_nulls().head(_PATTERN_ROWS)
    if not len(values) or not values.str.contains(pattern).all():
        return None
    first = str(values[0])
    return first if len(first) <= 40 else f"{first[:37]}..."


def find_separator(column: "pl.Series") -> str | None:
    """Return the separator of a text column whose values repeat across rows; None if it has none."""
    import polars as pl

    values = column.drop_nulls()
    if values.dtype != pl.String or not len(values):
        return None
    for separator in SEPARATORS:
        share = values.str.contains(separator, literal=True).mean()
        if float(share or 0.0) > 0.3:  # type: ignore[arg-type]
            several = values.str.split(separator).explode().str.strip_chars()
            return separator if several.n_unique() < values.n_unique() else None
    return None


def _choose_list_role(column: ColumnData) -> ChosenRole:
    name, inner, statistics = column.name, _inner(column.dtype), column.statistics
    if not (inner.is_float() or inner.is_decimal()):
        return ChosenRole("multi-valued")
    if is_vector(column):
        size = statistics.longest
        return ChosenRole(
            "vector",
            f"{size} numbers",
            f"'{name}' contains vectors of {size} numbers and is read as {size} numeric columns.",
        )
    return ChosenRole(
        "excluded",
        "lists of numbers",
        f"'{name}' contains lists of {statistics.shortest} to {statistics.longest} numbers ({column.dtype}) and is excluded: "
        f"vectors of one length are read as numbers; --multi-valued {name} reads ids.",
    )


def _inner(dtype: "pl.DataType") -> "pl.DataType":
    return dtype.inner  # type: ignore[attr-defined]


def _is_opaque(dtype: "pl.DataType") -> bool:
    import polars as pl

    return dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object)


def find_date_unit(column: ColumnData) -> str | None:
    """Return the unit of a column of dates or times as numbers, also if they are strings; None for other columns."""
    import polars as pl

    if not isinstance(column.dtype, pl.String):
        return unit_as_number(column.dtype)
    texts = column.sample.drop_nulls().str.strip_chars()
    is_date = texts.str.contains(DATE_PATTERN)
    return unit_as_number(pl.Date()) if len(texts) and is_date.all() else None
