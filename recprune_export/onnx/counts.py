"""What an ONNX file holds: parameters, zeros, operations, bytes. All figures come from the file alone."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

_LOOKUPS = {"Gather", "GatherND", "GatherElements", "GatherBlockQuantized"}
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_CHUNK = 1 << 24


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part, and how many of them are not zero."""

    parameters: int
    nonzero: int


@dataclass(frozen=True)
class Counts:
    """`operations`: multiply-adds of matrix products for one row. `bytes`: the model with its external weights."""

    tables: PartCount
    rest: PartCount
    operations: int
    nodes: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Reduction:
    """Fractions of the dense model that are gone: of parameters, by part and in all, of operations and of bytes."""

    tables: float
    rest: float
    parameters: float
    operations: float
    bytes: float


def count(path: Path) -> Counts:
    """Count what `path` holds.

    A parameter is an element of a floating-point initializer with at least one axis; a table is an initializer with two
    axes in which a Gather looks up ids that depend on an input of the model, all others are the rest. A scalar is a constant, no parameter.
    """
    model = onnx.load(path, load_external_data=False)
    base = str(path.parent)
    looked_up = _looked_up(model.graph)
    parts: dict[bool, list[int]] = {True: [0, 0], False: [0, 0]}
    for tensor in _float_tensors(model.graph):
        size = prod(tensor.dims)
        values = numpy_helper.to_array(tensor, base_dir=base)
        if not tensor.dims or not size:
            continue
        part = parts[tensor.name in looked_up and len(tensor.dims) == 2]
        part[0] += size
        part[1] += _nonzero(values)
    data = path.with_name(path.name + ".data")
    return Counts(
        tables=PartCount(*parts[True]),
        rest=PartCount(*parts[False]),
        operations=_operations(model),
        nodes=len(model.graph.node),
        bytes=path.stat().st_size + (data.stat().st_size if data.exists() else 0),
    )


def reduction(dense: Counts, pruned: Counts) -> Reduction:
    """Compare the non-zeros of `pruned` with the parameters of `dense`."""

    def gone(before: int, after: int) -> float:
        return 1.0 - after / before if before else 0.0

    return Reduction(
        tables=gone(dense.tables.parameters, pruned.tables.nonzero),
        rest=gone(dense.rest.parameters, pruned.rest.nonzero),
        parameters=gone(dense.tables.parameters + dense.rest.parameters, pruned.tables.nonzero + pruned.rest.nonzero),
        operations=gone(dense.operations, pruned.operations),
        bytes=gone(dense.bytes, pruned.bytes),
    )


def _float_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers, and constants that stand in the graph as nodes, also in those of loops and branches."""
    yield from (tensor for tensor in graph.initializer if tensor.data_type in _FLOATS)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type in _FLOATS:
                yield attribute.t
            if attribute.HasField("g"):
                yield from _float_tensors(attribute.g)


def _looked_up(graph: onnx.GraphProto) -> set[str]:
    """Names of the initializers in which ids of the request are looked up."""
    depends = {i.name for i in graph.input}
    found = set()
    for node in graph.node:
        if node.op_type in _LOOKUPS and node.input[1] in depends:
            found.add(node.input[0])
        if node.op_type != "Shape" and any(name in depends for name in node.input):
            depends.update(node.output)
    return found - depends


def _nonzero(values: np.ndarray) -> int:
    flat = values.reshape(-1)
    return sum(int(np.count_nonzero(flat[start : start + _CHUNK])) for start in range(0, len(flat), _CHUNK))


def _operations(model: onnx.ModelProto) -> int:
    shapes = _shapes_for_one_row(model)
    total = 0
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
            if left and out:
                transposed = any(a.name == "transA" and a.i for a in node.attribute)
                total += prod(out) * left[0 if transposed else -1]
        elif node.op_type == "Conv":
            kernel, out = shapes.get(node.input[1]), shapes.get(node.output[0])
            if kernel and out:
                total += prod(out) * prod(kernel[1:])
    return total


def _shapes_for_one_row(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    one = onnx.ModelProto()
    one.CopyFrom(model)
    for value in one.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = 1
    del one.graph.value_info[:]
    for value in one.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.Clear()
    inferred = onnx.shape_inference.infer_shapes(one, data_prop=True).graph
    shapes = {i.name: tuple(i.dims) for i in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes
