"""Rows for models of histories: a list of items in each row, or a log, which is converted to a history for each user."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recprune_export.column_names import describe_missing_column
from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.encoding.canonical_text import canonical_text
from recprune_export.data.encoding.encoder import Request
from recprune_export.data.encoding.input_encoding import HISTORY
from recprune_export.data.encoding.unknown_values import UnknownValues, count_unknown_texts, judge_unknown
from recprune_export.data.histories.stream_log import list_histories, list_items
from recprune_export.data.schema.schema import SequenceColumns
from recprune_export.data.sequences import SequenceEncoder, select_canonical
from recprune_export.data.splits.ordered_log import order_log
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.data.streaming.large_tables import is_large_log
from recprune_export.data.tabular_files import collect, count_frame_rows, scan
from recprune_export.errors import DataError
from recprune_export.output_files import ScratchFolder
from recprune_export.settings import DataSettings

if TYPE_CHECKING:
    import polars as pl


class HistoryRows:
    """Makes requests from the column `history`: lists of items, the oldest first; unknown items are left out, and counted.

    Raises `DataError` if there is no such column, or it has no lists.
    """

    def __init__(self, source: DataFile, frame: "pl.LazyFrame", encoder: SequenceEncoder, allow_unknown: bool) -> None:
        self.columns: tuple[str, ...] = (HISTORY,)
        self.unknown = Counter[str]()
        self._source, self._encoder, self._allow_unknown = source, encoder, allow_unknown
        self._counts = UnknownValues(encoder.columns.item)
        _check_lists(source, frame, encoder.columns)

    def request(self, rows: "pl.DataFrame", first_row: int) -> Request:
        """Return the request of `rows`."""
        import polars as pl

        inner = rows.schema[HISTORY].inner  # type: ignore[attr-defined]
        text = canonical_text(pl.element(), inner).cast(pl.String)
        lists = rows.select(pl.col(HISTORY).cast(pl.List(inner)).list.eval(text).list.drop_nulls()).to_series()
        items = lists.filter(lists.list.len() > 0).explode()
        self._counts = self._counts.add(count_unknown_texts(self._encoder.columns.item, items, self._encoder.items))
        self.unknown[HISTORY] = self._counts.unknown
        return self._encoder.encode_histories(lists)

    def judge(self) -> tuple[str, ...]:
        """Return a note if many items are unknown. Raises `DataError` if nearly all are."""
        items = {self._encoder.columns.item: self._encoder.items}
        return judge_unknown([self._counts], items, str(self._source), self._allow_unknown)


def is_log(names: Collection[str], columns: SequenceColumns) -> bool:
    """Return whether columns of these names are those of a log, a row for each item, and not of histories."""
    return HISTORY not in names and {columns.user, columns.item, columns.order} <= set(names)


@dataclass(frozen=True)
class LogHistories:
    """The history of each user of a log, with the column of the user, and notes on rows that are left out.

    Those of a large log are in files of `folder`, as long as this object exists.
    """

    frame: "pl.LazyFrame"
    notes: tuple[str, ...]
    folder: ScratchFolder | None = None


def read_histories(path: DataFile, reading: DataSettings, encoder: SequenceEncoder) -> LogHistories:
    """Return the history of each user of a log.

    Raises `DataError` as `SequenceEncoder.histories` does, `UsageError` if the disk of temporary files has too little space.
    """
    columns = encoder.columns
    options = CsvOptions(reading.separator, reading.encoding)
    log = select_canonical(scan(path, options, text=(columns.item,), missing=encoder.schema.missing), columns)
    count = count_frame_rows(log, path)
    if reading.stream if reading.stream is not None else is_large_log(count):
        frame, folder, counts = list_histories(path, log, count, columns, HISTORY)
        return LogHistories(frame, counts.notes(path, columns), folder)
    ordered = order_log(path, collect(log, path), columns)
    return LogHistories(list_items(ordered, columns.user, HISTORY).lazy(), ordered.counts.notes(path, columns))


def _check_lists(source: DataFile, frame: "pl.LazyFrame", columns: SequenceColumns) -> None:
    import polars as pl

    types = frame.collect_schema()
    log = f"or a log file with the columns '{columns.user}', '{columns.item}' and '{columns.order}'"
    if HISTORY not in types:
        role = f"the items of a user, the oldest first: give a column of lists, {log}"
        raise DataError(describe_missing_column(source, HISTORY, types, role))
    kind = types[HISTORY]
    if not isinstance(kind, pl.List | pl.Array) or kind.inner.is_nested():
        raise DataError(
            f"The column '{HISTORY}' of {source} contains {kind}, but the model expects lists of items, the oldest first: give "
            f"them in Parquet, {log}."
        )
