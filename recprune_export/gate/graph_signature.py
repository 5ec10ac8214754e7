"""Signature of a plain ONNX file: names, dtypes and shapes from the graph, id ranges from the sizes of the tables."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from recprune_export.errors import ModelFileError
from recprune_export.onnx.inline_functions import inline_functions
from recprune_export.onnx.inner_graphs import iterate_graphs, list_inner_graphs
from recprune_export.onnx.reading import read_model, read_tensor
from recprune_export.program.signature import BATCH, Axis, IdRange, Input, Output, Signature

# Operators that move or copy elements without changing values, so ids stay ids; `Clip` and the other operators of guards
# (`onnx/input_guards.py`) only narrow them.
_MOVES = {"Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity", "Concat", "Slice", "Split"}
_MOVES |= {"Expand", "Tile", "Clip", "Mod", "Max", "Min"}
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


# Types of NumPy that ONNX Runtime accepts.
_KINDS = {"float16", "float32", "float64", "bool"}
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMBERS = (0.0, 100.0)  # for integers of any size, such as counts
_UNKNOWN = "unknown"  # the dtype of an output that neither the file nor inference states


def read_signature(path: Path) -> Signature:
    """Read the inputs and outputs of an ONNX file; a first axis without a size is the batch, whatever its name.

    Raises `ModelFileError` if the file is not an ONNX model, if an input has an axis of unknown size other than the batch, if it is not a
    tensor of numbers, or if the valid range of an integer input cannot be derived.
    """
    model = read_model(path)
    _check_names(path, model.graph)
    model = inline_functions(model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    taken = [value for value in graph.input if value.name not in weights]
    if not taken or not graph.output:
        raise ModelFileError(f"{path} has no inputs or no outputs: give a bundle or an .onnx file with both.")
    dtypes = {value.name: _read_input_dtype(path, value) for value in taken}
    batch = {axes[0] for axes in map(_axes, taken) if axes and isinstance(axes[0], str)}
    inputs = [_input(path, graph, value, dtypes[value.name], batch) for value in taken]
    return Signature(tuple(inputs), tuple(_output(path, value, batch) for value in _infer_outputs(model)))


def _check_names(path: Path, graph: onnx.GraphProto) -> None:
    """Raise `ModelFileError` if two inputs or two outputs have the same name, because requests would be ambiguous."""
    for kind, values in (("inputs", graph.input), ("outputs", graph.output), ("weights", graph.initializer)):
        names = Counter(value.name for value in values)
        twice = next((name for name, number in names.items() if number > 1), None)
        if twice is not None:
            raise ModelFileError(f"{path} has two {kind} named '{twice}': give each a unique name.")


def _read_input_dtype(path: Path, value: onnx.ValueInfoProto) -> str:
    """Return the dtype of an input. Raises `ModelFileError` if it is not a tensor of numbers with a shape."""
    kind = value.type.WhichOneof("value")
    advice = "compare files whose inputs are numeric tensors, or bundles."
    if kind != "tensor_type":
        words = "has no type" if kind is None else f"is {_KIND_WORDS.get(kind, kind)}, not a tensor"
        raise ModelFileError(f"Input '{value.name}' of {path} {words}: {advice}")
    if not value.type.tensor_type.HasField("shape"):
        raise ModelFileError(f"Input '{value.name}' of {path} has no shape: {advice}")
    dtype = _read_dtype(value.type.tensor_type.elem_type)
    if dtype == "object":
        raise ModelFileError(
            f"Input '{value.name}' of {path} is a string tensor, and the file contains no example values: compare "
            "bundles, which contain examples."
        )
    if dtype not in _KINDS | _INTEGERS:
        raise ModelFileError(f"Input '{value.name}' of {path} takes {dtype}, of which no request can be made: {advice}")
    return dtype


_KIND_WORDS = {
    "sequence_type": "a sequence",
    "map_type": "a map",
    "optional_type": "an optional value",
    "sparse_tensor_type": "a sparse tensor",
    "opaque_type": "of an opaque type",
}


def _read_dtype(element: int) -> str:
    """Return the name of the dtype of an element type of ONNX, "unknown" if it is not stated."""
    return _UNKNOWN if not element else str(helper.tensor_dtype_to_np_dtype(element))


def _infer_outputs(model: onnx.ModelProto) -> Sequence[onnx.ValueInfoProto]:
    """Return the outputs, with inferred types and shapes if the file does not state them."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return list(model.graph.output)
    try:
        return list(onnx.shape_inference.infer_shapes(model).graph.output)
    except Exception:  # onnx's inference raises no specific exceptions; a session reports the error of the model
        return list(model.graph.output)


def _output(path: Path, value: onnx.ValueInfoProto, batch: Collection[str]) -> Output:
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        raise ModelFileError(
            f"Output '{value.name}' of {path} is {_KIND_WORDS.get(kind, kind)}, not a tensor: compare files that return tensors."
        )
    shape = tuple(_rename_batch_axis(axis, batch) for axis in _axes(value))
    return Output(value.name, _read_dtype(value.type.tensor_type.elem_type), shape)


def _input(path: Path, graph: onnx.GraphProto, value: onnx.ValueInfoProto, dtype: str, batch: Collection[str]) -> Input:
    shape = tuple(_rename_batch_axis(axis, batch) for axis in _axes(value))
    unknown = [axis for axis in shape if isinstance(axis, str) and axis != BATCH]
    if unknown:
        raise ModelFileError(
            f"Input '{value.name}' of {path} has an axis of unknown size, '{unknown[0]}': compare bundles, "
            "whose signature specifies the shapes."
        )
    ids = find_id_range(graph, value.name, path.parent)
    if ids is not None or dtype in _KINDS:
        return Input(value.name, dtype, shape, () if ids is None else (ids,))
    if is_number(graph, value.name):
        return Input(value.name, dtype, shape, observed=_NUMBERS)
    raise ModelFileError(
        f"The graph of {path} does not show which integers '{value.name}' accepts: compare bundles, "
        "whose signature specifies it."
    )


def is_number(graph: onnx.GraphProto, name: str) -> bool:
    """Return whether an integer input is used only as a number: each use of it ends in a cast to floats.

    >>> cast = helper.make_node("Cast", ["age"], ["y"], to=onnx.TensorProto.FLOAT)
    >>> is_number(helper.make_graph([cast], "g", [], []), "age")
    True
    """
    moved, casts = {name}, 0
    for node in _iterate_graph_nodes(graph):
        if moved.isdisjoint(node.input):
            continue
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
        if node.op_type == "Cast" and to in _FLOATS:
            casts += 1
        elif node.op_type in _MOVES - {"Cast"} and node.input[0] in moved:
            moved.update(node.output)
        else:
            return False
    return casts > 0 and moved.isdisjoint(value.name for value in graph.output)


def find_id_range(graph: onnx.GraphProto, name: str, folder: Path) -> IdRange | None:
    """Return the range of ids that is valid in every table in which input `name` is looked up; None if there is no table.

    Follows the input through operators that only move it, and through additions of constant offsets. In a fused table
    (`passes/fuse_tables.py`), ids beyond their table are mapped outside; there the range follows from the row counts of the tables. The
    range is valid for all elements, and may be smaller than the range of a single element.
    """
    constants = {tensor.name: tensor for inside in iterate_graphs(graph) for tensor in inside.initializer}
    for node in _iterate_graph_nodes(graph):
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
    nodes = list(_iterate_graph_nodes(graph))
    where_conditions = {node.input[0] for node in nodes if node.op_type == "Where" and node.input[2] in constants}
    for node in nodes:  # in execution order
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
    """Return the number of one input among those joined, if there is one number for each of them; otherwise all."""
    return numbers.reshape(-1)[place[0], None] if place is not None and numbers.size == place[1] else numbers


def _axes(value: onnx.ValueInfoProto) -> list[Axis]:
    axes: list[Axis] = []
    for number, dim in enumerate(value.type.tensor_type.shape.dim):
        axes.append(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"unnamed axis {number}")
    return axes


def _rename_batch_axis(axis: Axis, batch: Collection[str]) -> Axis:
    return BATCH if axis in batch else axis


def _iterate_graph_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes in the order in which they run; those of inner graphs before the node that holds them."""
    for node in graph.node:
        for inner in list_inner_graphs(node):
            yield from _iterate_graph_nodes(inner)
        yield node
