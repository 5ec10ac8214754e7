"""Histories in files come each once in an epoch, in an order that follows from the seed alone."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data.encoding.input_encoding import HISTORY
from recprune_export.data.histories.history_file import (
    EVENT_DTYPE,
    PLACE_DTYPE,
    HistoryFile,
    StreamedHistories,
    StreamedNextItems,
)
from recprune_export.data.histories.history_source import count_items, shuffle_histories, take_first_items
from recprune_export.data.histories.next_items import NEXT_ITEM
from recprune_export.data.records.record_file import RecordWriter

WINDOW_BYTES = 8_000  # 256 histories, the fewest of a window


def write(users: int, seed: int = 0, readers: int = 0) -> HistoryFile:
    """Write histories of 1 to 5 items that begin with the number of the user, and one item after each."""
    random = np.random.default_rng(seed)
    events, places = RecordWriter(EVENT_DTYPE), RecordWriter(PLACE_DTYPE)
    lengths = random.integers(1, 6, users)
    starts = np.cumsum([0, *(lengths + 1)])[:-1]
    items = random.integers(0, 9, int((lengths + 1).sum()), dtype=np.int32)
    items[starts] = np.arange(users) + 1
    events.write(items)
    place = np.empty(users, PLACE_DTYPE)
    place["start"], place["length"] = starts, lengths
    places.write(place)
    return HistoryFile(events.finish(), places.finish(), readers, WINDOW_BYTES)


def list_users(histories: StreamedHistories, size: int, seed: int) -> list[list[int]]:
    batches = shuffle_histories(histories, size, np.random.default_rng(seed), seed)
    return [batch.values[batch.offsets[:-1]].tolist() for batch in batches]


@settings(max_examples=30)
@given(users=st.integers(1, 1500), size=st.integers(1, 700), seed=st.integers(0, 1000), world_size=st.integers(1, 4))
def test_each_history_comes_once_and_ranks_share_the_batches(users: int, size: int, seed: int, world_size: int) -> None:
    file = write(users, seed)
    batches = list_users(StreamedHistories(file), size, seed)
    assert [len(batch) for batch in batches] == [min(size, users - start) for start in range(0, users, size)]
    assert sorted(user for batch in batches for user in batch) == list(range(1, users + 1))
    rows = StreamedNextItems(file, 6)
    whole = [batch.inputs[HISTORY].tolist() for batch in rows.batches(size, seed)]
    for rank in range(world_size):
        own = [b.inputs[HISTORY].tolist() for b in rows.batches(size, seed, rank=rank, world_size=world_size)]
        assert own == [batch[rank::world_size] for batch in whole]


def test_a_target_is_the_item_after_the_history() -> None:
    file = write(700)
    items, places = file.events.map(), file.places.map()
    expected = items[places["start"] + places["length"]]
    rows = StreamedNextItems(file, 6)
    np.testing.assert_array_equal(np.concatenate([b.labels[NEXT_ITEM] for b in rows.batches(64)]), expected)
    sample = rows.sample(90, 1)
    first = sample.excluded_items.values[sample.excluded_items.offsets[:-1]] - 1  # type: ignore[union-attr]
    np.testing.assert_array_equal(sample.labels[NEXT_ITEM], expected[first])
    assert len(np.unique(first)) == 90


def test_a_shuffled_window_has_users_from_all_over_the_file() -> None:
    first = list_users(StreamedHistories(write(20_000)), 256, 1)[0]
    assert len({user // 2_001 for user in first}) == 10


def test_sums_over_windows_are_those_of_the_whole() -> None:
    file = write(900)
    histories = StreamedHistories(file)
    (whole,) = StreamedHistories(HistoryFile(file.events, file.places)).windows()
    np.testing.assert_array_equal(count_items(histories, 901), np.bincount(whole.values, minlength=901))
    np.testing.assert_array_equal(take_first_items(histories, 1234), whole.values[:1234])


def test_a_copy_reads_the_same_file_and_nothing_is_left(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    histories = StreamedHistories(write(600))
    assert os.listdir(tmp_path) == []
    assert list_users(pickle.loads(pickle.dumps(histories)), 50, 4) == list_users(histories, 50, 4)


@pytest.mark.slow
def test_readers_in_processes_do_not_change_the_order() -> None:
    expected = list_users(StreamedHistories(write(2000)), 100, 7)
    for readers in (1, 3):
        assert list_users(StreamedHistories(write(2000, readers=readers)), 100, 7) == expected
