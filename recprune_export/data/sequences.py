"""Sequences of items by user, split by leave-one-out, the last item for testing and the one before for validation, or in time."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np

from recprune_export.codec import DictMixin, JsonForm, json_name
from recprune_export.column_names import check_columns_exist
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.canonical_text import canonical_text
from recprune_export.data.encoding.encoder import Request
from recprune_export.data.encoding.input_encoding import HISTORY, PublishedEncoding
from recprune_export.data.encoding.unknown_values import count_unknown_texts, judge_unknown
from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Ragged, Rows
from recprune_export.data.schema.column_summary import ColumnSummary
from recprune_export.data.schema.schema import Schema, SequenceColumns
from recprune_export.data.splits.ordered_log import OrderedLog, order_log
from recprune_export.data.splits.row_split import SplitMixin, split_by_time
from recprune_export.data.splits.split_column import find_split_columns
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl

NEXT_ITEM = "next_item"
_MIN_ITEMS = 3  # of a user, for leave-one-out: one to train on, one for validation, one for testing


@dataclass(frozen=True)
class SequenceEncoder(PublishedEncoding, DictMixin):
    """Encoder of item values as ids 1..n; 0 pads on the left. Unknown items are removed from histories.

    `summaries` and `notes` say how the columns of the training file were read.
    """

    ENCODED = (
        "specification", "inputs", "first_score_item", "schema", "items", "summaries", "notes", "canonical_text_rule"
    )  # fmt: skip

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
    def first_score_item(self) -> int:
        """The column of the scores that belongs to the first of `items`; the one before is that of the padding."""
        return self.items.first

    @property
    def unknown_ids(self) -> dict[str, int]:
        """The id in place of an unknown item, by input: that of the padding, since such items are removed."""
        return {HISTORY: 0}

    def encode(self, log: "pl.LazyFrame | pl.DataFrame") -> Request:
        """Return the request of each user in `log`, in the order of the users' values: `history`, int64 [users, length].

        Raises `DataError` as `histories` does.
        """
        return {HISTORY: self.histories(log, drop_unknown=True).pad_left(self.columns.max_length)}

    def encode_histories(self, histories: "pl.Series") -> Request:
        """Return the request of lists of item values, the oldest first: `history`, int64 [lists, length]."""
        import polars as pl

        lengths = histories.list.len().fill_null(0).to_numpy().astype(np.int64)
        values = histories.filter(lengths > 0).explode().to_frame("item")
        texts = values.select(canonical_text(pl.col("item"), values.schema["item"]).alias("item"))
        ids = texts.select(self.items.lookup("item")).to_series()
        lists = Ragged(ids.to_numpy(), np.concatenate([[0], np.cumsum(lengths)]))
        return {HISTORY: _drop_unknown(lists).pad_left(self.columns.max_length)}

    def histories(self, log: "pl.LazyFrame | pl.DataFrame", drop_unknown: bool) -> Ragged:
        """Return the item ids of each user in order; unknown ones are removed or, without `drop_unknown`, are 0.

        Items of equal order stay in the order of the rows. Rows without user, item or order are left out.

        Raises `DataError` if the column of the order holds text that is neither numbers nor times.
        """
        columns = self.columns
        selected = select_canonical(log.lazy(), columns)
        ordered = order_log("the log", selected.collect(engine="streaming"), columns)
        return self.encode_ordered(ordered, drop_unknown=drop_unknown)

    def encode_ordered(self, log: OrderedLog, drop_unknown: bool) -> Ragged:
        """Return the histories of a log that is in order already, as `histories` does."""

        items = log.items.to_frame("item").select(self.items.lookup("item")).to_series()
        histories = Ragged(items.to_numpy(), log.offsets)
        return _drop_unknown(histories) if drop_unknown else histories

    def judge_items(self, items: "pl.Series", source: str, allow: bool) -> tuple[str, ...]:
        """Return a note if many of `items`, canonical texts, are unknown.

        Raises `DataError` if nearly all are, unless `allow`.
        """
        counts = count_unknown_texts(self.columns.item, items.drop_nulls(), self.items)
        return judge_unknown([counts], {self.columns.item: self.items}, source, allow)


@dataclass(frozen=True)
class SequenceData(SplitMixin):
    """`train` holds the training part of each user's history; the targets of `valid` and `test` are items after it.

    `split_description` says in words how the histories are split, `notes` which rows of the log are left out or doubtful.
    """

    encoder: SequenceEncoder
    train: Ragged
    valid: RowSource
    test: RowSource
    split_description: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _HistoryEnds:
    """How many items of each user come before validation and before testing, int [users] each."""

    valid: np.ndarray
    test: np.ndarray
    description: str
    notes: tuple[str, ...] = ()


def load_sequences(
    path: DataFile,
    schema: Schema,
    encoder: SequenceEncoder | None = None,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
) -> SequenceData:
    """Read a log and split it by leave-one-out, or in time where the schema names the order for its split.

    Leave-one-out excludes users with fewer than three items. In time, the targets are the first item of each user from
    the border on, and users with fewer than two items before are excluded. The vocabulary is that of the training
    histories: an item that occurs only in validation or test cannot be predicted and counts as a miss (target 0).

    Raises `DataError` if a column is missing, the file cannot be read, the order cannot be parsed, no user is long enough,
    or nearly all items are unknown to a given `encoder`.
    """
    columns = schema.sequence
    assert columns is not None
    frame = scan(path, CsvOptions(reading.separator, reading.encoding), text=(columns.item,), missing=schema.missing)
    names = frame.collect_schema().names()
    roles = (columns.user, columns.item, columns.order)
    check_columns_exist(path, roles, names, "required by the log of the model")
    unused = find_split_columns(names, roles)
    table = collect(select_canonical(frame, columns), path)
    log = order_log(path, table, columns)
    log, ends = _end_in_time(path, log, schema) if schema.split.time else _end_last_items(path, log)
    training = Ragged(np.arange(len(log.items)), log.offsets).drop_last(log.lengths - ends.valid)
    unknown: tuple[str, ...] = ()
    if encoder is None:
        encoder = SequenceEncoder(schema, _count_items(log, training.values, schema.missing))
    else:
        unknown = encoder.judge_items(table[columns.item], str(path), reading.allow_unknown)
    histories = encoder.encode_ordered(log, drop_unknown=False)
    return SequenceData(
        encoder,
        _drop_unknown(histories.drop_last(log.lengths - ends.valid)),
        _hold_out_item(histories, ends.valid, ends.test, columns.max_length),
        _hold_out_item(histories, ends.test, log.lengths, columns.max_length),
        split_description=ends.description,
        notes=(
            *log.notes,
            *ends.notes,
            *unknown,
            *(f"'{name}' is not used: a log is split by the order of its rows." for name in unused),
        ),
    )


def select_canonical(log: "pl.LazyFrame", columns: SequenceColumns) -> "pl.LazyFrame":
    """Return user, item and order, with items, and users that are text, in their canonical text."""
    import polars as pl

    types = log.collect_schema()
    spelled = [columns.item, *([columns.user] if isinstance(types[columns.user], pl.String) else [])]
    return log.select(
        (canonical_text(pl.col(name), types[name]).alias(name) if name in spelled else pl.col(name))
        for name in dict.fromkeys((columns.user, columns.item, columns.order))
    )


def _count_items(log: OrderedLog, rows: np.ndarray, missing: tuple[str, ...]) -> Vocabulary:
    import polars as pl

    return Vocabulary.count(log.items.gather(rows).to_frame("item").lazy(), pl.col("item"), 1, missing)


def _end_last_items(path: DataFile, log: OrderedLog) -> tuple[OrderedLog, _HistoryEnds]:
    """Return the users with enough items; the last item of each is for testing, the one before for validation."""
    long = log.lengths >= _MIN_ITEMS
    if not long.any():
        raise DataError(f"No user of {path} has {_MIN_ITEMS} items or more, so no items can be held out for testing.")
    notes = []
    if not long.all():
        short = np.count_nonzero(~long)
        notes.append(f"{short:,} of {len(long):,} users have fewer than {_MIN_ITEMS} items and are left out.")
    log = log.take_users(np.flatnonzero(long))
    ties, last = log.ties, log.offsets[1:]
    tied = np.count_nonzero(ties[last - 1] | ties[last - 2])
    if tied:
        notes.append(
            f"The order in the file determines the held-out items of {tied:,} of {len(last):,} users, since their last items "
            "have the same time."
        )
    description = "by leave-one-out: the last item of each user for test, the one before for valid"
    return log, _HistoryEnds(log.lengths - 2, log.lengths - 1, description, tuple(notes))


def _end_in_time(path: DataFile, log: OrderedLog, schema: Schema) -> tuple[OrderedLog, _HistoryEnds]:
    """Return the users with two items or more before the border of validation."""
    split = split_by_time(path, log.times, schema.split)
    users = np.repeat(np.arange(len(log.lengths)), log.lengths)
    before_valid, before_test = (np.bincount(users[split.codes < code], minlength=len(log.lengths)) for code in (1, 2))
    known = before_valid >= 2  # one item to read, and the next one to predict
    if not (known & (before_test > before_valid)).any() or not (known & (log.lengths > before_test)).any():
        raise DataError(
            f"No user of {path} has two items before the border of validation and another one after each border "
            f"({split.description}): use the leave-one-out split, without --split-by-time."
        )
    notes: tuple[str, ...] = ()
    if not known.all():
        short = np.count_nonzero(~known)
        notes = (f"{short:,} of {len(known):,} users have fewer than two items before valid begins and are left out.",)
    chosen = np.flatnonzero(known)
    description = f"{split.description}; the target is the first item of each user there"
    return log.take_users(chosen), _HistoryEnds(before_valid[chosen], before_test[chosen], description, notes)


def _hold_out_item(histories: Ragged, ends: np.ndarray, until: np.ndarray, length: int) -> Rows:
    """Return rows of the users whose side reaches from `ends` to `until` [users]; the target is its first item."""
    chosen = np.flatnonzero(ends < until)
    history = _drop_unknown(histories.drop_last(histories.lengths - ends).take(chosen))
    target = histories.values[histories.offsets[:-1][chosen] + ends[chosen]]
    return Rows({HISTORY: history.pad_left(length)}, {NEXT_ITEM: target}, excluded_items=history)


def _drop_unknown(lists: Ragged) -> Ragged:
    known = lists.values > 0
    before = np.concatenate([[0], np.cumsum(known)])
    return Ragged(lists.values[known], before[lists.offsets])
