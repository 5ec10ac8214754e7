"""The codec: what is written can be read back, in every class that is read; what is wrong is said in one sentence."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.codec import FLATTENED, OMIT_DEFAULT, DictMixin, JsonForm, ToDictMixin, decode, encode, json_name
from recprune_export.data import (
    DataProfile,
    Encoder,
    FieldProfile,
    IdCells,
    MultiValued,
    NumberCells,
    Schema,
    SequenceEncoder,
    SplitSizes,
    Vocabulary,
)
from recprune_export.data.schema import ColumnSummary
from recprune_export.gate.history import CheckRecord, RecordedFigure
from recprune_export.metrics import MetricChange
from recprune_export.onnx import OPTIMIZATION, Machine, SessionOptions
from recprune_export.onnx.counts import Counts
from recprune_export.onnx.runtime.runtime_requirements import RuntimeRequirements
from recprune_export.output_meaning import OutputMeaning
from recprune_export.prediction.finished_scores import ScoredOf
from recprune_export.program import Input, Jagged, Output, Signature
from recprune_export.pruning import FieldPlan, Plan, ProjectionPlan, RowPlan, Transform
from recprune_export.pruning.storage_plan import StoragePlan
from recprune_export.quantization.quantization_plan import QuantizationPlan, WeightChoice
from recprune_export.recommenders import InputSpec
from recprune_export.search import ArtifactMeasurements, Trial
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.stored_bits import LAYER_BITS, TABLE_BITS, StoredBits
from recprune_export.training import FitResult

FINITE = st.floats(allow_nan=False, allow_infinity=False)
BITS = st.builds(
    StoredBits,
    st.dictionaries(st.text(), st.sampled_from(TABLE_BITS), max_size=3),
    st.dictionaries(st.text(), st.sampled_from(LAYER_BITS), max_size=3),
    st.sampled_from(LAYER_BITS),
)
TRANSFORMS = FINITE.map(lambda number: Transform(torch.full((2, 2), number, dtype=torch.float64)))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a type hint; numbers are finite."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is float:
        return FINITE
    if kind is Transform:
        return TRANSFORMS
    if kind is Self:
        return st.nothing()
    if kind is StoredBits:
        return BITS
    if is_dataclass(kind):
        return instances(kind)
    if origin in (Union, UnionType):
        return st.one_of(map(values, args))
    if origin is tuple:
        several = len(args) == 2 and args[1] is Ellipsis
        return st.lists(values(args[0]), max_size=3).map(tuple) if several else st.tuples(*map(values, args))
    if origin is Mapping:
        return st.dictionaries(*map(values, args), max_size=3)
    return st.from_type(kind)


def instances(kind: Any, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return random values of a dataclass; `known` says from where some fields take theirs."""
    hints = get_type_hints(kind)
    return st.builds(
        kind, **{f.name: known[f.name] if f.name in known else values(hints[f.name]) for f in fields(kind)}
    )


CELLS = values(IdCells) | st.lists(FINITE, min_size=1).map(lambda edges: NumberCells(tuple(edges)))
PROFILES = instances(FieldProfile, cells=CELLS)
PLANS = instances(Plan, next_stage=st.none())
CHOICES = st.lists(instances(WeightChoice, error=st.none() | FINITE), max_size=2).map(tuple)
PLAIN = (ScoredOf,
    ArtifactMeasurements, CheckRecord,
    ColumnSummary, Counts, FieldPlan, Input, InputSpec, Jagged, Machine, MetricChange, Output, OutputMeaning,
    OperatingPoint, ProjectionPlan, RecordedFigure, RowPlan, Schema, Signature, SplitSizes, StoragePlan, Trial
)  # fmt: skip
READ: dict[type[DictMixin], st.SearchStrategy[Any]] = {
    DataProfile: instances(DataProfile, fields=st.lists(PROFILES, max_size=2).map(tuple)),
    FieldProfile: PROFILES,
    FitResult: instances(FitResult, initial_metric=FINITE | st.just(-math.inf)),
    Plan: PLANS | instances(Plan, next_stage=PLANS),
    SessionOptions: instances(SessionOptions, threads=st.integers(1), optimization=st.sampled_from(list(OPTIMIZATION))),
    QuantizationPlan: instances(QuantizationPlan, layers=CHOICES, tables=CHOICES),
    WeightChoice: instances(WeightChoice, error=st.none() | FINITE),
    **{kind: instances(kind) for kind in PLAIN},
    RuntimeRequirements: st.builds(
        RuntimeRequirements,
        st.text(),
        st.integers(1, 14),
        st.dictionaries(st.text(), st.integers(1, 30)),
        st.none() | st.text(),
    ),
}


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.__name__)
def test_what_is_written_is_read_back(kind: type[DictMixin]) -> None:
    @settings(max_examples=20)
    @given(READ[kind])
    def check(value: Any) -> None:
        text = json.dumps(encode(value), allow_nan=False)
        assert kind.from_dict(json.loads(text)) == value

    check()


def test_encoders_are_read_back() -> None:
    schema = Schema(categorical=("item",), multi_valued=(MultiValued("tags", "|", 3),), numeric=("age",))
    vocabularies = {"item": Vocabulary(["a"], 1), "tags": Vocabulary(["b", "c"], 2)}
    for encoder in (
        Encoder(schema, vocabularies, {"age": 3.0}, {"age": 1.0}),
        SequenceEncoder(schema, vocabularies["item"]),
    ):
        again = type(encoder).from_dict(json.loads(json.dumps(encode(encoder))))
        assert encode(again) == encode(encoder)
        assert again.schema == schema


def test_every_class_that_is_read_is_tested() -> None:
    ours = {kind for kind in DictMixin.__subclasses__() if kind.__module__.startswith("recprune_export.")}
    assert ours == {*READ, Encoder, SequenceEncoder}


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Everything(DictMixin):
    ENCODED = ("name", "count", "point", "points", "colors", "by_size", "mode", "either", "text", "note", "where")

    point: Point
    points: tuple[Point, ...]
    colors: tuple[Color, Color]
    by_size: Mapping[int, Point | None]
    mode: Literal["fast", "small"]
    either: int | str
    text: Annotated[float, JsonForm(repr, float)]
    name: str = field(default="", metadata=json_name("title"))
    note: str | None = field(default=None, metadata=OMIT_DEFAULT)
    where: Path = Path("here")

    @property
    def count(self) -> int:
        return len(self.points)


@given(instances(Everything, where=st.sampled_from([Path("a/b"), Path("/c")])))
def test_all_kinds_of_fields_are_read_back(value: Everything) -> None:
    written = json.loads(json.dumps(value.to_dict()))
    again = Everything.from_dict({**written, "other": 1})
    assert again == value
    assert list(written)[:2] == ["title", "count"]
    assert ("note" in written) == (value.note is not None)


GOOD = Everything(Point(1.0), (), (Color.RED, Color.BLUE), {2: None}, "fast", 3, 0.5).to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by_size": {"2": {"x": "far"}}}, r"^Everything cannot be read at by_size\.2\.x: .*valid number.*\.$"),
        ({"mode": "large"}, r"^Everything cannot be read at mode: input should be 'fast' or 'small'\.$"),
        ({"colors": ["red"]}, r"^Everything cannot be read at colors\.1: field required\.$"),
        ({"text": []}, r"^Everything cannot be read at text: .*\.$"),
        ({"point": None}, r"^Everything cannot be read at point: .*\.$"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Everything.from_dict(GOOD | changes)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.none() | st.text() | st.lists(st.integers()) | st.just({})))
def test_nothing_but_a_value_error_comes_out_of_wrong_values(changes: dict[str, Any]) -> None:
    with suppress(ValueError):
        assert isinstance(Everything.from_dict(GOOD | changes), Everything)


def test_missing_keys_take_their_defaults() -> None:
    assert decode(Point, {"x": 1, "z": 2}) == Point(1.0)
    with pytest.raises(ValueError, match=r"^Point cannot be read at x: field required\.$"):
        decode(Point, {"y": 1})


def test_entries_of_a_flattened_field_lie_beside_the_others() -> None:
    @dataclass(frozen=True)
    class Named(ToDictMixin):
        PROPERTY_NAMES = {"twice": "double"}  # noqa: RUF012
        ENCODED = ("name", "point", "twice")
        name: str
        point: Point | None = field(default=None, metadata=FLATTENED)

        @property
        def twice(self) -> str:
            return self.name * 2

    assert Named("a", Point(1.0)).to_dict() == {"name": "a", "x": 1.0, "y": 0.0, "double": "aa"}
    assert Named("a").to_dict() == {"name": "a", "double": "aa"}


def test_numbers_of_numpy_become_those_of_python() -> None:
    written = encode({1: np.float32(0.5), "a": (np.int64(3), np.bool_(True)), "b": np.arange(2), "c": math.inf})
    assert written == {"1": 0.5, "a": [3, True], "b": [0, 1], "c": math.inf}
    assert [type(value) for value in (written["1"], *written["a"])] == [float, int, bool]
    with pytest.raises(TypeError, match="JSON has no form for object"):
        encode(object())
