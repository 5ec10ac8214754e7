"""Time and peak memory of capture, analysis, rewrite and proof, against the number of fields and of rows of tables.

    python benchmarks/bench_scale.py [--fields 10,50,100,200,500] [--rows 1000,100000,1000000,10000000]

The model has a table for each field, an FM term, an inner product of neighbouring fields and an MLP. Fields grow at 1,000
rows each, rows grow in two tables of 16 dimensions; each size runs in a process of its own, one thread. Prints tables and
JSON as the last line; `copies` is the memory that was added at the peak, as a multiple of the size of all tables.
"""

import itertools
import json
import multiprocessing
import resource
import time
import warnings
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import click
import torch
from torch import Tensor, nn

from recprune_export.channels import Analysis
from recprune_export.program.capture import capture
from recprune_export.pruning import GroupPlan, Plan, apply_plan, check_soundness

DIM = 16
FEW_ROWS = 1_000
FEW_FIELDS = 2


class Fields(nn.Module):
    """FM, products of neighbouring fields, and an MLP over all of them."""

    def __init__(self, fields: int, rows: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, DIM) for _ in range(fields))
        self.mlp = nn.Sequential(nn.Linear(fields * DIM, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, fields] -> [batch, 1]."""
        looked_up = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        stacked = torch.stack(looked_up, dim=1)
        squares = (stacked.sum(1).square() - stacked.square().sum(1)).sum(1, keepdim=True)
        neighbours = [(a * b).sum(1, keepdim=True) for a, b in itertools.pairwise(looked_up)]
        return self.mlp(torch.cat(looked_up, 1)) + squares + torch.stack(neighbours).sum(0)


@dataclass(frozen=True)
class Cost:
    """Seconds of each stage, peak memory in MB beyond the model itself, and the multiple of the tables' size."""

    fields: int
    rows: int
    nodes: int
    capture: float
    analyse: float
    rewrite: float
    prove: float
    model_mb: float
    added_mb: float
    copies: float


def _half(analysis: Analysis) -> Plan:
    parts = (GroupPlan(g.name, g.kind, g.width, tuple(range((g.width + 1) // 2))) for g in analysis.groups)
    return Plan("half", tuple(parts))


def _measure(channel: Connection, fields: int, rows: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = Fields(fields, rows).eval()
    _touch_export()
    size, memory = fields * rows * DIM * 4 / 1e6, _peak()
    times = [time.perf_counter()]
    program = capture(model, (torch.randint(0, rows, (4, fields)),))
    times.append(time.perf_counter())
    analysis = program.analysis
    times.append(time.perf_counter())
    plan = _half(analysis)
    pruned = apply_plan(program, plan)
    times.append(time.perf_counter())
    check_soundness(program, plan, pruned)
    times.append(time.perf_counter())
    seconds = [after - before for before, after in itertools.pairwise(times)]
    added, nodes = _peak() - memory, len(program.module.graph.nodes)
    channel.send(Cost(fields, rows, nodes, *seconds, model_mb=size, added_mb=added, copies=added / size))


def _touch_export() -> None:
    """Let imports and caches of torch.export take their memory before counting."""
    capture(Fields(2, 10).eval(), (torch.randint(0, 10, (4, 2)),))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def cost(fields: int, rows: int) -> Cost:
    """Measure one size in a fresh process."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(sender, fields, rows))
    process.start()
    sender.close()
    found: Cost = receiver.recv()
    process.join()
    return found


HEADER = " fields       rows  nodes  capture  analyse  rewrite   prove    model    added copies"


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


@click.command(help=__doc__.splitlines()[0])
@click.option("--fields", default="10,50,100,200,500", show_default=True)
@click.option("--rows", default="1000,100000,1000000,10000000", show_default=True)
def main(fields: str, rows: str) -> None:
    """Measure fields at few rows, and rows at few fields."""
    print("One thread; seconds; MB beyond the model; copies of all tables.")
    print(HEADER)
    costs = []
    for size in [*((f, FEW_ROWS) for f in _numbers(fields)), *((FEW_FIELDS, r) for r in _numbers(rows))]:
        costs.append(c := cost(*size))
        print(
            f"{c.fields:>7} {c.rows:>10,} {c.nodes:>6} {c.capture:8.2f} {c.analyse:8.2f} {c.rewrite:8.2f} {c.prove:7.2f} "
            f"{c.model_mb:8.1f} {c.added_mb:8.1f} {c.copies:6.2f}",
            flush=True,
        )
    print(json.dumps({"threads": 1, "dim": DIM, "sizes": [asdict(c) for c in costs]}))


if __name__ == "__main__":
    main()
