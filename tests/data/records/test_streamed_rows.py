"""Streamed rows: each row once an epoch, in one order whatever the number of readers, ranks and the size of windows."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data.records.record_file import RecordWriter
from recprune_export.data.records.streamed_rows import RowLayout, StreamedRows
from recprune_export.data.rows import Rows
from recprune_export.errors import DataError, UsageError
from recprune_export.number_formats import format_bytes
from tests.full_disk import file_size_limit

LAYOUT = RowLayout(
    {"user": ("int64", ()), "tags": ("int64", (2,)), "numeric": ("float32", (1,))},
    ("y",),
    has_weights=True,
    has_groups=True,
    narrow=frozenset({"user", "tags"}),
)


def make_rows(count: int) -> Rows:
    ids = np.arange(count)
    return Rows(
        {"user": ids, "tags": np.stack([ids, -ids], 1), "numeric": ids[:, None].astype(np.float32)},
        {"y": np.where(ids % 3 == 0, np.nan, ids % 2).astype(np.float32)},
        weights=ids.astype(np.float32),
        groups=ids // 2,
    )


def stream(rows: Rows, window_rows: int = 1 << 20, readers: int = 0) -> StreamedRows:
    writer = RecordWriter(LAYOUT.dtype)
    for start in range(0, len(rows), 700):
        writer.write(LAYOUT.pack(rows.take(np.arange(start, min(start + 700, len(rows))))))
    return StreamedRows.open(writer.finish(), LAYOUT, readers, window_bytes=window_rows * LAYOUT.dtype.itemsize)


def assert_equal(one: Rows, other: Rows) -> None:
    for values, others in ((one.inputs, other.inputs), (one.labels, other.labels)):
        assert values.keys() == others.keys()
        for name, array in values.items():
            assert array.dtype == others[name].dtype
            np.testing.assert_array_equal(array, others[name])
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.groups, other.groups)


@pytest.mark.parametrize("seed", [None, 5])
def test_rows_of_one_window_come_as_from_memory(seed: int | None) -> None:
    rows = make_rows(1000)
    streamed = stream(rows)
    for one, other in zip(streamed.batches(64, seed), rows.batches(64, seed), strict=True):
        assert_equal(one, other)
    assert_equal(streamed.sample(50, 3), rows.sample(50, 3))
    assert len(streamed) == 1000


@settings(max_examples=40)
@given(
    count=st.integers(0, 6000),
    window_rows=st.integers(1024, 3000),
    size=st.integers(1, 1500),
    seed=st.one_of(st.none(), st.integers(0, 2**31)),
    world_size=st.integers(1, 5),
)
def test_each_row_comes_once_and_ranks_share_the_batches(
    count: int, window_rows: int, size: int, seed: int | None, world_size: int
) -> None:
    streamed = stream(make_rows(count), window_rows)
    whole = [batch.inputs["user"] for batch in streamed.batches(size, seed)]
    assert [len(ids) for ids in whole] == [min(size, count - start) for start in range(0, count, size)]
    users = np.concatenate(whole) if whole else np.zeros(0, int)
    assert np.array_equal(np.sort(users), np.arange(count))
    assert seed is not None or np.array_equal(users, np.arange(count))
    for rank in range(world_size):
        own = [b.inputs["user"].tolist() for b in streamed.batches(size, seed, rank=rank, world_size=world_size)]
        assert own == [ids[rank::world_size].tolist() for ids in whole]


def test_a_shuffled_window_has_rows_from_all_over_the_file() -> None:
    streamed = stream(make_rows(200_000), 4096)
    first = np.concatenate([b.inputs["user"] for b, _ in zip(streamed.batches(512, 1), range(8), strict=False)])
    assert len(np.unique(first // 20_000)) == 10  # tenths of the file
    other = next(iter(streamed.batches(512, 2))).inputs["user"]
    assert not np.array_equal(other, first[:512])


def test_a_sample_of_many_rows_is_drawn_without_replacement() -> None:
    sample = stream(make_rows(5000), 1024).sample(300, 1).inputs["user"]
    assert len(np.unique(sample)) == 300
    assert np.all(np.diff(sample) > 0)


def test_a_copy_reads_the_same_file() -> None:
    streamed = stream(make_rows(3000), 1024)
    copy = pickle.loads(pickle.dumps(streamed))
    assert_equal(next(iter(copy.batches(100, 4))), next(iter(streamed.batches(100, 4))))


def test_nothing_is_left_in_the_temporary_folder(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    streamed = stream(make_rows(3000))
    assert len(list(streamed.batches(1000))) == 3
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("readers", [1, 3])
def test_readers_in_processes_do_not_change_the_order(readers: int) -> None:
    rows = make_rows(9000)
    expected = list(stream(rows, 1024).batches(500, 7))
    for one, other in zip(stream(rows, 1024, readers).batches(500, 7), expected, strict=True):
        assert_equal(one, other)


@pytest.mark.slow
def test_a_killed_reader_is_one_sentence() -> None:
    streamed = stream(make_rows(60_000), 1024, readers=1)
    batches = streamed.batches(500, 7)
    next(batches)
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(DataError, match=r"A reader process ended early .*--readers 0"):
        list(batches)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3])  # 0: while the processes are being started
def test_readers_end_with_the_loop_and_with_an_interrupt(number: int) -> None:
    program = textwrap.dedent(f"""
        import multiprocessing, os, signal, sys, threading, time
        sys.path.insert(0, os.getcwd())
        from tests.data.records.test_streamed_rows import make_rows, stream


        def interrupt_new_processes():
            while len(multiprocessing.active_children()) < 2:
                time.sleep(.01)
            os.killpg(0, signal.SIGINT)

        if __name__ == "__main__":
            try:
                rows = stream(make_rows(60_000), 1024, readers=2)
                if {number} == 0:
                    threading.Thread(target=interrupt_new_processes).start()
                for number, batch in enumerate(rows.batches(500, 7)):
                    if number == {number} > 0:
                        os.killpg(0, signal.SIGINT)  # as a terminal does: all processes get it
            except KeyboardInterrupt:
                print("interrupted")
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, start_new_session=True
    )
    assert done.stdout.strip() == "interrupted", done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_of_temporary_files_is_said_in_the_unit_of_its_size() -> None:
    writer = RecordWriter(LAYOUT.dtype)
    records = LAYOUT.pack(make_rows(2_000))
    writer.write(records)
    size = records.nbytes
    with file_size_limit(size), pytest.raises(UsageError, match=rf"File too large after {format_bytes(size)} \("):
        writer.write(records)


def test_a_disk_that_takes_nothing_is_said_without_a_size() -> None:
    writer = RecordWriter(LAYOUT.dtype)
    with file_size_limit(0), pytest.raises(UsageError, match=r"File too large \("):
        writer.write(LAYOUT.pack(make_rows(2_000)))
