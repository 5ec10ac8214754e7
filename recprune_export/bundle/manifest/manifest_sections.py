"""Sections of a manifest with types and descriptions, from which the published schema is generated.

They are typed dictionaries, so that a section keeps its form in the file: plain JSON values. Sections that only one stage
writes and reads (latency, plan, settings) are open objects.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, with_config
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

CLOSED = ConfigDict(extra="forbid", strict=True)
OPEN = ConfigDict(extra="allow", strict=True)

Object = dict[str, Any]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1)]
Dtype = Annotated[str, Field(description="NumPy name of the dtype")]
Pair = Annotated[list[int], Field(min_length=2, max_length=2)]
Shape = list[Count | Annotated[str, Field(pattern="batch")]]
ByBatch = dict[str, Amount]


@dataclass(frozen=True)
class PublishedAs:
    """Annotation of a plain dictionary that is validated and published as the typed dictionary `section`."""

    section: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.section)


@with_config(CLOSED)
class JaggedLayoutEntry(TypedDict):
    """The tensors in which the file takes the elements and the ends of rows of an input."""

    counts: Annotated[
        list[Count],
        Field(
            min_length=2,
            max_length=2,
            description="smallest and largest number of elements of a row in random requests",
        ),
    ]
    present: Annotated[
        Name, Field(description="the input that determines which elements a row has: itself, or the accompanying ids")
    ]
    values: Annotated[
        Name, Field(description="the tensor of the file with the elements of all rows, one after another")
    ]
    rows: Annotated[Name, Field(description="the tensor of the file that determines where rows end")]
    rows_dtype: Dtype
    form: Annotated[
        Literal["lengths", "offsets", "offsets and end"],
        Field(
            description="content of `rows`: numbers of elements, positions of first elements, or these positions and the total"
        ),
    ]
    stacked: NotRequired[
        Annotated[
            Literal[True],
            Field(
                description="true if inputs of the same `rows` are stacked on axis 0; otherwise they are concatenated"
            ),
        ]
    ]
    keys_last: NotRequired[
        Annotated[Literal[True], Field(description="true if inputs are stacked on axis 1, after the batch")]
    ]
    padded: NotRequired[
        Annotated[
            Literal[True],
            Field(description="true if the input of the file is a matrix padded with -1 or NaN"),
        ]
    ]


@with_config(CLOSED)
class InputTensor(TypedDict):
    """One tensor of a request."""

    name: Name
    dtype: Dtype
    shape: Shape
    shared: NotRequired[
        Annotated[
            Literal[True],
            Field(
                description="true if the input has one row for all candidates of a request; absent if it has one row per candidate",
            ),
        ]
    ]
    ids: Annotated[
        list[Pair | None],
        Field(
            description="lowest and highest valid id: empty for no ids, one pair for all elements, or one pair (or null) "
            "per index of the last axis",
        ),
    ]
    bad_ids: NotRequired[
        Annotated[
            list[int | Literal["error"] | None],
            Field(
                description="for each range of `ids`, the replacement of an id out of range: an id, "
                "or `error` if the request is refused; absent if unspecified",
            ),
        ]
    ]
    number_limit: NotRequired[
        Annotated[
            float,
            Field(
                description="numbers are clipped to ± this value, NaN remains NaN; absent if numbers are not clipped"
            ),
        ]
    ]
    observed: Annotated[
        Annotated[list[float], Field(min_length=2, max_length=2)] | None,
        Field(
            description="lowest and highest value, except for ids, in the example request of the capture",
        ),
    ]
    observed_columns: NotRequired[
        Annotated[
            list[Annotated[list[float], Field(min_length=2, max_length=2)]],
            Field(description="the same for each column of a matrix of integers, if columns differ"),
        ]
    ]
    jagged: NotRequired[
        Annotated[
            JaggedLayoutEntry,
            Field(
                description="form of an input whose rows have different numbers of elements; absent for other inputs"
            ),
        ]
    ]


@with_config(CLOSED)
class OutputTensor(TypedDict):
    """One tensor of a response."""

    name: Name
    dtype: Dtype
    shape: Shape


@with_config(CLOSED)
class SignatureSection(TypedDict):
    """Inputs and outputs of the model, in order."""

    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: Annotated[list[OutputTensor], Field(min_length=1)]


@with_config(CLOSED)
class ScoreEntry(TypedDict):
    """Meaning of the numbers of an output."""

    kind: Annotated[
        Name | None,
        Field(
            description="logit, probability, classes (logits of each), class probabilities, ranking (scores of all items, trained "
            "with softmax), scores (of items or candidates, of unknown scale) or value; null if unknown"
        ),
    ]
    label: Annotated[Name | None, Field(description="the label that the output predicts; null if unknown")]
    meaning: Annotated[str, Field(description="the same as a sentence")]


@with_config(CLOSED)
class VocabularySummary(TypedDict):
    """Encoding of raw values as ids of one input; the values themselves are in the encoding file."""

    kind: Annotated[
        Literal["categorical", "multi_valued", "sequence"],
        Field(description="one id, several ids, or the history of a user"),
    ]
    column: Annotated[str, Field(description="the column of raw values")]
    values: Annotated[Count, Field(description="number of values with a separate id")]
    first: Annotated[
        Count,
        Field(
            description="the id of the first value in the encoding file; the following values have the following ids"
        ),
    ]
    unknown: Annotated[
        Count | None, Field(description="the id of all other values; null if they are omitted from the list")
    ]
    padding: Annotated[Count | None, Field(description="the id that pads a list; null if the input is not a list")]
    separator: Annotated[str | None, Field(description="separator between the values in a string; null for lists")]
    max_length: Annotated[AtLeastOne | None, Field(description="maximum number of values used from a row")]


@with_config(CLOSED)
class ColumnSummarySection(TypedDict):
    """How one column of the training file was read."""

    name: str
    dtype: Annotated[str, Field(description="type in the file; for CSV the type of all of its values")]
    role: Annotated[
        str,
        Field(
            description="label, categorical, numeric, multi-valued, vector, split, user, item, order, excluded or ignored"
        ),
    ]
    values: Annotated[Count | None, Field(description="number of values with a separate id; null for numbers")]
    low: Annotated[float | None, Field(description="smallest number; null for ids")]
    high: Annotated[float | None, Field(description="largest number; null for ids")]
    missing: Annotated[Amount, Field(description="fraction of rows without a value")]
    note: Annotated[str, Field(description="the reason, in a few words")]


@with_config(CLOSED)
class EncodingSection(TypedDict):
    """Encoding of raw rows as requests."""

    file: Annotated[str, Field(description="the file with vocabularies, means and standard deviations")]
    vocabularies: Annotated[dict[str, VocabularySummary], Field(description="by input")]
    numeric: Annotated[
        list[str],
        Field(
            description="columns of the input `numeric`, standardized, 0 for missing values; `name_0`, ... are the numbers of a vector"
        ),
    ]
    columns: NotRequired[
        Annotated[list[ColumnSummarySection], Field(description="how each column of the training file was read")]
    ]
    canonical_text_rule: NotRequired[Annotated[str, Field(description="how vocabularies spell a value")]]


@with_config(OPEN)
class DenseAndPruned(TypedDict):
    """One object each for the dense and the pruned model."""

    dense: Object
    pruned: Object


@with_config(CLOSED)
class ParameterFractionsSection(TypedDict):
    """Fractions of the dense parameters of the embedding tables, of the rest, and of all."""

    tables: float
    rest: float
    parameters: float


@with_config(CLOSED)
class ReductionSection(TypedDict):
    """Fractions of the dense model that the pruned model lacks; `tables`, `rest` and `parameters`: removed or zero."""

    tables: float
    rest: float
    parameters: float
    operations: Annotated[float, Field(description="multiply-adds of one row")]
    bytes: Annotated[float, Field(description="bytes of the file")]
    removed: Annotated[ParameterFractionsSection, Field(description="parameters that are no longer in the file")]
    zeroed: Annotated[ParameterFractionsSection, Field(description="parameters in the file that are 0")]


@with_config(OPEN)
class CountsSection(TypedDict):
    """Counts of the dense and the pruned file, and by how much the latter is smaller."""

    dense: Object
    pruned: Object
    reduction: NotRequired[ReductionSection]


@with_config(OPEN)
class Interval(TypedDict):
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


Ratios = dict[str, dict[str, Interval]]
ByBackend = dict[str, Amount]


@with_config(OPEN)
class ColdLatency(TypedDict):
    """Latency after `bytes` of other memory were read before each call."""

    bytes: Count
    milliseconds: Annotated[dict[str, ByBackend], Field(description="medians by batch size, then by backend")]
    ratios: Ratios


@with_config(OPEN)
class SpeedupSection(TypedDict):
    """How many times faster the pruned ONNX file is than the dense model, and where that was measured."""

    batch: AtLeastOne
    threads: AtLeastOne
    clock: Literal["wall", "CPU"]
    warm: Annotated[bool, Field(description="measured with warm caches")]
    ratio: Interval


@with_config(OPEN)
class LatencyFigures(TypedDict):
    """Latency of one backend at one batch size, in milliseconds."""

    distribution: NotRequired[Annotated[list[Amount], Field(description="percentiles at `percents`")]]


@with_config(OPEN)
class LatencySection(TypedDict):
    """Latency in milliseconds by backend and batch size, with warm caches; backends took turns in one process."""

    clock: NotRequired[
        Annotated[
            Literal["wall", "CPU"],
            Field(description="of `ratios`: CPU if other processes took the core from the measured thread"),
        ]
    ]
    speedup: NotRequired[Annotated[SpeedupSection, Field(description="the headline: pruned ONNX against dense ONNX")]]
    ratios: NotRequired[Annotated[Ratios, Field(description="by batch size and pair of backends, by `clock`")]]
    wall_ratios: NotRequired[Ratios]
    cpu_ratios: NotRequired[Ratios]
    cpu_milliseconds: NotRequired[
        Annotated[
            dict[str, ByBackend],
            Field(description="first quartile of the CPU time of a call, by batch size and backend"),
        ]
    ]
    preemptions: NotRequired[
        Annotated[dict[str, Count], Field(description="involuntary context switches while measuring, by batch size")]
    ]
    turns: NotRequired[
        Annotated[
            dict[str, dict[str, Count]],
            Field(
                description="turns by batch size and backend: they end when the ratios are precise, for PyTorch earlier"
            ),
        ]
    ]
    cold: NotRequired[ColdLatency]

    percents: NotRequired[
        Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(description="of each `distribution`")]
    ]
    milliseconds: NotRequired[
        Annotated[dict[str, dict[str, LatencyFigures]], Field(description="by batch size, then by backend")]
    ]


@with_config(CLOSED)
class ChangeSection(TypedDict):
    """A metric on test rows of the dense and the pruned ONNX file, with the interval of the difference."""

    metric: str
    before: Annotated[float, Field(description="of the dense model")]
    after: Annotated[float, Field(description="of the pruned model")]
    interval: Annotated[
        list[float], Field(min_length=2, max_length=2, description="95 %, paired, of `after` - `before`")
    ]
    error: Annotated[Amount, Field(description="standard error of `after` itself")]
    rows: Annotated[Count, Field(description="test rows")]
    greater_is_better: NotRequired[
        Annotated[bool, Field(description="whether more of the metric is better; so by default")]
    ]


@with_config(OPEN)
class TrialPoint(TypedDict):
    """How far a trial compresses."""

    kind: Literal["sparsity", "bytes", "dense int8"]
    value: Annotated[float, Field(description="the sparsity, or the fraction of the bytes of the dense file")]


@with_config(OPEN)
class TrialEntry(ChangeSection):
    """A metric on validation rows of the dense model and of the one that a trial pruned and tuned."""

    point: TrialPoint
    seed: int


@with_config(CLOSED)
class FrequencyBucketEntry(TypedDict):
    """The test rows whose id occurred in `least` to `most` training rows, with metrics of the dense and the pruned file."""

    least: Count
    most: Annotated[Count | None, Field(description="null for any number")]
    rows: Count
    metrics: DenseAndPruned
    change: ChangeSection | None


@with_config(CLOSED)
class CalibrationBinEntry(TypedDict):
    """The test rows whose prediction lies in one bin, and their means of prediction and label."""

    rows: Count
    predicted: float
    observed: float


@with_config(CLOSED)
class CalibrationEntry(TypedDict):
    """Means of prediction and label over all test rows, and in bins of the prediction."""

    predicted: float
    observed: float
    ece: Annotated[float | None, Field(description="expected calibration error over the bins; null for numbers")]
    bins: list[CalibrationBinEntry]


@with_config(CLOSED)
class BreakdownSection(TypedDict):
    """Quality on parts of the test rows, dense and pruned."""

    by: Annotated[str, Field(description="the id of a row whose frequency in training is used; empty without ids")]
    buckets: list[FrequencyBucketEntry]
    calibration: Annotated[
        dict[str, dict[str, CalibrationEntry]], Field(description="by label, then `dense` and `pruned`")
    ]


@with_config(CLOSED)
class QualityVerdictSection(TypedDict):
    """Whether the metric loses at most a usual allowance on test rows: the whole interval within it, beyond it, or neither."""

    metric: str
    loss: Annotated[Interval, Field(description="increase of the loss of the pruned model; 95 %, paired")]
    limit: Annotated[Amount, Field(description="the allowance")]
    verdict: Literal["holds", "fails", "cannot be told"]
    sentence: str


@with_config(CLOSED)
class EmptySection(TypedDict):
    """A section that does not apply."""


@with_config(CLOSED)
class ToleranceSection(TypedDict):
    """An output passes when |difference| <= absolute + relative * |golden|."""

    absolute: Amount
    relative: Amount


@with_config(CLOSED)
class SessionChoice(TypedDict):
    """Options of an ONNX Runtime session."""

    threads: AtLeastOne
    spinning: bool
    arena: bool
    optimization: Literal["basic", "extended", "all"]
    prepacking: bool


@with_config(CLOSED)
class SessionSection(TypedDict):
    """Session options for serving; earlier versions compared several and recorded their `batches` and `speedups`."""

    options: NotRequired[SessionChoice]
    batches: NotRequired[Annotated[list[AtLeastOne], Field(description="batch sizes of the trials")]]
    speedups: NotRequired[
        Annotated[dict[str, Interval], Field(description="speed-up over the default options, by changed option")]
    ]


@with_config(CLOSED)
class RewriteEntry(TypedDict):
    """A tried rewrite of the ONNX graph."""

    name: str
    places: Annotated[AtLeastOne, Field(description="number of places in which the graph was changed")]
    kept: bool
    reason: Annotated[str, Field(description="reason for rejecting the rewrite; empty if it was kept")]
    error: Annotated[
        float | None,
        Field(
            description="largest difference on the probe requests, as a fraction of the largest absolute value of that output; null if "
            "the graph did not run"
        ),
    ]
    at: NotRequired[Annotated[list[str], Field(description="the chosen places, if the rewrite can choose")]]
    before: Annotated[ByBatch, Field(description="estimated milliseconds without the rewrite")]
    after: Annotated[ByBatch, Field(description="estimated milliseconds with the rewrite")]


@with_config(OPEN)
class Traffic(TypedDict):
    """Bytes moved by a request."""

    weights: Annotated[int, Field(description="weights and rows of tables that are read")]
    activations: Annotated[int, Field(description="tensors between operators")]
    interface: Annotated[int, Field(description="inputs and outputs")]


@with_config(CLOSED)
class CostEntry(TypedDict):
    """Cost of a request, estimated from the graph."""

    operations: Annotated[Count, Field(description="multiply-adds of matrix products")]
    bytes: Traffic
    floor: Annotated[
        Amount,
        Field(
            description="lower bound in milliseconds on this machine: a call, the start of each node, and the arithmetic or the "
            "reads, whichever takes longer"
        ),
    ]
    multiple: Annotated[Amount, Field(description="the measured median latency, as a multiple of `floor`")]
    interval: NotRequired[Annotated[list[Amount], Field(min_length=2, max_length=2, description="95 %, of `multiple`")]]


@with_config(OPEN)
class MachineRates(TypedDict):
    """Rates measured in ONNX Runtime: multiply-adds and bytes per second, seconds of a node and of a call."""

    threads: int
    fp32: float
    int8: float
    reads: list[float]
    node: float
    call: float


@with_config(CLOSED)
class CostSection(TypedDict):
    """Cost of a request, estimated from the graph, and the measured median as a multiple of the lower bound."""

    machine: NotRequired[MachineRates]
    models: NotRequired[Annotated[dict[str, dict[str, CostEntry]], Field(description="`dense` and `pruned`, by batch")]]


@with_config(CLOSED)
class QuantizedWeight(TypedDict):
    """Storage format of a table or a linear layer, with the reason."""

    name: Annotated[str, Field(description="name of the weight in fp32")]
    shape: Pair
    form: Literal[
        "fp32",
        "fp16",
        "int8 static",
        "int8 static, one scale",
        "int8 dynamic",
        "int8 by row",
        "int8 by row, static product",
        "int8 by row, dynamic product",
        "int8 by dimension",
        "int4 by row",
        "int4 by row, static product",
        "int4 by row, dynamic product",
        "int4 in blocks",
        "int3 by row",
        "int2 by row",
        "int8 stored",
        "int4 stored",
    ]
    reason: str
    speedups: Annotated[
        ByBatch, Field(description="speed-up over fp32, measured in a separate graph; empty if not measured")
    ]
    error: Annotated[float | None, Field(description="relative error of the outputs if only this weight is quantized")]
    bytes: Annotated[Pair, Field(description="bytes of the weight in fp32 and in this format, scales included")]


@with_config(CLOSED)
class QuantizationLossSection(TypedDict):
    """Quality gate: loss of the validation metric, or without rows the relative error of the outputs."""

    metric: str
    lost: float
    limit: Amount
    interval: Annotated[
        Annotated[list[float], Field(min_length=2, max_length=2)] | None,
        Field(description="95 %, paired, over validation rows; null without rows"),
    ]
    rows: NotRequired[Annotated[Count, Field(description="validation rows")]]
    verdict: NotRequired[
        Annotated[
            Literal["holds", "fails", "cannot be told"],
            Field(description="whether the interval lies within the limit, beyond it, or on both sides"),
        ]
    ]
    answers_error: NotRequired[
        Annotated[
            float | None,
            Field(
                description="relative error of the outputs, which is used if the rows are inconclusive; null otherwise"
            ),
        ]
    ]
    answers_limit: NotRequired[Annotated[Amount, Field(description="allowed `answers_error`")]]
    passed: Annotated[
        bool,
        Field(
            description="whether the claim holds or, if it is inconclusive, the error of the outputs is small enough"
        ),
    ]


@with_config(CLOSED)
class BeforeAndAfter(TypedDict):
    """Bytes of the model with its weights."""

    before: int
    after: int


@with_config(CLOSED)
class QuantizationSection(TypedDict):
    """Quantized weights."""

    mode: NotRequired[
        Annotated[Literal["fp16", "int8", "int4", "planned bits"], Field(description="the requested mode")]
    ]
    layers: NotRequired[
        Annotated[list[QuantizedWeight], Field(description="linear layers; shape is [inputs, outputs]")]
    ]
    tables: NotRequired[Annotated[list[QuantizedWeight], Field(description="tables; shape is [rows, dimensions]")]]
    loss: NotRequired[QuantizationLossSection]
    taken_back: NotRequired[
        Annotated[
            list[str],
            Field(description="weights whose quantization was reverted to a format of more bits, for quality"),
        ]
    ]
    bytes: NotRequired[BeforeAndAfter]
    error: NotRequired[
        Annotated[
            Amount,
            Field(description="root mean square error of the outputs, as a fraction of their standard deviation"),
        ]
    ]
    errors: NotRequired[Annotated[ByBatch, Field(description="largest absolute difference, by output")]]
    spread: NotRequired[
        Annotated[
            Amount,
            Field(
                description="largest difference between kernels that multiply the same integers; the tolerance of golden "
                "outputs is increased by four times this value"
            ),
        ]
    ]
    speedups: NotRequired[
        Annotated[dict[str, Interval], Field(description="speed-up over the same file in fp32, by batch size")]
    ]


@with_config(CLOSED)
class FileIdentity(TypedDict):
    """An input file, identified by its content."""

    name: str
    bytes: Count
    sha256: Sha256


@with_config(CLOSED)
class Commit(TypedDict):
    """A state of a git repository."""

    commit: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")]
    changed: Annotated[bool, Field(description="whether tracked files differed from the commit")]


@with_config(CLOSED)
class BaselineIdentity(TypedDict):
    """A bundle, by its name and the checksum of its manifest."""

    name: str
    checksum: Sha256


@with_config(CLOSED)
class ProvenanceSection(TypedDict):
    """Origin of the bundle: command, input files, seeds and commits; versions and machine are in `environment`."""

    command: Annotated[list[str], Field(description="command line; empty if called from Python")]
    model: Annotated[FileIdentity | None, Field(description="the dense model; null if it came from memory")]
    data: Annotated[FileIdentity | None, Field(description="the rows; null without rows, or if they came from memory")]
    seeds: Annotated[
        dict[str, int], Field(description="seeds of `compression` and, for models trained by `train`, of `training`")
    ]
    commits: Annotated[
        dict[str, Commit | None],
        Field(
            description="commits of `recprune-export` and of the `working_directory`; null outside a git repository",
        ),
    ]
    baseline: NotRequired[
        Annotated[
            BaselineIdentity,
            Field(description="the bundle whose plan `reapply` applied to other weights, with which `check` compares"),
        ]
    ]


@with_config(CLOSED)
class RatePointEntry(TypedDict):
    """The best plan whose file has so many bytes."""

    bytes: Count
    loss: Annotated[float, Field(description="")]
    microseconds: NotRequired[Annotated[float, Field(description="")]]


@with_config(OPEN)
class StoredBitsSection(TypedDict):
    """Bits of each weight, by its name."""

    tables: dict[str, int]
    layers: dict[str, int]


@with_config(OPEN)
class StorageSection(TypedDict):
    """Bits of the weights, chosen together with the widths, and the point of the plan on the curve of loss over bytes."""

    bits: StoredBitsSection
    max_bytes: Annotated[Count, Field(description="the limit of the bytes of the file")]
    point: Annotated[RatePointEntry, Field(description="the chosen plan")]
    least_loss_estimate: Annotated[
        float,
        Field(
            description="an estimate, from the dual problem, of the least predicted loss of any plan of this size; not a lower bound"
        ),
    ]
    rows: NotRequired[Annotated[Count, Field(description="of the request for which times are predicted")]]
    curve: Annotated[list[RatePointEntry], Field(description="the best plans with fewer and with more bytes")]


@with_config(CLOSED)
class RuntimeSection(TypedDict):
    """Requirements of a file for ONNX Runtime."""

    onnxruntime: Annotated[str, Field(description="the oldest release that loads the file")]
    ir_version: Annotated[int, Field(ge=1, description="version of the ONNX format")]
    opsets: Annotated[dict[str, AtLeastOne], Field(description="operator sets, by domain")]
    reason: Annotated[
        str | None, Field(description="the reason for requiring this release; null for the oldest tested release")
    ]


@with_config(CLOSED)
class SampleFiles(TypedDict):
    """The files of a golden request and its answer."""

    inputs: Name
    outputs: Name


@with_config(OPEN)
class TowerEntry(TypedDict):
    """One of the two ONNX files of a model of two towers."""

    file: Annotated[Name, Field(description="an entry of `models`")]
    inputs: Annotated[list[Name], Field(description="its inputs, which the other file does not have")]
    output: Annotated[Name, Field(description="its output, the vector")]


@with_config(OPEN)
class ItemVectorsEntry(TypedDict):
    """The vectors of items, with their ids."""

    file: Annotated[Name, Field(description="vectors of items, float32 [count, width], as NumPy writes an array")]
    ids: Annotated[Name, Field(description="the id of each row, int64 or strings, as NumPy writes an array")]
    id_column: Annotated[str, Field(description="the column of the item file that contains the ids")]
    count: Count
    bytes: Count


@with_config(OPEN)
class ItemIndexEntry(TypedDict):
    """An index of the vectors of items by inner product, whose labels are their rows."""

    file: Name
    library: Annotated[Name, Field(description="library that writes and reads the index, with its version")]
    bytes: Count
    k: AtLeastOne
    recall: Annotated[
        float, Field(ge=0, le=1, description="mean fraction of the exact k best items that a search of one user finds")
    ]


@with_config(OPEN)
class TowersSection(TypedDict):
    """A model whose score is a function of the inner product of two vectors, taken apart by `split`."""

    user: TowerEntry
    item: TowerEntry
    width: Annotated[int, Field(ge=1, description="numbers of a vector")]
    similarity: Annotated[Literal["inner product", "cosine"], Field(description="cosine if all vectors have length 1")]
    formula: Annotated[
        Name, Field(description="the score of `model.onnx` as an increasing function of the inner product")
    ]

    steps: Annotated[list[Object], Field(description="the formula as steps: scale, shift, or an operator of ONNX")]
    parity: Annotated[Object, Field(description="both files together compared with `model.onnx`, all in ONNX Runtime")]
    items: NotRequired[ItemVectorsEntry]
    index: NotRequired[ItemIndexEntry]


@with_config(CLOSED)
class DerivedModelEntry(TypedDict):
    """An ONNX file derived from `model.onnx`, with the results of its comparison."""

    purpose: Annotated[
        Name, Field(description="description of the file, as the end of a sentence that begins with its name")
    ]
    opset: Annotated[int, Field(ge=13)]
    runtime: RuntimeSection
    signature: SignatureSection
    parity: Annotated[Object, Field(description="the file compared with `model.onnx`, both in ONNX Runtime")]
    tolerances: ToleranceSection
    latency: Annotated[
        LatencySection, Field(description="of the file and of `model.onnx`, interleaved on the same rows")
    ]
    load_milliseconds: Annotated[ByBatch, Field(description="time to create a session in a fresh process, by file")]
    samples: SampleFiles


@with_config(OPEN)
class EpochEntry(TypedDict):
    """One epoch of fine-tuning."""

    loss: Annotated[float, Field(description="mean training loss")]
    metric: Annotated[
        float | None,
        Field(
            description="validation metric; null while zeros are still being set, since such weights are no candidate"
        ),
    ]


@with_config(OPEN)
class FineTuningSection(TypedDict):
    """The epochs of fine-tuning, and the one whose weights were kept."""

    metric: NotRequired[Annotated[str, Field(description="name of the validation metric, which chooses")]]
    epochs: list[EpochEntry]
    best: Annotated[
        int, Field(ge=-1, description="index of the epoch whose weights were kept; -1 for those before tuning")
    ]
    untuned: NotRequired[
        Annotated[float | None, Field(description="validation metric before tuning; null where it was not measured")]
    ]
    greater_is_better: NotRequired[
        Annotated[bool, Field(description="whether more of the metric is better; so by default")]
    ]


@with_config(OPEN)
class PlanSection(TypedDict):
    """Summary of the plan: removed channels, and frozen axes with reasons; `then` is that of the next stage."""

    finetuning: NotRequired[
        Annotated[FineTuningSection | None, Field(description="null without epochs of fine-tuning")]
    ]
    storage: NotRequired[Annotated[StorageSection, Field(description="absent if the bits of weights were not planned")]]


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 (hexadecimal) of one file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    bytes: Count
    sha256: Sha256
