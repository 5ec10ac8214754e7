import numpy as np
import pytest

from recprune_export.program import BATCH, Input, Signature
from recprune_export.validation import (
    count_candidates,
    count_cycle_rows,
    count_requests,
    sample_cycles,
    split_into_cycles,
)
from recprune_export.validation.latency.latency_constants import MAX_REQUESTS, MIN_REQUESTS

BATCHES = (1, 32, 256, 1024)
SIGNATURE = Signature((Input("user", "int64", (BATCH,), ((0, 10**9),)), Input("item", "int64", (BATCH, 2))), ())
SHARED = SIGNATURE.with_shared(["user"])


def pool(rows: int) -> dict[str, np.ndarray]:
    return {"user": np.arange(rows), "item": np.stack([np.arange(rows), -np.arange(rows)], axis=1)}


def test_small_batches_have_more_requests_and_none_has_few() -> None:
    counts = [count_requests(batch) for batch in (1, 8, *BATCHES[1:], 4096, 10**6)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-2], counts[-1]) == (MAX_REQUESTS, MIN_REQUESTS, 2)


def test_no_row_comes_twice_where_there_are_enough() -> None:
    for batch, rotation in split_into_cycles(pool(count_cycle_rows(BATCHES)), BATCHES, SIGNATURE, seed=0).items():
        assert len(rotation) == count_requests(batch)
        assert all(count_candidates(request) == batch for request in rotation)
        users = np.concatenate([request["user"] for request in rotation])
        assert len(np.unique(users)) == len(users)
        assert all((request["item"][:, 1] == -request["user"]).all() for request in rotation)


@pytest.mark.parametrize("rows", [1, 3, 40, 100])
def test_of_few_rows_requests_still_differ(rows: int) -> None:
    for batch, rotation in split_into_cycles(pool(rows), (1, 8, 40), SIGNATURE, seed=0).items():
        assert all(count_candidates(request) == batch for request in rotation)
        assert 1 <= len(rotation) <= max(MIN_REQUESTS, rows)
        assert len(rotation) > 1 or rows in (1, batch)
        assert len({request["user"].tobytes() for request in rotation}) == len(rotation) or batch > rows
        assert {int(user) for request in rotation for user in request["user"]} == set(range(rows))


def test_rows_of_a_sorted_file_are_dealt_at_random() -> None:
    (first, *_) = split_into_cycles(pool(10_000), (256,), SIGNATURE, seed=0)[256]
    assert first["user"].min() < 500
    assert first["user"].max() > 9500


def test_candidates_share_what_they_share_and_each_request_has_its_own() -> None:
    rotation = split_into_cycles(pool(5000), (32,), SHARED, seed=0)[32]
    assert all(request["user"].shape == (32,) and len(set(request["user"])) == 1 for request in rotation)
    assert all(len(np.unique(request["item"][:, 0])) == 32 for request in rotation)
    assert len({int(request["user"][0]) for request in rotation}) == len(rotation)
    drawn = sample_cycles(SHARED, (32,), seed=0)[32]
    assert all(request["user"].shape == (1,) and request["item"].shape == (32, 2) for request in drawn)
    assert len({int(request["user"][0]) for request in drawn}) == len(drawn)


def test_drawn_requests_all_differ_between_sizes_as_well() -> None:
    found = sample_cycles(SIGNATURE, BATCHES, seed=0)
    assert [len(rotation) for rotation in found.values()] == [count_requests(batch) for batch in BATCHES]
    firsts = [int(request["user"][0]) for rotation in found.values() for request in rotation]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: split_into_cycles(pool(3000), (32,), SIGNATURE, seed),
        lambda seed: sample_cycles(SIGNATURE, (32,), seed),
    ],
)
def test_a_seed_gives_the_same_requests_and_another_seed_others(make: object) -> None:
    one, same, other = ([r["user"].tolist() for r in make(seed)[32]] for seed in (1, 1, 2))  # type: ignore[operator]
    assert one == same != other
