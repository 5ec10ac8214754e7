"""Rows of raw values: each field is checked, then `encode_rows.py` makes the inputs of the model."""

import json
import sys
from pathlib import Path
from typing import Any

from .encode_rows import RowEncoder
from .json_tensors import RequestError, as_word, show
from .onnx_model import read_json_file


class RawRows:
    """Checks rows of raw values, and encodes them according to `encoding.json`."""

    def __init__(self, bundle: Path, shared: set[str]) -> None:
        encoding = read_json_file(bundle / "encoding.json")
        self.encoder, self.shared = RowEncoder(encoding), shared
        self.fields: dict[
            str, tuple[str, Any]
        ] = {}  # by name: the expected kind of value, and whether a value is of it
        vectors = {vector["name"]: vector["size"] for vector in encoding["schema"]["vectors"]}
        for spec in encoding["inputs"]:
            columns = encoding["schema"]["numeric"] if spec["kind"] == "numbers" else spec["columns"]
            for column in ["history"] if spec["kind"] == "items" else columns:
                if spec["kind"] == "items" or (spec["kind"] == "ids" and spec.get("separator") is None):
                    self.fields[column] = ("a list of strings or numbers", is_list)
                elif spec["kind"] == "ids":
                    self.fields[column] = (f"a string with {json.dumps(spec['separator'])} between values", is_scalar)
                else:
                    self.fields[column] = (
                        "a number" if spec["kind"] == "numbers" else "a string or a number",
                        is_scalar,
                    )
        for name, size in vectors.items():
            self.fields[name] = (f"a list of {size} numbers", lambda value, size=size: is_vector(value, size))

    def encode(self, rows: Any) -> dict[str, list[Any]]:
        """Return the inputs by name. Raises `RequestError` that names a field which is missing or of another type."""
        if not isinstance(rows, list) or not rows:
            raise RequestError("'rows' must be a list of rows, at least one.")
        for number, row in enumerate(rows):
            self._check(number, row)
        encoded: dict[str, list[Any]] = self.encoder.encode(rows)
        for name in self.shared & encoded.keys():
            values = encoded[name]
            if any(value != values[0] for value in values):
                raise RequestError(
                    f"The rows differ in '{name}', but the model expects the same value for all rows of a request."
                )
            encoded[name] = values[:1]
        return {name: [as_word(value) for value in values] for name, values in encoded.items()}

    def _check(self, number: int, row: Any) -> None:
        if not isinstance(row, dict):
            raise RequestError(
                f"Row {number} must be an object with the fields {', '.join(self.fields)}, not {show(row)}."
            )
        for name, (expected, fits) in self.fields.items():
            if name not in row:
                given = ", ".join(list(row)[:20]) or "no field"
                raise RequestError(f"Row {number} lacks the field '{name}': give {expected}, or null. It has {given}.")
            if row[name] is not None and not fits(row[name]):
                raise RequestError(f"'{name}' in row {number} must be {expected}, or null, not {show(row[name])}.")


def is_scalar(value: Any) -> bool:
    """Return whether a value is one text, boolean, or finite number within float64."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, str | bool)


def is_list(value: Any) -> bool:
    """Return whether a value is a list of scalars or nulls."""
    return isinstance(value, list) and all(each is None or is_scalar(each) for each in value)


def is_vector(value: Any, size: int) -> bool:
    """Return whether a value is a list of `size` numbers or nulls."""
    return is_list(value) and len(value) == size and not any(isinstance(each, str | bool) for each in value)
