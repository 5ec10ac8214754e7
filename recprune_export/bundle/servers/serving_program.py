"""`serve_onnxruntime.py`: the program in a bundle that serves it over HTTP, and a request for its plain route."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from recprune_export.bundle.raw_rows import to_json
from recprune_export.bundle.servers.serving.row_fields import RowFields

PROGRAM_FILE = "serve_onnxruntime.py"
FOLDER = "serving"
PREDICT_REQUEST = "samples/predict-request.json"
PREDICT_RESPONSE = "samples/predict-response.json"

_PROGRAM = '''\
"""Serve this bundle over HTTP with only the standard library, NumPy and ONNX Runtime.

    pip install onnxruntime numpy
    python serve_onnxruntime.py [--host 0.0.0.0] [--port 8000]

| route | body or response |
|---|---|
| POST /predict | {"inputs": {"user": [...], ...}}, or raw values where there is an encoding.json, {"rows": [{"user": "u17", ...}, ...]} |
| POST /v2/models/NAME/infer | KServe v2 (Open Inference Protocol) in JSON; its binary tensor data extension is refused |
| GET /v2, /v2/models/NAME, /v2/models/NAME/ready, /v2/health/live, /v2/health/ready | metadata and health |

`samples/predict-request.json` and `samples/kserve-request.json` are such requests. A number that JSON does not support is a
string: "NaN", "Infinity", "-Infinity". The response to an invalid request is {"error": "..."}, which names the field.

A request runs on the number of threads in the manifest; `--requests-at-once` requests are computed at a time, the others wait.
Memory is bounded by the size of requests (`--max-body`, `--max-batch`) and the number of connections, 64; a client that takes longer
than `--timeout` seconds to send a request or to receive the response is cut off. There is no encryption and no authentication: put a proxy
before it.
"""

import sys

sys.dont_write_bytecode = True  # a bundle has no files but its own

from serving.http_server import main

if __name__ == "__main__":
    main(sys.argv[1:])
'''


def make_serving_program() -> dict[str, bytes]:
    """Return the files of the program by their names in the bundle."""
    folder = resources.files("recprune_export.bundle.servers.serving")
    modules = sorted((file for file in folder.iterdir() if file.name.endswith(".py")), key=lambda file: file.name)
    return {PROGRAM_FILE: _PROGRAM.encode(), **{f"{FOLDER}/{file.name}": file.read_bytes() for file in modules}}


def make_predict_samples(
    request: Mapping[str, np.ndarray],
    response: Mapping[str, np.ndarray],
    raw_rows: Mapping[str, Any] | None = None,
    encoding: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Return request and answer of the plain route: arrays, or with an `encoding` the rows of `samples/raw-rows.json`.

    Only rows are used that have outputs there and that the program accepts: an encoder treats a text that is not a number as a missing
    value, but a service refuses it.
    """
    if raw_rows is None or encoding is None:
        body: dict[str, Any] = {"inputs": {name: to_json(values) for name, values in request.items()}}
        outputs = {name: to_json(values) for name, values in response.items()}
    else:
        answered, fields = max(map(len, raw_rows["outputs"].values())), RowFields(encoding)
        rows = raw_rows["rows"][:answered]
        taken = [number for number, row in enumerate(rows) if fields.takes(row)]
        body = {"rows": [rows[number] for number in taken]}
        outputs = {name: [values[number] for number in taken] for name, values in raw_rows["outputs"].items()}
    return {PREDICT_REQUEST: _format(body), PREDICT_RESPONSE: _format({"outputs": outputs})}


def _format(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
