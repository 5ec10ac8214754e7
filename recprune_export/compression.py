"""The main job: from a trained recommender to a bundle. `compress_program` can be read from top to bottom."""

import datetime
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recprune_export.bundle.contents import bundle_files, compact_json, encoding_of, plan_summary, serving_files
from recprune_export.bundle.manifest import DATA_PROFILE, ENCODING, MODEL, REPORT, Manifest
from recprune_export.bundle.readme import bundle_readme
from recprune_export.bundle.write import write_bundle, writing
from recprune_export.channels.analysis import analyse
from recprune_export.environment import environment
from recprune_export.errors import ModelError, ValidationFailed
from recprune_export.fewer_bits import in_fewer_bits
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.profiling import profile_of
from recprune_export.finetuning.task import (
    CLICKS,
    Answers,
    Recipe,
    SampledRequests,
    Task,
    answer,
)
from recprune_export.fingerprint import fingerprint
from recprune_export.onnx.counts import Counts, Reduction, count, reduction
from recprune_export.onnx.export import OnnxFile, Serving, export_onnx
from recprune_export.onnx.rewriting import Limits
from recprune_export.onnx.session import SessionOptions, make_session, run
from recprune_export.program.drawing import draw_request
from recprune_export.program.program import Program
from recprune_export.program.signature import Signature
from recprune_export.progress import doing
from recprune_export.provenance import provenance
from recprune_export.pruning.field_selection import remove_fields
from recprune_export.pruning.plan import Plan
from recprune_export.report.bundle import bundle_report
from recprune_export.resuming import Work, kept_until_done, work_folder
from recprune_export.settings import Settings
from recprune_export.stages import Pruned, prune
from recprune_export.tiling import tile_notes
from recprune_export.validation.contestants import (
    DENSE_ONNX,
    DENSE_TORCH,
    PRUNED_ONNX,
    PRUNED_TORCH,
    in_onnxruntime,
    in_torch,
    torch_threads,
)
from recprune_export.validation.footprint import FootprintReport, measure_footprints
from recprune_export.validation.latency import LatencyReport, measure
from recprune_export.validation.parity import ParityReport, check_parity
from recprune_export.validation.rare_ids import RowReport, report_rows
from recprune_export.validation.requests import Request, as_taken, edge_requests, every_id, in_full, repeated
from recprune_export.validation.roofline import roofline
from recprune_export.validation.session_advice import SessionAdvice, advise_session

PARITY_ROWS = 512
GOLDEN_ROWS = 16
DEFAULTS = Settings()


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
    session: SessionAdvice
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
    command: Sequence[str] = (),
    model_name: str = "model",
    model_file: Mapping[str, Any] | None = None,
    data_name: str | None = None,
    data_file: Mapping[str, Any] | None = None,
    training_seed: int | None = None,
    sign: Callable[[bytes], bytes] | None = None,
    because: Sequence[str] = (),
    resume: bool = False,
) -> Result:
    """Prune, tune, export and validate `program`; write a bundle to `target`, whole or not at all.

    Without a `task` the pruned program is tuned towards the answers of `program` on requests drawn from its signature.
    `model_file` and `data_file` are what `file_identity` says of the files that the model and the rows came from; by the
    former `refresh` finds the dense model. `training_seed` is that of the dense model, where it is known. `sign` makes the
    signature of the manifest; `because` are notes that go before others.
    With `resume` it goes on after what an earlier, killed run on the same model, rows and settings had finished.

    Raises `UsageError` where nothing can be written to `target` or another process writes there, `ModelError` where the
    dense model answers NaN to rows of the data, `PruningError` where the plan does not fit or the soundness check fails,
    `ExportError`, and `ValidationFailed` where parity or latency fail.
    """
    program.signature.with_shared(settings.shared_inputs)  # a wrong name is told before the work, not after
    task = task or drawn_requests(program, settings)
    check_answers(program, task)
    names: dict[str, Any] = {
        "command": command,
        "model_name": model_name,
        "model_file": model_file,
        "data_name": data_name,
        "data_file": data_file,
        "training_seed": training_seed,
        "sign": sign,
    }
    with writing(target) as target:
        with doing("Reading rows"):
            key = fingerprint(program, settings, task, also=None if plan is None else plan.to_dict())
        with kept_until_done(Work.begin(work_folder(target), key, resume=resume)) as work:
            pruned = prune(program, settings, task, plan, work)
            return _ship(program, pruned, target, settings, task, extra_files or {}, because, **names)


def _ship(
    program: Program,
    pruned: Pruned,
    target: Path,
    settings: Settings,
    task: Task,
    extra_files: Mapping[str, bytes],
    because: Sequence[str],
    *,
    command: Sequence[str],
    model_name: str,
    model_file: Mapping[str, Any] | None,
    data_name: str | None,
    data_file: Mapping[str, Any] | None,
    training_seed: int | None,
    sign: Callable[[bytes], bytes] | None,
) -> Result:
    """Export and validate what was pruned, and write the bundle."""
    seeds = {"compression": settings.seed, **({} if training_seed is None else {"training": training_seed})}
    with tempfile.TemporaryDirectory() as scratch:
        with doing("Exporting to ONNX"):
            dense_file = export_onnx(program, Path(scratch) / "dense.onnx", rewrites=())
            pruned_file = export_pruned(pruned, settings, Path(scratch) / MODEL)
        with doing("Comparing answers with PyTorch's"):
            parity = validate_parity(pruned.program, pruned_file, task, ids=bool(pruned.plan.rows))
        requests = latency_requests(settings, task, pruned_file.signature)
        fewer_bits = in_fewer_bits(pruned_file, task, settings, requests, Path(scratch) / "quantised")
        pruned_file = pruned_file if fewer_bits is None else fewer_bits.file
        counts = {"dense": count(dense_file.path), "pruned": count(pruned_file.path)}
        tested = pruned_file
        if settings.shared_inputs:  # rows of a test set share nothing; parity holds both files to the same program
            tested = export_onnx(pruned.program, Path(scratch) / "each_row.onnx")
        answers = {"dense": _session(dense_file), "pruned": _session(tested)}
        with doing("Measuring quality on test rows"):
            metrics = {name: task.test(answer) for name, answer in answers.items()}
            change = task.test_change(answers["dense"], answers["pruned"])
            rows = _report_rows(program, pruned, pruned_file, task, answers)
        latency = validate_latency(program, pruned.program, dense_file, pruned_file, settings, task)
        footprints = cold_starts(dense_file, pruned_file, program.signature, settings)
        advice = advise(pruned_file, settings, task)
        gone = reduction(counts["dense"], counts["pruned"])
        lessons = () if fewer_bits is None else fewer_bits.notes()
        told = tile_notes(pruned.stages[-1].tiles, pruned_file, settings)
        notes = (*because, *_notes(pruned, gone, parity, settings, task), *told, *lessons)
        tolerances = parity.tolerances if fewer_bits is None else fewer_bits.tolerances(parity.tolerances)
        manifest = Manifest(
            name=target.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            opset=pruned_file.opset,
            signature=pruned_file.signature.to_dict(),
            counts={name: c.to_dict() for name, c in counts.items()},
            metrics=metrics,
            parity=parity.to_dict(),
            latency={**latency.to_dict(), "footprint": footprints.to_dict()},
            plan={**_summary(pruned), "rows": None if rows is None else rows.to_dict()},
            settings={
                **settings.to_dict(),
                "model": model_name,
                "model_file": None if model_file is None else dict(model_file),
                "data": data_name,
                "labels": list(task.objective.label_of.values()),
            },
            environment=environment(),
            tolerances=tolerances.to_dict(),
            session=advice.to_dict(),
            rewrites=[each.to_dict() for each in pruned_file.rewrites],
            cost=roofline(
                latency, {"dense": (DENSE_ONNX, dense_file.path), "pruned": (PRUNED_ONNX, pruned_file.path)}
            ).to_dict(),
            encoding=encoding_of(extra_files or {}),
            licence=settings.licence,
            provenance=provenance(command=command, model=model_file, data=data_file, seeds=seeds),
            change={} if change is None else change.to_dict(),
            notes=list(notes),
            quantisation={} if fewer_bits is None else fewer_bits.to_dict(),
        )
        golden = as_taken(task.requests(GOLDEN_ROWS, seed=2), pruned_file.signature)
        kept = (pruned_file, dense_file) if settings.keep_dense else (pruned_file,)
        response = (
            answer(pruned.program, in_full(golden, pruned_file.signature))
            if fewer_bits is None
            else fewer_bits.golden(golden)
        )
        files = bundle_files(pruned.program, kept, pruned.plan, golden, response, Path(scratch))
        extra = dict(extra_files)
        profile = profile_of(task, program.signature)
        if profile is not None:
            extra[DATA_PROFILE] = compact_json(profile.to_dict())
        serving = serving_files(
            target.name, pruned_file, _session(pruned_file), golden, response,
            options=advice.options, most_rows=max(settings.batches), triton=settings.triton,
        )  # fmt: skip
        readme = bundle_readme(
            target.name,
            manifest.signature,
            advice.options,
            encoding=ENCODING in extra,
            ignored=pruned.plan.fields.removed,
            shared_rows=manifest.plan["rows"],
            quantisation=manifest.quantisation,
            serving=serving,
        )
        pages = {"README.md": readme.encode(), REPORT: bundle_report(manifest, encoded=ENCODING in extra).encode()}
        write_bundle(target, {**files, **serving, **extra, **pages}, manifest, sign)
    return Result(target, manifest, counts, gone, metrics, parity, latency, footprints, advice, notes, rows)


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


def export_pruned(pruned: Pruned, settings: Settings, path: Path) -> OnnxFile:
    """Write the ONNX file that is served; no rewrite may undo what was removed."""
    serving = Serving(settings.batches, settings.shared_inputs)
    return export_onnx(pruned.program, path, serving=serving, limits=Limits(pruned.target.tables, pruned.target.rest))


def validate_parity(program: Program, file: OnnxFile, task: Task, *, ids: bool = False) -> ParityReport:
    """Compare the ONNX file with the pruned program on test rows, drawn rows and edge rows, and on `ids` one by one.

    Raises `ValidationFailed` with the first difference.
    """
    signature = file.signature
    requests = {
        "test rows": as_taken(task.requests(PARITY_ROWS, seed=0), signature),
        "drawn rows": draw_request(signature, PARITY_ROWS // 2, seed=1),
        **edge_requests(signature),
        **(every_id(signature) if ids else {}),
    }
    report = check_parity(lambda request: answer(program, in_full(request, signature)), _session(file), requests)
    if not report.passed:
        raise ValidationFailed(
            f"The ONNX model does not give the pruned model's outputs, so nothing was written. {report.failures[0]}"
        )
    return report


def validate_latency(
    dense: Program, pruned: Program, dense_file: OnnxFile, pruned_file: OnnxFile, settings: Settings, task: Task
) -> LatencyReport:
    """Let the four contestants take turns.

    Raises `ValidationFailed` where pruned ONNX is slower than pruned PyTorch beyond doubt.
    """
    requests, threads = latency_requests(settings, task, pruned_file.signature), settings.threads
    with torch_threads(threads):
        contestants = [
            in_torch(DENSE_TORCH, dense),
            in_torch(PRUNED_TORCH, pruned),
            in_onnxruntime(DENSE_ONNX, dense_file.path, threads),
            in_onnxruntime(PRUNED_ONNX, pruned_file.path, threads),
        ]
        report = measure(contestants, requests, threads=threads, seed=settings.seed)
    slower = report.slower(PRUNED_ONNX, PRUNED_TORCH)
    if slower:
        raise ValidationFailed(f"The ONNX model is not as fast as PyTorch, so nothing was written. {slower[0]}")
    return report


def latency_requests(settings: Settings, task: Task, signature: Signature) -> dict[int, Request]:
    """Return a request of test rows for each batch size; what is shared is the same in all of its rows."""
    rows = in_full(as_taken(task.requests(max(settings.batches), seed=0), signature), signature)
    return {batch: repeated(rows, batch) for batch in settings.batches}


def cold_starts(
    dense_file: OnnxFile, pruned_file: OnnxFile, signature: Signature, settings: Settings
) -> FootprintReport:
    """Measure load time, first request and memory of both ONNX files in fresh processes."""
    options = SessionOptions(threads=settings.threads)
    models = {DENSE_ONNX: (dense_file.path, options), PRUNED_ONNX: (pruned_file.path, options)}
    return measure_footprints(models, signature, max(settings.batches))


def advise(file: OnnxFile, settings: Settings, task: Task) -> SessionAdvice:
    """Find the session options that suit the artifact on this machine."""
    plain = SessionOptions(threads=settings.threads)
    return advise_session(file.path, latency_requests(settings, task, file.signature), plain=plain, seed=settings.seed)


def _summary(pruned: Pruned) -> dict[str, Any]:
    """What was done in the first stage, and under `then` what was done in the next."""
    summaries = [plan_summary(s.plan, s.analysis, s.soundness, s.fitted) for s in pruned.stages]
    chained: dict[str, Any] = {}
    for summary in reversed(summaries):
        chained = {**summary, "then": chained} if chained else summary
    tiles = [layer.to_dict() for layer in pruned.stages[-1].tiles.layers]
    return {
        **chained,
        "tiles": tiles,
        "regularisation": None if pruned.regularised is None else pruned.regularised.to_dict(),
    }


def _report_rows(
    program: Program, pruned: Pruned, file: OnnxFile, task: Task, answers: Mapping[str, Answers]
) -> RowReport | None:
    first = pruned.stages[0]
    if first.shared is None:
        return None
    program = remove_fields(program, first.plan.fields).program
    return report_rows(program, first.plan.rows, first.shared, file, task, answers)


def _notes(pruned: Pruned, gone: Reduction, parity: ParityReport, settings: Settings, task: Task) -> tuple[str, ...]:
    """Say in sentences what the user should know and would not look for."""
    notes = []
    if isinstance(task, SampledRequests):
        notes.append(
            "No --data: tuned on drawn requests towards the dense model's answers alone, and no quality was measured. "
            "With rows of real traffic the result is better, and known."
        )
    if pruned.regularised is not None:
        zero, of = (
            sum(pruned.regularised.zero.values()),
            sum(g.width for g in analyse(pruned.regularised.program).groups),
        )
        notes.append(f"Regularised training left {zero} of {of} channels without any weight before one was cut.")
    wanted = (("tables", gone.tables, settings.table_sparsity), ("rest", gone.rest, settings.rest_sparsity))
    for part, reached, asked in wanted:
        if reached < asked - 1e-9:
            notes.append(f"Asked for {asked:.1%} fewer parameters in the {part}, reached {reached:.1%}.")
    for output in parity.outputs:
        if output.not_finite:
            notes.append(
                f"The model itself answers NaN or infinity in {output.not_finite} numbers of '{output.name}' for unusual "
                "requests, such as empty histories, and so does the artifact."
            )
    if settings.prune_rows is not None and not pruned.plan.rows:
        notes.append("No table has so many rare ids that sharing a row would make the file smaller, so all rows stay.")
    analysis = pruned.stages[0].analysis
    frozen = sum(axis.count for axis in analysis.frozen if "returns" not in axis.reason.text)
    if frozen and not analysis.groups:
        notes.append("Nothing could be removed; only zeros were set.")
    return tuple(notes)


def _session(file: OnnxFile) -> Answers:
    session = make_session(file.path, torch.get_num_threads())
    return lambda request: run(session, request)
