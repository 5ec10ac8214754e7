"""How fast: distributions of the contestants, ratios with intervals, and what a restart costs."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_bytes, format_interval, format_milliseconds, format_ratio
from recprune_export.report.page import Headline, PageFigure, PageTable, Section
from recprune_export.report.plots.strips import draw_strips
from recprune_export.validation.latency.backends import DENSE_ONNX, DENSE_TORCH, PRUNED_ONNX

HEADLINE_BATCH = 256  # the largest up to it is spoken of first
PERCENTS = (50, 95, 99)
HOW = (
    "All contestants ran in one process and took turns, one round after the other, so what disturbed the machine hit them "
    "alike. Outliers are part of every figure."
)
STRIPS = (
    "A strip is thin from the 1st to the 99th percentile, thicker from the 5th to the 95th and thickest over the middle "
    "half; the mark is the median."
)
DOTS = "The mark is the median, the dots are the 95th and the 99th percentile."


def latency_section(manifest: Manifest) -> Section | None:
    """Return a picture and a table for each batch size, the ratios, and the footprints."""
    latency = manifest.latency
    if not latency.get("milliseconds"):
        return None
    figures = tuple(_figure(latency, batch) for batch in latency["milliseconds"])
    tables = [_ratios(latency["ratios"])] if latency.get("ratios") else []
    if latency.get("footprint"):
        tables.append(_footprints(latency["footprint"]))
    threads = latency.get("threads")
    said = f"{HOW} {STRIPS if latency.get('percents') else DOTS}"
    return Section(
        "latency", "Latency", (said if threads is None else f"{_threads(threads)}. {said}",), figures, tuple(tables)
    )


def speed_headline(manifest: Manifest) -> Headline | None:
    """Return how many times faster a request is answered than by the dense model in PyTorch, and in ONNX Runtime."""
    ratios = manifest.latency.get("ratios", {})
    batches = [batch for batch in ratios if f"{DENSE_TORCH} / {PRUNED_ONNX}" in ratios[batch]]
    if not batches:
        return None
    batch = format_batch_list(batches)
    torch, onnx = (ratios[batch].get(f"{who} / {PRUNED_ONNX}") for who in (DENSE_TORCH, DENSE_ONNX))
    medians = [format_ratio(ratios[b][f"{DENSE_TORCH} / {PRUNED_ONNX}"]["estimate"]) for b in batches]
    faster = torch["estimate"] >= 1
    said = [
        f"95 % interval {format_interval((torch['low'], torch['high']))}, against the dense model in PyTorch, medians at batch {batch}."
    ]
    if onnx is not None:
        said.append(
            f"Against the dense model in ONNX Runtime {format_ratio(onnx['estimate'])} ({format_interval((onnx['low'], onnx['high']))})."
        )
    if len(batches) > 1:
        told = ", ".join(f"{ratio} at {b}" for b, ratio in zip(batches, medians, strict=True) if b != batch)
        said.append(f"Other batch sizes: {told}. {_threads(manifest.latency.get('threads', 1))}.")
    return Headline("faster" if faster else "as fast", format_ratio(torch["estimate"]), tuple(said))


def format_batch_list(batches: list[str]) -> str:
    """Choose the batch size of the headline.

    >>> format_batch_list(["1", "32", "1024"]), format_batch_list(["512"])
    ('32', '512')
    """
    small = [batch for batch in batches if int(batch) <= HEADLINE_BATCH]
    return max(small or [min(batches, key=int)], key=int)


def _threads(count: int) -> str:
    return "One thread" if count == 1 else f"{count} threads"


def _figure(latency: Mapping[str, Any], batch: str) -> PageFigure:
    of = latency["milliseconds"][batch]
    percents = latency.get("percents", ())
    known = {who: _distribution(values, percents) for who, values in of.items()}
    title = f"Latency at batch {batch}"
    rounds, requests = (latency.get(key, {}).get(batch) for key in ("rounds", "requests"))
    told = (f", {rounds:,} rounds" if rounds else "") + (
        f" of {requests:,} different requests" if rounds and requests else ""
    )
    return PageFigure(
        draw_strips(f"latency-{batch}", title, known, (PRUNED_ONNX,)),
        f"Batch {batch}{told}",
        _percentiles(f"Milliseconds at batch {batch}, with 95 % intervals", of),
    )


def _distribution(values: Mapping[str, Any], percents: Any) -> dict[int, float]:
    if values.get("distribution"):
        return dict(zip(percents, values["distribution"], strict=True))
    return {percent: values[f"p{percent}"] for percent in PERCENTS}


def _percentiles(caption: str, of: Mapping[str, Any]) -> PageTable:
    rows = []
    for who, values in of.items():
        cells = [who]
        for percent in PERCENTS:
            known = values.get("intervals", {}).get(f"p{percent}")
            cells.append(format_milliseconds(values[f"p{percent}"]) + (f" ({format_interval(known)})" if known else ""))
        largest = values.get("distribution", [None])[-1]
        rows.append((*cells, "" if largest is None else format_milliseconds(largest)))
    return PageTable(caption, ("", "median", "95th percentile", "99th percentile", "slowest"), tuple(rows))


def _ratios(ratios: Mapping[str, Any]) -> PageTable:
    names = tuple(next(iter(ratios.values())))
    rows = tuple((name.replace(" / ", " : "), *(_ratio(of[name]) for of in ratios.values())) for name in names)
    headings = ("", *(f"batch {batch}" for batch in ratios))
    return PageTable("How many times longer the first takes, by medians, with 95 % intervals", headings, rows)


def _ratio(of: Mapping[str, float]) -> str:
    return f"{format_ratio(of['estimate'])} ({format_interval((of['low'], of['high']))})"


def _footprints(footprint: Mapping[str, Any]) -> PageTable:
    known = {who: of for who, of in footprint.items() if who not in ("batch", "processes")}
    rows = tuple(
        (
            who,
            f"{format_milliseconds(of['load'])} ms",
            f"{format_milliseconds(of['first_request'])} ms",
            format_bytes(of["memory"]),
            format_bytes(of["peak"]),
        )
        for who, of in known.items()
    )
    return PageTable(
        f"In fresh processes, first request of {footprint['batch']} rows, medians",
        ("", "load", "first request", "memory", "most while loading"),
        rows,
    )
