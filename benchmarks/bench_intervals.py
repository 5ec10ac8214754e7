"""How often "holds" and "fails" err, for each kind of interval, over simulated data with a known effect. The stated rate is 2.5 % each.

    python benchmarks/bench_intervals.py [--draws 1000] [--rows 1000000]

The true value is the limit, the worst case. Then the time of one paired change over many rows, by metric. Prints both tables, and
JSON with the machine as the last line.
"""

import json
import time
from collections.abc import Callable
from statistics import NormalDist

import click
import numpy as np

from recprune_export.data import LabelKind
from recprune_export.data.distribution.stability_index import psi_interval
from recprune_export.environment import environment
from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.gate.cost_rules import ratio_of_few_medians
from recprune_export.metrics import DecidingMetric, MetricChange, Observations, Targets, find_metric, paired_change

Draw = Callable[[np.random.Generator], Estimate]
AUC_CASES = [(200, 20, 1.0, 0.8), (200, 20, 3.0, 2.6), (2000, 200, 3.0, 2.6), (20_000, 400, 3.0, 2.6)]


def compare(name: str, labels: np.ndarray, scores: tuple[np.ndarray, np.ndarray], groups: np.ndarray) -> MetricChange:
    """Return the change of a metric between two models of the same rows [N]."""
    metric = find_metric(name)
    assert metric is not None
    targets = Targets(
        "click", LabelKind.BINARY, labels, np.arange(len(labels)), len(labels), np.ones(len(labels)), groups
    )
    before, after = ({"click": Observations(targets, 1 / (1 + np.exp(-score)))} for score in scores)
    return paired_change(DecidingMetric(name, metric, ("click",)), before, after)


def draw_scores(
    rng: np.random.Generator, labels: np.ndarray, shifts: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of two models whose AUC is Φ(shift / √2) each, from correlated errors."""
    first, second = rng.normal(size=(2, len(labels)))
    return shifts[0] * labels + first, shifts[1] * labels + 0.9 * first + 0.19**0.5 * second


def list_cases() -> dict[str, tuple[Draw, float]]:
    """Return by name a function that draws an interval, and the true value."""
    cases: dict[str, tuple[Draw, float]] = {}
    for rows, positives, *shifts in AUC_CASES:
        labels = (np.arange(rows) < positives).astype(np.float32)
        areas = [NormalDist().cdf(shift / 2**0.5) for shift in shifts]

        def draw_change(
            rng: np.random.Generator, labels: np.ndarray = labels, shifts: list[float] = shifts
        ) -> Estimate:
            return compare("auc", labels, draw_scores(rng, labels, (shifts[0], shifts[1])), labels).loss

        name = f"AUC {areas[0]:.3f} to {areas[1]:.3f}, {rows:,} rows, {positives} positive"
        cases[name] = draw_change, areas[0] - areas[1]
    for processes in (8, 16, 40):

        def draw_ratio(rng: np.random.Generator, processes: int = processes) -> Estimate:
            disturbed = 1.0 + (rng.random((processes, 1)) < 0.2) * rng.random((processes, 1))
            return ratio_of_few_medians(np.exp(0.05 * rng.normal(size=(processes, 2))) * disturbed)

        cases[f"ratio of medians, {processes} processes"] = draw_ratio, 1.0
    shares = np.random.default_rng(0).dirichlet(np.full(5, 5.0), 2)
    index = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    for rows in (200, 1000, 5000):

        def draw_index(rng: np.random.Generator, rows: int = rows) -> Estimate:
            return psi_interval(*(rng.multinomial(rows, share) for share in shares))

        cases[f"index of drift, 5 cells, {rows:,} rows"] = draw_index, index
    return cases


@click.command()
@click.option("--draws", default=1000, show_default=True)
@click.option("--rows", default=1_000_000, show_default=True, help="Of the timed changes.")
def main(draws: int, rows: int) -> None:
    """Simulate every case and time every metric."""
    results = []
    print(f"{'interval':>44} {'holds':>7} {'fails':>7}  (standard error {(0.025 * 0.975 / draws) ** 0.5:.2%})")
    for name, (draw, truth) in list_cases().items():
        rng = np.random.default_rng(0)
        estimates = [draw(rng) for _ in range(draws)]
        holds = np.mean([judge_at_most(e, truth * (1 - 1e-9)) is Verdict.HOLDS for e in estimates])
        fails = np.mean([judge_at_most(e, truth) is Verdict.FAILS for e in estimates])
        print(f"{name:>44} {holds:>7.1%} {fails:>7.1%}", flush=True)
        results.append({"interval": name, "draws": draws, "holds": float(holds), "fails": float(fails)})
    rng = np.random.default_rng(0)
    labels, groups = (rng.random(rows) < 0.3).astype(np.float32), rng.integers(0, max(rows // 20, 1), rows)
    scores, seconds = draw_scores(rng, labels, (1.0, 0.9)), {}
    for name in ("auc", "logloss", "gauc", "ece"):
        begun = time.process_time()
        compare(name, labels, scores, groups)
        seconds[name] = time.process_time() - begun
    print(f"CPU seconds of a change over {rows:,} rows: " + ", ".join(f"{n} {s:.1f}" for n, s in seconds.items()))
    print(json.dumps({
        "benchmark": "intervals", "environment": environment(), "results": results, "rows": rows, "cpu_seconds": seconds
    }))  # fmt: skip


if __name__ == "__main__":
    main()
