"""The key figures of two bundles as numbers, for the terminal and for programs."""

from dataclasses import dataclass

from recprune_export.bundle.key_figures import read_counts, read_speedups
from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.codec import ToDictMixin
from recprune_export.evidence import Estimate
from recprune_export.report.comparison.bundle_pair import BundlePair
from recprune_export.report.comparison.compared_jobs import list_different_options
from recprune_export.report.comparison.compared_latency import list_batches, read_times
from recprune_export.validation.latency.backends import PRUNED_ONNX
from recprune_export.validation.latency.speedup import choose_batch


@dataclass(frozen=True)
class SideFigures(ToDictMixin):
    """One bundle: bytes of `model.onnx` and of its weights, latency at one batch size, and the deciding metric.

    `milliseconds` is a median, `speedup` that over the dense model in the same job, and `change` that of the metric from the dense
    model. None for figures that the manifest does not contain.
    """

    name: str
    bytes: int | None
    table_bytes: int | None
    other_weight_bytes: int | None
    milliseconds: float | None
    speedup: Estimate | None
    metric: str | None
    value: float | None
    change: Estimate | None


@dataclass(frozen=True)
class PairFigures(ToDictMixin):
    """Both bundles, at the `batch` size of the headline, and the reasons why figures cannot be compared.

    `latency_differences`: conditions of the measurements that differ. `have_same_rows`: whether the metrics are of the same rows.
    """

    a: SideFigures
    b: SideFigures
    batch: int | None
    latency_differences: tuple[str, ...]
    have_same_rows: bool
    different_options: tuple[str, ...]


def read_pair_figures(pair: BundlePair) -> PairFigures:
    """Return the key figures of two bundles."""
    batches = list_batches(pair)
    batch = choose_batch(batches) if batches else None
    a, b = (_read_side(manifest, batch) for manifest in (pair.a, pair.b))
    return PairFigures(
        a,
        b,
        None if batch is None else int(batch),
        pair.latency_differences,
        pair.have_same_rows,
        list_different_options(pair),
    )


def _read_side(manifest: Manifest, batch: str | None) -> SideFigures:
    counts, change = read_counts(manifest), manifest.change
    times = None if batch is None else read_times(manifest, batch, PRUNED_ONNX)
    return SideFigures(
        name=manifest.name,
        bytes=None if counts is None else counts[1].bytes,
        table_bytes=None if counts is None else counts[1].tables.bytes,
        other_weight_bytes=None if counts is None else counts[1].rest.bytes,
        milliseconds=None if times is None else times["p50"],
        speedup=None if batch is None else read_speedups(manifest).get(int(batch)),
        metric=change.get("metric"),
        value=change.get("after"),
        change=Estimate(change["after"] - change["before"], *change["interval"]) if change else None,
    )
