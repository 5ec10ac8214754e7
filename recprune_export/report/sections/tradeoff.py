"""The Pareto curve of a sweep, with the bundle on it."""

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import interval, signed, size, times
from recprune_export.report.page import Figure, Section, Table
from recprune_export.report.plots.pareto_curve import Point, draw_tradeoff
from recprune_export.report.sections.latency import spoken_of
from recprune_export.report.sections.quality import metric_in_words
from recprune_export.report.sweep_file import SweepFile, Trial
from recprune_export.validation.latency.backends import DENSE_ONNX, PRUNED_ONNX

MEGABYTE = 1e6
OWN = "this bundle"


def tradeoff_section(manifest: Manifest, sweep: SweepFile) -> Section:
    """Return the change of quality against size and against speed, and a table of all trials."""
    batch = spoken_of(list(sweep.trials[0].speedup))
    own = _own(manifest, batch)
    sizes = [_point(t, t.bytes / MEGABYTE) for t in sweep.trials]
    speeds = [_point(t, t.speedup[batch][0]) for t in sweep.trials]
    up = f"change of {metric_in_words(sweep.metric)}, 95 % interval"
    figures = (
        Figure(
            draw_tradeoff(
                "tradeoff-size",
                "Quality against size",
                [*sizes, *([] if own is None else [own[0]])],
                across="MB of the ONNX file",
                up=up,
                less_is_better=True,
            ),
            "Quality against size",
        ),
        Figure(
            draw_tradeoff(
                "tradeoff-speed",
                "Quality against speed",
                [*speeds, *([] if own is None or own[1] is None else [own[1]])],
                across=f"times as fast as dense in ONNX Runtime, batch {batch}",
                up=up,
                less_is_better=False,
            ),
            f"Quality against speed, batch {batch}",
        ),
    )
    said = (
        "Each point was pruned and tuned by itself and compared with the dense model on the validation rows; the "
        "number at it is the sparsity. The line joins the "
        "points that none beats in both respects." + (f" The diamond is {OWN}, on test rows." if own else ""),
    )
    return Section("tradeoff", "Trade-off", said, figures, (_table(sweep),))


def _point(trial: Trial, cost: float) -> Point:
    return Point(f"{trial.sparsity:g}", cost, trial.change, trial.low, trial.high)


def _own(manifest: Manifest, batch: str) -> tuple[Point, Point | None] | None:
    change, counts = manifest.change, manifest.counts["pruned"]
    if not (change and counts):
        return None
    by, (low, high) = change["after"] - change["before"], change["interval"]
    ratio = manifest.latency.get("ratios", {}).get(batch, {}).get(f"{DENSE_ONNX} / {PRUNED_ONNX}")
    by_size = Point(OWN, counts["bytes"] / MEGABYTE, by, low, high, own=True)
    return by_size, None if ratio is None else Point(OWN, ratio["estimate"], by, low, high, own=True)


def _table(sweep: SweepFile) -> Table:
    batches = tuple(sweep.trials[0].speedup)
    rows = tuple(
        (
            f"{t.sparsity:g}" + (" (knee)" if t.sparsity == sweep.knee else ""),
            f"{signed(t.change)} ({interval((t.low, t.high), '+.4f')})",
            size(t.bytes),
            *(f"{times(t.speedup[b][0])} ({interval(t.speedup[b][1:])})" for b in batches),
        )
        for t in sweep.trials
    )
    headings = (
        "sparsity",
        f"change of {metric_in_words(sweep.metric)}",
        "size",
        *(f"batch {b}" for b in batches),
    )
    return Table(
        "The sweep, with 95 % intervals; by batch size, how many times faster than dense in ONNX Runtime",
        headings,
        rows,
    )
