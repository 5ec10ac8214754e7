"""The parts of a manifest, with types and words: the published schema is made of these.

They are typed dictionaries, so that a part stays what it is in the file: plain JSON values. What one stage alone writes and
reads (latency, plan, settings) is an open object here.
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
Dtype = Annotated[str, Field(description="as NumPy spells it")]
Pair = Annotated[list[int], Field(min_length=2, max_length=2)]
Shape = list[Count | Annotated[str, Field(pattern="batch")]]
ByBatch = dict[str, Amount]


@dataclass(frozen=True)
class SectionOf:
    """Marks a plain dictionary that is checked, and published, as a typed one."""

    section: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.section)


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
                description="one row, for all candidates of a request; absent where there is a row for each",
            ),
        ]
    ]
    ids: Annotated[
        list[Pair | None],
        Field(
            description="valid ids, lowest and highest: empty for no ids, one pair for all elements, or one (or null) "
            "per index of the last axis",
        ),
    ]
    observed: Annotated[
        Annotated[list[float], Field(min_length=2, max_length=2)] | None,
        Field(
            description="lowest and highest number, other than ids, in the example request that the model was captured with",
        ),
    ]


@with_config(CLOSED)
class OutputTensor(TypedDict):
    """One tensor of a response."""

    name: Name
    dtype: Dtype
    shape: Shape


@with_config(CLOSED)
class SignatureSection(TypedDict):
    """What the model takes and gives, in order."""

    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: Annotated[list[OutputTensor], Field(min_length=1)]


@with_config(CLOSED)
class VocabularySummary(TypedDict):
    """How raw values become the ids of one input; the values themselves are in the file."""

    kind: Annotated[
        Literal["categorical", "multi_valued", "sequence"],
        Field(description="one id, several, or the history of a user"),
    ]
    column: Annotated[str, Field(description="the column of raw values")]
    values: Annotated[Count, Field(description="how many values have an id of their own")]
    first: Annotated[Count, Field(description="the id of the first value in the file; the next ones follow")]
    unknown: Annotated[
        Count | None, Field(description="the id of all other values; null where they are left out of the list")
    ]
    padding: Annotated[Count | None, Field(description="the id that fills a list up; null where there is no list")]
    separator: Annotated[str | None, Field(description="stands between the values of a text; null for lists")]
    max_length: Annotated[AtLeastOne | None, Field(description="how many values of a row are used")]


@with_config(CLOSED)
class EncodingSection(TypedDict):
    """How raw rows become requests."""

    file: Annotated[str, Field(description="the file with vocabularies, means and standard deviations")]
    vocabularies: Annotated[dict[str, VocabularySummary], Field(description="by input")]
    numeric: Annotated[
        list[str],
        Field(
            description="columns of the input `numeric`, each centred and scaled, 0 where missing; empty where there is none"
        ),
    ]


@with_config(OPEN)
class DenseAndPruned(TypedDict):
    """One object for each of the two models."""

    dense: Object
    pruned: Object


@with_config(OPEN)
class LatencyFigures(TypedDict):
    """Latency of one contestant at one batch size, in milliseconds."""

    distribution: NotRequired[Annotated[list[Amount], Field(description="percentiles at `percents`")]]


@with_config(OPEN)
class LatencySection(TypedDict):
    """Milliseconds by contestant and batch, measured interleaved in one process."""

    percents: NotRequired[
        Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(description="of each `distribution`")]
    ]
    milliseconds: NotRequired[
        Annotated[dict[str, dict[str, LatencyFigures]], Field(description="by batch, then by contestant")]
    ]


@with_config(CLOSED)
class ChangeSection(TypedDict):
    """A metric on test rows, more is better: of the dense and of the pruned ONNX file, and how sure the difference is."""

    metric: str
    before: Annotated[float, Field(description="of the dense model")]
    after: Annotated[float, Field(description="of the pruned model")]
    interval: Annotated[
        list[float], Field(min_length=2, max_length=2, description="95 %, paired, of `after` - `before`")
    ]
    error: Annotated[Amount, Field(description="standard error of `after` itself")]
    rows: Annotated[Count, Field(description="test rows")]


@with_config(CLOSED)
class EmptySection(TypedDict):
    """A part that does not apply."""


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


@with_config(OPEN)
class Interval(TypedDict):
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


@with_config(CLOSED)
class SessionSection(TypedDict):
    """Session options to serve the bundle with; earlier versions tried others and wrote their `batches` and `speedups`."""

    options: NotRequired[SessionChoice]
    batches: NotRequired[Annotated[list[AtLeastOne], Field(description="batch sizes of the trials")]]
    speedups: NotRequired[
        Annotated[dict[str, Interval], Field(description="times faster than plain options, by what was changed")]
    ]


@with_config(CLOSED)
class RewriteEntry(TypedDict):
    """A rewrite of the ONNX graph that was tried."""

    name: str
    places: Annotated[AtLeastOne, Field(description="in how many places the graph was changed")]
    kept: bool
    reason: Annotated[str, Field(description="why it was not kept; empty where it was")]
    error: Annotated[
        float | None,
        Field(
            description="largest difference on the probes, as a fraction of the largest number of that output; null where "
            "the graph did not run"
        ),
    ]
    at: NotRequired[Annotated[list[str], Field(description="the places that were chosen, where it could choose")]]
    before: Annotated[ByBatch, Field(description="estimated milliseconds without it")]
    after: Annotated[ByBatch, Field(description="estimated milliseconds with it")]


@with_config(OPEN)
class Traffic(TypedDict):
    """Bytes of a request."""

    weights: Annotated[int, Field(description="weights and rows of tables that are read")]
    activations: Annotated[int, Field(description="what flows between operators")]
    interface: Annotated[int, Field(description="the request and its answer")]


@with_config(CLOSED)
class CostEntry(TypedDict):
    """What a request costs by the graph alone."""

    operations: Annotated[Count, Field(description="multiply-adds of matrix products")]
    bytes: Traffic
    floor: Annotated[Amount, Field(description="milliseconds that no runtime can go below")]
    multiple: Annotated[Amount, Field(description="the measured median, as a multiple of the floor")]


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
    """What a request costs by the graph alone, and the measured median as a multiple of the machine's floor."""

    machine: NotRequired[MachineRates]
    models: NotRequired[Annotated[dict[str, dict[str, CostEntry]], Field(description="`dense` and `pruned`, by batch")]]


@with_config(CLOSED)
class QuantizedWeight(TypedDict):
    """A table or a linear layer, in how many bits it is stored, and why."""

    name: Annotated[str, Field(description="of the weight in fp32")]
    shape: Pair
    form: Literal[
        "fp32",
        "fp16",
        "int8 static",
        "int8 dynamic",
        "int8 by row",
        "int8 by row, static product",
        "int8 by row, dynamic product",
        "int8 by dimension",
        "int4 by row",
        "int4 by row, static product",
        "int4 by row, dynamic product",
        "int4 in blocks",
    ]
    reason: str
    speedups: Annotated[
        ByBatch, Field(description="times faster than in fp32, alone in a graph; empty where that was not measured")
    ]
    error: Annotated[
        float | None, Field(description="relative error of the answers where only this weight is quantised")
    ]
    bytes: Annotated[Pair, Field(description="of the weight in fp32 and in this form, scales included")]


@with_config(CLOSED)
class QuantizationLossSection(TypedDict):
    """The gate: what the validation metric lost, or without rows the relative error of the answers."""

    metric: str
    lost: float
    limit: Amount
    interval: Annotated[
        Annotated[list[float], Field(min_length=2, max_length=2)] | None,
        Field(description="95 %, paired, over validation rows; null without rows"),
    ]
    passed: bool


@with_config(CLOSED)
class BeforeAndAfter(TypedDict):
    """Bytes of the model with its weights."""

    before: int
    after: int


@with_config(CLOSED)
class QuantizationSection(TypedDict):
    """Weights in fewer bits."""

    mode: NotRequired[Annotated[Literal["fp16", "int8", "int4"], Field(description="what was asked for")]]
    layers: NotRequired[
        Annotated[list[QuantizedWeight], Field(description="linear layers; shape is inputs and outputs")]
    ]
    tables: NotRequired[Annotated[list[QuantizedWeight], Field(description="tables; shape is rows and dimensions")]]
    loss: NotRequired[QuantizationLossSection]
    taken_back: NotRequired[Annotated[list[str], Field(description="weights that got more bits again, for quality")]]
    bytes: NotRequired[BeforeAndAfter]
    error: NotRequired[
        Annotated[
            Amount,
            Field(description="root mean square error of the answers, as a fraction of how much they vary"),
        ]
    ]
    errors: NotRequired[Annotated[ByBatch, Field(description="largest difference of a number, by output")]]
    spread: NotRequired[
        Annotated[
            Amount,
            Field(
                description="largest difference between kernels that multiply the same integers; the tolerance of golden "
                "outputs has four times as much added"
            ),
        ]
    ]
    speedups: NotRequired[
        Annotated[dict[str, Interval], Field(description="times faster than the same file in fp32, by batch")]
    ]


@with_config(CLOSED)
class FileIdentity(TypedDict):
    """A file that went in, known by its content."""

    name: str
    bytes: Count
    sha256: Sha256


@with_config(CLOSED)
class Commit(TypedDict):
    """A state of a git repository."""

    commit: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")]
    changed: Annotated[bool, Field(description="whether tracked files differed from the commit")]


@with_config(CLOSED)
class ProvenanceSection(TypedDict):
    """What the bundle was made of and by; versions and machine are in `environment`."""

    command: Annotated[list[str], Field(description="command line; empty where Python called")]
    model: Annotated[FileIdentity | None, Field(description="the dense model; null where it came from memory")]
    data: Annotated[FileIdentity | None, Field(description="the rows; null where there were none, or from memory")]
    seeds: Annotated[
        dict[str, int], Field(description="of `compression` and, for models that `train` made, of `training`")
    ]
    commits: Annotated[
        dict[str, Commit | None],
        Field(
            description="of `recprune-export` and of the `working_directory`; null where that is no git repository",
        ),
    ]


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 (hexadecimal) of one file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    bytes: Count
    sha256: Sha256
