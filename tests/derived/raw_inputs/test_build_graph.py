"""The graph encodes raw values as its plan does in NumPy, for any keys, ids and numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.derived.raw_inputs import MISSING_INTEGER, MISSING_TEXT, RawColumn, RawIds, RawNumbers
from recprune_export.derived.raw_inputs.build_graph import add_raw_inputs
from recprune_export.derived.raw_inputs.raw_input import RawInput
from recprune_export.onnx.runtime import make_session, run
from recprune_export.program import BATCH, Input
from tests.derived.raw_inputs.raw_requests import write_echo

INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-3, 3)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=4)
NUMBERS = st.floats(width=64)


def encode_by_graph(folder: Path, part: RawInput, spec: Input, request: dict[str, np.ndarray]) -> np.ndarray:
    source = write_echo(folder, [spec])
    model = onnx.load(source.file.path)
    add_raw_inputs(model, (part,))
    onnx.save(model, folder / "raw.onnx")
    return run(make_session(folder / "raw.onnx", 1), request)[f"of {spec.name}"]


@st.composite
def ids_of_texts_or_integers(draw: st.DrawFn) -> tuple[RawIds, np.ndarray]:
    dtype, values = draw(st.sampled_from([("str", TEXTS), ("int64", INTEGERS)]))
    keys = tuple(draw(st.lists(values, min_size=1, max_size=6, unique=True)))
    ids = tuple(draw(st.lists(st.integers(1, 9), min_size=len(keys), max_size=len(keys))))
    is_history = draw(st.booleans())
    length = draw(st.integers(1, 5)) if is_history else draw(st.sampled_from([0, 3]))
    missing = 0 if is_history else draw(st.integers(0, 2))
    part = RawIds(
        "user", dtype, (BATCH, length) if length else (BATCH,), keys, ids, 0, missing,
        encoded_dtype="int64" if is_history else draw(st.sampled_from(["int64", "int32"])), is_history=is_history,
    )  # fmt: skip
    shape = (draw(st.integers(1, 4)), length) if length else (draw(st.integers(1, 4)),)
    size = int(np.prod(shape))
    elements = values | st.sampled_from(keys) | st.just(MISSING_TEXT if dtype == "str" else MISSING_INTEGER)
    drawn = draw(st.lists(elements, min_size=size, max_size=size))
    return part, np.array(drawn, dtype=np.str_ if dtype == "str" else np.int64).reshape(shape)


@settings(max_examples=60)
@given(drawn=ids_of_texts_or_integers())
def test_ids(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[RawIds, np.ndarray]) -> None:
    part, values = drawn
    spec = Input("user", part.encoded_dtype, part.shape, ((0, 9),))
    answer = encode_by_graph(tmp_path_factory.mktemp("ids"), part, spec, {"user": values})
    encoded = part.encode({"user": values})
    np.testing.assert_array_equal(answer, encoded.astype(np.float32))
    np.testing.assert_array_equal(part.encode(part.decode(encoded)), encoded)
    if part.is_history:
        for row, raw in zip(encoded.tolist(), values.tolist(), strict=True):
            known = [i for i in map(dict(zip(part.keys, part.ids, strict=True)).get, raw) if i is not None]  # type: ignore[arg-type]
            assert row == [0] * (len(row) - len(known)) + known


@settings(max_examples=40)
@given(data=st.data(), rows=st.integers(1, 4), size=st.none() | st.integers(1, 3))
def test_numbers(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int, size: int | None) -> None:
    width = 1 + (size or 1)
    finite = st.floats(-1e6, 1e6)
    means = tuple(data.draw(st.lists(finite, min_size=width, max_size=width)))
    stds = tuple(data.draw(st.lists(st.floats(1e-6, 1e6), min_size=width, max_size=width)))
    part = RawNumbers("numeric", (RawColumn("age"), RawColumn("other", size)), means, stds, BATCH)
    numbers = np.array(data.draw(st.lists(NUMBERS, min_size=rows * width, max_size=rows * width))).reshape(rows, width)
    request = {"age": numbers[:, 0], "other": numbers[:, 1] if size is None else numbers[:, 1:]}
    spec = Input("numeric", "float32", (BATCH, width))
    answer = encode_by_graph(tmp_path_factory.mktemp("numbers"), part, spec, request)
    with np.errstate(over="ignore"):
        expected = [
            0.0 if np.isnan(x) else np.float32((x - m) / s)
            for row in numbers
            for x, m, s in zip(row, means, stds, strict=True)
        ]
    np.testing.assert_array_equal(answer.ravel(), np.array(expected, dtype=np.float32))
    np.testing.assert_array_equal(part.encode(request), answer)


def test_a_raw_input_may_have_the_name_of_a_value_that_is_added(tmp_path: Path) -> None:
    specs = [Input("user", "int32", (BATCH,), ((0, 9),)), Input("numeric", "float32", (BATCH, 3))]
    columns = tuple(map(RawColumn, ("user_encoded", "user_ids", "raw_zero")))
    plan = (
        RawIds("user", "str", (BATCH,), ("a",), (7,), 0, 0, encoded_dtype="int32"),
        RawNumbers("numeric", columns, (0.0,) * 3, (1.0,) * 3, BATCH),
    )
    model = onnx.load(write_echo(tmp_path, specs).file.path)
    add_raw_inputs(model, plan)
    onnx.save(model, tmp_path / "raw.onnx")
    request = {"user": np.array(["a", "b"]), **{c.name: np.array([n, n + 1.0]) for n, c in enumerate(columns)}}
    answer = run(make_session(tmp_path / "raw.onnx", 1), request)
    np.testing.assert_array_equal(answer["of user"], [7, 0])
    np.testing.assert_array_equal(answer["of numeric"], [[0, 1, 2], [1, 2, 3]])
