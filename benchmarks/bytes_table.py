"""Tables and a plot of the comparison at equal bytes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from bytes_cells import Cell, CellFolder
from bytes_files import BATCHES, BEFORE, CONTESTANTS, DENSE, OURS, SIZES, SMALL
from bytes_scores import Quality
from bytes_verdicts import (
    AUC_LOSS,
    NDCG_LOSS,
    Change,
    Contest,
    choose_largest_fitting,
    compare_contestants,
    judge_loss,
    paired_change,
)

from recprune_export.validation import interval_of_few

PROTOCOL = f"""\
The size of each contestant's file is at most a given percentage of the dense fp32 file, external data included. All figures are for
ONNX files in ONNX Runtime on one thread; metrics are computed from the saved answers to the test rows.

- *{DENSE}*: the model as trained, in fp32. *dense int8*, *dense int4*: its export with `--quantize`, with a loss of at most .001 of
  the validation metric; they are listed at each size that they fit into.
- *{SMALL}*: the same architecture with proportionally smaller dimensions and widths, the largest whose file fits with all weights
  stored in int8; its learning rate is the best of three on validation rows, chosen with the first seed.
- *{BEFORE}*: `--sparsity` of that commit with `--quantize int8`; the largest file that fits, from a grid of sparsities.
- *{OURS}*: `--max-bytes`.
- *Metric*: the AUC (the mean AUC for two labels) or NDCG@10. *Rare*: the metric on the tenth of the test rows whose rarest id has the
  fewest training rows, or on targets among the rarest items, which have a tenth of the occurrences.
- *Change*: against the dense model of the same seed, with the one-sided 95 % bounds of a paired bootstrap over rows and seeds;
  relative for NDCG@10. *No loss*: the lower bound is above {-AUC_LOSS:g} AUC or {-NDCG_LOSS:.0%} NDCG@10. *Loss*: the upper
  bound is below it. Otherwise it is inconclusive.
- *Memory*: memory of the session in a fresh process after its first request, without that of Python and ONNX Runtime. *Batch*:
  milliseconds, and the speed-up over the dense file in the same run, with a 95 % interval over sets of sessions."""

# Largest drops of the point estimate at a size, by beginnings of names of cases; of NDCG@10 relative.
TARGETS: Mapping[float, Mapping[str, float]] = {
    10.0: {"": AUC_LOSS, "beauty/sasrec": NDCG_LOSS},
    5.0: {"anime": 0.0005, "census": 0.0005, "frappe/dlrm": 0.0015, "frappe/deepfm": 0.003, "beauty/sasrec": 0.02},
    3.0: {"anime": 0.001},
}


@dataclass(frozen=True)
class Row:
    """The cells of a contestant at a size, one for each seed, and the change against dense; None for dense itself."""

    size: float | None
    contestant: str
    cells: Sequence[Cell]
    qualities: Sequence[Quality]
    change: Change | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were measured."""
        return tuple(cell.seed for cell in self.cells)

    def mean(self, name: str) -> float:
        """Return the mean of a figure over seeds."""
        return float(np.mean([getattr(cell, name) for cell in self.cells]))


@dataclass(frozen=True)
class CaseReport:
    """The rows of one case: files of one size each first, then the contestants at each size."""

    case: str
    rows: Sequence[Row]
    contests: Mapping[float, Contest]
    is_ranking: bool

    @property
    def allowed(self) -> float:
        """The change that counts as no loss."""
        return NDCG_LOSS if self.is_ranking else AUC_LOSS

    def row(self, size: float | None, contestant: str) -> Row | None:
        """Return a row, or None where nothing was measured or fits."""
        return next((row for row in self.rows if (row.size, row.contestant) == (size, contestant)), None)


@dataclass(frozen=True)
class Report:
    """Everything that was measured. `points` has the cells of each case by contestant and point, for the plot."""

    cases: Sequence[CaseReport]
    points: Mapping[str, Sequence[Row]]

    @classmethod
    def read(cls, folder: CellFolder, cases: Sequence[str]) -> "Report":
        """Choose each contestant's files at each size, and compare."""
        cells = folder.cells
        read = cache(folder.read_quality)
        by_case = {case: [cell for cell in cells if cell.case == case] for case in cases}
        measured = {case: found for case, found in by_case.items() if any(cell.contestant == DENSE for cell in found)}
        reports = [_report_case(case, found, read) for case, found in measured.items()]
        return cls(reports, {case: list(_make_points(found, read)) for case, found in measured.items()})

    def as_markdown(self) -> str:
        """Return the protocol, the verdicts on ours, and a table for each case."""
        parts = [PROTOCOL, "", "### Verdicts on ours", "", *_verdict_table(self.cases)]
        for case in self.cases:
            parts += ["", f"### {case.case}, by bytes", "", *_case_table(case)]
        return "\n".join(parts) + "\n"

    def figures(self) -> dict[str, Any]:
        """Return plain JSON values of all rows."""
        return {
            f"{case.case} {'' if row.size is None else f'{row.size:g} % '}{row.contestant}": {
                "bytes": row.mean("bytes"),
                "memory": row.mean("memory"),
                "metric": row.mean("metric"),
                "logloss": row.mean("logloss"),
                "rare": row.mean("rare"),
                "change": None if row.change is None else asdict(row.change),
                "verdict": None if row.change is None else judge_loss(row.change, case.allowed),
                "contest": asdict(case.contests[row.size]) if row.contestant == OURS and row.size is not None else None,
                "latency": {str(b): float(np.mean([cell.at_batch(b).file for cell in row.cells])) for b in BATCHES},
                "seeds": row.seeds,
            }
            for case in self.cases
            for row in case.rows
        }


def _compare(dense: Mapping[int, Quality], cells: Sequence[Cell], read: Any, *, relative: bool) -> Change | None:
    pairs = [(dense[cell.seed], read(cell.key)) for cell in cells]
    return paired_change([b for b, _ in pairs], [a for _, a in pairs], relative=relative)


def _report_case(case: str, cells: Sequence[Cell], read: Any) -> CaseReport:
    dense = {cell.seed: read(cell.key) for cell in cells if cell.contestant == DENSE}
    is_ranking = all(quality.ece is None for quality in dense.values())
    cells = [cell for cell in cells if cell.seed in dense]
    rows, contests = [], {}

    def make_row(size: float | None, contestant: str, chosen: Sequence[Cell]) -> Row:
        change = None if contestant == DENSE else _compare(dense, chosen, read, relative=is_ranking)
        return Row(size, contestant, chosen, [read(cell.key) for cell in chosen], change)

    for contestant in CONTESTANTS:
        single = [cell for cell in cells if (cell.contestant, cell.point) == (contestant, 0.0)]
        rows += [make_row(None, contestant, single)] if single else []
    for size in SIZES:
        at_size = {name: _choose_cells(cells, name, size) for name in CONTESTANTS}
        new = [make_row(size, name, chosen) for name, chosen in at_size.items() if chosen]
        rows += new
        contest = _judge_contest(new, is_ranking)
        contests |= {} if contest is None else {size: contest}
    return CaseReport(case, rows, contests, is_ranking)


def _choose_cells(cells: Sequence[Cell], contestant: str, size: float) -> list[Cell]:
    """Return the cell of each seed that has the most bytes within the size; of ours and the small one only that of the size."""
    chosen = []
    for seed in sorted({cell.seed for cell in cells}):
        same = {c.point: c for c in cells if (c.seed, c.contestant) == (seed, contestant)}
        if contestant in (OURS, SMALL):
            same = {point: cell for point, cell in same.items() if point == size}
        limit = max((int(cell.dense_bytes * size / 100.0) for cell in same.values()), default=0)
        point = choose_largest_fitting({point: cell.bytes for point, cell in same.items()}, limit)
        chosen += [] if point is None else [same[point]]
    return chosen


def _judge_contest(rows: Sequence[Row], is_ranking: bool) -> Contest | None:
    """Compare ours with each other row on the seeds that both have; None without ours."""
    ours = next((row for row in rows if row.contestant == OURS), None)
    if ours is None:
        return None
    worse, best = [], True
    for other in rows:
        common = [seed for seed in ours.seeds if seed in other.seeds]
        if other is ours or not common:
            continue
        mine, theirs = ([row.qualities[row.seeds.index(seed)] for seed in common] for row in (ours, other))
        contest = compare_contestants(mine, {other.contestant: theirs}, relative=is_ranking)
        worse += contest.worse_than
        best &= contest.is_best
    return Contest(tuple(worse), best)


def _make_points(cells: Sequence[Cell], read: Any) -> Iterator[Row]:
    """Yield the means over seeds of each contestant and point, for the plot."""
    dense = {cell.seed: read(cell.key) for cell in cells if cell.contestant == DENSE}
    is_ranking = all(quality.ece is None for quality in dense.values())
    for contestant in CONTESTANTS:
        for point in sorted({cell.point for cell in cells if cell.contestant == contestant}):
            same = [c for c in cells if (c.contestant, c.point) == (contestant, point) and c.seed in dense]
            if same:
                yield Row(point, contestant, same, [], _compare(dense, same, read, relative=is_ranking))


def find_target(case: str, size: float) -> float | None:
    """Return the largest drop that is a target of ours at a size, by the longest beginning of the name of the case.

    >>> find_target("frappe/dlrm", 5.0), find_target("beauty/sasrec", 10.0), find_target("census/mmoe", 3.0)
    (0.0015, 0.01, None)
    """
    fitting = {name: drop for name, drop in TARGETS.get(size, {}).items() if case.startswith(name)}
    return fitting[max(fitting, key=len)] if fitting else None


def _verdict_table(cases: Sequence[CaseReport]) -> Iterator[str]:
    yield "| case | size | change | verdict | target | worse than | best |"
    yield "|---|---|---|---|---|---|---|"
    rows = [(case, size, case.row(size, OURS)) for case in cases for size in SIZES]
    shown = [(case, size, row, row.change) for case, size, row in rows if row is not None and row.change is not None]
    for case, size, _, change in shown:
        contest, target = case.contests[size], find_target(case.case, size)
        met = "" if target is None else f"{'met' if change.value >= -target else 'missed'} ({-target:g})"
        yield (
            f"| {case.case} | {size:g} % | {format_change(change, case.is_ranking)} | {judge_loss(change, case.allowed)} | {met} "
            f"| {', '.join(contest.worse_than) or 'none'} | {'yes' if contest.is_best else 'no'} |"
        )
    if not shown:
        yield "| none measured | | | | | | |"
        return
    verdicts = [judge_loss(change, case.allowed) for case, _, _, change in shown]
    contests = [case.contests[size] for case, size, _, _ in shown]
    yield ""
    yield (
        f"Of our {len(shown)} cells, {verdicts.count('no loss')} have no loss; {sum(not c.worse_than for c in contests)} are "
        f"not significantly worse than any contestant, and {sum(c.is_best for c in contests)} are best."
    )


def _case_table(case: CaseReport) -> Iterator[str]:
    metric = "NDCG@10" if case.is_ranking else "AUC"
    batches = " | ".join(f"batch {batch}, ms" for batch in BATCHES)
    yield f"| size | contestant | kB | memory, MiB | {batches} | {metric} | change | verdict | logloss | ECE | rare {metric} | seeds |"
    yield "|---|---|---|---|" + "---|" * len(BATCHES) + "---|---|---|---|---|---|---|"
    for row in case.rows:
        share = np.mean([cell.percent for cell in row.cells])
        ece = "" if case.is_ranking else f"{row.mean('ece'):.4f}"
        yield (
            f"| {'' if row.size is None else f'{row.size:g} %'} | {row.contestant} | {row.mean('bytes') / 1e3:,.0f} ({share:.1f} %) "
            f"| {row.mean('memory') / 2**20:.1f} | {' | '.join(format_latency(row, batch) for batch in BATCHES)} "
            f"| {row.mean('metric'):.4f} | {format_change(row.change, case.is_ranking)} "
            f"| {'' if row.change is None else judge_loss(row.change, case.allowed)} | {row.mean('logloss'):.4f} | {ece} "
            f"| {row.mean('rare'):.4f} | {len(row.seeds)} |"
        )


def format_change(change: Change | None, is_ranking: bool) -> str:
    if change is None:
        return ""
    style = "+.1%" if is_ranking else "+.4f"
    return f"{change.value:{style}} [{change.low:{style}}, {change.high:{style}}]"


def format_latency(row: Row, batch: int) -> str:
    """Return milliseconds, and the speed-up over the dense file of the same run with its interval."""
    latencies = [cell.at_batch(batch) for cell in row.cells]
    ratio = interval_of_few([log for each in latencies for log in each.log_ratios], confidence=0.95).apply(math.exp)
    return (
        f"{np.mean([each.file for each in latencies]):.3f} ({ratio.estimate:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}])"
    )


COLORS = {DENSE: "black", "dense int8": "C0", "dense int4": "C1", SMALL: "C2", BEFORE: "C3", OURS: "black"}
MARKERS = {DENSE: "*", "dense int8": "s", "dense int4": "D", SMALL: "^", BEFORE: "o", OURS: "o"}


def draw(report: Report, path: Path) -> None:
    """Draw one panel for each case: the change over bytes, all points of all contestants; a band where nothing is lost."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    columns = max(1, min(3, len(report.cases)))
    lines = max(1, math.ceil(len(report.cases) / columns))
    figure, axes = plt.subplots(lines, columns, figsize=(4.4 * columns, 3.3 * lines + 0.5), squeeze=False)
    handles: dict[str, Any] = {}
    for panel, case in zip(axes.flat, report.cases, strict=False):
        points = report.points[case.case]
        panel.axhspan(-case.allowed, case.allowed, color="gainsboro", linewidth=0)
        panel.axhline(0.0, color="grey", linewidth=0.5)
        for name in CONTESTANTS:
            own = [(row.cells, row.change) for row in points if row.contestant == name and row.change is not None]
            if not own:
                continue
            shares = np.array([np.mean([cell.percent for cell in cells]) for cells, _ in own])
            values, low, high = (np.array([getattr(c, f) for _, c in own]) for f in ("value", "low", "high"))
            order = np.argsort(shares)
            style = {"color": COLORS[name], "marker": MARKERS[name], "markersize": 4.0 if name != DENSE else 8.0}
            handles[name] = panel.errorbar(
                shares[order], values[order], np.array([values - low, high - values])[:, order],
                linewidth=1.8 if name == OURS else 1.0, elinewidth=0.7, label=name, **style,
            )  # fmt: skip
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(FixedLocator([3, 5, 10, 30, 100]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.set_yscale("symlog", linthresh=2.0 * case.allowed)
        panel.set_title(case.case, fontsize=10)
        panel.set_xlabel("bytes, % of the dense file")
        panel.set_ylabel("relative change of NDCG@10" if case.is_ranking else "change of the AUC", fontsize=8)
        panel.tick_params(labelsize=8)
    for panel in list(axes.flat)[len(report.cases) :]:
        panel.remove()
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=6, fontsize=8, frameon=False)
    figure.suptitle("Grey: no loss. Bars: one-sided 95 % bounds over rows and seeds.", fontsize=9)
    figure.tight_layout(rect=(0.0, 0.05, 1.0, 1.0))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
