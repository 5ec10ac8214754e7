"""A training step on a cluster, simulated: seconds, bytes over the network and memory of a rank, for 1 to 64 ranks.

    python benchmarks/simulate_cluster.py [--long-rows 1000000000] [--width 64] [--batch 1024] [--write docs]

Measured here: the time of one core for layers, rows and ids, and the bytes that `sharded_lookup` sends between 2 processes (gloo,
loopback), which must equal those of the cost model (`cluster_cost.py`) exactly. Simulated: everything else. One table is
long, 25 others have 10^6 rows; ids follow a power law, and each rank draws its ids. `--batch` is the batch size of each rank.
Prints tables, and JSON in the last line; `--write` updates the section in scale.md and the picture scale.svg.
"""

import json
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from cluster_cost import (
    EXCHANGES,
    NUMBER,
    SHARDINGS,
    Fabric,
    Model,
    Rates,
    TableTraffic,
    count_all_reduce,
    count_exchange,
    count_lookup_by_all_reduce,
    count_memory,
    draw_ids,
    expect_touched_pages,
    time_all_reduce,
    time_compute,
    time_exchanges,
)
from cluster_page import draw_picture, format_section
from results import write_section

from recprune_export.environment import environment

FABRICS = (
    Fabric("25 Gbit/s Ethernet, 50 µs a message", 25e9 / 8, 50e-6),
    Fabric("100 Gbit/s Ethernet, 20 µs a message", 100e9 / 8, 20e-6),
)
RANKS = (1, 2, 4, 8, 16, 32, 64)
SHORT_TABLES, SHORT_ROWS = 25, 1_000_000
LAYERS = (512, 512, 256, 1)
EXPONENT = 1.0
DISK = 1e9  # bytes a second of each rank's disk
RANK_MEMORY = 64 * 2**30
DAY = 86400.0
MEASURED_BYTES = 1 << 29  # of a table whose rows are timed: no cache holds it


def measure_rates(width: int, layers: Sequence[int], inputs: int) -> Rates:
    """Measure one core of this machine, in CPU seconds: the layers at batch 1024, and rows of a table that no cache holds."""
    torch.set_num_threads(1)
    sizes = [inputs, *layers]
    module = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in pairwise(sizes)))
    parameters = sum(p.numel() for p in module.parameters())
    x = torch.randn(1024, inputs)

    def step_layers() -> None:
        module(x).sum().backward()

    rng = np.random.default_rng(0)
    table_rows = MEASURED_BYTES // (NUMBER * width)
    weight = torch.zeros(table_rows, width)
    moments = torch.zeros_like(weight), torch.zeros_like(weight)
    rows = torch.from_numpy(rng.permutation(table_rows)[: 1 << 16])

    def step_rows() -> None:
        gradient = weight[rows] + 1.0
        first, second = (m[rows] for m in moments)
        first, second = first * 0.9 + gradient * 0.1, second * 0.999 + gradient * gradient * 0.001
        for moment, values in zip(moments, (first, second), strict=True):
            moment[rows] = values
        weight.index_add_(0, rows, -1e-3 * first / (second.sqrt() + 1e-8))

    ids = torch.from_numpy(draw_ids(rng, 10**9, 1 << 17, EXPONENT))
    return Rates(
        6.0 * parameters * 1024 / _time(step_layers),
        _time(step_rows) / len(rows),
        _time(lambda: torch.unique(ids, return_inverse=True)) / len(ids),
    )


def _time(function: Any, repeats: int = 7) -> float:
    """Return the median CPU seconds of a call."""
    function()
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        function()
        seconds.append(time.process_time() - begun)
    return float(np.median(seconds))


def compare_with_product(ranks: int = 2, rows: int = 100_000, width: int = 16, lookups: int = 2_000) -> dict[str, Any]:
    """Look rows up in `ranks` processes with `sharded_lookup`; return the bytes that each counted, and those of the cost model."""
    rng = np.random.default_rng(0)
    ids = [draw_ids(rng, rows, lookups + 100 * rank, EXPONENT) for rank in range(ranks)]
    predicted = count_exchange(ids, rows, width).sent.tolist()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        torch.multiprocessing.spawn(_look_up, (ranks, port, rows, width, ids, folder), nprocs=ranks)
        counted = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(ranks)]
    return {"ranks": ranks, "predicted_bytes": predicted, "counted_bytes": counted, "equal": predicted == counted}


def _look_up(rank: int, ranks: int, port: int, rows: int, width: int, ids: Sequence[np.ndarray], folder: str) -> None:
    import torch.distributed as dist

    from recprune_export.distributed.collectives import traffic
    from recprune_export.distributed.ranks import Run, set_run
    from recprune_export.distributed.row_shards import RowShard
    from recprune_export.distributed.sharded_lookup import sharded_lookup

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    set_run(Run(rank, ranks))
    try:
        shard = RowShard.of(rows)
        weight = torch.zeros(len(shard), width, requires_grad=True)
        before = traffic.sent_bytes
        sharded_lookup(weight, torch.from_numpy(ids[rank]), shard).sum().backward()
        (Path(folder) / f"{rank}.json").write_text(json.dumps(traffic.sent_bytes - before))
    finally:
        dist.destroy_process_group()


def draw_step(model: Model, ranks: int, batch: int, sharding: str, seed: int = 0) -> list[TableTraffic]:
    """Draw the ids of one step on all ranks, and count the bytes sent for each table."""
    rng = np.random.default_rng(seed)
    return [
        count_exchange([draw_ids(rng, rows, batch, EXPONENT) for _ in range(ranks)], rows, model.width, sharding)
        for rows in model.tables
    ]


def simulate(model: Model, rates: Rates, ranks: int, batch: int, fabric: Fabric) -> dict[str, Any]:
    """Return seconds of a step by their cause, bytes of the busiest rank, and seconds of an epoch of 10^9 rows."""
    traffic = draw_step(model, ranks, batch, "cyclic")
    dense = NUMBER * model.dense_parameters
    seconds = {
        "compute": time_compute(rates, model, batch, traffic),
        "messages": time_exchanges(replace(fabric, bandwidth=float("inf")), ranks, traffic, EXCHANGES * len(traffic)),
        "ids and rows": time_exchanges(replace(fabric, latency=0.0), ranks, traffic, 0),
        "sum of layers": time_all_reduce(fabric, dense, ranks),
    }
    sent = int(sum(t.sent for t in traffic).max())  # type: ignore[union-attr]
    step = sum(seconds.values())
    return {
        "ranks": ranks, "batch": batch, "fabric": fabric.name, "seconds": seconds, "step_seconds": step,
        "sent_bytes": sent, "all_reduce_of_rows_bytes": sum(count_lookup_by_all_reduce(batch, model.width, ranks) for _ in model.tables),
        "layers_bytes": count_all_reduce(dense, ranks),
        "different": int(np.mean(sum(t.different for t in traffic))),
        "epoch_seconds": 1e9 / (batch * ranks) * step,
        "rows_a_second": batch * ranks / step,
    }  # fmt: skip


def measure_balance(model: Model, ranks: int, batch: int) -> dict[str, float]:
    """Return the rows that the busiest rank looks up, over the mean of all ranks, for each way of sharding."""
    balance = {}
    for sharding in SHARDINGS:
        asked = sum(t.asked for t in draw_step(model, ranks, batch, sharding))
        balance[sharding] = float(asked.max() / asked.mean())  # type: ignore[union-attr]
    return balance


def describe_memory(model: Model, ranks: int, batch: int, different: float, examples: float = 1e9) -> dict[str, float]:
    """Return the memory of a rank after `examples` rows of data, each of which looks up one id of each table."""
    touched = [expect_touched_pages(rows, model.width, examples, EXPONENT) for rows in model.tables]
    return dict(count_memory(model, ranks, batch, different, touched))


def find_limits(model: Model, batch: int, results: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the limits at 64 ranks and 25 Gbit/s, in the order in which they are reached: the limit, the number, what to change."""
    ranks, row = RANKS[-1], NUMBER * model.width
    slow = next(r for r in results if r["ranks"] == ranks and r["fabric"] == FABRICS[0].name)
    messages, table = slow["seconds"]["messages"], model.tables[0] * row
    most_rows = RANK_MEMORY * ranks / (3 * row)
    return [
        {
            "limit": f"messages: {EXCHANGES} exchanges for each table, of N - 1 messages",
            "number": f"{100 * messages / slow['step_seconds']:.0f} % of a step with {batch:,} rows per rank",
            "change": "more rows in a batch (`--batch-size`), fewer tables, or fewer ranks; a single exchange for all tables, which "
            f"is not implemented, would take {messages / len(model.tables):.2f} s instead of {messages:.2f} s",
        },
        {
            "limit": "one file: the first process writes whole tables",
            "number": f"{table / 1e9:.0f} GB for each checkpoint: {table / FABRICS[0].bandwidth:.0f} s over its link, "
            f"{table / DISK:.0f} s to its disk",
            "change": "the disk of the first process, or the width of the table",
        },
        {
            "limit": "an epoch of a day",
            "number": f"{slow['rows_a_second'] * DAY:.1e} rows of data",
            "change": "more rows in a batch, then more ranks",
        },
        {
            "limit": f"memory of a rank, {RANK_MEMORY >> 30} GiB",
            "number": f"{most_rows:.1e} rows of the tables, if all rows are updated",
            "change": "the number of ranks, or the width: half the width allows twice as many rows",
        },
        {
            "limit": "the bandwidth of the network",
            "number": f"{100 * slow['seconds']['ids and rows'] / slow['step_seconds']:.1f} % of a step: the last limit",
            "change": "nothing",
        },
    ]  # fmt: skip


def simulate_variants(model: Model, rates: Rates, batch: int) -> list[dict[str, Any]]:
    """Return a step at 64 ranks and 25 Gbit/s for variants of the model with one parameter changed."""
    ranks, (long_rows, *short) = RANKS[-1], model.tables
    inputs = model.dense_parameters
    variants = {
        "as above": model,
        "a tenth of the rows": Model((long_rows // 10, *short), model.width, inputs),
        "ten times the rows": Model((long_rows * 10, *short), model.width, inputs),
        "a quarter of the width": Model(model.tables, model.width // 4, inputs),
        "four times the width": Model(model.tables, model.width * 4, inputs),
        "four times the fields": Model((long_rows, *short * 4), model.width, inputs),
    }
    results = []
    for name, variant in variants.items():
        measured = rates if variant.width == model.width else measure_rates(variant.width, (1,), 1)
        scaled = replace(rates, row_seconds=measured.row_seconds)
        step = simulate(variant, scaled, ranks, batch, FABRICS[0])
        memory = sum(describe_memory(variant, ranks, batch, step["different"]).values())
        results.append({"name": name, "memory_bytes": memory, **step})
    return results


@click.command(help=__doc__.splitlines()[0])
@click.option("--long-rows", default=10**9, show_default=True)
@click.option("--width", default=64, show_default=True)
@click.option("--batch", default=1024, show_default=True, help="Rows of a batch for each rank.")
@click.option("--write", type=click.Path(path_type=Path, file_okay=False), help="Folder of scale.md.")
def main(long_rows: int, width: int, batch: int, write: Path | None) -> None:
    """Measure, compare, simulate."""
    inputs = width * (SHORT_TABLES + 1)
    sizes = [inputs, *LAYERS]
    dense = sum(a * b + b for a, b in pairwise(sizes))
    model = Model((long_rows, *[SHORT_ROWS] * SHORT_TABLES), width, dense)
    check = compare_with_product() if find_spec("recprune_export.distributed") else None
    rates = measure_rates(width, LAYERS, inputs)
    results = [simulate(model, rates, ranks, batch, fabric) for fabric in FABRICS for ranks in RANKS]
    batches = [simulate(model, rates, RANKS[-1], size, fabric) for fabric in FABRICS for size in (16, 256, 1024, 8192)]
    different = {r["ranks"]: r["different"] for r in results}
    memory = [{"ranks": n, "bytes": describe_memory(model, n, batch, different[n])} for n in RANKS]
    report: dict[str, Any] = {
        "benchmark": "simulate-cluster", "model": asdict(model), "rates": asdict(rates), "batch": batch, "check": check,
        "results": results, "batches": batches, "memory": memory, "variants": simulate_variants(model, rates, batch),
        "balance": measure_balance(model, RANKS[-1], batch), "limits": find_limits(model, batch, results),
        "checkpoint": {"bytes": 3.0 * sum(model.tables) * NUMBER * width / RANKS[-1], "bytes_a_second": DISK},
        "environment": environment(),
    }  # fmt: skip
    text = format_section(report)
    print(text)
    if write is not None:
        draw_picture(report, RANK_MEMORY, write / "scale.svg")
        write_section(
            write / "scale.md", "Simulated: a step of training on 1 to 64 ranks", "benchmarks/simulate_cluster.py", text
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
