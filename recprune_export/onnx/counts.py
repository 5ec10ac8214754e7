"""Counts of an ONNX file, only from the file: parameters, zeros, operations, bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from recprune_export.codec import OMIT_DEFAULT, DictMixin, ToDictMixin
from recprune_export.mapped_pages import limit_mapped_pages
from recprune_export.number_formats import format_operations
from recprune_export.onnx.cost.estimate import estimate_file_cost
from recprune_export.onnx.inner_graphs import list_inner_graphs
from recprune_export.onnx.quantized_weights import QuantizedInitializers, RowFormat, find_quantized_initializers
from recprune_export.onnx.reading import count_bytes, find_weight_files, read_tensor

if TYPE_CHECKING:
    import onnx_ir as ir

_LOOKUPS = {"Gather", "GatherND", "GatherElements", "GatherBlockQuantized"}
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
_ZERO_NIBBLE = 8
_MASKED = -1e4
_CHUNK = 1 << 20  # elements


@dataclass(frozen=True)
class WeightCount:
    """The number of parameters, the number of those that are not zero, and the bytes that store them.

    The bytes are those of the numbers, without scales; None in counts that were recorded without them.
    """

    parameters: int
    nonzero: int
    bytes: int | None = field(default=None, metadata=OMIT_DEFAULT)


@dataclass(frozen=True)
class WeightCounts:
    """Counts of embedding tables, and of all other weights."""

    tables: WeightCount
    rest: WeightCount


@dataclass(frozen=True)
class Counts(DictMixin):
    """All counts of a file. `operations`: multiply-adds of matrix products for one row. `bytes`: external weights too.

    `operations_complete` is false where `operations` is a lower bound (`Cost`).
    """

    tables: WeightCount
    rest: WeightCount
    operations: int
    nodes: int
    bytes: int
    operations_complete: bool = field(default=True, metadata=OMIT_DEFAULT)

    def format_operations(self) -> str:
        """Return the operations as text, with "at least" where they are a lower bound."""
        return format_operations(self.operations, complete=self.operations_complete)

    @property
    def total(self) -> WeightCount:
        """The sum of tables and other weights."""
        stored = None if self.tables.bytes is None or self.rest.bytes is None else self.tables.bytes + self.rest.bytes
        return WeightCount(
            self.tables.parameters + self.rest.parameters, self.tables.nonzero + self.rest.nonzero, stored
        )


@dataclass(frozen=True)
class ParameterFractions:
    """Fractions of the dense parameters of the tables, of other layers, and of all."""

    tables: float
    rest: float
    parameters: float


@dataclass(frozen=True)
class Reduction(ToDictMixin):
    """Fractions of the dense model that are removed or zero in the pruned model.

    `removed`: parameters that are no longer in the file; `zeroed`: parameters that are in the file, but 0, which make it neither smaller
    nor faster. `tables`, `rest` and `parameters` are the sums of both, by which sparsity is counted. `operations` and `bytes` are those
    of the file.
    """

    tables: float
    rest: float
    parameters: float
    operations: float
    bytes: float
    removed: ParameterFractions
    zeroed: ParameterFractions


def count(path: Path) -> Counts:
    """Count parameters, operations, nodes and bytes of the file `path`.

    A table is an initializer with two axes in which a Gather along axis 0 looks up ids that depend on an input of the
    model. The rest is every other floating-point initializer or constant. Weights that are stored as integers
    (`find_quantized_initializers`) count like the floats that they represent. Not counted are

    - the scales and zero points of such weights: they are bytes of the file, but not parameters;
    - scalars, and tensors of one element that no linear layer adds: constants such as 0.5 or an epsilon;
    - additive masks: tensors of which each element is 0 or at most -10000, and some are the latter.

    A constant that the exporter computed from parameters (a transposed weight, a batch-norm as a product and a sum) is
    counted as it is in the file; a parameter that several layers share is counted once.

    Operations are counted from the shapes of the graph; where those follow from sizes that are computed at run time, from one
    answer of ONNX Runtime (`estimate_file_cost`).

    Time: one pass over the weights. Memory: one chunk of them where they lie next to the graph, which are mapped.
    """
    model, cost = onnx.load(path, load_external_data=False), estimate_file_cost(path, 1)
    weight_counts = _count_weights(model, lambda tensor: read_tensor(tensor, path.parent))
    return Counts(
        tables=weight_counts.tables,
        rest=weight_counts.rest,
        operations=cost.operations,
        nodes=len(model.graph.node),
        bytes=path.stat().st_size + sum((path.parent / name).stat().st_size for name in find_weight_files(model)),
        operations_complete=cost.operations_complete,
    )


def remap_bytes(path: Path) -> int:
    """Return the bytes of the remaps: integer vectors that map ids of the request to rows."""
    graph = onnx.load(path, load_external_data=False).graph
    tables = _find_tables(graph)
    return sum(
        prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
        if tensor.name in tables and tensor.data_type not in _FLOATS and len(tensor.dims) == 1
    )


def count_weights(model: "ir.Model") -> WeightCounts:
    """Count the weights of a graph in memory, as `count` does."""
    from recprune_export.onnx.cost.weightless_model import strip_weights

    weightless = strip_weights(model)

    def array(tensor: onnx.TensorProto) -> np.ndarray:
        return weightless.weights[tensor.name].numpy() if tensor.name in weightless.weights else read_tensor(tensor)

    return _count_weights(weightless.model, array)


def find_id_limit(model: onnx.ModelProto, folder: Path) -> int:
    """Return a number below which every id is valid: the rows of the smallest table, including fused tables.

    `folder` is that of the file of the model.
    """
    tables, constants = _find_tables(model.graph), {tensor.name: tensor for tensor in model.graph.initializer}
    rows = [constants[name].dims[0] for name in tables & constants.keys() if len(constants[name].dims) == 2]
    for node in model.graph.node:
        if node.op_type == "Less" and node.input[1] in constants and constants[node.input[1]].data_type not in _FLOATS:
            rows += read_tensor(constants[node.input[1]], folder).reshape(-1).tolist()
    return max(1, min(rows, default=1))


def _count_weights(model: onnx.ModelProto, array: Callable[[onnx.TensorProto], np.ndarray]) -> WeightCounts:
    tables, quantized = _find_tables(model.graph), find_quantized_initializers(model.graph)
    biases = _find_biases(model.graph, quantized)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    totals: dict[bool, list[int]] = {True: [0, 0, 0], False: [0, 0, 0]}
    for name, tensor in _iterate_weights(model.graph, quantized):
        rows = quantized.rows.get(name)
        size = prod(tensor.dims) * quantized.weights.get(name, 1) if rows is None else tensor.dims[0] * rows.dimensions
        if (
            not tensor.dims
            or not size
            or (size == 1 and name not in biases | tables | quantized.weights.keys() | quantized.rows.keys())
        ):
            continue
        values = array(tensor)
        if _is_additive_mask(values):
            continue
        total = totals[name in tables and len(tensor.dims) == 2]
        total[0] += size
        if rows is not None:
            total[1] += _count_nonzero_in_rows(rows, values, array(tensors[rows.codes]))
        else:
            total[1] += _count_nonzero(values) if quantized.weights.get(name, 1) == 1 else count_nonzero_nibbles(values)
        total[2] += count_bytes(tensor) or 0
    return WeightCounts(WeightCount(*totals[True]), WeightCount(*totals[False]))


def reduction(dense: Counts, pruned: Counts) -> Reduction:
    """Compare the counts of `pruned` with those of `dense`."""
    pairs = ((dense.tables, pruned.tables), (dense.rest, pruned.rest), (dense.total, pruned.total))

    def missing(before: int, after: int) -> float:
        return 1.0 - after / before if before else 0.0

    tables, rest, parameters = (missing(before.parameters, after.nonzero) for before, after in pairs)
    return Reduction(
        tables=tables,
        rest=rest,
        parameters=parameters,
        operations=missing(dense.operations, pruned.operations),
        bytes=missing(dense.bytes, pruned.bytes),
        removed=ParameterFractions(*(missing(before.parameters, after.parameters) for before, after in pairs)),
        zeroed=ParameterFractions(
            *((after.parameters - after.nonzero) / max(before.parameters, 1) for before, after in pairs)
        ),
    )


def _iterate_weights(
    graph: onnx.GraphProto, quantized: QuantizedInitializers
) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield weights with the names of their values: initializers in float or quantized, and constants in the graph."""
    for tensor in graph.initializer:
        floats = tensor.data_type in _FLOATS and tensor.name not in quantized.scales
        if floats or tensor.name in quantized.weights or tensor.name in quantized.rows:
            yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type in _FLOATS:
                yield node.output[0], attribute.t
        for inner in list_inner_graphs(node):
            yield from _iterate_weights(inner, quantized)


def _find_tables(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the initializers in which ids of the request are looked up."""
    computed = {i.name for i in graph.input} - {i.name for i in graph.initializer}
    tables = set()
    for node in graph.node:
        if node.op_type in _LOOKUPS and node.input[1] in computed and not _attribute(node, "axis"):
            tables.add(node.input[0])
        if node.op_type != "Shape" and any(name in computed for name in node.input):
            computed.update(node.output)
    return tables - computed


def _find_biases(graph: onnx.GraphProto, quantized: QuantizedInitializers) -> set[str]:
    """Return the names of biases: the third operand of a Gemm or Conv, the other operand of a sum with a MatMul."""
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"} | quantized.integer_products
    biases = {name for node in graph.node if node.op_type in ("Gemm", "Conv") for name in node.input[2:]}
    for node in graph.node:
        if node.op_type == "Add" and products.intersection(node.input):
            biases.update(node.input)
    return biases


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _is_additive_mask(values: np.ndarray) -> bool:
    if values.ndim == 0:
        return False
    has_masked = False
    for chunk in _iterate_chunks(values):
        masked = chunk <= _MASKED
        if not bool((masked | (chunk == 0)).all()):
            return False
        has_masked = has_masked or bool(masked.any())
    return has_masked


def _count_nonzero(values: np.ndarray) -> int:
    return sum(int(np.count_nonzero(chunk)) for chunk in _iterate_chunks(values))


def _count_nonzero_in_rows(rows: RowFormat, stored: np.ndarray, codes: np.ndarray) -> int:
    """Return the number of non-zeros of a matrix stored by row; in 2 and 3 bits only a row of zeros, with code 0, has any."""
    if rows.bits < 4:
        return rows.dimensions * int(np.count_nonzero(codes))
    return count_nonzero_nibbles(stored) if rows.bits == 4 else _count_nonzero(stored)


def _iterate_chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    flat = values.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]
        limit_mapped_pages()


def count_nonzero_nibbles(packed: np.ndarray) -> int:
    """Return the number of non-zeros in an int4 table, two numbers in a byte; the nibble 8 represents 0.

    >>> count_nonzero_nibbles(np.array([0x88, 0x98, 0x07], dtype=np.uint8))
    3
    """
    return sum(
        int(np.count_nonzero(half != _ZERO_NIBBLE))
        for chunk in _iterate_chunks(packed)
        for half in (chunk & 15, chunk >> 4)
    )
