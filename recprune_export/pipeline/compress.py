"""The main job: from a trained recommender to a bundle. `compress_program` can be read from top to bottom."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recprune_export.bundle.contents import bundle_files, compact_json, encoding_of, serving_files
from recprune_export.bundle.manifest.manifest import DATA_PROFILE, ENCODING, REPORT, Manifest
from recprune_export.bundle.remeasure_latency import session_options
from recprune_export.bundle.servers.readme import bundle_readme
from recprune_export.bundle.write import SameAs, write_bundle, writing
from recprune_export.errors import ModelError
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.profile_rows import profile_of
from recprune_export.finetuning.task import (
    CLICKS,
    Recipe,
    SampledRequests,
    Task,
    answer,
)
from recprune_export.onnx.counts import Counts, Reduction
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.pipeline.build_manifest import Origin, Outcome, manifest_of, notes_of
from recprune_export.pipeline.evaluate_export import measure_served
from recprune_export.pipeline.export import PARITY_ROWS, export, session_of
from recprune_export.pipeline.fingerprint import fingerprint
from recprune_export.pipeline.prune import Beginning, prune
from recprune_export.pipeline.stage_checkpoints import Work, kept_until_done, work_folder
from recprune_export.program.program import Program
from recprune_export.progress import doing
from recprune_export.pruning.plan import Plan
from recprune_export.report.bundle_page import bundle_report
from recprune_export.settings import Settings
from recprune_export.validation.edge_requests import as_taken
from recprune_export.validation.latency.closed_loop import LatencyReport
from recprune_export.validation.latency.footprint import FootprintReport
from recprune_export.validation.parity import ParityReport
from recprune_export.validation.rare_ids import RowReport

GOLDEN_ROWS = 16
DEFAULTS = Settings()
UNKNOWN = Origin()


@dataclass(frozen=True)
class Result:
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
    rows: RowReport | None = None


def compress_program(
    program: Program,
    target: Path,
    settings: Settings = DEFAULTS,
    task: Task | None = None,
    *,
    plan: Plan | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    origin: Origin = UNKNOWN,
    sign: Callable[[bytes], bytes] | None = None,
    because: Sequence[str] = (),
    resume: bool = False,
    beginning: Beginning | None = None,
) -> Result:
    """Prune, tune, export and validate `program`; write a bundle to `target`, whole or not at all.

    Without a `task` the pruned program is tuned towards the answers of `program` on requests drawn from its signature.
    `origin` is what the manifest tells of the model and the rows. `sign` makes the signature of the manifest; `because`
    are notes that go before others. With `resume` it goes on after what an earlier, killed run on the same model, rows and
    settings had finished. `beginning` is what a search of the sparsity has done already (see `prune`).

    Raises `UsageError` where nothing can be written to `target` or another process writes there, `ModelError` where the
    dense model answers NaN to rows of the data, `PruningError` where the plan does not fit or the soundness check fails,
    `ExportError`, and `ValidationFailed` where parity or latency fail.
    """
    program.signature.with_shared(settings.shared_inputs)  # a wrong name is told before the work, not after
    task = task or drawn_requests(program, settings)
    check_answers(program, task)
    extra = dict(extra_files or {})
    with writing(target) as target, tempfile.TemporaryDirectory() as scratch:
        with doing("Reading rows"):
            key = fingerprint(program, settings, task, also=None if plan is None else plan.to_dict())
        with kept_until_done(Work.begin(work_folder(target), key, resume=resume)) as work:
            pruned = prune(program, settings, task, plan, work, beginning)
            served = export(program, pruned, settings, task, Path(scratch))
            outcome = Outcome(pruned, served, measure_served(program, pruned, served, settings, task))
            notes = (*because, *notes_of(outcome, settings, task))
            encoding = encoding_of(extra)
            manifest = manifest_of(target.name, outcome, settings, task, origin, encoding=encoding, notes=notes)
            files = bundle_of(program, outcome, settings, task, manifest, extra, Path(scratch))
            write_bundle(target, files, manifest, sign)
    m = outcome.measured
    return Result(
        target,
        manifest,
        m.counts,
        m.gone,
        m.metrics,
        served.parity,
        m.latency,
        m.footprints,
        session_options(manifest),
        notes,
        m.rows,
    )


def bundle_of(
    program: Program,
    outcome: Outcome,
    settings: Settings,
    task: Task,
    manifest: Manifest,
    extra: Mapping[str, bytes],
    scratch: Path,
) -> Mapping[str, Path | bytes | SameAs]:
    """Return every file of the bundle but the manifest: models, samples, files for servers, and pages for people."""
    pruned, served = outcome.pruned, outcome.served
    golden = as_taken(task.requests(GOLDEN_ROWS, seed=2), served.pruned.signature)
    response = served.golden(pruned.program, golden)
    kept = (served.pruned, served.dense) if settings.keep_dense else (served.pruned,)
    files = bundle_files(pruned.program, kept, pruned.plan, golden, response, scratch)
    profile = profile_of(task, program.signature)
    profiles = {} if profile is None else {DATA_PROFILE: compact_json(profile.to_dict())}
    options = session_options(manifest)
    serving = serving_files(
        manifest.name, served.pruned, session_of(served.pruned), golden, response,
        options=options, most_rows=max(settings.batches), triton=settings.triton,
    )  # fmt: skip
    readme = bundle_readme(
        manifest.name,
        manifest.signature,
        options,
        encoding=ENCODING in extra,
        ignored=pruned.plan.fields.removed,
        shared_rows=manifest.plan["rows"],
        quantisation=manifest.quantisation,
        serving=serving,
    )
    pages = {"README.md": readme.encode(), REPORT: bundle_report(manifest, encoded=ENCODING in extra).encode()}
    return {**files, **serving, **extra, **profiles, **pages}


def check_answers(program: Program, task: Task) -> None:
    """Raise `ModelError` where the dense model answers NaN to rows of the data: nothing can be tuned towards that."""
    if isinstance(task, SampledRequests):  # drawn requests may be such as never come
        return
    for name, values in answer(program, task.requests(PARITY_ROWS, seed=0)).items():
        bad = int(np.isnan(values).reshape(len(values), -1).any(axis=1).sum())
        if bad:
            raise ModelError(
                f"The model answers NaN in '{name}' to {bad} of {len(values)} rows of the data: look for a division by zero or a "
                "logarithm in it, or for rows that it cannot take, and try again."
            )


def drawn_requests(program: Program, settings: Settings) -> SampledRequests:
    """Return the task of a program without rows."""
    return SampledRequests(program, make_objective(program, ()), recipe_for(CLICKS, settings))


def recipe_for(suited: Recipe, settings: Settings) -> Recipe:
    """Return what suits the rows, but the user's word first."""
    wishes = {name: getattr(settings, name) for name in ("epochs", "learning_rate", "batch_size")}
    return replace(suited, **{name: value for name, value in wishes.items() if value is not None})
