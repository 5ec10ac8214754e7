"""The raw rows of a bundle are checked by `verify`: their answers everywhere, their encoding where polars is installed."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from recprune_export.bundle import verify, write_bundle
from recprune_export.bundle._verify import OpenSession, check_raw_rows, read_manifest
from recprune_export.bundle.raw_rows import RAW_ROWS, from_json, make_raw_rows, read_raw_rows, to_json
from recprune_export.data import encode_json_rows
from recprune_export.errors import BundleError, ValidationFailed
from recprune_export.program import BATCH, Input, Output, Signature
from tests.data.encoding.random_rows import make_field_encoder


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def change(bundle: Path, old: str, new: str) -> None:
    text = (bundle / RAW_ROWS).read_text(encoding="utf-8")
    assert old in text
    (bundle / RAW_ROWS).write_text(text.replace(old, new, 1), encoding="utf-8")


def test_another_answer_is_found(copy: Path) -> None:
    values = json.loads((copy / RAW_ROWS).read_text(encoding="utf-8"))
    name, answers = next(iter(values["outputs"].items()))
    answers[2] += 0.5
    (copy / RAW_ROWS).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValidationFailed, match=rf"The outputs for {RAW_ROWS} differ: Output '{name}'"):
        check_raw_rows(copy, read_manifest(copy), OpenSession())


def test_another_encoding_is_found_and_named(copy: Path) -> None:
    row = json.loads((copy / RAW_ROWS).read_text(encoding="utf-8"))["rows"][0]
    change(copy, json.dumps(row["user"]), '"another user"')
    with pytest.raises(ValidationFailed, match=r"This release encodes the rows of .* differently, in 'user'"):
        check_raw_rows(copy, read_manifest(copy), OpenSession())


def test_without_polars_the_answers_are_checked_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)  # an import of it fails
    assert verify(bundle).raw_rows == "unchecked"


@pytest.mark.parametrize("text", ["[]", "{}", '{"rows": [], "inputs": {"user": 3}, "outputs": {}}', "nothing"])
def test_rows_that_cannot_be_read_are_refused(copy: Path, text: str) -> None:
    (copy / RAW_ROWS).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=re.escape(RAW_ROWS)):
        check_raw_rows(copy, read_manifest(copy), OpenSession())


def test_the_first_rows_alone_are_answered_where_a_row_has_many_answers(tmp_path: Path) -> None:
    encoder = make_field_encoder()
    inputs = tuple(Input(i.name, i.dtype, (BATCH,)) for i in encoder.inputs)
    signature = Signature(inputs, (Output("y", "float32", (BATCH, 4000)),))
    text = make_raw_rows(encoder.to_dict(), signature, lambda r: {"y": np.zeros((len(r["shop"]), 4000), np.float32)})
    (tmp_path / "rows.json").write_bytes(text)
    rows, encoded, request, answers = read_raw_rows(tmp_path / "rows.json", signature)
    assert (len(rows), len(encoded["tags"]), len(request["tags"]), len(answers["y"])) == (32, 32, 2, 2)


def test_shared_inputs_have_one_value_in_all_rows(tmp_path: Path) -> None:
    encoder = make_field_encoder()
    inputs = tuple(Input(i.name, i.dtype, (BATCH,)) for i in encoder.inputs)
    signature = Signature(inputs, (Output("y", "float32", (BATCH,)),)).with_shared(["shop", "numeric"])
    asked = []

    def answer(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append({name: len(values) for name, values in request.items()})
        return {"y": np.zeros(len(request["tags"]), np.float32)}

    (tmp_path / "rows.json").write_bytes(make_raw_rows(encoder.to_dict(), signature, answer))
    rows, encoded, request, _ = read_raw_rows(tmp_path / "rows.json", signature)
    assert asked[-1] == {name: len(values) for name, values in request.items()}
    assert (asked[-1]["shop"], asked[-1]["tags"]) == (1, 32)
    assert len(np.unique(encoded["shop"])) == 1
    assert len(np.unique(encoded["numeric"], axis=0)) == 1
    again = encode_json_rows(encoder, rows)
    assert all(np.array_equal(values, again[name]) for name, values in encoded.items())


def test_numbers_survive_json() -> None:
    numbers = np.array([[0.1, -np.inf], [np.nan, 1e-40], [16777217, 3.4e38]], dtype=np.float32)
    again = from_json(json.loads(json.dumps(to_json(numbers), allow_nan=False)), "float32")
    np.testing.assert_array_equal(again, numbers)


def test_a_bundle_without_an_encoding_has_none(tmp_path: Path) -> None:
    from tests.bundle.samples import files, manifest

    assert verify(write_bundle(tmp_path / "b", files(), manifest())).raw_rows == "absent"


@pytest.mark.parametrize(
    ("section", "rows"), [("inputs", slice(-1)), ("inputs", slice(0)), ("outputs", slice(0)), ("rows", slice(0))]
)
def test_other_numbers_of_rows_are_refused(copy: Path, section: str, rows: slice) -> None:
    values = json.loads((copy / RAW_ROWS).read_text(encoding="utf-8"))
    if section == "rows":
        values["rows"] = values["rows"][rows]
    else:
        name = next(iter(values[section]))
        values[section][name] = values[section][name][rows]
    (copy / RAW_ROWS).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(BundleError, match=re.escape(RAW_ROWS)):
        check_raw_rows(copy, read_manifest(copy), OpenSession())
