"""Latency gate: sample in fresh processes until the interval of NEW / BASE is on one side of the tolerance.

The statistic is the ratio of the tenth percentiles of both times, computed in each process over both orders of loading, and
its interquartile mean over processes. Tails are reported only: a gate on them would fail because of other load on the machine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from math import exp
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.gate.findings import Finding, format_at_most
from recprune_export.gate.gate_constants import CONFIDENCE, MIN_PROCESSES
from recprune_export.gate.latency.sequential_sampling import BASE, NEW
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.signature import Signature
from recprune_export.progress import progress_bar
from recprune_export.validation.latency.fresh_process import call_fresh
from recprune_export.validation.latency.statistics import interval_of_few, percentiles

SAMPLER = "recprune_export.gate.latency.sequential_sampling:sample_latency"

# Measures the given batch sizes in process number `n`; returns the result of `sequential_sampling.sample_latency`.
Sampler = Callable[[Sequence[int], int], Mapping[str, Any]]


@dataclass
class Evidence:
    """Samples at one batch size: log(NEW / BASE) of each process, and all times in ms."""

    log_ratios: list[float] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=lambda: {NEW: [], BASE: []})

    def add(self, sample: Mapping[str, Any]) -> None:
        """Add the sample of one more process."""
        self.log_ratios.append(sample["log_ratio"])
        for name, times in sample["times"].items():
            self.times[name] += times

    def ratio(self) -> Estimate:
        """Return NEW / BASE with its interval."""
        return interval_of_few(self.log_ratios, confidence=CONFIDENCE).apply(exp)

    def verdict(self, tolerance: float | None) -> Verdict:
        """Judge the claim that NEW takes at most `tolerance` more; UNDECIDED without a tolerance, or after few processes."""
        if tolerance is None or len(self.log_ratios) < MIN_PROCESSES:
            return Verdict.UNDECIDED
        return judge_at_most(self.ratio(), 1.0 + tolerance)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; times in ms."""
        milliseconds = {name: asdict(percentiles(np.array(times))) for name, times in self.times.items()}
        return {
            "processes": len(self.log_ratios),
            "rounds": len(self.times[NEW]),
            "ratio": asdict(self.ratio()),
            "milliseconds": milliseconds,
        }


def collect_samples(
    sample: Sampler, batches: Sequence[int], tolerance: float | None, seconds: float
) -> dict[int, Evidence]:
    """Sample until every batch size is decided, or for `seconds`; decided batch sizes are not sampled further.

    The first `MIN_PROCESSES` processes run even if the time is over, because an interval needs them.
    """
    evidence = {batch: Evidence() for batch in batches}
    start, longest = time.perf_counter(), 0.0
    with progress_bar("Measuring latency in new processes", None) as advance:
        for number in count():
            undecided = [b for b, e in evidence.items() if e.verdict(tolerance) is Verdict.UNDECIDED]
            now = time.perf_counter() - start
            if not undecided or (number >= MIN_PROCESSES and now + longest > seconds):
                return evidence
            for batch, batch_sample in sample(undecided, number).items():
                evidence[int(batch)].add(batch_sample)
            longest = max(longest, time.perf_counter() - start - now)
            advance(
                f"Measuring latency: process {number + 1}, {time.perf_counter() - start:.0f} s (limit {seconds:.0f} s)"
            )
    raise AssertionError("count() does not end")


class TimedFile(Protocol):
    """An ONNX file and the options of its session: an artifact, or another ONNX file of a bundle."""

    @property
    def model(self) -> Path: ...

    @property
    def options(self) -> SessionOptions: ...


def make_sampler(
    new: TimedFile, base: TimedFile, signature: Signature, threads: int, seed: int = 0, rows: Path | None = None
) -> Sampler:
    """Make a function that samples two files, each with the session options of its bundle.

    Requests are drawn from `signature`, or are the rows of the `.npz` file `rows`.
    """
    models = {name: (str(a.model.absolute()), a.options.to_dict()) for name, a in ((NEW, new), (BASE, base))}

    def sample(batches: Sequence[int], number: int) -> Mapping[str, Any]:
        answer: dict[str, Any] = call_fresh(
            SAMPLER,
            models=models,
            signature=signature.to_dict(),
            batches=list(batches),
            threads=threads,
            first=(NEW, BASE)[number % 2],
            seed=seed + 1000 * number,
            rows=None if rows is None else str(rows.absolute()),
        )
        return answer

    return sample


def compare_latency(evidence: Mapping[int, Evidence], tolerance: float, file: str | None = None) -> list[Finding]:
    """Return a finding for each batch size; `file` is the name of an ONNX file next to the model."""
    gate = "latency" if file is None else f"latency of {file}"
    limit = format_at_most(tolerance)
    findings = []
    for batch, samples in evidence.items():
        verdict, ratio = samples.verdict(tolerance), samples.ratio()
        base, new = (percentiles(np.array(samples.times[name])).p50 for name in (BASE, NEW))
        change = f"{100 * abs(ratio.estimate - 1):.1f} % {'more' if ratio.estimate >= 1 else 'less'}"
        interval = f"{100 * (ratio.low - 1):+.1f} to {100 * (ratio.high - 1):+.1f} %"
        reason = f"NEW takes {change} time at batch {batch} ({CONFIDENCE:.0%} interval {interval})"
        if verdict is Verdict.UNDECIDED:
            reason += (
                f"; the result is inconclusive for the limit, {limit}, since {len(samples.log_ratios)} processes give an interval of "
                f"+-{100 * ratio.resolution:.1f} %: raise --time-limit, or use a less busy machine"
            )
        findings.append(
            Finding(f"{gate}, batch {batch}", verdict, f"{reason}.", base, new, "ms", limit, ratio, tolerance)
        )
    return findings
