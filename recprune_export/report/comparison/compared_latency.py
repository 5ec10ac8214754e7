"""Section on the latency of two bundles: the measurements of each job, and whether they are comparable."""

from collections.abc import Iterator, Mapping
from typing import Any

from recprune_export.bundle.key_figures import read_speedups
from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.comparison.bundle_pair import SIDES, BundlePair
from recprune_export.report.numbers import TO, format_interval, format_milliseconds, format_ratio
from recprune_export.report.page import Cell, Headline, PageFigure, PageTable, Section, code_markup
from recprune_export.report.plots.strips import draw_strips
from recprune_export.report.sections.latency import read_distribution
from recprune_export.validation.latency.backends import DENSE_ONNX, PRUNED_ONNX
from recprune_export.validation.latency.speedup import choose_batch

NOT_COMPARABLE = "The times of A and of B cannot be compared, since they were measured under different conditions"
MEASURE = code_markup("recprune-export check B --against A") + " measures both in turns, and judges the difference."
SEPARATE = "Each was measured in its own job, at another time. "
SAME_DENSE = "The dense model is the same in both, so that its two times show how much the machine itself has changed."


def compare_latency(pair: BundlePair) -> Section | None:
    """Return times and speed-ups of both, with a plot if they are comparable; None if neither was measured."""
    batches = list_batches(pair)
    if not batches:
        return None
    differences = pair.latency_differences
    if differences:
        paragraphs: tuple[Cell, ...] = (f"{NOT_COMPARABLE}: {'; '.join(differences)}. " + MEASURE,)
    else:
        paragraphs = (SEPARATE + MEASURE, *((SAME_DENSE,) if pair.have_same_dense_model else ()))
    figures = () if differences else tuple(_figure(pair, batch) for batch in batches)
    rows = tuple(row for batch in batches for row in _rows(pair, batch))
    table = PageTable("Medians in ms and ratios, with 95\u00a0% intervals", ("", *SIDES), rows)
    return Section("latency", "Latency", paragraphs, figures, (table,))


def headline_speed(pair: BundlePair) -> Headline | None:
    """Return the speed-up of each over its dense model, at the batch size of the headline."""
    speedups = [read_speedups(manifest) for manifest in (pair.a, pair.b)]
    batches = speedups[0].keys() & speedups[1].keys()
    if not batches:
        return None
    batch = int(choose_batch(map(str, batches)))
    a, b = (of[batch] for of in speedups)
    conditions = [
        f"{side}: 95\u00a0% interval {format_interval((ratio.low, ratio.high))}."
        for side, ratio in zip(SIDES, (a, b), strict=True)
    ]
    if pair.latency_differences:
        conditions.append("They were measured under different conditions and cannot be compared.")
    value = f"{format_ratio(a.estimate)} → {format_ratio(b.estimate)}"
    return Headline(f"as fast as the dense model, batch {batch}", value, tuple(conditions))


def list_batches(pair: BundlePair) -> list[str]:
    """Return the batch sizes at which either was measured, in increasing order."""
    measured = {batch for manifest in (pair.a, pair.b) for batch in manifest.latency.get("milliseconds", {})}
    return sorted(measured, key=int)


def read_times(manifest: Manifest, batch: str, backend: str) -> Mapping[str, Any] | None:
    """Return the percentiles of a backend; None where it was not measured."""
    times: Mapping[str, Any] | None = manifest.latency.get("milliseconds", {}).get(batch, {}).get(backend)
    return times


def _figure(pair: BundlePair, batch: str) -> PageFigure:
    """Return the distributions of both, each under that of its dense model from the same job."""
    distributions = {}
    for side, manifest in zip(SIDES, (pair.a, pair.b), strict=True):
        for name, backend in ((f"{side}, dense", DENSE_ONNX), (side, PRUNED_ONNX)):
            times = read_times(manifest, batch, backend)
            if times is not None:
                distributions[name] = read_distribution(times, manifest.latency.get("percents", ()))
    title = f"Latency at batch {batch}"
    return PageFigure(draw_strips(f"latency-{batch}", title, distributions, SIDES), f"Batch {batch}, in ONNX Runtime")


def _rows(pair: BundlePair, batch: str) -> Iterator[tuple[str, ...]]:
    for words, backend in (("pruned", PRUNED_ONNX), ("dense", DENSE_ONNX)):
        yield f"batch {batch}, {words}", *(_format_median(of, batch, backend) for of in (pair.a, pair.b))
    yield f"batch {batch}, times as fast as dense", *(_format_speedup(of, batch) for of in (pair.a, pair.b))


def _format_median(manifest: Manifest, batch: str, backend: str) -> str:
    times = read_times(manifest, batch, backend)
    if times is None:
        return TO
    interval = times.get("intervals", {}).get("p50")
    return format_milliseconds(times["p50"]) + (f" ({format_interval(interval)})" if interval else "")


def _format_speedup(manifest: Manifest, batch: str) -> str:
    ratio = read_speedups(manifest).get(int(batch))
    return TO if ratio is None else f"{format_ratio(ratio.estimate)} ({format_interval((ratio.low, ratio.high))})"
