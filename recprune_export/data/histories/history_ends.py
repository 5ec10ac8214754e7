"""Where the training part of each history ends, and its validation part: before the last items, or in time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from recprune_export.data.schema.schema import Split
from recprune_export.data.splits.ordered_log import ORDER, TIME, OrderedLog
from recprune_export.data.splits.row_split import describe_time_split, split_by_time
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.row_sides import choose_sides
from recprune_export.data.tabular_files import collect
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_MIN_ITEMS = 3  # items of a user for leave-one-out: one for training, one for validation, one for testing
_MIN_KNOWN = 2  # before the border of validation: one item to read, and the next one to predict


@dataclass(frozen=True)
class UserCounts:
    """The numbers of users: all, those with too few items, with held-out items of equal time, and with a target for valid and for
    test."""

    users: int = 0
    short: int = 0
    tied: int = 0
    valid: int = 0
    test: int = 0

    def __add__(self, other: "UserCounts") -> "UserCounts":
        return UserCounts(
            self.users + other.users,
            self.short + other.short,
            self.tied + other.tied,
            self.valid + other.valid,
            self.test + other.test,
        )


@dataclass(frozen=True)
class HistoryEnds:
    """The number of items of each kept user in `users` before validation and before testing, int [users] each."""

    users: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    counts: UserCounts


class EndRule(Protocol):
    """Decides where the parts of a history end. Users may be given in several parts, whose counts are added."""

    @property
    def description(self) -> str:
        """How histories are split, in words."""
        ...

    def find_ends(self, log: OrderedLog) -> HistoryEnds:
        """Return the users with enough items, and the ends of their parts."""
        ...

    def judge(self, path: DataFile, counts: UserCounts) -> tuple[str, ...]:
        """Return notes about the users of a log. Raises `DataError` if none has enough items."""
        ...


@dataclass(frozen=True)
class LeaveOneOut:
    """The last item of each user is for testing, the one before for validation."""

    description: str = "by leave-one-out: the last item of each user for test, the one before for valid"

    def find_ends(self, log: OrderedLog) -> HistoryEnds:
        """Return the users with three items or more."""
        users = np.flatnonzero(log.lengths >= _MIN_ITEMS)
        last, kept = log.offsets[1:][users], len(users)
        tied = int(np.count_nonzero(log.ties[last - 1] | log.ties[last - 2]))
        counts = UserCounts(len(log.lengths), len(log.lengths) - kept, tied, kept, kept)
        return HistoryEnds(users, log.lengths[users] - 2, log.lengths[users] - 1, counts)

    def judge(self, path: DataFile, counts: UserCounts) -> tuple[str, ...]:
        """Return notes about short users and ties at the ends."""
        kept, notes = counts.users - counts.short, []
        if not kept:
            raise DataError(
                f"No user of {path} has {_MIN_ITEMS} items or more, so no items can be held out for testing."
            )
        if counts.short:
            notes.append(
                f"{counts.short:,} of {counts.users:,} users have fewer than {_MIN_ITEMS} items and are left out."
            )
        if counts.tied:
            notes.append(
                f"The order in the file determines the held-out items of {counts.tied:,} of {kept:,} users, since their last items "
                "have the same time."
            )
        return tuple(notes)


@dataclass(frozen=True)
class SplitInTime:
    """The targets are the first item of each user from a border on; `borders` are values of the parsed order."""

    borders: tuple[Any, Any]
    split_description: str

    @classmethod
    def from_rows(cls, path: DataFile, rows: "pl.DataFrame", name: str, split: Split) -> "SplitInTime":
        """Decide from all rows of a log (`read_log`), whose column of times is called `name`. Raises `DataError` as `split_by_time`."""
        row_split = split_by_time(path, rows[TIME].alias(name), split)
        valid, test = (rows[ORDER].filter(row_split.codes == code).min() for code in (1, 2))
        return cls((valid, test), row_split.description)

    @classmethod
    def from_stream(cls, path: DataFile, rows: "pl.LazyFrame", name: str, split: Split) -> "SplitInTime":
        """Decide like `from_rows`, from rows that are not in memory."""
        import polars as pl

        valid, test = choose_sides(path, rows.select(pl.col(ORDER).alias(name)), split, "").borders
        first = collect(
            rows.select(
                pl.col(TIME).filter(pl.col(ORDER) == border).min().alias(side)
                for side, border in (("valid", valid), ("test", test))
            ),
            path,
        )
        return cls((valid, test), describe_time_split(name, *first.row(0)))

    @property
    def description(self) -> str:
        """The split in words."""
        return f"{self.split_description}; the target is the first item of each user there"

    def find_ends(self, log: OrderedLog) -> HistoryEnds:
        """Return the users with two items or more before the border of validation."""
        ends = [self._count_before(log, border) for border in self.borders]
        users = np.flatnonzero(ends[0] >= _MIN_KNOWN)
        valid, test = (end[users] for end in ends)
        counts = UserCounts(
            len(log.lengths),
            len(log.lengths) - len(users),
            valid=int(np.count_nonzero(test > valid)),
            test=int(np.count_nonzero(log.lengths[users] > test)),
        )
        return HistoryEnds(users, valid, test, counts)

    def judge(self, path: DataFile, counts: UserCounts) -> tuple[str, ...]:
        """Return a note about short users."""
        if not counts.valid or not counts.test:
            raise DataError(
                f"No user of {path} has two items before the border of validation and another one after each border "
                f"({self.split_description}): split by leave-one-out, without --split-by-time."
            )
        if not counts.short:
            return ()
        return (
            f"{counts.short:,} of {counts.users:,} users have fewer than two items before valid begins and are left out.",
        )

    @staticmethod
    def _count_before(log: OrderedLog, border: Any) -> np.ndarray:
        """Return the number of items of each user before a border, int [users]."""
        before = np.concatenate([[0], np.cumsum((log.orders < border).to_numpy())])
        return before[log.offsets[1:]] - before[log.offsets[:-1]]
