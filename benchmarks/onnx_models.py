"""ONNX files pruned by `recprune-export model.onnx` and by onnxsim's structured pruning, side by side.

    python benchmarks/onnx_models.py [--folder FOLDER] [--corpus corpus.py] [--checkpoint anime.pt --rows anime.parquet] [--only NAME]

The files are the recommenders of this project, exported by PyTorch's older exporter (operator sets 11 to 17) and by its newer one;
those of a corpus (see `third_party.py`), exported by the older one; every .onnx file of FOLDER, such as those that tf2onnx
writes; and a checkpoint of `train`, of whose test rows the AUC is measured. onnxsim has to be importable. It removes half of the
channels of each chain of layers, its default, in the file that its simplifier makes; ours gets a sparsity of 0.7 and a few steps
of tuning. Every file runs in a separate process with one thread. Prints for each file the bytes, the time of a request of 256 rows as a
ratio to the given file with its interval, and the change of the answers (the root of the mean square, over that of the answers around
their mean), and JSON as the last line.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from recprune_export.api import compress
from recprune_export.errors import RecpruneError
from recprune_export.finetuning import read_encoded
from recprune_export.onnx import count, make_session, run
from recprune_export.program import Signature, load_program, sample_request
from recprune_export.recommenders import RECOMMENDERS, InputSpec, build_recommender
from recprune_export.training import load_checkpoint
from recprune_export.validation import make_onnxruntime_backend, measure_latency, sample_cycles

BATCH, ROWS, SPARSITY, PEER_SPARSITY = 256, 2048, 0.7, 0.5
GIVEN, OURS, PEER = "given", "recprune-export", "onnxsim"
CLICKS = InputSpec({f"field_{n}": 200 * (n + 1) for n in range(8)}, n_numeric=5, labels=("click",))
HISTORIES = InputSpec(items=500, max_length=10, labels=("next_item",))
TWO_LABELS = InputSpec(CLICKS.categorical, n_numeric=5, labels=("click", "buy"))


@dataclass(frozen=True)
class Pruned:
    """What one tool made of a file; `failure` is what it said instead."""

    bytes: int = 0
    tables: int = 0  # parameters
    rest: int = 0
    ratio: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the time to that of the given file, with its interval
    change: float = 0.0
    auc: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Outcome:
    """A file and what the tools made of it."""

    name: str
    given: Pruned = Pruned()
    tools: dict[str, Pruned] = field(default_factory=dict)
    failure: str = ""


class Wrapped(nn.Module):
    """A recommender whose request is a dict, as a module of tensors in order."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(dict(zip(self.names, tensors, strict=True))).values())


def export(module: nn.Module, request: dict[str, Tensor], path: Path, opset: int, dynamo: bool = False) -> None:
    """Write a module of tensors in order, the batch free."""
    names = list(request)
    outputs = [f"answer_{number}" for number in range(len(module.eval()(*request.values())))]
    batch = torch.export.Dim("batch")
    options: dict[str, Any] = (
        {"dynamic_shapes": {"tensors": tuple({0: batch} for _ in names)}}
        if dynamo
        else {"dynamic_axes": {name: {0: "batch"} for name in (*names, *outputs)}}
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            module, tuple(request.values()), path, dynamo=dynamo, opset_version=opset, input_names=names, output_names=outputs,
            verbose=False, **options,
        )  # fmt: skip


def write_own(folder: Path) -> None:
    """Export the recommenders of this project, with each operator set in turn."""
    for number, name in enumerate(RECOMMENDERS):
        spec = HISTORIES if name == "sasrec" else TWO_LABELS if name == "mmoe" else CLICKS
        torch.manual_seed(number)
        request = spec.example_request(4)
        module = Wrapped(build_recommender(name, spec, {}), list(request))
        export(module, request, folder / f"{name}-{11 + number}.onnx", 11 + number)
        if name in ("dlrm", "dcn_v2", "sasrec"):
            export(module, request, folder / f"{name}-dynamo.onnx", 18, dynamo=True)


def write_corpus(path: Path, folder: Path) -> None:
    """Export every second model of a corpus; what the exporter refuses is left out."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    corpus = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpus)
    for number, name in enumerate(list(corpus.REGISTRY)[::2]):
        with contextlib.suppress(Exception):  # the exporter raises many classes
            module, inputs, _ = corpus.build(name)
            request = inputs if isinstance(inputs, dict) else {f"x{n}": x for n, x in enumerate(inputs)}
            export(Tupled(module), request, folder / f"{name.replace('/', '-')}.onnx", 11 + number % 7)


class Tupled(nn.Module):
    """A module that returns a tuple."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        answer = self.module(*tensors)
        return answer if isinstance(answer, tuple) else (answer,)


def write_checkpoint(checkpoint_path: Path, data: Path, folder: Path) -> None:
    """Export a checkpoint of `train`, and write its rows beside it as the file takes them."""
    checkpoint = load_checkpoint(checkpoint_path)
    request = checkpoint.example_request()
    names = list(request)
    export(Wrapped(checkpoint.build(), names), dict(request), folder / f"{checkpoint_path.stem}.onnx", 13)
    encoded = read_encoded(data, checkpoint.encoder)
    splits = {name: getattr(encoded, name).sample(1 << 30, 0) for name in ("train", "valid", "test")}
    arrays = {name: np.concatenate([rows.inputs[name] for rows in splits.values()]) for name in names}
    (label,) = checkpoint.spec.labels
    np.savez(
        folder / f"{checkpoint_path.stem}.npz", **arrays,
        label=np.concatenate([rows.labels[label] for rows in splits.values()]),
        split=np.concatenate([np.full(len(rows), name) for name, rows in splits.items()]),
    )  # fmt: skip


def prune_by_onnxsim(path: Path, target: Path) -> None:
    """Simplify a file, and remove half of the channels of each chain of layers."""
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(path))
    onnx.save(onnxsim.apply_structured_pruning(simplified, PEER_SPARSITY), target)


def compare(path: Path) -> Outcome:
    """Prune a file by both tools, and measure both."""
    try:
        signature = load_program(path).program.signature
    except RecpruneError as error:
        return Outcome(path.stem, failure=str(error))
    rows = path.with_suffix(".npz")
    with tempfile.TemporaryDirectory() as folder:
        files, failures = {GIVEN: path}, {}
        try:
            options: dict[str, Any] = {"data": rows, "labels": "label"} if rows.exists() else {"epochs": 2}
            compress(path, target=Path(folder) / "bundle", sparsity=SPARSITY, quick=True, **options)
            files[OURS] = Path(folder) / "bundle" / "model.onnx"
        except RecpruneError as error:
            failures[OURS] = str(error)
        try:
            prune_by_onnxsim(path, Path(folder) / "peer.onnx")
            make_session(Path(folder) / "peer.onnx", 1)
            files[PEER] = Path(folder) / "peer.onnx"
        except Exception as error:  # another tool may raise anything
            failures[PEER] = f"{type(error).__name__}: {error}"
        measured = dict(measure(files, signature, rows))
    return Outcome(
        path.stem,
        measured.pop(GIVEN),
        {tool: measured.get(tool) or Pruned(failure=failures[tool]) for tool in (OURS, PEER)},
    )


def measure(files: dict[str, Path], signature: Signature, rows: Path) -> Iterator[tuple[str, Pruned]]:
    """Yield the bytes, times and answers of each file."""
    backends = [make_onnxruntime_backend(name, path, 1) for name, path in files.items()]
    report = measure_latency(backends, sample_cycles(signature, [BATCH], seed=0), threads=1, cold=False)
    request = sample_request(signature, ROWS, seed=1)
    labels = None
    if rows.exists():
        data = np.load(rows)
        test = data["split"] == "test"
        request, labels = {i.name: data[i.name][test] for i in signature.inputs}, data["label"][test]
    given: dict[str, np.ndarray] = {}
    for name, path in files.items():
        answers = run(make_session(path, 1), request)
        given = given or answers
        counts, ratio = count(path), report.ratio(BATCH, name, GIVEN)
        yield (
            name,
            Pruned(
                bytes=counts.bytes,
                tables=counts.tables.parameters,
                rest=counts.rest.parameters,
                ratio=(ratio.estimate, ratio.low, ratio.high),
                change=max(map(relative_change, given.values(), answers.values())),
                auc=None if labels is None else measure_auc(next(iter(answers.values())), labels),
            ),
        )


def measure_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the AUC of scores."""
    return float(binary_auroc(torch.from_numpy(scores.reshape(-1)), torch.from_numpy(labels).int()))


def relative_change(before: np.ndarray, after: np.ndarray) -> float:
    """Return the root of the mean square of a change, over that of the answers around their mean."""
    return float(np.sqrt(np.mean((after - before) ** 2) / max(float(np.var(before)), 1e-30)))


def compare_apart(path: Path) -> Outcome:
    """Compare in a separate process."""
    command = [sys.executable, __file__, "--file", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=True)
    except subprocess.SubprocessError as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return Outcome(path.stem, failure=told[-1])
    made = json.loads(done.stdout.splitlines()[-1])
    return Outcome(
        made["name"],
        Pruned(**made["given"]),
        {tool: Pruned(**facts) for tool, facts in made["tools"].items()},
        made["failure"],
    )


def print_outcome(outcome: Outcome) -> None:
    """Print a line for each tool."""
    if outcome.failure:
        print(f"{outcome.name:<24} not read: {outcome.failure[:160]}")
        return
    given = outcome.given
    auc = "" if given.auc is None else f"  AUC {given.auc:.4f}"
    print(
        f"{outcome.name:<24} {GIVEN:<16} {given.bytes / 1e3:9.1f} kB  {given.tables:>9,} in tables {given.rest:>9,} in the rest{auc}"
    )
    for tool, made in outcome.tools.items():
        if made.failure:
            print(f"{'':<24} {tool:<16} failed: {made.failure[:140]}")
            continue
        estimate, low, high = made.ratio
        auc = "" if made.auc is None else f"  AUC {made.auc:.4f}"
        print(
            f"{'':<24} {tool:<16} {made.bytes / 1e3:9.1f} kB  {made.tables:>9,} in tables {made.rest:>9,} in the rest"
            f"  {estimate:5.2f}× the time [{low:.2f}, {high:.2f}]  answers change by {made.change:.3f}{auc}"
        )


@click.command(help=__doc__.splitlines()[0])
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Further .onnx files.")
@click.option("--corpus", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--rows", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The rows of the checkpoint."
)
@click.option("--only", default="", help="Part of a file's name.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), hidden=True)
def main(
    folder: Path | None, corpus: Path | None, checkpoint: Path | None, rows: Path | None, only: str, file: Path | None
) -> None:
    """Run the benchmark."""
    if file is not None:
        with contextlib.redirect_stdout(sys.stderr):
            outcome = compare(file)
        print(json.dumps(asdict(outcome)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_own(Path(scratch))
        if corpus is not None:
            write_corpus(corpus, Path(scratch))
        if checkpoint is not None and rows is not None:
            write_checkpoint(checkpoint, rows, Path(scratch))
        paths = sorted([*Path(scratch).glob("*.onnx"), *(folder.glob("*.onnx") if folder else ())])
        outcomes = []
        for path in paths:
            if only in path.name:
                outcomes.append(compare_apart(path))
                print_outcome(outcomes[-1])
                sys.stdout.flush()
    print(json.dumps({"files": [asdict(outcome) for outcome in outcomes]}))


if __name__ == "__main__":
    main()
