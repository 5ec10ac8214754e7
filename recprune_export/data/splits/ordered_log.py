"""`OrderedLog`: the rows of a log by user and in their order, the same on every machine: equal times stay in the order of the file."""

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


@dataclass(frozen=True)
class OrderedLog:
    """Items [N] and times [N] as in the file; user i, of value `users[i]`, has the rows `offsets[i]` to `offsets[i + 1]`.

    `ties`, bool [N], are rows with the same time as the one before of their user. `notes` describe rows that are left out or
    doubtful.
    """

    items: "pl.Series"
    times: "pl.Series"
    ties: np.ndarray
    offsets: np.ndarray
    users: "pl.Series"
    notes: tuple[str, ...] = ()

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
            times=self.times.gather(rows.values),
            ties=self.ties[rows.values],
            offsets=rows.offsets,
            users=self.users.gather(indices),
        )


def order_log(path: object, table: "pl.DataFrame", columns: SequenceColumns) -> OrderedLog:
    """Order the rows of a table, in the order of the file, by user and time. Rows without user, item or order are left out.

    Raises `DataError` if a column has a type that cannot be its role, or the order is text that is neither numbers nor
    times.
    """
    import polars as pl

    for name in (columns.user, columns.item):
        if table.schema[name].is_nested() or table.schema[name] == pl.Binary:
            raise DataError(
                f"The column '{name}' of {path} contains {table.schema[name]}; a log must have one value per row."
            )
    log = pl.DataFrame(
        {
            "user": _blank_to_null(table[columns.user]),
            "item": _blank_to_null(table[columns.item]),
            "order": parse_order(path, table[columns.order]),
            "time": table[columns.order],
        }
    )
    complete = log.drop_nulls()
    # A row number makes the order a total one, so no engine and no number of threads can give another.
    ordered = complete.with_row_index("row").sort("user", "order", "row")
    same_user, same_order = (_equals_previous(ordered[name]) for name in ("user", "order"))
    offsets = np.append(np.flatnonzero(~same_user), len(ordered))
    times, users = ordered["time"].alias(columns.order), ordered["user"].gather(offsets[:-1])
    result = OrderedLog(ordered["item"], times, same_user & same_order, offsets, users)
    notes = (
        *_note_missing(path, log, complete, columns),
        *_note_ties(path, result, columns),
        *_note_duplicates(path, complete, columns),
    )
    return replace(result, notes=notes)


def _equals_previous(column: "pl.Series") -> np.ndarray:
    return (column == column.shift(1)).fill_null(value=False).to_numpy()


def _blank_to_null(column: "pl.Series") -> "pl.Series":
    import polars as pl

    if column.dtype.is_float():
        return column.fill_nan(None)
    if column.dtype == pl.String:
        return column.set(column.str.strip_chars(WHITE_SPACE) == "", None)
    return column


def _note_missing(
    path: object, log: "pl.DataFrame", complete: "pl.DataFrame", columns: SequenceColumns
) -> tuple[str, ...]:
    dropped = len(log) - len(complete)
    if not dropped:
        return ()
    names = {"user": columns.user, "item": columns.item, "order": columns.order}
    counts = ", ".join(
        f"'{name}' in {log[role].null_count():,}" for role, name in names.items() if log[role].null_count()
    )
    return (f"{dropped:,} of {len(log):,} rows of {path} are left out, since a value is missing: {counts}.",)


def _note_ties(path: object, log: OrderedLog, columns: SequenceColumns) -> tuple[str, ...]:
    ties = log.ties
    rows = int(np.count_nonzero(ties | np.append(ties[1:], values=False)))
    if not rows:
        return ()
    return (
        f"{rows:,} of {len(ties):,} rows of {path} have the same '{columns.order}' as another row of their "
        f"'{columns.user}'; these keep the order of the file.",
    )


def _note_duplicates(path: object, complete: "pl.DataFrame", columns: SequenceColumns) -> tuple[str, ...]:
    repeated = len(complete) - complete.n_unique(["user", "item", "order"])
    if not repeated:
        return ()
    names = ", ".join(f"'{name}'" for name in (columns.user, columns.item, columns.order))
    return (f"{repeated:,} rows of {path} repeat an earlier row in {names}; all of them are used.",)
