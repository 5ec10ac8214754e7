"""The main job, from a trained recommender to a bundle; `compress_program` runs the stages from top to bottom."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path

import numpy as np

from recprune_export.bundle.contents import (
    format_compact_json,
    gather_bundle_files,
    gather_derived_files,
    make_npz,
    read_encoding,
)
from recprune_export.bundle.key_figures import describe_quality, describe_size, describe_speed
from recprune_export.bundle.manifest.manifest import (
    CALIBRATION,
    DATA_PROFILE,
    ENCODING,
    OUT_OF_RANGE_INPUTS,
    OUT_OF_RANGE_OUTPUTS,
    REPORT,
    SAMPLE_INPUTS,
    SAMPLE_OUTPUTS,
    Manifest,
)
from recprune_export.bundle.raw_rows import RAW_ROWS, make_raw_rows
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.bundle.servers.server_files import make_server_files
from recprune_export.bundle.write import Content, stage_bundle, write_bundle
from recprune_export.data.splits.row_split import SplitSizes
from recprune_export.derived.derived_model import DeriveModel
from recprune_export.derived.validate_derived import GOLDEN_ROWS
from recprune_export.distributed.main_process import call_on_main, enter_on_main, leave_to_main
from recprune_export.errors import ModelError, SlowerThanPyTorch, UsageError, ValidationFailed
from recprune_export.finetuning.kept_requests import keep_requests
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.profile_rows import make_data_profile
from recprune_export.finetuning.task import (
    CLICK_DEFAULTS,
    FineTuningConfig,
    SampledRequests,
    Task,
    run_program,
)
from recprune_export.onnx._translate import refuse_foreign_operators
from recprune_export.onnx.counts import Counts, Reduction
from recprune_export.onnx.runtime.runtime_requirements import check_requirements
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.output_files import check_free_space
from recprune_export.pipeline._fingerprint import fingerprint
from recprune_export.pipeline._prune import PrunedModel, SearchPrefix, prune
from recprune_export.pipeline._quantize_export import quantize_export
from recprune_export.pipeline._run_until_fast import SlowPlan, run_until_fast
from recprune_export.pipeline.build_manifest import (
    InputSources,
    Outcome,
    SearchRecord,
    collect_notes,
    describe_omissions,
    get_sizes,
    make_manifest,
)
from recprune_export.pipeline.bundle_pages import render_pages
from recprune_export.pipeline.choose_input_rules import with_input_rules
from recprune_export.pipeline.derive_models import derive_models
from recprune_export.pipeline.evaluate_export import evaluate_exports
from recprune_export.pipeline.export_models import (
    PARITY_ROWS,
    ExportedModels,
    export_models,
    make_predictor,
    make_serving_config,
)
from recprune_export.pipeline.given_plan import GivenPlan
from recprune_export.pipeline.stage_checkpoints import (
    NO_CHECKPOINTS,
    StageCheckpoints,
    get_checkpoint_folder,
    remove_when_done,
)
from recprune_export.pipeline.streamed_models import settle_settings
from recprune_export.program.program import Program
from recprune_export.program.requests.jagged_inputs import to_file_arrays
from recprune_export.progress import show_status
from recprune_export.pruning.storage_plan import StoragePlan
from recprune_export.quantization.quantization_plan import QuantizationPlan
from recprune_export.settings import (
    DEFAULT_EVALUATION_SETTINGS,
    EvaluationSettings,
    FineTuningSettings,
    Settings,
)
from recprune_export.validation.edge_requests import make_out_of_range_sample, squeeze_shared_inputs
from recprune_export.validation.latency.closed_loop import LatencyReport
from recprune_export.validation.latency.footprint import FootprintReport
from recprune_export.validation.parity import ParityReport
from recprune_export.validation.rare_ids import SharedRowReport

DEFAULTS = Settings()
UNKNOWN = InputSources()


@dataclass(frozen=True)
class CompressionResult:
    """The bundle and its measurements; `metrics` are those of the ONNX files on test rows.

    `reduction` lists removed parameters, zeroed parameters and bytes separately. `warnings` are also among the `notes`. A run with
    `quick` has no `footprints`, and `latency` at one batch size.
    """

    target: Path
    manifest: Manifest
    counts: Mapping[str, Counts]
    reduction: Reduction
    metrics: Mapping[str, Mapping[str, float]]
    parity: ParityReport
    latency: LatencyReport
    footprints: FootprintReport | None
    session: SessionOptions
    notes: tuple[str, ...]
    rows: SharedRowReport | None = None
    warnings: tuple[str, ...] = ()
    sizes: SplitSizes | None = None

    def __str__(self) -> str:
        """The key figures, the warnings and the path of the bundle, in one line each."""
        figures = {
            "Size": describe_size(self.manifest),
            "Speed": describe_speed(self.manifest),
            "Quality": describe_quality(self.manifest),
        }
        lines = [f"{name + ':':9}{text}" for name, text in figures.items() if text is not None]
        lines += [f"Warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, f"Bundle:  {self.target}"])

    def __repr__(self) -> str:
        """The same in an interpreter, since all fields together have thousands of lines."""
        return str(self)

    def _repr_html_(self) -> str:
        """The same for notebooks, with a link to the report page, if any."""
        rows = [line.partition(":") for line in str(self).splitlines()]
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text.strip())}</td></tr>" for name, _, text in rows)
        page = self.target / REPORT
        link = (
            f'<tr><th>Report</th><td><a href="{escape(str(page))}">{escape(str(page))}</a></td></tr>'
            if page.exists()
            else ""
        )
        return f'<table style="text-align: left">{cells}{link}</table>'


def compress_program(
    program: Program,
    target: Path,
    settings: Settings = DEFAULTS,
    task: Task | None = None,
    *,
    plan: GivenPlan | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    origin: InputSources = UNKNOWN,
    sign: Callable[[bytes], bytes] | None = None,
    leading_notes: Sequence[str] = (),
    resume: bool | None = False,
    search_prefix: SearchPrefix | None = None,
    search: SearchRecord | None = None,
    derive: Sequence[DeriveModel] = (),
    onnx_file: Path | None = None,
) -> CompressionResult:
    """Prune, fine-tune, export and validate `program`; write a bundle to `target`, completely or not at all.

    Without a `task` the pruned program is tuned towards the outputs of `program` on requests sampled from its signature.
    `origin` is recorded in the manifest as the source of the model and the rows. `sign` makes the signature of the manifest;
    `leading_notes` come before other notes. With `resume`, it continues after the finished stages of an earlier, killed run
    on the same model, rows and settings. `search_prefix` is the finished work of a search for the sparsity (see `prune`). `search` is the
    entry of the manifest on that search, whose settings differ from the chosen ones. `derive` makes derived ONNX files from `model.onnx`.
    `onnx_file` is the ONNX file from which `program` was made, the dense model of all figures.

    Raises `UsageError` if nothing can be written to `target`, its disk is too full, or another process writes there,
    `ModelError` if the dense model returns NaN for rows of the data, `PruningError` if the plan does not fit or the soundness check
    fails, `ExportError`, and `ValidationFailed` if parity or latency fail; a plan within --max-bytes whose file is slower than PyTorch is
    first made again, with less predicted time.
    """
    settings = settle_settings(program, settings)
    task = task or make_sampled_task(program, settings.finetuning, settings.evaluation)
    program = prepare_program(program, target, settings, task)
    with enter_on_main(partial(stage_bundle, target), target) as target, tempfile.TemporaryDirectory() as scratch:
        checkpoints = open_checkpoints(program, settings, task, plan, target, resume=resume)
        with remove_when_done(checkpoints):
            run = partial(
                run_stages,
                program,
                task,
                plan=plan,
                search_prefix=search_prefix,
                folder=Path(scratch),
                onnx_file=onnx_file,
            )
            outcome, retries = run_until_fast(run, settings, checkpoints)
            further = derive_models(derive, outcome.exported, task, settings, Path(scratch))
            outcome = replace(outcome, derived=further)
            measurements = outcome.measurements
            manifest = make_manifest(
                target.name, outcome, search.settings if search else settings, task, origin,
                trials=search.trials if search else (),
                encoding=read_encoding(extra_files or {}),
                notes=(*leading_notes, *retries, *describe_omissions(settings.latency), *collect_notes(outcome, settings.pruning, task)),
            )  # fmt: skip
            files = collect_bundle_files(program, outcome, settings, task, manifest, extra_files or {}, Path(scratch))
            write_bundle(target, files, manifest, sign)
    return CompressionResult(
        target=target,
        manifest=manifest,
        counts=measurements.counts,
        reduction=measurements.reduction,
        metrics=measurements.metrics,
        parity=outcome.exported.parity,
        latency=measurements.latency,
        footprints=measurements.footprints,
        session=read_session_options(manifest),
        notes=tuple(manifest.notes),
        rows=measurements.rows,
        warnings=measurements.warnings,
        sizes=get_sizes(task),
    )


def prepare_program(program: Program, target: Path, settings: Settings, task: Task) -> Program:
    """Return `program` with the rules of its inputs, after all checks that take no time."""
    check_space(program, target if settings.export.keep_dense else None)
    # a wrong name is reported before the job, not after it
    program.signature.with_shared(settings.export.shared_inputs)
    refuse_foreign_operators(program)
    check_no_nan(program, task)
    return with_input_rules(program, task, settings.export.bad_ids)


def run_stages(
    program: Program,
    task: Task,
    settings: Settings,
    checkpoints: StageCheckpoints,
    *,
    plan: GivenPlan | None,
    search_prefix: SearchPrefix | None,
    folder: Path,
    onnx_file: Path | None = None,
) -> Outcome:
    """Prune, export to `folder` and measure. With several processes, all prune, and only the first one does the other steps.

    Raises `SlowPlan` if the file of a plan within --max-bytes is slower than the same model in PyTorch, `SlowerThanPyTorch` if the file
    of another plan is.
    """
    pruned = prune(
        program, settings.pruning, settings.finetuning, task,
        seed=settings.seed, plan=plan.plan if plan else None, checkpoints=checkpoints, search_prefix=search_prefix,
        serving=make_serving_config(settings), projected=plan.projected if plan else None,
    )  # fmt: skip
    outcome = call_on_main(
        partial(_export_and_measure, program, pruned, settings, task, folder, plan, onnx_file), share=False
    )
    leave_to_main()
    return outcome


def _export_and_measure(
    program: Program,
    pruned: PrunedModel,
    settings: Settings,
    task: Task,
    folder: Path,
    plan: GivenPlan | None,
    onnx_file: Path | None,
) -> Outcome:
    forms = plan.quantization if plan else None
    exported = export_and_quantize(program, pruned, settings, task, folder, forms, onnx_file)
    requirements = check_requirements(exported.pruned.path, settings.export.runtime)
    storage = pruned.stages[-1].plan.storage
    if plan is None or plan.projected is None:  # with reapplied bits, a file beyond the limit causes only a note
        check_byte_limit(exported.pruned.bytes, storage)
    try:
        measurements = evaluate_exports(program, pruned, exported, settings.latency, task, seed=settings.seed)
    except SlowerThanPyTorch as error:
        if plan is None and storage is not None:
            raise SlowPlan(error, storage) from error
        raise
    return Outcome(pruned, exported, requirements, measurements)


def open_checkpoints(
    program: Program, settings: Settings, task: Task, plan: GivenPlan | None, target: Path, *, resume: bool | None
) -> StageCheckpoints:
    """Open the folder for finished stages next to `target`; with `resume` those of an equal run are kept; with None there is no
    folder."""
    if resume is None:
        return NO_CHECKPOINTS
    extra = None if plan is None else plan.plan.to_dict()
    with show_status("Hashing the model and the rows"):
        key = call_on_main(
            lambda: fingerprint(program, settings.pruning, settings.finetuning, task, settings.seed, extra=extra)
        )
    open_folder = partial(StageCheckpoints.open, get_checkpoint_folder(target), key, resume=resume)
    return call_on_main(open_folder, share=False) or NO_CHECKPOINTS


def export_and_quantize(
    program: Program,
    pruned: PrunedModel,
    settings: Settings,
    task: Task,
    folder: Path,
    chosen: QuantizationPlan | None = None,
    onnx_file: Path | None = None,
) -> ExportedModels:
    """Write both models to `folder`; the pruned model has fewer bits if the settings require it, in the previously `chosen` forms, if
    any.

    `onnx_file` is the ONNX file from which `program` was made.
    """
    batches, threads = settings.latency.latency_batch_sizes, settings.latency.threads
    exported = export_models(program, pruned, make_serving_config(settings), task, folder, onnx_file)
    quantized = quantize_export(
        exported.pruned, settings.quantization, batches, task, folder / "quantized",
        threads=threads, seed=settings.seed, runtime=settings.export.runtime, chosen=chosen,
    )  # fmt: skip
    return exported.with_quantized(quantized)


def check_byte_limit(size: int, storage: StoragePlan | None) -> None:
    """Raise `ValidationFailed` if a file has more bytes than its plan allows."""
    if storage is not None and size > storage.max_bytes:
        raise ValidationFailed(
            f"The file has {size:,} bytes, and --max-bytes allows {storage.max_bytes:,}: the rewrites for these batch sizes and shared "
            f"inputs take {size - storage.point.bytes:,} bytes that the plan did not include, so nothing was written. Reduce "
            "--max-bytes by this number to leave room for them."
        )


def collect_bundle_files(
    program: Program,
    outcome: Outcome,
    settings: Settings,
    task: Task,
    manifest: Manifest,
    extra: Mapping[str, bytes],
    scratch: Path,
) -> dict[str, Content]:
    """Return every file of the bundle except the manifest: models, samples, files for servers, the README and the report page."""
    pruned, exported = outcome.pruned, outcome.exported
    signature = exported.pruned.signature
    golden = squeeze_shared_inputs(task.requests(GOLDEN_ROWS, seed=2), signature)
    response = exported.golden(pruned.program, golden)
    models = (exported.pruned, exported.dense) if settings.export.keep_dense else (exported.pruned,)
    samples = {SAMPLE_INPUTS: to_file_arrays(signature, golden), SAMPLE_OUTPUTS: response}
    out_of_range = make_out_of_range_sample(signature, golden)
    if out_of_range is not None:
        samples[OUT_OF_RANGE_INPUTS] = to_file_arrays(signature, out_of_range)
        samples[OUT_OF_RANGE_OUTPUTS] = exported.golden(pruned.program, out_of_range)
    files = gather_bundle_files(pruned.program, models, pruned.plan, samples, scratch)
    raw_rows = None
    if ENCODING in extra:
        answer = partial(exported.golden, pruned.program)
        raw_rows = files[RAW_ROWS] = make_raw_rows(json.loads(extra[ENCODING]), signature, answer)
    files |= gather_derived_files(outcome.derived)
    profile = make_data_profile(task, program.signature)
    profiles = {} if profile is None else {DATA_PROFILE: format_compact_json(profile.to_dict())}
    if settings.export.calibration_rows:
        files[CALIBRATION] = make_npz(
            keep_requests(task, settings.export.calibration_rows, settings.seed), compressed=True
        )
    servers = make_server_files(
        manifest.name, exported.pruned, make_predictor(exported.pruned), golden, response,
        options=read_session_options(manifest), max_batch=settings.export.max_batch, triton=settings.export.triton,
        raw_rows=raw_rows, encoding=extra.get(ENCODING), derived=outcome.derived,
    )  # fmt: skip
    content: dict[str, Content] = {**files, **servers.files, **extra, **profiles}
    return content | render_pages(manifest, content, servers, settings.latency, report=not settings.latency.quick)


def check_space(program: Program, target: Path | None) -> None:
    """Raise `UsageError` if the disk of temporary files, or the disk of `target`, has no room for `program`."""
    size = sum(p.nbytes for p in program.module.parameters())
    targets = () if target is None else (target,)
    needs = dict.fromkeys((Path(tempfile.gettempdir()) / "dense.onnx", *targets), size)
    call_on_main(partial(check_free_space, needs, "the run"))


def check_no_nan(program: Program, task: Task) -> None:
    """Raise `ModelError` if the dense model returns NaN for rows of the data: tuning towards NaN is impossible."""
    if isinstance(task, SampledRequests):  # sampled requests may not occur in traffic
        return
    for name, values in run_program(program, task.requests(PARITY_ROWS, seed=0)).items():
        rows = int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum())
        if rows:
            raise ModelError(
                f"The model returns NaN in '{name}' for {rows} of {len(values)} rows of the data: look for a division by zero "
                "or a logarithm in the model, or for invalid rows, and try again."
            )


def make_sampled_task(
    program: Program, finetuning: FineTuningSettings, evaluation: EvaluationSettings = DEFAULT_EVALUATION_SETTINGS
) -> SampledRequests:
    """Return the task of a program without rows. Raises `UsageError` if a metric is named, which needs rows."""
    for option, value in (("--metric", ", ".join(evaluation.metrics)), ("--group", evaluation.group)):
        if value:
            raise UsageError(f"{option} {value} requires labeled rows: give --data.")
    config = apply_finetuning_settings(CLICK_DEFAULTS, finetuning)
    return SampledRequests(program, make_objective(program, ()), config)


def apply_finetuning_settings(default: FineTuningConfig, finetuning: FineTuningSettings) -> FineTuningConfig:
    """Return `default` with the epochs, learning rate and batch size that the user set."""
    options = {name: getattr(finetuning, name) for name in ("epochs", "learning_rate", "batch_size")}
    return replace(default, **{name: value for name, value in options.items() if value is not None})
