"""Sequences of items by user, split by leave-one-out: the last item for testing, the one before for validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from recprune_export.codec import DictMixin, JsonForm
from recprune_export.data.encoding.encoder import Request
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.rows import Ragged, Rows
from recprune_export.data.schema.schema import Schema, SequenceColumns
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

HISTORY = "history"
NEXT_ITEM = "next_item"


@dataclass(frozen=True)
class SequenceEncoder(DictMixin):
    """Encoder of item values as ids 1..n; 0 pads on the left. Unknown items are removed from histories."""

    schema: Schema
    items: Annotated[Vocabulary, JsonForm(Vocabulary.to_list, lambda values: Vocabulary(values, 1))]

    @property
    def columns(self) -> SequenceColumns:
        """The columns of the log."""
        assert self.schema.sequence is not None
        return self.schema.sequence

    @property
    def unknown_ids(self) -> dict[str, int]:
        """The id in the place of an unknown item, by input: that of the padding, since such items are removed."""
        return {HISTORY: 0}

    def encode(self, log: "pl.LazyFrame | pl.DataFrame") -> Request:
        """Return the request of each user in `log`, in the order of the users' values: `history`, int64 [users, length]."""
        return {HISTORY: self.histories(log, drop_unknown=True).pad_left(self.columns.max_length)}

    def histories(self, log: "pl.LazyFrame | pl.DataFrame", drop_unknown: bool) -> Ragged:
        """Return the item ids of each user in order; unknown ones are removed or, without `drop_unknown`, are 0."""
        import polars as pl

        columns = self.columns
        item = self.items.encode(pl.col(columns.item).cast(pl.String)).alias("item")
        ordered = (
            log.lazy().select(columns.user, columns.order, item).sort(columns.user, columns.order, maintain_order=True)
        )
        table = (ordered.filter(pl.col("item") > 0) if drop_unknown else ordered).collect(engine="streaming")
        users = table[columns.user]
        starts = (
            np.flatnonzero((users != users.shift(1)).fill_null(True).to_numpy()) if len(users) else np.zeros(0, int)
        )
        return Ragged(table["item"].to_numpy(), np.append(starts, len(users)))


@dataclass(frozen=True)
class SequenceData:
    """`train` holds the history of each user without the last two items, which are the targets of `valid` and `test`."""

    encoder: SequenceEncoder
    train: Ragged
    valid: Rows
    test: Rows


def load_sequences(path: Path, schema: Schema, encoder: SequenceEncoder | None = None) -> SequenceData:
    """Read a log and split it by leave-one-out.

    Users with fewer than three items are excluded. The vocabulary is that of the training split: an item that occurs only
    in validation or test cannot be predicted and counts as a miss (target 0).

    Raises `DataError` if a column is missing, the file cannot be read, or no user is long enough.
    """
    import polars as pl

    min_items = 3  # of a user: one to train on, one for validation, one for testing
    columns = schema.sequence
    assert columns is not None
    log = scan(path)
    missing = [name for name in (columns.user, columns.item, columns.order) if name not in log.collect_schema().names()]
    if missing:
        raise DataError(f"{path} has no column '{missing[0]}', which the schema names for its sequences.")
    from_end = pl.col(columns.order).rank("ordinal", descending=True).over(columns.user).alias("__from_end")
    long_enough = log.drop_nulls([columns.user, columns.item]).filter(pl.len().over(columns.user) >= min_items)
    table = collect(long_enough.with_columns(from_end), path)
    if not len(table):
        raise DataError(f"No user of {path} has {min_items} items or more, so nothing can be left out to test on.")
    if encoder is None:
        # the table is in memory, so no read can fail from here on
        training_rows = table.lazy().filter(pl.col("__from_end") > 2)
        encoder = SequenceEncoder(schema, Vocabulary.count(training_rows, pl.col(columns.item).cast(pl.String), 1))
    histories = encoder.histories(table, drop_unknown=False)
    return SequenceData(
        encoder,
        _drop_unknown(histories.drop_last(2)),
        *(_hold_out_item(histories, n, columns.max_length) for n in (1, 0)),
    )


def _hold_out_item(histories: Ragged, behind: int, length: int) -> Rows:
    """Return rows whose target is the item with `behind` items after it."""
    history = _drop_unknown(histories.drop_last(behind + 1))
    target = histories.values[histories.offsets[1:] - 1 - behind]
    return Rows({HISTORY: history.pad_left(length)}, {NEXT_ITEM: target}, excluded_items=history)


def _drop_unknown(lists: Ragged) -> Ragged:
    known = lists.values > 0
    before = np.concatenate([[0], np.cumsum(known)])
    return Ragged(lists.values[known], before[lists.offsets])
