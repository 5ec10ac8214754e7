"""Section on the trade-off: the Pareto curve of a sweep, with the bundle."""

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_bytes, format_interval, format_ratio, format_signed
from recprune_export.report.page import PageFigure, PageTable, Section
from recprune_export.report.plots.pareto_curve import ParetoPoint, draw_pareto_curve
from recprune_export.report.sections.quality import describe_metric
from recprune_export.report.sweep_file import SweepFile, SweepTrial
from recprune_export.validation.latency.speedup import RATIO, choose_batch

MEGABYTE = 1e6
BUNDLE_NAME = "this bundle"


def tradeoff_section(manifest: Manifest, sweep: SweepFile) -> Section:
    """Return plots of the change of quality against size and against speed, and a table of all trials."""
    batch = choose_batch(sweep.trials[0].speedup)
    bundle_points = _find_bundle_points(manifest, batch)
    sizes = [_point(t, t.bytes / MEGABYTE) for t in sweep.trials]
    speeds = [_point(t, t.speedup[batch][0]) for t in sweep.trials]
    up = f"change of {describe_metric(sweep.metric)}, 95 % interval"
    figures = (
        PageFigure(
            draw_pareto_curve(
                "tradeoff-size",
                "Quality against size",
                [*sizes, *([] if bundle_points is None else [bundle_points[0]])],
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
                [*speeds, *([] if bundle_points is None or bundle_points[1] is None else [bundle_points[1]])],
                across=f"times as fast as dense in ONNX Runtime, batch {batch}",
                up=up,
                less_is_better=False,
            ),
            f"Quality against speed, batch {batch}",
        ),
    )
    explanation = (
        "Each point was pruned and fine-tuned separately and compared with the dense model on the validation rows; the "
        "number at it is the sparsity. The line joins the "
        "points that no other point beats in both respects."
        + (f" The diamond is {BUNDLE_NAME}, on test rows." if bundle_points else ""),
    )
    return Section("tradeoff", "Trade-off", explanation, figures, (_table(sweep),))


def _point(trial: SweepTrial, cost: float) -> ParetoPoint:
    return ParetoPoint(f"{trial.sparsity:g}", cost, trial.change, trial.low, trial.high)


def _find_bundle_points(manifest: Manifest, batch: str) -> tuple[ParetoPoint, ParetoPoint | None] | None:
    change, counts = manifest.change, manifest.counts["pruned"]
    if not (change and counts):
        return None
    change_of_metric, (low, high) = change["after"] - change["before"], change["interval"]
    ratio = manifest.latency.get("ratios", {}).get(batch, {}).get(RATIO)
    by_size = ParetoPoint(BUNDLE_NAME, counts["bytes"] / MEGABYTE, change_of_metric, low, high, is_bundle=True)
    return by_size, None if ratio is None else ParetoPoint(
        BUNDLE_NAME, ratio["estimate"], change_of_metric, low, high, is_bundle=True
    )


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
        "The sweep, with 95 % intervals; by batch size, how many times faster than dense in ONNX Runtime",
        headings,
        rows,
    )
