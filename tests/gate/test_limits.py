import pytest

from recprune_export.errors import UsageError
from recprune_export.gate.limits import Limits, fraction, gate_limits


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 % ", 0.125), ("0", 0), ("200%", 2)])
def test_fractions(text: str, value: float) -> None:
    assert fraction(text, "--x") == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "-1%", "", "much", "nan", "1%%", "inf"])
def test_what_is_no_fraction_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--x"):
        fraction(text, "--x")


def test_a_gate_of_its_own_goes_before_the_rest() -> None:
    limits = Limits(0.02, 0.003, gate_limits(["nodes=off", "load_time=50%", "quality=0.01"]))
    assert limits.is_off("nodes")
    assert not limits.is_off("latency")
    assert [limits.of(gate) for gate in ("load time", "latency", "quality")] == [0.5, 0.02, 0.01]
    assert Limits(0.02, 0.003).of("quality") == 0.003


@pytest.mark.parametrize("text", ["nodes", "nodes=", "speed=5%", "=5%", "nodes=5"])
def test_a_limit_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        gate_limits([text])


def test_the_looser_gates_are_never_tighter_than_the_rest() -> None:
    assert Limits(0.5).of("load time") == 0.5
    assert Limits(0.0).of("load time") == 0.25
