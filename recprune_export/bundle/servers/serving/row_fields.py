"""Rows of raw values: each field is checked, then `encode_rows.py` makes the inputs of the model."""

import json
import math
import sys
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .encode_rows import WHITE_SPACE, RowEncoder, number_of_text
from .json_tensors import RequestError, as_word, show
from .onnx_model import read_json_file

# Words for a missing number in upper or lower case, as `predict` reads them.
MISSING_WORDS = {
    "", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan", "<na>", "n/a", "na", "null", "nan", "none",
    "-", "--", ".", "?", "\\n", "nat", "nil",
}  # fmt: skip


class RowFields:
    """The fields of a row, and the values that each accepts, according to an `encoding.json`."""

    def __init__(self, encoding: Mapping[str, Any]) -> None:
        self.fields: dict[
            str, tuple[str, Any]
        ] = {}  # by name: the expected kind of value, and a function that tests it
        for spec in encoding["inputs"]:
            if spec["kind"] == "numbers":
                fits = partial(is_number, missing=encoding["schema"]["missing"])
                self.fields |= dict.fromkeys(encoding["schema"]["numeric"], ("a number", fits))
            elif spec["kind"] == "items":
                self.fields["history"] = ("a list of strings or numbers", is_list)
            elif spec["kind"] == "id":
                self.fields |= dict.fromkeys(spec["columns"], ("a string or a number", is_scalar))
            elif spec.get("separator") is None:
                self.fields |= dict.fromkeys(spec["columns"], ("a list of strings or numbers", is_list))
            else:
                divided = (f"a string with {json.dumps(spec['separator'])} between values", is_scalar)
                self.fields |= dict.fromkeys(spec["columns"], divided)
        for vector in encoding["schema"]["vectors"]:
            fits = partial(is_vector, size=vector["size"])
            self.fields[vector["name"]] = (f"a list of {vector['size']} numbers", fits)

    def check(self, number: int, row: Any) -> None:
        """Raise `RequestError` that names a field which is missing in row `number`, or whose value has another type."""
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

    def takes(self, row: Any) -> bool:
        """Return whether a row has every field, with a valid value."""
        try:
            self.check(0, row)
        except RequestError:
            return False
        return True


class RawRows:
    """Checks rows of raw values, and encodes them according to `encoding.json`."""

    def __init__(self, bundle: Path, shared: set[str]) -> None:
        encoding = read_json_file(bundle / "encoding.json")
        self.encoder, self.fields, self.shared = RowEncoder(encoding), RowFields(encoding), shared

    def encode(self, rows: Any) -> dict[str, list[Any]]:
        """Return the inputs by name. Raises `RequestError` that names a field which is missing or of another type."""
        if not isinstance(rows, list) or not rows:
            raise RequestError("'rows' must be a list of rows, at least one.")
        for number, row in enumerate(rows):
            self.fields.check(number, row)
        encoded: dict[str, list[Any]] = self.encoder.encode(rows)
        for name in self.shared & encoded.keys():
            values = encoded[name]
            if any(value != values[0] for value in values):
                raise RequestError(
                    f"The rows differ in '{name}', but the model expects the same value for all rows of a request."
                )
            encoded[name] = values[:1]
        return {name: [as_word(value) for value in values] for name, values in encoded.items()}


def is_scalar(value: Any) -> bool:
    """Return whether a value is one text, boolean, or finite number within float64."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, str | bool)


def is_number(value: Any, missing: Collection[str]) -> bool:
    """Return whether a value is a finite number, a boolean, a text that is a number by docs/encoding.md, or a word for a missing
    number."""
    if not isinstance(value, str):
        return is_scalar(value)
    text = value.strip(WHITE_SPACE)
    number = number_of_text(text)
    return text in missing or text.lower() in MISSING_WORDS if number is None else math.isfinite(number)


def is_list(value: Any) -> bool:
    """Return whether a value is a list of scalars or nulls."""
    return isinstance(value, list) and all(each is None or is_scalar(each) for each in value)


def is_vector(value: Any, size: int) -> bool:
    """Return whether a value is a list of `size` numbers or nulls."""
    return is_list(value) and len(value) == size and not any(isinstance(each, str | bool) for each in value)
