"""The program of a bundle answers as `predict` does, names what is wrong with a request, and stays within its limits."""

import contextlib
import http.client
import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recprune_export.bundle import verify
from recprune_export.prediction import predict
from tests.bundle.complete import SIGNATURE, answer, request, write
from tests.bundle.servers.serving.served import JSON, Served, serve
from tests.prediction.test_predict import raw

ROW = {"user": "ann", "tags": "red|blue", "age": 31.5, "price": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    with serve(bundle, "--max-body", "200000", "--timeout", "2", "--max-batch", "1000") as started:
        yield started
    verify(bundle)  # serving left nothing in it


def inputs(**changes: Any) -> dict[str, Any]:
    return {"inputs": {**{name: values.tolist() for name, values in request().items()}, **changes}}


def tensors(**changes: Any) -> dict[str, Any]:
    types = {"int64": "INT64", "float32": "FP32"}
    listed = [
        {"name": n, "datatype": types[v.dtype.name], "shape": list(v.shape), "data": v.ravel().tolist()}
        for n, v in request().items()
    ]
    return {"inputs": [{**tensor, **changes.get(tensor["name"], {})} for tensor in listed]}


def test_raw_rows_have_the_scores_of_predict(bundle: Path, served: Served, tmp_path: Path) -> None:
    rows = raw(700, seed=3)
    rows.write_parquet(tmp_path / "rows.parquet")
    predict(bundle, tmp_path / "rows.parquet", tmp_path / "scores.parquet")
    status, answered = served.ask("/predict", {"rows": rows.to_dicts()})
    assert status == 200
    scores = np.array(answered["outputs"]["y"], dtype=np.float32)
    np.testing.assert_array_equal(scores, pl.read_parquet(tmp_path / "scores.parquet")["y"].to_numpy())


@pytest.mark.parametrize(("route", "sample"), [("/predict", "predict"), ("/v2/models/sum/infer", "kserve")])
def test_the_samples_of_the_bundle_are_answered(bundle: Path, served: Served, route: str, sample: str) -> None:
    status, answered = served.ask(route, (bundle / f"samples/{sample}-request.json").read_bytes())
    golden = json.loads((bundle / f"samples/{sample}-response.json").read_text())
    assert status == 200
    read = (lambda v: v["outputs"]["y"]) if sample == "predict" else (lambda v: v["outputs"][0]["data"])
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    first, second = (np.array([words.get(str(n), n) for n in read(v)], float) for v in (answered, golden))
    np.testing.assert_allclose(first, second, rtol=1e-5)
    if sample == "kserve":
        assert {**answered, "outputs": 0} == {**golden, "outputs": 0}
        assert answered["outputs"][0]["shape"] == golden["outputs"][0]["shape"]


def test_inputs_by_name_are_answered(served: Served) -> None:
    status, answered = served.ask("/predict", inputs())
    assert status == 200
    np.testing.assert_allclose(answered["outputs"]["y"], answer(request())["y"], rtol=1e-6)


def test_numbers_that_json_does_not_have_are_words(served: Served) -> None:
    numeric = [["NaN", 0], ["Infinity", 1], ["-Infinity", 0], [0.5, 1], [0, 0]]
    _, answered = served.ask("/predict", inputs(numeric=numeric))
    assert answered["outputs"]["y"][:3] == ["NaN", "Infinity", "-Infinity"]


def test_metadata_states_names_types_and_shapes(served: Served) -> None:
    status, answered = served.ask("/v2/models/sum")
    assert (status, answered["name"]) == (200, "sum")
    assert [t["name"] for t in answered["inputs"]] == [i.name for i in SIGNATURE.inputs]
    assert [t["shape"] for t in answered["inputs"]] == [[-1], [-1, 3], [-1, 2]]
    assert answered["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1]}]
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/sum/ready", "/v2/models/sum/versions/1"):
        assert served.ask(path)[0] == 200, path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age": ...}, "Row 1 lacks the field 'age': give a number, or null. It has user, tags, price."),
        ({"user": ..., "User": "ann"}, "lacks the field 'user': give a string or a number"),
        ({"tags": ["red"]}, "'tags' in row 1 must be a string with \"|\" between values"),
        ({"user": {"id": 7}}, "'user' in row 1 must be a string or a number"),
        ({"price": 10**400}, "'price' in row 1 must be a number"),
        ({"age": "thirty"}, "'age' in row 1 must be a number, or null, not \"thirty\"."),
        ({"age": "30 years"}, "'age' in row 1 must be a number"),
        ({"age": "inf"}, "'age' in row 1 must be a number"),
        ({"age": [30]}, "'age' in row 1 must be a number"),
    ],
)
def test_a_row_that_does_not_fit_is_answered_with_its_field(served: Served, change: dict[str, Any], words: str) -> None:
    row = {name: value for name, value in {**ROW, **change}.items() if value is not ...}
    status, answered = served.ask("/predict", {"rows": [ROW, row]})
    assert status == 400
    assert words in answered["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"not json", "The body is not JSON"),
        (b"\xff", "The body is not JSON"),
        (b"[" * 100_000, "The body is not JSON"),
        (b"1" * 5000, "The body is not JSON"),
        (b"[1]", "must be an object"),
        (b"{}", "either 'rows' or 'inputs'"),
        (b'{"inputs": {"user": [NaN]}}', 'write "NaN"'),
        ({"rows": 7}, "'rows' must be a list of rows"),
        ({"rows": []}, "at least one"),
        ({"rows": [7]}, "Row 0 must be an object with the fields user, tags, age, price, not 7"),
        ({"rows": [ROW], "inputs": {}}, "either 'rows' or 'inputs'"),
        ({"inputs": [1]}, "must be an object with user, tags, numeric"),
        ({"inputs": {"user": [1]}}, "The input 'tags' is missing: the model expects user, tags, numeric"),
        (inputs(colour=[1]), 'no input "colour"'),
        (inputs(user=[1, 2]), "'user' has 2 rows and 'tags' has 5"),
        (inputs(user=[[1]] * 5), "'user' has the shape [5, 1], but the model expects (batch)"),
        (inputs(tags=[[1, 2]] * 5), "'tags' has the shape [5, 2], but the model expects (batch, 3)"),
        (inputs(tags=[[1, 2, 3], [1]] + [[1, 2, 3]] * 3), "'tags' contains lists of different lengths"),
        (inputs(tags=[[1, 2, [3]]] * 5), "'tags'"),
        (inputs(user=["1"] * 5), "'user' must be INT64, but contains \"1\""),
        (inputs(user=[True] * 5), "'user' must be INT64, but contains true"),
        (inputs(user=[1.0] * 5), "'user' must be INT64, but contains 1.0"),
        (inputs(user=[2**63] + [0] * 4), "'user' must be INT64, but 9223372036854775808 is out of range"),
        (inputs(user=[4] * 5), "'user' contains the id 4 in row 0; valid ids are 0 to 3"),
        (inputs(numeric=[[1e39, 0]] * 5), "'numeric' must be FP32, but 1e+39 is out of range"),
        (inputs(numeric=[["one", 0]] * 5), "'numeric' must contain numbers, but contains \"one\""),
        (inputs(numeric=[[10**400, 0]] * 5), "out of range for float64"),
        (inputs(user=7), "'user' has the shape []"),
        (inputs(user=[None] * 5), "'user' must be INT64, but contains null"),
        (inputs(user=[], tags=[], numeric=[]), "'tags' has the shape [0]"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_answered_with_what_is_wrong(served: Served, body: object, words: str) -> None:
    status, answered = served.ask("/predict", body)
    assert (status, answered.keys()) == (400, {"error"})
    assert words in answered["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "'inputs' must be a list of objects"),
        ({"inputs": [7]}, "'inputs' must be a list of objects"),
        ({"inputs": []}, "The input 'user' is missing"),
        ({"inputs": [{"name": "colour"}]}, 'no input "colour"'),
        (tensors(user={"datatype": "INT32"}), "'user' has the datatype \"INT32\", but the model expects INT64"),
        (tensors(user={"shape": [5, 1]}), "'user' has the shape [5, 1], but the model expects (batch)"),
        (tensors(user={"shape": [4]}), "'user' has 5 values in 'data', which do not match the shape [4]"),
        (tensors(user={"shape": [-5]}), "'shape' of 'user' must be a list of sizes"),
        (tensors(user={"data": None}), "'user' has no list 'data'"),
        (tensors(user={"parameters": {"binary_data_size": 40}}), "only as JSON"),
        ({**tensors(), "parameters": {"binary_data_output": True}}, "only as JSON"),
        ({**tensors(), "outputs": [{"name": "z"}]}, 'no output "z": it has y'),
        ({"inputs": [tensors()["inputs"][0]] * 2}, '"user" twice'),
    ],
)
def test_a_wrong_request_of_the_protocol_is_answered_with_what_is_wrong(
    served: Served, body: object, words: str
) -> None:
    status, answered = served.infer(body)
    assert (status, answered.keys()) == (400, {"error"})
    assert words in answered["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({**JSON, "Content-Encoding": "gzip"}, 415),
        ({**JSON, "Content-Length": "200001"}, 413),
        ({**JSON, "Content-Length": "200001", "Expect": "100-continue"}, 413),
        ({**JSON, "Content-Length": "many"}, 411),
        ({**JSON, "Transfer-Encoding": "chunked"}, 411),
        ({**JSON, "Inference-Header-Content-Length": "5"}, 400),
    ],
)
def test_a_wrong_kind_of_body_is_refused_before_it_is_read(
    served: Served, headers: dict[str, str], status: int
) -> None:
    found, answered = served.ask("/predict", b"{}", headers=headers)
    assert (found, answered.keys()) == (status, {"error"})


def test_more_rows_than_the_server_takes_are_refused(served: Served) -> None:
    rows, arrays = {"rows": [{"user": None, "tags": None, "age": 1, "price": 1}] * 1001}, request(1001)
    assert served.ask("/predict", rows)[0] == 413
    listed = {"inputs": {name: values.round(1).tolist() for name, values in arrays.items()}}
    assert served.ask("/predict", listed)[0] == 413


@pytest.mark.parametrize("path", ["/", "/predict/x", "/v2/models/other/infer", "/../manifest.json", "/%00"])
def test_an_unknown_path_names_those_that_there_are(served: Served, path: str) -> None:
    for body in (None, {}):
        status, answered = served.ask(path, body)
        assert status == 404
        assert "/v2/models/sum/infer" in answered["error"]


def test_other_methods_and_lines_that_are_no_http_are_answered_in_json(served: Served) -> None:
    assert served.ask("/predict", b"{}", method="PUT")[0] == 501
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        assert b'"error"' in connection.recv(10_000)


def test_a_connection_answers_many_requests_also_after_an_error(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    for body in (inputs(), {"rows": 1}, inputs()):
        connection.request("POST", "/predict", json.dumps(body).encode(), JSON)
        with connection.getresponse() as answered:
            assert (answered.status == 200) == ("inputs" in body)
            answered.read()
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [b"POST /predict HTTP/1.1\r\nContent-Length: 50\r\n\r\n{", b"POST /predict HT", b""],
    ids=["body", "line", "nothing"],
)
def test_a_slow_client_is_cut_off_however_it_trickles(served: Served, sent: bytes) -> None:
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(sent)
        connection.settimeout(0.4)
        received = b""
        while True:
            try:
                chunk = connection.recv(10_000)
            except TimeoutError:
                try:
                    connection.sendall(b" ")
                except OSError:
                    break
                continue
            except OSError:
                break
            if not chunk:
                break
            received += chunk
    assert 1.5 < time.monotonic() - start < 8
    assert received == b"" or b" 408 " in received
    assert served.ask("/v2/health/ready")[0] == 200


def test_a_client_that_goes_away_is_no_failure(served: Served) -> None:
    for sent in (b"POST /predict HTTP/1.1\r\nContent-Length: 50\r\n\r\n{", b"GET /v2 HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    assert served.ask("/predict", inputs())[0] == 200


def test_too_many_connections_are_refused_at_once(served: Served) -> None:
    held = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(80)]
    time.sleep(0.5)
    refused = 0
    for connection in held:
        connection.settimeout(0.05)
        with contextlib.suppress(OSError):
            refused += b" 503 " in connection.recv(1000)
    for connection in held:
        connection.close()
    assert 10 <= refused <= 17
    time.sleep(0.5)
    assert served.ask("/v2/health/ready")[0] == 200


def test_what_cannot_be_served_is_said_at_the_start(tmp_path: Path) -> None:
    made = write(tmp_path / "bundle")

    def start(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "serve_onnxruntime.py", *options],
            cwd=made,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "has no model.raw.onnx: choose from model.onnx" in start("--file", "model.raw.onnx")
    assert "--threads" in start("--threads", "0")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "cannot be served" in start("--port", str(other.getsockname()[1]))
    (made / "manifest.json").unlink()
    assert "manifest.json cannot be read" in start()
