import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recprune_export.data import HISTORY, NEXT_ITEM, Ragged, Schema, SequenceColumns, SequenceEncoder, load_sequences
from recprune_export.errors import DataError

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
