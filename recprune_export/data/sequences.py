"""Sequences of items by user, split by leave-one-out: the last item for testing, the one before for validation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from recprune_export.codec import DictMixin, JsonForm, json_name
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.canonical_text import CANONICAL_TEXT_RULE, canonical_text
from recprune_export.data.encoding.encoder import Request
from recprune_export.data.encoding.unknown_values import count_unknown_texts, judge_unknown
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.rows import Ragged, Rows
from recprune_export.data.schema.column_summary import ColumnSummary
from recprune_export.data.schema.schema import Schema, SequenceColumns
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl

HISTORY = "history"
NEXT_ITEM = "next_item"


@dataclass(frozen=True)
class SequenceEncoder(DictMixin):
    """Encoder of item values as ids 1..n; 0 pads on the left. Unknown items are removed from histories.

    `summaries` and `notes` say how the columns of the training file were read.
    """

    ENCODED = ("schema", "items", "summaries", "notes", "canonical_text_rule")

    schema: Schema
    items: Annotated[Vocabulary, JsonForm(Vocabulary.to_list, lambda values: Vocabulary(values, 1))]
    summaries: tuple[ColumnSummary, ...] = field(default=(), metadata=json_name("columns"))
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> SequenceColumns:
        """The columns of the log."""
        assert self.schema.sequence is not None
        return self.schema.sequence

    @property
    def canonical_text_rule(self) -> str:
        """The rule by which the vocabulary spells items, for clients that encode without this package."""
        return CANONICAL_TEXT_RULE

    def encode(self, log: "pl.LazyFrame | pl.DataFrame") -> Request:
        """Return the request of each user in `log`, in the order of the users' values: `history`, int64 [users, length]."""
        return {HISTORY: self.histories(log, drop_unknown=True).pad_left(self.columns.max_length)}

    def histories(self, log: "pl.LazyFrame | pl.DataFrame", drop_unknown: bool) -> Ragged:
        """Return the item ids of each user in order; unknown ones are removed or, without `drop_unknown`, are 0."""
        import polars as pl

        columns, types = self.columns, log.lazy().collect_schema()
        item = self.items.encode(canonical_text(pl.col(columns.item), types[columns.item])).alias("item")
        user = pl.col(columns.user)
        if isinstance(types[columns.user], pl.String):
            user = canonical_text(user, types[columns.user]).alias(columns.user)
        ordered = log.lazy().select(user, columns.order, item).sort(columns.user, columns.order, maintain_order=True)
        table = (ordered.filter(pl.col("item") > 0) if drop_unknown else ordered).collect(engine="streaming")
        users = table[columns.user]
        starts = (
            np.flatnonzero((users != users.shift(1)).fill_null(True).to_numpy()) if len(users) else np.zeros(0, int)
        )
        return Ragged(table["item"].to_numpy(), np.append(starts, len(users)))

    def judge_items(self, log: "pl.DataFrame", source: str, allow: bool) -> tuple[str, ...]:
        """Return a note if many items of `log` are unknown. Raises `DataError` if nearly all are, unless `allow`."""
        import polars as pl

        name = self.columns.item
        texts = log.select(canonical_text(pl.col(name), log.schema[name]).alias(name))[name].drop_nulls()
        return judge_unknown([count_unknown_texts(name, texts, self.items)], {name: self.items}, source, allow)


@dataclass(frozen=True)
class SequenceData:
    """`train` holds the history of each user without the last two items, which are the targets of `valid` and `test`."""

    encoder: SequenceEncoder
    train: Ragged
    valid: Rows
    test: Rows
    notes: tuple[str, ...] = ()


def load_sequences(
    path: Path,
    schema: Schema,
    encoder: SequenceEncoder | None = None,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
) -> SequenceData:
    """Read a log and split it by leave-one-out.

    Users with fewer than three items are excluded. The vocabulary is that of the training split: an item that occurs only
    in validation or test cannot be predicted and counts as a miss (target 0).

    Raises `DataError` if a column is missing, the file cannot be read, no user is long enough, or nearly all items are
    unknown to a given `encoder`.
    """
    import polars as pl

    min_items = 3  # of a user: one to train on, one for validation, one for testing
    columns = schema.sequence
    assert columns is not None
    options = CsvOptions(reading.separator, reading.encoding)
    log = scan(path, options, text=(columns.item,), missing=schema.missing)
    missing = [name for name in (columns.user, columns.item, columns.order) if name not in log.collect_schema().names()]
    if missing:
        raise DataError(f"{path} has no column '{missing[0]}', which the schema names for its sequences.")
    from_end = pl.col(columns.order).rank("ordinal", descending=True).over(columns.user).alias("__from_end")
    long_enough = log.drop_nulls([columns.user, columns.item]).filter(pl.len().over(columns.user) >= min_items)
    table = collect(long_enough.with_columns(from_end), path)
    if not len(table):
        raise DataError(f"No user of {path} has {min_items} items or more, so nothing can be left out to test on.")
    notes: tuple[str, ...] = ()
    if encoder is not None:
        notes = encoder.judge_items(table, str(path), reading.allow_unknown)
    else:
        # the table is in memory, so no read can fail from here on
        item = canonical_text(pl.col(columns.item), table.schema[columns.item])
        training_rows = table.lazy().filter(pl.col("__from_end") > 2)
        encoder = SequenceEncoder(schema, Vocabulary.count(training_rows, item, 1, schema.missing))
    histories = encoder.histories(table, drop_unknown=False)
    valid, test = (_hold_out_item(histories, n, columns.max_length) for n in (1, 0))
    return SequenceData(encoder, _drop_unknown(histories.drop_last(2)), valid, test, notes)


def _hold_out_item(histories: Ragged, behind: int, length: int) -> Rows:
    """Return rows whose target is the item with `behind` items after it."""
    history = _drop_unknown(histories.drop_last(behind + 1))
    target = histories.values[histories.offsets[1:] - 1 - behind]
    return Rows({HISTORY: history.pad_left(length)}, {NEXT_ITEM: target}, excluded_items=history)


def _drop_unknown(lists: Ragged) -> Ragged:
    known = lists.values > 0
    before = np.concatenate([[0], np.cumsum(known)])
    return Ragged(lists.values[known], before[lists.offsets])
