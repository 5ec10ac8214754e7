"""Rows a CPU second of `train` on long tables, beside plain loops with Adam and with SparseAdam.

    python benchmarks/bench_training.py [--rows 280000] [--batches-per-round 20] [--rounds 9] [--batch-size 1024]

A DLRM with seven tables of 32 dimensions, one of `--rows` rows and one of a seventh of that, 10.5 million parameters by
default; ids are log-uniform. `train` runs its loop, `fit`, on the optimizer that it makes; the plain loops step the same
module on the same batches with `torch.optim.Adam` for all weights, or with `torch.optim.SparseAdam` for the tables and Adam
for the rest. In each round each contestant takes `--batches-per-round` steps, one after the other; one thread, CPU seconds of the
process. The last column is how many times as many rows `train` takes, with its 95 % interval over rounds. Prints a table,
and JSON with the machine as the last line.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recprune_export.data import Rows
from recprune_export.environment import environment
from recprune_export.gate.cost_rules import ratio_of_few_medians
from recprune_export.progress import quiet
from recprune_export.recommenders import InputSpec, build_recommender
from recprune_export.training import fit
from recprune_export.training.optimizers import make_optimizer

LABEL, RATE = "click", 1e-3
Epoch = Callable[[int], Iterator[Rows]]  # by its seed


def make_spec(rows: int) -> InputSpec:
    """Return the inputs: fields of very different sizes, and three numbers."""
    sizes = (rows, rows // 7, 12_000, 5_000, 1_000, 500, 50)
    return InputSpec({f"field{i}": size for i, size in enumerate(sizes)}, n_numeric=3, labels=(LABEL,))


def draw_rows(spec: InputSpec, count: int) -> Rows:
    """Draw `count` rows."""
    rng = np.random.default_rng(0)
    ids = {name: (size ** rng.random(count)).astype(np.int64) % size for name, size in spec.categorical.items()}
    label = rng.integers(2, size=count).astype(np.float32)
    return Rows({**ids, "numeric": rng.normal(size=(count, 3)).astype(np.float32)}, {LABEL: label})


def compute_loss(module: nn.Module, batch: Rows) -> Tensor:
    """Return the mean cross entropy of a batch."""
    logits = module({name: torch.from_numpy(values) for name, values in batch.inputs.items()})[LABEL]
    return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels[LABEL]))


def run_train(module: nn.Module, epoch: Epoch, batch_size: int, steps: int) -> Callable[[int], None]:
    """Return a round of the loop of `train`, which ends with all rows up to date."""
    optimizer = make_optimizer(module, batch_size, RATE)

    def run(seed: int) -> None:
        with optimizer.deferred():
            fit(
                module, batches=lambda _: epoch(seed), loss=lambda batch: compute_loss(module, batch),
                evaluate=lambda: 0.0, optimizers=[optimizer], epochs=1, patience=1, steps_per_epoch=steps, description="",
            )  # fmt: skip

    return run


def run_plain(module: nn.Module, epoch: Epoch, *, sparse: bool) -> Callable[[int], None]:
    """Return a round of a plain loop."""
    tables = [layer for layer in module.modules() if isinstance(layer, nn.Embedding)] if sparse else []
    for table in tables:
        table.sparse = True
    in_tables = {table.weight for table in tables}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam([p for p in module.parameters() if p not in in_tables], lr=RATE)
    ]
    optimizers += [torch.optim.SparseAdam(list(in_tables), lr=RATE)] if sparse else []

    def run(seed: int) -> None:
        for batch in epoch(seed):
            loss = compute_loss(module, batch)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

    return run


@click.command(help=__doc__.splitlines()[0])
@click.option("--rows", default=280_000, show_default=True, help="Of the longest table.")
@click.option("--batches-per-round", "steps", default=20, show_default=True, help="Of each contestant in a round.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--batch-size", default=1024, show_default=True)
def main(rows: int, steps: int, rounds: int, batch_size: int) -> None:
    """Measure all contestants in turns."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = make_spec(rows)
    data, module = draw_rows(spec, steps * batch_size), build_recommender("dlrm", spec, {})
    parameters = sum(p.numel() for p in module.parameters())

    def epoch(seed: int) -> Iterator[Rows]:
        return data.batches(batch_size, seed)

    contestants = {
        "train": run_train(copy.deepcopy(module), epoch, batch_size, steps),
        "plain loop, Adam": run_plain(copy.deepcopy(module), epoch, sparse=False),
        "plain loop, SparseAdam": run_plain(copy.deepcopy(module), epoch, sparse=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with quiet(True):
        for number in range(rounds + 1):
            for name, run in contestants.items():
                begun = time.process_time()
                run(number)
                if number:  # the first round warms up
                    seconds[name].append(time.process_time() - begun)
    print(f"{parameters:,} parameters, batches of {batch_size}, 1 thread; medians of {rounds} rounds of {steps} steps")
    print(f"{'':>24} {'ms a step':>10} {'rows a CPU second':>18} {'train : it [95 %]':>22}")
    results = []
    for name, measured in seconds.items():
        step = float(np.median(measured)) / steps
        ratio = ratio_of_few_medians(np.column_stack([measured, seconds["train"]]))
        print(
            f"{name:>24} {step * 1e3:>10.2f} {batch_size / step:>18,.0f} "
            f"{ratio.estimate:>8.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        )
        results.append({
            "contestant": name, "ms_a_step": step * 1e3, "rows_a_cpu_second": batch_size / step,
            "train_to_it": [ratio.estimate, ratio.low, ratio.high],
        })  # fmt: skip
    print(json.dumps({
        "benchmark": "training", "threads": 1, "parameters": parameters, "batch_size": batch_size, "steps": steps,
        "rounds": rounds, "results": results, "environment": environment(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
