"""Samples of which the truth is known, in place of processes that measure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recprune_export.gate import BASE, NEW
from recprune_export.gate.gate_constants import FOOTPRINT_PROCESSES
from recprune_export.gate.latency import Sampler
from recprune_export.validation import Footprint, FootprintReport


def synthetic(ratio: float | Mapping[int, float], scatter: float = 0.01, seed: int = 0) -> Sampler:
    """NEW takes `ratio` times as long as BASE; processes differ by `scatter`, one in ten by ten times as much."""
    rng = np.random.default_rng(seed)

    def sample(batches: Sequence[int], number: int) -> dict[str, Any]:
        found = {}
        for batch in batches:
            truth = ratio if isinstance(ratio, float) else ratio[batch]
            log_ratio = np.log(truth) + scatter * rng.normal() * (10 if rng.random() < 0.1 else 1)
            base = rng.lognormal(0, 0.1, size=20)
            found[str(batch)] = {
                "log_ratio": float(log_ratio),
                "times": {BASE: base.tolist(), NEW: (base * np.exp(log_ratio)).tolist()},
            }
        return found

    return sample


def make_footprints(
    load: float, peak: float, seed: int, busy: float = 0.0, count: int = FOOTPRINT_PROCESSES, scatter: float = 0.05
) -> FootprintReport:
    """NEW takes `load` ms and `peak` MiB, BASE 50 and 100; the share `busy` of the loads takes up to four times as long."""
    rng = np.random.default_rng(seed)

    def run(load: float, peak: float) -> Footprint:
        slowed = 1 + 3 * rng.random() * (rng.random() < busy)
        return Footprint(load * slowed * rng.lognormal(0, scatter), 1.0, 0.0, peak * (1 << 20) * rng.normal(1, 0.002))

    runs = {name: tuple(run(*of) for _ in range(count)) for name, of in (("NEW", (load, peak)), ("BASE", (50, 100)))}
    return FootprintReport(runs, 256)
