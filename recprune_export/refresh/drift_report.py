"""`make_drift_report`: check whether the plan of a bundle is valid for new rows; `recompress`: compress again if it is not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from recprune_export.api import compress_loaded, data_name
from recprune_export.bundle.archive.unpacking import open_bundle_path
from recprune_export.codec import JsonForm, ToDictMixin, json_name
from recprune_export.data.data_identity import identify_data
from recprune_export.data.distribution.data_profile import Drift
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.errors import Undecided, UsageError, ValidationFailed
from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.finetuning.task import LabeledRows, run_program
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.pipeline.build_manifest import InputSources
from recprune_export.pipeline.compress import CompressionResult
from recprune_export.pipeline.infer_missing_rules import infer_missing_rules
from recprune_export.progress import show_status
from recprune_export.refresh import plan_check
from recprune_export.refresh.dense import DenseModel, MissingModel, find_dense
from recprune_export.refresh.drift import judge_drift
from recprune_export.refresh.metric_change import MetricComparison, compare_metrics, judge_gap, judge_metric
from recprune_export.refresh.new_rows import NewRows, override_row_settings, read_new_rows
from recprune_export.refresh.open_bundle import OpenBundle, open_bundle
from recprune_export.refresh.plan_regret import GroupRegret
from recprune_export.refresh.verdicts import HOLDS, DriftFinding
from recprune_export.settings import DEFAULT_EVALUATION_SETTINGS, DEFAULT_ROW_SETTINGS, EvaluationSettings, RowSettings

MAX_DROP, MAX_FALL = 0.002, 0.01


@dataclass(frozen=True)
class DriftReport(ToDictMixin):
    """Quality, drift and regret of a bundle on new rows, with a finding for each measure.

    `undecided` is the verdict to use for inconclusive claims.
    """

    ENCODED = ("bundle", "data", "verdict", "sentence", "notes", "findings", "quality", "drifts", "regrets")

    bundle: Annotated[OpenBundle, JsonForm(lambda bundle: str(bundle.path))]
    data: DataFile
    rows: NewRows
    dense: DenseModel | MissingModel
    quality: MetricComparison
    findings: tuple[DriftFinding, ...] = field(metadata=json_name("measures"))
    drifts: tuple[Drift, ...] = field(metadata=json_name("drift"))
    regrets: tuple[GroupRegret, ...] = field(metadata=json_name("ranking"))

    undecided: Verdict = Verdict.UNDECIDED

    @property
    def verdict(self) -> Verdict:
        """The verdict on all measures that could be judged."""
        return combine_verdicts((finding.verdict for finding in self.findings), self.undecided)

    @property
    def holds(self) -> bool | None:
        """Whether the plan is still valid; None if that is inconclusive."""
        return HOLDS.get(self.verdict)

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, with the measures that failed or are inconclusive."""
        failed, undecided = (
            ", ".join(finding.measure for finding in self.findings if finding.verdict is verdict)
            for verdict in (Verdict.FAILS, Verdict.UNDECIDED)
        )
        inconclusive = f" Inconclusive: {undecided}." if undecided else ""
        if failed:
            return f"The plan of {self.bundle.path} is not valid for {self.data}: {failed}.{inconclusive}"
        if not undecided:
            return f"The plan of {self.bundle.path} is valid for {self.data}."
        if self.undecided is Verdict.UNDECIDED:
            return f"The check of {self.bundle.path} on {self.data} is inconclusive: {undecided}."
        result = "valid" if self.undecided is Verdict.HOLDS else "not valid"
        return f"The plan of {self.bundle.path} is {result} for {self.data} because of --undecided.{inconclusive}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on circumstances that the user may not expect."""
        task = self.rows.task
        dense = (self.dense.note,) if isinstance(self.dense, DenseModel) and self.dense.note else ()
        notes = task.notes if isinstance(task, LabeledRows) else ()
        loaded = self.dense.loaded.program.notes if isinstance(self.dense, DenseModel) else ()
        return (*dense, *loaded, *dict.fromkeys((*self.rows.notes, *notes, *self.rows.evaluation_task.metric_notes)))

    def raise_verdict(self) -> None:
        """Raise `ValidationFailed` if the plan is not valid, and `Undecided` if that is inconclusive."""
        if self.verdict is Verdict.FAILS:
            raise ValidationFailed(f"{self.sentence} Run the command without --check-only to compress the model again.")
        if self.verdict is Verdict.UNDECIDED:
            raise Undecided(f"{self.sentence} Give more rows, larger limits, or --undecided pass or fail.")


def make_drift_report(
    bundle: Path,
    data: DataFile,
    *,
    labels: Sequence[str] = (),
    model: Path | None = None,
    source: Mapping[str, Any] | None = None,
    max_drop: float = MAX_DROP,
    max_fall: float = MAX_FALL,
    undecided: Verdict = Verdict.UNDECIDED,
    row_settings: RowSettings = DEFAULT_ROW_SETTINGS,
    evaluation: EvaluationSettings = DEFAULT_EVALUATION_SETTINGS,
) -> DriftReport:
    """Measure the artifact of `bundle`, packed or not, on `data`, and judge whether its plan is still valid.

    - `model`: the dense model, if the model in the manifest does not exist; loaded with the keyword arguments in `source`.
    - `max_drop`: the largest allowed additional drop of the metric compared with the dense model.
    - `max_fall`: the largest allowed drop of the metric compared with its recorded value.
    - `undecided`: the verdict to use for claims that are inconclusive with these rows.
    - `row_settings`: how rows are read and split, if that differs from the rows of the bundle.
    - `evaluation`: the metrics, of which the first is judged, if they differ from those of the bundle.

    Raises `BundleError`, `DataError`, `UsageError` for missing labels, or if there is nothing to compare, and
    the errors of `load_program` for `model`.
    """
    with open_bundle_path(bundle) as folder:
        with show_status("Opening the bundle and the dense model"):
            opened = open_bundle(bundle, folder)
            settings = override_row_settings(opened.settings, data, row_settings, evaluation)
            opened = replace(opened, settings=settings)
            dense = find_dense(opened, model, source or {})
        with show_status("Reading rows"):
            rows = read_new_rows(
                data, opened.program, opened.encoder, opened.labels(tuple(labels)), settings, opened.label_kinds,
            )  # fmt: skip
        if isinstance(dense, DenseModel):
            dense = replace(dense, loaded=infer_missing_rules(dense.loaded, rows.task, settings))
        with show_status("Measuring quality"):
            quality = _measure(opened, dense, rows, data)
    with show_status("Measuring drift"):
        drift, drifts = judge_drift(opened.profile, rows.columns)
    with show_status("Ranking channels"):
        ranking, regrets = _judge_plan(opened, dense, rows, data)
    findings = (judge_metric(quality, max_fall), judge_gap(quality, max_drop), drift, ranking)
    if all(finding.verdict is Verdict.SKIPPED for finding in findings):
        raise UsageError(f"{bundle} contains nothing to compare new rows with: give the dense model with --model.")
    return DriftReport(opened, data, rows, dense, quality, findings, drifts, regrets, undecided)


def recompress(report: DriftReport, target: Path, command: Sequence[str] = ()) -> CompressionResult:
    """Compress the dense model again on the new rows, with the settings of the bundle; write it to `target`.

    Raises `UsageError` if there is no dense model, and the errors of `compress`.
    """
    if isinstance(report.dense, MissingModel):
        raise UsageError(f"The bundle cannot be compressed again. {report.dense.reason}")
    return compress_loaded(
        report.dense.loaded,
        _read_rows_for_dense(report.dense, report.bundle, report.rows, report.data).task,
        target,
        report.bundle.settings,
        InputSources(
            command,
            model_name=Path(report.dense.file["path"]).name,
            model_file=report.dense.file,
            data_name=data_name(report.data),
            data_file=identify_data(report.data),
        ),
    )


def _judge_plan(
    opened: OpenBundle, dense: DenseModel | MissingModel, rows: NewRows, data: DataFile
) -> tuple[DriftFinding, tuple[GroupRegret, ...]]:
    if isinstance(dense, MissingModel):
        return DriftFinding(plan_check.MEASURE, Verdict.SKIPPED, dense.reason), ()
    task = _read_rows_for_dense(dense, opened, rows, data).task
    regularized = bool(opened.settings.finetuning.regularize)
    return plan_check.judge_plan(
        dense.loaded.program, opened.plan, task, regularized=regularized, seed=opened.settings.seed
    )


def _measure(opened: OpenBundle, dense: DenseModel | MissingModel, rows: NewRows, data: DataFile) -> MetricComparison:
    answers = opened.dense
    if answers is None and isinstance(dense, DenseModel):
        answers = partial(run_program, dense.loaded.program)
    manifest = opened.manifest
    sections = [*manifest.changes.values(), *([manifest.change] if manifest.change else [])]
    identity = identify_data(data)
    recorded_file = (manifest.provenance or {}).get("data") or {}
    return compare_metrics(
        opened.artifact,
        answers,
        rows.evaluation_task,
        rows.count,
        manifest.metrics,
        recorded_changes={section["metric"]: MetricChange.from_dict(section) for section in sections},
        is_same_file=identity is not None and recorded_file.get("sha256") == identity["sha256"],
    )


def _read_rows_for_dense(dense: DenseModel, opened: OpenBundle, rows: NewRows, data: DataFile) -> NewRows:
    """Return the rows in the form of the dense model's inputs: a successor may have another encoding."""
    checkpoint, settings = dense.loaded.checkpoint, opened.settings
    if checkpoint is None or opened.encoder is None or checkpoint.encoder.to_dict() == opened.encoder.to_dict():
        return rows
    return read_new_rows(
        data, dense.loaded.program, checkpoint.encoder, checkpoint.spec.labels, settings,
    )  # fmt: skip
