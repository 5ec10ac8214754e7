"""The plan of raw inputs: for each input of `model.onnx` that is encoded in the graph, the raw inputs that replace it.

A plan converts arrays like the graph (`encode`), and back (`decode`), to make rows for tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recprune_export.program.signature import Axis, Input
from recprune_export.validation.edge_requests import RequestArrays

MISSING_TEXT = ""
MISSING_INTEGER = -(2**63)  # the smallest int64
TEXT, INTEGER, NUMBER = "str", "int64", "float64"
_NEW_TEXT = "new value"


@dataclass(frozen=True)
class RawIds:
    """Raw values of the input `name`, strings or integers, in its shape; each of `keys` has the id at the same position in `ids`.

    Any other value has the id `unknown`, and `MISSING_TEXT` or `MISSING_INTEGER` the id `missing`. In a history (`is_history`)
    `unknown` is the padding: other ids are moved to the end of their row, in their order. With `refuses_unknown` it is an id that the
    model refuses.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    keys: tuple[str, ...] | tuple[int, ...]
    ids: tuple[int, ...]
    unknown: int
    missing: int
    encoded_dtype: str = "int64"
    shared: bool = False
    is_history: bool = False
    refuses_unknown: bool = False

    @property
    def missing_key(self) -> str | int:
        """The raw value that represents a missing one."""
        return MISSING_TEXT if self.dtype == TEXT else MISSING_INTEGER

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The tensor that the file takes."""
        return (Input(self.name, self.dtype, self.shape, shared=self.shared),)

    def encode(self, request: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the ids of raw values, of the same shape."""
        values = request[self.name]
        ids = [self._id_by_key.get(value, self.unknown) for value in values.ravel().tolist()]
        array = np.array(ids, dtype=self.encoded_dtype).reshape(values.shape)
        if not self.is_history:
            return array
        order = np.argsort(array != self.unknown, axis=1, kind="stable")
        return np.take_along_axis(array, order, axis=1)

    def decode(self, ids: np.ndarray) -> RequestArrays:
        """Return raw values with these ids; for other ids, a value that is not in the vocabulary."""
        key_by_id: dict[int, str | int] = dict(zip(self.ids, self.keys, strict=True))
        other = self.keys[0] if self.refuses_unknown else self.new_key
        key_by_id |= {self._id_by_key.get(key, self.unknown): key for key in self.odd_keys}
        values = [key_by_id.get(i, other) for i in ids.ravel().tolist()]
        return {self.name: np.array(values, dtype=np.str_ if self.dtype == TEXT else np.int64).reshape(ids.shape)}

    @property
    def odd_keys(self) -> tuple[str | int, ...]:
        """A new value and the missing one, if the model accepts them."""
        return tuple(k for k, i in ((self.new_key, self.unknown), (self.missing_key, self.missing)) if self._answers(i))

    def _answers(self, number: int) -> bool:
        return not self.refuses_unknown or number != self.unknown

    @cached_property
    def new_key(self) -> str | int:
        """A value that is not among the keys."""
        if self.dtype == TEXT:
            text = _NEW_TEXT
            while text in self._id_by_key:
                text += "!"
            return text
        number = 0
        while number in self._id_by_key:
            number -= 1
        return number

    @cached_property
    def _id_by_key(self) -> dict[str | int, int]:
        return {**dict(zip(self.keys, self.ids, strict=True)), self.missing_key: self.missing}


@dataclass(frozen=True)
class RawColumn:
    """A column of numbers, or of vectors of `size` numbers."""

    name: str
    size: int | None = None


@dataclass(frozen=True)
class RawNumbers:
    """Raw numbers of `columns`, float64, that are converted to the float32 input `name`: (x - mean) / std, 0 if x is NaN.

    `means` and `stds` have one number for each number of the columns, in their order.
    """

    name: str
    columns: tuple[RawColumn, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    rows: Axis
    shared: bool = False

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The tensors that the file takes, one for each column."""
        shapes = {c.name: (self.rows,) if c.size is None else (self.rows, c.size) for c in self.columns}
        return tuple(Input(name, NUMBER, shape, shared=self.shared) for name, shape in shapes.items())

    def encode(self, request: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the standardized numbers, [batch, numbers]."""
        numbers = np.column_stack([request[column.name] for column in self.columns])
        with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 is infinity
            scaled = ((numbers - self.means) / self.stds).astype(np.float32)
        return np.where(np.isnan(scaled), np.float32(0), scaled)

    def decode(self, numbers: np.ndarray) -> RequestArrays:
        """Return raw numbers whose standardized values are about these."""
        raw = numbers.astype(np.float64) * self.stds + self.means
        ends = np.cumsum([column.size or 1 for column in self.columns])
        parts = np.split(raw, ends[:-1], axis=1)
        return {c.name: p[:, 0] if c.size is None else p for c, p in zip(self.columns, parts, strict=True)}


RawInput = RawIds | RawNumbers


def encode_request(plan: tuple[RawInput, ...], request: Mapping[str, np.ndarray]) -> RequestArrays:
    """Return the request of `model.onnx` for one of raw values; inputs without a plan are the same in both."""
    raw = {spec.name for part in plan for spec in part.inputs}
    same = {name: values for name, values in request.items() if name not in raw}
    return {**same, **{part.name: part.encode(request) for part in plan}}


def decode_request(plan: tuple[RawInput, ...], request: Mapping[str, np.ndarray]) -> RequestArrays:
    """Return a request of raw values whose encoding is about this request."""
    planned = {part.name for part in plan}
    raw = {name: values for name, values in request.items() if name not in planned}
    for part in plan:
        raw |= part.decode(request[part.name])
    return raw
