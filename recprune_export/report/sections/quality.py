"""How good: metrics on test rows, and how sure their change is."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import TO, interval, signed, whole
from recprune_export.report.page import Headline, Section, Table

NO_DATA = "The model was compressed without rows that have labels."


def quality_section(manifest: Manifest) -> Section:
    """Return the metrics of both files, and what the interval of the change says; where none are stated, say so."""
    dense, pruned = manifest.metrics["dense"], manifest.metrics["pruned"]
    if not pruned:
        return Section(
            "quality",
            "Quality",
            (
                f"Not measured. {NO_DATA} With --data the model is tuned on them, and measured on those that were held out.",
            ),
        )
    rows = tuple(
        (metric_in_words(name), f"{dense[name]:.4f}", f"{value:.4f}", signed(value - dense[name]))
        for name, value in pruned.items()
        if name in dense
    )
    table = Table(f"Metrics on {_rows(manifest)}, in ONNX Runtime", ("", "dense", "pruned", "change"), rows)
    said = (_judged(manifest.change),) if manifest.change else ()
    return Section("quality", "Quality", said, tables=(table, *_shared_rows(manifest.plan.get("rows"))))


def quality_headline(manifest: Manifest) -> Headline:
    """Return by how much the metric changed, with its interval."""
    change, dense, pruned = manifest.change, manifest.metrics["dense"], manifest.metrics["pruned"]
    if not change:
        name = next((name for name in pruned if name in dense), None)
        if name is None:
            return Headline("quality", "not measured", (NO_DATA,))
        said = (f"{pruned[name]:.4f} instead of {dense[name]:.4f} on {_rows(manifest)}.", "No interval was recorded.")
        return Headline(f"change of {metric_in_words(name)}", signed(pruned[name] - dense[name]), said)
    return Headline(
        f"change of {metric_in_words(change['metric'])}",
        signed(change["after"] - change["before"]),
        (
            f"95 % interval {interval(change['interval'], '+.4f')}.",
            f"{change['after']:.4f} instead of {change['before']:.4f} on {_rows(manifest)}.",
        ),
    )


def _judged(change: Mapping[str, Any]) -> str:
    low, high = change["interval"]
    name = metric_in_words(change["metric"])
    stated = (
        f"{name} changed by {signed(change['after'] - change['before'])}, with a 95 % interval of "
        f"{interval(change['interval'], '+.4f')} by a paired bootstrap over {whole(change['rows'])} test rows."
    )
    if high < 0:
        return f"{stated} The interval lies below zero: the loss is there, however small."
    if low > 0:
        return f"{stated} The interval lies above zero: the pruned model is the better one on these rows."
    return f"{stated} The interval holds zero: these rows cannot tell the two models apart, nor rule out a loss of {-low:.4f}."


def _shared_rows(report: Mapping[str, Any] | None) -> tuple[Table, ...]:
    if not report:
        return ()
    rows = []
    for part, said in (("with_rare", "with a rare id"), ("without_rare", "without")):
        dense, pruned = (report[part]["metrics"].get(which, {}) for which in ("dense", "pruned"))
        for metric in dict.fromkeys((*dense, *pruned)):
            values = (f"{of[metric]:.4f}" if metric in of else TO for of in (dense, pruned))
            rows.append((f"{whole(report[part]['rows'])} {said}, {metric_in_words(metric)}", *values))
    tables = [(table["table"], whole(table["before"]), whole(table["after"])) for table in report["tables"]]
    return (
        Table("Rare ids share a row of their table", ("table", "rows before", "rows"), tuple(tables)),
        Table("Metrics by kind of test row", ("test rows", "dense", "pruned"), tuple(rows)),
    )


def _rows(manifest: Manifest) -> str:
    count = f"{whole(manifest.change['rows'])} test rows" if manifest.change.get("rows") else "test rows"
    return f"{count} of {manifest.settings['data']}" if manifest.settings.get("data") else count


def metric_in_words(name: str) -> str:
    """Return the name of a metric with its acronyms, and in which direction it is better where that is not plain.

    >>> metric_in_words("mean auc"), metric_in_words("ndcg@10")
    ('mean AUC', 'NDCG@10')
    """
    if name.rpartition("/")[2] == "logloss":
        return f"{name} (less is better)"
    return name.replace("auc", "AUC").replace("ndcg", "NDCG").replace("hr@", "HR@")
