"""Section on the trade-off: the Pareto curve of a sweep, with the bundle."""

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_bytes, format_interval, format_ratio, format_signed
from recprune_export.report.page import PageFigure, PageTable, Section
from recprune_export.report.plots.pareto_curve import ParetoPoint, draw_pareto_curve
from recprune_export.report.sections.quality import describe_metric
from recprune_export.report.sweep_file import SweepFile, SweepTrial
from recprune_export.validation.latency.speedup import choose_batch

MEGABYTE = 1e6


def tradeoff_section(manifest: Manifest, sweep: SweepFile) -> Section:
    """Return plots of the change of quality against size and against speed, and a table of all trials.

    All points are trials of the sweep, so that they have the same rows and the same measurement of latency; the one at the
    sparsity of the bundle stands out.
    """
    batch = choose_batch(sweep.trials[0].speedup)
    sparsity = _single_sparsity(manifest)
    up = f"change of {describe_metric(sweep.metric)}, 95 % interval"
    figures = (
        PageFigure(
            draw_pareto_curve(
                "tradeoff-size",
                "Quality against size",
                [_point(trial, trial.bytes / MEGABYTE, sparsity) for trial in sweep.trials],
                across="MB of the ONNX file",
                up=up,
                less_is_better=True,
            ),
            "Quality against size",
        ),
        PageFigure(
            draw_pareto_curve(
                "tradeoff-speed",
                "Quality against speed",
                [_point(trial, trial.speedup[batch][0], sparsity) for trial in sweep.trials],
                across=f"times as fast as dense in ONNX Runtime, batch {batch}",
                up=up,
                less_is_better=False,
            ),
            f"Quality against speed, batch {batch}",
        ),
    )
    marked = any(trial.sparsity == sparsity for trial in sweep.trials)
    explanation = (
        "Each point was pruned and fine-tuned separately and compared with the dense model on the validation rows; the "
        "number at it is the sparsity. The line joins the "
        "points that no other point beats in both respects."
        + (" The diamond is the trial at the sparsity of this bundle." if marked else ""),
    )
    return Section("tradeoff", "Trade-off", explanation, figures, (_table(sweep),))


def _point(trial: SweepTrial, cost: float, sparsity: float | None) -> ParetoPoint:
    is_bundle = trial.sparsity == sparsity
    return ParetoPoint(f"{trial.sparsity:g}", cost, trial.change, trial.low, trial.high, is_bundle=is_bundle)


def _single_sparsity(manifest: Manifest) -> float | None:
    """Return the sparsity of tables and the rest; None where they have different ones."""
    settings = manifest.settings
    separate = settings.get("embedding_sparsity") is not None or settings.get("hidden_sparsity") is not None
    return None if separate else settings.get("sparsity")


def _table(sweep: SweepFile) -> PageTable:
    batches = tuple(sweep.trials[0].speedup)
    rows = tuple(
        (
            f"{t.sparsity:g}" + (" (knee)" if t.sparsity == sweep.knee else ""),
            f"{format_signed(t.change)} ({format_interval((t.low, t.high), '+.4f')})",
            format_bytes(t.bytes),
            *(f"{format_ratio(t.speedup[b][0])} ({format_interval(t.speedup[b][1:])})" for b in batches),
        )
        for t in sweep.trials
    )
    headings = (
        "sparsity",
        f"change of {describe_metric(sweep.metric)}",
        "size",
        *(f"batch {b}" for b in batches),
    )
    return PageTable(
        "The sweep, with 95 % intervals; by batch size, how many times as fast as dense in ONNX Runtime",
        headings,
        rows,
    )
