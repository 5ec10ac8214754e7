import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.search import OperatingPoint
from recprune_export.settings import Settings

SETTINGS = [
    Settings(),
    Settings(0.5, embedding_sparsity=0.6, structured_fraction=0.5, quantize="int8", pruning_stages=2),
    Settings(max_bytes="10%", prune_rows="auto", prune_fields=1),
]
POINTS = st.one_of(
    st.builds(OperatingPoint, st.just("sparsity"), st.floats(0.0, 0.99)),
    st.builds(OperatingPoint, st.just("bytes"), st.floats(0.02, 1.0)),
    st.just(OperatingPoint("dense int8", 0.0)),
)


@given(st.sampled_from(SETTINGS), POINTS)
def test_every_point_fits_all_settings_and_says_itself_alone(settings: Settings, point: OperatingPoint) -> None:
    at_point = point.apply(settings, 1_000_000)
    pruning = at_point.pruning
    if point.kind == "bytes":
        assert pruning.byte_limit is not None
        assert pruning.byte_limit.resolve(1) == int(point.value * 1_000_000)
        assert at_point.quantization.quantize == "none"
    else:
        assert pruning.byte_limit is None
        assert pruning.table_sparsity == pruning.rest_sparsity == point.value
    assert (at_point.quantization.quantize == "int8") >= (point.kind == "dense int8")
    assert point.apply(at_point, 1_000_000) == at_point


@given(POINTS)
def test_a_point_is_read_back(point: OperatingPoint) -> None:
    assert OperatingPoint.from_dict(point.to_dict()) == point


@pytest.mark.parametrize("kind", ["sparsity", "bytes"])
@given(density=st.floats(0.02, 1.0))
def test_the_density_is_what_stays(kind: str, density: float) -> None:
    point = OperatingPoint.at_density(kind, density)  # type: ignore[arg-type]
    assert point.density == pytest.approx(density, abs=1e-4)


def test_a_fraction_of_less_than_a_byte_is_a_limit_that_no_plan_meets() -> None:
    limit = OperatingPoint("bytes", 0.0).apply(Settings(), 5_000).pruning.byte_limit
    assert limit is not None
    assert limit.bytes == 1
