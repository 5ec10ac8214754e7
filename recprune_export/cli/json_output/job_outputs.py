"""Outputs of the commands that train, prune and judge: `train`, `compress`, `sweep` and `refresh`."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.bundle.manifest.manifest_sections import (
    CLOSED,
    Amount,
    AtLeastOne,
    ColumnSummarySection,
    Count,
)
from recprune_export.cli.json_output.bundle_outputs import FrozenAxisEntry, ParameterCountsEntry
from recprune_export.cli.json_output.common_keys import (
    Bundle,
    Bytes,
    GroupLabel,
    Metrics,
    Notes,
    Number,
    NumberInterval,
    Output,
    OverallVerdict,
    Rows,
    ShardOfWork,
    Verdict,
)

BundleManifest = Annotated[Manifest, Field(description="the manifest of the bundle that was written")]


@with_config(CLOSED)
class CompressOutput(TypedDict):
    """The bundle that the main job wrote."""

    output: Output
    manifest: BundleManifest


@with_config(CLOSED)
class GroupPreviewEntry(TypedDict):
    """A channel group before and after."""

    group: str
    label: GroupLabel
    kind: str
    width: Annotated[AtLeastOne, Field(description="channels of the dense model")]
    kept: Annotated[Count | None, Field(description="channels that would be kept; null where a search decides")]


@with_config(CLOSED)
class DryRunOutput(TypedDict):
    """With --dry-run: the plan; null for all that a search decides."""

    target: Annotated[str, Field(description="the bundle that the job would write")]
    widths: list[GroupPreviewEntry]
    frozen: list[FrozenAxisEntry]
    dense: Annotated[ParameterCountsEntry, Field(description="parameters of the dense model")]
    dense_bytes: Annotated[Count, Field(description="of its weights")]
    pruned: Annotated[ParameterCountsEntry | None, Field(description="parameters that would be left")]
    zeroed: Annotated[Count | None, Field(description="of these, parameters that would be set to zero")]
    pruned_bytes: Annotated[
        Count | None, Field(description="of the weights that would be left; with --max-bytes, of the file")
    ]
    removed_fields: Annotated[list[str], Field(description="fields that would be removed")]
    table_rows: Annotated[dict[str, tuple[int, int]], Field(description="rows before and after, by table")]
    unknown: Annotated[list[str], Field(description="what the job decides while it runs")]
    notes: NotRequired[Notes]


@with_config(CLOSED)
class SplitRows(TypedDict):
    """Rows of each part of the data."""

    train: Count
    valid: Count
    test: Count
    split: Annotated[str, Field(description="how the rows were split")]


@with_config(CLOSED)
class EpochResult(TypedDict):
    """One epoch of training."""

    training_loss: Number
    validation_metric: Annotated[Number, Field(description="`metric` on the validation rows")]


@with_config(CLOSED)
class TrainOutput(TypedDict):
    """The checkpoint that was trained, and its quality."""

    output: Output
    recommender: Annotated[str, Field(description="the reference recommender")]
    parameters: Annotated[Count, Field(description="number of parameters of the model")]
    training_rows: Annotated[Count, Field(description="rows of an epoch; of a model of histories, the histories")]
    split_rows: SplitRows
    metric: Annotated[str, Field(description="the metric by which epochs are compared")]
    epochs: list[EpochResult]
    best_epoch: Annotated[Count, Field(description="the epoch whose weights were kept, from 1 on")]
    test_metrics: Annotated[Metrics, Field(description="metrics on the test rows, by name")]
    columns: Annotated[list[ColumnSummarySection], Field(description="how each column of the file was read")]
    notes: Notes


@with_config(CLOSED)
class PointEntry(TypedDict):
    """How far a trial compresses."""

    kind: Annotated[
        Literal["sparsity", "bytes", "dense int8"], Field(description="`dense int8`: nothing is removed, 8 bits")
    ]
    value: Annotated[Amount, Field(description="the sparsity, or the fraction of the bytes of the dense file")]
    microseconds: NotRequired[Annotated[Amount, Field(description="limit of the predicted time, if there is one")]]


@with_config(CLOSED)
class ArtifactEntry(TypedDict):
    """Counts and times of the ONNX file of a trial."""

    parameters: Annotated[Count, Field(description="number of parameters of the model")]
    nonzero: Annotated[Count, Field(description="parameters that are not 0")]
    bytes: Bytes
    milliseconds: Annotated[dict[str, Amount], Field(description="median latency of a request, by batch size")]
    speedup: Annotated[
        dict[str, Annotated[list[Number], Field(min_length=3, max_length=3)]],
        Field(description="times as fast as the dense file: estimate, low and high end of the interval; by batch size"),
    ]


@with_config(CLOSED)
class TrialResult(TypedDict):
    """A point with the change of the metric and the measurements of its file."""

    point: PointEntry
    seed: int
    metric: Annotated[str, Field(description="the metric by which points are compared")]
    before: Annotated[Number, Field(description="of the dense model, on validation rows")]
    after: Annotated[Number, Field(description="of the model of this point, on validation rows")]
    interval: Annotated[
        list[Number], Field(min_length=2, max_length=2, description="95 %, paired, of `after` - `before`")
    ]
    error: Annotated[Number, Field(description="standard error of `after` itself")]
    rows: Rows
    greater_is_better: Annotated[bool, Field(description="whether more of the metric is better")]
    artifact: ArtifactEntry | None


@with_config(CLOSED)
class RecommendationEntry(TypedDict):
    """The recommended point."""

    point: Annotated[PointEntry | None, Field(description="null where no trial supports one")]
    reason: str


@with_config(CLOSED)
class SweepOutput(TypedDict):
    """Trials by rising compression; sweep.json holds them too."""

    output: Output
    knee: Annotated[float | None, Field(description="the sparsity at the knee of the curve, if there is one")]
    recommendation: RecommendationEntry
    trials: list[TrialResult]


@with_config(CLOSED)
class SweepShardOutput(TypedDict):
    """With --shard: the points that this machine tuned, and those that no machine has tuned yet."""

    output: Output
    shard: ShardOfWork
    points: Annotated[list[PointEntry], Field(description="the points of this shard, all tuned")]
    missing: Annotated[list[PointEntry], Field(description="points of other shards that are not tuned yet")]


@with_config(CLOSED)
class MeasureEntry(TypedDict):
    """The verdict on one measure."""

    measure: Annotated[str, Field(description="metric, distance from dense, drift or ranking")]
    verdict: Verdict
    reason: str
    estimate: Annotated[NumberInterval | None, Field(description="the quantity that may be at most `limit`")]
    limit: Annotated[float | None, Field(description="the allowance")]


@with_config(CLOSED)
class MetricChangeEntry(TypedDict):
    """A metric of the dense and the pruned model on the same rows."""

    metric: str
    before: Annotated[Number, Field(description="of the dense model")]
    after: Annotated[Number, Field(description="of the pruned model")]
    interval: Annotated[
        list[Number], Field(min_length=2, max_length=2, description="95 %, paired, of `after` - `before`")
    ]
    error: Annotated[Number, Field(description="standard error of `after` itself")]
    rows: Rows
    greater_is_better: NotRequired[bool]


@with_config(CLOSED)
class QualityEntry(TypedDict):
    """Metrics when the bundle was made and now."""

    then: Annotated[dict[str, Metrics], Field(description="as recorded, by model (dense, pruned) and metric")]
    now: Annotated[dict[str, Metrics], Field(description="on the new rows, by model and metric")]
    change: MetricChangeEntry
    recorded_gap: Annotated[Number, Field(description="recorded metric of the pruned model less that of the dense one")]
    recorded_change: MetricChangeEntry | None
    same_rows: Annotated[bool, Field(description="whether the recorded metrics are of these very rows")]
    rows: Rows


@with_config(CLOSED)
class DriftEntry(TypedDict):
    """The drift of one field."""

    name: str
    kind: Annotated[Literal["ids", "numbers"], Field(description="what the field holds")]
    psi: Annotated[Number, Field(description="population stability index of the samples")]
    chance: Annotated[Number, Field(description="its 95 % quantile without drift")]
    estimate: Annotated[NumberInterval, Field(description="the index beyond chance, 95 %")]
    before: Annotated[Number, Field(description="fraction of unknown ids, or mean of the numbers, of the rows then")]
    now: Annotated[Number, Field(description="the same, of the new rows")]
    verdict: Annotated[Verdict, Field(description="on the claim that there is no major shift")]


@with_config(CLOSED)
class RankingEntry(TypedDict):
    """A channel group of the plan, ranked again on the new rows; losses are those that the score predicts."""

    group: str
    label: GroupLabel
    kind: str
    width: Annotated[AtLeastOne, Field(description="channels of the dense model")]
    pruned_width: Annotated[Count, Field(description="channels that the plan keeps")]
    overlap: Annotated[
        Count | None, Field(description="of these, channels that would be kept again; null after a rotation")
    ]
    loss: Annotated[Number, Field(description="of the plan")]
    optimal_loss: Annotated[Number, Field(description="of the best choice of as many channels")]
    total: Annotated[Number, Field(description="of the group without any channel")]
    regret: Annotated[Number, Field(description="`loss` beyond `optimal_loss`, at least 0")]


@with_config(CLOSED)
class RefreshOutput(TypedDict):
    """Whether the plan of a bundle holds on new rows; `output` and `manifest` where it was compressed again."""

    bundle: Bundle
    data: Annotated[str, Field(description="the new rows, as they were given")]
    verdict: OverallVerdict
    sentence: Annotated[str, Field(description="the verdict in words")]
    notes: Notes
    measures: list[MeasureEntry]
    quality: QualityEntry
    drift: list[DriftEntry]
    ranking: list[RankingEntry]
    output: NotRequired[Output]
    manifest: NotRequired[BundleManifest]


@with_config(CLOSED)
class ReapplyOutput(TypedDict):
    """The bundle of the new weights, and whether the plan of `bundle` still holds for them."""

    bundle: Bundle
    output: Output
    verdict: OverallVerdict
    sentence: Annotated[str, Field(description="the verdict in words")]
    measures: list[MeasureEntry]
    check: Annotated[str, Field(description="the command that compares both bundles")]
    manifest: BundleManifest
