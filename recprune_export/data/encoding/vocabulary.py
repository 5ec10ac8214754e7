"""`Vocabulary`: the ids of one field, including the id of unknown values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

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

        self._values = pl.Series(values, dtype=pl.String)
        self._ids = pl.int_range(first, first + len(self._values), dtype=pl.Int64, eager=True)
        self.first = first

    @property
    def rows(self) -> int:
        """The number of rows of an embedding table of this field, including the special ids."""
        return self.first + len(self._values)

    def encode(self, column: "pl.Expr") -> "pl.Expr":
        """Return the ids of a text column, int64; an empty value is unknown."""
        import polars as pl

        return column.replace_strict(self._values, self._ids, default=self.first - 1, return_dtype=pl.Int64)

    def to_list(self) -> list[str]:
        """Return the values in the order of their ids."""
        return self._values.to_list()

    @classmethod
    def count(cls, frame: "pl.LazyFrame", column: "pl.Expr", first: int) -> Self:
        """Return the vocabulary of a text column of `frame`, the most frequent values first."""
        import polars as pl

        counted = frame.select(column.alias("value")).drop_nulls().group_by("value").len()
        ordered = counted.sort("len", "value", descending=[True, False]).collect(engine="streaming")
        return cls(ordered["value"].cast(pl.String), first)
