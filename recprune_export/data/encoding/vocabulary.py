"""`Vocabulary`: the ids of one field, including the id of unknown values."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Self

from recprune_export.data.encoding.canonical_text import is_among, is_missing_text

if TYPE_CHECKING:
    import polars as pl


class Vocabulary:
    """Maps values, as text, to ids `first`, `first` + 1, ... in their order, and every other value to `first` - 1.

    A field has `first` = 1, and 0 stands for unknown. A multi-valued field has `first` = 2: 0 is padding, 1 unknown.

    >>> import polars as pl
    >>> ids = Vocabulary(["b", "a"], first=1)
    >>> pl.select(ids.encode(pl.lit(pl.Series(["a", "b", "c", None])))).to_series().to_list(), ids.rows
    ([2, 1, 0, 0], 3)
    """

    def __init__(self, values: "Sequence[str] | pl.Series", first: int) -> None:
        import polars as pl

        self.values = pl.Series(values, dtype=pl.String)
        self._ids = pl.int_range(first, first + len(self.values), dtype=pl.Int64, eager=True)
        self.first = first

    @property
    def rows(self) -> int:
        """The number of rows of the embedding table of this field, including the special ids."""
        return self.first + len(self.values)

    def encode(self, column: "pl.Expr") -> "pl.Expr":
        """Return the ids of a text column, int64; an empty value is unknown."""
        import polars as pl

        return column.replace_strict(self.values, self._ids, default=self.first - 1, return_dtype=pl.Int64)

    def to_list(self) -> list[str]:
        """Return the values in the order of their ids."""
        return self.values.to_list()

    @classmethod
    def count(cls, frame: "pl.LazyFrame", column: "pl.Expr", first: int, missing: Collection[str] = ()) -> Self:
        """Return the vocabulary of a text column of `frame`, the most frequent values first.

        A word in `missing` has no id, nor has a usual word for a missing value where all other values are numbers.

        >>> import polars as pl
        >>> frame = pl.LazyFrame({"shop": ["7", "12", "NA", "-"]})
        >>> Vocabulary.count(frame, pl.col("shop"), 1).to_list()
        ['12', '7']
        """
        import polars as pl

        counted = frame.select(column.alias("value")).drop_nulls().group_by("value").len()
        ordered = counted.sort("len", "value", descending=[True, False]).collect(engine="streaming")
        values = ordered["value"].cast(pl.String)
        return cls(values.filter(~_is_missing(values, missing)), first)


def _is_missing(values: "pl.Series", missing: Collection[str]) -> "pl.Series":
    import polars as pl

    column = pl.lit(values)
    is_word, is_requested, is_number = pl.select(
        word=is_missing_text(column),
        requested=is_among(column, missing),
        number=column.str.strip_chars().cast(pl.Float64, strict=False).is_not_null(),
    ).get_columns()
    return is_requested | is_word if (is_number | is_word).all() else is_requested
