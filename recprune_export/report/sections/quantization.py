"""Section on quantization: storage formats, loss of quality, and speed-up."""

from collections.abc import Mapping, Sequence
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.evidence import Estimate
from recprune_export.number_formats import orient_speed
from recprune_export.report.numbers import format_bytes, format_count, format_interval, format_ratio, format_signed
from recprune_export.report.page import Cell, PageTable, Section, list_markup

MAX_ROWS = 60
MAX_NAMES = 6  # the number of weights named for one reason


def quantization_section(manifest: Manifest) -> Section | None:
    """Return the loss of the gate, the speed-up over fp32, and the format of each weight; None without quantization."""
    quantization = manifest.quantization
    if not quantization:
        return None
    tables = []
    if quantization.get("speedups"):
        rows = tuple((f"batch {batch}", _describe_speed(ratio)) for batch, ratio in quantization["speedups"].items())
        caption = "Compared with the same file in fp32, with 95\u00a0% intervals"
        tables.append(PageTable(caption, ("", "speed"), rows))
    weights = [*quantization.get("tables", ()), *quantization.get("layers", ())]
    if weights:
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for weight in weights:
            groups.setdefault((weight["form"], weight["reason"]), []).append(weight)
        title = "How weights are stored"
        if len(groups) > MAX_ROWS:
            title += f", the first {MAX_ROWS} of {len(groups):,} reasons; all are in manifest.json"
        cells = tuple(_row(*key, of) for key, of in list(groups.items())[:MAX_ROWS])
        tables.append(PageTable(title, ("weight", "shape", "form", "bytes", "why"), cells, frozenset({0, 1, 2, 4})))
    return Section(
        "quantization",
        "Fewer bits",
        _describe_quantization(quantization),
        tables=tuple(tables),
        gist=quantization.get("mode", ""),
        is_open=False,
    )


def _describe_speed(values: Mapping[str, float]) -> str:
    ratio, word = orient_speed(Estimate(values["estimate"], values["low"], values["high"]))
    return f"{format_ratio(ratio.estimate)} ({format_interval((ratio.low, ratio.high))}) {word}"


def _row(form: str, reason: str, weights: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
    """Return the row of all weights of one form that have it for the same reason."""
    before, after = (sum(weight["bytes"][end] for weight in weights) for end in (0, 1))
    shapes = dict.fromkeys(" × ".join(f"{count:,}" for count in weight["shape"]) for weight in weights)
    stored = format_bytes(after) if before == after else f"{format_bytes(before)} → {format_bytes(after)}"
    names = list_markup(tuple(weight["name"] for weight in weights), MAX_NAMES)
    return names, next(iter(shapes)) if len(shapes) == 1 else "several", form, stored, reason


def _describe_quantization(quantization: Mapping[str, Any]) -> tuple[str, ...]:
    sentences = []
    if "bytes" in quantization:
        before, after = (format_bytes(quantization["bytes"][key]) for key in ("before", "after"))
        sentences.append(f"The model has {after} instead of {before} in fp32.")
    if "loss" in quantization:
        loss = quantization["loss"]
        interval = (
            ""
            if loss["interval"] is None
            else f", with a 95\u00a0% interval of {format_interval(loss['interval'], '+.5f')}"
        )
        sentences.append(
            f"The gate: {loss['metric']} lost {format_signed(loss['lost'], '+.5f')}{interval}; {loss['limit']:g} was allowed. "
            + _describe_verdict(loss)
        )
    if quantization.get("taken_back"):
        sentences.append(f"Reverted to more bits for quality: {len(quantization['taken_back'])} weights.")
    return tuple(sentences)


def _describe_verdict(loss: Mapping[str, Any]) -> str:
    if loss.get("answers_error") is not None:
        return (
            f"This is inconclusive with {format_count(loss['rows'])} validation rows, so the error of the outputs was used instead: "
            f"{loss['answers_error']:.2%} of their spread, at most {loss['answers_limit']:.2%} allowed."
        )
    return "It holds." if loss["passed"] else "It fails, even after reverting weights to more bits."
