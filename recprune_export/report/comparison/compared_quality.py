"""Section on the quality of two bundles: the metrics of each, compared with those of its dense model."""

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.comparison.bundle_pair import SIDES, BundlePair
from recprune_export.report.numbers import TO, format_interval, format_signed
from recprune_export.report.page import Cell, Headline, PageTable, Section, code_markup
from recprune_export.report.sections.quality import describe_metric

OTHER_ROWS = (
    "The metrics of A and of B cannot be compared: they were measured on different test rows, or it is not recorded that the rows are "
    "the same."
)
OTHER_MODEL = "The dense models differ, so the changes from dense to pruned start from different values."
NOT_PAIRED = (
    "An interval is that of the change from the dense model to the pruned one. The difference of A and B has none here: "
    + code_markup("recprune-export check B --against A --data ROWS")
    + " compares both on the same rows, paired."
)


def compare_metrics(pair: BundlePair) -> Section:
    """Return the metrics of both, or a sentence if neither has any."""
    names = list(dict.fromkeys(name for of in (pair.a, pair.b) for name in of.metrics["pruned"]))
    if not names:
        return Section("quality", "Quality", ("Not measured: both were compressed without rows that have labels.",))
    rows = []
    for name in names:
        label = describe_metric(name)
        for words, model in (("pruned", "pruned"), ("dense", "dense")):
            rows.append((f"{label}, {words}", *(_format_metric(of, model, name) for of in (pair.a, pair.b))))
        rows.append((f"{label}, change", *(_format_change(of, name) for of in (pair.a, pair.b))))
    paragraphs: list[Cell] = [NOT_PAIRED]
    if not pair.have_same_dense_model:
        paragraphs.insert(0, OTHER_MODEL)
    if not pair.have_same_rows:
        paragraphs.insert(0, OTHER_ROWS)
    table = PageTable("Metrics on test rows, with 95\u00a0% intervals of the change", ("", *SIDES), tuple(rows))
    return Section("quality", "Quality", tuple(paragraphs), tables=(table,))


def headline_quality(pair: BundlePair) -> Headline | None:
    """Return the deciding metric of both; None if they have none in common."""
    name = pair.a.change.get("metric")
    if name is None or name != pair.b.change.get("metric"):
        return None
    conditions = [
        f"{side}: {format_signed(of.change['after'] - of.change['before'])} from dense, 95\u00a0% interval "
        f"{format_interval(of.change['interval'], '+.4f')}."
        for side, of in zip(SIDES, (pair.a, pair.b), strict=True)
    ]
    if not pair.have_same_rows:
        conditions.append("Measured on different rows, or rows that are not known to be the same.")
    value = f"{pair.a.change['after']:.4f} → {pair.b.change['after']:.4f}"
    return Headline(describe_metric(name), value, tuple(conditions))


def _format_metric(manifest: Manifest, model: str, name: str) -> str:
    value = manifest.metrics[model].get(name)
    return TO if value is None else f"{value:.4f}"


def _format_change(manifest: Manifest, name: str) -> str:
    before, after = (manifest.metrics[model].get(name) for model in ("dense", "pruned"))
    if before is None or after is None:
        return TO
    change = manifest.changes.get(name)
    interval = "" if change is None else f" ({format_interval(change['interval'], '+.4f')})"
    return format_signed(after - before) + interval
