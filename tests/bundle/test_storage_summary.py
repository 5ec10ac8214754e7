from hypothesis import given
from hypothesis import strategies as st

from recprune_export.bundle.storage_summary import describe_storage, find_neighbors
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.stored_bits import StoredBits
from tests.report import samples


@given(st.lists(st.integers(1, 1000), max_size=8, unique=True), st.integers(1, 1000))
def test_the_neighbors_are_the_nearest_points_on_both_sides(sizes: list[int], chosen: int) -> None:
    storage = StoragePlan(StoredBits(), 1000, RatePoint(chosen, 0.1), 0.1, tuple(RatePoint(s, 1.0 / s) for s in sizes))
    neighbors = {point.bytes for point in find_neighbors(storage)}
    for size in sizes:
        between = any(min(size, chosen) < other < max(size, chosen) for other in sizes)
        assert (size in neighbors) == (size != chosen and not between)


def test_the_bytes_are_those_of_the_files_and_their_share() -> None:
    text = describe_storage(samples.full())
    assert text is not None
    assert text.startswith(
        "191 kB, 31.5% of the dense file; at most 192 kB; predicted loss 0.00060, 0.00090 at 160 kB, 0.00040 at"
    )
    assert describe_storage(samples.bare()) is None
