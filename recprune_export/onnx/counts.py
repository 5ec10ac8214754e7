"""What an ONNX file holds: parameters, zeros, operations, bytes. All figures come from the file alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from recprune_export.codec import ToDictMixin
from recprune_export.onnx.cost.weightless_model import infer_shapes
from recprune_export.onnx.quantized_weights import QuantizedInitializers, find_quantized_initializers

if TYPE_CHECKING:
    import onnx_ir as ir

_PRODUCTS = {"MatMul", "Gemm", "MatMulInteger", "QGemm", "MatMulIntegerToFloat"}
_LOOKUPS = {"Gather", "GatherND", "GatherElements", "GatherBlockQuantized"}
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_TABLE_AXES = 2
_ZERO_NIBBLE = 8
_MASKED = -1e4
_CHUNK = 1 << 24


@dataclass(frozen=True)
class WeightCount:
    """Parameters of one part, and how many of them are not zero."""

    parameters: int
    nonzero: int


@dataclass(frozen=True)
class WeightCounts:
    """Embedding tables, and everything else."""

    tables: WeightCount
    rest: WeightCount


@dataclass(frozen=True)
class Counts(ToDictMixin):
    """`operations`: multiply-adds of matrix products for one row. `bytes`: the model with its external weights."""

    tables: WeightCount
    rest: WeightCount
    operations: int
    nodes: int
    bytes: int

    @property
    def total(self) -> WeightCount:
        """Both parts together."""
        return WeightCount(self.tables.parameters + self.rest.parameters, self.tables.nonzero + self.rest.nonzero)


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

    A table is an initializer with two axes in which a Gather along axis 0 looks up ids that depend on an input of the
    model. The rest is every other floating-point initializer or constant. Weights that are stored as integers (`find_quantized_initializers`)
    count like those they stand for. Left out are

    - the scales and zero points of such weights: they are bytes of the file, but not parameters;
    - scalars, and tensors of one element that no linear layer adds: constants such as 0.5 or an epsilon;
    - additive masks: tensors of which each element is 0 or at most -10000, and some are the latter.

    A constant that the exporter computed from parameters (a transposed weight, a batch-norm as a product and a sum) is
    counted as it stands in the file, and so is the zero that makes a row of an int4 table a whole number of bytes; a
    parameter that several layers share is counted once.
    """
    model = onnx.load(path, load_external_data=False)
    parts = _count_weights(model, lambda tensor: numpy_helper.to_array(tensor, base_dir=str(path.parent)))
    return Counts(
        tables=parts.tables,
        rest=parts.rest,
        operations=_operations(model),
        nodes=len(model.graph.node),
        bytes=path.stat().st_size + sum((path.parent / name).stat().st_size for name in _data_files(model.graph)),
    )


def remap_bytes(path: Path) -> int:
    """Return the bytes of the lists of whole numbers in which ids of the request are looked up: remaps of ids to rows."""
    graph = onnx.load(path, load_external_data=False).graph
    looked_up = _find_tables(graph)
    return sum(
        prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
        if tensor.name in looked_up and tensor.data_type not in _FLOATS and len(tensor.dims) == 1
    )


def count_weights(model: "ir.Model") -> WeightCounts:
    """Count what a graph in memory holds, as `count` does."""
    from recprune_export.onnx.cost.weightless_model import strip_weights

    bare = strip_weights(model)

    def array(tensor: onnx.TensorProto) -> np.ndarray:
        return bare.weights[tensor.name].numpy() if tensor.name in bare.weights else numpy_helper.to_array(tensor)

    return _count_weights(bare.model, array)


def find_id_limit(model: onnx.ModelProto) -> int:
    """Return a number below which every id is valid: rows of the smallest table, also of one that is a part of another."""
    tables, constants = _find_tables(model.graph), {tensor.name: tensor for tensor in model.graph.initializer}
    rows = [constants[name].dims[0] for name in tables if len(constants[name].dims) == _TABLE_AXES]
    for node in model.graph.node:
        if node.op_type == "Less" and node.input[1] in constants and constants[node.input[1]].data_type not in _FLOATS:
            rows += numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
    return max(1, min(rows, default=1))


def _count_weights(model: onnx.ModelProto, array: Callable[[onnx.TensorProto], np.ndarray]) -> WeightCounts:
    looked_up, quantised = _find_tables(model.graph), find_quantized_initializers(model.graph)
    added = _added(model.graph, quantised)
    parts: dict[bool, list[int]] = {True: [0, 0], False: [0, 0]}
    for name, tensor in _weights(model.graph, quantised):
        size = prod(tensor.dims) * quantised.weights.get(name, 1)
        if not tensor.dims or not size or (size == 1 and name not in added | looked_up | quantised.weights.keys()):
            continue
        values = array(tensor)
        if _is_additive_mask(values):
            continue
        part = parts[name in looked_up and len(tensor.dims) == _TABLE_AXES]
        part[0] += size
        part[1] += _nonzero(values) if quantised.weights.get(name, 1) == 1 else count_nonzero_nibbles(values)
    return WeightCounts(WeightCount(*parts[True]), WeightCount(*parts[False]))


def reduction(dense: Counts, pruned: Counts) -> Reduction:
    """Compare the non-zeros of `pruned` with the parameters of `dense`."""

    def gone(before: int, after: int) -> float:
        return 1.0 - after / before if before else 0.0

    return Reduction(
        tables=gone(dense.tables.parameters, pruned.tables.nonzero),
        rest=gone(dense.rest.parameters, pruned.rest.nonzero),
        parameters=gone(dense.total.parameters, pruned.total.nonzero),
        operations=gone(dense.operations, pruned.operations),
        bytes=gone(dense.bytes, pruned.bytes),
    )


def _weights(graph: onnx.GraphProto, quantized: QuantizedInitializers) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initializers of floats or of integers that stand for floats, and constants in the graph, by the names of their values."""
    for tensor in graph.initializer:
        floats = tensor.data_type in _FLOATS and tensor.name not in quantized.scales
        if floats or tensor.name in quantized.weights:
            yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type in _FLOATS:
                yield node.output[0], attribute.t
            if attribute.HasField("g"):  # the body of a loop or a branch
                yield from _weights(attribute.g, quantized)


def _data_files(graph: onnx.GraphProto) -> set[str]:
    """Names of the files beside the model that hold its weights."""
    entries = (entry for tensor in graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _find_tables(graph: onnx.GraphProto) -> set[str]:
    """Names of the initializers in which ids of the request are looked up."""
    depends = {i.name for i in graph.input} - {i.name for i in graph.initializer}
    found = set()
    for node in graph.node:
        if node.op_type in _LOOKUPS and node.input[1] in depends and not _attribute(node, "axis"):
            found.add(node.input[0])
        if node.op_type != "Shape" and any(name in depends for name in node.input):
            depends.update(node.output)
    return found - depends


def _added(graph: onnx.GraphProto, quantized: QuantizedInitializers) -> set[str]:
    """Names of what a linear layer adds to its product: the third operand of a Gemm or Conv, a sum with a MatMul."""
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"} | quantized.integer_products
    found = {name for node in graph.node if node.op_type in ("Gemm", "Conv") for name in node.input[2:]}
    for node in graph.node:
        if node.op_type == "Add" and products.intersection(node.input):
            found.update(node.input)
    return found


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _is_additive_mask(values: np.ndarray) -> bool:
    if values.ndim == 0 or values.reshape(-1)[:_CHUNK].min() > _MASKED:
        return False
    return bool(((values == 0) | (values <= _MASKED)).all())


def _nonzero(values: np.ndarray) -> int:
    flat = values.reshape(-1)
    return sum(int(np.count_nonzero(flat[start : start + _CHUNK])) for start in range(0, len(flat), _CHUNK))


def count_nonzero_nibbles(packed: np.ndarray) -> int:
    """Return how many numbers of a table in int4, two in a byte, are not zero; 8 stands for 0.

    >>> count_nonzero_nibbles(np.array([0x88, 0x98, 0x07], dtype=np.uint8))
    3
    """
    return sum(int(np.count_nonzero(half != _ZERO_NIBBLE)) for half in (packed & 15, packed >> 4))


def _operations(model: onnx.ModelProto) -> int:
    shapes = infer_shapes(model, batch=1)
    structure = _structure(model.graph)
    total = 0
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and not structure.intersection(node.input):
            left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
            if left and out is not None:
                total += prod(out) * left[0 if _attribute(node, "transA") else -1]
        elif node.op_type == "Conv":
            kernel, out = shapes.get(node.input[1]), shapes.get(node.output[0])
            if kernel and out:
                total += prod(out) * prod(kernel[1:])
    return total


def _structure(graph: onnx.GraphProto) -> set[str]:
    """Matrices that are integers in the file: a product with one is a sum in another form, and counts as little."""
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type not in _FLOATS}
    return {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in integers}
