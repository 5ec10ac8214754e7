"""`stream_log`: convert a log larger than memory to files of histories: rows are sorted by user on disk, and written user by user."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.encoding.vocabulary import Vocabulary
from recprune_export.data.histories.history_ends import EndRule, LeaveOneOut, SplitInTime, UserCounts
from recprune_export.data.histories.history_file import EVENT_DTYPE, PLACE_DTYPE, HistoryFile
from recprune_export.data.histories.sort_by_user import SortedRuns, sort_by_user
from recprune_export.data.records.record_file import RecordFile, RecordWriter
from recprune_export.data.schema.schema import Schema, SequenceColumns
from recprune_export.data.splits.order import parse_order
from recprune_export.data.splits.ordered_log import (
    ITEM,
    ORDER,
    TIME,
    USER,
    LogCounts,
    OrderedLog,
    check_log_types,
    order_users,
    read_log,
)
from recprune_export.data.splits.row_split import SPLIT_NAMES
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.distinct_values import find_distinct_orders
from recprune_export.data.streaming.row_sides import CHUNK_ROWS, read_chunks
from recprune_export.data.tabular_files import collect
from recprune_export.number_formats import format_bytes
from recprune_export.output_files import ScratchFolder, check_free_space
from recprune_export.progress import print_status, track

if TYPE_CHECKING:
    import polars as pl

_SORTED_BYTES = 28  # bytes of a row while a log is sorted: user, order, item, and the item's id
_PIECE_ITEMS = 1 << 20


@dataclass(frozen=True)
class LogItems:
    """The distinct items of a log, in their canonical text, and their numbers of occurrences in training parts, int64 [items]."""

    values: "pl.Series"
    counts: np.ndarray


@dataclass(frozen=True)
class StreamedLog:
    """The histories of each side in files, a description of the split, and notes on the rows and users."""

    sides: dict[str, HistoryFile]
    description: str
    notes: tuple[str, ...]


@dataclass
class _Totals:
    rows: LogCounts = field(default_factory=LogCounts)
    users: UserCounts = field(default_factory=UserCounts)


def stream_log(
    path: DataFile,
    frame: "pl.LazyFrame",
    count: int,
    schema: Schema,
    number_items: Callable[[LogItems], np.ndarray],
    readers: int,
) -> StreamedLog:
    """Write the histories of a log of `count` rows, with users and items in their canonical text, into unnamed files.

    `number_items` returns the id of each item, int [items], 0 for none.

    Time O(rows x log(rows)), in at most five passes over the files of the log; memory: that of the distinct items and of the rows of a
    run (`sort_by_user`), or of the rows of one user if these are more.

    Raises `DataError` as `load_sequences` does, `UsageError` if the disk of temporary files has too little space.
    """
    columns = schema.sequence
    assert columns is not None
    totals = _Totals()
    with _sorted_log(path, frame, count, columns, totals, keeps_time=bool(schema.split.time)) as (runs, items):
        rule: EndRule = (
            SplitInTime.from_stream(path, runs.rows, columns.order, schema.split)
            if schema.split.time
            else LeaveOneOut()
        )
        events, places, counts = _write_histories(runs, rule, len(items), totals)
    notes = (*totals.rows.notes(path, columns), *rule.judge(path, totals.users))
    numbered = _renumber(events, number_items(LogItems(items, counts[1:])))
    sides = {name: HistoryFile(numbered, file, readers) for name, file in zip(SPLIT_NAMES, places, strict=True)}
    return StreamedLog(sides, rule.description, notes)


def list_histories(
    path: DataFile, frame: "pl.LazyFrame", count: int, columns: SequenceColumns, name: str
) -> "tuple[pl.LazyFrame, ScratchFolder, LogCounts]":
    """Return the histories of a log of `count` rows: the column of the user, and `name` with the items of each, the oldest first.

    They are in files of the returned folder, as long as that object exists. Raises `DataError` and `UsageError` as `stream_log` does.
    """
    import polars as pl

    totals = _Totals()
    folder = ScratchFolder("recprune-histories-")
    files: list[Path] = []
    with _sorted_log(path, frame, count, columns, totals, keeps_time=False) as (runs, items):
        for log in _order_groups(runs, totals):
            files.append(Path(folder.path, f"{len(files):06}.arrow"))
            listed = list_items(replace(log, items=items.gather(log.items - 1)), columns.user, name)
            listed.write_ipc(files[-1], record_batch_size=1 << 14)
    return pl.scan_ipc(files), folder, totals.rows


def list_items(log: OrderedLog, user: str, name: str) -> "pl.DataFrame":
    """Return a row for each user of a log: `user`, and `name` with the list of the items."""
    import polars as pl

    row = np.repeat(np.arange(len(log.lengths)), log.lengths)
    items = pl.DataFrame({"row": row, name: log.items})
    lists = items.group_by("row", maintain_order=True).agg(name)[name]
    return pl.DataFrame([log.users.alias(user), lists])


@contextmanager
def _sorted_log(
    path: DataFile, frame: "pl.LazyFrame", count: int, columns: SequenceColumns, totals: _Totals, *, keeps_time: bool
) -> "Iterator[tuple[SortedRuns, pl.Series]]":
    """Yield the rows by user, with item numbers from 1 on as `ITEM`, and the items with these numbers."""
    import polars as pl

    check_log_types(path, frame.collect_schema(), columns)
    folder = Path(tempfile.gettempdir())
    check_free_space({folder / "rows": _SORTED_BYTES * count}, "the sorted log")
    print_status(
        f"{count:,} rows are sorted by user in temporary files in {folder}: about {_SORTED_BYTES} bytes each, "
        f"{format_bytes(_SORTED_BYTES * count)}, which go when this process ends."
    )
    parse = _make_parser(path, frame, columns.order)
    items = collect(frame.select(pl.col(columns.item).drop_nulls().unique()), path)[columns.item].cast(pl.String)
    numbers = Vocabulary(items, 1).lookup(columns.item).cast(pl.Int32)

    def read() -> "Iterator[pl.DataFrame]":
        for chunk in _read_chunks(path, frame, count):
            rows, counted = read_log(path, chunk, columns, parse)
            totals.rows += counted
            kept = rows.select(USER, ORDER, pl.col(ITEM).alias(columns.item), *([TIME] if keeps_time else []))
            yield kept.with_columns(numbers.alias(ITEM)).select(USER, ORDER, ITEM, *([TIME] if keeps_time else []))

    with sort_by_user(read()) as runs:
        yield runs, items


def _read_chunks(path: DataFile, frame: "pl.LazyFrame", count: int) -> "Iterator[pl.DataFrame]":
    if not count:
        yield collect(frame, path)
    chunks = (chunk for _, chunk in read_chunks(path, frame))
    yield from track(chunks, "Sorting rows", -(-count // CHUNK_ROWS))


def _make_parser(path: DataFile, frame: "pl.LazyFrame", name: str) -> "Callable[[object, pl.Series], pl.Series]":
    """Return a function that parses a part of a column as `parse_order` parses the whole. Raises `DataError` if that does."""
    import polars as pl

    kinds = find_distinct_orders(path, frame, name)
    if kinds is None:
        return parse_order
    first = kinds.table[name]
    parse_order(path, first, kinds.occurrences)
    if first.dtype.is_float():
        return parse_order

    def parse(path: object, column: "pl.Series") -> "pl.Series":
        # so that both are parsed like the whole column
        texts = pl.concat([first.cast(pl.String), column.cast(pl.String)])
        return parse_order(path, texts)[len(first) :]

    return parse


def _order_groups(runs: SortedRuns, totals: _Totals) -> Iterator[OrderedLog]:
    for group in track(runs.groups(), "Ordering histories", len(runs)):
        log = order_users(group)
        totals.rows += log.counts
        yield log


def _write_histories(
    runs: SortedRuns, rule: EndRule, items: int, totals: _Totals
) -> tuple[RecordFile, list[RecordFile], np.ndarray]:
    """Write the items of all kept users, and the positions of the histories of each side; count items of training parts."""
    events, places = RecordWriter(EVENT_DTYPE), [RecordWriter(PLACE_DTYPE) for _ in SPLIT_NAMES]
    counts, written = np.zeros(items + 1, dtype=np.int64), 0
    for log in _order_groups(runs, totals):
        ends = rule.find_ends(log)
        totals.users += ends.counts
        kept = log.take_users(ends.users)
        numbers = kept.items.to_numpy()
        events.write(numbers)
        starts = written + kept.offsets[:-1]
        written += len(numbers)
        has_target = (np.ones(len(starts), dtype=bool), ends.valid < ends.test, ends.test < kept.lengths)
        for writer, lengths, chosen in zip(places, (ends.valid, ends.valid, ends.test), has_target, strict=True):
            place = np.empty(np.count_nonzero(chosen), dtype=PLACE_DTYPE)
            place["start"], place["length"] = starts[chosen], lengths[chosen]
            writer.write(place)
        position = np.arange(len(numbers)) - np.repeat(kept.offsets[:-1], kept.lengths)
        training = numbers[position < np.repeat(ends.valid, kept.lengths)]
        counts += np.bincount(training, minlength=len(counts))
    return events.finish(), [writer.finish() for writer in places], counts


def _renumber(events: RecordFile, ids: np.ndarray) -> RecordFile:
    """Return a copy of a file in which `ids[n - 1]` replaces each number n."""
    table = np.concatenate([[0], ids]).astype(EVENT_DTYPE)
    writer = RecordWriter(EVENT_DTYPE)
    for start in range(0, events.count, _PIECE_ITEMS):
        writer.write(table[events.read([(start, min(start + _PIECE_ITEMS, events.count))])])
    return writer.finish()
