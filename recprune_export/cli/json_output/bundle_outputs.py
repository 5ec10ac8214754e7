"""Outputs of the commands on bundles and ONNX files, and of `generate` and `doctor`."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from recprune_export.bundle.manifest.manifest_sections import (
    CLOSED,
    OPEN,
    Amount,
    AtLeastOne,
    Count,
    LatencySection,
    Name,
    RewriteEntry,
    ScoreEntry,
    SignatureSection,
    TowersSection,
)
from recprune_export.cli.json_output.common_keys import (
    Bundle,
    Bytes,
    GroupLabel,
    Notes,
    Number,
    NumberInterval,
    Output,
    OverallVerdict,
    Rows,
    Seconds,
    ShardOfWork,
    Threads,
    Verdict,
)

ArtifactName = Annotated[Name, Field(description="name of the model, the bundle or the ONNX file")]
Share = Annotated[float, Field(ge=0, le=1)]


@with_config(OPEN)
class PercentileEntry(TypedDict):
    """Percentiles of the time of a request in milliseconds."""

    p50: Amount
    p95: Amount
    p99: Amount


@with_config(CLOSED)
class GateEntry(TypedDict):
    """The result of one gate."""

    gate: str
    verdict: Verdict
    reason: str
    base: Annotated[Number, Field(description="value of BASE, in `unit`; null where the gate has none")]
    new: Annotated[Number, Field(description="value of NEW, in `unit`")]
    unit: Annotated[str, Field(description="of `base` and `new`; empty for a pure number")]
    limit: Annotated[str, Field(description="what is allowed, in words")]
    ratio: Annotated[NumberInterval | None, Field(description="NEW / BASE, if measured")]
    most: Annotated[float | None, Field(description="fraction by which the value may grow")]
    change: Annotated[NumberInterval | None, Field(description="NEW - BASE of a metric")]


@with_config(CLOSED)
class PairedLatencyEntry(TypedDict):
    """Latency of NEW and BASE at one batch size, in turns in fresh processes."""

    processes: AtLeastOne
    rounds: Annotated[Count, Field(description="requests that each has answered")]
    ratio: Annotated[NumberInterval, Field(description="NEW / BASE, 99 %")]
    milliseconds: Annotated[dict[Literal["NEW", "BASE"], PercentileEntry], Field(description="by artifact")]


@with_config(CLOSED)
class CheckOutput(TypedDict):
    """The verdict of the gate."""

    new: Annotated[Name, Field(description="the artifact NEW, as it was given")]
    base: Annotated[Name, Field(description="the artifact BASE, as it was given")]
    verdict: OverallVerdict
    gates: list[GateEntry]
    latency: Annotated[dict[str, PairedLatencyEntry], Field(description="by batch size; empty where not measured")]
    threads: Threads
    seconds: Seconds
    environment: Annotated[dict[str, Any], Field(description="versions of packages, system, CPU and cores")]


@with_config(CLOSED)
class ResolutionEntry(TypedDict):
    """The smallest regression that is detected at one batch size."""

    ratio: Annotated[NumberInterval, Field(description="the artifact / itself")]
    processes: AtLeastOne
    smallest_regression: Annotated[
        Number, Field(description="fraction beyond `tolerance` that is detected 95 times in 100")
    ]


@with_config(CLOSED)
class CalibrationOutput(TypedDict):
    """With --calibrate: the smallest regression that this machine can detect."""

    name: ArtifactName
    by_batch_size: dict[str, ResolutionEntry]
    tolerance: Annotated[float, Field(description="the allowed regression of the latency, as a fraction")]
    detectable_regression: Annotated[Number, Field(description="fraction that is detected at every batch size")]
    equal_artifacts_pass: Annotated[bool, Field(description="whether equal artifacts pass within the time")]
    threads: Threads
    seconds: Seconds


@with_config(CLOSED)
class GoldenOutputEntry(TypedDict):
    """Largest errors of one output against its golden answer."""

    file: Name
    name: Name
    max_absolute: Amount
    max_relative: Annotated[Amount, Field(description="of the size of the answers")]


@with_config(OPEN)
class ArrivalFigures(TypedDict):
    """Latency of a backend that requests arrive at, from arrival to answer, in milliseconds."""

    p50: Amount
    p95: Amount
    p99: Amount
    requests: Annotated[Count, Field(description="requests that arrived")]
    utilization: Annotated[Amount, Field(description="fraction of the time that the backend is busy")]
    saturated: Annotated[bool, Field(description="whether requests arrive faster than they are answered")]


@with_config(CLOSED)
class OpenLoopEntry(TypedDict):
    """Latency under arrivals at a constant rate, on so many threads."""

    qps: Annotated[float, Field(gt=0, description="arrivals per second")]
    threads: Threads
    milliseconds: Annotated[dict[str, dict[str, ArrivalFigures]], Field(description="by batch size, then by backend")]


@with_config(CLOSED)
class FootprintEntry(TypedDict):
    """Medians over fresh processes that load one model and answer one request."""

    processes: AtLeastOne
    load_milliseconds: Amount
    first_request_milliseconds: Amount
    memory_bytes: Annotated[float, Field(description="held after the request, beyond Python and ONNX Runtime")]
    peak_memory_bytes: Annotated[float, Field(description="maximum until then")]


@with_config(CLOSED)
class FootprintsEntry(TypedDict):
    """Load time and memory."""

    batch_size: Annotated[AtLeastOne, Field(description="rows of a request")]
    models: dict[str, FootprintEntry]


@with_config(CLOSED)
class LatencyStudyEntry(TypedDict):
    """With --latency: what was measured again on this machine."""

    closed_loop: Annotated[list[LatencySection], Field(description="one request after the other, by thread count")]
    open_loop: Annotated[list[OpenLoopEntry], Field(description="with --qps, by thread count")]
    footprints: FootprintsEntry


@with_config(CLOSED)
class VerifyOutput(TypedDict):
    """A bundle whose checks all passed."""

    bundle: Bundle
    name: ArtifactName
    file_count: Annotated[Count, Field(description="files whose checksums were compared")]
    bytes: Bytes
    golden_rows: Annotated[Count, Field(description="rows of the golden request")]
    golden_outputs: list[GoldenOutputEntry]
    seconds: Seconds
    signature_check: Annotated[
        Literal["absent", "unchecked", "valid"], Field(description="unchecked: signed, but no --public-key was given")
    ]
    raw_rows_check: Annotated[
        Literal["absent", "unchecked", "valid"],
        Field(
            description="unchecked: the answers were compared, but the encoding was not, since polars is not installed"
        ),
    ]
    latency_study: NotRequired[LatencyStudyEntry]


@with_config(CLOSED)
class ParameterCountsEntry(TypedDict):
    """Parameters in embedding tables and in the rest."""

    tables: Count
    rest: Count


@with_config(CLOSED)
class GroupEntry(TypedDict):
    """A channel group: axes that can only be cut together."""

    name: str
    label: GroupLabel
    kind: str
    width: Annotated[AtLeastOne, Field(description="number of channels")]
    axes: Annotated[list[tuple[str, int]], Field(description="tensors and their axes")]


@with_config(CLOSED)
class InferredRuleEntry(TypedDict):
    """An operator whose channel rule was inferred."""

    operator: str
    trials: Annotated[AtLeastOne, Field(description="number of comparisons, all without a difference")]


@with_config(CLOSED)
class FrozenAxisEntry(TypedDict):
    """An axis that stays as it is."""

    tensor: str
    axis: int
    count: Annotated[AtLeastOne, Field(description="number of frozen indices")]
    reason: str
    source: Annotated[str | None, Field(description="the line of the model that causes it, if known")]


@with_config(CLOSED)
class FieldEntry(TypedDict):
    """A field, and whether it can be removed."""

    field: str
    removable: bool
    parameters: Annotated[Count, Field(description="parameters that would go with it")]
    reason: NotRequired[Annotated[str, Field(description="why it cannot be removed")]]
    source: NotRequired[Annotated[str | None, Field(description="the line of the model that causes it, if known")]]


@with_config(CLOSED)
class LossAtWidth(TypedDict):
    """The loss of output error where a part of the channels is kept."""

    width: AtLeastOne
    lost: Annotated[Number, Field(description="fraction of the loss without any channel")]


@with_config(CLOSED)
class ScoreRanking(TypedDict):
    """The ranking by one score."""

    quantiles: Annotated[list[Number], Field(description="values from the largest down, as fractions of it")]
    agreement: Annotated[dict[str, Number], Field(description="rank correlation (Spearman) with other scores")]


@with_config(CLOSED)
class GroupSensitivityEntry(TypedDict):
    """The sensitivity of one group."""

    group: str
    label: GroupLabel
    kind: str
    width: AtLeastOne
    rotated: Annotated[bool, Field(description="whether its channels are rotated before they are ranked")]
    losses: Annotated[list[Number], Field(description="output error where the best 0, 1, 2, ... channels are kept")]
    lost: Annotated[dict[str, LossAtWidth], Field(description="by the part that is kept, such as 1/2")]
    scores: Annotated[dict[str, ScoreRanking], Field(description="by importance score")]


@with_config(CLOSED)
class SensitivityEntry(TypedDict):
    """With --scores: the rankings of all groups."""

    groups: list[GroupSensitivityEntry]


@with_config(CLOSED)
class InspectModelOutput(TypedDict):
    """The channel analysis of a model."""

    name: ArtifactName
    model_kind: Annotated[str, Field(description="what the file or folder is")]
    signature: SignatureSection
    parameter_counts: ParameterCountsEntry
    prunable_fraction: Annotated[Share, Field(description="fraction of the parameters in prunable channels")]
    summary: Annotated[str, Field(description="the analysis in a sentence")]
    groups: list[GroupEntry]
    inferred_rules: Annotated[list[InferredRuleEntry], Field(description="rules that --infer-rules found by trial")]
    frozen: list[FrozenAxisEntry]
    fields: Annotated[list[FieldEntry] | None, Field(description="null without --fields")]
    notes: Notes
    sensitivity: NotRequired[SensitivityEntry]


@with_config(CLOSED)
class NonzeroCounts(TypedDict):
    """Parameters, and those that are not 0."""

    parameters: Count
    nonzero: Count


@with_config(CLOSED)
class StoredCounts(NonzeroCounts):
    """Parameters, those that are not 0, and the bytes that store them."""

    bytes: Annotated[Count | None, Field(description="of the numbers alone, without scales; null if unknown")]


@with_config(CLOSED)
class FileCounts(TypedDict):
    """Counts of an ONNX file."""

    tables: StoredCounts
    rest: StoredCounts
    operations: Annotated[Count, Field(description="multiply-adds of one row")]
    operations_complete: NotRequired[
        Annotated[
            bool, Field(description="false, where `operations` is a lower bound: some products have unknown sizes")
        ]
    ]
    nodes: Count
    bytes: Bytes


@with_config(CLOSED)
class MachineEntry(TypedDict):
    """Rates of this machine in ONNX Runtime."""

    threads: Threads
    fp32_operations_per_second: Annotated[Amount, Field(description="multiply-adds of matrix products in float32")]
    int8_operations_per_second: Annotated[Amount, Field(description="the same in int8")]
    read_bytes_per_second: Annotated[list[Amount], Field(description="from cache, further cache and memory")]
    node_seconds: Annotated[Amount, Field(description="to start a node")]
    call_seconds: Annotated[Amount, Field(description="to call ONNX Runtime")]


@with_config(CLOSED)
class RequestCost(TypedDict):
    """The cost of a request, estimated from the graph."""

    operations: Annotated[Count, Field(description="multiply-adds of matrix products")]
    operations_complete: Annotated[
        bool, Field(description="whether `operations` has all products; false for a lower bound")
    ]
    weight_bytes: Annotated[Count, Field(description="weights, and rows of tables, that are read")]
    activation_bytes: Annotated[Count, Field(description="tensors between operators")]
    interface_bytes: Annotated[Count, Field(description="inputs and outputs")]
    floor_milliseconds: Annotated[Amount, Field(description="lower bound of the time on this machine")]


@with_config(CLOSED)
class InspectArtifactOutput(TypedDict):
    """A bundle or an ONNX file: counts, and the cost of a request."""

    name: ArtifactName
    counts: FileCounts
    machine: MachineEntry
    costs: Annotated[dict[str, RequestCost], Field(description="by batch size")]
    measured_milliseconds: Annotated[
        dict[str, NumberInterval], Field(description="median latency that the manifest records, by batch size")
    ]
    rewrites: Annotated[list[RewriteEntry], Field(description="graph rewrites that were tried, in order")]


@with_config(CLOSED)
class NodeTimeEntry(TypedDict):
    """A node of the graph as ONNX Runtime runs it."""

    name: str
    operator: str
    milliseconds: Amount
    fraction: Annotated[Share, Field(description="of the time of all nodes")]
    floor_milliseconds: Annotated[Amount, Field(description="lower bound of the time on this machine")]


@with_config(CLOSED)
class ProfileOutput(TypedDict):
    """Times of all nodes, the slowest first."""

    batch_size: Annotated[AtLeastOne, Field(description="rows of a request")]
    threads: Threads
    requests: Annotated[AtLeastOne, Field(description="requests over which times are averaged")]
    milliseconds: Annotated[Amount, Field(description="time of all nodes of a request")]
    floor_milliseconds: Annotated[Amount, Field(description="lower bound of the time on this machine")]
    nodes: list[NodeTimeEntry]


OutputColumns = Annotated[list[str], Field(description="columns of the files of scores")]
Scores = Annotated[dict[str, ScoreEntry], Field(description="meaning of each column of scores")]
UnknownValues = Annotated[
    dict[str, Count], Field(description="values without an id of their own, or missing numbers, by column")
]


@with_config(CLOSED)
class PredictOutput(TypedDict):
    """One file of scores."""

    output: Output
    rows: Rows
    output_columns: OutputColumns
    scores: Scores
    unknown_values: UnknownValues
    seconds: Seconds
    notes: Notes


@with_config(CLOSED)
class ScoredFileEntry(TypedDict):
    """The scores of one file of rows."""

    data: Annotated[str, Field(description="the file of rows")]
    output: Output
    rows: Rows
    finished: Annotated[bool, Field(description="whether an earlier run made it")]


@with_config(CLOSED)
class PredictFolderOutput(TypedDict):
    """A folder of scores; `rows`, `unknown_values` and `notes` are those of the files that this run made."""

    output: Output
    files: list[ScoredFileEntry]
    rows: Rows
    output_columns: OutputColumns
    scores: Scores
    unknown_values: UnknownValues
    seconds: Seconds
    shard: ShardOfWork
    notes: Notes


@with_config(CLOSED)
class SplitOutput(TypedDict):
    """The bundle with a file for each tower."""

    bundle: Bundle
    output: Output
    towers: TowersSection
    notes: Notes


@with_config(CLOSED)
class PackOutput(TypedDict):
    """The packed bundle."""

    bundle: Bundle
    output: Output
    bytes: Bytes


@with_config(CLOSED)
class SignOutput(TypedDict):
    """The signature: manifest.json.sig, or the packed bundle that was written anew."""

    bundle: Bundle
    output: Output


@with_config(CLOSED)
class ReportOutput(TypedDict):
    """The page."""

    bundle: Bundle
    output: Output


@with_config(CLOSED)
class BundleFigures(TypedDict):
    """The key figures of one of two bundles; null for a figure that the manifest does not state."""

    name: ArtifactName
    bytes: Annotated[Count | None, Field(description="of model.onnx and its data file")]
    table_bytes: Annotated[Count | None, Field(description="of the embedding tables")]
    other_weight_bytes: Annotated[Count | None, Field(description="of all other weights")]
    milliseconds: Annotated[float | None, Field(description="median latency of a request at the batch size `batch`")]
    speedup: Annotated[NumberInterval | None, Field(description="times as fast as the dense model in the same job")]
    metric: Annotated[str | None, Field(description="the deciding metric")]
    value: Annotated[float | None, Field(description="of the deciding metric on test rows")]
    change: Annotated[NumberInterval | None, Field(description="of the deciding metric from the dense model")]


@with_config(CLOSED)
class ReportOfTwoOutput(TypedDict):
    """The page about two bundles, and their key figures side by side."""

    bundle: Bundle
    other: Annotated[str, Field(description="the second bundle, as it was given")]
    output: Output
    a: Annotated[BundleFigures, Field(description="figures of `bundle`")]
    b: Annotated[BundleFigures, Field(description="figures of `other`")]
    batch: Annotated[AtLeastOne | None, Field(description="the batch size of the latencies")]
    latency_differences: Annotated[
        list[str], Field(description="conditions that differ, so that latencies cannot be compared")
    ]
    have_same_rows: Annotated[bool, Field(description="whether the metrics are of the same rows")]
    different_options: Annotated[list[str], Field(description="options of the two jobs that differ")]


@with_config(CLOSED)
class GenerateOutput(TypedDict):
    """The generated file."""

    output: Output
    kind: Annotated[Literal["clicks", "sequences"], Field(description="what the rows are")]
    rows: Rows
    seed: int


@with_config(CLOSED)
class DoctorCheck(TypedDict):
    """The outcome of one check."""

    name: str
    state: Literal["ok", "warning", "missing"]
    description: Annotated[str, Field(description="what was found")]
    advice: Annotated[str, Field(description="the remedy; empty where there is nothing to do")]


@with_config(CLOSED)
class DoctorOutput(TypedDict):
    """The checks of the environment."""

    ok: Annotated[bool, Field(description="whether nothing that is needed is missing")]
    checks: list[DoctorCheck]
