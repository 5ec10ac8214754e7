"""Time and memory of fine-tuning against plain PyTorch training of the dense model, by the number of rows of its tables.

    python benchmarks/bench_finetuning.py [--rows 10000,100000,1000000] [--batches-per-epoch 100] [--repeats 1]

A DLRM with two tables of 16 dimensions. `dense training` is what `train` does: Adam over all parameters. `tuning` is the fine-tuning of
the pruned model (half of each group, sparsity .7): the dense teacher answers each batch, and zeros stay zero. All zeros are set at once,
because the 20 updates of gradual pruning belong to a whole run and not to 100 steps. Tuning runs with all tables as a whole, and with
long tables by rows. Each measurement runs in fresh processes with one thread; the fastest of `--repeats` counts. Seconds are CPU seconds,
user and system, which exclude other work on the machine. Memory is the peak of the process while it trains, including the model, the
teacher and the rows. Prints a table, and JSON as the last line.
"""

import json
import multiprocessing
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recprune_export.data import ArrayData, Rows
from recprune_export.finetuning import FineTuningConfig, LabeledRows, Schedule, finetune, make_objective
from recprune_export.pipeline import make_nonzero_target
from recprune_export.program.capture import capture
from recprune_export.progress import quiet
from recprune_export.pruning import GroupPlan, ParameterCounter, Plan, apply_plan
from recprune_export.recommenders import InputSpec, build_recommender
from recprune_export.settings import PruningSettings

DIM = 16
BATCH = 1024
VALIDATION_ROWS = 1024
LABEL = "click"
RATE = 5e-4


@dataclass(frozen=True)
class Cost:
    """CPU seconds of 100 steps, and the peak of the process in MB."""

    rows: int
    contestant: str
    seconds: float
    peak_mb: float


def _spec(rows: int) -> InputSpec:
    return InputSpec(categorical={"user": rows, "item": rows}, n_numeric=4, labels=(LABEL,))


def _dense(rows: int) -> nn.Module:
    torch.manual_seed(0)
    return build_recommender("dlrm", _spec(rows), {"dim": DIM, "hidden": (128, 64)})


def _draw(rows: int, count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    ids = {name: rng.integers(rows, size=count) for name in ("user", "item")}
    label = rng.integers(2, size=count).astype(np.float32)
    return Rows({**ids, "numeric": rng.normal(size=(count, 4)).astype(np.float32)}, {LABEL: label})


def _train(rows: int, steps: int) -> Callable[[], None]:
    module, data = _dense(rows), _draw(rows, steps * BATCH, seed=0)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)

    def run() -> None:
        for batch in data.batches(BATCH, 0):
            logits = module({name: torch.from_numpy(values) for name, values in batch.inputs.items()})[LABEL]
            loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels[LABEL]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def _tune(rows: int, steps: int, *, row_wise: bool) -> Callable[[], None]:
    program = capture(_dense(rows).eval(), (_spec(rows).example_request(),))
    analysis = program.analysis
    halves = (GroupPlan(g.name, g.kind, g.width, tuple(range((g.width + 1) // 2))) for g in analysis.groups)
    student = apply_plan(program, Plan("half", tuple(halves)))
    target = make_nonzero_target(ParameterCounter(program).sizes(), PruningSettings(sparsity=0.7))
    held_out = _draw(rows, VALIDATION_ROWS, seed=1)
    data = ArrayData(_draw(rows, steps * BATCH, seed=0), held_out, held_out)
    task = LabeledRows(data, make_objective(program, (LABEL,)), FineTuningConfig(1, RATE, BATCH))
    schedule = Schedule(1, RATE, gradual=False, seed=0, row_wise=row_wise)
    tables = student.analysis.tables
    task.validate(student)  # imports what the metrics need
    return lambda: _tuned(finetune(student, program.with_copied_graph(), task, tables, target, schedule))


def _tuned(fitted: object) -> None:
    assert fitted is not None


CONTESTANTS: dict[str, Callable[[int, int], Callable[[], None]]] = {
    "dense training": _train,
    "tuning, whole tables": lambda rows, steps: _tune(rows, steps, row_wise=False),
    "tuning, by rows": lambda rows, steps: _tune(rows, steps, row_wise=True),
}


def _measure(channel: Connection, contestant: str, rows: int, steps: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with quiet(True):
        run = CONTESTANTS[contestant](rows, steps)
        _forget_peak()
        start = time.process_time()
        run()
        seconds = time.process_time() - start
    channel.send(Cost(rows, contestant, seconds * 100 / steps, _peak()))


def _forget_peak() -> None:
    """Let the peak begin anew, so that capture and pruning do not count (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """Peak resident memory in MB since the last `_forget_peak`."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1e3


def cost(contestant: str, rows: int, steps: int) -> Cost:
    """Measure one contestant in a fresh process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(sender, contestant, rows, steps))
    process.start()
    sender.close()
    found: Cost = receiver.recv()
    process.join()
    return found


@click.command(help=__doc__.splitlines()[0])
@click.option("--rows", default="10000,100000,1000000", show_default=True, help="Of each of the two tables.")
@click.option("--batches-per-epoch", "steps", default=100, show_default=True)
@click.option("--repeats", default=1, show_default=True)
def main(rows: str, steps: int, repeats: int) -> None:
    """Measure every contestant at every size, in turns."""
    print(f"One thread, batches of {BATCH}, {DIM} dimensions; CPU seconds for 100 steps, peak MB of the process.")
    print(f"{'rows':>10}  " + "  ".join(f"{name:>28}" for name in CONTESTANTS), flush=True)
    costs: list[Cost] = []
    for count in (int(part) for part in rows.split(",")):
        found = [cost(name, count, steps) for _ in range(repeats) for name in CONTESTANTS]
        best = [min((c for c in found if c.contestant == name), key=lambda c: c.seconds) for name in CONTESTANTS]
        print(f"{count:>10,}  " + "  ".join(f"{c.seconds:>15.2f} s {c.peak_mb:>8.0f} MB" for c in best), flush=True)
        costs += best
    print(json.dumps({"threads": 1, "batch": BATCH, "dim": DIM, "costs": [asdict(c) for c in costs]}))


if __name__ == "__main__":
    main()
