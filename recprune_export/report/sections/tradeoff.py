"""Section on the trade-off: quality against size and speed of all candidates that were measured, with the bundle among them."""

from collections.abc import Sequence
from typing import TypeVar

from recprune_export.bundle.key_figures import read_counts
from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.bundle.storage_summary import read_storage
from recprune_export.report.numbers import format_bytes, format_interval, format_ratio, format_signed
from recprune_export.report.page import PageFigure, PageTable, Section
from recprune_export.report.plots.pareto_curve import ParetoPoint, draw_pareto_curve
from recprune_export.report.sections.quality import describe_metric
from recprune_export.report.sweep_file import QualityTrial, SweepFile, read_quality_trial
from recprune_export.validation.latency.speedup import choose_batch

KILOBYTE = 1e3
TrialT = TypeVar("TrialT", bound=QualityTrial)


def tradeoff_section(manifest: Manifest, sweep: SweepFile) -> Section:
    """Return plots of the change of quality against size and against speed, and a table of all trials.

    All points are trials of the sweep, so that they have the same rows and the same measurement of latency; the one at the point of the
    bundle is highlighted.
    """
    batch = choose_batch(sweep.trials[0].speedup)
    bundle = find_bundle_trial(manifest, sweep.trials)
    up = _label_change(sweep.metric)
    figures = (
        PageFigure(
            draw_pareto_curve(
                "tradeoff-size",
                "Quality against size",
                [_point(trial, trial.bytes / KILOBYTE, bundle) for trial in sweep.trials],
                across="kB of the ONNX file",
                up=up,
                less_is_better=True,
                logarithmic=True,
            ),
            "Quality against size",
        ),
        PageFigure(
            draw_pareto_curve(
                "tradeoff-speed",
                "Quality against speed",
                [_point(trial, trial.speedup[batch][0], bundle) for trial in sweep.trials],
                across=f"times as fast as dense in ONNX Runtime, batch {batch}",
                up=up,
                less_is_better=False,
            ),
            f"Quality against speed, batch {batch}",
        ),
    )
    explanation = (
        "Each point was compressed separately and compared with the dense model on the validation rows. Its label is the sparsity "
        "or, with a percent sign, the allowed size as a fraction of the dense file, for which widths and bits are "
        "chosen together. int8 is the unpruned dense model. The line is the Pareto front: no other point is better in both respects."
        + ("" if bundle is None else " The diamond is the trial at the point of this bundle."),
    )
    return Section(
        "tradeoff", "Trade-off", explanation, figures, (_table(sweep),), gist=f"{len(sweep.trials)} points of a sweep"
    )


def search_section(manifest: Manifest) -> Section | None:
    """Return a plot and a table of the trials of `--max-drop`, whose files were neither written nor timed; None without any."""
    if not manifest.trials:
        return None
    trials = [read_quality_trial(values) for values in manifest.trials]
    metric, by_bytes = manifest.trials[0]["metric"], trials[0].kind == "bytes"
    bundle = find_bundle_trial(manifest, trials)
    title = "Quality against the allowed bytes" if by_bytes else "Quality against the sparsity"
    picture = draw_pareto_curve(
        "tradeoff-search",
        title,
        [_point(trial, 100.0 * trial.value, bundle) for trial in trials],
        across="% of the bytes of the dense file" if by_bytes else "sparsity in %",
        up=_label_change(metric),
        less_is_better=by_bytes,
        logarithmic=by_bytes,
    )
    rows = tuple(
        (
            trial.label,
            str(values["seed"]),
            f"{format_signed(trial.change)} ({format_interval((trial.low, trial.high), '+.4f')})",
        )
        for trial, values in zip(trials, manifest.trials, strict=True)
    )
    caption = f"The trials, with 95\u00a0% intervals over {manifest.trials[0]['rows']:,} validation rows"
    table = PageTable(caption, ("point", "seed", f"change of {describe_metric(metric)}"), rows)
    explanation = (
        "How far to compress was searched: each point is a trial that was pruned and tuned, and compared with the dense model on the "
        "validation rows. The line joins the points that no other point beats in both respects."
        + ("" if bundle is None else " The diamond is the point of this bundle."),
    )
    figure = PageFigure(picture, title)
    return Section("search", "Search", explanation, (figure,), (table,), gist=f"{len(trials)} trials")


def _label_change(metric: str) -> str:
    return f"change of {describe_metric(metric)}, 95\u00a0% interval"


def _point(trial: TrialT, cost: float, bundle: TrialT | None) -> ParetoPoint:
    return ParetoPoint(
        trial.mark, cost, trial.change, trial.low, trial.high, is_bundle=trial is bundle, kind=trial.kind
    )


def find_bundle_trial(manifest: Manifest, trials: Sequence[TrialT]) -> TrialT | None:
    """Return the first trial at the point of the bundle; None if there is none, or if the sparsities of tables and other layers
    differ."""
    settings, storage = manifest.settings, read_storage(manifest)
    if storage is not None:
        counts = read_counts(manifest)
        fraction = None if counts is None else storage.max_bytes / counts[0].bytes
        near = [
            t for t in trials if fraction is not None and t.kind == "bytes" and abs(t.value / fraction - 1.0) < 1e-3
        ]
        return near[0] if near else None
    if settings.get("embedding_sparsity") is not None or settings.get("hidden_sparsity") is not None:
        return None
    same = (t for t in trials if t.kind == "sparsity" and t.value == settings.get("sparsity"))
    return next(same, None)


def _table(sweep: SweepFile) -> PageTable:
    batches = tuple(sweep.trials[0].speedup)
    rows = tuple(
        (
            t.label + (" (knee)" if t.kind == "sparsity" and t.value == sweep.knee else ""),
            f"{format_signed(t.change)} ({format_interval((t.low, t.high), '+.4f')})",
            format_bytes(t.bytes),
            *(f"{format_ratio(t.speedup[b][0])} ({format_interval(t.speedup[b][1:])})" for b in batches),
        )
        for t in sweep.trials
    )
    headings = (
        "point",
        f"change of {describe_metric(sweep.metric)}",
        "size",
        *(f"batch {b}" for b in batches),
    )
    return PageTable(
        "The sweep, with 95\u00a0% intervals; by batch size, the speed-up over dense in ONNX Runtime",
        headings,
        rows,
    )
