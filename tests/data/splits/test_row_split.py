"""Each row is on one side, by the word, the time or the user that it has; a row that names no side is refused."""

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recprune_export.data.schema import Split
from recprune_export.data.splits import RowSplit, split_by_time, split_by_user, split_by_words
from recprune_export.errors import DataError

SIDES = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}
SPELLINGS = st.sampled_from(list(SIDES)).flatmap(
    lambda word: st.sampled_from([word, word.upper(), word.title(), f" {word} "])
)
OTHER_WORDS = st.one_of(st.none(), st.text(max_size=6)).filter(lambda word: (word or "").strip().lower() not in SIDES)


@settings(max_examples=30)
@given(st.lists(SPELLINGS, min_size=3, max_size=30))
def test_each_row_is_on_the_side_that_its_word_names(words: list[str]) -> None:
    sides = [SIDES[word.strip().lower()] for word in words]
    assume(len(set(sides)) == 3)
    assert split_by_words("rows.csv", pl.Series("split", words), "").codes.tolist() == sides


@settings(max_examples=30)
@given(st.lists(SPELLINGS, max_size=10), st.lists(OTHER_WORDS, min_size=1, max_size=10), st.randoms())
def test_rows_without_a_word_of_a_split_are_counted_and_refused(
    words: list[str], others: list[str | None], chance: random.Random
) -> None:
    rows = [*words, *others]
    chance.shuffle(rows)
    with pytest.raises(DataError, match=r"'split' of rows\.csv") as refused:
        split_by_words("rows.csv", pl.Series("split", rows, dtype=pl.String), "--ignore split")
    message = str(refused.value)
    for count, verb in ((others.count(None), "is missing in"), (len(others) - others.count(None), "contains")):
        assert (verb in message) == (count > 0)
        assert f"{count:,} rows" in message or count < 2
    assert "train, valid or test" in message
    assert message.endswith("--ignore split")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, 2], "contains Int64, such as 0, 1, 2; every row needs train, valid or test"),
        ([True, False], "contains Boolean"),
        ([["train"]], r"contains List\(String\)"),
        (["train", "train", "test"], "train 2, valid 0, test 1"),
    ],
)
def test_other_columns_are_no_split(values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_by_words("rows.csv", pl.Series("split", values), "")


@given(st.lists(st.integers(0, 12), min_size=3, max_size=60), st.randoms())
def test_valid_and_test_are_last_in_time_and_equal_times_on_one_side(times: list[int], chance: random.Random) -> None:
    assume(len(set(times)) >= 3)
    codes = split_by_time("rows.csv", pl.Series("day", times), Split()).codes
    sides = [{time for time, code in zip(times, codes, strict=True) if code == side} for side in range(3)]
    assert max(sides[0]) < min(sides[1]) <= max(sides[1]) < min(sides[2])
    order = list(range(len(times)))
    chance.shuffle(order)
    shuffled = split_by_time("rows.csv", pl.Series("day", [str(times[i]) for i in order]), Split()).codes
    assert shuffled.tolist() == codes[order].tolist()


def test_the_shares_are_the_nearest_that_keep_equal_times_together() -> None:
    split = split_by_time("rows.csv", pl.Series("day", [0] * 70 + [1] * 12 + [2] * 11 + [3] * 7), Split())
    assert np.bincount(split.codes).tolist() == [82, 11, 7]
    assert "'day' 2 on, test from 3 on" in split.description


@given(st.lists(st.one_of(st.integers(0, 20), st.integers()), min_size=3), st.randoms())
def test_all_rows_of_a_user_are_on_one_side(users: list[int], chance: random.Random) -> None:
    assume(len(set(users)) >= 3)

    def split(order: list[int]) -> RowSplit:
        return split_by_user("rows.csv", pl.Series("user", [str(users[i]) for i in order]), Split())

    order = list(range(len(users)))
    codes = split(order).codes
    sides = [{user for user, code in zip(users, codes, strict=True) if code == side} for side in range(3)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set(users))
    chance.shuffle(order)
    assert split(order).codes.tolist() == codes[order].tolist()


def test_few_users_change_sides_when_others_are_added() -> None:
    def sides(count: int) -> np.ndarray:
        return split_by_user("rows.csv", pl.Series("user", range(count)), Split()).codes[:1000]

    assert (sides(1000) != sides(2000)).mean() < 0.05


@pytest.mark.parametrize("rule", [split_by_time, split_by_user])
def test_rows_without_a_time_or_user_are_refused(rule: object) -> None:
    with pytest.raises(DataError, match=r"'u' in rows.csv is missing in 2 rows \(the first is row 1\)"):
        rule("rows.csv", pl.Series("u", [1, None, None, 3, 4]), Split())  # type: ignore[operator]
    with pytest.raises(DataError, match="2 different"):
        rule("rows.csv", pl.Series("u", [1, 1, 2]), Split())  # type: ignore[operator]
