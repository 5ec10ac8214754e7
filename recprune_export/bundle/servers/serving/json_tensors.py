"""Tensors as JSON: checked lists to arrays, and arrays to lists; errors name the tensor."""

import json
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import numpy as np

SHOWN = 60  # characters of a wrong value in an error
TYPES = {
    "bool": ("BOOL", "bool"), "uint8": ("UINT8", "uint8"), "uint16": ("UINT16", "uint16"), "uint32": ("UINT32", "uint32"),
    "uint64": ("UINT64", "uint64"), "int8": ("INT8", "int8"), "int16": ("INT16", "int16"), "int32": ("INT32", "int32"),
    "int64": ("INT64", "int64"), "float16": ("FP16", "float16"), "float": ("FP32", "float32"), "double": ("FP64", "float64"),
    "string": ("BYTES", "str"),
}  # fmt: skip
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class RequestError(Exception):
    """An error of a request, in the terms of the client, with the status of the response."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


class Tensor:
    """An input or an output: its name, type and shape, in which a text is a variable size, and the valid ids of an input."""

    def __init__(self, node: Any, described: Mapping[str, Any] | None = None) -> None:
        self.name: str = node.name
        self.shape: list[int | str] = [n if isinstance(n, int) else str(n) for n in node.shape]
        self.datatype, self.dtype = TYPES[re.fullmatch(r"tensor\((\w+)\)", node.type)[1]]  # type: ignore[index]
        described = described or {}
        rules = described.get("bad_ids") or [None] * len(described.get("ids", ()))
        # Other ids are replaced in the graph, according to the manifest.
        self.ids = [
            pair if rule in (None, "error") else None
            for pair, rule in zip(described.get("ids", ()), rules, strict=True)
        ]
        self.may_be_absent = bool((described.get("jagged") or {}).get("padded"))

    def metadata(self) -> dict[str, Any]:
        """Return the entry of the metadata of the KServe v2 protocol."""
        return {
            "name": self.name,
            "datatype": self.datatype,
            "shape": [n if isinstance(n, int) else -1 for n in self.shape],
        }

    def make_array(self, values: Any, shape: list[int] | None = None) -> np.ndarray:
        """Return an array of nested lists, or of `shape` and one list. Raises `RequestError` if values or shape do not fit."""
        flat, found = flatten(self.name, values)
        if shape is not None and found in ([math.prod(shape)], shape):
            found = shape
        elif shape is not None:
            raise RequestError(f"'{self.name}' has {len(flat)} values in 'data', which do not match the shape {shape}.")
        fits = len(found) == len(self.shape) and all(
            isinstance(n, str) or n == m for n, m in zip(self.shape, found, strict=True)
        )
        if not fits:
            raise RequestError(f"'{self.name}' has the shape {found}, but the model expects {self.describe_shape()}.")
        array = self._convert(flat).reshape(found)
        self._check_ids(array)
        return array

    def describe_shape(self) -> str:
        """Return the shape in the form of the README."""
        return f"({', '.join(map(str, self.shape))})"

    def _convert(self, flat: list[Any]) -> np.ndarray:
        kind = "U" if self.dtype == "str" else np.dtype(self.dtype).kind
        types: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float, str}, "U": {str}}
        allowed = types[kind]
        if not set(map(type, flat)) <= allowed:
            wrong = next(value for value in flat if type(value) not in allowed)
            raise RequestError(f"'{self.name}' must be {self.datatype}, but contains {show(wrong)}.")
        if kind == "U":
            return np.array(flat, dtype=object)
        if kind == "f":
            words = {value for value in flat if isinstance(value, str)}
            if not words <= WORDS.keys():
                raise RequestError(
                    f"'{self.name}' must contain numbers, but contains {show(min(words - WORDS.keys()))}."
                )
            numbers = [WORDS[value] if isinstance(value, str) else value for value in flat] if words else flat
            return self._convert_floats(numbers)
        if kind in "iu" and flat:
            limits = np.iinfo(self.dtype)
            wrong = min(flat) if min(flat) < limits.min else max(flat)
            if not limits.min <= wrong <= limits.max:
                raise RequestError(f"'{self.name}' must be {self.datatype}, but {show(wrong)} is out of range.")
        return np.array(flat, dtype=self.dtype)

    def _convert_floats(self, numbers: list[Any]) -> np.ndarray:
        try:
            wide = np.array(numbers, dtype=np.float64)
        except OverflowError:
            raise RequestError(f"'{self.name}' contains an integer that is out of range for float64.") from None
        with np.errstate(over="ignore"):
            array = wide.astype(self.dtype)
        lost = np.isinf(array) & ~np.isinf(wide)
        if lost.any():
            raise RequestError(
                f"'{self.name}' must be {self.datatype}, but {show(float(wide[lost][0]))} is out of range."
            )
        return array

    def _check_ids(self, array: np.ndarray) -> None:
        for column, pair in enumerate(self.ids):
            if pair is None:
                continue
            part = array if len(self.ids) == 1 else array[..., column]
            wrong = (part < pair[0]) | (part > pair[1])
            if self.may_be_absent:
                wrong &= part >= 0
            if wrong.any():
                row = int(np.argwhere(wrong)[0][0]) if part.ndim else 0
                raise RequestError(
                    f"'{self.name}' contains the id {part[wrong].flat[0]} in row {row}; valid ids are {pair[0]} to {pair[1]}."
                )


def flatten(name: str, values: Any) -> tuple[list[Any], list[int]]:
    """Return the values of nested lists in row-major order, and their shape. Raises `RequestError` for lists of unequal lengths."""
    flat, shape = [values], []
    while flat and isinstance(flat[0], list):
        lengths = {len(each) if isinstance(each, list) else -1 for each in flat}
        if len(lengths) > 1:
            raise RequestError(f"'{name}' contains lists of different lengths on one axis.")
        shape.append(lengths.pop())
        flat = [each for part in flat for each in part]
    return flat, shape


def check_names(names: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise `RequestError` that names missing and unknown inputs."""
    for name in expected:
        if name not in names:
            raise RequestError(f"The input '{name}' is missing: the model expects {', '.join(expected)}.")
    for name in names:
        if name not in expected:
            raise RequestError(f"The model has no input {show(name)}: it expects {', '.join(expected)}.")


def as_word(value: Any) -> Any:
    """Return nested lists in which numbers without a JSON form are words."""
    if isinstance(value, list):
        return [as_word(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


def to_list(array: np.ndarray) -> Any:
    """Return an array as nested lists of JSON values; a float32 as the equal float64."""
    values = array.tolist()
    return as_word(values) if array.dtype.kind == "f" and not np.isfinite(array).all() else values


def show(value: Any) -> str:
    """Return the beginning of a value as JSON."""
    try:
        text = json.dumps(value)
    except ValueError:  # an integer of thousands of digits
        text = "an integer of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the object of a body. Raises `RequestError` if it is not an object."""

    def refuse(word: str) -> None:
        raise RequestError(f'{word} is not valid JSON: write "{word}", with quotation marks.')

    try:
        values = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The body is not JSON: {str(error)[:200]}.") from None
    if not isinstance(values, dict):
        raise RequestError(f"The body must be an object, not {show(values)}.")
    return values
