"""The types of the columns of a CSV file, from all of its rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from recprune_export.data.encoding.canonical_text import BOOLEANS, is_among, is_missing_text

if TYPE_CHECKING:
    import polars as pl

_SAMPLE_ROWS = 10_000
_LEADING_ZERO = r"^[+-]?0[0-9]"
_TOO_LONG = r"^[+-]?[0-9]{16,}$"  # more digits than float64 represents exactly


@dataclass(frozen=True)
class TextCounts:
    """Counts of the values of one CSV column: those that are numbers, words for missing values, and other strings.

    `word` and `other` are an example of each, `other_row` the row of the other text, counted from 0.
    """

    dtype: "pl.DataType"
    numbers: int = 0
    words: int = 0
    others: int = 0
    word: str | None = None
    other: str | None = None
    other_row: int | None = None


def infer_csv_types(frame: "pl.LazyFrame", names: Sequence[str], missing: Collection[str]) -> dict[str, TextCounts]:
    """Return the types of the text columns `names`: Int64, Float64, Boolean, Null without any value, or String.

    A column is numeric if all of its values are numbers, except words for missing values. A column with a leading zero, such as 007, or
    with more digits than its type represents, is text. The rows are read once; columns with numbers in less than half of the first 10,000
    rows are text without this pass.
    """
    import polars as pl

    if not names:
        return {}
    head = frame.select(names).head(_SAMPLE_ROWS).collect(engine="streaming")
    candidates = [name for name in names if _is_candidate(head[name], missing)]
    types: dict[str, TextCounts] = {name: TextCounts(pl.String()) for name in names}
    if not candidates:
        return types
    counts = _count(frame, candidates, missing)
    types |= {name: _decide(counts[name]) for name in candidates}
    return {name: _add_examples(frame, name, column, missing) for name, column in types.items()}


def cast_text(name: str, dtype: "pl.DataType", missing: Collection[str]) -> "pl.Expr":
    """Return a text column as `dtype`, null where a word stands for a missing value."""
    import polars as pl

    column = pl.col(name)
    if isinstance(dtype, pl.String):
        return column.replace(list(missing), [None] * len(missing)) if missing else column
    text = column.str.strip_chars()
    if isinstance(dtype, pl.Boolean):
        return text.replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean).alias(name)
    if isinstance(dtype, pl.Null):
        return pl.when(column.is_null() & column.is_not_null()).then(column)  # as many rows as there are
    text = pl.when(~is_missing_text(text, missing)).then(text)
    return text.cast(dtype, strict=False).alias(name)


def _is_candidate(column: "pl.Series", missing: Collection[str]) -> bool:
    import polars as pl

    counts = _count(pl.LazyFrame(column), [column.name], missing)[column.name]
    return bool(max(counts["floats"], counts["booleans"]) >= 0.5 * counts["values"])


def _count(frame: "pl.LazyFrame", names: Sequence[str], missing: Collection[str]) -> dict[str, dict[str, int]]:
    """Return the counts of the strings of each column by their form. Words are looked up among strings that are not numbers."""
    import polars as pl

    stripped = {name: pl.col(name).str.strip_chars() for name in names}
    texts = frame.select(pl.when(text != "").then(text).alias(name) for name, text in stripped.items())
    numbers = texts.with_columns(
        pl.col(name).cast(pl.Float64, strict=False).fill_nan(None).alias(f"number {name}") for name in names
    )
    rest = numbers.with_columns(
        pl.when(pl.col(f"number {name}").is_null()).then(pl.col(name)).alias(f"rest {name}") for name in names
    )
    words = rest.with_columns(_is_word(name, missing).alias(f"word {name}") for name in names)
    table = words.select(pl.struct(*_counts(name)).alias(name) for name in names).collect(engine="streaming")
    return table.row(0, named=True)


def _is_word(name: str, missing: Collection[str]) -> "pl.Expr":
    import polars as pl

    rest = pl.col(f"rest {name}")
    is_word = rest.is_not_null() & is_missing_text(rest)
    return is_word | is_among(pl.col(name), missing).fill_null(False) if missing else is_word


def _counts(name: str) -> list["pl.Expr"]:
    import polars as pl

    text, is_word = pl.col(name), pl.col(f"word {name}")
    counts = {
        "values": text.count() - is_word.sum(),
        "words": is_word.sum(),
        "integers": (text.cast(pl.Int64, strict=False).is_not_null() & ~is_word).sum(),
        "floats": (pl.col(f"number {name}").is_not_null() & ~is_word).sum(),
        "booleans": (pl.col(f"rest {name}").is_in(list(BOOLEANS)) & ~is_word).sum(),
        "zeros": (text.str.contains(_LEADING_ZERO) & ~is_word).sum(),
        "long": (text.str.contains(_TOO_LONG) & ~is_word).sum(),
    }
    return [expression.alias(key) for key, expression in counts.items()]


def _decide(counts: Mapping[str, Any]) -> TextCounts:
    import polars as pl

    values, integers, floats = counts["values"], counts["integers"], counts["floats"]
    dtype: pl.DataType = pl.String()
    if not values:
        dtype = pl.Null()
    elif counts["booleans"] == values:
        dtype = pl.Boolean()
    elif integers == values and not counts["zeros"]:
        dtype = pl.Int64()
    elif floats == values and not counts["zeros"] and not counts["long"]:
        dtype = pl.Float64()
    is_number = floats == values
    return TextCounts(
        dtype, floats, counts["words"], 0 if is_number or isinstance(dtype, pl.Boolean) else values - floats
    )


def _add_examples(frame: "pl.LazyFrame", name: str, column: TextCounts, missing: Collection[str]) -> TextCounts:
    """Look up the first word and the first other text of a column that has any."""
    import polars as pl

    if not (column.words or column.others):
        return column
    text = pl.col(name).str.strip_chars()
    is_word = (text != "") & is_missing_text(text, missing)
    is_other = ~is_missing_text(text, missing) & text.cast(pl.Float64, strict=False).is_null()
    rows = frame.select(name).with_row_index("__row")
    first = [
        rows.filter(mask).select("__row", name).head(1).collect(engine="streaming").rows()
        for mask in (is_word, is_other)
    ]
    word = first[0][0][1] if first[0] else None
    row, other = first[1][0] if column.others and first[1] else (None, None)
    return replace(column, word=word, other=other, other_row=row)
