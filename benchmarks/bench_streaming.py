"""Rows a second of training from files beside all rows in memory and a plain DataLoader, and the memory of each by number of rows.

    python benchmarks/bench_streaming.py [--rows 400000] [--batches-per-round 20] [--rounds 9] [--memory-rows 1000000,10000000]
        [--events 10000000,50000000]

Rows of seven fields and three numbers lie in Parquet files. Every contestant trains the same DLRM with the loop of `train`: from
`StreamedRows` with windows of a tenth of the rows, with one reader process as well, from `Rows` in memory, and from a PyTorch
DataLoader (in this process) over the row groups of the same files, which shuffles each row group and encodes it with the same
encoder. They take turns; one thread; CPU seconds of the training process, threads of readers among them, a reader process not. The ratios,
with their 95 % intervals over rounds, are those of the rows a second to rows in memory. Then `--memory-rows` rows are loaded
and trained for an epoch by a process of their own, streamed and (up to 10 million) in memory: bytes a row held and the peak of
anonymous memory beyond that after the imports. Of `--events`, rows of a log in the order of their times with ten to a user, the
histories are loaded by a process of their own, and read once as batches of training and of both other sides, without a model.
Prints tables, and JSON with the machine as the last line.
"""

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from recprune_export.data import Encoder, Rows, Schema, SequenceColumns, load_clicks, load_sequences
from recprune_export.data.histories import shuffle_histories
from recprune_export.environment import environment
from recprune_export.gate.cost_rules import ratio_of_few_medians
from recprune_export.progress import quiet
from recprune_export.recommenders import InputSpec, build_recommender
from recprune_export.settings import DataSettings
from recprune_export.training import fit, train
from recprune_export.training.optimizers import make_optimizer

LABEL, RATE, MB = "y", 1e-3, 1e6
SIZES = {"c0": 1_000_000, "c1": 100_000, "c2": 20_000, "c3": 1_000, "c4": 50}
NUMBERS = ("x0", "x1", "x2")
SCHEMA = Schema(labels=(LABEL,), categorical=(*SIZES, "s0", "s1"), numeric=NUMBERS)
LOG_SCHEMA = Schema(sequence=SequenceColumns("user", "item", "time"))
PART_ROWS = 500_000


def write_rows(folder: Path, count: int) -> None:
    """Write Parquet files of log-uniform ids, two fields of texts, and numbers."""
    rng = np.random.default_rng(0)
    for part, start in enumerate(range(0, count, PART_ROWS)):
        n = min(PART_ROWS, count - start)
        columns: dict[str, Any] = {name: (size ** rng.random(n)).astype(np.int64) for name, size in SIZES.items()}
        columns["s0"] = np.char.add("city", rng.integers(0, 500, n).astype(str))
        columns["s1"] = np.char.add("brand", (5000 ** rng.random(n)).astype(int).astype(str))
        columns |= {name: rng.normal(size=n) for name in NUMBERS}
        score = 0.5 * columns["x0"] + np.sin(columns["c1"] % 17) + np.cos(columns["c2"] % 5) - 1
        columns[LABEL] = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(np.int8)
        pl.DataFrame(columns).write_parquet(folder / f"part-{part:04}.parquet", row_group_size=65_536)


class RowGroups(IterableDataset):
    """Batches of each row group, shuffled within it: a plain way to read Parquet files."""

    def __init__(self, folder: Path, encoder: Encoder, batch_size: int, seed: int) -> None:
        self._files, self._encoder, self._size = sorted(folder.glob("*.parquet")), encoder, batch_size
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Rows]:
        for number in self._random.permutation(len(self._files)):
            for chunk in pl.scan_parquet(self._files[number]).collect_batches(chunk_size=65_536):
                label = chunk[LABEL].to_numpy().astype(np.float32)
                rows = Rows(self._encoder.encode(chunk), {LABEL: label})
                yield from rows.batches(self._size, int(self._random.integers(2**31)))


def compute_loss(module: torch.nn.Module, batch: Rows) -> Tensor:
    """Return the mean cross entropy of a batch."""
    logits = module({name: torch.from_numpy(values) for name, values in batch.inputs.items()})[LABEL]
    return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels[LABEL]))


def endless(epoch: Callable[[int], Iterator[Rows]]) -> Iterator[Rows]:
    """Yield the batches of one epoch after the other."""
    for seed in range(sys.maxsize):
        yield from epoch(seed)


def run_steps(spec: InputSpec, batches: Iterator[Rows], batch_size: int, steps: int) -> Callable[[], None]:
    """Return a round of the loop of `train`."""
    torch.manual_seed(0)
    module = build_recommender("dlrm", spec, {})
    optimizer = make_optimizer(module, batch_size, RATE)

    def run() -> None:
        with optimizer.deferred():
            fit(
                module, batches=lambda _: islice(batches, steps), loss=lambda batch: compute_loss(module, batch),
                evaluate=lambda: 0.0, optimizers=[optimizer], epochs=1, patience=1, steps_per_epoch=steps, description="",
            )  # fmt: skip

    return run


def measure_speed(folder: Path, steps: int, rounds: int, batch_size: int) -> list[dict[str, Any]]:
    """Let all contestants take turns; return rows a second and the ratio to rows in memory."""
    memory = load_clicks(folder, SCHEMA, reading=DataSettings(stream=False))
    streamed = load_clicks(folder, SCHEMA, reading=DataSettings(stream=True)).train
    window = len(streamed) // 10 * streamed.record_dtype.itemsize  # type: ignore[attr-defined]
    spec = InputSpec(categorical=memory.encoder.rows, n_numeric=len(NUMBERS), labels=(LABEL,))

    def open_files(readers: int) -> Iterator[Rows]:
        rows = type(streamed).open(streamed.file, streamed.layout, readers, window)  # type: ignore[attr-defined]
        return endless(lambda seed: rows.batches(batch_size, seed))

    sources = {
        "rows in memory": endless(lambda seed: memory.train.batches(batch_size, seed)),
        "files": open_files(0),
        "files, 1 reader": open_files(1),
        "DataLoader": endless(
            lambda seed: iter(DataLoader(RowGroups(folder, memory.encoder, batch_size, seed), batch_size=None))
        ),
    }
    contestants = {name: run_steps(spec, batches, batch_size, steps) for name, batches in sources.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begun = time.process_time()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - begun)
    results = []
    for name, measured in seconds.items():
        ratio = ratio_of_few_medians(np.column_stack([seconds["rows in memory"], measured]))
        rate = steps * batch_size / float(np.median(measured))
        results.append(
            {"contestant": name, "rows_a_cpu_second": rate, "to_memory": [ratio.estimate, ratio.low, ratio.high]}
        )
        print(f"{name:>16} {rate:>12,.0f} rows a CPU second {ratio.estimate:>8.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
    return results


def anonymous_bytes() -> int:
    """Return the anonymous and shared memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) * 1024


class MemoryPeak:
    """The peak of anonymous memory from now on, beyond that of now, sampled by a thread."""

    def __init__(self) -> None:
        self.base = self._highest = anonymous_bytes()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def peak(self) -> int:
        """The bytes at the peak."""
        return max(self._highest, anonymous_bytes()) - self.base

    def _watch(self) -> None:
        while True:
            self._highest = max(self._highest, anonymous_bytes())
            time.sleep(0.02)


def measure_memory(folder: Path, stream: bool) -> dict[str, float]:
    """Train for one epoch in this process; return the peak of memory, the bytes of the model, and rows a second."""
    memory = MemoryPeak()
    loaded = load_clicks(folder, SCHEMA, reading=DataSettings(stream=stream))
    load_peak, held = memory.peak, anonymous_bytes() - memory.base
    rows = len(loaded.train)
    del loaded
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        done = train(
            folder,
            "dlrm",
            Path(output, "model.pt"),
            overrides(),
            {"dim": 4, "hidden": (16,)},
            epochs=1,
            batch_size=8192,
            stream=stream,
        )
    return {
        "load_peak_mb": load_peak / MB, "held_mb": held / MB, "held_bytes_a_row": held / rows,
        "peak_mb": memory.peak / MB, "model_mb": done.parameters * 4 / MB, "wall_seconds": time.perf_counter() - begun,
    }  # fmt: skip


def write_log(folder: Path, count: int) -> None:
    """Write Parquet files of events in the order of time: ten a user, items log-uniform among 100,000."""
    rng = np.random.default_rng(0)
    for part, start in enumerate(range(0, count, PART_ROWS)):
        n = min(PART_ROWS, count - start)
        item = (100_000 ** rng.random(n)).astype(np.int64)
        columns = {"user": rng.integers(0, count // 10, n), "item": item, "time": start + np.arange(n)}
        pl.DataFrame(columns).write_parquet(folder / f"part-{part:04}.parquet", row_group_size=65_536)


def measure_log(folder: Path, stream: bool) -> dict[str, float]:
    """Load histories in this process and read them once; return the peak of memory and CPU seconds."""
    watch_memory = MemoryPeak()
    begun = time.process_time()
    data = load_sequences(folder, LOG_SCHEMA, reading=DataSettings(stream=stream))
    loaded, load_peak, held = time.process_time(), watch_memory.peak, anonymous_bytes() - watch_memory.base
    users = sum(len(batch) for batch in shuffle_histories(data.train, 128, np.random.default_rng(1), 1))
    trained = time.process_time()
    for side in (data.valid, data.test):
        assert sum(len(batch) for batch in side.batches(512)) == users
    return {
        "users": users, "load_peak_mb": load_peak / MB, "held_mb": held / MB, "peak_mb": watch_memory.peak / MB,
        "load_cpu_seconds": loaded - begun, "epoch_cpu_seconds": trained - loaded,
        "other_sides_cpu_seconds": time.process_time() - trained,
    }  # fmt: skip


def overrides() -> Any:
    """Return the roles of the columns."""
    from recprune_export.data import SchemaOverrides

    return SchemaOverrides(labels=(LABEL,), categorical=SCHEMA.categorical, numeric=NUMBERS)


@click.command(help=__doc__.splitlines()[0])
@click.option("--rows", default=400_000, show_default=True)
@click.option("--batches-per-round", "steps", default=20, show_default=True, help="Of each contestant in a round.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--batch-size", default=1024, show_default=True)
@click.option("--memory-rows", default="1000000,10000000", show_default=True)
@click.option("--events", default="", show_default=True, help="Numbers of rows of a log.")
@click.option(
    "--measure",
    nargs=3,
    hidden=True,
    help="rows or events, a folder, and 1 for streamed ones: measure the memory of this process.",
)
def main(
    rows: int,
    steps: int,
    rounds: int,
    batch_size: int,
    memory_rows: str,
    events: str,
    measure: tuple[str, str, str] | None,
) -> None:
    """Measure speed, then memory."""
    torch.set_num_threads(1)
    if measure is not None:
        with quiet(True):
            function = measure_memory if measure[0] == "rows" else measure_log
            print(json.dumps(function(Path(measure[1]), measure[2] == "1")))
        return
    speed = []
    if rows:
        with tempfile.TemporaryDirectory() as name, quiet(True):
            write_rows(Path(name), rows)
            speed = measure_speed(Path(name), steps, rounds, batch_size)
    print(json.dumps({
        "benchmark": "streaming", "rows": rows, "batch_size": batch_size, "steps": steps, "rounds": rounds,
        "speed": speed, "results": measure_in_processes("rows", memory_rows, write_rows),
        "events": measure_in_processes("events", events, write_log), "environment": environment(),
    }))  # fmt: skip


def measure_in_processes(kind: str, counts: str, write: Callable[[Path, int], None]) -> list[dict[str, Any]]:
    """Return what a separate process measures for each number of rows or events, in files and, up to 10 million, in memory."""
    results = []
    for count in (int(float(text)) for text in counts.split(",") if text):
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), count)
            for stream in (True, False) if count <= 10_000_000 else (True,):
                command = [sys.executable, __file__, "--measure", kind, name, str(int(stream))]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                results.append({kind: count, "kept": "in files" if stream else "in memory", **found})
                print(f"{count:>12,} {kind} {'streamed' if stream else 'in memory':>10}: " + ", ".join(
                    f"{key} {value:,.0f}" for key, value in found.items() if math.isfinite(value)
                ))  # fmt: skip
    return results


if __name__ == "__main__":
    main()
