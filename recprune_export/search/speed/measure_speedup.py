"""Measure the speed-up of one ONNX file over another, over several batch sizes together, or its ratio to time limits."""

from collections.abc import Mapping
from functools import partial
from math import exp, log
from pathlib import Path

import numpy as np

from recprune_export.evidence import Estimate
from recprune_export.validation.latency.backends import DENSE_ONNX, PRUNED_ONNX, make_onnxruntime_backend
from recprune_export.validation.latency.repeated_sessions import SessionTimes, log_ratio, measure_repeated_sessions
from recprune_export.validation.latency.request_cycle import RequestCycles
from recprune_export.validation.latency.statistics import interval_of_few

SESSIONS = 6  # created again, since two sessions of one file differ throughout their lifetime
SECONDS = 0.2  # for each batch size and pair of sessions


def measure_speedup(dense: Path, pruned: Path, requests: RequestCycles, threads: int, seed: int = 0) -> Estimate:
    """Return the geometric mean over the batch sizes of `requests` of the ratio dense : pruned, with its 95 % interval.

    The interval is over repeated sessions (docs/decisions/sessions-differ.md), so that it covers the placement of weights in
    memory, which stays the same within a session.
    """
    sessions = _measure_sessions(dense, pruned, requests, threads, seed)
    means = [
        float(np.mean([log_ratio(times, DENSE_ONNX, PRUNED_ONNX) for times in batches.values()]))
        for batches in sessions
    ]
    return interval_of_few(means, confidence=0.95, seed=seed).apply(exp)


def measure_headroom(
    dense: Path, pruned: Path, requests: RequestCycles, limits: Mapping[int, float], threads: int, seed: int = 0
) -> Estimate:
    """Return the least ratio of a limit in milliseconds, by batch size, to the time of `pruned`, with its 95 % interval.

    The time of a session is its median, and the interval is over repeated sessions, as in `measure_speedup`, interleaved with the
    dense file, so that caches are as in the report of a bundle. Each end of the interval is the smallest over batch sizes: if the lower
    one is 1 or more, every limit holds.
    """
    sessions = _measure_sessions(dense, pruned, requests, threads, seed)
    ratios = []
    for batch, limit in limits.items():
        logs = [log(limit / float(np.median(session[batch][PRUNED_ONNX]))) for session in sessions]
        ratios.append(interval_of_few(logs, confidence=0.95, seed=seed).apply(exp))
    return Estimate(*(min(getattr(ratio, end) for ratio in ratios) for end in ("estimate", "low", "high")))


def _measure_sessions(
    dense: Path, pruned: Path, requests: RequestCycles, threads: int, seed: int
) -> list[SessionTimes]:
    factories = {
        name: partial(make_onnxruntime_backend, name, path, threads)
        for name, path in ((DENSE_ONNX, dense), (PRUNED_ONNX, pruned))
    }
    rng = np.random.default_rng(seed)
    return measure_repeated_sessions(factories, requests, count=SESSIONS, seconds=SECONDS, rng=rng)
