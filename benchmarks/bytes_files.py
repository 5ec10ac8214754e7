"""The files of each contestant at a number of bytes: ours, that of an older checkout, dense in fewer bits, a small one from scratch."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from bytes_verdicts import next_to_try
from cases import CASES, slug, trained
from names_of_47080cf import compress_options

from recprune_export.api import load_model, make_task
from recprune_export.finetuning import LabeledRows, NextItems
from recprune_export.onnx import OnnxFile, ServingConfig, export_onnx
from recprune_export.pipeline import quantize_export
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.recommenders import build_recommender
from recprune_export.settings import Settings
from recprune_export.stored_bits import StoredBits
from recprune_export.training import Checkpoint, train

BATCHES = (1, 256)
DENSE, INT8, INT4, SMALL = "dense", "dense int8", "dense int4", "small from scratch"
BEFORE, OURS = "sparsity of 47080cf", "ours"
CONTESTANTS = (DENSE, INT8, INT4, SMALL, BEFORE, OURS)
SIZES = (30.0, 10.0, 5.0, 3.0)  # percent of the bytes of the dense file
SMALL_SIZES = (10.0, 5.0)
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98)
LEARNING_RATES = (5e-4, 1e-3, 3e-3)
SMALL_DIMENSIONS = (*range(2, 16), *range(16, 32, 2), *range(32, 64, 4))
MODEL = "model.onnx"


@dataclass(frozen=True)
class Subject:
    """A dense recommender of one seed, its file, and its rows. `folder` holds the files of the contestants."""

    case: str
    seed: int
    checkpoint: Path
    trained: Checkpoint
    program: Program
    task: LabeledRows | NextItems
    settings: Settings
    data: Path
    folder: Path
    dense: OnnxFile

    @classmethod
    def prepare(cls, case: str, seed: int, data_folder: Path, cache: Path) -> "Subject":
        """Train, or take what was trained before, and export."""
        checkpoint = trained(case, CASES[case], seed, data_folder, cache).checkpoint
        loaded = load_model(checkpoint, None, {})
        settings = Settings(seed=seed, latency_batch_sizes=BATCHES)
        data = data_folder / CASES[case].data
        task = make_task(loaded, data, (), settings)
        folder = cache / "onnx" / f"{slug(case)}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        dense = export_onnx(loaded.program, folder / "dense.onnx", rewrites=())
        assert loaded.checkpoint is not None
        assert isinstance(task, LabeledRows | NextItems)
        return cls(case, seed, checkpoint, loaded.checkpoint, loaded.program, task, settings, data, folder, dense)

    def limit(self, percent: float) -> int:
        """Return the bytes of a size."""
        return int(self.dense.bytes * percent / 100.0)


@dataclass(frozen=True)
class Contender:
    """The ONNX file of a contestant, the task whose outputs it has, and what there is to say of it."""

    path: Path
    task: LabeledRows | NextItems
    note: str = ""

    @property
    def bytes(self) -> int:
        """The size of the model, weights included."""
        return count_file_bytes(self.path)


def count_file_bytes(path: Path) -> int:
    """Return the size of an ONNX file and of the weights beside it."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def make_dense(subject: Subject) -> Contender:
    """Return the dense file in fp32."""
    return Contender(subject.dense.path, subject.task)


def make_dense_quantized(subject: Subject, bits: str) -> Contender:
    """Export the dense model as `--sparsity 0 --quantize` would, within its default drop of the validation metric."""
    folder = subject.folder / slug(f"dense {bits}")
    folder.mkdir(exist_ok=True)
    plain = export_onnx(subject.program, folder / "fp32.onnx", serving=ServingConfig(BATCHES))
    settings = subject.settings.with_options(quantize=bits)
    quantized = quantize_export(
        plain, settings.quantization, BATCHES, subject.task, folder / "quantized", seed=subject.seed
    )
    assert quantized is not None
    return Contender(quantized.file.path, subject.task, "; ".join(quantized.quantized.relaxations))


def compress_to_bytes(subject: Subject, percent: float, checkout: Path) -> Contender:
    """Compress to a size with the command of `checkout`."""
    options = ["--max-bytes", f"{percent:g}%", "--latency-batch-sizes", ",".join(map(str, BATCHES))]
    return run_compress(subject, checkout, options, slug(f"{OURS} {percent:g}"))


def compress_to_sparsity(subject: Subject, sparsity: float, checkout: Path) -> Contender:
    """Compress to a sparsity, in int8, with the command of `checkout`, which is at 47080cf."""
    return run_compress(subject, checkout, compress_options(sparsity, BATCHES), slug(f"{BEFORE} {sparsity:g}"))


def run_compress(subject: Subject, checkout: Path, options: Sequence[str], name: str) -> Contender:
    """Run `compress` in a process; only the ONNX file and the manifest are saved. Raises `RuntimeError` where it fails."""
    target = subject.folder / name
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        command = [
            sys.executable, "-m", "recprune_export", "compress", str(subject.checkpoint.resolve()), *options,
            "--data", str(subject.data.resolve()), "--seed", str(subject.seed), "--no-dense", "--no-triton", "--quiet",
            "-o", str(bundle),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        if not (bundle / MODEL).exists():
            end = " ".join(done.stderr.strip().splitlines()[-3:])
            raise RuntimeError(f"compress {' '.join(options)} ended with code {done.returncode}: {end}")
        target.mkdir(exist_ok=True)
        for path in [*bundle.glob(f"{MODEL}*"), bundle / "manifest.json"]:
            shutil.copy(path, target / path.name)
    return Contender(target / MODEL, subject.task)


def find_next_sparsity(bytes_by_sparsity: Mapping[float, int], limits: Sequence[int]) -> float | None:
    """Return a sparsity whose file is needed to know the largest one within each of `limits`; None where all are known."""
    tries = (next_to_try(SPARSITIES, bytes_by_sparsity, limit) for limit in limits)
    return next((sparsity for sparsity in tries if sparsity is not None), None)


def shrink_options(options: Mapping[str, Any], dimensions: int) -> dict[str, Any]:
    """Return the options of a recommender with other dimensions, all its widths in proportion and 4 or more.

    >>> shrink_options({"dim": 32, "hidden": (256, 128), "dropout": 0.5}, 8)
    {'dim': 8, 'hidden': [64, 32]}
    """

    def shrink(width: int) -> int:
        return max(4, round(width * dimensions / options["dim"]))

    widths = {name: [shrink(w) for w in options[name]] for name in ("bottom", "hidden") if name in options}
    towers = {"tower": shrink(options["tower"])} if "tower" in options else {}
    return {"dim": dimensions, **widths, **towers}


def choose_small_options(subject: Subject, limit: int) -> dict[str, Any]:
    """Return the options of the largest recommender of the same kind whose file in int8 takes at most `limit` bytes.

    Bytes are those of files of untrained weights: they do not depend on the values. Raises `RuntimeError` where none fits.
    """
    parameters = inspect.signature(type(subject.trained.build())).parameters
    options = {name: p.default for name, p in parameters.items()} | dict(subject.trained.config)
    sizes = [d for d in SMALL_DIMENSIONS if d <= options["dim"] and d % options.get("heads", 1) == 0]
    low, high = -1, len(sizes)  # sizes[low] fits, sizes[high] does not
    while high - low > 1:
        middle = (low + high) // 2
        config = shrink_options(options, sizes[middle])
        module = build_recommender(subject.trained.recommender, subject.trained.spec, config).eval()
        program = capture(module, (subject.trained.spec.example_request(),))
        with tempfile.TemporaryDirectory() as scratch:
            size = store_in_int8(program, subject.task, Path(scratch), subject.settings).bytes
        low, high = (middle, high) if size <= limit else (low, middle)
    if low < 0:
        raise RuntimeError(f"no {subject.trained.recommender} has a file of at most {limit} bytes in int8")
    return shrink_options(options, sizes[low])


def store_in_int8(program: Program, task: LabeledRows | NextItems, folder: Path, settings: Settings) -> OnnxFile:
    """Export a program with all tables and layers stored in int8, whether that is faster or not."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = export_onnx(program, folder / "fp32.onnx", serving=ServingConfig(BATCHES))
    weights = onnx.load(str(plain.path), load_external_data=False).graph.initializer
    bits = StoredBits({w.name: 8 for w in weights if len(w.dims) == 2}, other_layers=8)
    planned = replace(plain, bits=bits)
    quantized = quantize_export(planned, settings.quantization, BATCHES, task, folder / "quantized", seed=settings.seed)
    assert quantized is not None
    return quantized.file


@dataclass(frozen=True)
class SmallRecipe:
    """Widths and learning rate of the small recommender of a case and size, and the validation metric of each rate."""

    options: Mapping[str, Any]
    learning_rate: float
    metrics: Mapping[str, float]


def train_small(subject: Subject, percent: float, recipes: Path) -> Contender:
    """Train the small recommender, its learning rate chosen on validation rows with the first seed, and store it in int8."""
    name = slug(f"{SMALL} {percent:g}")
    folder = subject.folder / name
    folder.mkdir(exist_ok=True)
    path = recipes / f"{slug(subject.case)}-{percent:g}.json"
    if not path.exists():
        options = choose_small_options(subject, subject.limit(percent))
        metrics = {str(rate): _train(subject, options, rate, folder / f"{rate:g}.pt") for rate in LEARNING_RATES}
        recipes.mkdir(exist_ok=True)
        best = max(metrics, key=metrics.__getitem__)
        path.write_text(json.dumps({"options": options, "learning_rate": float(best), "metrics": metrics}))
    recipe = SmallRecipe(**json.loads(path.read_text()))
    checkpoint = folder / f"{recipe.learning_rate:g}.pt"
    if not checkpoint.exists():
        _train(subject, recipe.options, recipe.learning_rate, checkpoint)
    loaded = load_model(checkpoint, None, {})
    task = make_task(loaded, subject.data, (), subject.settings)
    assert isinstance(task, LabeledRows | NextItems)
    file = store_in_int8(loaded.program, task, folder, subject.settings)
    fp32 = count_file_bytes(folder / "fp32.onnx")
    return Contender(file.path, task, f"{recipe.options}, rate {recipe.learning_rate:g}, {fp32 / 1e3:,.0f} kB in fp32")


def _train(subject: Subject, options: Mapping[str, Any], rate: float, path: Path) -> float:
    """Train and return the validation metric of the selected epoch."""
    case = CASES[subject.case]
    done = train(
        subject.data, case.recommender, path, case.wishes, dict(options), seed=subject.seed, learning_rate=rate
    )
    return float(done.fitted.metric)


def make_contender(
    subject: Subject, contestant: str, point: float, checkouts: Mapping[str, Path], recipes: Path
) -> Contender:
    """Make the file of a contestant at `point`: percent of the dense bytes, a sparsity, or 0 for one that has one file."""
    makers: Mapping[str, Callable[[], Contender]] = {
        DENSE: lambda: make_dense(subject),
        INT8: lambda: make_dense_quantized(subject, "int8"),
        INT4: lambda: make_dense_quantized(subject, "int4"),
        SMALL: lambda: train_small(subject, point, recipes),
        BEFORE: lambda: compress_to_sparsity(subject, point, checkouts[BEFORE]),
        OURS: lambda: compress_to_bytes(subject, point, checkouts[OURS]),
    }
    return makers[contestant]()
