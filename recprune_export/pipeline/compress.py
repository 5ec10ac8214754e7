"""The main job: from a trained recommender to a bundle. `compress_program` can be read from top to bottom."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recprune_export.bundle.contents import bundle_files, format_compact_json, read_encoding, serving_files
from recprune_export.bundle.manifest.manifest import DATA_PROFILE, ENCODING, REPORT, Manifest
from recprune_export.bundle.remeasure_latency import read_session_options
from recprune_export.bundle.servers.readme import render_readme
from recprune_export.bundle.write import HardLink, stage_bundle, write_bundle
from recprune_export.errors import ModelError
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.profile_rows import make_data_profile
from recprune_export.finetuning.task import (
    CLICK_DEFAULTS,
    FineTuningConfig,
    SampledRequests,
    Task,
    run_program,
)
from recprune_export.onnx.counts import Counts, Reduction
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.pipeline.build_manifest import InputSources, Outcome, collect_notes, make_manifest
from recprune_export.pipeline.evaluate_export import evaluate_exports
from recprune_export.pipeline.export import PARITY_ROWS, export_models, make_predictor
from recprune_export.pipeline.fingerprint import fingerprint
from recprune_export.pipeline.prune import SearchPrefix, prune
from recprune_export.pipeline.stage_checkpoints import StageCheckpoints, get_checkpoint_folder, remove_when_done
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.pruning.plan import Plan
from recprune_export.report.bundle_page import render_bundle_report
from recprune_export.settings import Settings
from recprune_export.validation.edge_requests import squeeze_shared_inputs
from recprune_export.validation.latency.closed_loop import LatencyReport
from recprune_export.validation.latency.footprint import FootprintReport
from recprune_export.validation.parity import ParityReport
from recprune_export.validation.rare_ids import SharedRowReport

GOLDEN_ROWS = 16
DEFAULTS = Settings()
UNKNOWN = InputSources()


@dataclass(frozen=True)
class CompressionResult:
    """What `compress_program` made and measured; `metrics` are those of the ONNX files on test rows."""

    target: Path
    manifest: Manifest
    counts: Mapping[str, Counts]
    reduction: Reduction
    metrics: Mapping[str, Mapping[str, float]]
    parity: ParityReport
    latency: LatencyReport
    footprints: FootprintReport
    session: SessionOptions
    notes: tuple[str, ...]
    rows: SharedRowReport | None = None


def compress_program(
    program: Program,
    target: Path,
    settings: Settings = DEFAULTS,
    task: Task | None = None,
    *,
    plan: Plan | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    origin: InputSources = UNKNOWN,
    sign: Callable[[bytes], bytes] | None = None,
    leading_notes: Sequence[str] = (),
    resume: bool = False,
    search_prefix: SearchPrefix | None = None,
) -> CompressionResult:
    """Prune, tune, export and validate `program`; write a bundle to `target`, whole or not at all.

    Without a `task` the pruned program is tuned towards the answers of `program` on requests drawn from its signature.
    `origin` is what the manifest tells of the model and the rows. `sign` makes the signature of the manifest; `leading_notes`
    are notes that go before others. With `resume` it goes on after what an earlier, killed run on the same model, rows and
    settings had finished. `search_prefix` is what a search of the sparsity has done already (see `prune`).

    Raises `UsageError` where nothing can be written to `target` or another process writes there, `ModelError` where the
    dense model answers NaN to rows of the data, `PruningError` where the plan does not fit or the soundness check fails,
    `ExportError`, and `ValidationFailed` where parity or latency fail.
    """
    program.signature.with_shared(settings.shared_inputs)  # a wrong name is told before the work, not after
    task = task or make_sampled_task(program, settings)
    check_no_nan(program, task)
    extra = dict(extra_files or {})
    with stage_bundle(target) as target, tempfile.TemporaryDirectory() as scratch:
        with show_status("Reading rows"):
            key = fingerprint(program, settings, task, extra=None if plan is None else plan.to_dict())
        with remove_when_done(StageCheckpoints.open(get_checkpoint_folder(target), key, resume=resume)) as work:
            pruned = prune(program, settings, task, plan, work, search_prefix)
            served = export_models(program, pruned, settings, task, Path(scratch))
            outcome = Outcome(pruned, served, evaluate_exports(program, pruned, served, settings, task))
            notes = (*leading_notes, *collect_notes(outcome, settings, task))
            encoding = read_encoding(extra)
            manifest = make_manifest(target.name, outcome, settings, task, origin, encoding=encoding, notes=notes)
            files = collect_bundle_files(program, outcome, settings, task, manifest, extra, Path(scratch))
            write_bundle(target, files, manifest, sign)
    m = outcome.measurements
    return CompressionResult(
        target,
        manifest,
        m.counts,
        m.reduction,
        m.metrics,
        served.parity,
        m.latency,
        m.footprints,
        read_session_options(manifest),
        notes,
        m.rows,
    )


def collect_bundle_files(
    program: Program,
    outcome: Outcome,
    settings: Settings,
    task: Task,
    manifest: Manifest,
    extra: Mapping[str, bytes],
    scratch: Path,
) -> Mapping[str, Path | bytes | HardLink]:
    """Return every file of the bundle but the manifest: models, samples, files for servers, and pages for people."""
    pruned, served = outcome.pruned, outcome.exported
    golden = squeeze_shared_inputs(task.requests(GOLDEN_ROWS, seed=2), served.pruned.signature)
    response = served.golden(pruned.program, golden)
    kept = (served.pruned, served.dense) if settings.keep_dense else (served.pruned,)
    files = bundle_files(pruned.program, kept, pruned.plan, golden, response, scratch)
    profile = make_data_profile(task, program.signature)
    profiles = {} if profile is None else {DATA_PROFILE: format_compact_json(profile.to_dict())}
    options = read_session_options(manifest)
    serving = serving_files(
        manifest.name, served.pruned, make_predictor(served.pruned), golden, response,
        options=options, most_rows=max(settings.batches), triton=settings.triton,
    )  # fmt: skip
    readme = render_readme(
        manifest.name,
        manifest.signature,
        options,
        encoding=ENCODING in extra,
        ignored=pruned.plan.fields.removed,
        shared_rows=manifest.plan["rows"],
        quantisation=manifest.quantisation,
        serving=serving,
    )
    pages = {"README.md": readme.encode(), REPORT: render_bundle_report(manifest, encoded=ENCODING in extra).encode()}
    return {**files, **serving, **extra, **profiles, **pages}


def check_no_nan(program: Program, task: Task) -> None:
    """Raise `ModelError` where the dense model answers NaN to rows of the data: nothing can be tuned towards that."""
    if isinstance(task, SampledRequests):  # drawn requests may be such as never come
        return
    for name, values in run_program(program, task.requests(PARITY_ROWS, seed=0)).items():
        bad = int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum())
        if bad:
            raise ModelError(
                f"The model answers NaN in '{name}' to {bad} of {len(values)} rows of the data: look for a division by zero or a "
                "logarithm in it, or for rows that it cannot take, and try again."
            )


def make_sampled_task(program: Program, settings: Settings) -> SampledRequests:
    """Return the task of a program without rows."""
    return SampledRequests(program, make_objective(program, ()), make_recipe(CLICK_DEFAULTS, settings))


def make_recipe(default: FineTuningConfig, settings: Settings) -> FineTuningConfig:
    """Return what suits the rows, but the user's word first."""
    wishes = {name: getattr(settings, name) for name in ("epochs", "learning_rate", "batch_size")}
    return replace(default, **{name: value for name, value in wishes.items() if value is not None})
