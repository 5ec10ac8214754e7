"""How much worse the new artifact may be: one number for each gate, or none where the gate is off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recprune_export.errors import UsageError

MAX_REGRESSION = 0.05
MAX_DROP = 0.001
# Gates whose values are measured in single processes, and are not as stable as counts are.
LOOSER = {"load time": 0.25, "peak memory": 0.10}
GATES = (
    "signature",
    "quality",
    "parameters",
    "non-zeros",
    "operations",
    "nodes",
    "model size",
    "artifact size",
    "load time",
    "peak memory",
    "latency",
)


@dataclass(frozen=True)
class Limits:
    """Fractions by which figures may grow, and points by which a quality metric may fall.

    `given` goes before the rest: the limit of a gate by its name, None where the gate is off.
    """

    max_regression: float = MAX_REGRESSION
    max_drop: float = MAX_DROP
    given: Mapping[str, float | None] = field(default_factory=dict)

    def limit_for(self, gate: str) -> float:
        """Return the limit of a gate that is on."""
        given = self.given.get(gate)
        if given is not None:
            return given
        return self.max_drop if gate == "quality" else max(self.max_regression, LOOSER.get(gate, 0.0))

    def is_off(self, gate: str) -> bool:
        """Say whether the user has turned a gate off."""
        return gate in self.given and self.given[gate] is None


def parse_fraction(text: str, option: str) -> float:
    """Read a fraction of 1. Raises `UsageError`, also for a number above 1 that lacks its per cent sign.

    >>> parse_fraction("5%", "--max-regression"), parse_fraction("0.05", "--max-regression")
    (0.05, 0.05)
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < (10.0 if percent else 1.0):
        raise UsageError(f"{option} '{text}' is no fraction: write for example 5% or 0.05.")
    return value


def parse_gate_limits(texts: Sequence[str]) -> dict[str, float | None]:
    """Read limits of single gates. Raises `UsageError` for a gate that there is not.

    >>> parse_gate_limits(["nodes=off", "load time=50%"])
    {'nodes': None, 'load time': 0.5}
    """
    found: dict[str, float | None] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("_", " ")
        if not equals or name not in GATES:
            raise UsageError(f"--limit '{text}': write GATE=5% or GATE=off; the gates are {', '.join(GATES)}.")
        found[name] = None if value.strip() == "off" else parse_fraction(value, f"--limit {name}")
    return found
