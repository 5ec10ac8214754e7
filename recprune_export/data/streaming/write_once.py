"""`write_once`: of several processes of one machine the first one writes the files of rows, and the others open them."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from recprune_export.data.streaming.streamed_rows import StreamedRows
from recprune_export.distributed.main_process import call_on_main, meet
from recprune_export.distributed.ranks import is_divided, on_one_host

if TYPE_CHECKING:
    from recprune_export.data.arrays import ArrayData
    from recprune_export.data.clicks import ClickData
    from recprune_export.data.row_source import RowSource

D = TypeVar("D", "ClickData", "ArrayData")


def write_once(write: Callable[[], D], readers: int) -> D:
    """Return the rows that `write` returns. In a run of several processes on one machine only the first one calls it.

    On several machines each process writes files of its own. An error is raised in all processes.
    """
    if not (is_divided() and on_one_host()):
        return write()
    data = call_on_main(write)
    meet()  # the first process keeps its files until the others have opened them
    train, valid, test = (_open(rows, readers) for rows in (data.train, data.valid, data.test))
    return replace(data, train=train, valid=valid, test=test)


def _open(rows: "RowSource", readers: int) -> "RowSource":
    """Return rows that another process sent, with the readers that belong to this one."""
    return replace(rows, readers=readers) if isinstance(rows, StreamedRows) else rows
