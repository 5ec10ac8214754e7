"""Peak memory by stage of a job on a checkpoint in shards that is larger than the memory it may take.

    python benchmarks/bench_sharded_checkpoint.py --gigabytes 1,2,4,12 --limit 8 [--folder FOLDER] [--epochs 0] [--sparsity .8]

For each size: six tables of 64 dimensions, of effective rank 12, and an MLP; a folder of torch.distributed.checkpoint with row,
column and table shards in several files, written shard by shard; then `recprune-export FOLDER` in a process with `ulimit -d`
of `--limit` GB, at most two thirds of the checkpoint and one GB more. Memory is sampled from outside, every 20 ms, over the
process and those that it starts: anonymous pages and pages of files that are mapped into memory, from
`/proc/PID/smaps_rollup`. Afterwards another process with the same limit opens `model.onnx` and compares its answers to the
golden rows, and PyTorch's from `model.pt2`, with the stored ones. All files lie in `--folder` and are removed. Prints a
table for each size, and JSON in the last line.
"""

import json
import os
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from process_memory import read_memory_of_tree
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from recprune_export.environment import environment

DIM, RANK, NUMBERS = 64, 12, 4
SHARES = (0.4, 0.25, 0.15, 0.12, 0.06, 0.02)  # of all rows, by table
SHARDS = ((4, 1), (1, 2), (3, 1), (1, 1), (1, 1), (2, 1))  # of rows and columns, by table
GIGABYTE = 1e9
PAGES = ("anonymous", "mapped", "both")


class Recommender(nn.Module):
    """Tables for six fields and an MLP on all of them."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, DIM) for count in rows)
        sizes = (len(rows) * DIM + NUMBERS, 128, 64)
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.top = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        found = [table(ids[:, field]) for field, table in enumerate(self.tables)]
        return self.top(torch.cat([*found, numbers], 1)).squeeze(1)


def make_model(rows: list[int]) -> Recommender:
    """The factory of the benchmark."""
    return Recommender(rows)


def count_rows(gigabytes: float) -> list[int]:
    """Return the rows of each table of a checkpoint of that size."""
    total = gigabytes * GIGABYTE / (4 * DIM)
    return [int(share * total) // 12 * 12 for share in SHARES]


class _ShardPlanner(DefaultSavePlanner):
    """Declares the shards of the tables, and makes each when it is written."""

    def create_local_plan(self) -> SavePlan:
        items = [item for name, tensor in self.state_dict.items() for item in self._list_shards(name, tensor)]
        self.plan = SavePlan(items, planner_data={name: (name,) for name in self.state_dict})
        return self.plan

    def _list_shards(self, name: str, tensor: Tensor) -> Iterator[WriteItem]:
        rows, columns = SHARDS[int(name.split(".")[1])] if tensor.is_meta else (1, 1)
        sizes = list(tensor.shape)
        sizes[0] //= rows
        sizes[-1] //= columns
        for row in range(rows):
            for column in range(columns):
                offsets = [0] * tensor.ndim
                offsets[0] += row * sizes[0]
                offsets[-1] += column * sizes[-1]
                chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
                data = TensorWriteData(chunk, TensorProperties(dtype=tensor.dtype), tensor.size())
                yield WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)

    def resolve_data(self, write_item: WriteItem) -> Any:
        name, data = write_item.index.fqn, write_item.tensor_data
        tensor = self.state_dict[name]
        if not tensor.is_meta or data is None:
            return tensor
        basis = torch.randn(RANK, DIM, generator=torch.Generator().manual_seed(int(name.split(".")[1])))
        column, columns = data.chunk.offsets[1], data.chunk.sizes[1]
        part, start = torch.empty(data.chunk.sizes), data.chunk.offsets[0]
        generator = torch.Generator().manual_seed(start)
        for rows in part.split(1 << 16):
            factors = torch.randn(len(rows), RANK, generator=generator) / RANK**0.5
            rows.copy_((factors @ basis)[:, column : column + columns])
        return part


def write_checkpoint(rows: list[int], folder: Path) -> int:
    """Write the folder; memory: the largest shard. Return its bytes."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Recommender(rows)
    top = Recommender([1] * len(rows)).top.state_dict()
    state = {name: top[name.removeprefix("top.")] if "top." in name else t for name, t in model.state_dict().items()}
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=False, sync_files=False)
    dcp.save(state, storage_writer=writer, planner=_ShardPlanner(flatten_state_dict=False), no_dist=True)
    return sum(file.stat().st_size for file in folder.iterdir())


def run_job(stages: str, arguments: list[str]) -> None:
    """Run the command line with the name of the present stage in a file: called in the limited process."""
    from recprune_export import progress

    file, bar, running = open(stages, "w+"), progress.progress_bar, ["Imports"]  # noqa: SIM115

    def tell() -> None:
        file.seek(0)
        file.truncate()
        file.write(running[-1])
        file.flush()

    @contextmanager
    def named(description: str, *options: Any) -> Iterator[Any]:
        running.append(description)
        tell()
        try:
            with bar(description, *options) as advance:
                yield advance
        finally:
            running[-2:] = [f"after: {description}"]
            tell()

    progress.progress_bar = named  # type: ignore[assignment]
    tell()
    sys.argv = ["recprune-export", *arguments]
    runpy.run_module("recprune_export", run_name="__main__")


def check_answers(bundle: Path) -> None:
    """Compare ONNX Runtime, PyTorch and the stored answers on the golden rows: called in the limited process."""
    import onnxruntime

    from recprune_export.program import Program
    from recprune_export.program.requests.jagged_inputs import to_program_tensors

    samples = {name: dict(np.load(bundle / "samples" / f"{name}.npz")) for name in ("inputs", "outputs")}
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, samples["inputs"])
    program = Program.load(bundle / "model.pt2")
    with torch.no_grad():
        request = {name: torch.from_numpy(values) for name, values in samples["inputs"].items()}
        torch_answer = program.module(*to_program_tensors(program.signature, request))[0].numpy()
    (stored,) = samples["outputs"].values()
    print(
        json.dumps(
            {
                "rows": len(answer),
                "onnx_from_torch": float(np.abs(answer - torch_answer).max()),
                "onnx_from_stored": float(np.abs(answer - stored).max()),
                "largest": float(np.abs(stored).max()),
            }
        )
    )


def measure(function: str, arguments: list[str], limit: float, stages: Path) -> dict[str, Any]:
    """Run a function of this file in a limited process; return seconds and peaks by stage, and what it printed."""
    code = f"import bench_sharded_checkpoint as b; import sys; from pathlib import Path; b.{function}"
    stages.write_text("Imports")
    begun, peaks, seconds, last = time.perf_counter(), {}, {}, time.perf_counter()

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * GIGABYTE), int(limit * GIGABYTE)))

    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "TMPDIR": str(stages.parent),
    }
    output = stages.with_suffix(".out")
    with output.open("w") as out, stages.with_suffix(".err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=out,
            stderr=err,
            preexec_fn=restrict,
            env=variables,
            cwd=stages.parent,
        )
        while process.poll() is None:
            stage, now = stages.read_text() or "?", time.perf_counter()
            anonymous, mapped = read_memory_of_tree(process.pid)
            peak = peaks.setdefault(stage, [0, 0, 0])
            peaks[stage] = [max(a, b) for a, b in zip(peak, (anonymous, mapped, anonymous + mapped), strict=True)]
            seconds[stage] = seconds.get(stage, 0.0) + now - last
            last = now
            time.sleep(0.02)
    return {
        "code": process.returncode,
        "seconds": time.perf_counter() - begun,
        "stages": {
            s: {"seconds": seconds[s], "anonymous": p[0], "mapped": p[1], "both": p[2]} for s, p in peaks.items()
        },
        "output": output.read_text()[-3000:],
        "errors": stages.with_suffix(".err").read_text()[-3000:],
    }


def run_size(gigabytes: float, limit: float, folder: Path, sparsity: float, options: list[str]) -> dict[str, Any]:
    """Measure one size."""
    rows = count_rows(gigabytes)
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    begun = time.perf_counter()
    size = write_checkpoint(rows, checkpoint)
    written = time.perf_counter() - begun
    inputs = folder / "inputs.npz"
    np.savez(inputs, ids=np.arange(8)[:, None].repeat(len(rows), 1), numbers=np.zeros((8, NUMBERS), np.float32))
    arguments = [
        str(checkpoint), "--factory", "bench_sharded_checkpoint:make_model", "--factory-args", json.dumps({"rows": rows}),
        "--inputs", str(inputs), "--sparsity", str(sparsity), "--quick", "--latency-batch-sizes", "64", "--no-triton",
        "-o", str(bundle), *options,
    ]  # fmt: skip
    job = measure(f"run_job('{folder / 'stage'}', sys.argv[1:])", arguments, limit, folder / "stage")
    result = {"gigabytes": gigabytes, "bytes": size, "limit": limit, "written_seconds": written, **job}
    if job["code"] == 0:
        result["model_bytes"] = sum((bundle / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
        result["notes"] = json.loads((bundle / "manifest.json").read_text())["notes"]
        result["check"] = measure(f"check_answers(Path('{bundle}'))", [], limit, folder / "stage")
    return result


def print_result(result: dict[str, Any]) -> None:
    """Print one size."""
    size = result["bytes"]
    print(
        f"\n{size / 1e9:.2f} GB of checkpoint (written in {result['written_seconds']:.0f} s), ulimit -d {result['limit']:.2f} GB"
    )
    if result["code"]:
        print(f"exit code {result['code']}: {result['errors'][-1500:]}")
    print(f"{'stage':<45}{'seconds':>9}{'anonymous':>11}{'mapped':>9}{'both':>8}  GB")
    for stage, peak in result["stages"].items():
        anonymous, mapped, both = (peak[key] / 1e9 for key in PAGES)
        print(f"{stage[:44]:<45}{peak['seconds']:>9.1f}{anonymous:>11.2f}{mapped:>9.2f}{both:>8.2f}")
    largest = max(peak["both"] for peak in result["stages"].values())
    print(f"peak {largest / 1e9:.2f} GB, {largest / size:.2f} x the checkpoint; {result['seconds']:.0f} s", end="")
    if "check" in result:
        check = result["check"]
        peak = max(p["both"] for p in check["stages"].values())
        print(f"; ONNX file {result['model_bytes'] / 1e9:.2f} GB, opened in {peak / 1e9:.2f} GB:", end=" ")
        print(check["output"].strip(), check["errors"][-300:], end="")
    print()


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """Return the largest figures of all stages of one size."""
    peaks = {f"{kind}_gb": max(p[kind] for p in result["stages"].values()) / GIGABYTE for kind in PAGES}
    return {
        "checkpoint_gb": result["bytes"] / GIGABYTE, "limit_gb": result["limit"], **peaks, "wall_seconds": result["seconds"],
        "exit_code": result["code"],
    }  # fmt: skip


@click.command()
@click.option("--gigabytes", default="1,2,4,12")
@click.option("--limit", default=8.0)
@click.option("--folder", type=click.Path(path_type=Path), default=None)
@click.option("--sparsity", default=0.8)
@click.argument("options", nargs=-1)
def main(gigabytes: str, limit: float, folder: Path | None, sparsity: float, options: tuple[str, ...]) -> None:
    """Measure each size; OPTIONS, after --, go to the job."""
    results = []
    for size in map(float, gigabytes.split(",")):
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix="sharded-"))
        try:
            results.append(run_size(size, min(limit, size * 2 / 3 + 1.0), scratch, sparsity, list(options)))
            print_result(results[-1])
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    report = {"environment": environment(), "results": [summarize(result) for result in results], "jobs": results}
    print(json.dumps({"benchmark": "sharded-checkpoint", **report}))


if __name__ == "__main__":
    main()
