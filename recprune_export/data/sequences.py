"""Sequences of items by user, split by leave-one-out (the last item for testing, the one before for validation) or by time."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np

from recprune_export.codec import DictMixin, JsonForm, json_name
from recprune_export.column_names import check_columns_exist
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.canonical_text import canonical_text, is_among
from recprune_export.data.encoding.encoder import Request
from recprune_export.data.encoding.input_encoding import HISTORY, PublishedEncoding
from recprune_export.data.encoding.unknown_values import count_unknown_in_query, count_unknown_texts, judge_unknown
from recprune_export.data.encoding.vocabulary import Vocabulary, mark_missing_texts
from recprune_export.data.histories.history_ends import EndRule, LeaveOneOut, SplitInTime
from recprune_export.data.histories.history_file import StreamedHistories, StreamedNextItems
from recprune_export.data.histories.history_source import HistorySource
from recprune_export.data.histories.next_items import NEXT_ITEM as NEXT_ITEM
from recprune_export.data.histories.next_items import NextItemLists
from recprune_export.data.histories.stream_log import LogItems, stream_log
from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Ragged, Rows
from recprune_export.data.schema.column_summary import ColumnSummary
from recprune_export.data.schema.schema import Schema, SequenceColumns
from recprune_export.data.splits.ordered_log import OrderedLog, check_log_types, order_log, order_users, read_log
from recprune_export.data.splits.row_split import SplitMixin
from recprune_export.data.splits.split_column import find_split_columns
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.large_tables import is_large_log
from recprune_export.data.tabular_files import collect, count_frame_rows, scan
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class SequenceEncoder(PublishedEncoding, DictMixin):
    """Encoder of item values as ids 1..n; 0 pads on the left. Unknown items are removed from histories.

    `summaries` and `notes` describe how the columns of the training file were read.
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
        """The column of the scores for the first of `items`; the column before is that of the padding."""
        return self.items.first

    @property
    def unknown_ids(self) -> dict[str, int]:
        """The id for an unknown item, by input: that of the padding, since such items are removed."""
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
        return {HISTORY: lists.drop_zeros().pad_left(self.columns.max_length)}

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
        """Return the histories of a log that is already in order, like `histories`."""
        import polars as pl

        items = log.items.to_frame("item").select(self.items.lookup("item").cast(pl.Int32)).to_series()
        histories = Ragged(items.to_numpy(), log.offsets)
        return histories.drop_zeros() if drop_unknown else histories

    def judge_items(self, items: "pl.Series", source: str, allow: bool) -> tuple[str, ...]:
        """Return a note if many of `items`, canonical texts, are unknown.

        Raises `DataError` if nearly all are, unless `allow`.
        """
        counts = count_unknown_texts(self.columns.item, items.drop_nulls(), self.items)
        return judge_unknown([counts], {self.columns.item: self.items}, source, allow)


@dataclass(frozen=True)
class SequenceData(SplitMixin):
    """`train` holds the training part of each user's history; the targets of `valid` and `test` are items after it.

    `split_description` describes how the histories are split, `notes` which rows of the log are left out or doubtful.
    """

    encoder: SequenceEncoder
    train: HistorySource
    valid: RowSource
    test: RowSource
    split_description: str = ""
    notes: tuple[str, ...] = ()


def load_sequences(
    path: DataFile,
    schema: Schema,
    encoder: SequenceEncoder | None = None,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
) -> SequenceData:
    """Read a log and split it by leave-one-out, or in time if the schema splits by the order.

    Leave-one-out excludes users with fewer than three items. In time, the targets are the first item of each user from
    the border on, and users with fewer than two items before are excluded. The vocabulary is that of the training
    histories: an item that occurs only in validation or test cannot be predicted and counts as a miss (target 0).

    Raises `DataError` if a column is missing, the file cannot be read, the order cannot be parsed, no user is long enough,
    or nearly all items are unknown to a given `encoder`.
    """
    import polars as pl

    columns = schema.sequence
    assert columns is not None
    frame = scan(path, CsvOptions(reading.separator, reading.encoding), text=(columns.item,), missing=schema.missing)
    names = frame.collect_schema().names()
    roles = (columns.user, columns.item, columns.order)
    check_columns_exist(path, roles, names, "required by the log of the model")
    unused = find_split_columns(names, roles)
    is_text = isinstance(frame.collect_schema()[columns.item], pl.String | pl.Categorical | pl.Enum)
    frame = select_canonical(frame, columns)
    if is_text:
        frame = _drop_missing_items(path, frame, columns.item, schema.missing)
    count = count_frame_rows(frame, path)
    if reading.stream if reading.stream is not None else is_large_log(count):
        # needs packages that a serving program does not have
        from recprune_export.data.streaming.write_once import write_once

        data = write_once(partial(_stream_sequences, path, frame, count, schema, encoder, reading), reading.readers)
    else:
        data = _read_sequences(path, collect(frame, path), schema, encoder, reading)
    notes = (f"'{name}' is not used: a log is split by the order of its rows." for name in unused)
    return replace(data, notes=(*data.notes, *notes))


def _read_sequences(
    path: DataFile, table: "pl.DataFrame", schema: Schema, encoder: SequenceEncoder | None, reading: DataSettings
) -> SequenceData:
    """Read a log that is in memory."""
    import polars as pl

    columns = schema.sequence
    assert columns is not None
    check_log_types(path, table.schema, columns)
    rows, counts = read_log(path, table, columns)
    log = order_users(rows)
    rule: EndRule = (
        SplitInTime.from_rows(path, rows, columns.order, schema.split) if schema.split.time else LeaveOneOut()
    )
    ends = rule.find_ends(log)
    notes = (*(counts + log.counts).notes(path, columns), *rule.judge(path, ends.counts))
    log = log.take_users(ends.users)
    if encoder is None:
        training = Ragged(np.arange(len(log.items)), log.offsets).drop_last(log.lengths - ends.valid)
        items = log.items.gather(training.values).to_frame("item").lazy()
        encoder = SequenceEncoder(schema, Vocabulary.count(items, pl.col("item"), 1, schema.missing))
    else:
        notes += encoder.judge_items(table[columns.item], str(path), reading.allow_unknown)
    histories = encoder.encode_ordered(log, drop_unknown=False)
    return SequenceData(
        encoder,
        histories.drop_last(log.lengths - ends.valid).drop_zeros(),
        _hold_out_item(histories, ends.valid, ends.test, columns.max_length),
        _hold_out_item(histories, ends.test, log.lengths, columns.max_length),
        split_description=rule.description,
        notes=notes,
    )


def _stream_sequences(
    path: DataFile,
    frame: "pl.LazyFrame",
    count: int,
    schema: Schema,
    encoder: SequenceEncoder | None,
    reading: DataSettings,
) -> SequenceData:
    """Read a log as `_read_sequences` does, into files of histories."""
    import polars as pl

    columns = schema.sequence
    assert columns is not None
    found: list[SequenceEncoder] = [] if encoder is None else [encoder]

    def number_items(items: LogItems) -> np.ndarray:
        if not found:
            counted = pl.LazyFrame({"value": items.values, "len": items.counts}).filter(pl.col("len") > 0)
            found.append(SequenceEncoder(schema, Vocabulary.from_counts(counted, 1, schema.missing)))
        return items.values.to_frame("item").select(found[0].items.lookup("item")).to_series().to_numpy()

    log = stream_log(path, frame, count, schema, number_items, reading.readers)
    notes = log.notes
    if encoder is not None:
        items = frame.select(pl.col(columns.item).drop_nulls())
        counts = count_unknown_in_query(items, columns.item, encoder.items)
        notes += judge_unknown([counts], {columns.item: encoder.items}, str(path), reading.allow_unknown)
    held_out = {name: StreamedNextItems(log.sides[name], columns.max_length) for name in ("valid", "test")}
    return SequenceData(
        found[0],
        StreamedHistories(log.sides["train"]),
        held_out["valid"],
        held_out["test"],
        split_description=log.description,
        notes=notes,
    )


def _drop_missing_items(path: DataFile, log: "pl.LazyFrame", item: str, missing: Collection[str]) -> "pl.LazyFrame":
    """Set strings for a missing item to null, so that their rows are left out: they are no items to predict."""
    import polars as pl

    different = collect(log.select(pl.col(item).unique()), path)
    words = different.filter(mark_missing_texts(pl.col(item), missing))[item].drop_nulls().to_list()
    return log.with_columns(pl.when(~is_among(pl.col(item), words)).then(pl.col(item)).alias(item)) if words else log


def select_canonical(log: "pl.LazyFrame", columns: SequenceColumns) -> "pl.LazyFrame":
    """Return user, item and order, with items, and users that are text, in their canonical text."""
    import polars as pl

    types = log.collect_schema()
    is_text = isinstance(types[columns.user], pl.String | pl.Categorical | pl.Enum)
    spelled = [columns.item, *([columns.user] if is_text else [])]
    return log.select(
        (canonical_text(pl.col(name), types[name]).alias(name) if name in spelled else pl.col(name))
        for name in dict.fromkeys((columns.user, columns.item, columns.order))
    )


def _hold_out_item(histories: Ragged, ends: np.ndarray, until: np.ndarray, length: int) -> Rows:
    """Return rows of the users whose side reaches from `ends` to `until` [users]; the target is its first item."""
    chosen = np.flatnonzero(ends < until)
    history = histories.drop_last(histories.lengths - ends).take(chosen)
    target = histories.values[histories.offsets[:-1][chosen] + ends[chosen]]
    return NextItemLists(history, target).pad(length)
