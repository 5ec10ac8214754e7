"""Shapes of the values of a model only by ONNX, for one batch size; weights are neither read nor copied."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from recprune_export.program.requests.jagged_inputs import ELEMENTS
from recprune_export.program.signature import BATCH

LARGE = 1 << 10  # bytes; smaller tensors may be sizes or axes, which shape inference must read
ELEMENTS_OF_ROW = 3  # of a jagged input, by which costs are estimated

Shapes = Mapping[str, tuple[int, ...]]

# The two inputs of a contrib operator from whose shapes that of its result follows.
_OPERANDS = {"QGemm": (0, 3), "MatMulIntegerToFloat": (0, 1), "GatherBlockQuantized": (0, 1)}

_TERM = re.compile(rf"(?:(\d+)\*)?{BATCH}(?: \+ (\d+))?")


def infer_shapes(model: onnx.ModelProto, batch: int) -> Shapes:
    """Return the shapes of all values that are known when each symbolic axis of an input has size `batch`."""
    return read_shapes(model, infer_value_infos(model, batch))


def read_shapes(model: onnx.ModelProto, values: Iterable[onnx.ValueInfoProto]) -> Shapes:
    """Return the shapes of weights, and those of inferred `values` that are known."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def find_varying_axes(model: onnx.ModelProto) -> frozenset[tuple[str, int]]:
    """Return the axes of inputs whose size is neither stated nor follows from the number of rows: the least size, 1, is taken.

    The first axis is that of the rows, as is any other one of its name.
    """
    axes = [
        (value.name, axis, dim.dim_param)
        for value in model.graph.input
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    ]
    rows = {name for _, axis, name in axes if axis == 0 and name}
    return frozenset(
        (value, axis)
        for value, axis, name in axes
        if axis and name not in rows and not _TERM.fullmatch(name) and not name.endswith(ELEMENTS)
    )


def find_request_shapes(model: onnx.ModelProto, batch: int) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
    """Return the shapes and types of the inputs of a request of `batch` rows."""
    weights, varying = {tensor.name for tensor in model.graph.initializer}, find_varying_axes(model)
    return {
        value.name: (
            tuple(
                dim.dim_value
                if dim.HasField("dim_value")
                else 1
                if (value.name, axis) in varying
                else _choose_size(dim.dim_param, batch)
                for axis, dim in enumerate(value.type.tensor_type.shape.dim)
            ),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
        if value.name not in weights
    }


def add_value_infos(model: onnx.ModelProto, batch: int) -> None:
    """Add the inferred shapes and types of values of which the file states none."""
    stated = {value.name for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    model.graph.value_info.extend(value for value in infer_value_infos(model, batch) if value.name not in stated)


def infer_value_infos(model: onnx.ModelProto, batch: int) -> Sequence[onnx.ValueInfoProto]:
    """Return the inputs, values and outputs of a graph as far as ONNX infers their types and shapes."""
    graph = onnx.shape_inference.infer_shapes(_fix_batch(model, batch), data_prop=True).graph
    return (*graph.input, *graph.value_info, *graph.output)


def _replace_contrib(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield standard operators whose result has the shape and type of `node`: ONNX infers nothing for contrib operators."""
    make, (result,) = onnx.helper.make_node, node.output[:1]
    cast = make("Cast", [f"{result}/standard"], [result], to=onnx.TensorProto.FLOAT)
    if node.domain != "com.microsoft" or node.op_type not in _OPERANDS:
        yield node
    elif node.op_type == "GatherBlockQuantized":  # of 4 bits: two numbers in a byte
        yield make("Gather", node.input[:2], [f"{result}/bytes"], axis=0)
        yield make("Concat", [f"{result}/bytes"] * 2, [f"{result}/standard"], axis=-1)
        yield cast
    else:
        yield make("MatMulInteger", [node.input[i] for i in _OPERANDS[node.op_type]], [f"{result}/standard"])
        yield cast


def _choose_size(name: str, batch: int) -> int:
    """Return the size of a symbolic axis: `batch`, a term of it, or the number of elements of a jagged input.

    >>> [_choose_size(name, 10) for name in ("batch", "3*batch", "batch + 1", "ids_elements")]
    [10, 30, 11, 31]
    """
    if name.endswith(ELEMENTS):
        return ELEMENTS_OF_ROW * batch + 1  # not a multiple, which would be mistaken for a term of the batch
    match = _TERM.fullmatch(name)
    return batch if match is None else int(match[1] or 1) * batch + int(match[2] or 0)


def _fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return the graph for one batch size, without the content of large weights, which inference would copy."""
    fixed = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    fixed.graph.name = model.graph.name
    fixed.graph.node.extend(standard for node in model.graph.node for standard in _replace_contrib(node))
    fixed.graph.input.extend(model.graph.input)
    fixed.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > LARGE:
            fixed.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            fixed.graph.initializer.append(tensor)
    shapes = find_request_shapes(model, batch)
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ((), None))[0], strict=False):
            dim.dim_value = size
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed.graph.value_info.extend(_fix_known_shapes(model, batch))
    return fixed


def _fix_known_shapes(model: onnx.ModelProto, batch: int) -> Iterator[onnx.ValueInfoProto]:
    """Yield the recorded shapes of computed values: ONNX infers none after operators such as a Range over the batch."""
    for stated in model.graph.value_info:
        dims = stated.type.tensor_type.shape.dim
        known = stated.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") or _TERM.fullmatch(dim.dim_param) or dim.dim_param.endswith(ELEMENTS)
            for dim in dims
        )
        if known:
            value = onnx.ValueInfoProto()
            value.CopyFrom(stated)
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value"):
                    dim.dim_value = _choose_size(dim.dim_param, batch)
            yield value
