"""Labels of any type become numbers, missing ones NaN, and every recoding is said."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import LabelKind, infer_label_kind, read_labels
from recprune_export.data.label_moments import measure_labels
from recprune_export.data.read_labels import (
    LabelColumns,
    check_training_rows,
    describe_constant_labels,
    refuse_texts,
)
from recprune_export.data.rows import Rows
from recprune_export.errors import DataError

NUMBERS = {
    "binary": st.integers(0, 1),
    "classes": st.integers(0, 5),
    "stars": st.integers(1, 5),
    "counts": st.integers(0, 10_000),
    "signed": st.integers(-20, 20),
    "floats": st.floats(-100, 100, width=32),
}


def read(*values: object, **options: Any) -> LabelColumns:
    return read_labels("rows", {"y": np.array(values, dtype=object)}, **options)


@st.composite
def columns(draw: st.DrawFn) -> tuple[list[float | None], np.ndarray]:
    """Known numbers, None where missing, and the same as a column of some dtype that a reader may return."""
    numbers = draw(st.lists(NUMBERS[draw(st.sampled_from(sorted(NUMBERS)))], min_size=1, max_size=30))
    missing = draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    known = {number for number, gap in zip(numbers, missing, strict=True) if not gap}
    if (-1 in known and known <= {-1, 1}) or (-1 in numbers and set(numbers) <= {-1, 1}):
        numbers = [*numbers, 3]  # otherwise they are recoded
        missing = [*missing, False]
    values: list[Any] = [None if gap else number for number, gap in zip(numbers, missing, strict=True)]
    form = draw(st.sampled_from(("float", "object", "text", "decimal", "dense")))
    if form == "float":
        return values, np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    if form == "object":
        return values, np.array(values, dtype=object)
    if form == "text":
        gaps = st.sampled_from(("", "NA", " nan ", "NULL", "None"))
        return values, np.array([draw(gaps) if v is None else repr(v) for v in values])
    if form == "decimal":
        return values, np.array([None if v is None else Decimal(repr(v)) for v in values], dtype=object)
    dtype = np.float32 if any(isinstance(n, float) for n in numbers) else draw(st.sampled_from((np.int16, np.int64)))
    return list(numbers), np.array(numbers, dtype=dtype)


@settings(max_examples=60)
@given(columns())
def test_numbers_survive_any_type_and_gaps_are_missing(case: tuple[list[float | None], np.ndarray]) -> None:
    values, column = case
    label = read_labels("rows", {"y": column})
    expected = np.array([np.nan if v is None else v for v in values], dtype=np.float32)
    np.testing.assert_array_equal(label.labels["y"], expected)
    np.testing.assert_array_equal(label.known, ~np.isnan(expected))
    gaps = int(np.isnan(expected).sum())
    assert any(f"missing in {gaps} of {len(values)} rows" in note for note in label.notes) == bool(gaps)
    kind = infer_label_kind(expected, 1)
    assert label.values["y"].kind(1) is kind
    known = {v for v in values if v is not None}
    assert (kind is LabelKind.BINARY) == (known <= {0, 1})
    for logits in range(3, 8):
        fits = all(v == int(v) and 0 <= v < logits for v in known)
        assert (infer_label_kind(expected, logits) is LabelKind.CLASSES) == ((fits and bool(known)) or not known)


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ((True, False, None), (1, 0, np.nan), "missing in 1 of 3 rows"),
        ((-1, 1, 1), (0, 1, 1), "contains -1 and 1, which are read as 0 and 1"),
        (("yes", "No", "NA"), (1, 0, np.nan), "'yes' as 1 and 'No' as 0"),
        (("false", "true"), (0, 1), "'true' as 1 and 'false' as 0"),
        (("1", "0.0"), (1, 0), "text that contains numbers"),
        (("drama", "action", "drama"), (1, 0, 1), "classes in alphabetical order: 'action' 0, 'drama' 1"),
        (("buy", "none", "view", ""), (0, 1, 2, np.nan), "'buy' 0, 'none' 1, 'view' 2"),
        (("2", "None", "3"), (2, np.nan, 3), "missing in 1 of 3 rows"),
        ((b"2", b"3"), (2, 3), "text that contains numbers"),
    ],
)
def test_a_recoding_is_said(values: tuple[object, ...], expected: tuple[float, ...], note: str) -> None:
    label = read(*values)
    np.testing.assert_array_equal(label.labels["y"], expected)
    assert note in " ".join(label.notes)


@pytest.mark.parametrize("values", [(0, 1), (0.0, 1.0), (1, 5, 3), (0, 1, 2), (2.5,), (True, False)])
def test_numbers_need_no_note(values: tuple[object, ...]) -> None:
    assert read(*values).notes == ()


def test_signs_beside_other_numbers_stay() -> None:
    assert read(-1, 0, 1).labels["y"].tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("values", "stated"), [((0, 1, 99), "99"), ((0, 1, -1), "-1"), (("0", "1", "-1.0"), "-1"), (("0", "1", "?"), "?")]
)
def test_a_stated_value_is_missing(values: tuple[object, ...], stated: str) -> None:
    label = read(*values, missing=stated)
    np.testing.assert_array_equal(label.labels["y"], [0, 1, np.nan])
    assert label.values["y"].kind(1) is LabelKind.BINARY


def test_a_stated_value_that_does_not_occur_is_said() -> None:
    assert read(0, 1, missing="7").notes == ("No label contains 7, the value of --missing-label.",)


def test_rows_with_one_of_several_labels_stay() -> None:
    read_two = read_labels("rows", {"a": np.array([1.0, np.nan, np.nan]), "b": np.array([0, 1, None], dtype=object)})
    assert read_two.known.tolist() == [True, True, False]
    assert len(read_two.notes) == 3
    assert "1 of 3 rows have none of the labels" in read_two.notes[-1]


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ((1.0, np.inf), None, "'y' of rows contains infinity in 1 row, row 1"),
        ((1.0, 1e300), None, "infinity"),
        ((0, 1, 2, 3), LabelKind.BINARY, "must be 0 or 1 .* it is 2 in 2 rows, the first is row 2"),
        (("0", "maybe"), LabelKind.BINARY, "the text 'maybe', but the model was trained with 0 and 1"),
        (("4", "many"), LabelKind.NUMBER, "the text 'many', but the model was trained with numbers"),
        (({},), None, "contains dict"),
    ],
)
def test_labels_without_a_meaning_are_refused(values: tuple[object, ...], kind: LabelKind | None, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(*values, kinds={} if kind is None else {"y": kind})


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ([1.0, -2.0, -1.0], "'w' of rows is negative in 2 rows, the first is row 1"),
        ([1.0, np.nan, 1.0], "'w' of rows is missing in 1 row, row 1"),
        ([np.inf, 1.0, 1.0], "infinite"),
        ([0.0, 0.0, 0.0], "is 0 in all 3 rows"),
        (["a", "b", "c"], "contains .* --weight requires one number"),
    ],
)
def test_weights_that_weigh_nothing_are_refused(weights: list[object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_labels("rows", {"y": np.array([0, 1, 1])}, weights=("w", np.array(weights)))


def test_training_rows_need_each_label_and_a_weight() -> None:
    inputs = {"user": np.arange(2)}
    labels = {"a": np.array([0.0, 1.0], dtype=np.float32), "b": np.full(2, np.nan, dtype=np.float32)}
    with pytest.raises(DataError, match="'b' is missing in all 2 training rows of rows"):
        check_training_rows("rows", Rows(inputs, labels))
    with pytest.raises(DataError, match="weight is 0 in all 2 training rows"):
        check_training_rows("rows", Rows(inputs, {"a": labels["a"]}, weights=np.zeros(2, dtype=np.float32)))


def test_a_label_with_one_value_in_training_is_noted() -> None:
    labels = {"a": np.array([1.0, np.nan, 1.0]), "b": np.array([0.0, 1.0, np.nan]), "c": np.full(3, np.nan)}
    notes = describe_constant_labels(measure_labels(Rows({"user": np.arange(3)}, labels)))
    assert [note.partition(" in all")[0] for note in notes] == ["The label 'a' is 1"]


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        (("click", "no click"), "'click', 'no click'.* write 1 for one of them and 0 for the other"),
        (("click", "none"), "'click', 'none'"),
        (("buy", "none", "view"), "'buy', 'none', 'view'.* --missing-label"),
    ],
)
def test_texts_that_no_recommender_learns_are_listed_with_a_remedy(values: tuple[str, ...], remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        refuse_texts("rows", read(*values))
