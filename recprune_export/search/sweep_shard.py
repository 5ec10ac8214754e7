"""`SweepShard`: the part of a shared sweep that one machine has finished."""

from collections.abc import Sequence
from dataclasses import dataclass

from recprune_export.codec import ToDictMixin
from recprune_export.search._sweep import tune_points
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.trials import Trials
from recprune_export.search.workers.tuning_workers import TuningWorkers
from recprune_export.shard import Shard


@dataclass(frozen=True)
class SweepShard(ToDictMixin):
    """The pruned and tuned points of `shard`, and the unfinished points of all shards."""

    shard: str
    points: tuple[OperatingPoint, ...]
    missing: tuple[OperatingPoint, ...]

    @property
    def next_step(self) -> str:
        """The next step, as a sentence.

        >>> SweepShard("1/2", (), (OperatingPoint("sparsity", 0.5),)).next_step
        'Not yet tuned by the other shards: sparsity 0.5.'
        """
        if self.missing:
            return f"Not yet tuned by the other shards: {', '.join(point.label for point in self.missing)}."
        return "All points are tuned: run the same command without --shard to measure the latency of all points on one machine."


def tune_shard(
    trials: Trials, points: Sequence[OperatingPoint], shard: Shard, workers: TuningWorkers | None = None
) -> SweepShard:
    """Prune and tune at the points of `shard`; times are not measured here, so that all of them are later measured on one machine."""
    selected = shard.select(points)
    tune_points(trials, selected, workers)
    trials.read_folder()
    missing = tuple(point for point in points if not trials.is_tuned(trials.make_key(point)))
    return SweepShard(str(shard), selected, missing)
