"""`samples/raw-rows.json`: raw rows, the inputs that they are encoded to, and the outputs. Encoders in any language are tested with it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.data.encoding.encoder import Request
from recprune_export.data.encoding.encoding_values import read_encoder
from recprune_export.data.encoding.input_encoding import NUMERIC, SPECIFICATION
from recprune_export.data.encoding.json_rows import JsonRow, encode_json_rows
from recprune_export.data.encoding.odd_rows import make_odd_rows
from recprune_export.program.signature import Signature

RAW_ROWS = "samples/raw-rows.json"
ROWS = 32
MOST_NUMBERS = 10_000  # numbers of the outputs; a ranking has one for each item
_WORDS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


def make_raw_rows(
    encoding: Mapping[str, Any], signature: Signature, answer: Callable[[Request], Mapping[str, np.ndarray]]
) -> bytes:
    """Return the file for an `encoding` and a model whose `answer` to a request of its signature is known.

    Inputs shared by all candidates of a request have the values of the first row in all rows. The outputs for later rows are left out if
    there would be more than `MOST_NUMBERS` numbers; those for the first rows are the answer to a request of only these rows.
    """
    encoder = read_encoder(encoding)
    rows = make_odd_rows(encoder, ROWS)
    shared = {i.name for i in signature.inputs if i.shared}
    schema = encoder.schema
    columns = {
        n for i in encoder.inputs if i.name in shared for n in (schema.numeric if i.name == NUMERIC else i.columns)
    }
    columns |= {vector.name for vector in schema.vectors} if NUMERIC in shared else set()
    rows = [{**row, **{name: rows[0][name] for name in columns}} for row in rows]
    inputs = encode_json_rows(encoder, rows)
    few = answer(_take_rows(inputs, shared, 1))
    numbers = sum(values.size for values in few.values())
    outputs = answer(_take_rows(inputs, shared, min(ROWS, max(1, MOST_NUMBERS // numbers))))
    values = {
        "specification": SPECIFICATION,
        "rows": rows,
        "inputs": {name: to_json(array) for name, array in inputs.items()},
        "outputs": {name: to_json(array) for name, array in outputs.items()},
    }
    return _format_rows(values)


def read_raw_rows(path: Path, signature: Signature) -> tuple[list[JsonRow], Request, Request, dict[str, np.ndarray]]:
    """Return the rows, the inputs of all rows, the request of the rows with outputs, and the outputs.

    Raises `ValueError`, `TypeError` or `LookupError` if the file does not fit the signature.
    """
    values = json.loads(path.read_bytes())
    types = {i.name: i.dtype for i in signature.inputs}
    inputs = {name: from_json(each, types[name]) for name, each in values["inputs"].items()}
    answers = {output.name: from_json(values["outputs"][output.name], output.dtype) for output in signature.outputs}
    shared = {i.name for i in signature.inputs if i.shared}
    request = _take_rows(inputs, shared, max(len(array) for array in answers.values()))
    return values["rows"], inputs, request, answers


def to_json(array: np.ndarray) -> Any:
    """Return an array as nested lists; a float32 as its shortest decimal, a number that is not finite as a word.

    >>> to_json(np.array([0.1, np.inf], dtype=np.float32))
    [0.1, 'Infinity']
    """
    if array.ndim > 1:
        return [to_json(row) for row in array]
    if array.dtype.kind != "f":
        return array.tolist()
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [words.get(str(number)) or float(str(number)) for number in array]


def from_json(values: Any, dtype: str) -> np.ndarray:
    """Return nested lists that `to_json` made as an array."""
    if isinstance(values, list) and values and isinstance(values[0], list):
        return np.stack([from_json(row, dtype) for row in values])
    return np.array([_WORDS[each] if isinstance(each, str) else each for each in values], dtype=dtype)


def _take_rows(request: Request, shared: set[str], rows: int) -> Request:
    return {name: values[: 1 if name in shared else rows] for name, values in request.items()}


def _format_rows(values: Mapping[str, Any]) -> bytes:
    """Return JSON with one line for each row, so that people can read it."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def lines(value: Any) -> str:
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f"{text(key)}: {lines(each)}" for key, each in value.items()) + "\n}"
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            return "[\n" + ",\n".join(map(text, value)) + "\n]"
        return text(value)

    return (lines(values) + "\n").encode()
