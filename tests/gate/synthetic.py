"""Samples of which the truth is known, in place of processes that measure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recprune_export.gate import BASE, NEW
from recprune_export.gate.latency import Sampler


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
