"""Section on fine-tuning: the validation metric after each epoch, and the weights that were kept."""

from collections.abc import Iterator, Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_significant
from recprune_export.report.page import PageFigure, PageTable, Section
from recprune_export.report.plots.tuning_curve import DIGITS, draw_tuning_curve
from recprune_export.report.sections.quality import describe_metric

EXPLANATION = (
    "After each epoch the model was evaluated on the validation rows, and the best weights were kept: the diamond. The model before "
    "tuning is a candidate too, with all its zeros set: the dashed line. Epochs in which zeros are still being set are not candidates."
)
WITHOUT_ROWS = (
    "After each epoch the answers were compared with those of the dense model, and the nearest weights were kept: the diamond. The model "
    "before tuning is a candidate too, with all its zeros set: the dashed line."
)


def tuning_section(manifest: Manifest) -> Section | None:
    """Return a curve and a table for each run of fine-tuning; None without tuning."""
    figures = tuple(
        _figure(f"tuning-{number}", title, run, _name_metric(manifest, run))
        for number, (title, run) in enumerate(_list_runs(manifest.plan))
    )
    if not figures:
        return None
    explanation = EXPLANATION if manifest.settings.get("metrics") else WITHOUT_ROWS
    gist = figures[-1].caption.partition(": ")[2]
    return Section("tuning", "Fine-tuning", (explanation,), figures, gist=gist)


def _list_runs(plan: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a title and the result of each run that has a metric: the regularized training, then each stage."""
    regularized = plan.get("regularization")
    if regularized and _has_metric(regularized):
        yield "Training towards fewer channels", regularized
    stages: list[Mapping[str, Any]] = []
    stage: Mapping[str, Any] | None = plan
    while stage:
        stages.append(stage)
        stage = stage.get("then")
    for number, stage in enumerate(stages, start=1):
        if stage.get("finetuning") and _has_metric(stage["finetuning"]):
            yield f"Stage {number}" if len(stages) > 1 else "Fine-tuning", stage["finetuning"]


def _has_metric(run: Mapping[str, Any]) -> bool:
    return any(epoch["metric"] is not None for epoch in run["epochs"])


def _name_metric(manifest: Manifest, run: Mapping[str, Any]) -> str:
    """Return the name of the validation metric, which older bundles store in another place."""
    name = run.get("metric") or manifest.change.get("metric")
    return "validation metric" if name is None else describe_metric(name)


def _figure(key: str, title: str, run: Mapping[str, Any], metric: str) -> PageFigure:
    epochs, untuned, chosen = run["epochs"], run.get("untuned"), run["best"] + 1
    values = [epoch["metric"] for epoch in epochs]
    kept = "the weights before tuning were kept" if chosen == 0 else f"epoch {chosen} of {len(epochs)} was kept"
    picture = draw_tuning_curve(key, f"{title}: {metric} by epoch", values, chosen, untuned, metric)
    rows = [("0, before tuning", "", _format(untuned), "kept" if chosen == 0 else "")] if untuned is not None else []
    rows += [
        (
            str(number),
            format_significant(epoch["loss"], DIGITS),
            _format(epoch["metric"]),
            "kept" if number == chosen else "",
        )
        for number, epoch in enumerate(epochs, start=1)
    ]
    table = PageTable(f"{title}, by epoch", ("epoch", "training loss", metric, ""), tuple(rows), frozenset({0, 3}))
    return PageFigure(picture, f"{title}: {kept}", table)


def _format(metric: float | None) -> str:
    return "no candidate" if metric is None else format_significant(metric, DIGITS)
