import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recprune_export.data import (
    HISTORY,
    NEXT_ITEM,
    Ragged,
    Schema,
    SequenceColumns,
    SequenceEncoder,
    Vocabulary,
    load_sequences,
)
from recprune_export.data.schema import Split
from recprune_export.errors import DataError
from recprune_export.settings import DataSettings

SCHEMA = Schema(sequence=SequenceColumns("user", "item", "order", max_length=3))


def write(tmp_path: Path, log: dict[str, list[str]]) -> Path:
    """Write a log whose lines are shuffled."""
    lines = [(user, item, place) for user, items in log.items() for place, item in enumerate(items)]
    order = np.random.default_rng(0).permutation(len(lines))
    path = tmp_path / "log.parquet"
    pl.DataFrame([lines[i] for i in order], schema=["user", "item", "order"], orient="row").write_parquet(path)
    return path


def test_the_last_item_tests_and_the_one_before_validates(tmp_path: Path) -> None:
    data = load_sequences(write(tmp_path, {"u": list("abcde"), "v": list("badec"), "w": ["a", "b"]}), SCHEMA)
    ids = {value: number for number, value in enumerate(data.encoder.items.to_list(), start=1)}
    assert len(data.train) == 2  # w is too short
    assert data.train[0].tolist() == [ids[c] for c in "abc"]
    assert data.valid.inputs[HISTORY][0].tolist() == [ids[c] for c in "abc"]
    assert data.valid.labels[NEXT_ITEM][0] == ids["d"]
    assert data.test.inputs[HISTORY][0].tolist() == [ids[c] for c in "bcd"]  # three are used, all four are seen
    assert data.test.excluded_items is not None
    assert data.test.excluded_items[0].tolist() == [ids[c] for c in "abcd"]


LOGS = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "w", None, " "]),
        st.sampled_from([*"abcdefgh", None]),
        st.sampled_from(["9", "10", "11", None]),
    ),
    max_size=40,
)


def expected_histories(log: list[tuple[str | None, str | None, str | None]]) -> list[list[str]]:
    """The items of each user, by time and then in the order of the file."""
    rows = [(user, int(time), item) for user, item, time in log if user and user.strip() and item and time]
    users = sorted({user for user, *_ in rows})
    return [[item for _, _, item in sorted((r for r in rows if r[0] == user), key=lambda r: r[1])] for user in users]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LOGS)
def test_equal_times_stay_in_the_order_of_the_file(
    tmp_path: Path, log: list[tuple[str | None, str | None, str | None]]
) -> None:
    path = tmp_path / "log.parquet"
    types = dict.fromkeys(("user", "item", "order"), pl.String)
    pl.DataFrame(log, schema=types, orient="row").write_parquet(path)
    histories = [history for history in expected_histories(log) if len(history) >= 3]
    if not histories:
        with pytest.raises(DataError, match="No user"):
            load_sequences(path, SCHEMA)
        return
    data = load_sequences(path, SCHEMA)
    items = dict(enumerate(data.encoder.items.to_list(), start=1))
    assert [[items[i] for i in data.train[user]] for user in range(len(histories))] == [h[:-2] for h in histories]
    assert set(items.values()) == {item for history in histories for item in history[:-2]}
    for side, held_out in ((data.valid, -2), (data.test, -1)):
        targets = [history[held_out] for history in histories]
        assert [items.get(i) for i in side.labels[NEXT_ITEM]] == [t if t in items.values() else None for t in targets]
        assert side.excluded_items is not None
        for user, history in enumerate(histories):
            assert [items[i] for i in side.excluded_items[user]] == [
                i for i in history[:held_out] if i in items.values()
            ]


def test_the_histories_are_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, high, 60_000) for name, high in (("user", 900), ("item", 300), ("order", 20))}
    pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet", row_group_size=5_000)
    code = """
import hashlib, pathlib, sys
from recprune_export.data import Schema, SequenceColumns, load_sequences
data = load_sequences(pathlib.Path(sys.argv[1]), Schema(sequence=SequenceColumns("user", "item", "order")))
arrays = (data.train.values, data.train.offsets, data.valid.inputs["history"], data.test.labels["next_item"])
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(), data.encoder.items.to_list())
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / "log.parquet"],
            env={**os.environ, "POLARS_MAX_THREADS": threads},
            check=True,
            capture_output=True,
        ).stdout
        for threads in ("1", "4")
    }
    assert len(printed) == 1


def test_rows_that_are_left_out_tied_or_repeated_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,order\nu,a,1\nu,b,1\nu,a,1\nu,c,2\nv,a,1\n,a,1\nv,,2\nv,b,\nw,a,1\nw,b,2\nw,c,3\n")
    notes = load_sequences(path, SCHEMA).notes
    assert len(notes) == 5
    assert "3 of 11 rows" in notes[0]
    assert "'user' in 1, 'item' in 1, 'order' in 1" in notes[0]
    assert "3 of 8 rows of" in notes[1]
    assert "same 'order' as another row of their 'user'; these keep the order of the file" in notes[1]
    assert notes[2].startswith("1 rows of")
    assert notes[3] == "1 of 3 users have fewer than 3 items and are left out."
    assert "held-out" in notes[4]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("word", ["\\N", "NA", "None"])
def test_a_string_for_a_missing_item_is_no_item_to_predict(
    tmp_path: Path, word: str, suffix: str, stream: bool
) -> None:
    log = pl.DataFrame(
        {"user": ["u"] * 5 + ["v"] * 4, "item": ["1", "2", "3", "4", word, "4", "3", "2", "1"], "order": range(9)}
    )
    path = tmp_path / f"log{suffix}"
    log.write_csv(path) if suffix == ".csv" else log.write_parquet(path)
    data = load_sequences(path, SCHEMA, reading=DataSettings(stream=stream))
    assert data.notes == (f"1 of 9 rows of {path} are left out, since a value is missing: 'item' in 1.",)
    assert 0 not in data.test.sample(2, 0).labels[NEXT_ITEM]
    texts = log.with_columns(pl.when(pl.col("item") == "1").then(pl.lit("one")).otherwise("item").alias("item"))
    texts.write_csv(path) if suffix == ".csv" else texts.write_parquet(path)
    assert load_sequences(path, SCHEMA, reading=DataSettings(stream=stream)).notes == ()


def test_a_column_of_splits_in_a_log_is_said_to_be_unused(tmp_path: Path) -> None:
    path = write(tmp_path, {"u": list("abcd")})
    pl.read_parquet(path).with_columns(split=pl.lit("train")).write_parquet(path)
    assert load_sequences(path, SCHEMA).notes == ("'split' is not used: a log is split by the order of its rows.",)


def test_an_order_of_words_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"u": list("abcd")})
    pl.read_parquet(path).with_columns(order=pl.lit("monday")).write_parquet(path)
    with pytest.raises(DataError, match=r"'order' of .* such as 'monday'"):
        load_sequences(path, SCHEMA)
    encoder = SequenceEncoder(SCHEMA, Vocabulary(list("abcd"), 1))
    with pytest.raises(DataError, match=r"'order' of the log .* such as 'monday'"):
        encoder.encode(pl.read_parquet(path))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000))
def test_in_time_no_history_reaches_beyond_the_border(tmp_path: Path, seed: int) -> None:
    chance = np.random.default_rng(seed)
    log = pl.DataFrame({n: chance.integers(0, high, 80) for n, high in (("user", 8), ("item", 12), ("order", 30))})
    log.write_parquet(tmp_path / "log.parquet")
    schema = replace(SCHEMA, split=Split(time="order"))
    data = load_sequences(tmp_path / "log.parquet", schema)
    valid_from, test_from = map(int, re.findall(r"(\d+) on", data.split_description))
    items = dict(enumerate(map(int, data.encoder.items.to_list()), start=1))
    rows = sorted(log.with_row_index().iter_rows(), key=lambda row: (row[1], row[3], row[0]))
    events = [[(t, i) for _, u, i, t in rows if u == user] for user in range(8)]
    known = [user for user in events if sum(t < valid_from for t, _ in user) >= 2]
    assert [[items[i] for i in data.train[n]] for n in range(len(known))] == [
        [i for t, i in user if t < valid_from] for user in known
    ]
    for side, begin, end in ((data.valid, valid_from, test_from), (data.test, test_from, 99)):
        targets = [next((i for t, i in user if begin <= t < end), None) for user in known]
        assert [items.get(i) for i in side.labels[NEXT_ITEM]] == [
            t if t in items.values() else None for t in targets if t is not None
        ]


def test_an_item_that_is_first_seen_in_the_test_is_a_miss(tmp_path: Path) -> None:
    data = load_sequences(write(tmp_path, {"u": list("abcx"), "v": list("bcay")}), SCHEMA)
    assert data.test.labels[NEXT_ITEM].tolist() == [0, 0]


def test_an_unknown_item_is_left_out_of_a_history(tmp_path: Path) -> None:
    data = load_sequences(write(tmp_path, {"u": list("abcd"), "v": list("bcad")}), SCHEMA)
    log = pl.DataFrame({"user": [1, 1, 1], "item": ["a", "never seen", "b"], "order": [0, 1, 2]})
    again = SequenceEncoder.from_dict(json.loads(json.dumps(data.encoder.to_dict())))
    history = again.encode(log)[HISTORY]
    values = again.items.to_list()
    assert history.shape == (1, 3)
    assert [values[i - 1] for i in history[0] if i] == ["a", "b"]


def test_a_log_of_short_histories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No user"):
        load_sequences(write(tmp_path, {"u": ["a", "b"]}), SCHEMA)


def test_ragged_lists_are_taken_cut_and_padded() -> None:
    lists = [[1, 2, 3], [], [4], [5, 6]]
    ragged = Ragged(np.concatenate([np.array(x, dtype=np.int64) for x in lists]), np.array([0, 3, 3, 4, 6]))
    taken = ragged.take(np.array([3, 0, 1]))
    assert [taken[i].tolist() for i in range(3)] == [[5, 6], [1, 2, 3], []]
    shorter = ragged.drop_last(2)
    assert [shorter[i].tolist() for i in range(4)] == [[1], [], [], []]
    assert ragged.pad_left(2).tolist() == [[2, 3], [0, 0], [0, 4], [5, 6]]
