"""Section on quality: metrics on test rows, and the interval of their change."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.evidence import Verdict
from recprune_export.metrics.metric_catalogue import find_metric
from recprune_export.report.numbers import TO, format_count, format_interval, format_signed
from recprune_export.report.page import Headline, PageTable, Section
from recprune_export.report.sections.quality_breakdown import (
    explain_breakdown,
    make_calibration_figures,
    make_frequency_table,
)

NO_DATA = "The model was compressed without labeled rows."


def quality_section(manifest: Manifest) -> Section:
    """Return the metrics of both files and the interval of the change, or a note that nothing was measured."""
    dense, pruned = manifest.metrics["dense"], manifest.metrics["pruned"]
    if not pruned:
        return Section(
            "quality",
            "Quality",
            (
                f"Not measured. {NO_DATA} With --data, the model is fine-tuned on the training rows and measured on the held-out rows.",
            ),
        )
    rows = tuple(
        (describe_metric(name), f"{dense[name]:.4f}", f"{value:.4f}", format_signed(value - dense[name]))
        for name, value in pruned.items()
        if name in dense
    )
    table = PageTable(f"Metrics on {_rows(manifest)}, in ONNX Runtime", ("", "dense", "pruned", "change"), rows)
    paragraphs = (_interpret_change(manifest.change, manifest.quality),) if manifest.change else ()
    frequency = make_frequency_table(manifest.breakdown, describe_metric)
    return Section(
        "quality",
        "Quality",
        paragraphs,
        make_calibration_figures(manifest.breakdown),
        (table, *frequency, *_shared_rows(manifest.plan.get("rows"))),
        after=explain_breakdown(manifest.breakdown),
    )


def quality_headline(manifest: Manifest) -> Headline:
    """Return the change of the metric, with its interval."""
    change, dense, pruned = manifest.change, manifest.metrics["dense"], manifest.metrics["pruned"]
    if not change:
        name = next((name for name in pruned if name in dense), None)
        if name is None:
            return Headline("quality", "not measured", (NO_DATA,))
        conditions = (
            f"{pruned[name]:.4f} instead of {dense[name]:.4f} on {_rows(manifest)}.",
            "No interval was recorded.",
        )
        return Headline(f"change of {describe_metric(name)}", format_signed(pruned[name] - dense[name]), conditions)
    return Headline(
        f"change of {describe_metric(change['metric'])}",
        format_signed(change["after"] - change["before"]),
        (
            f"95\u00a0% interval {format_interval(change['interval'], '+.4f')}.",
            f"{change['after']:.4f} instead of {change['before']:.4f} on {_rows(manifest)}.",
        ),
    )


def _interpret_change(change: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    low, high = change["interval"]
    name = describe_metric(change["metric"])
    sentence = (
        f"{name} changed by {format_signed(change['after'] - change['before'])}, with a 95\u00a0% interval of "
        f"{format_interval(change['interval'], '+.4f')}, paired over {format_count(change['rows'])} test rows."
    )
    loss = (-high, -low) if change.get("greater_is_better", True) else (low, high)
    side = "below" if high < 0 else "above"
    if loss[0] > 0:
        meaning = f"The interval lies {side} zero: there is a loss."
    elif loss[1] < 0:
        meaning = f"The interval lies {side} zero: the pruned model is better on these rows."
    else:
        meaning = (
            "The interval contains zero: these rows show no difference between the two models, but do "
            f"not rule out a loss of {loss[1]:.4f}."
        )
    return " ".join(filter(None, (sentence, meaning, _describe_verdict(quality))))


def _describe_verdict(quality: Mapping[str, Any]) -> str:
    """Return that the loss is within the usual allowance; otherwise nothing, since the first note of the page describes the loss."""
    if not quality or quality["verdict"] != Verdict.HOLDS.words:
        return ""
    return f"A loss of more than {quality['limit']:.2g}, the usual allowance, is ruled out."


def _shared_rows(report: Mapping[str, Any] | None) -> tuple[PageTable, ...]:
    if not report:
        return ()
    rows = []
    for key, description in (("with_rare", "with a rare id"), ("without_rare", "without")):
        dense, pruned = (report[key]["metrics"].get(model, {}) for model in ("dense", "pruned"))
        for metric in dict.fromkeys((*dense, *pruned)):
            values = (f"{metrics[metric]:.4f}" if metric in metrics else TO for metrics in (dense, pruned))
            rows.append((f"{format_count(report[key]['rows'])} {description}, {describe_metric(metric)}", *values))
    tables = [
        (table["table"], format_count(table["before"]), format_count(table["after"])) for table in report["tables"]
    ]
    return (
        PageTable("Tables in which rare ids share one row", ("table", "rows before", "rows"), tuple(tables)),
        PageTable("Metrics by kind of test row", ("test rows", "dense", "pruned"), tuple(rows)),
    )


def _rows(manifest: Manifest) -> str:
    count = f"{format_count(manifest.change['rows'])} test rows" if manifest.change.get("rows") else "test rows"
    return f"{count} of {manifest.settings['data']}" if manifest.settings.get("data") else count


def describe_metric(name: str) -> str:
    """Return the name of a metric with acronyms in capitals; with a note if less is better.

    >>> describe_metric("mean auc"), describe_metric("ndcg@10"), describe_metric("stars/rmse")
    ('mean AUC', 'NDCG@10', 'stars/RMSE (less is better)')
    """
    label, slash, plain = name.rpartition("/")
    mean = "mean " if plain.startswith("mean ") else ""
    plain = plain.removeprefix("mean ")
    metric = find_metric(plain)
    if metric is None:
        return name
    words = plain if plain in ("logloss", "accuracy") else plain.upper()
    return f"{label}{slash}{mean}{words}{'' if metric.greater_is_better else ' (less is better)'}"
