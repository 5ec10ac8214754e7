"""What a bundle says about itself: its manifest, and what the user should know and would not look for."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recprune_export.bundle.contents import plan_summary
from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.environment import environment
from recprune_export.finetuning.task import (
    SampledRequests,
    Task,
)
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.pipeline.evaluate_export import Measurements
from recprune_export.pipeline.export import ExportedModels
from recprune_export.pipeline.prune import PrunedModel
from recprune_export.provenance import provenance
from recprune_export.settings import Settings
from recprune_export.validation.latency.backends import (
    DENSE_ONNX,
    PRUNED_ONNX,
)
from recprune_export.validation.latency.roofline import compute_roofline


@dataclass(frozen=True)
class InputSources:
    """Where a dense model and its rows came from, as the manifest tells it.

    `model_file` and `data_file` are what `file_identity` says of them; by the former `refresh` finds the dense model.
    `training_seed` is that of the dense model, where it is known.
    """

    command: Sequence[str] = ()
    model_name: str = "model"
    model_file: Mapping[str, Any] | None = None
    data_name: str | None = None
    data_file: Mapping[str, Any] | None = None
    training_seed: int | None = None

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds of the dense model, where known."""
        return {} if self.training_seed is None else {"training": self.training_seed}


@dataclass(frozen=True)
class Outcome:
    """What the main job made, and what it found out about that."""

    pruned: PrunedModel
    exported: ExportedModels
    measurements: Measurements


def make_manifest(
    name: str,
    outcome: Outcome,
    settings: Settings,
    task: Task,
    origin: InputSources,
    *,
    encoding: dict[str, Any] | None,
    notes: Sequence[str],
) -> Manifest:
    """State what was made, of what, and what was measured."""
    served, measured = outcome.exported, outcome.measurements
    file, rows = served.pruned, measured.rows
    models = {"dense": (DENSE_ONNX, served.dense.path), "pruned": (PRUNED_ONNX, file.path)}
    return Manifest(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        opset=file.opset,
        signature=file.signature.to_dict(),
        counts={each: counts.to_dict() for each, counts in measured.counts.items()},
        metrics=dict(measured.metrics),
        parity=served.parity.to_dict(),
        latency={**measured.latency.to_dict(), "footprint": measured.footprints.to_dict()},
        plan={**summarize_stages(outcome.pruned), "rows": None if rows is None else rows.to_dict()},
        settings={
            **settings.to_dict(),
            "model": origin.model_name,
            "model_file": None if origin.model_file is None else dict(origin.model_file),
            "data": origin.data_name,
            "labels": list(task.objective.output_labels.values()),
        },
        environment=environment(),
        tolerances=served.tolerances.to_dict(),
        session={"options": SessionOptions(threads=settings.threads).to_dict()},
        rewrites=[each.to_dict() for each in file.rewrites],
        cost=compute_roofline(measured.latency, models).to_dict(),
        encoding=encoding,
        licence=settings.licence,
        provenance=provenance(
            command=origin.command,
            model=origin.model_file,
            data=origin.data_file,
            seeds={"compression": settings.seed, **origin.seeds},
        ),
        change={} if measured.change is None else measured.change.to_dict(),
        notes=list(notes),
        quantisation={} if served.quantization is None else served.quantization.to_dict(),
    )


def summarize_stages(pruned: PrunedModel) -> dict[str, Any]:
    """What was done in the first stage, and under `then` what was done in the next."""
    summaries = [plan_summary(s.plan, s.analysis, s.soundness, s.fitted) for s in pruned.stages]
    chained: dict[str, Any] = {}
    for summary in reversed(summaries):
        chained = {**summary, "then": chained} if chained else summary
    return {
        **chained,
        "regularisation": None if pruned.regularized is None else pruned.regularized.to_dict(),
    }


def collect_notes(outcome: Outcome, settings: Settings, task: Task) -> tuple[str, ...]:
    """Say in sentences what the user should know and would not look for."""
    pruned, served, gone = outcome.pruned, outcome.exported, outcome.measurements.reduction
    notes = []
    if isinstance(task, SampledRequests):
        notes.append(
            "No --data: tuned on drawn requests towards the dense model's answers alone, and no quality was measured. "
            "With rows of real traffic the result is better, and known."
        )
    if pruned.regularized is not None:
        zero, of = (
            sum(pruned.regularized.zero_channels.values()),
            sum(g.width for g in pruned.regularized.program.analysis.groups),
        )
        notes.append(f"Regularised training left {zero} of {of} channels without any weight before one was cut.")
    fitted = pruned.stages[-1].fitted
    if fitted is not None and fitted.best < 0:
        notes.append(
            "No epoch of tuning was better on validation rows than what there was before: the weights are those."
        )
    dense = outcome.measurements.counts["dense"]
    wanted = (
        ("tables", dense.tables, gone.tables, settings.table_sparsity),
        ("rest", dense.rest, gone.rest, settings.rest_sparsity),
    )
    for part, had, reached, asked in wanted:
        if had.parameters and reached < asked - 1e-9:
            wanted_share, found_share = format_distinctly(asked, reached)
            notes.append(f"Asked for {wanted_share} fewer parameters in the {part}, reached {found_share}.")
    for output in served.parity.outputs:
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
    lessons = () if served.quantization is None else served.quantization.notes()
    return (*notes, *lessons)


def format_distinctly(one: float, other: float) -> tuple[str, str]:
    """Return two different shares with as many digits as it takes to see that they are.

    >>> format_distinctly(0.7, 0.62)
    ('70.0%', '62.0%')
    >>> format_distinctly(0.7, 0.69999)
    ('70.000%', '69.999%')
    """
    written = ((f"{one:.{digits}%}", f"{other:.{digits}%}") for digits in range(1, 8))
    return next((pair for pair in written if pair[0] != pair[1]), (str(one), str(other)))
