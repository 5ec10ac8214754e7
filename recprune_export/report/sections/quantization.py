"""Section on quantization: storage formats, loss of quality, and speed-up."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.evidence import Estimate
from recprune_export.number_formats import orient_speed
from recprune_export.report.numbers import format_bytes, format_count, format_interval, format_ratio, format_signed
from recprune_export.report.page import PageTable, Section, name_markup

MAX_ROWS = 60


def quantization_section(manifest: Manifest) -> Section | None:
    """Return the loss of the gate, the speed-up over fp32, and the format of each weight; None without quantization."""
    quantization = manifest.quantisation
    if not quantization:
        return None
    tables = []
    if quantization.get("speedups"):
        rows = tuple((f"batch {batch}", *_describe_speed(ratio)) for batch, ratio in quantization["speedups"].items())
        caption = "Compared with the same file in fp32, with 95 % intervals"
        tables.append(PageTable(caption, ("", "speed", ""), rows, frozenset({0, 2})))
    weights = [*quantization.get("tables", ()), *quantization.get("layers", ())]
    if weights:
        title = "How each weight is stored"
        if len(weights) > MAX_ROWS:
            title += f", the first {MAX_ROWS} of {len(weights):,}; all are in manifest.json"
        cells = tuple(_row(weight) for weight in weights[:MAX_ROWS])
        tables.append(PageTable(title, ("weight", "shape", "form", "bytes", "why"), cells, frozenset({0, 1, 2, 4})))
    return Section("quantisation", "Fewer bits", _describe_quantization(quantization), tables=tuple(tables))


def _describe_speed(values: Mapping[str, float]) -> tuple[str, str]:
    ratio, word = orient_speed(Estimate(values["estimate"], values["low"], values["high"]))
    return f"{format_ratio(ratio.estimate)} ({format_interval((ratio.low, ratio.high))})", word


def _row(weight: Mapping[str, Any]) -> tuple[Any, ...]:
    before, after = weight["bytes"]
    shape = " × ".join(f"{count:,}" for count in weight["shape"])
    stored = format_bytes(after) if before == after else f"{format_bytes(before)} → {format_bytes(after)}"
    return name_markup(weight["name"]), shape, weight["form"], stored, weight["reason"]


def _describe_quantization(quantization: Mapping[str, Any]) -> tuple[str, ...]:
    sentences = []
    if "bytes" in quantization:
        before, after = (format_bytes(quantization["bytes"][key]) for key in ("before", "after"))
        sentences.append(f"The model has {after} instead of {before} in fp32.")
    if "loss" in quantization:
        loss = quantization["loss"]
        interval = (
            "" if loss["interval"] is None else f", with a 95 % interval of {format_interval(loss['interval'], '+.5f')}"
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
