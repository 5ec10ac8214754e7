"""`model.raw.onnx` gives the answers of `model.onnx` to the rows that the encoder makes of raw values."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from recprune_export.api import compress
from recprune_export.bundle import ENCODING, read_manifest, verify
from recprune_export.data import (
    Encoder,
    Schema,
    SchemaOverrides,
    SequenceEncoder,
    Vocabulary,
    encode_json_rows,
)
from recprune_export.data.encoding import read_encoder
from recprune_export.derived import SourceModel, validate_derived
from recprune_export.derived.raw_inputs import (
    MISSING_INTEGER,
    RAW_MODEL,
    RawIds,
    RawInput,
    derive_raw_inputs,
    plan_of_encoder,
)
from recprune_export.errors import ExportError
from recprune_export.onnx.runtime import make_session, run
from recprune_export.prediction import predict
from recprune_export.program import Signature
from recprune_export.training import train
from tests.data.encoding.random_rows import (
    draw_field_rows,
    draw_histories,
    make_field_encoder,
    make_history_encoder,
)
from tests.derived.raw_inputs.raw_requests import list_inputs, make_raw_request, write_echo
from tests.jobs import QUICK

INTEGERS = ["7", "12", "0", "-3", "9007199254740993"]


def make_integer_encoder() -> Encoder:
    encoder = make_field_encoder()
    vocabularies = {name: Vocabulary(INTEGERS, of.first) for name, of in encoder.vocabularies.items()}
    return replace(encoder, vocabularies=vocabularies)


def derive(encoder: Encoder | SequenceEncoder, source: SourceModel, folder: Path) -> tuple[RawInput, ...]:
    plan = plan_of_encoder(encoder, source.file.signature)
    derive_raw_inputs(source, folder, make_plan=lambda signature: plan)
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_field_encoder, make_integer_encoder, make_history_encoder])
def test_a_thousand_odd_rows_are_encoded_as_by_the_encoder(
    tmp_path: Path, make: Callable[[], Encoder | SequenceEncoder]
) -> None:
    encoder = make()
    plan = derive(encoder, write_echo(tmp_path, list_inputs(encoder)), tmp_path)
    rows: list[dict[str, Any]]
    if isinstance(encoder, SequenceEncoder):
        rows = [{"history": row["history"] and row["history"][:5]} for row in draw_histories(1000, 1)]
    else:
        rows = draw_field_rows(1000, 1)
    answers = run(make_session(tmp_path / RAW_MODEL, 1), make_raw_request(encoder, plan, rows))
    for name, expected in encode_json_rows(encoder, rows).items():
        np.testing.assert_array_equal(answers[f"of {name}"], expected.astype(np.float32), err_msg=name)


def test_integers_are_taken_as_integers_where_all_values_are(tmp_path: Path) -> None:
    for make, dtype in ((make_field_encoder, "str"), (make_integer_encoder, "int64")):
        encoder = make()
        plan = plan_of_encoder(encoder, Signature(tuple(list_inputs(encoder)), ()))
        assert {part.dtype for part in plan if isinstance(part, RawIds)} == {dtype}
    vocabulary = Vocabulary(["7", "-0"], 1)
    encoder = Encoder(Schema(categorical=("shop",)), {"shop": vocabulary}, {}, {})
    (part,) = plan_of_encoder(encoder, Signature(tuple(list_inputs(encoder)), ()))
    assert isinstance(part, RawIds)
    assert part.dtype == "str"
    assert np.iinfo(np.int64).min == MISSING_INTEGER


@pytest.mark.parametrize("make", [make_field_encoder, make_integer_encoder, make_history_encoder])
@pytest.mark.parametrize("shared", [(), ("shop", "numeric")])
def test_rows_are_decoded_validated_and_timed(
    tmp_path: Path, make: Callable[[], Encoder | SequenceEncoder], shared: tuple[str, ...]
) -> None:
    encoder = make()
    if isinstance(encoder, SequenceEncoder) and shared:
        pytest.skip("a history alone cannot be shared")
    inputs = Signature(tuple(list_inputs(encoder)), ()).with_shared(shared).inputs
    source = write_echo(tmp_path, inputs)
    rows = {}
    for spec in list_inputs(encoder):
        shape = (64, *spec.shape[1:])
        drawn = np.random.default_rng(0).integers(0, 9, shape)  # type: ignore[arg-type]
        rows[spec.name] = np.sort(drawn, axis=-1) if len(shape) > 1 else drawn
        rows[spec.name] = rows[spec.name].astype(spec.dtype)
    source = replace(source, rows=rows)
    model = derive_raw_inputs(source, tmp_path, make_plan=partial(plan_of_encoder, encoder))
    validated = validate_derived(model, source, (1, 8), threads=1, seed=0)
    assert validated.parity.passed
    encoded = model.to_source(model.rows)
    for name, values in rows.items():
        if name == "numeric":
            np.testing.assert_allclose(encoded[name], values, rtol=1e-5, atol=1e-5)
        elif isinstance(encoder, SequenceEncoder) or make is make_field_encoder:
            np.testing.assert_array_equal(encoded[name], values)


def test_only_standard_operators_of_old_runtimes_are_used(tmp_path: Path) -> None:
    encoder = make_field_encoder()
    derive(encoder, write_echo(tmp_path, list_inputs(encoder)), tmp_path)
    model = onnx.load(tmp_path / RAW_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain: o.version for o in model.opset_import} == {"": 17, "ai.onnx.ml": 2}
    assert {n.op_type for n in model.graph.node} == {
        "LabelEncoder", "Unsqueeze", "Concat", "Sub", "Div", "Cast", "IsNaN", "Where"
    }  # fmt: skip


def write_named(folder: Path, inner: str, weights: np.ndarray) -> SourceModel:
    """Write a model of the input `numeric` with an inner value and weights of given names."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["numeric", "price"], [inner]), helper.make_node("Identity", [inner], ["y"])],
        "named",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "price")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    source = write_echo(folder / "echo", list_inputs(make_number_encoder()))
    session = make_session(folder / "model.onnx", 1)
    file = replace(source.file, path=folder / "model.onnx")
    return replace(source, file=file, answer=lambda request: run(session, request))


def make_number_encoder() -> Encoder:
    return Encoder(Schema(numeric=("age", "price")), {}, {"age": 1.0, "price": 0.0}, {"age": 2.0, "price": 1.0})


@pytest.mark.parametrize("inner", ["age", "numeric_encoded", "raw_means"])
def test_names_inside_of_the_model_may_be_those_of_columns(tmp_path: Path, inner: str) -> None:
    (tmp_path / "echo").mkdir()
    source = write_named(tmp_path, inner, np.eye(2, dtype=np.float32))
    derive(make_number_encoder(), source, tmp_path)
    answers = run(
        make_session(tmp_path / RAW_MODEL, 1), {"age": np.array([5.0, np.nan]), "price": np.array([1.0, 2.0])}
    )
    assert answers["y"].tolist() == [[2.0, 1.0], [0.0, 2.0]]


def test_a_column_may_have_the_name_of_the_input_of_all_numbers(tmp_path: Path) -> None:
    encoder = Encoder(Schema(numeric=("a", "numeric")), {}, {"a": 1.0, "numeric": 0.0}, {"a": 2.0, "numeric": 1.0})
    (tmp_path / "echo").mkdir()
    source = write_named(tmp_path, "inner", np.eye(2, dtype=np.float32))
    source = replace(source, rows={"numeric": np.arange(8, dtype=np.float32).reshape(4, 2)})
    model = derive_raw_inputs(source, tmp_path, make_plan=partial(plan_of_encoder, encoder))
    request = {"a": np.array([5.0]), "numeric": np.array([3.0])}
    assert run(make_session(tmp_path / RAW_MODEL, 1), request)["y"].tolist() == [[2.0, 3.0]]
    assert model.to_source(request)["numeric"].tolist() == [[2.0, 3.0]]


def test_large_weights_are_shared(tmp_path: Path) -> None:
    (tmp_path / "echo").mkdir()
    source = write_named(tmp_path, "inner", np.ones((2, 5000), dtype=np.float32))
    derive(make_number_encoder(), source, tmp_path)
    assert (tmp_path / RAW_MODEL).stat().st_size < 4000
    answers = run(make_session(tmp_path / RAW_MODEL, 1), {"age": np.array([5.0]), "price": np.array([1.0])})
    assert (answers["y"] == 3.0).all()


def test_a_column_with_the_name_of_an_output_is_refused(tmp_path: Path) -> None:
    encoder = Encoder(Schema(numeric=("y",)), {}, {"y": 0.0}, {"y": 1.0})
    (tmp_path / "echo").mkdir()
    with pytest.raises(ExportError, match="'y' is a raw input and an output"):
        derive(encoder, write_named(tmp_path, "inner", np.eye(2, dtype=np.float32)), tmp_path)


def test_the_keys_of_a_removed_field_are_left_out(tmp_path: Path) -> None:
    encoder = make_field_encoder()
    source = write_echo(tmp_path, list_inputs(encoder))
    model = onnx.load(tmp_path / "model.onnx")
    kept = [node for node in model.graph.node if node.input[0] != "shop"]
    del model.graph.node[:], model.graph.output[0]
    model.graph.node.extend(kept)
    onnx.save(model, tmp_path / "model.onnx")
    derive(encoder, source, tmp_path)
    model = onnx.load(tmp_path / RAW_MODEL)
    assert "shop" in {i.name for i in model.graph.input}
    assert not any("shop" in node.input for node in model.graph.node)


@pytest.fixture(scope="module")
def raw_bundle(checkpoint: Path, clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("raw") / "ctr"
    compress(checkpoint, target=target, data=clicks_file, settings=QUICK, raw_inputs=True)
    return target


def odd_table(clicks_file: Path) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Return a thousand rows for `predict`, and the same as JSON values; every third row is odd in a field or two."""
    frame = pl.read_parquet(clicks_file).head(1000)
    odd = pl.int_range(pl.len()) % 3 == 0
    which = pl.int_range(pl.len()) % 7
    frame = frame.with_columns(
        user=pl.when(odd & (which == 0)).then(None).when(odd & (which == 1)).then(pl.lit("new")).otherwise("user"),
        item=pl.when(odd & (which == 2)).then(pl.lit("")).when(odd & (which == 3)).then(" " + pl.col("item")).otherwise("item"),
        tags=pl.when(odd & (which == 4)).then(pl.lit("sale||eco | new thing|")).when(odd & (which == 5)).then(None).otherwise("tags"),
        age=pl.when(odd & (which == 6)).then(None).when(odd & (which == 5)).then(float("nan")).otherwise(pl.col("age").cast(float)),
        price=pl.when(odd & (which == 1)).then(1e300).otherwise("price"),
    )  # fmt: skip
    rows = [
        {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
        for row in frame.to_dicts()
    ]
    return frame, rows


def test_the_scores_are_those_of_predict(raw_bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    frame, rows = odd_table(clicks_file)
    frame.write_parquet(tmp_path / "rows.parquet")
    predict(raw_bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")
    expected = pl.read_parquet(tmp_path / "scores.parquet")["clicked_logit"].to_numpy()
    answers = run(make_session(raw_bundle / RAW_MODEL, 1), make_bundle_request(raw_bundle, rows))
    np.testing.assert_allclose(answers["clicked"], expected, rtol=1e-5, atol=1e-6)
    assert np.unique(expected).size > 500


def make_bundle_request(bundle: Path, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    encoder = read_encoder(json.loads((bundle / ENCODING).read_text()))
    return make_raw_request(
        encoder, plan_of_encoder(encoder, Signature.from_dict(read_manifest(bundle).signature)), rows
    )


def test_a_bundle_says_how_its_raw_file_is_called(raw_bundle: Path) -> None:
    entry = read_manifest(raw_bundle).models[RAW_MODEL]
    assert [(i["name"], i["dtype"]) for i in entry["signature"]["inputs"]] == [
        ("user", "str"), ("item", "str"), ("category", "str"), ("device", "str"), ("tags", "str"),
        ("age", "float64"), ("price", "float64"),
    ]  # fmt: skip
    assert entry["load_milliseconds"][RAW_MODEL] > 0
    readme = (raw_bundle / "README.md").read_text()
    assert "`model.raw.onnx` accepts raw values and encodes them: strings in their canonical form" in readme
    assert {output.file for output in verify(raw_bundle).outputs} == {"model.onnx", RAW_MODEL}


@pytest.mark.slow
def test_histories_have_a_raw_file(sequences_file: Path, tmp_path: Path) -> None:
    train(sequences_file, "sasrec", tmp_path / "m.pt", SchemaOverrides(), {"dim": 8}, epochs=1)
    compress(tmp_path / "m.pt", target=tmp_path / "b", data=sequences_file, settings=QUICK, raw_inputs=True)
    encoder = read_encoder(json.loads((tmp_path / "b" / ENCODING).read_text()))
    items = encoder.items.to_list()[:9]
    rows = [{"history": [*items[: n % 7], "new", None, *items[n % 4 :]]} for n in range(50)]
    raw = run(make_session(tmp_path / "b" / RAW_MODEL, 1), make_bundle_request(tmp_path / "b", rows))
    expected = run(make_session(tmp_path / "b" / "model.onnx", 1), encode_json_rows(encoder, rows))
    np.testing.assert_allclose(raw["scores"], expected["scores"], rtol=1e-5, atol=1e-6)


NODE = """
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
const [modules, package_, model, request, answer] = process.argv.slice(2);
const ort = createRequire(modules + "/")(package_);
const given = JSON.parse(readFileSync(request, "utf8"));
const feeds = {};
for (const [name, { type, dims, data }] of Object.entries(given)) {
  const values = type === "string" ? data : type === "int64" ? BigInt64Array.from(data, BigInt) : Float64Array.from(data, Number);
  feeds[name] = new ort.Tensor(type, values, dims);
}
const session = await ort.InferenceSession.create(package_ === "onnxruntime-web" ? readFileSync(model) : model);
const out = await session.run(feeds);
writeFileSync(answer, JSON.stringify(Object.fromEntries(Object.entries(out).map(([n, t]) => [n, Array.from(t.data)]))));
"""
NODE_MODULES = Path(os.environ.get("NODE_PATH", "node_modules"))  # npm install onnxruntime-node onnxruntime-web


@pytest.mark.slow
@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_node_gives_the_same_scores(raw_bundle: Path, clicks_file: Path, tmp_path: Path, package: str) -> None:
    if shutil.which("node") is None or not (NODE_MODULES / package).is_dir():
        pytest.skip(f"{package} is not installed in {NODE_MODULES}")
    request = make_bundle_request(raw_bundle, odd_table(clicks_file)[1])
    types = {"U": "string", "i": "int64", "f": "float64"}
    written = {
        name: {"type": types[a.dtype.kind], "dims": a.shape, "data": [str(v) if a.dtype.kind != "U" else v for v in a.ravel().tolist()]}
        for name, a in request.items()
    }  # fmt: skip
    (tmp_path / "request.json").write_text(json.dumps(written).replace('"nan"', '"NaN"'))
    (tmp_path / "run.mjs").write_text(NODE)
    model = raw_bundle / RAW_MODEL
    subprocess.run(
        [
            "node",
            tmp_path / "run.mjs",
            NODE_MODULES,
            package,
            model,
            tmp_path / "request.json",
            tmp_path / "answer.json",
        ],
        check=True,
    )
    expected = run(make_session(model, 1), request)["clicked"]
    np.testing.assert_allclose(
        json.loads((tmp_path / "answer.json").read_text())["clicked"], expected, rtol=1e-5, atol=1e-6
    )
