import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.errors import UsageError
from recprune_export.shard import Shard


@given(st.lists(st.integers()), st.integers(1, 12))
def test_all_shards_together_have_each_item_once(items: list[int], count: int) -> None:
    places = [Shard(index, count).select(range(len(items))) for index in range(1, count + 1)]
    assert sorted(place for shard in places for place in shard) == list(range(len(items)))
    assert max(map(len, places)) - min(map(len, places)) <= 1
    assert all(list(shard) == sorted(shard) for shard in places)


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_shard_is_read_as_it_is_printed(index: int, more: int) -> None:
    shard = Shard(index, index + more)
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "0/0"])
def test_a_shard_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"Shard {text}: .* (from 1 to 8|must be 1 or more)"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["", "a/b", "3", "3/", "/8", "-1/8", "1.5/8", "3/8/9", "٣/٨", "1/" + "9" * 5000])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="for example 3/8"):
        Shard.parse(text)
