"""Make the manifest of a bundle, and the notes for its user."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recprune_export.bundle.contents import plan_summary
from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.data.labels import LabelValues
from recprune_export.data.splits.row_split import SplitSizes
from recprune_export.derived.validate_derived import ValidatedModel
from recprune_export.environment import environment
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.task import (
    LabeledRows,
    NextItems,
    SampledRequests,
    Task,
)
from recprune_export.onnx.runtime.runtime_requirements import RuntimeRequirements
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.output_meaning import OutputMeaning
from recprune_export.pipeline._prune import PrunedModel
from recprune_export.pipeline.evaluate_export import Measurements, choose_measured_batches
from recprune_export.pipeline.export_models import ExportedModels
from recprune_export.provenance import provenance
from recprune_export.settings import LatencySettings, PruningSettings, Settings
from recprune_export.validation.latency.backends import (
    DENSE_ONNX,
    PRUNED_ONNX,
)
from recprune_export.validation.latency.roofline import compute_roofline
from recprune_export.validation.latency.speedup import find_speedup


@dataclass(frozen=True)
class InputSources:
    """The command, model and rows from which a bundle is made, as recorded in the manifest.

    `model_file` and `data_file` are results of `file_identity`; `refresh` finds the dense model by the former. `training_seed` and
    `labels` are those of the dense model, if they are known. `baseline` names the bundle whose plan was applied again, with the checksum
    of its manifest.
    """

    command: Sequence[str] = ()
    model_name: str = "model"
    model_file: Mapping[str, Any] | None = None
    data_name: str | None = None
    data_file: Mapping[str, Any] | None = None
    training_seed: int | None = None
    baseline: Mapping[str, str] | None = None
    labels: Mapping[str, LabelValues] = field(default_factory=dict)

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds of the dense model, where known."""
        return {} if self.training_seed is None else {"training": self.training_seed}


@dataclass(frozen=True)
class SearchRecord:
    """The search that chose the operating point of a job, as recorded in the manifest.

    `settings` are those with which `refresh` repeats the search, and `trials` the trials of the metric as plain JSON values.
    """

    settings: Settings
    trials: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The pruned program, its exported files, the requirements of the pruned model, measurements, and derived files."""

    pruned: PrunedModel
    exported: ExportedModels
    requirements: RuntimeRequirements
    measurements: Measurements
    derived: tuple[ValidatedModel, ...] = ()


def make_manifest(
    name: str,
    outcome: Outcome,
    settings: Settings,
    task: Task,
    origin: InputSources,
    *,
    encoding: dict[str, Any] | None,
    notes: Sequence[str],
    trials: Sequence[Mapping[str, Any]] = (),
) -> Manifest:
    """Return the manifest of a bundle; `trials` are those of the search that chose the operating point."""
    exported, measurements = outcome.exported, outcome.measurements
    file, rows = exported.pruned, measurements.rows
    models = {"dense": (DENSE_ONNX, exported.dense.path), "pruned": (PRUNED_ONNX, file.path)}
    return Manifest(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        opset=file.opset,
        runtime=outcome.requirements.to_dict(),
        signature=file.signature.to_dict(),
        scores={name: meaning.to_dict() for name, meaning in find_meanings(outcome, task, origin.labels).items()},
        counts={
            **{model: counts.to_dict() for model, counts in measurements.counts.items()},
            "reduction": measurements.reduction.to_dict(),
        },
        metrics=dict(measurements.metrics),
        parity=exported.parity.to_dict(),
        latency=summarize_latency(measurements),
        plan={
            **summarize_stages(outcome.pruned, task.metric_name),
            "rows": None if rows is None else rows.to_dict(),
        },
        settings={
            **settings.to_dict(),
            "model": origin.model_name,
            "model_file": None if origin.model_file is None else dict(origin.model_file),
            "data": origin.data_name,
            "rows": sizes.to_dict() if (sizes := get_sizes(task)) is not None else None,
            "labels": list(task.objective.output_labels.values()),
            "metrics": list_metrics(task),
            "label_kinds": {label: kind.value for label, kind in task.objective.label_kinds.items()},
        },
        environment=environment(),
        tolerances=exported.tolerances.to_dict(),
        session={"options": SessionOptions(threads=settings.latency.threads).to_dict()},
        rewrites=[rewrite.to_dict() for rewrite in file.rewrites],
        cost=compute_roofline(measurements.latency, models).to_dict(),
        models={of.model.name: of.to_dict() for of in outcome.derived},
        encoding=encoding,
        license=settings.export.license,
        provenance=provenance(
            command=origin.command,
            model=origin.model_file,
            data=origin.data_file,
            seeds={"compression": settings.seed, **origin.seeds},
            baseline=origin.baseline,
        ),
        change={} if measurements.change is None else measurements.change.to_dict(),
        changes={name: change.to_dict() for name, change in measurements.changes.items()},
        trials=[dict(trial) for trial in trials],
        quality={} if measurements.quality is None else measurements.quality.to_dict(),
        breakdown={} if measurements.breakdown is None else measurements.breakdown.to_dict(),
        notes=list(notes),
        quantization={} if exported.quantization is None else exported.quantization.to_dict(),
    )


def find_meanings(outcome: Outcome, task: Task, labels: Mapping[str, LabelValues]) -> dict[str, OutputMeaning]:
    """Return the meaning of each output; `labels` are those of the dense model, for a task without labels."""
    objective = task.objective
    if labels and not objective.output_labels:
        objective = make_objective(outcome.pruned.program, tuple(labels), labels)
    return {
        output.name: OutputMeaning(objective.output_kinds.get(output.name), objective.output_labels.get(output.name))
        for output in outcome.exported.pruned.signature.outputs
    }


def list_metrics(task: Task) -> list[str]:
    """Return the names of the measured metrics, the deciding one first; empty without labels."""
    return [m.name for m in task.evaluator.metrics] if isinstance(task, LabeledRows | NextItems) else []


def summarize_latency(measurements: Measurements) -> dict[str, Any]:
    """Return the section on latency, with the speed-up of the headline."""
    latency = measurements.latency.to_dict()
    speedup = find_speedup(latency)
    headline = {} if speedup is None else {"speedup": speedup.to_dict()}
    footprints = {} if measurements.footprints is None else {"footprint": measurements.footprints.to_dict()}
    return {**latency, **headline, **footprints}


def get_sizes(task: Task) -> SplitSizes | None:
    """Return the numbers of rows of a task for training, validation and testing; None if it has no rows."""
    return task.data.sizes if isinstance(task, LabeledRows | NextItems) else None


def summarize_stages(pruned: PrunedModel, metric: str) -> dict[str, Any]:
    """Return the summary of the first stage, with that of the next under `then`; `metric` is that of the validation."""
    summary: dict[str, Any] = {}
    for number, stage in reversed(list(enumerate(pruned.stages))):
        regularized = pruned.regularized if number == 0 else None
        stage_summary = plan_summary(
            stage.plan, stage.analysis, stage.soundness, stage.fitted, regularized, metric=metric
        )
        summary = {**stage_summary, "then": summary} if summary else stage_summary
    return summary


def describe_omissions(latency: LatencySettings) -> tuple[str, ...]:
    """Return a sentence on the measurements and pages that a quick run leaves out; nothing for other runs.

    >>> describe_omissions(LatencySettings((1, 256), quick=True))[0][:77]
    '--quick left out latency at batch size 1, cold caches, cold starts, and the r'
    """
    if not latency.quick:
        return ()
    measured = choose_measured_batches(latency)
    others = [str(batch) for batch in latency.latency_batch_sizes if batch not in measured]
    sizes = f"latency at batch size{'s' if len(others) > 1 else ''} {', '.join(others)}, " if others else ""
    return (
        f"--quick left out {sizes}cold caches, cold starts, and the report page: `recprune-export verify BUNDLE --latency` "
        "measures the latency, and `recprune-export report BUNDLE` writes the page.",
    )


def collect_notes(outcome: Outcome, pruning: PruningSettings, task: Task) -> tuple[str, ...]:
    """Return sentences on results that the user may not expect."""
    pruned, exported, reduction = outcome.pruned, outcome.exported, outcome.measurements.reduction
    notes = list(outcome.measurements.warnings)
    notes += task.notes if isinstance(task, LabeledRows) else ()
    notes += task.metric_notes if isinstance(task, NextItems) else ()
    if isinstance(task, SampledRequests):
        notes.append(task.note)
    if pruned.regularized is not None:
        zero = sum(pruned.regularized.zero_channels.values())
        channels = sum(g.width for g in pruned.regularized.program.analysis.groups)
        notes.append(
            f"Regularized training left {zero} of {channels} channels with zero weights before any channel was removed."
        )
    fitted = pruned.stages[-1].fitted
    if fitted is not None and fitted.best < 0:
        notes.append("Fine-tuning did not improve the validation metric; the weights before it were kept.")
    dense = outcome.measurements.counts["dense"]
    sparsities = (
        ("tables", dense.tables, pruning.table_sparsity, reduction.tables),
        ("rest", dense.rest, pruning.rest_sparsity, reduction.rest),
    )
    storage = pruned.plan.stages[-1].storage
    if storage is not None and exported.pruned.bytes > storage.max_bytes:
        notes.append(
            f"The file has {exported.pruned.bytes:,} bytes, {exported.pruned.bytes - storage.max_bytes:,} more than --max-bytes of the "
            "plan: its bits were chosen for the graph of other weights."
        )
    for section, counts, target, reached in sparsities if storage is None else ():
        if counts.parameters and reached < target - 1e-9:
            target_text, reached_text = format_distinctly(target, reached)
            notes.append(
                f"The target was to remove or zero {target_text} of the parameters of the {section}; {reached_text} was reached."
            )
    for output in exported.parity.outputs:
        if output.not_finite:
            notes.append(
                f"The dense model itself returns NaN or infinity in {output.not_finite} numbers of '{output.name}' for unusual "
                "requests, such as empty histories; the artifact does the same."
            )
    if pruning.prune_rows is not None and not pruned.plan.rows:
        notes.append("No table has enough rare ids for a shared row to make the file smaller, so all rows were kept.")
    analysis = pruned.stages[0].analysis
    frozen = sum(axis.count for axis in analysis.frozen if "returns" not in axis.reason.text)
    if frozen and not analysis.groups:
        notes.append("No channel could be removed; weights were only set to zero.")
    return (*notes, *(() if exported.quantization is None else exported.quantization.notes()))


def format_distinctly(one: float, other: float) -> tuple[str, str]:
    """Return two different fractions as percentages with as many digits as show that they differ.

    >>> format_distinctly(0.7, 0.62)
    ('70.0%', '62.0%')
    >>> format_distinctly(0.7, 0.69999)
    ('70.000%', '69.999%')
    """
    pairs = ((f"{one:.{digits}%}", f"{other:.{digits}%}") for digits in range(1, 8))
    return next((pair for pair in pairs if pair[0] != pair[1]), (str(one), str(other)))
