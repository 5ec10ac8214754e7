"""`reapply`: the plan of a bundle on new weights of the same model, written as a bundle, with a verdict on the plan."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from recprune_export.api import compress_loaded, data_name, load_model, make_task
from recprune_export.bundle.archive.manifest_signature import read_private_key
from recprune_export.bundle.archive.unpacking import open_bundle_path
from recprune_export.bundle.manifest.manifest import CALIBRATION
from recprune_export.bundle.write import stage_bundle
from recprune_export.codec import JsonForm, ToDictMixin, json_name
from recprune_export.data.array_checks import check_input_array
from recprune_export.data.data_identity import identify_data
from recprune_export.data.labels import LabelValues
from recprune_export.data.npz import read_npz
from recprune_export.data.rows import Rows
from recprune_export.data.streaming.data_files import DataFile
from recprune_export.distributed.main_process import call_on_main, enter_on_main
from recprune_export.errors import DataError, ModelError, PruningError, Undecided, UsageError, ValidationFailed
from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.finetuning.kept_requests import KeptRequests
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.task import SampledRequests, Task
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.pipeline.build_manifest import InputSources, SearchRecord
from recprune_export.pipeline.choose_input_rules import with_input_rules
from recprune_export.pipeline.compress import CompressionResult, make_sampled_task
from recprune_export.pipeline.given_plan import GivenPlan
from recprune_export.pipeline.infer_missing_rules import infer_missing_rules
from recprune_export.pipeline.planning import make_budget, make_score_inputs, remove_fields_and_rows
from recprune_export.program.failures import REPORT, explain_failures
from recprune_export.program.loading._load_program import LoadedModel
from recprune_export.program.program import Program
from recprune_export.program.requests.row_specs import make_array_spec
from recprune_export.progress import show_status
from recprune_export.provenance import file_identity
from recprune_export.pruning.allocation.group_plans import renew_plan
from recprune_export.pruning.importance.scores.registry import rank_channels
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.quantization.quantization_plan import QuantizationPlan
from recprune_export.reapply.describe_difference import compare_architectures, compare_signatures
from recprune_export.reapply.judge_widths import judge_widths
from recprune_export.refresh.drift_report import MAX_DROP
from recprune_export.refresh.metric_change import MetricComparison, judge_gap
from recprune_export.refresh.new_rows import override_row_settings
from recprune_export.refresh.open_bundle import OpenBundle, open_bundle
from recprune_export.refresh.verdicts import HOLDS, DriftFinding
from recprune_export.settings import DEFAULT_ROW_SETTINGS, RowSettings, Settings

KEPT_ROWS_BYTES = 1 << 30  # the largest size of the unpacked file of kept rows


@dataclass(frozen=True)
class ReappliedPlan(ToDictMixin):
    """The new bundle, and whether the plan of `baseline` still holds for its weights.

    `undecided` is the verdict that counts for inconclusive claims.
    """

    ENCODED = ("baseline", "target", "verdict", "sentence", "findings", "check")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"target": "output"}

    baseline: Annotated[Path, JsonForm(str)] = field(metadata=json_name("bundle"))
    result: CompressionResult
    findings: tuple[DriftFinding, ...] = field(metadata=json_name("measures"))
    undecided: Verdict = Verdict.UNDECIDED

    @property
    def target(self) -> str:
        """The folder of the new bundle."""
        return str(self.result.target)

    @property
    def verdict(self) -> Verdict:
        """The verdict on all measures that could be judged; `SKIPPED` if there is none."""
        verdicts = {finding.verdict for finding in self.findings}
        return Verdict.SKIPPED if verdicts == {Verdict.SKIPPED} else combine_verdicts(verdicts, self.undecided)

    @property
    def holds(self) -> bool | None:
        """Whether the plan holds; None if this is inconclusive or was not judged."""
        return HOLDS.get(self.verdict)

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, with the measures that failed or are inconclusive."""
        plan = f"plan of {self.baseline}"
        failed, open_measures = (
            ", ".join(finding.measure for finding in self.findings if finding.verdict is verdict)
            for verdict in (Verdict.FAILS, Verdict.UNDECIDED)
        )
        if self.verdict is Verdict.UNDECIDED:
            return f"Whether the {plan} holds for the new weights cannot be told: {open_measures}."
        if self.verdict is Verdict.SKIPPED:
            return f"Whether the {plan} holds for the new weights was not judged: give --data with labels."
        told = f" Cannot be told: {open_measures}." if open_measures else ""
        if self.verdict is Verdict.HOLDS:
            return f"The {plan} holds for the new weights.{told}"
        return f"The {plan} does not hold for the new weights: {failed or 'as --undecided says'}.{told}"

    @property
    def check(self) -> str:
        """The command that compares both bundles."""
        return shlex.join(["recprune-export", "check", self.target, "--against", str(self.baseline)])

    def raise_verdict(self) -> None:
        """Raise `ValidationFailed` if the plan does not hold, and `Undecided` if this is inconclusive."""
        if self.verdict is Verdict.FAILS:
            raise ValidationFailed(
                f"{self.sentence} {self.target} was written; compress the new model to plan it anew."
            )
        if self.verdict is Verdict.UNDECIDED:
            raise Undecided(
                f"{self.sentence} {self.target} was written. Give more rows, a larger --max-drop, or --undecided pass or fail."
            )


@explain_failures("The job", ModelError, REPORT)
def reapply(
    bundle: Path,
    model: Path,
    target: Path,
    *,
    data: DataFile | None = None,
    labels: Sequence[str] = (),
    source: Mapping[str, Any] | None = None,
    row_settings: RowSettings = DEFAULT_ROW_SETTINGS,
    epochs: int = 0,
    quick: bool = True,
    max_drop: float = MAX_DROP,
    undecided: Verdict = Verdict.UNDECIDED,
    sign: Path | None = None,
    command: Sequence[str] = (),
) -> ReappliedPlan:
    """Apply the plan of `bundle`, packed or not, to `model`, new weights of the same model, and write a bundle to `target`.

    Fields, rows, widths and bits are those of the plan; the functions of the main job choose channels, rotations, zeros and scales again
    for the new weights. Statistics come from `data`, or from the rows that the bundle keeps (`calibration_rows`), or, for a bundle that
    was made without rows, from sampled requests.

    - `source`: the keywords of `load_program` for `model`.
    - `row_settings`: how rows are read and split, if this differs from the rows of the bundle.
    - `epochs`: the epochs of fine-tuning, 0 by default. `quick`: as in `LatencySettings`.
    - `max_drop`: how much more of the metric the new artifact may lose against its dense model than the old one.
    - `undecided`: the verdict that counts for inconclusive claims.

    Raises `UsageError` if the architecture of the model differs, if there are no rows for the statistics, or if the plan has several
    stages; `BundleError`, the errors of `load_program` for `model`, and those of `compress`.
    """
    signer = None if sign is None else read_private_key(sign)
    if target.resolve() == bundle.resolve():
        raise UsageError(f"{bundle} is the baseline of `check`: write the new bundle to another folder with -o.")
    with open_bundle_path(bundle) as folder, enter_on_main(partial(stage_bundle, target), target) as target:
        opened = open_bundle(bundle, folder)
        plan = _require_one_stage(opened)
        recorded = opened.settings if data is None else override_row_settings(opened.settings, data, row_settings)
        settings = _make_settings(recorded, epochs=epochs, quick=quick, has_rows=data is not None)
        with show_status("Opening the model"):
            loaded = load_model(model, None, source or {}, settings.export)
            _refuse(opened, model, compare_signatures(opened.program.signature, loaded.program.signature))
        with show_status("Reading rows"):
            task = _make_task(opened, loaded, data, labels, settings)
            loaded = infer_missing_rules(loaded, task, settings)
        with show_status("Choosing channels"):
            program = with_input_rules(loaded.program, task, settings.export.bad_ids)
            projected = _project(opened, plan, program, task, model)
            renewed, finding = _renew_plan(opened, plan, projected, task)
        origin = InputSources(
            command,
            model_name=model.name,
            model_file=file_identity(model),
            data_name=data_name(data),
            data_file=None if data is None else identify_data(data),
            baseline={"name": opened.manifest.name, "checksum": opened.manifest.checksum},
        )
        result = compress_loaded(
            loaded, task, target, settings, origin,
            plan=GivenPlan(renewed, projected, _read_forms(opened)), sign=signer, search=SearchRecord(recorded), notes=_make_notes(opened),
        )  # fmt: skip
    return ReappliedPlan(bundle, result, (*_judge_quality(opened, result, max_drop), finding), undecided)


def _require_one_stage(opened: OpenBundle) -> Plan:
    """Return the plan. Raises `UsageError` for several stages, because later stages were planned for weights that were tuned in
    between."""
    first, *later = opened.plan.stages
    if later:
        raise UsageError(
            f"The plan of {opened.path} has {1 + len(later)} stages, each made for weights that were tuned after the one before: compress "
            "the new model with the same options instead."
        )
    return first


def _make_settings(settings: Settings, *, epochs: int, quick: bool, has_rows: bool) -> Settings:
    """Return the settings of a bundle for a job with its plan: without a search, and without options that the plan replaces."""
    planned = {"prune_fields": 0, "prune_rows": None, "max_bytes": None, "max_microseconds": None, "regularize": 0.0}
    searches = ("max_drop", "target_speedup", "target_latency", "target_batch_sizes", "undecided")
    evaluated = {} if has_rows else {"metrics": (), "group": None}
    return settings.with_options(**planned, **dict.fromkeys(searches), **evaluated, epochs=epochs, quick=quick)


def _make_notes(opened: OpenBundle) -> tuple[str, ...]:
    """Return sentences about the plan, and about parts of the job that were left out."""
    note = f"The plan is that of {opened.manifest.name}: its widths and bits, on new weights."
    if not opened.settings.finetuning.regularize:
        return (note,)
    return note, "The plan was made after a training with --regularize; the new weights were taken as they are."


def _project(opened: OpenBundle, plan: Plan, program: Program, task: Task, model: Path) -> Program:
    """Return the new model in the form for which the plan was made. Raises `UsageError` if it has another architecture."""
    try:
        smaller = remove_fields_and_rows(program, plan, task, opened.settings.seed)
        projected = insert_projections(smaller, plan.projection_plan)
    except PruningError as error:
        _refuse(opened, model, str(error).rstrip("."))
        raise
    _refuse(opened, model, compare_architectures(opened.program, plan, projected))
    return projected


def _refuse(opened: OpenBundle, model: Path, difference: str | None) -> None:
    """Raise `UsageError` because the new model differs from that of the bundle."""
    if difference is not None:
        raise UsageError(
            f"{model} is another model than that of {opened.path}: {difference}. A plan belongs to one architecture: compress the new "
            "model instead."
        )


def _make_task(
    opened: OpenBundle, loaded: LoadedModel, data: DataFile | None, labels: Sequence[str], settings: Settings
) -> Task:
    """Return the rows for the statistics. Raises `UsageError` if there are none, or if those of the bundle do not suffice."""
    if data is not None:
        names = tuple(labels) if loaded.checkpoint is not None else opened.labels(tuple(labels))
        return make_task(loaded, data, names, settings)
    sampled = make_sampled_task(loaded.program, settings.finetuning, settings.evaluation)
    if opened.manifest.settings.get("data") is None and CALIBRATION not in opened.manifest.files:
        return sampled
    return _read_kept_rows(opened, loaded, sampled)


def _read_kept_rows(opened: OpenBundle, loaded: LoadedModel, sampled: SampledRequests) -> KeptRequests:
    if CALIBRATION not in opened.manifest.files:
        raise UsageError(
            f"{opened.path} keeps no rows from which the statistics of new weights could be computed: give --data, or make bundles with "
            "--calibration-rows 4096."
        )
    if opened.plan.rows:
        raise UsageError(
            f"The plan of {opened.path} lets rare ids share a row, the mean by how often each occurs: give --data, since the rows that it "
            "keeps are too few to count ids."
        )
    checkpoint = loaded.checkpoint
    if (
        checkpoint is not None
        and opened.encoder is not None
        and checkpoint.encoder.to_dict() != opened.encoder.to_dict()
    ):
        raise UsageError(
            f"The new model encodes values in another way than that of {opened.path}, whose rows are encoded already: give --data."
        )
    # the curvature of the loss depends on the kinds of the labels, although no labels are kept
    recorded = opened.label_kinds
    values = {label: LabelValues(fixed=kind) for label, kind in recorded.items()}
    return KeptRequests(
        sampled.teacher,
        make_objective(loaded.program, tuple(recorded), values),
        sampled.config,
        kept=_check_kept_rows(opened, loaded),
        rules=opened.program.signature,
        seed=opened.settings.seed,
    )


def _check_kept_rows(opened: OpenBundle, loaded: LoadedModel) -> Rows:
    """Return the rows of the bundle. Raises `DataError` if they do not fit the inputs."""
    path = opened.folder / CALIBRATION
    arrays = read_npz(path, KEPT_ROWS_BYTES)
    specs = [make_array_spec(i, i.ids) for i in loaded.program.signature.inputs]
    if arrays.keys() != {spec.name for spec in specs} or len({len(values) for values in arrays.values()}) != 1:
        raise DataError(f"{path} does not hold a row of each input: export the bundle again.")
    return Rows({spec.name: check_input_array(str(path), spec, arrays[spec.name]) for spec in specs}, {})


def _renew_plan(opened: OpenBundle, plan: Plan, projected: Program, task: Task) -> tuple[Plan, DriftFinding]:
    """Return the plan for the new weights, and the measure of whether other widths would lose less."""
    inputs = make_score_inputs(projected, task, opened.settings.seed)
    rankings = rank_channels(plan.score, inputs)
    finding = judge_widths(plan, rankings, inputs, make_budget(opened.settings.pruning))
    # Processes may run on different processors, which round differently.
    return call_on_main(partial(renew_plan, plan, projected, rankings)), finding


def _read_forms(opened: OpenBundle) -> QuantizationPlan | None:
    """Return the forms of the quantized weights of a bundle; None if it has none."""
    section = opened.manifest.quantization
    return QuantizationPlan.from_dict(section) if section else None


def _judge_quality(opened: OpenBundle, result: CompressionResult, max_drop: float) -> tuple[DriftFinding, ...]:
    """Compare the loss of the new artifact against its dense model with that of the old artifact; return nothing without labels."""
    if not result.manifest.change:
        return ()
    change = MetricChange.from_dict(result.manifest.change)
    recorded = opened.manifest.changes.get(change.metric)
    before = None if recorded is None else MetricChange.from_dict(recorded)
    comparison = MetricComparison(opened.manifest.metrics, result.metrics, change, change.rows, before)
    return (judge_gap(comparison, max_drop),)
