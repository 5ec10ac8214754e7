"""Section on latency: distributions of the backends, ratios with intervals, and the cost of a restart."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.number_formats import format_turns, orient_speed
from recprune_export.report.numbers import format_bytes, format_interval, format_milliseconds, format_ratio
from recprune_export.report.page import Headline, PageFigure, PageTable, Section
from recprune_export.report.plots.strips import draw_strips
from recprune_export.validation.latency.backends import PRUNED_ONNX
from recprune_export.validation.latency.closed_loop import WALL
from recprune_export.validation.latency.speedup import RATIO, find_speedup

PERCENTS = (50, 95, 99)
HOW = (
    "All backends ran interleaved in one process, in turns of several calls, the first of which is not timed, so that caches are "
    "warm and disturbances of the machine affect all equally. Outliers are included."
)
PRECISE = " Measuring a batch size stops when its ratios are precise; a rough ratio suffices for PyTorch, which therefore has fewer turns."
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
    tables = [_ratios(latency["ratios"], latency.get("clock", WALL))] if latency.get("ratios") else []
    if latency.get("cpu_milliseconds"):
        tables.append(_cpu_times(latency))
    if latency.get("cold"):
        tables.append(_cold(latency["cold"], latency.get("clock", WALL)))
    if latency.get("footprint"):
        tables.append(_footprints(latency["footprint"]))
    threads = latency.get("threads")
    precise = PRECISE if latency.get("turns") else ""
    explanation = f"{HOW}{precise} {STRIPS if latency.get('percents') else DOTS}"
    return Section(
        "latency",
        "Latency",
        (explanation if threads is None else f"{_threads(threads)}. {explanation}",),
        figures,
        tuple(tables),
    )


def speed_headline(manifest: Manifest) -> Headline | None:
    """Return the speed-up over the dense model in ONNX Runtime, with those at other batch sizes."""
    speedup = find_speedup(manifest.latency)
    if speedup is None:
        return None
    ratio, word = orient_speed(speedup.ratio)
    conditions = [f"95\u00a0% interval {format_interval((ratio.low, ratio.high))}, compared with {speedup.conditions}."]
    ratios = {batch: by_pair.get(RATIO) for batch, by_pair in manifest.latency["ratios"].items()}
    others = [f"{_ratio(other)} at {batch}" for batch, other in ratios.items() if other and int(batch) != speedup.batch]
    if others:
        conditions.append(f"At other batch sizes: {', '.join(others)}.")
    return Headline(word, format_ratio(ratio.estimate), tuple(conditions))


def _threads(count: int) -> str:
    return "One thread" if count == 1 else f"{count} threads"


def _figure(latency: Mapping[str, Any], batch: str) -> PageFigure:
    backends = latency["milliseconds"][batch]
    percents = latency.get("percents", ())
    distributions = {backend: read_distribution(values, percents) for backend, values in backends.items()}
    title = f"Latency at batch {batch}"
    rounds, requests = (latency.get(key, {}).get(batch) for key in ("rounds", "requests"))
    details = (f", {rounds:,} rounds" if rounds else "") + (
        f" of {requests:,} different requests" if rounds and requests else ""
    )
    turns = latency.get("turns", {}).get(batch)
    if turns:
        details += f", in {format_turns(turns)}"
    return PageFigure(
        draw_strips(f"latency-{batch}", title, distributions, (PRUNED_ONNX,)),
        f"Batch {batch}{details}",
        _percentiles(f"Milliseconds at batch {batch}, with 95\u00a0% intervals", backends),
    )


def read_distribution(values: Mapping[str, Any], percents: Any) -> dict[int, float]:
    """Return the times in ms of a backend by percentile, of which earlier bundles have three."""
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


def _ratios(ratios: Mapping[str, Any], clock: str) -> PageTable:
    names = tuple(next(iter(ratios.values())))
    rows = tuple(
        (name.replace(" / ", " : "), *(_ratio(batch_ratios[name]) for batch_ratios in ratios.values()))
        for name in names
    )
    headings = ("", *(f"batch {batch}" for batch in ratios))
    by = "medians" if clock == WALL else "CPU time, since the machine was busy"
    return PageTable(f"Ratio of the first to the second, by {by}, with 95\u00a0% intervals", headings, rows)


def _cpu_times(latency: Mapping[str, Any]) -> PageTable:
    times = latency["cpu_milliseconds"]
    headings = ("", *(f"batch {batch}" for batch in times))
    preemptions = ("involuntary context switches", *(f"{latency['preemptions'].get(batch, 0):,}" for batch in times))
    return PageTable("CPU time of a call in ms, the first quartile", headings, (*_by_backend(times), preemptions))


def _cold(cold: Mapping[str, Any], clock: str) -> PageTable:
    """Return the times with cold caches, and their ratios if the machine was not busy."""
    headings = ("", *(f"batch {batch}" for batch in cold["milliseconds"]))
    rows = _by_backend(cold["milliseconds"])
    title = f"Cold caches: ms after {format_bytes(cold['bytes'])} of other memory was read, medians"
    if clock != WALL:
        return PageTable(f"{title}; the machine was busy, so no ratios are given", headings, rows)
    return PageTable(
        f"{title}; ratios with 95\u00a0% intervals", headings, (*rows, *_ratios(cold["ratios"], WALL).rows)
    )


def _by_backend(times: Mapping[str, Mapping[str, float]]) -> tuple[tuple[str, ...], ...]:
    names = next(iter(times.values()))
    return tuple((name, *(format_milliseconds(of[name]) for of in times.values())) for name in names)


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
