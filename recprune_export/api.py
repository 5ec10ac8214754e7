"""`compress`: the main job on whatever the user has, a file or a module, rows on disk or in memory."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recprune_export.bundle.archive.signature import read_private_key
from recprune_export.bundle.contents import format_json
from recprune_export.bundle.manifest.manifest import ENCODING
from recprune_export.bundle.write import stage_bundle
from recprune_export.data.arrays import Columns
from recprune_export.data.sequences import SequenceData
from recprune_export.errors import UsageError
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.task import (
    CLICK_DEFAULTS,
    RANKING_DEFAULTS,
    LabeledRows,
    NextItems,
    Task,
    read_arrays,
    read_encoded,
)
from recprune_export.pipeline.build_manifest import InputSources
from recprune_export.pipeline.compress import CompressionResult, compress_program, make_recipe, make_sampled_task
from recprune_export.pipeline.planning import make_projected_score_inputs
from recprune_export.pipeline.prune import plan_all
from recprune_export.program.capture.capture import capture, program_from_exported
from recprune_export.program.loading.detect import ModelKind
from recprune_export.program.loading.load_program import LoadedModel, check_finite, load_program
from recprune_export.program.program import Program
from recprune_export.progress import print_status, show_status
from recprune_export.provenance import file_identity
from recprune_export.pruning.importance.sensitivity import Sensitivity, measure_sensitivity
from recprune_export.pruning.plan import Plan
from recprune_export.report.sweep_file import SWEEP
from recprune_export.search.resolve_sparsity import resolve_sparsity
from recprune_export.search.sweep import SPARSITIES, Sweep
from recprune_export.search.sweep import sweep as run_sweep
from recprune_export.search.trial_files import make_folder
from recprune_export.search.trials import Trial, Trials
from recprune_export.settings import Settings

Model = nn.Module | torch.export.ExportedProgram | Program | Path | str
Data = Path | str | Columns
ARTIFACTS = Path("artifacts")
DEFAULT_SETTINGS = Settings()


def compress(
    model: Model,
    example_inputs: Any = None,
    target: Path | str | None = None,
    *,
    data: Data | None = None,
    labels: str | Sequence[str] = (),
    settings: Settings = DEFAULT_SETTINGS,
    plan: Plan | Path | None = None,
    source: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    sign: Path | None = None,
    resume: bool = False,
    **options: Any,
) -> CompressionResult:
    """Prune, tune, export and validate a recommender; write a bundle.

    - `model`: an `nn.Module`, an `ExportedProgram`, a `Program`, or the path of a model file, which is opened with the
      keywords in `source` (see `load_program`).
    - `example_inputs`: for a module, one request: a tensor, a tuple of positional arguments, or a dict of keyword
      arguments (a dict that names no parameter of `forward` is its one argument). The batch is axis 0.
    - `target`: the directory to write, `artifacts/<name of the model>` by default.
    - `data`: rows to tune and measure on: a CSV, Parquet or NPZ file, or arrays by name; each input of the model, each
      of `labels`, and perhaps `split`.
    - `sign`: a file with the private key (Ed25519, PEM) that signs the manifest.
    - `resume`: go on after what an earlier run on the same, which was killed, had finished.
    - `options`: fields of `Settings`, which go before those in `settings`: `sparsity=0.9, epochs=2`.

    Raises `UsageError`, `InputFileError`, `CaptureError`, and what `compress_program` raises.

    >>> import tempfile
    >>> table = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = compress(table, torch.arange(4), f"{folder}/ctr", sparsity=0.5, epochs=0, batches=(1,))
    >>> result.reduction.tables >= 0.5
    True
    """
    settings = replace(settings, **options)
    with stage_bundle(Path(target) if target is not None else ARTIFACTS / _name(model)) as target:
        signer = None if sign is None else read_private_key(sign)
        plan = Plan.load(plan) if isinstance(plan, Path) else plan
        with show_status("Opening the model"):
            loaded = load_model(model, example_inputs, source or {})
        with show_status("Reading rows"):
            task = make_task(loaded, data, labels, settings)
        return compress_loaded(
            loaded,
            task,
            target,
            settings,
            InputSources(
                command,
                model_name=Path(model).name if isinstance(model, Path | str) else _name(model),
                model_file=file_identity(Path(model)) if isinstance(model, Path | str) else None,
                data_name=data_name(data),
                data_file=file_identity(Path(data)) if isinstance(data, Path | str) else None,
            ),
            plan=plan,
            sign=signer,
            resume=resume,
        )


def compress_loaded(
    loaded: LoadedModel,
    task: Task,
    target: Path,
    settings: Settings,
    origin: InputSources,
    *,
    plan: Plan | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    resume: bool = False,
) -> CompressionResult:
    """Do what `compress` does with a model and rows that are read."""
    checkpoint = loaded.checkpoint
    extra = {} if checkpoint is None else {ENCODING: format_json(checkpoint.encoder.to_dict())}
    settled = None if plan else resolve_sparsity(loaded.program, settings, task, _search_file(target), print_status)
    return compress_program(
        loaded.program,
        target,
        settled.settings if settled else settings,
        task,
        plan=plan,
        extra_files=extra,
        origin=replace(origin, training_seed=None if checkpoint is None else checkpoint.seed),
        leading_notes=(settled.reason,) if settled else (),
        sign=sign,
        resume=resume,
        search_prefix=settled.search_prefix if settled else None,
    )


def sweep(
    model: Model,
    example_inputs: Any = None,
    *,
    target: Path | str,
    data: Data,
    labels: str | Sequence[str] = (),
    sparsities: Sequence[float] = SPARSITIES,
    settings: Settings = DEFAULT_SETTINGS,
    source: Mapping[str, Any] | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Sweep:
    """Prune, tune and export at each of `sparsities`; write `sweep.json` into `target`.

    What was measured is kept in `target`, and an interrupted sweep goes on there.
    """
    folder = Path(target)
    loaded = load_model(model, example_inputs, source or {})
    task = make_task(loaded, data, labels, settings)
    make_folder(folder)
    trials = Trials(loaded.program, settings, task, folder / "trials.json", artifacts=True)
    found = run_sweep(trials, sparsities, on_trial)
    found.save(folder / SWEEP, file_identity(Path(model)) if isinstance(model, Path | str) else None)
    return found


def _search_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.search.json")


def dump_plan(
    model: Model,
    example_inputs: Any = None,
    *,
    data: Data | None = None,
    labels: str | Sequence[str] = (),
    settings: Settings = DEFAULT_SETTINGS,
    source: Mapping[str, Any] | None = None,
) -> str:
    """Return, as JSON, the plan that `compress` would apply; with several steps all but the last are tuned for it."""
    loaded = load_model(model, example_inputs, source or {})
    task = make_task(loaded, data, labels, settings)
    return json.dumps(plan_all(loaded.program, settings, task).to_dict(), indent=1)


def compute_sensitivity(
    model: Model,
    example_inputs: Any = None,
    *,
    data: Data | None = None,
    labels: str | Sequence[str] = (),
    settings: Settings = DEFAULT_SETTINGS,
    source: Mapping[str, Any] | None = None,
) -> Sensitivity:
    """Let every score rank the channels of a model, on rows or, without `data`, on drawn requests.

    The groups are those of a plan by output error: after `loosen`.

    Raises `PruningError` where there is nothing to prune.
    """
    loaded = load_model(model, example_inputs, source or {})
    task = make_task(loaded, data, labels, settings)
    return measure_sensitivity(make_projected_score_inputs(loaded.program, settings, task))


def load_model(model: Model, example_inputs: Any, source: Mapping[str, Any]) -> LoadedModel:
    """Make a program of any model. Raises `UsageError` where a module comes without an example request."""
    if isinstance(model, Path | str):
        return load_program(Path(model), **source)
    if isinstance(model, Program):
        check_finite(model.module, "the program")
        return LoadedModel(model, None, ModelKind.PROGRAM)
    if isinstance(model, torch.export.ExportedProgram):
        program = program_from_exported(model)
        check_finite(program.module, "the exported program")
        return LoadedModel(program, None, ModelKind.PROGRAM)
    if example_inputs is None:
        raise UsageError(f"{type(model).__name__} needs one request beside it: give example_inputs.")
    check_finite(model, type(model).__name__)
    args, kwargs = _call(model, example_inputs)
    return LoadedModel(capture(model, args, kwargs), None, ModelKind.MODULE)


def _call(module: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import inspect

    if isinstance(example, tuple | list):
        return tuple(example), {}
    if isinstance(example, Mapping):
        parameters = inspect.signature(module.forward).parameters.values()
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        if takes_any or set(example) <= {p.name for p in parameters}:
            return (), dict(example)
    return (example,), {}


def make_task(loaded: LoadedModel, data: Data | None, labels: str | Sequence[str], settings: Settings) -> Task:
    """Choose what to tune on: encoded rows for a recommender of ours, plain ones for others, drawn ones without data.

    Raises `UsageError` where labels are missing, `DataError` for the rows.
    """
    program, recipe = loaded.program, make_recipe(CLICK_DEFAULTS, settings)
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    if data is None:
        return make_sampled_task(program, settings)
    if loaded.checkpoint is None:
        if not labels:
            raise UsageError(
                "A model that recprune-export did not train needs the labels' names beside --data: give --label."
            )
        rows = read_arrays(data, program.signature, labels, settings.seed)
        return LabeledRows(rows, make_objective(program, labels), recipe)
    if not isinstance(data, Path | str):
        raise UsageError("A checkpoint of `train` encodes raw rows: give the path of a CSV or Parquet file as data.")
    read = read_encoded(Path(data), loaded.checkpoint.encoder)
    objective = make_objective(program, loaded.checkpoint.spec.labels)
    if isinstance(read, SequenceData):
        return NextItems(read, objective, make_recipe(RANKING_DEFAULTS, settings))
    return LabeledRows(read, objective, recipe)


def _name(model: Model) -> str:
    if isinstance(model, Path | str):
        return Path(model).stem
    return type(model).__name__.lower() if isinstance(model, nn.Module) else "model"


def data_name(data: Data | None) -> str | None:
    """Return what rows are called in a manifest."""
    if data is None:
        return None
    return Path(data).name if isinstance(data, Path | str) else "rows in memory"
