"""Does the gate fail for a regression, and never for noise?

    python benchmarks/gate.py [--comparisons 50] [--seconds 40]

A DLRM-like model (8 tables of 20,000 rows, dim 32, an MLP of 512 and 256) is compared with itself, and with the same model made slower by
5, 10 and 20 %. Extra units in its first hidden layer make it slower; their number is found by measurement at that batch size. All
comparisons are repeated beside a process that multiplies matrices continuously. One thread. Prints a table, and JSON as the last line.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recprune_export.evidence import Estimate, Verdict
from recprune_export.gate import (
    BASE,
    NEW,
    Artifact,
    Evidence,
    collect_samples,
    compare_latency,
    make_sampler,
    open_artifact,
)

TABLES, ROWS, DIM, HIDDEN = 8, 20_000, 32, (512, 256)
BATCHES = (1, 32, 256)
SLOWDOWNS = (0.05, 0.10, 0.20)
TOLERANCE = 0.05
STEP = 16  # units by which a layer is widened: ONNX Runtime computes whole blocks of 16
PROBE_PROCESSES, TRUTH_PROCESSES = 4, 16
TRIES = 5
NEIGHBOUR = "import numpy as np\na = np.random.rand(700, 700)\nwhile True: a @ a"


@dataclass
class Tally:
    """Verdicts of the same comparison again and again."""

    name: str
    neighbor: bool
    truth: str
    verdicts: list[Verdict] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, evidence: dict[int, Evidence], seconds: float) -> None:
        """Count one comparison."""
        findings = compare_latency(evidence, TOLERANCE)
        verdicts = {finding.verdict for finding in findings}
        worst = next(v for v in (Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS) if v in verdicts)
        self.verdicts.append(worst)
        self.ratios += [finding.ratio.estimate for finding in findings if finding.ratio]
        self.seconds.append(seconds)

    def share(self, verdict: Verdict) -> int:
        """Return how often this was the verdict."""
        return self.verdicts.count(verdict)

    def row(self) -> str:
        """Return a line of the table."""
        beside = "busy neighbor" if self.neighbor else "as it is"
        low, high = min(self.ratios), max(self.ratios)
        return (
            f"{self.name:>10} {self.truth:>24} {beside:>15} {len(self.verdicts):>5} {self.share(Verdict.FAILS):>5} "
            f"{self.share(Verdict.UNDECIDED):>10} {self.share(Verdict.HOLDS):>5}   {low:.3f} to {high:.3f}   "
            f"{np.median(self.seconds):>5.1f} / {max(self.seconds):>5.1f} s"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        counts = {verdict.value: self.share(verdict) for verdict in Verdict if verdict is not Verdict.SKIPPED}
        seconds = {"median": float(np.median(self.seconds)), "most": max(self.seconds)}
        ratios = [min(self.ratios), max(self.ratios)]
        return {
            "comparison": self.name,
            "truth": self.truth,
            "busy_neighbor": self.neighbor,
            "comparisons": len(self.verdicts),
            **counts,
            "ratios": ratios,
            "seconds": seconds,
        }


def write_model(path: Path, extra_units: int = 0) -> Artifact:
    """Write the model, with so many more units in its first hidden layer."""
    rng = np.random.default_rng(0)
    weights = {f"table{i}": rng.normal(size=(ROWS, DIM), scale=0.1) for i in range(TABLES)}
    nodes = [helper.make_node("Gather", [f"table{i}", f"field{i}"], [f"vector{i}"]) for i in range(TABLES)]
    nodes.append(helper.make_node("Concat", [f"vector{i}" for i in range(TABLES)], ["x0"], axis=1))
    widths = [TABLES * DIM, HIDDEN[0] + extra_units, HIDDEN[1], 1]
    for layer, (before, after) in enumerate(pairwise(widths)):
        weights |= {f"w{layer}": rng.normal(size=(before, after)) / before**0.5, f"b{layer}": np.zeros(after)}
        last = layer == len(widths) - 2
        nodes.append(
            helper.make_node("Gemm", [f"x{layer}", f"w{layer}", f"b{layer}"], ["click" if last else f"h{layer}"])
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"x{layer + 1}"]))
    graph = helper.make_graph(
        nodes,
        "dlrm",
        [helper.make_tensor_value_info(f"field{i}", TensorProto.INT64, ["batch"]) for i in range(TABLES)],
        [helper.make_tensor_value_info("click", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return open_artifact(path)


def long_measurement(new: Artifact, base: Artifact, batch: int, processes: int) -> tuple[Evidence, Estimate]:
    """Measure one batch size in so many processes."""
    sample, evidence = make_sampler(new, base, base.signature, threads=1, seed=77), Evidence()
    for number in range(processes):
        evidence.add(sample([batch], number)[str(batch)])
    return evidence, evidence.ratio()


def slow_model(base: Artifact, batch: int, share: float, folder: Path) -> tuple[Artifact, str]:
    """Make the model slower by `share` at one batch size; return it, and its slow-down by a long measurement."""
    units = STEP * max(1, round(share * HIDDEN[0] / STEP))
    tried: dict[int, float] = {0: 0.0}
    for _ in range(TRIES):
        model = write_model(folder / f"slow-{batch}-{share}-{units}.onnx", units)
        tried[units] = long_measurement(model, base, batch, PROBE_PROCESSES)[1].estimate - 1.0
        slope = np.polyfit(list(tried), list(tried.values()), 1)[0]
        units = max(STEP, STEP * round(share / max(slope, 1e-5) / STEP))
        if units in tried:
            break
    model = write_model(folder / f"slow-{batch}-{share}-{units}.onnx", units)
    evidence, ratio = long_measurement(model, base, batch, TRUTH_PROCESSES)
    means = [float(np.median(evidence.times[name])) for name in (NEW, BASE)]
    truth = f"+{100 * (ratio.estimate - 1):.1f} % (medians {100 * (means[0] / means[1] - 1):+.1f})"
    return model, truth


@contextmanager
def neighbor(active: bool) -> Iterator[None]:
    """Let a process of one thread keep a core busy inside the block."""
    if not active:
        yield
        return
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], env=threads)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def compare(new: Artifact, base: Artifact, batches: tuple[int, ...], seconds: float, seed: int, tally: Tally) -> None:
    """Run the gate once."""
    start = time.perf_counter()
    evidence = collect_samples(
        make_sampler(new, base, base.signature, threads=1, seed=seed), batches, TOLERANCE, seconds
    )
    tally.add(evidence, time.perf_counter() - start)


@click.command()
@click.option("--comparisons", default=50, show_default=True, help="Of the model with itself; less of the others.")
@click.option("--seconds", default=40.0, show_default=True, help="The time limit of one comparison.")
def main(comparisons: int, seconds: float) -> None:
    """Compare, with and without a busy neighbor."""
    tallies = []
    slow_ones = max(1, round(comparisons * 0.4 / len(BATCHES)))  # at each batch size
    print(
        f"{'':>10} {'slower by':>24} {'machine':>15} {'runs':>5} {'fail':>5} {'undecided':>10} {'pass':>5}   "
        f"{'ratios':<16} median / most"
    )
    with tempfile.TemporaryDirectory() as scratch:
        base = write_model(Path(scratch) / "base.onnx")
        slow = {(s, b): slow_model(base, b, s, Path(scratch)) for s in SLOWDOWNS for b in BATCHES}
        for busy in (False, True):
            with neighbor(busy):
                tally = Tally("itself", busy, "0 %")
                for number in range(comparisons):
                    compare(base, base, BATCHES, seconds, 10**6 + number, tally)
                tallies.append(tally)
                print(tally.row(), flush=True)
                for (share, batch), (model, truth) in slow.items():
                    tally = Tally(f"{share:.0%} at {batch}", busy, truth)
                    for number in range(max(1, slow_ones // 3) if share == min(SLOWDOWNS) else slow_ones):
                        compare(model, base, (batch,), seconds, 2 * 10**6 + number, tally)
                    tallies.append(tally)
                    print(tally.row(), flush=True)
    results = [tally.to_dict() for tally in tallies]
    print(json.dumps({"benchmark": "gate", "tolerance": TOLERANCE, "time_limit": seconds, "results": results}))


if __name__ == "__main__":
    main()
