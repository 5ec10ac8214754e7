"""Resolution of the latency gate on this machine, measured by comparing an artifact with itself."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.evidence import Estimate
from recprune_export.gate._check import BATCHES, check_answers
from recprune_export.gate.artifact import open_artifact
from recprune_export.gate.gate_constants import CONFIDENCE, MAX_REGRESSION, POWER, TIME_LIMIT
from recprune_export.gate.latency.paired_latency import Evidence, collect_samples, make_sampler


@dataclass(frozen=True)
class Resolution:
    """Resolution at one batch size: `ratio` of an artifact to itself over `processes`, and the smallest detectable regression.

    `smallest`: a regression of the tolerance plus this fraction is detected with probability POWER.
    """

    ratio: Estimate
    processes: int
    smallest: float = field(metadata=json_name("smallest_regression"))


@dataclass(frozen=True)
class Calibration(ToDictMixin):
    """Resolutions by batch size, for runs of `seconds` with `tolerance`."""

    ENCODED = ("name", "resolutions", "tolerance", "detectable", "decides", "threads", "seconds")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {
        "detectable": "detectable_regression",
        "decides": "equal_artifacts_pass",
    }

    name: str
    resolutions: Mapping[int, Resolution] = field(metadata=json_name("by_batch_size"))
    tolerance: float
    threads: int
    seconds: float

    @property
    def detectable(self) -> float:
        """Return the smallest regression, as a fraction, that is detected at every batch size."""
        return self.tolerance + max(r.smallest for r in self.resolutions.values())

    @property
    def decides(self) -> bool:
        """Return whether equal artifacts pass within the time: the interval must fit below the tolerance."""
        return max(r.smallest for r in self.resolutions.values()) < self.tolerance


def calibrate(
    path: Path,
    *,
    tolerance: float = MAX_REGRESSION,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    time_limit: float = TIME_LIMIT,
    seed: int = 0,
) -> Calibration:
    """Compare an artifact to itself for `time_limit` seconds. Raises the same errors as `check`."""
    start = time.perf_counter()
    artifact = open_artifact(path)
    check_answers(artifact, artifact.signature)
    sample = make_sampler(artifact, artifact, artifact.signature, threads, seed)
    evidence = collect_samples(sample, batches, None, time_limit)
    resolutions = {batch: compute_resolution(samples) for batch, samples in evidence.items()}
    return Calibration(artifact.name, resolutions, tolerance, threads, time.perf_counter() - start)


def compute_resolution(evidence: Evidence) -> Resolution:
    """Compute the smallest detectable regression from the scatter between processes.

    A regression is detected if the interval lies above the tolerance. The probability is POWER if the regression exceeds the
    tolerance by half the interval's width plus the matching quantile of the estimate's scatter.
    """
    ratio = evidence.ratio()
    half_width = float(np.log(ratio.high / ratio.low)) / 2
    scatter = half_width / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return Resolution(
        ratio, len(evidence.log_ratios), float(np.expm1(half_width + NormalDist().inv_cdf(POWER) * scatter))
    )
