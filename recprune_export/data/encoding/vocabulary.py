"""`Vocabulary`: the ids of one field, including the id of unknown values."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Self

from recprune_export.data.encoding.canonical_text import is_among, is_missing_text

if TYPE_CHECKING:
    import polars as pl


_TEXTS = "__texts"


class Vocabulary:
    """Maps values, as text, to ids `first`, `first` + 1, ... in their order, and every other value to `first` - 1.

    A field has `first` = 1, and 0 is unknown. A multi-valued field has `first` = 2: 0 is padding, 1 unknown.

    >>> import polars as pl
    >>> ids = Vocabulary(["b", "a"], first=1)
    >>> pl.DataFrame({"x": ["a", "b", "c", None]}).select(ids.lookup("x")).to_series().to_list(), ids.rows
    ([2, 1, 0, 0], 3)
    """

    def __init__(self, values: "Sequence[str] | pl.Series", first: int) -> None:
        import polars as pl

        self.values = pl.Series(values, dtype=pl.String)
        self.first = first
        self._lookups: dict[str | None, pl.Expr] = {}

    @property
    def rows(self) -> int:
        """The number of rows of the embedding table of this field, including the special ids."""
        return self.first + len(self.values)

    def lookup(self, name: str | None) -> "pl.Expr":
        """Return the ids of the text column `name`, or of the elements of a list (None), int64; an empty value is unknown.

        The values are hashed only at the first call: otherwise a query of few rows would take as long as one of many.
        """
        import polars as pl

        if name not in self._lookups:
            text = pl.element() if name is None else pl.col(name)
            place = text.cast(pl.Enum(self.values), strict=False).to_physical().cast(pl.Int64)
            self._lookups[name] = (place + self.first).fill_null(self.first - 1)
        return self._lookups[name]

    def knows(self, texts: "pl.Series") -> "pl.Series":
        """Return whether each text is in the vocabulary."""
        return texts.alias(_TEXTS).to_frame().select(self.lookup(_TEXTS)).to_series() >= self.first

    def __getstate__(self) -> tuple[object, int]:
        return self.values, self.first

    def __setstate__(self, state: tuple[object, int]) -> None:
        self.values, self.first = state  # type: ignore[assignment]
        self._lookups = {}

    def to_list(self) -> list[str]:
        """Return the values in the order of their ids."""
        return self.values.to_list()

    @classmethod
    def count(cls, frame: "pl.LazyFrame", column: "pl.Expr", first: int, missing: Collection[str] = ()) -> Self:
        """Return the vocabulary of an expression of text over `frame`, the most frequent values first.

        Values are counted as stored before they are converted to strings, so that memory and most of the time depend on the distinct
        values. A word in `missing` has no id; neither has a usual word for a missing value if all other values are numbers.

        >>> import polars as pl
        >>> frame = pl.LazyFrame({"shop": ["7", "12", "NA", "-"]})
        >>> Vocabulary.count(frame, pl.col("shop"), 1).to_list()
        ['12', '7']
        """
        import polars as pl

        (stored,) = set(column.meta.root_names())
        counted = frame.select(stored).group_by(stored).agg(pl.len().alias("__len"))
        texts = counted.select(column.alias("value"), pl.col("__len").alias("len")).drop_nulls("value")
        return cls.from_counts(texts.group_by("value").agg(pl.col("len").sum()), first, missing)

    @classmethod
    def from_counts(cls, counted: "pl.LazyFrame", first: int, missing: Collection[str] = ()) -> Self:
        """Return the vocabulary of texts `value` that occur in `len` rows each, as `count` does."""
        import polars as pl

        ordered = counted.sort("len", "value", descending=[True, False]).collect(engine="streaming")
        values = ordered["value"].cast(pl.String)
        marked = values.to_frame("value").select(mark_missing_texts(pl.col("value"), missing)).to_series()
        return cls(values.filter(~marked), first)


def mark_missing_texts(column: "pl.Expr", missing: Collection[str]) -> "pl.Expr":
    """Return whether texts of a column stand for a missing value: those in `missing`, and usual words if all others are numbers.

    >>> import polars as pl
    >>> texts = pl.DataFrame({"shop": ["7", "NA", None], "country": ["DE", "NA", None]})
    >>> texts.select(mark_missing_texts(pl.all(), [])).rows()
    [(False, False), (True, False), (True, True)]
    """
    import polars as pl

    is_word, is_requested = is_missing_text(column), is_among(column, missing).fill_null(True)
    is_number = column.str.strip_chars().cast(pl.Float64, strict=False).is_not_null()
    return is_requested | (is_word & (is_number | is_word).all())
