"""Limits of the gates: how much worse NEW may be; None turns a gate off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recprune_export.column_names import did_you_mean
from recprune_export.errors import UsageError
from recprune_export.gate.gate_constants import MAX_DROP, MAX_REGRESSION, MIN_LIMITS, UNJUDGED_WITHOUT_LIMIT

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
    """Fractions by which values may grow, and points by which a quality metric may fall.

    `overrides` takes precedence: limits by name of the gate, None for a gate that is off.
    """

    max_regression: float = MAX_REGRESSION
    max_drop: float = MAX_DROP
    overrides: Mapping[str, float | None] = field(default_factory=dict)

    def limit_for(self, gate: str) -> float:
        """Return the limit of a gate, which must not be off."""
        override = self.overrides.get(gate)
        if override is not None:
            return override
        return self.max_drop if gate == "quality" else max(self.max_regression, MIN_LIMITS.get(gate, 0.0))

    def is_off(self, gate: str) -> bool:
        """Return whether the user has turned a gate off."""
        return gate in self.overrides and self.overrides[gate] is None

    def is_reported_only(self, gate: str) -> bool:
        """Return whether the values of a gate are reported without a verdict, because no separate limit is given."""
        return gate in UNJUDGED_WITHOUT_LIMIT and gate not in self.overrides


def parse_fraction(text: str, option: str) -> float:
    """Read a fraction of 1. Raises `UsageError`, also for a number above 1 without a percent sign.

    >>> parse_fraction("5%", "--max-regression"), parse_fraction("0.05", "--max-regression")
    (0.05, 0.05)
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < (10.0 if percent else 1.0):
        raise UsageError(f"{option} '{text}' is not a fraction: write for example 5% or 0.05.")
    return value


def parse_gate_limits(texts: Sequence[str]) -> dict[str, float | None]:
    """Read limits of single gates. Raises `UsageError` for an unknown gate.

    >>> parse_gate_limits(["nodes=off", "load time=50%"])
    {'nodes': None, 'load time': 0.5}
    """
    gate_limits: dict[str, float | None] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("_", " ")
        if not equals or name not in GATES:
            raise UsageError(
                f"--limit '{text}': write GATE=5% or GATE=off; the gates are {', '.join(GATES)}{did_you_mean(name, GATES)}"
            )
        gate_limits[name] = None if value.strip() == "off" else parse_fraction(value, f"--limit {name}")
    return gate_limits
