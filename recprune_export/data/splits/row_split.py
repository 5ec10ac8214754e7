"""Split rows into training, validation and testing: by a column of split names, by time, by user, or at random."""

import hashlib
from collections.abc import Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.codec import DictMixin
from recprune_export.data.occurrences import Occurrences
from recprune_export.data.schema.schema import Split
from recprune_export.data.splits.order import parse_order
from recprune_export.data.splits.random_sides import describe_random_sides, draw_sides
from recprune_export.errors import DataError
from recprune_export.settings import SplitSettings

if TYPE_CHECKING:
    import polars as pl

SPLIT_NAMES = ("train", "valid", "test")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("valid", "validation", "val", "dev"), 1),
    "test": 2,
}
_ACCEPTED = "train, valid or test (or training, validation, val, dev)"


@dataclass(frozen=True)
class RowSplit:
    """The side of each row, int8 [N]: 0 train, 1 valid, 2 test; `description` is the rule."""

    codes: np.ndarray
    description: str


@dataclass(frozen=True)
class SplitSizes(DictMixin):
    """The number of rows of each side, and a description of the rule; for histories there is a row for each user.

    >>> print(SplitSizes(8000, 1000, 1000, "by the column 'split'"))
    8,000 train, 1,000 valid and 1,000 test, split by the column 'split'
    """

    train: int
    valid: int
    test: int
    split: str

    def __str__(self) -> str:
        return f"{self.train:,} train, {self.valid:,} valid and {self.test:,} test, split {self.split}"


class SplitMixin:
    """The sizes of data with three sides, which the class defines; for histories a row is a user."""

    train: Sized
    valid: Sized
    test: Sized
    split_description: str

    @property
    def sizes(self) -> SplitSizes:
        """How many rows each side has."""
        return SplitSizes(len(self.train), len(self.valid), len(self.test), self.split_description)


def make_split(settings: SplitSettings, seed: int) -> Split:
    """Return the split of the options; at random if they contain no column."""
    return Split(settings.split, seed, time=settings.split_by_time, user=settings.split_by_user)


def split_rows(
    path: object, column: "pl.Series", split: Split, remedy: str, occurrences: Occurrences | None = None
) -> RowSplit:
    """Split rows by `column`, the column of `split`. `remedy` ends the message for rows without a valid side.

    With `occurrences`, the column contains each value once, and `occurrences` its number of rows; the codes are those of the values.

    Raises `DataError` if a row has no value or another one, or a side would have no rows.
    """
    if split.column is not None:
        return split_by_words(path, column, remedy, occurrences)
    if split.time is not None:
        return split_by_time(path, column, split, occurrences)
    return split_by_user(path, column, split, occurrences)


def split_at_random(count: int, split: Split) -> RowSplit:
    """Split `count` rows at random by the seed."""
    return RowSplit(draw_sides(split, 0, count), describe_random_sides(split))


def holds_split_words(column: "pl.Series") -> bool:
    """Return whether any row of a column names a side."""
    import polars as pl

    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return False
    return bool(_normalize(column).is_in(list(SPLIT_WORDS)).any())


def split_by_words(path: object, column: "pl.Series", remedy: str, occurrences: Occurrences | None = None) -> RowSplit:
    """Split rows by the names of splits in a text column; upper case and spaces around a name do not matter.

    Raises `DataError` if a row has no name or another one, or a side has no rows.
    """
    import polars as pl

    occurrences = occurrences or Occurrences.once(len(column))
    where = f"The column '{column.name}' of {path}, which splits the rows,"
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        examples = ", ".join(str(value) for value in column.drop_nulls().unique(maintain_order=True).head(3))
        raise DataError(
            f"{where} contains {column.dtype}{examples and f', such as {examples}'}; every row needs {_ACCEPTED}. {remedy}"
        )
    words = column.cast(pl.String).str.strip_chars()
    codes = _normalize(column).replace_strict(SPLIT_WORDS, default=None, return_dtype=pl.Int8)
    unknown = words.filter(codes.is_null() & words.is_not_null())
    problems = []
    if column.null_count():
        problems.append(f"is missing in {count_rows(column.is_null().to_numpy(), occurrences)}")
    if len(unknown):
        examples = ", ".join(f"'{word}'" for word in unknown.unique(maintain_order=True).head(3))
        problems.append(
            f"contains {examples} in {count_rows((codes.is_null() & words.is_not_null()).to_numpy(), occurrences)}"
        )
    if problems:
        raise DataError(f"{where} {' and '.join(problems)}; every row needs {_ACCEPTED}. {remedy}")
    row_split = RowSplit(codes.to_numpy(), f"by the column '{column.name}'")
    counts = count_sides(row_split, occurrences)
    if min(counts.values()) == 0:
        text = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise DataError(f"{where} leaves a split without rows ({text}); assign rows to train, valid and test. {remedy}")
    return row_split


def split_by_time(path: object, column: "pl.Series", split: Split, occurrences: Occurrences | None = None) -> RowSplit:
    """Split rows in time: the last fraction is for testing, the one before for validation. Equal times stay on one side.

    Of all borders between distinct times, those are chosen whose fractions are nearest to the ones of `split`.

    Raises `DataError` if a row has no time, or there are fewer than three different ones.
    """
    values = parse_order(path, column, occurrences)
    check_no_missing(path, values, occurrences)
    ranks = values.rank("dense").to_numpy() - 1 if len(values) else np.zeros(0, np.int64)  # of each row's time
    counts = np.bincount(ranks) if occurrences is None else _sum_by_rank(ranks, occurrences)
    if len(counts) < 3:
        raise DataError(
            f"The column '{column.name}' of {path} has {len(counts)} different times; a split by time needs three or more."
        )
    rows_from = np.cumsum(counts[::-1])[::-1]  # the number of rows with the time of this rank or a later one
    total = int(counts.sum())
    test = 2 + _nearest(rows_from[2:], split.test * total)
    valid = 1 + _nearest(rows_from[1:test], (split.valid + split.test) * total)
    codes = (ranks >= valid).astype(np.int8) + (ranks >= test).astype(np.int8)
    first_valid, first_test = (column.filter(ranks == rank).min() for rank in (valid, test))
    return RowSplit(codes, describe_time_split(column.name, first_valid, first_test))


def describe_time_split(name: str, first_valid: object, first_test: object) -> str:
    """Describe the times of the column `name` at which the sides begin."""
    return f"by time: valid from '{name}' {first_valid} on, test from {first_test} on, equal times in the same split"


def split_by_user(path: object, column: "pl.Series", split: Split, occurrences: Occurrences | None = None) -> RowSplit:
    """Split users, and with them all of their rows, in the order of a hash of the seed and the user.

    So a user rarely changes sides when rows of others are added.

    Raises `DataError` if a row has no user, or there are fewer than three.
    """
    import polars as pl

    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(f"The column '{column.name}' of {path} contains {column.dtype}, so it cannot contain user ids.")
    users = (column.fill_nan(None) if column.dtype.is_float() else column).cast(pl.String)
    check_no_missing(path, users, occurrences)
    distinct = sorted(users.unique().to_list(), key=lambda user: _hash(split.seed, user))
    if len(distinct) < 3:
        raise DataError(
            f"The column '{column.name}' of {path} has {len(distinct)} different users; a split by user needs three or more."
        )
    test, valid = (max(1, round(share * len(distinct))) for share in (split.test, split.valid))
    train = len(distinct) - test - valid
    sides = np.repeat(np.arange(3, dtype=np.int8), (train, valid, test))
    codes = users.replace_strict(distinct, pl.Series(sides), return_dtype=pl.Int8).to_numpy()
    return RowSplit(codes, f"by user: '{column.name}' has {train:,} train, {valid:,} valid and {test:,} test users")


def count_sides(split: RowSplit, occurrences: Occurrences | None = None) -> dict[str, int]:
    """Return the number of rows by the name of the side."""
    weights = None if occurrences is None else occurrences.weights
    counts = np.bincount(split.codes, weights=weights, minlength=3).astype(np.int64)
    return dict(zip(SPLIT_NAMES, counts.tolist(), strict=True))


def _sum_by_rank(ranks: np.ndarray, occurrences: Occurrences) -> np.ndarray:
    counts: np.ndarray = np.bincount(ranks, weights=occurrences.counts).astype(np.int64)
    return counts


def check_no_missing(path: object, column: "pl.Series", occurrences: Occurrences | None = None) -> None:
    """Raise `DataError` if a value is null."""
    if column.null_count():
        raise DataError(
            f"'{column.name}' in {path} is missing in {count_rows(column.is_null().to_numpy(), occurrences)}: fill the missing values, "
            "or leave out these rows."
        )


def count_rows(mask: np.ndarray, occurrences: Occurrences | None = None) -> str:
    """Describe the number of selected rows, and the first of them, counted from 0.

    >>> count_rows(np.array([False, True, True]))
    '2 rows (the first is row 1)'
    """
    occurrences = occurrences or Occurrences.once(len(mask))
    count, first = occurrences.count(mask), occurrences.first_row(mask)
    return f"row {first:,}" if count == 1 else f"{count:,} rows (the first is row {first:,})"


def _normalize(words: "pl.Series") -> "pl.Series":
    import polars as pl

    return words.cast(pl.String).str.strip_chars().str.to_lowercase()


def _nearest(counts: np.ndarray, target: float) -> int:
    return int(np.argmin(np.abs(counts - target)))


def _hash(seed: int, user: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{user}".encode(), digest_size=8).digest()
