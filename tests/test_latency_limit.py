import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.errors import UsageError
from recprune_export.latency_limit import LatencyLimit, parse_latency_limits


@given(
    st.lists(st.tuples(st.integers(1, 9999), st.integers(1, 4096)), min_size=1, max_size=4, unique_by=lambda p: p[1])
)
def test_times_are_read_in_both_units(pairs: list[tuple[int, int]]) -> None:
    limits = tuple(LatencyLimit(time / 1000, size) for time, size in pairs)
    for text in (
        ",".join(f"{time}us@{size}" for time, size in pairs),
        ", ".join(f"{time / 1000:.3f}ms @ {size}" for time, size in pairs),
    ):
        parsed = parse_latency_limits(text)
        assert [limit.batch_size for limit in parsed] == [limit.batch_size for limit in limits]
        assert [limit.milliseconds for limit in parsed] == pytest.approx([limit.milliseconds for limit in limits])


@pytest.mark.parametrize("text", ["", "0.5", "0.5ms", "0ms@1", "1ms@0", "1s@4", "-1ms@4", "1ms@4,", "1ms@4,2ms@4"])
def test_what_is_no_time_at_a_batch_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--target-latency"):
        parse_latency_limits(text)
