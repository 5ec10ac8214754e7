"""Inputs whose rows have different numbers of elements: as a matrix, as inputs of a program, and as inputs of a file.

For code that selects, repeats or draws rows, such an input is a matrix, [rows, most, ...], like every other input: absent elements are
negative, or NaN in an input of floats. The other two forms are made from it:

- a program takes two tensors for each input, the elements of all rows one after another, and the number in each row;
- a file takes the tensors that the original model takes (`Jagged`), such as the values and the lengths of all keys of a
  KeyedJaggedTensor.

>>> from recprune_export.program.signature import BATCH, Jagged
>>> ids = Input("ids", "int64", (BATCH, 3), ((0, 9),), jagged=Jagged((0, 3), "ids", "values", "lengths"))
>>> signature = Signature((ids,), ())
>>> rows = {"ids": np.array([[4, 7, -1], [-1, -1, -1], [5, -1, -1]])}
>>> [tensor.tolist() for tensor in to_program_tensors(signature, rows)]
[[4, 7, 5], [2, 0, 1]]
>>> {name: array.tolist() for name, array in to_file_arrays(signature, rows).items()}
{'values': [4, 7, 5], 'lengths': [2, 0, 1]}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from recprune_export.data.list_columns import absent_value, find_present
from recprune_export.markdown_text import code_span
from recprune_export.program.signature import BATCH, OFFSETS, OFFSETS_AND_END, Axis, Input, Jagged, Signature

METADATA = "recprune_export.jagged_inputs"  # of an ONNX file: its jagged inputs, as JSON
LENGTHS_SUFFIX, ELEMENTS = "_lengths", "_elements"


@dataclass(frozen=True)
class FileInput:
    """One tensor that a file takes: `members` are the inputs that it contains; `is_rows` is true for lengths and offsets."""

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    members: tuple[Input, ...]
    is_rows: bool = False


def has_jagged_inputs(signature: Signature) -> bool:
    """Return whether an input of a program is jagged."""
    return any(i.jagged is not None for i in signature.inputs)


def is_packed(spec: Input) -> bool:
    """Return whether the file takes an input as other tensors than a matrix with the name of the input."""
    return spec.jagged is not None and not spec.jagged.padded


def to_program_tensors(signature: Signature, request: Mapping[str, Any]) -> list[Any]:
    """Return the tensors that a program takes, in order, from arrays or tensors of rows."""
    tensors: list[Any] = []
    for spec in signature.inputs:
        values = request[spec.name]
        if spec.jagged is None:
            tensors.append(values)
            continue
        present = find_present(request[spec.jagged.present])
        tensors.append(values[present])
        if spec.jagged.present == spec.name:
            tensors.append(present.sum(1))
    return tensors


def list_program_inputs(signature: Signature) -> list[Input]:
    """Return an input for each tensor that a program takes: a jagged one without its batch axis, then its lengths."""
    tensors: list[Input] = []
    for spec in signature.inputs:
        if spec.jagged is None:
            tensors.append(spec)
            continue
        size = f"{spec.jagged.present}{ELEMENTS}"
        tensors.append(
            Input(spec.name, spec.dtype, (size, *spec.shape[2:]), spec.ids, spec.observed,
                  bad_ids=spec.bad_ids, number_limit=spec.number_limit)
        )  # fmt: skip
        if spec.jagged.present == spec.name:
            tensors.append(Input(spec.name + LENGTHS_SUFFIX, "int64", (BATCH,)))
    return tensors


def list_file_inputs(signature: Signature) -> list[FileInput]:
    """Return the tensors that a file takes, in order."""
    tensors: dict[str, FileInput] = {}
    for spec in signature.inputs:
        if spec.jagged is None or spec.jagged.padded:
            tensors[spec.name] = FileInput(spec.name, spec.dtype, spec.shape, (spec,))
            continue
        jagged = spec.jagged
        if jagged.values not in tensors:
            members = tuple(i for i in signature.inputs if is_packed(i) and i.jagged.values == jagged.values)  # type: ignore[union-attr]
            size = find_leader(signature, jagged).values + ELEMENTS
            tensors[jagged.values] = FileInput(jagged.values, spec.dtype, (size, *spec.shape[2:]), members)
        if jagged.rows not in tensors:
            members = list_row_members(signature, jagged.rows)
            shape = _shape_of_rows(jagged, len(members))
            tensors[jagged.rows] = FileInput(jagged.rows, jagged.rows_dtype, shape, members, is_rows=True)
    return list(tensors.values())


def make_file_signature(signature: Signature) -> Signature:
    """Return the signature of a file: the tensors that it takes, with the ids that are valid for all of their inputs."""
    inputs = []
    for spec in list_file_inputs(signature):
        if spec.members[0].jagged is None:
            inputs.append(spec.members[0])
            continue
        rules = {(i.ids, i.bad_ids, i.number_limit) for i in spec.members}
        ids, bad_ids, limit = rules.pop() if len(rules) == 1 and not spec.is_rows else ((), (), None)
        inputs.append(Input(spec.name, spec.dtype, spec.shape, ids, bad_ids=bad_ids, number_limit=limit))
    return Signature(tuple(inputs), signature.outputs)


def describe_jagged_inputs(signature: Signature) -> str:
    """Return sentences on how the tensors of a file hold jagged inputs; empty without any."""
    sentences = []
    padded = [i.name for i in signature.inputs if i.jagged is not None and i.jagged.padded]
    if padded:
        sentences.append(
            f"Rows of {', '.join(code_span(name) for name in padded)} that are shorter than the matrix end in -1 (NaN for numbers)."
        )
    for spec in list_file_inputs(signature):
        jagged = spec.members[0].jagged
        if jagged is None or jagged.padded:
            continue
        names = ", ".join(code_span(i.name) for i in spec.members)
        if not spec.is_rows:
            sentences.append(f"{code_span(spec.name)} contains the elements of all rows of {names}, one after another.")
            continue
        kind = {
            OFFSETS: "the position of the first element of each row",
            OFFSETS_AND_END: "the position of the first element of each row, followed by the number of all elements",
        }.get(jagged.form, "the number of elements in each row")
        order = (
            ""
            if len(spec.members) == 1
            else f", on axis {int(jagged.keys_last)}"
            if jagged.stacked
            else ", one input after another"
        )
        sentences.append(f"{code_span(spec.name)} contains {kind} of {names}{order}.")
    return " ".join(sentences)


def take_first_row(signature: Signature, request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first row of a request; tensors without a batch are whole."""
    return {
        i.name: request[i.name][:1] if i.shape[:1] in ((BATCH,), (1,)) else request[i.name] for i in signature.inputs
    }


def find_leader(signature: Signature, jagged: Jagged) -> Jagged:
    """Return the layout of the input that determines the elements of a row."""
    found = next(i.jagged for i in signature.inputs if i.name == jagged.present)
    assert found is not None
    return found


def list_row_members(signature: Signature, rows: str) -> tuple[Input, ...]:
    """Return the inputs whose rows are divided by the tensor `rows`, without those that contain weights."""
    return tuple(
        i for i in signature.inputs if i.jagged is not None and i.jagged.rows == rows and i.jagged.present == i.name
    )


def _shape_of_rows(jagged: Jagged, members: int) -> tuple[Axis, ...]:
    flat = BATCH if members == 1 else f"{members}*{BATCH}"
    if jagged.stacked:
        shape = (members, BATCH if jagged.form != OFFSETS_AND_END else f"{BATCH} + 1")
        return shape[::-1] if jagged.keys_last else shape
    return (flat if jagged.form != OFFSETS_AND_END else f"{flat} + 1",)


def to_file_arrays(signature: Signature, request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays that a file takes from arrays of rows; those of other inputs are unchanged."""
    return {spec.name: _to_file_array(spec, request) for spec in list_file_inputs(signature)}


def _to_file_array(spec: FileInput, request: Mapping[str, np.ndarray]) -> np.ndarray:
    first = spec.members[0]
    if first.jagged is None:
        return request[first.name]
    present = [find_present(request[i.jagged.present]) for i in spec.members if i.jagged is not None]
    if first.jagged.padded:
        return pad_matrix(request[first.name], int(first.shape[1]), present[0])
    if not spec.is_rows:
        return np.concatenate([request[i.name][mask] for i, mask in zip(spec.members, present, strict=True)])
    return write_rows([mask.sum(1) for mask in present], first.jagged)


def pad_matrix(values: np.ndarray, width: int, present: np.ndarray) -> np.ndarray:
    """Return a matrix of `width` columns; only absent elements may be beyond it."""
    if values.shape[1] < width:
        missing = np.full((len(values), width - values.shape[1], *values.shape[2:]), absent_value(values.dtype))
        return np.concatenate([values, missing.astype(values.dtype)], axis=1)
    return values if present[:, width:].any() else values[:, :width]


def write_rows(counts: Sequence[np.ndarray], jagged: Jagged) -> np.ndarray:
    """Return the tensor of lengths or offsets from the number of elements in each row of each input."""
    if jagged.stacked:
        return np.stack([_write_row_ends(count, jagged) for count in counts], int(jagged.keys_last))
    return _write_row_ends(np.concatenate(counts), jagged)


def _write_row_ends(counts: np.ndarray, jagged: Jagged) -> np.ndarray:
    if jagged.form in (OFFSETS, OFFSETS_AND_END):
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        counts = ends if jagged.form == OFFSETS_AND_END else ends[:-1]
    return np.asarray(counts).astype(jagged.rows_dtype)


def read_rows(ends: np.ndarray, jagged: Jagged, members: int, totals: Sequence[int] | None = None) -> list[np.ndarray]:
    """Return the number of elements in each row of each input from the tensor of lengths or offsets.

    `totals` are the numbers of elements of the inputs, one in all for a tensor that is not stacked; offsets need them.
    """
    parts = list(ends.T if jagged.keys_last else ends) if jagged.stacked else [ends]
    counts = []
    for number, part in enumerate(parts):
        part = part.astype(np.int64)
        if jagged.form == OFFSETS:
            assert totals is not None
            part = np.concatenate([part, [totals[number]]])
        counts.append(part if jagged.form not in (OFFSETS, OFFSETS_AND_END) else np.diff(part))
    return counts if jagged.stacked else [np.asarray(count) for count in np.split(counts[0], members)]


def remove_elements(
    signature: Signature, request: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return rows in which each jagged input has only the first `counts[name]` elements of each row, by the input's name."""
    removed = dict(request)
    for spec in signature.inputs:
        if spec.jagged is None:
            continue
        values = request[spec.name].copy()
        values[np.arange(values.shape[1]) >= counts[spec.jagged.present][:, None]] = absent_value(values.dtype)
        removed[spec.name] = values
    return removed


@lru_cache(maxsize=64)
def read_jagged_inputs(text: str) -> Signature:
    """Return the jagged inputs of a file from the text of its metadata, as a signature of them alone."""
    return Signature(tuple(Input.from_dict(value) for value in json.loads(text)), ())
