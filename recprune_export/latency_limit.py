"""`LatencyLimit`: the longest time that a request of a given batch size may take on this machine."""

import re
from dataclasses import dataclass

from recprune_export.errors import UsageError

_MILLISECONDS = {"ms": 1.0, "us": 1e-3, "µs": 1e-3}


@dataclass(frozen=True)
class LatencyLimit:
    """At most `milliseconds` for a request of `batch_size` rows."""

    milliseconds: float
    batch_size: int

    def __str__(self) -> str:
        return f"{self.milliseconds:g} ms at batch size {self.batch_size}"


def parse_latency_limits(text: str) -> tuple[LatencyLimit, ...]:
    """Parse limits such as 0.5ms@256, several separated by commas.

    Raises `UsageError` for other strings, and for two limits of one batch size.

    >>> [str(limit) for limit in parse_latency_limits("0.5ms@256, 80us@1")]
    ['0.5 ms at batch size 256', '0.08 ms at batch size 1']
    """
    limits = tuple(_parse_latency_limit(word, text) for word in text.split(","))
    sizes = [limit.batch_size for limit in limits]
    if len(set(sizes)) < len(sizes):
        raise UsageError(f"--target-latency '{text}' contains a batch size twice: give one time for each batch size.")
    return limits


def _parse_latency_limit(word: str, text: str) -> LatencyLimit:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(ms|us|µs)\s*@\s*(\d+)\s*", word)
    number, size = (float(match[1]), int(match[3])) if match else (0.0, 0)
    if match is None or number <= 0.0 or size < 1:
        raise UsageError(
            f"--target-latency '{text}' is not a time at a batch size: write for example 0.5ms@256, or 80us@1,0.5ms@256."
        )
    return LatencyLimit(number * _MILLISECONDS[match[2]], size)
