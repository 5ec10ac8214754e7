"""Section on latency: distributions of the backends, ratios with intervals, and the cost of a restart."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_bytes, format_interval, format_milliseconds, format_ratio
from recprune_export.report.page import Headline, PageFigure, PageTable, Section
from recprune_export.report.plots.strips import draw_strips
from recprune_export.validation.latency.backends import DENSE_ONNX, DENSE_TORCH, PRUNED_ONNX

HEADLINE_BATCH = 256  # the headline shows the largest batch size up to this one
PERCENTS = (50, 95, 99)
HOW = (
    "All backends ran in one process and took turns, one round after the other, so disturbances of the machine affected "
    "all alike. Outliers are included."
)
STRIPS = (
    "A strip is thin from the 1st to the 99th percentile, thicker from the 5th to the 95th and thickest over the middle "
    "half; the mark is the median."
)
DOTS = "The mark is the median, the dots are the 95th and the 99th percentile."


def latency_section(manifest: Manifest) -> Section | None:
    """Return a plot and a table for each batch size, the ratios, and the footprints; None if nothing was measured."""
    latency = manifest.latency
    if not latency.get("milliseconds"):
        return None
    figures = tuple(_figure(latency, batch) for batch in latency["milliseconds"])
    tables = [_ratios(latency["ratios"])] if latency.get("ratios") else []
    if latency.get("footprint"):
        tables.append(_footprints(latency["footprint"]))
    threads = latency.get("threads")
    explanation = f"{HOW} {STRIPS if latency.get('percents') else DOTS}"
    return Section(
        "latency",
        "Latency",
        (explanation if threads is None else f"{_threads(threads)}. {explanation}",),
        figures,
        tuple(tables),
    )


def speed_headline(manifest: Manifest) -> Headline | None:
    """Return the speed-up over the dense model in PyTorch, and in ONNX Runtime."""
    ratios = manifest.latency.get("ratios", {})
    batches = [batch for batch in ratios if f"{DENSE_TORCH} / {PRUNED_ONNX}" in ratios[batch]]
    if not batches:
        return None
    batch = format_batch_list(batches)
    torch, onnx = (ratios[batch].get(f"{backend} / {PRUNED_ONNX}") for backend in (DENSE_TORCH, DENSE_ONNX))
    medians = [format_ratio(ratios[b][f"{DENSE_TORCH} / {PRUNED_ONNX}"]["estimate"]) for b in batches]
    faster = torch["estimate"] >= 1
    conditions = [
        f"95 % interval {format_interval((torch['low'], torch['high']))}, against the dense model in PyTorch, medians at batch {batch}."
    ]
    if onnx is not None:
        conditions.append(
            f"Against the dense model in ONNX Runtime {format_ratio(onnx['estimate'])} ({format_interval((onnx['low'], onnx['high']))})."
        )
    if len(batches) > 1:
        other_ratios = ", ".join(f"{ratio} at {b}" for b, ratio in zip(batches, medians, strict=True) if b != batch)
        conditions.append(f"Other batch sizes: {other_ratios}. {_threads(manifest.latency.get('threads', 1))}.")
    return Headline("faster" if faster else "as fast", format_ratio(torch["estimate"]), tuple(conditions))


def format_batch_list(batches: list[str]) -> str:
    """Return the batch size of the headline: the largest up to HEADLINE_BATCH, or else the smallest.

    >>> format_batch_list(["1", "32", "1024"]), format_batch_list(["512"])
    ('32', '512')
    """
    small = [batch for batch in batches if int(batch) <= HEADLINE_BATCH]
    return max(small or [min(batches, key=int)], key=int)


def _threads(count: int) -> str:
    return "One thread" if count == 1 else f"{count} threads"


def _figure(latency: Mapping[str, Any], batch: str) -> PageFigure:
    backends = latency["milliseconds"][batch]
    percents = latency.get("percents", ())
    distributions = {backend: _distribution(values, percents) for backend, values in backends.items()}
    title = f"Latency at batch {batch}"
    rounds, requests = (latency.get(key, {}).get(batch) for key in ("rounds", "requests"))
    details = (f", {rounds:,} rounds" if rounds else "") + (
        f" of {requests:,} different requests" if rounds and requests else ""
    )
    return PageFigure(
        draw_strips(f"latency-{batch}", title, distributions, (PRUNED_ONNX,)),
        f"Batch {batch}{details}",
        _percentiles(f"Milliseconds at batch {batch}, with 95 % intervals", backends),
    )


def _distribution(values: Mapping[str, Any], percents: Any) -> dict[int, float]:
    if values.get("distribution"):
        return dict(zip(percents, values["distribution"], strict=True))
    return {percent: values[f"p{percent}"] for percent in PERCENTS}


def _percentiles(caption: str, backends: Mapping[str, Any]) -> PageTable:
    rows = []
    for backend, values in backends.items():
        cells = [backend]
        for percent in PERCENTS:
            interval = values.get("intervals", {}).get(f"p{percent}")
            cells.append(
                format_milliseconds(values[f"p{percent}"]) + (f" ({format_interval(interval)})" if interval else "")
            )
        largest = values.get("distribution", [None])[-1]
        rows.append((*cells, "" if largest is None else format_milliseconds(largest)))
    return PageTable(caption, ("", "median", "95th percentile", "99th percentile", "slowest"), tuple(rows))


def _ratios(ratios: Mapping[str, Any]) -> PageTable:
    names = tuple(next(iter(ratios.values())))
    rows = tuple(
        (name.replace(" / ", " : "), *(_ratio(batch_ratios[name]) for batch_ratios in ratios.values()))
        for name in names
    )
    headings = ("", *(f"batch {batch}" for batch in ratios))
    return PageTable("How many times longer the first takes, by medians, with 95 % intervals", headings, rows)


def _ratio(estimate: Mapping[str, float]) -> str:
    return f"{format_ratio(estimate['estimate'])} ({format_interval((estimate['low'], estimate['high']))})"


def _footprints(footprint: Mapping[str, Any]) -> PageTable:
    backends = {backend: figures for backend, figures in footprint.items() if backend not in ("batch", "processes")}
    rows = tuple(
        (
            backend,
            f"{format_milliseconds(figures['load'])} ms",
            f"{format_milliseconds(figures['first_request'])} ms",
            format_bytes(figures["memory"]),
            format_bytes(figures["peak"]),
        )
        for backend, figures in backends.items()
    )
    return PageTable(
        f"In fresh processes, first request of {footprint['batch']} rows, medians",
        ("", "load", "first request", "memory", "peak while loading"),
        rows,
    )
