"""The files of onnxsim, Olive and Torch-Pruning for `peers.py`, each made with what the tool offers for these models."""

import contextlib
import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx
from bytes_files import BATCHES, OURS, SMALL, Contender, Subject, compress_to_bytes, run_compress, train_small
from cases import slug
from checkouts import HERE
from torch import nn

from recprune_export.finetuning import NonZeroTarget, Schedule, count_parameters, finetune
from recprune_export.finetuning.finetuning_constants import ROUNDED_EPOCHS
from recprune_export.onnx import export_onnx
from recprune_export.program.capture import capture

SIMPLIFIED, ONNXSIM = "onnxsim, simplified", "onnxsim, pruned and int8"
OLIVE_INT8, OLIVE_INT4 = "Olive, int8", "Olive, int4 tables"
TORCH_PRUNING = "Torch-Pruning, tuned, int8"
OURS_SPARSE = "ours, sparsity and int8"
PACKAGES = {
    SIMPLIFIED: "onnxsim",
    ONNXSIM: "onnxsim",
    OLIVE_INT8: "olive-ai",
    OLIVE_INT4: "olive-ai",
    TORCH_PRUNING: "torch-pruning",
}
CALIBRATION_BATCHES = 8
ONNXSIM_SPARSITY = 0.5  # its default
HIDDEN_SPARSITY = 0.7  # of Torch-Pruning: of each hidden layer's units
INT4_TABLES = {"type": "OnnxBlockWiseRtnQuantization", "bits": 4, "block_size": 32}
INT8 = {"type": "OnnxDynamicQuantization", "per_channel": True}
INT8_LAYERS = {**INT8, "op_types_to_quantize": ["MatMul", "Gemm"]}


def read_versions() -> dict[str, str | None]:
    """Return the versions of the tools, None for one that is not installed."""

    def read(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: read(package) for package in dict.fromkeys(PACKAGES.values())}


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Work in a temporary folder, since onnxsim and Olive leave files in the current one."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        yield Path(scratch)


def simplify(subject: Subject) -> Contender:
    """Simplify the dense file."""
    import onnxsim

    with scratch_folder():
        model, is_equal = onnxsim.simplify(onnx.load(subject.dense.path))
    assert is_equal
    return _save(model, subject, SIMPLIFIED)


def prune_with_onnxsim(subject: Subject) -> Contender:
    """Simplify, remove half of the hidden units by Wanda, refit the layers, quantize them to int8, and simplify again.

    onnxsim removes no embedding dimensions and quantizes no tables.
    """
    import onnxsim

    requests = []
    for request, _ in subject.task.training_batches(subject.seed):
        requests.append({name: tensor.numpy() for name, tensor in request.items()})
        if len(requests) == CALIBRATION_BATCHES:
            break
    with scratch_folder():
        dense, _ = onnxsim.simplify(onnx.load(subject.dense.path))
        pruned = onnxsim.apply_structured_wanda_pruning(dense, requests, sparsity=ONNXSIM_SPARSITY)
        refitted = onnxsim.apply_pruning_finetune(dense, pruned, requests)
        quantized, _ = onnxsim.simplify(onnxsim.quantize_dynamic(refitted))  # without the weights that no node uses
    return _save(quantized, subject, ONNXSIM, f"{ONNXSIM_SPARSITY:.0%} of the hidden units removed")


def _save(model: onnx.ModelProto, subject: Subject, name: str, note: str = "") -> Contender:
    path = subject.folder / f"{slug(name)}.onnx"
    onnx.save(model, path)
    return Contender(path, subject.task, note)


def run_olive(source: Path, passes: Mapping[str, Mapping[str, Any]], target: Path) -> Path:
    """Run passes of Olive on a file, without telemetry, and return the file that it writes into `target`."""
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    from olive.workflows import run

    with scratch_folder() as cache:
        done = run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(source)},
                "passes": {name: dict(options) for name, options in passes.items()},
                "output_dir": str(target),
                "cache_dir": str(cache / "cache"),
                "log_severity_level": 3,
            }
        )
    return Path(done.get_best_candidate().model_path)


def quantize_with_olive(subject: Subject, name: str, passes: Mapping[str, Mapping[str, Any]]) -> Contender:
    """Quantize the dense file."""
    return Contender(run_olive(subject.dense.path, passes, subject.folder / slug(name)), subject.task)


def prune_with_torch_pruning(subject: Subject) -> Contender:
    """Remove hidden units of the module, tune it by our recipe, export it as the dense one, and quantize it by Olive.

    Torch-Pruning leaves tables whole, since all fields of a request are stacked. The last layer of a bottom MLP is kept as well: the
    search for what depends on it, through the dot products of all pairs, does not end.
    """
    import torch_pruning as tp

    module, example = (
        copy.deepcopy(subject.trained.build()),
        subject.trained.example_request(),
    )  # the teacher keeps its weights
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    kept = [layer for layer in layers if layer.out_features == 1]
    bottom = getattr(module, "bottom", None)
    if bottom is not None:
        kept.append([part for part in bottom.modules() if isinstance(part, nn.Linear)][-1])
    pruner = tp.pruner.MetaPruner(
        module,
        example,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=HIDDEN_SPARSITY,
        ignored_layers=kept,
        round_to=16,  # as ours
        forward_fn=lambda pruned, request: pruned(request),
        output_transform=lambda answer: next(iter(answer.values())),
    )
    pruner.step()
    student = capture(module.eval(), (example,))
    tables = student.analysis.tables
    schedule = Schedule(ROUNDED_EPOCHS, subject.task.config.learning_rate, gradual=False, seed=subject.seed)
    whole = NonZeroTarget(*count_parameters(student, tables))
    finetune(student, subject.program.with_copied_graph(), subject.task, tables, whole, schedule)
    folder = subject.folder / "torch-pruning"
    folder.mkdir(exist_ok=True)
    plain = export_onnx(student, folder / "fp32.onnx", rewrites=())
    file = run_olive(plain.path, {"int8": INT8}, folder / "int8")
    return Contender(file, subject.task, f"{HIDDEN_SPARSITY:.0%} of the hidden units removed, tables whole")


def compress_by_sparsity(subject: Subject, sparsity: float) -> Contender:
    """Compress by our `--sparsity` with `--quantize int8`."""
    batches = ",".join(map(str, BATCHES))
    options = ["--sparsity", f"{sparsity:g}", "--quantize", "int8", "--latency-batch-sizes", batches]
    return run_compress(subject, HERE, options, slug(f"{OURS_SPARSE} {sparsity:g}"))


def make_peer(subject: Subject, contestant: str, point: float, recipes: Path) -> Contender:
    """Make the file of a contestant at `point`: percent of the dense bytes, a sparsity, or 0 for one that has one file."""
    makers: Mapping[str, Callable[[], Contender]] = {
        SIMPLIFIED: lambda: simplify(subject),
        ONNXSIM: lambda: prune_with_onnxsim(subject),
        OLIVE_INT8: lambda: quantize_with_olive(subject, OLIVE_INT8, {"int8": INT8}),
        OLIVE_INT4: lambda: quantize_with_olive(subject, OLIVE_INT4, {"tables": INT4_TABLES, "layers": INT8_LAYERS}),
        TORCH_PRUNING: lambda: prune_with_torch_pruning(subject),
        SMALL: lambda: train_small(subject, point, recipes),
        OURS: lambda: compress_to_bytes(subject, point, HERE),
        OURS_SPARSE: lambda: compress_by_sparsity(subject, point),
    }
    return makers[contestant]()
