"""`HistoryFile`: histories in files, read window by window; memory does not grow with their number."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from recprune_export.data.histories.history_source import cut_batches
from recprune_export.data.histories.next_items import NextItemLists
from recprune_export.data.records.read_windows import read_windows
from recprune_export.data.records.record_file import RecordFile
from recprune_export.data.records.shuffled_windows import WINDOW_BYTES, Window, shuffle_in_windows
from recprune_export.data.rows import Ragged, Rows

EVENT_DTYPE = np.dtype(np.int32)
PLACE_DTYPE = np.dtype([("start", np.int64), ("length", np.int32)])
_FEWEST_USERS = 256  # the fewest histories of a window, even if they are long


@dataclass(frozen=True)
class HistoryFile:
    """`events` are the item ids of all users one after the other, int32; `places` has the start of each history in them, and its length.

    An unknown item is 0. `readers` processes read the windows of a shuffled epoch; with 0, a thread of this process does. The order is
    the same.
    """

    events: RecordFile
    places: RecordFile
    readers: int = 0
    window_bytes: int = WINDOW_BYTES

    def __len__(self) -> int:
        return self.places.count

    @property
    def record_dtype(self) -> np.dtype:
        """The dtype of a window: the number of histories, their lengths, the item that follows each, and their items."""
        return EVENT_DTYPE

    @property
    def window_users(self) -> int:
        """The number of histories of a window."""
        size = self.places.dtype.itemsize + EVENT_DTYPE.itemsize * self.events.count / max(len(self), 1)
        return max(int(self.window_bytes / size), _FEWEST_USERS)

    def epoch_windows(self, seed: int | None) -> Iterator[Window]:
        """Return the windows of an epoch; histories stay in order within each."""
        return (replace(window, order=None) for window in shuffle_in_windows(len(self), self.window_users, seed))

    def read_window(self, window: Window) -> np.ndarray:
        """Return a window in one array, int32."""
        places = self.places.read(window.ranges)
        starts, lengths = places["start"], places["length"]
        ends = np.minimum(starts + lengths + 1, self.events.count)  # with the item that follows
        first = np.cumsum([0, *(stop - start for start, stop in window.ranges)])
        spans = [(int(starts[a]), int(ends[b - 1])) for a, b in pairwise(first.tolist())]
        events = self.events.read(spans)
        # Where each span begins in `events` less where it begins in the file.
        moved = np.cumsum([0, *(stop - start for start, stop in spans)])[:-1] - [start for start, _ in spans]
        starts = starts + np.repeat(moved, np.diff(first))
        histories = Ragged.from_slices(events, starts, lengths)
        following = events[np.minimum(starts + lengths, len(events) - 1)]
        return np.concatenate([np.array([len(places)], EVENT_DTYPE), lengths, following, histories.values])

    def read(self, seed: int | None) -> Iterator[NextItemLists]:
        """Yield the histories of each window with the item that follows each. Raises `DataError` if a reader process ends early."""
        for records in read_windows(self, seed, self.readers):
            count = int(records[0])
            lengths, following, values = np.split(records[1:], [count, 2 * count])
            yield NextItemLists(Ragged(values, np.concatenate([[0], np.cumsum(lengths)])), following)

    def take(self, indices: np.ndarray) -> NextItemLists:
        """Return the histories at `indices`, in memory."""
        places, events = self.places.map()[indices], np.asarray(self.events.map())
        starts, lengths = places["start"], places["length"]
        histories = Ragged.from_slices(events, starts, lengths)
        return NextItemLists(histories, events[starts + lengths])


@dataclass(frozen=True)
class StreamedHistories:
    """Histories in files as a `HistorySource`; unknown items are left out."""

    file: HistoryFile

    def __len__(self) -> int:
        return len(self.file)

    def windows(self, seed: int | None = None) -> Iterator[Ragged]:
        """Yield all histories once: in order, or blocks from all over the file (`shuffled_windows.py`)."""
        for window in self.file.read(seed):
            yield window.histories.drop_zeros()

    def with_readers(self, readers: int) -> "StreamedHistories":
        """Return the same histories, read by `readers` processes."""
        return StreamedHistories(replace(self.file, readers=readers))


@dataclass(frozen=True)
class StreamedNextItems:
    """Histories in files with the item that follows each, as a `RowSource`: the last `length` items are the request."""

    file: HistoryFile
    length: int

    def __len__(self) -> int:
        return len(self.file)

    def batches(self, size: int, seed: int | None = None, *, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
        """Yield batches of `size` rows, the last one shorter: in order, or shuffled in windows by `seed`."""
        random = None if seed is None else np.random.default_rng(seed)

        def draw(window: NextItemLists) -> np.ndarray:
            return np.arange(len(window)) if random is None else random.permutation(len(window))

        for batch in cut_batches(self.file.read(seed), size, NextItemLists.concatenate, draw):
            yield batch.take(np.arange(len(batch))[rank::world_size]).pad(self.length)

    def sample(self, count: int, seed: int) -> Rows:
        """Return `count` rows drawn without replacement, or all if there are fewer; the rows that `Rows` draws if there are few."""
        random = np.random.default_rng(seed)
        if len(self) <= self.file.window_users:
            chosen = random.permutation(len(self))[:count]
        else:
            chosen = random.choice(len(self), min(count, len(self)), replace=False, shuffle=False)
        return self.file.take(np.sort(chosen)).pad(self.length)

    def with_readers(self, readers: int) -> "StreamedNextItems":
        """Return the same rows, read by `readers` processes."""
        return StreamedNextItems(replace(self.file, readers=readers), self.length)
