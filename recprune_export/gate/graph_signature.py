"""Signature of a plain ONNX file: names, dtypes and shapes from the graph, id ranges from the sizes of the tables."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from recprune_export.errors import ModelFileError
from recprune_export.onnx.reading import read_model, read_tensor
from recprune_export.program.signature import BATCH, Axis, IdRange, Input, Output, Signature

# Operators that move or copy elements without changing values, so ids stay ids; `Clip` and the other operators of guards
# (`onnx/input_guards.py`) only narrow them.
_MOVES = {"Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity", "Concat", "Slice", "Split"}
_MOVES |= {"Expand", "Tile", "Clip", "Mod", "Max", "Min"}


def read_signature(path: Path) -> Signature:
    """Read the inputs and outputs of an ONNX file; the first axis of the inputs is the batch.

    Raises `ModelFileError` if the file is not an ONNX model, if an input has an axis of unknown size other than the
    batch, or if the valid range of an integer input cannot be derived.
    """
    graph = read_model(path).graph
    if not graph.input or not graph.output:
        raise ModelFileError(f"{path} is not an ONNX model with inputs and outputs: give a bundle or an .onnx file.")
    weights = {tensor.name for tensor in graph.initializer}
    batch = next((axis for value in graph.input for axis in _axes(value)[:1] if isinstance(axis, str)), "")
    inputs = [_input(path, graph, value, batch) for value in graph.input if value.name not in weights]
    outputs = [
        Output(value.name, _dtype(value), tuple(_rename_batch_axis(axis, batch) for axis in _axes(value)))
        for value in graph.output
    ]
    return Signature(tuple(inputs), tuple(outputs))


def _input(path: Path, graph: onnx.GraphProto, value: onnx.ValueInfoProto, batch: str) -> Input:
    shape = tuple(_rename_batch_axis(axis, batch) for axis in _axes(value))
    unknown = [axis for axis in shape if isinstance(axis, str) and axis != BATCH]
    if unknown:
        raise ModelFileError(
            f"Input '{value.name}' of {path} has an axis of unknown size, '{unknown[0]}': compare bundles, "
            "whose signature states the shapes."
        )
    dtype, ids = _dtype(value), find_id_range(graph, value.name, path.parent)
    if ids is None and not (np.issubdtype(np.dtype(dtype), np.floating) or dtype == "bool"):
        raise ModelFileError(
            f"The graph of {path} does not show which integers '{value.name}' accepts: compare bundles, "
            "whose signature states it."
        )
    return Input(value.name, dtype, shape, () if ids is None else (ids,))


def find_id_range(graph: onnx.GraphProto, name: str, folder: Path) -> IdRange | None:
    """Return the range of ids that is valid in every table in which input `name` is looked up; None if there is no table.

    Follows the input through operators that only move it, and through additions of constant offsets. In a fused table
    (`passes/fuse_tables.py`), ids beyond their own table are mapped outside; there the row counts of the tables give the
    range. The range is valid for all elements, and may be smaller than the range of a single element.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    highest = [rows - 1 - offset for rows, offset in _find_tables(graph, constants, name, folder)]
    return (0, max(0, min(highest))) if highest else None


def _find_tables(
    graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto], name: str, folder: Path
) -> Iterator[tuple[int, int]]:
    """Yield the rows of each table in which a value is looked up, and the largest offset added before."""
    offsets = {name: 0}
    places: dict[
        str, tuple[int, int]
    ] = {}  # by value: the position of the input among those that a Concat joined, and their number
    where_conditions = {node.input[0] for node in graph.node if node.op_type == "Where" and node.input[2] in constants}
    for node in graph.node:  # in execution order
        before = [offsets[i] for i in node.input if i in offsets]
        if not before:
            continue
        joined = node.op_type == "Concat"
        if joined and name in node.input:
            places[node.output[0]] = (list(node.input).index(name), len(node.input))
        place = next((places[i] for i in node.input if i in places), None)
        if place is not None:
            places |= dict.fromkeys(node.output, place)
        if node.op_type in ("Gather", "GatherND") and node.input[1] in offsets and node.input[0] in constants:
            if not any(attribute.i for attribute in node.attribute if attribute.name == "axis"):
                yield constants[node.input[0]].dims[0], offsets[node.input[1]]
        elif node.op_type == "Gather" and node.input[0] in offsets:  # columns of the ids
            offsets[node.output[0]] = offsets[node.input[0]]
        elif node.op_type == "Less" and node.output[0] in where_conditions and node.input[1] in constants:
            rows = read_tensor(constants[node.input[1]], folder)
            if rows.dtype.kind in "iu" and rows.min(initial=1) > 0:  # otherwise it compares numbers, or detects padding
                yield int(_select(rows, place).min()), max(before)
        elif node.op_type == "Where" and offsets.keys() & set(node.input[1:]):
            offsets[node.output[0]] = max(before)
        elif node.op_type in _MOVES and (joined or node.input[0] in offsets | dict.fromkeys(constants, 0)):
            offsets.update(dict.fromkeys(node.output, max(before)))
        elif node.op_type == "Add":
            constant_addends = [constants[i] for i in node.input if i in constants]
            if constant_addends:
                offset = int(_select(read_tensor(constant_addends[0], folder), place).max())
                offsets[node.output[0]] = max(before) + max(0, offset)


def _select(numbers: np.ndarray, place: tuple[int, int] | None) -> np.ndarray:
    """Return the number of one input among those joined, where there is one for each of them; else all."""
    return numbers.reshape(-1)[place[0], None] if place is not None and numbers.size == place[1] else numbers


def _axes(value: onnx.ValueInfoProto) -> list[Axis]:
    axes: list[Axis] = []
    for number, dim in enumerate(value.type.tensor_type.shape.dim):
        axes.append(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"unnamed axis {number}")
    return axes


def _rename_batch_axis(axis: Axis, batch: str) -> Axis:
    return BATCH if axis == batch else axis


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
