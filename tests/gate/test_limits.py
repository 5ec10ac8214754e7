import pytest

from recprune_export.errors import UsageError
from recprune_export.gate import Limits, parse_fraction, parse_gate_limits


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 % ", 0.125), ("0", 0), ("200%", 2)])
def test_fractions(text: str, value: float) -> None:
    assert parse_fraction(text, "--x") == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "-1%", "", "much", "nan", "1%%", "inf"])
def test_what_is_no_fraction_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--x"):
        parse_fraction(text, "--x")


def test_a_gate_of_its_own_goes_before_the_rest() -> None:
    limits = Limits(0.02, 0.003, parse_gate_limits(["nodes=off", "load_time=50%", "quality=0.01"]))
    assert limits.is_off("nodes")
    assert not limits.is_off("latency")
    assert [limits.limit_for(gate) for gate in ("load time", "latency", "quality")] == [0.5, 0.02, 0.01]
    assert Limits(0.02, 0.003).limit_for("quality") == 0.003


@pytest.mark.parametrize("text", ["nodes", "nodes=", "speed=5%", "=5%", "nodes=5"])
def test_a_limit_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        parse_gate_limits([text])


def test_the_looser_gates_are_never_tighter_than_the_rest() -> None:
    assert Limits(0.5).limit_for("load time") == 0.5
    assert Limits(0.0).limit_for("load time") == 0.25
