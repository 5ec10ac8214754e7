"""`compress`: the main job on a model file or module, with rows on disk or in memory."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recprune_export.bundle.archive.manifest_signature import read_private_key
from recprune_export.bundle.contents import format_json
from recprune_export.bundle.lock import hold_write_lock
from recprune_export.bundle.manifest.manifest import ENCODING, JOB
from recprune_export.bundle.write import check_target, stage_bundle
from recprune_export.data.clicks import ClickData
from recprune_export.data.data_identity import identify_data
from recprune_export.data.named_columns import Columns
from recprune_export.data.sequences import SequenceData
from recprune_export.data.streaming.data_files import as_data_source
from recprune_export.distributed.main_process import call_on_main, enter_on_main, leave_to_main
from recprune_export.distributed.ranks import is_divided
from recprune_export.errors import CaptureError, ModelError, UsageError
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
from recprune_export.output_files import check_output_file
from recprune_export.pipeline._prune import plan_all_stages
from recprune_export.pipeline.build_manifest import InputSources, SearchRecord
from recprune_export.pipeline.choose_input_rules import with_input_rules
from recprune_export.pipeline.compress import (
    CompressionResult,
    apply_finetuning_settings,
    check_space,
    compress_program,
    make_sampled_task,
    prepare_program,
)
from recprune_export.pipeline.derive_models import choose_derived_models
from recprune_export.pipeline.export_models import make_serving_config
from recprune_export.pipeline.given_plan import GivenPlan
from recprune_export.pipeline.infer_missing_rules import infer_missing_rules
from recprune_export.pipeline.planning import make_projected_score_inputs
from recprune_export.pipeline.preview import Preview, preview_program
from recprune_export.pipeline.streamed_models import refuse_streamed, settle_settings
from recprune_export.program.capture._capture import capture
from recprune_export.program.capture.unsupported_modules import check_supported
from recprune_export.program.capture.unwrap_module import forward_parameters, unwrap_module
from recprune_export.program.failures import REPORT, explain_failures
from recprune_export.program.loading._check_finite import check_finite
from recprune_export.program.loading._load_program import LoadedModel, load_program
from recprune_export.program.loading.model_kind import ModelKind
from recprune_export.program.loading.saved_graphs.free_batch import convert_exported
from recprune_export.program.loading.saved_graphs.torchscript import convert_torchscript
from recprune_export.program.output_selection import select_outputs
from recprune_export.program.program import Program
from recprune_export.progress import print_status, show_status
from recprune_export.provenance import file_identity
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.sensitivity import Sensitivity, measure_sensitivity
from recprune_export.pruning.plan import Plan
from recprune_export.report.sweep_file import SWEEP
from recprune_export.search._resolve_budgets import check_budgets, resolve_budgets
from recprune_export.search._sweep import BYTE_FRACTIONS, SPARSITIES, Sweep, list_points, tune_points
from recprune_export.search._sweep import sweep as run_sweep
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.sweep_shard import SweepShard, tune_shard
from recprune_export.search.trial import Trial
from recprune_export.search.trial_files import make_folder
from recprune_export.search.trials import Trials
from recprune_export.search.workers.tuning_workers import TuningWorkers
from recprune_export.settings import (
    ExportSettings,
    Settings,
    rename_former_options,
)
from recprune_export.shard import Shard
from recprune_export.training.checkpoint import Checkpoint

Model = nn.Module | torch.export.ExportedProgram | Program | Path | str
Data = Path | str | Columns
ARTIFACTS, TRIALS = Path("artifacts"), "trials"
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
    job_file: str | None = None,
    jobs: int = 1,
    **options: Any,
) -> CompressionResult:
    """Prune, fine-tune, export and validate a recommender; write a bundle.

    - `model`: an `nn.Module`, an `ExportedProgram`, a `Program`, or the path of a model file, which is loaded with the
      keyword arguments in `source` (see `load_program`).
    - `example_inputs`: for a module, one request: a tensor, a tuple of positional arguments, or a dict of keyword
      arguments (a dict without parameter names of `forward` is a single argument). The batch is axis 0.
    - `target`: the directory to write, `artifacts/<name of the model>` by default.
    - `data`: rows for fine-tuning and evaluation: a CSV, Parquet or NPZ file, arrays by name, or a pandas or polars DataFrame,
      with the inputs of the model, the `labels`, and optionally a column that splits the rows: a column named `split`, or the
      column of the option `split`, `split_by_time` or `split_by_user`.
    - `sign`: a file with the private key (Ed25519, PEM) for signing the manifest.
    - `resume`: continue after the finished stages of an earlier, killed run on the same model, rows and settings.
    - `job_file`: the options of the command line as TOML, saved as job.toml in the bundle.
    - `jobs`: the number of processes that run the trials of `max_drop`.
    - `options`: options of `Settings`, which override those in `settings`: `sparsity=0.9, epochs=2`; `outputs=("score",)`
      serves only these outputs of the model.

    Raises `UsageError`, `InputFileError`, `CaptureError`, and the errors of `compress_program`.

    >>> import tempfile
    >>> table = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = compress(table, torch.arange(4), f"{folder}/ctr", sparsity=0.5, epochs=0, latency_batch_sizes=(1,))
    >>> result.reduction.tables >= 0.5
    True
    """
    settings = settings.with_options(**rename_former_options(options))
    _check_options(settings, jobs)
    directory = _choose_directory(model, target)
    with enter_on_main(partial(stage_bundle, directory), directory) as target:
        signer = None if sign is None else read_private_key(sign)
        plan = _open_plan(plan, settings)
        inputs = JobInputs(model, example_inputs, data, labels, settings, source or {})
        with show_status("Opening the model and reading rows"):
            loaded, task = inputs.load()
        return compress_loaded(
            loaded,
            task,
            target,
            settings,
            InputSources(
                command,
                model_name=Path(model).name if isinstance(model, Path | str) else _model_name(model),
                model_file=file_identity(Path(model)) if isinstance(model, Path | str) else None,
                data_name=data_name(data),
                data_file=identify_data(data) if isinstance(data, Path | str) else None,
            ),
            plan=None if plan is None else GivenPlan(plan),
            sign=signer,
            resume=resume,
            job_file=job_file,
            start_workers=partial(inputs.start_workers, jobs),
        )


@explain_failures("The preview", ModelError, REPORT)
def preview(
    model: Model,
    example_inputs: Any = None,
    target: Path | str | None = None,
    *,
    data: Data | None = None,
    labels: str | Sequence[str] = (),
    settings: Settings = DEFAULT_SETTINGS,
    plan: Plan | Path | None = None,
    source: Mapping[str, Any] | None = None,
    sign: Path | None = None,
    jobs: int = 1,
    **options: Any,
) -> Preview:
    """Check the arguments of `compress`, and plan what it would remove; nothing is written.

    The plan is the one that `compress` makes, unless it runs a search or training first; `Preview.unknown` lists what is not yet known.
    The time is that of loading the model, reading the rows and choosing channels. Raises the errors that `compress` raises before
    pruning.
    """
    settings = settings.with_options(**rename_former_options(options))
    _check_options(settings, jobs)
    directory = call_on_main(partial(check_target, _choose_directory(model, target)))
    if sign is not None:
        read_private_key(sign)
    plan = _open_plan(plan, settings)
    with show_status("Opening the model and reading rows"):
        loaded, task = JobInputs(model, example_inputs, data, labels, settings, source or {}).load()
    settings = settle_settings(loaded.program, settings)
    program = prepare_program(loaded.program, directory, settings, task)
    checkpoint = loaded.checkpoint
    choose_derived_models(settings.export, None if checkpoint is None else checkpoint.encoder, program.signature)
    planned = preview_program(program, settings, task, plan)
    leave_to_main()
    return replace(planned, target=str(directory), notes=(*loaded.program.notes, *_data_notes(checkpoint, task)))


def _check_options(settings: Settings, jobs: int) -> None:
    """Raise `UsageError` if options exclude each other."""
    check_budgets(settings)
    if jobs != 1 and settings.search.max_drop is None:
        raise UsageError(
            "--jobs is used only with --max-drop, whose trials it runs in several processes: give --max-drop as well."
        )


def _choose_directory(model: Model, target: Path | str | None) -> Path:
    return Path(target) if target is not None else ARTIFACTS / _model_name(model)


def _open_plan(plan: Plan | Path | None, settings: Settings) -> Plan | None:
    plan = Plan.load(plan) if isinstance(plan, Path) else plan
    if plan is not None:
        _check_beside_plan(plan, settings)
    return plan


@explain_failures("The job", ModelError, REPORT)
def compress_loaded(
    loaded: LoadedModel,
    task: Task,
    target: Path,
    settings: Settings,
    origin: InputSources,
    *,
    plan: GivenPlan | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    resume: bool | None = None,
    job_file: str | None = None,
    start_workers: Callable[[], AbstractContextManager[TuningWorkers | None]] = nullcontext,
    search: SearchRecord | None = None,
    notes: Sequence[str] = (),
) -> CompressionResult:
    """Compress a model with rows, both in memory; `start_workers` returns the processes of a search.

    If `resume` is None, finished stages are not saved, for commands that cannot resume. `search` is the manifest entry of the search that
    chose the operating point of a `plan`; `notes` precede other notes.
    """
    checkpoint = loaded.checkpoint
    settings = settle_settings(loaded.program, settings)
    check_space(loaded.program, target if settings.export.keep_dense else None)
    extra = {} if checkpoint is None else {ENCODING: format_json(checkpoint.encoder.to_dict())}
    trials_folder = target.with_name(f"{target.name}.search")
    extra |= {} if job_file is None else {JOB: job_file.encode()}
    program = with_input_rules(loaded.program, task, settings.export.bad_ids)
    derive = choose_derived_models(
        settings.export, None if checkpoint is None else checkpoint.encoder, program.signature
    )
    with start_workers() as workers:  # these processes end before the job measures times
        resolved = None if plan else resolve_budgets(program, settings, task, trials_folder, print_status, workers)
    return compress_program(
        program,
        target,
        resolved.settings if resolved else settings,
        task,
        plan=plan,
        extra_files=extra,
        origin=origin
        if checkpoint is None
        else replace(origin, training_seed=checkpoint.seed, labels=checkpoint.label_values),
        leading_notes=(
            *notes,
            *loaded.program.notes,
            *((resolved.reason,) if resolved else ()),
            *_data_notes(checkpoint, task),
        ),
        sign=sign,
        resume=resume,
        search_prefix=resolved.search_prefix if resolved else None,
        search=resolved.record if resolved else search,
        derive=derive,
        onnx_file=loaded.onnx,
    )


def _check_beside_plan(plan: Plan, settings: Settings) -> None:
    """Raise `UsageError` if an option conflicts with the plan."""
    _refuse_searches(settings, "A plan already determines the operating point")
    if settings.pruning.max_bytes is not None:
        raise UsageError("A plan specifies the bits of each weight: leave out --max-bytes or --plan.")
    if plan.stages[-1].storage is not None and settings.quantization.quantize != "none":
        raise UsageError("This plan specifies the bits of each weight: leave out --quantize or --plan.")


def _refuse_searches(settings: Settings, reason: str) -> None:
    search = settings.search
    budgets = {
        "--max-drop": search.max_drop,
        "--target-speedup": search.target_speedup,
        "--target-latency": search.target_latency,
    }
    for option, value in budgets.items():
        if value is not None:
            raise UsageError(f"{reason}: leave out {option}, which searches for an operating point.")


@explain_failures("The sweep", ModelError, REPORT)
def sweep(
    model: Model,
    example_inputs: Any = None,
    *,
    target: Path | str,
    data: Data,
    labels: str | Sequence[str] = (),
    sparsities: Sequence[float] = SPARSITIES,
    byte_fractions: Sequence[float] = BYTE_FRACTIONS,
    settings: Settings = DEFAULT_SETTINGS,
    source: Mapping[str, Any] | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    jobs: int = 1,
) -> Sweep:
    """Compress at each of `sparsities` and each of `byte_fractions` of the dense file, and the dense model in int8.

    Writes `sweep.json` into `target`. Fractions that no plan meets are left out, with a message. With another score than
    output error there are no points of bytes, since only output error compares dimensions with bits. Trials are saved in
    `target/trials`, from which an interrupted sweep continues, and which contains the results of shards (`sweep_shard`). With
    several `jobs`, models are pruned and tuned in as many processes, and timed in this process afterwards.
    """
    folder = Path(target)
    call_on_main(partial(check_output_file, folder / SWEEP))
    inputs = JobInputs(model, example_inputs, data, labels, settings, source or {})
    started = inputs.start_workers(jobs)  # refused before a folder is made
    trials, points = _open_sweep(inputs, folder, sparsities, byte_fractions)
    with enter_on_main(partial(hold_write_lock, folder / TRIALS), None):
        with started as workers:
            if workers is not None:
                tune_points(trials, points, workers, print_status)
        # No other process runs while files are timed.
        result = run_sweep(trials, points, on_trial, max_drop=settings.search.max_drop, report_missing=print_status)
        leave_to_main()
        result.save(folder / SWEEP, file_identity(Path(model)) if isinstance(model, Path | str) else None)
        trials.folder.remove_partial()
    return result


@explain_failures("The sweep", ModelError, REPORT)
def sweep_shard(
    model: Model,
    example_inputs: Any = None,
    *,
    target: Path | str,
    data: Data,
    shard: Shard,
    labels: str | Sequence[str] = (),
    sparsities: Sequence[float] = SPARSITIES,
    byte_fractions: Sequence[float] = BYTE_FRACTIONS,
    settings: Settings = DEFAULT_SETTINGS,
    source: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> SweepShard:
    """Prune and tune at the points of one shard of a sweep, and save the models in the folder `target` that all machines share.

    `sweep` with the same arguments times all of them on one machine. The points of a shard depend only on the list of all points, so
    two shards have no point in common.
    """
    folder = Path(target)
    inputs = JobInputs(model, example_inputs, data, labels, settings, source or {})
    started = inputs.start_workers(jobs)  # refused before a folder is made
    trials, points = _open_sweep(inputs, folder, sparsities, byte_fractions)
    lock = partial(hold_write_lock, folder / f"{TRIALS}-{shard.index}-of-{shard.count}")
    with enter_on_main(lock, None), started as workers:
        return tune_shard(trials, points, shard, workers)


def _open_sweep(
    inputs: "JobInputs", folder: Path, sparsities: Sequence[float], byte_fractions: Sequence[float]
) -> tuple[Trials, tuple[OperatingPoint, ...]]:
    """Open the model and the rows of a sweep; return its trials in `folder`, and all of its points."""
    loaded, task = inputs.load()
    refuse_streamed(loaded.program, "A sweep, which includes the dense model in int8,")
    check_space(loaded.program, None)
    for note in (*loaded.program.notes, *(task.notes if isinstance(task, LabeledRows) else ())):
        print_status(f"Note: {note}")
    call_on_main(partial(make_folder, folder))
    settings = inputs.settings
    program = with_input_rules(loaded.program, task, settings.export.bad_ids)
    trials = Trials(program, settings, task, folder / TRIALS, artifacts=True)
    return trials, list_points(sparsities, byte_fractions if settings.pruning.score == OUTPUT_ERROR else ())


@dataclass(frozen=True)
class JobInputs:
    """A model and rows as specified by the caller; each process of a search loads them."""

    model: Model
    example_inputs: Any
    data: Data | None
    labels: str | Sequence[str]
    settings: Settings
    source: Mapping[str, Any]

    def load(self) -> tuple[LoadedModel, Task]:
        """Open the model and read the rows."""
        loaded = load_model(self.model, self.example_inputs, self.source, self.settings.export)
        task = make_task(loaded, self.data, self.labels, self.settings)
        return infer_missing_rules(loaded, task, self.settings), task

    def __call__(self) -> tuple[Program, Task]:
        """Return the program and the rows of trials."""
        loaded, task = self.load()
        return with_input_rules(loaded.program, task, self.settings.export.bad_ids), task

    def start_workers(self, jobs: int) -> AbstractContextManager[TuningWorkers | None]:
        """Return `jobs` processes for trials, which end with the block; None for one, which is this process.

        Raises `UsageError` for fewer than one.
        """
        if jobs < 1:
            raise UsageError(f"--jobs must be 1 or more, got {jobs}.")
        if jobs > 1 and is_divided():
            raise UsageError("With torchrun, all processes work on each trial together: leave out --jobs.")
        return nullcontext() if jobs == 1 else TuningWorkers(self, self.settings, jobs)


@explain_failures("The plan", ModelError, REPORT)
def dump_plan(
    model: Model,
    example_inputs: Any = None,
    *,
    data: Data | None = None,
    labels: str | Sequence[str] = (),
    settings: Settings = DEFAULT_SETTINGS,
    source: Mapping[str, Any] | None = None,
) -> str:
    """Return, as JSON, the plan that `compress` would apply; with several stages, all but the last are fine-tuned for it.

    Raises `UsageError` if the operating point requires a search.
    """
    _refuse_searches(settings, "A plan is made for one operating point")
    loaded, task = JobInputs(model, example_inputs, data, labels, settings, source or {}).load()
    settings = settle_settings(loaded.program, settings)
    for note in (*loaded.program.notes, *(task.notes if isinstance(task, LabeledRows) else ())):
        print_status(f"Note: {note}")
    # the bytes of the file include their nodes
    program = with_input_rules(loaded.program, task, settings.export.bad_ids)
    plan = plan_all_stages(
        program, settings.pruning, settings.finetuning, task, seed=settings.seed, serving=make_serving_config(settings)
    )
    return json.dumps(plan.to_dict(), indent=1)


@explain_failures("The ranking of channels", ModelError, REPORT)
def compute_sensitivity(
    model: Model,
    example_inputs: Any = None,
    *,
    data: Data | None = None,
    labels: str | Sequence[str] = (),
    settings: Settings = DEFAULT_SETTINGS,
    source: Mapping[str, Any] | None = None,
) -> Sensitivity:
    """Rank the channels of a model by every score, on rows or, without `data`, on random requests.

    The groups are those of a plan by output error, after projections are inserted.

    Raises `PruningError` if nothing can be pruned.
    """
    loaded, task = JobInputs(model, example_inputs, data, labels, settings, source or {}).load()
    refuse_streamed(loaded.program, "The ranking of channels by every score")
    return measure_sensitivity(make_projected_score_inputs(loaded.program, task, settings.seed))


def load_model(
    model: Model, example_inputs: Any, source: Mapping[str, Any], export: ExportSettings = DEFAULT_SETTINGS.export
) -> LoadedModel:
    """Convert any model to a program, with the outputs and the form of jagged inputs given by `export`.

    Raises `UsageError` if a module comes without an example request, for an unknown name of an output, and for padded inputs of a
    model without jagged ones.
    """
    loaded = _load_model(model, example_inputs, source)
    program = select_outputs(loaded.program, export.outputs)
    if export.padded is not None:
        program = program.with_signature(program.signature.with_padded(export.padded))
    return replace(loaded, program=program)


def _load_model(model: Model, example_inputs: Any, source: Mapping[str, Any]) -> LoadedModel:
    if isinstance(model, Path | str):
        return load_program(Path(model), **source)
    if isinstance(model, Program):
        check_finite(model.module, "the program")
        return LoadedModel(model, None, ModelKind.PROGRAM)
    if isinstance(model, torch.export.ExportedProgram):
        with explain_failures("The conversion of the exported program", CaptureError, REPORT):
            program = convert_exported(model)
        check_finite(program.module, "the exported program")
        return LoadedModel(program, None, ModelKind.PROGRAM)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"A {type(model).__name__} is not a model: give an nn.Module, an ExportedProgram, or the path of a model file."
        )
    if example_inputs is None:
        raise UsageError(f"{type(model).__name__} requires an example request: give example_inputs.")
    model = unwrap_module(model)
    if isinstance(model, torch.jit.ScriptModule):
        check_finite(model, type(model).__name__)
        program = convert_torchscript(model.eval(), *_split_arguments(model, example_inputs))
        return LoadedModel(program, None, ModelKind.TORCHSCRIPT)
    check_supported(model)
    check_finite(model, type(model).__name__)
    args, kwargs = _split_arguments(model, example_inputs)
    return LoadedModel(capture(model, args, kwargs), None, ModelKind.MODULE)


def _split_arguments(module: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, tuple | list):
        return tuple(example), {}
    if isinstance(example, Mapping):
        parameters = forward_parameters(module).values()
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        if takes_any or set(example) <= {p.name for p in parameters}:
            return (), dict(example)
    return (example,), {}


def make_task(
    loaded: LoadedModel,
    data: Data | None,
    labels: str | Sequence[str],
    settings: Settings = DEFAULT_SETTINGS,
) -> Task:
    """Read the rows for fine-tuning: encoded rows for a reference recommender, plain rows for other models, random requests without data.

    Raises `UsageError` if labels are missing, a metric does not fit them, or the split differs from that of the checkpoint; `DataError`
    for invalid rows, for labels that do not fit the model, and if no metric is defined on the validation rows.
    """
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    if data is None:
        if settings.export.calibration_rows:
            raise UsageError("--calibration-rows keeps rows of --data: give that as well.")
        return make_sampled_task(loaded.program, settings.finetuning, settings.evaluation)
    task = _read_task(loaded, data, labels, settings)
    tuning = apply_finetuning_settings(task.config, settings.finetuning)
    _ = task.deciding  # a metric that does not fit is reported before the job starts
    return replace(task, config=tuning)


def _read_task(loaded: LoadedModel, data: Data, labels: tuple[str, ...], settings: Settings) -> LabeledRows | NextItems:
    program, evaluation = loaded.program, settings.evaluation
    if loaded.checkpoint is None:
        if not labels:
            raise UsageError(
                "With --data, a model that was not trained by recprune-export requires the names of its labels: give --label."
            )
        rows = read_arrays(data, program, labels, settings.seed, settings.rows)
        return LabeledRows(rows, make_objective(program, labels, rows.label_values), CLICK_DEFAULTS, evaluation)
    _check_label_names(loaded.checkpoint.spec.labels, labels)
    if not isinstance(data, Path | str):
        raise UsageError("A checkpoint of `train` requires raw rows: give the path of a CSV or Parquet file as data.")
    encoded = read_encoded(as_data_source(data), loaded.checkpoint.encoder, settings.rows)
    labels = loaded.checkpoint.spec.labels
    if isinstance(encoded, SequenceData):
        return NextItems(encoded, make_objective(program, labels), RANKING_DEFAULTS, evaluation)
    return LabeledRows(encoded, make_objective(program, labels, encoded.label_values), CLICK_DEFAULTS, evaluation)


def _check_label_names(trained: Sequence[str], given: Sequence[str]) -> None:
    """Raise `UsageError` if other labels are given than those for which a checkpoint was trained."""
    if given and set(given) != set(trained):
        raise UsageError(
            f"--label {', '.join(given)}: this checkpoint of `train` predicts {', '.join(trained) or 'the next item'}, on "
            "which it is evaluated; leave out --label, or train again."
        )


def _data_notes(checkpoint: Checkpoint | None, task: Task) -> tuple[str, ...]:
    """Return the notes about columns from training, and the notes about values from the rows of `task`."""
    encoder_notes = () if checkpoint is None else checkpoint.encoder.notes
    data = task.data if isinstance(task, LabeledRows | NextItems) else None
    row_notes = data.notes if isinstance(data, ClickData | SequenceData) else ()
    return tuple(dict.fromkeys((*encoder_notes, *row_notes)))


def _model_name(model: Model) -> str:
    if isinstance(model, Path | str):
        return Path(model).stem
    return type(model).__name__.lower() if isinstance(model, nn.Module) else "model"


def data_name(data: Data | None) -> str | None:
    """Return the name of the rows in a manifest."""
    if data is None:
        return None
    return Path(data).name if isinstance(data, Path | str) else "rows in memory"
