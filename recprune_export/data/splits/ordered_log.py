"""`OrderedLog`: the rows of a log by user and in their order, the same on every machine: equal times stay in the order of the file.

A log is read in two steps, each of which may be done in parts: `read_log` takes rows of the file, `order_users` all rows of
some users. The counts for notes about the rows are sums over the parts (`LogCounts`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.encoding.canonical_text import WHITE_SPACE
from recprune_export.data.rows import Ragged
from recprune_export.data.schema.schema import SequenceColumns
from recprune_export.data.splits.order import parse_order
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

USER, ITEM, ORDER, TIME = "user", "item", "order", "time"  # the columns of a log after reading


@dataclass(frozen=True)
class LogCounts:
    """The numbers of rows: read, left out, with the time of another row of their user, and repeating an earlier row.

    `missing` are the rows without a user, an item or an order.
    """

    rows: int = 0
    left_out: int = 0
    missing: tuple[int, int, int] = (0, 0, 0)
    tied: int = 0
    repeated: int = 0

    def __add__(self, other: "LogCounts") -> "LogCounts":
        user, item, order = (one + two for one, two in zip(self.missing, other.missing, strict=True))
        return LogCounts(
            self.rows + other.rows,
            self.left_out + other.left_out,
            (user, item, order),
            self.tied + other.tied,
            self.repeated + other.repeated,
        )

    def notes(self, path: object, columns: SequenceColumns) -> tuple[str, ...]:
        """Return a sentence for each of the counts that is not 0."""
        names, notes = (columns.user, columns.item, columns.order), []
        if self.left_out:
            counts = ", ".join(
                f"'{name}' in {count:,}" for name, count in zip(names, self.missing, strict=True) if count
            )
            notes.append(
                f"{self.left_out:,} of {self.rows:,} rows of {path} are left out, since a value is missing: {counts}."
            )
        if self.tied:
            notes.append(
                f"{self.tied:,} of {self.rows - self.left_out:,} rows of {path} have the same '{columns.order}' as another row of "
                f"their '{columns.user}'; these keep the order of the file."
            )
        if self.repeated:
            quoted = ", ".join(f"'{name}'" for name in names)
            notes.append(f"{self.repeated:,} rows of {path} repeat an earlier row in {quoted}; all of them are used.")
        return tuple(notes)


@dataclass(frozen=True)
class OrderedLog:
    """Items [N] and the values that order them [N]; user i, with the value `users[i]`, has the rows `offsets[i]` to `offsets[i + 1]`.

    `ties`, bool [N], are rows with the same order as the previous row of their user.
    """

    items: "pl.Series"
    orders: "pl.Series"
    ties: np.ndarray
    offsets: np.ndarray
    users: "pl.Series"
    counts: LogCounts = LogCounts()

    @property
    def lengths(self) -> np.ndarray:
        """The number of rows of each user."""
        return np.diff(self.offsets)

    def take_users(self, indices: np.ndarray) -> "OrderedLog":
        """Return the rows of the users at `indices`."""
        rows = Ragged(np.arange(len(self.items)), self.offsets).take(indices)
        return replace(
            self,
            items=self.items.gather(rows.values),
            orders=self.orders.gather(rows.values),
            ties=self.ties[rows.values],
            offsets=rows.offsets,
            users=self.users.gather(indices),
        )


def order_log(path: object, table: "pl.DataFrame", columns: SequenceColumns) -> OrderedLog:
    """Order the rows of a table, in the order of the file, by user and time. Rows without user, item or order are left out.

    Raises `DataError` as `read_log` does.
    """
    check_log_types(path, table.schema, columns)
    complete, counts = read_log(path, table, columns)
    log = order_users(complete)
    return replace(log, counts=counts + log.counts)


def check_log_types(path: object, types: "pl.Schema", columns: SequenceColumns) -> None:
    """Raise `DataError` if a column has a type that cannot be that of a user or an item."""
    import polars as pl

    for name in (columns.user, columns.item):
        if types[name].is_nested() or types[name] == pl.Binary:
            raise DataError(f"The column '{name}' of {path} contains {types[name]}; a log must have one value per row.")


def read_log(
    path: object,
    table: "pl.DataFrame",
    columns: SequenceColumns,
    parse: "Callable[[object, pl.Series], pl.Series]" = parse_order,
) -> "tuple[pl.DataFrame, LogCounts]":
    """Return the rows that have a user, an item and an order, with the result of `parse` as `ORDER`, and the counts.

    `TIME` contains the order as stored in the table. Raises `DataError` if the order is text that is neither numbers nor times.
    """
    import polars as pl

    log = pl.DataFrame(
        {
            USER: _blank_to_null(table[columns.user]),
            ITEM: _blank_to_null(table[columns.item]),
            ORDER: parse(path, table[columns.order]),
            TIME: table[columns.order],
        }
    )
    complete = log.drop_nulls([USER, ITEM, ORDER])
    missing = (log[USER].null_count(), log[ITEM].null_count(), log[ORDER].null_count())
    return complete, LogCounts(len(log), len(log) - len(complete), missing)


def order_users(rows: "pl.DataFrame") -> OrderedLog:
    """Order all rows of some users, which are in the order of the file, by user and order."""
    # A row number makes the order total, so it does not depend on the engine or the number of threads.
    ordered = rows.with_row_index("row").sort(USER, ORDER, "row")
    same_user, same_order = (_equals_previous(ordered[name]) for name in (USER, ORDER))
    offsets = np.append(np.flatnonzero(~same_user), len(ordered))
    ties = same_user & same_order
    counts = LogCounts(
        tied=int(np.count_nonzero(ties | np.append(ties[1:], values=False))) if len(ties) else 0,
        repeated=len(rows) - rows.n_unique([USER, ITEM, ORDER]),
    )
    return OrderedLog(ordered[ITEM], ordered[ORDER], ties, offsets, ordered[USER].gather(offsets[:-1]), counts)


def _equals_previous(column: "pl.Series") -> np.ndarray:
    return (column == column.shift(1)).fill_null(value=False).to_numpy()


def _blank_to_null(column: "pl.Series") -> "pl.Series":
    import polars as pl

    if column.dtype.is_float():
        return column.fill_nan(None)
    if column.dtype == pl.String:
        return column.set(column.str.strip_chars(WHITE_SPACE) == "", None)
    return column
