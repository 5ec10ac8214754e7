"""What can this machine resolve? One artifact against itself tells how wide the interval is after a given time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.gate.artifact import open_artifact
from recprune_export.gate.check import BATCHES, TIME_LIMIT, check_answers
from recprune_export.gate.latency.paired_latency import CONFIDENCE, Evidence, collect_samples, make_sampler
from recprune_export.gate.limits import MAX_REGRESSION
from recprune_export.validation.latency.statistics import Estimate

POWER = 0.95  # of the runs in which a regression of the resolved size is to be found


@dataclass(frozen=True)
class Resolution:
    """At one batch size: `ratio` of an artifact to itself, from `processes`, and what that leaves room to see.

    `smallest` is the fraction above the tolerance from which on a regression is found in POWER of the runs.
    """

    ratio: Estimate
    processes: int
    smallest: float


@dataclass(frozen=True)
class Calibration(ToDictMixin):
    """Resolutions by batch size, for runs of `seconds` with this tolerance."""

    ENCODED = ("name", "resolutions", "tolerance", "detectable", "decides", "threads", "seconds")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"decides": "equal_artifacts_pass"}

    name: str
    resolutions: Mapping[int, Resolution] = field(metadata=json_name("batches"))
    tolerance: float
    threads: int
    seconds: float

    @property
    def detectable(self) -> float:
        """Return the smallest regression, as a fraction, that is found at every batch size."""
        return self.tolerance + max(r.smallest for r in self.resolutions.values())

    @property
    def decides(self) -> bool:
        """Say whether equal artifacts pass in the time: the interval has to fit below the tolerance."""
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
    """Compare an artifact to itself for `time_limit` seconds. Raises what `check` raises."""
    start = time.perf_counter()
    artifact = open_artifact(path)
    check_answers(artifact, artifact.signature)
    sample = make_sampler(artifact, artifact, artifact.signature, threads, seed)
    evidence = collect_samples(sample, batches, None, time_limit)
    found = {batch: compute_resolution(of) for batch, of in evidence.items()}
    return Calibration(artifact.name, found, tolerance, threads, time.perf_counter() - start)


def compute_resolution(evidence: Evidence) -> Resolution:
    """Return what the scatter between the processes allows to see.

    A regression is found when the interval lies above the tolerance: in POWER of the runs, where it is larger by the
    interval's half width and by the scatter of the estimate itself.
    """
    ratio = evidence.ratio()
    half = float(np.log(ratio.high / ratio.low)) / 2
    scatter = half / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return Resolution(ratio, len(evidence.log_ratios), float(np.expm1(half + NormalDist().inv_cdf(POWER) * scatter)))
