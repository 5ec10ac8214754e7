"""`write_once`: the first of several processes on one machine writes the files of rows, and the others open them."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from recprune_export.data.histories.history_file import StreamedHistories, StreamedNextItems
from recprune_export.data.records.record_file import can_share_files
from recprune_export.data.records.streamed_rows import StreamedRows
from recprune_export.data.splits.row_split import SPLIT_NAMES
from recprune_export.distributed.main_process import call_on_main, meet
from recprune_export.distributed.ranks import is_divided, on_one_host

if TYPE_CHECKING:
    from recprune_export.data.arrays import ArrayData
    from recprune_export.data.clicks import ClickData
    from recprune_export.data.sequences import SequenceData

D = TypeVar("D", "ClickData", "ArrayData", "SequenceData")

_READ_BY_PROCESSES = (StreamedRows, StreamedHistories, StreamedNextItems)


def write_once(write: Callable[[], D], readers: int) -> D:
    """Return the rows that `write` returns. In a run of several processes on one machine only the first one calls it.

    On several machines, or if processes cannot open the files of another, each process writes separate files. An error is raised in all
    processes.
    """
    if not (is_divided() and on_one_host() and can_share_files()):
        return write()
    data = call_on_main(write)
    meet()  # the first process keeps its files until the others have opened them
    opened = {name: _open(getattr(data, name), readers) for name in SPLIT_NAMES}
    return replace(data, **opened)


def _open(rows: Any, readers: int) -> Any:
    """Return rows that another process sent, with the readers of this process."""
    return rows.with_readers(readers) if isinstance(rows, _READ_BY_PROCESSES) else rows
