"""`make_drift_report`: whether the plan of a bundle holds on new rows; `recompress`: compress again where it does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from recprune_export.api import compress_loaded, data_name
from recprune_export.bundle.archive.unpacking import open_bundle_path
from recprune_export.codec import JsonForm, ToDictMixin, json_name
from recprune_export.data.distribution.data_profile import Drift
from recprune_export.errors import UsageError, ValidationFailed
from recprune_export.finetuning.task import run_program
from recprune_export.pipeline.build_manifest import InputSources
from recprune_export.pipeline.compress import CompressionResult
from recprune_export.provenance import file_identity
from recprune_export.refresh import plan_check
from recprune_export.refresh.dense import DenseModel, MissingModel, find_dense
from recprune_export.refresh.drift import judge_drift
from recprune_export.refresh.metric_change import MetricComparison, compare_metrics, judge_gap, judge_metric
from recprune_export.refresh.new_rows import NewRows, read_new_rows
from recprune_export.refresh.open_bundle import OpenBundle, open_bundle
from recprune_export.refresh.plan_regret import GroupRegret
from recprune_export.refresh.verdicts import DriftFinding
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

MAX_DROP, MAX_FALL = 0.002, 0.01


@dataclass(frozen=True)
class DriftReport(ToDictMixin):
    """Quality, drift and regret of a bundle on new rows, with a finding for each measure."""

    ENCODED = ("bundle", "data", "holds", "notes", "findings", "quality", "drifts", "regrets")

    bundle: Annotated[OpenBundle, JsonForm(lambda bundle: str(bundle.path))]
    data: Path
    rows: NewRows
    reading: DataSettings
    dense: DenseModel | MissingModel
    quality: MetricComparison
    findings: tuple[DriftFinding, ...]
    drifts: tuple[Drift, ...] = field(metadata=json_name("drift"))
    regrets: tuple[GroupRegret, ...] = field(metadata=json_name("ranking"))

    @property
    def holds(self) -> bool:
        """Whether the plan holds by every measure that could be judged."""
        return all(finding.holds is not False for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The verdict in a sentence."""
        against = [finding.measure for finding in self.findings if finding.holds is False]
        if not against:
            return f"{self.bundle.path} holds on {self.data}."
        return f"{self.bundle.path} does not hold on {self.data}: {', '.join(against)}."

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on circumstances that the user may not expect."""
        dense_note = (self.dense.note,) if isinstance(self.dense, DenseModel) and self.dense.note else ()
        return (*dense_note, *self.rows.notes)

    def raise_verdict(self) -> None:
        """Raise `ValidationFailed` where the plan does not hold."""
        if not self.holds:
            raise ValidationFailed(f"{self.verdict} Without --check-only it is compressed again.")


def make_drift_report(
    bundle: Path,
    data: Path,
    *,
    labels: Sequence[str] = (),
    model: Path | None = None,
    source: Mapping[str, Any] | None = None,
    max_drop: float = MAX_DROP,
    max_fall: float = MAX_FALL,
    reading: DataSettings = DEFAULT_DATA_SETTINGS,
) -> DriftReport:
    """Measure the artifact of `bundle`, packed or not, on `data`, and say whether its plan still holds.

    - `model`: the dense model, where the one that the manifest names is not there; opened with the keywords in `source`.
    - `max_drop`: of the metric, by which the artifact may have come to lie further below the dense model.
    - `max_fall`: of the metric, by which the artifact may have become worse than it was.
    - `reading`: how the rows are read.

    Raises `BundleError`, `DataError`, `UsageError` for labels that are missing, or where there is nothing to judge by, and
    the errors of `load_program` for `model`.
    """
    with open_bundle_path(bundle) as folder:
        opened = open_bundle(bundle, folder)
        settings = opened.settings
        dense = find_dense(opened, model, source or {})
        rows = read_new_rows(
            data,
            opened.program,
            opened.encoder,
            opened.labels(tuple(labels)),
            settings.finetuning,
            settings.seed,
            reading,
        )
        quality = _measure(opened, dense, rows)
    drift, drifts = judge_drift(opened.profile, rows.columns)
    ranking, regrets = _judge_plan(opened, dense, rows, data, reading)
    tested = opened.profile.tested if opened.profile else None
    findings = (judge_metric(quality, tested, max_fall), judge_gap(quality, max_drop), drift, ranking)
    if all(finding.holds is None for finding in findings):
        raise UsageError(
            f"{bundle} holds nothing that new rows could be compared with: give the dense model with --model."
        )
    return DriftReport(opened, data, rows, reading, dense, quality, findings, drifts, regrets)


def recompress(report: DriftReport, target: Path, command: Sequence[str] = ()) -> CompressionResult:
    """Compress the dense model again on the new rows, with the settings of the bundle; write it to `target`.

    Raises `UsageError` where there is no dense model, and the errors of `compress`.
    """
    if isinstance(report.dense, MissingModel):
        raise UsageError(f"The bundle cannot be compressed again. {report.dense.reason}")
    return compress_loaded(
        report.dense.loaded,
        _read_rows_for_dense(report.dense, report.bundle, report.rows, report.data, report.reading).task,
        target,
        report.bundle.settings,
        InputSources(
            command,
            model_name=Path(report.dense.file["path"]).name,
            model_file=report.dense.file,
            data_name=data_name(report.data),
            data_file=file_identity(report.data),
        ),
    )


def _judge_plan(
    opened: OpenBundle, dense: DenseModel | MissingModel, rows: NewRows, data: Path, reading: DataSettings
) -> tuple[DriftFinding, tuple[GroupRegret, ...]]:
    if isinstance(dense, MissingModel):
        return DriftFinding(plan_check.MEASURE, None, dense.reason), ()
    task = _read_rows_for_dense(dense, opened, rows, data, reading).task
    regularized = bool(opened.settings.finetuning.regularize)
    return plan_check.judge_plan(
        dense.loaded.program, opened.plan, task, regularized=regularized, seed=opened.settings.seed
    )


def _measure(opened: OpenBundle, dense: DenseModel | MissingModel, rows: NewRows) -> MetricComparison:
    answers = opened.dense
    if answers is None and isinstance(dense, DenseModel):
        program = dense.loaded.program
        return compare_metrics(
            opened.artifact,
            lambda r: run_program(program, r),
            rows.evaluation_task,
            rows.count,
            opened.manifest.metrics,
        )
    return compare_metrics(opened.artifact, answers, rows.evaluation_task, rows.count, opened.manifest.metrics)


def _read_rows_for_dense(
    dense: DenseModel, opened: OpenBundle, rows: NewRows, data: Path, reading: DataSettings
) -> NewRows:
    """Return the rows as the dense model takes them: a successor may have another encoding."""
    checkpoint, settings = dense.loaded.checkpoint, opened.settings
    if checkpoint is None or opened.encoder is None or checkpoint.encoder.to_dict() == opened.encoder.to_dict():
        return rows
    return read_new_rows(
        data,
        dense.loaded.program,
        checkpoint.encoder,
        checkpoint.spec.labels,
        settings.finetuning,
        settings.seed,
        reading,
    )
