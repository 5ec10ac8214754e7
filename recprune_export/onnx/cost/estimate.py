"""The cost of a request, only from the graph: operations, bytes, the floor of the machine, and an estimate.

The *floor* is a lower bound for this graph on this machine: a call of a session and the start of each node at their least
measured times, and the multiply-adds of all matrix products at the best measured rate, or the bytes that must be read (weights, rows of
tables, the request and its answer) at the best measured memory bandwidth, whichever is longer (the roofline of Williams, Waterman and
Patterson 2009). Values between operators cost nothing: a perfect runtime would keep them in registers. Values that depend only on
constants are computed once, at load, and count as constants. An *estimate* adds the overhead of ONNX Runtime's operators; it decides
between two forms of one graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from recprune_export.number_formats import format_operations
from recprune_export.onnx.cost.cost_constants import (
    ACTIVATIONS,
    FEED,
    LARGE_ACTIVATIONS,
    MEMORY,
    MISS,
    NEAR,
    OVERLAPPED,
    PIECE,
    PRODUCT,
    STEP,
)
from recprune_export.onnx.cost.machine import REFERENCE, Machine
from recprune_export.onnx.cost.operator_cost import (
    NO_WORKLOAD,
    Operator,
    OperatorWorkload,
    TensorSpec,
    compute_workload,
    count_multiply_adds,
)
from recprune_export.onnx.cost.run_shapes import find_shapes
from recprune_export.onnx.cost.shape_inference import Shapes, add_value_infos, find_varying_axes, infer_shapes
from recprune_export.onnx.inline_functions import inline_functions

_FREE_AFTER_PRODUCT = {"Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "Elu"}
_PRODUCTS = {"Gemm", "MatMul", "Conv"}
_INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
_MOVING = {"Slice", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Cast"}
_LOW = -1e4  # numbers of a mask are at most this
_NEVER_FOLDED = {"DequantizeLinear", "If", "Loop", "Scan"}


@dataclass(frozen=True)
class CostTerms:
    """The terms of the estimate for a node, in seconds; each in proportion to one of `cost_constants`, or to a few.

    `start`: start of the node; `traffic`: reads and writes between operators; `steps`, `pieces`: as in
    `OperatorWorkload`; `lookups`: of both kinds; `calls`: start of every product after the first; `product`:
    multiply-adds, or reading the weights.
    """

    start: float = 0.0
    traffic: float = 0.0
    steps: float = 0.0
    pieces: float = 0.0
    lookups: float = 0.0
    calls: float = 0.0
    product: float = 0.0

    @property
    def total(self) -> float:
        """The estimate, in seconds."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class NodeCost:
    """The workload of one node for one batch size, its floor, and the terms of its estimate, in seconds."""

    name: str
    operator: str
    workload: OperatorWorkload
    floor: float
    terms: CostTerms

    @property
    def estimate(self) -> float:
        """The estimate, in seconds."""
        return self.terms.total

    @property
    def runs(self) -> bool:
        """Whether the node runs for each request: not if it is computed at load or fused into the product that reads it."""
        return self.workload.nodes > 0.0


@dataclass(frozen=True)
class Cost:
    """The cost of one request of `batch` rows. `operations`: multiply-adds of matrix products; bytes as in the file's types.

    A product with a matrix of integers is a sum in another form, and has no operations. `operations_complete` is false where
    `operations` is a lower bound: for a product of unknown shape, in a Loop or by an operator of another domain, and for an axis
    beside the batch whose size the file does not state.
    """

    batch: int
    nodes: tuple[NodeCost, ...]
    operations: int
    operations_complete: bool
    weights: int
    activations: int
    interface: int
    floor: float
    estimate: float

    def format_operations(self) -> str:
        """Return the operations as text, with "at least" where they are a lower bound."""
        return format_operations(self.operations, complete=self.operations_complete)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, times in milliseconds."""
        return {
            "operations": self.operations,
            "bytes": {"weights": self.weights, "activations": self.activations, "interface": self.interface},
            "floor": self.floor * 1e3,
        }


def estimate_file_cost(path: Path, batch: int, machine: Machine = REFERENCE) -> Cost:
    """Return the cost of the model in a file. ONNX Runtime runs it once if ONNX cannot infer the shapes of its products."""
    model = inline_functions(onnx.load(path, load_external_data=False))
    shapes = find_shapes(path, model, batch)
    add_value_infos(model, batch)
    return estimate_cost_with_shapes(model, shapes, batch, machine)


def estimate_cost(model: onnx.ModelProto, batch: int, machine: Machine = REFERENCE) -> Cost:
    """Return the cost of a model, whose weights need not be loaded."""
    return estimate_cost_with_shapes(model, infer_shapes(model, batch), batch, machine)


def estimate_cost_with_shapes(model: onnx.ModelProto, shapes: Shapes, batch: int, machine: Machine = REFERENCE) -> Cost:
    """Return the cost of a model, given the shapes of its values."""
    folded = _find_folded_values(model)
    operators = _make_operators(model, shapes, folded)
    workloads = [
        NO_WORKLOAD if operator.node.output[0] in folded else compute_workload(operator) for operator in operators
    ]
    interface = _count_interface_bytes(model, shapes)
    read_bytes = sum(workload.weights for workload in workloads) + interface
    read_rate = machine.read_rate(read_bytes)
    fused = _find_fused_values(model, shapes)
    table_bytes = {
        operator.node.input[0]: workload.table
        for operator, workload in zip(operators, workloads, strict=True)
        if workload.table
    }
    uncached = sum(table_bytes.values()) > NEAR
    sums = _find_sums(model)
    multiply_adds = [
        0 if operator.node.output[0] in sums | folded else count_multiply_adds(operator, workload)
        for operator, workload in zip(operators, workloads, strict=True)
    ]
    nodes = tuple(
        NodeCost(
            name=operator.node.name,
            operator=operator.node.op_type,
            workload=workload,
            floor=_compute_floor(workload, machine, read_rate),
            terms=_compute_terms(workload, machine, read_rate, uncached, operator.node.output[0] in fused),
        )
        for operator, workload in zip(operators, workloads, strict=True)
    )
    return Cost(
        batch=batch,
        nodes=nodes,
        operations=sum(count or 0 for count in multiply_adds),
        operations_complete=None not in multiply_adds and not find_varying_axes(model),
        weights=sum(workload.weights for workload in workloads),
        activations=sum(workload.activations for workload in workloads),
        interface=interface,
        floor=machine.call
        + machine.node * sum(node.runs for node in nodes)
        + max(
            sum(workload.operations / _get_product_rate(workload, machine) for workload in workloads),
            read_bytes / read_rate,
        ),
        estimate=machine.call + _estimate_feeding(model, machine) + sum(node.estimate for node in nodes),
    )


def count_operations(model: onnx.ModelProto) -> int:
    """Return the multiply-adds of matrix products for one row, the `operations` of `Cost`."""
    return estimate_cost(model, 1).operations


def _find_sums(model: onnx.ModelProto) -> frozenset[str]:
    """Return the results of products with a matrix that is stored as integers: sums in another form, without operations."""
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type in _INTEGERS}
    matrices = {node.output[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in integers}
    return frozenset(node.output[0] for node in model.graph.node if matrices.intersection(node.input))


def _estimate_feeding(model: onnx.ModelProto, machine: Machine) -> float:
    """Return the cost of the inputs and outputs after the first of each, which the cost of a call includes."""
    count = max(len(model.graph.input) - 1, 0) + max(len(model.graph.output) - 1, 0)
    return count * FEED * machine.node / REFERENCE.node


def _compute_floor(workload: OperatorWorkload, machine: Machine, read_rate: float) -> float:
    if not workload.nodes:
        return 0.0
    return machine.node + max(workload.operations / _get_product_rate(workload, machine), workload.weights / read_rate)


def _get_product_rate(workload: OperatorWorkload, machine: Machine) -> float:
    return machine.int8 if workload.int8 else machine.fp32


def _compute_terms(
    workload: OperatorWorkload, machine: Machine, read_rate: float, uncached: bool, fused: bool
) -> CostTerms:
    scale = machine.node / REFERENCE.node
    if fused:
        return CostTerms(start=machine.node, steps=workload.steps * STEP * scale)
    return CostTerms(
        start=workload.nodes * machine.node,
        traffic=_estimate_traffic(workload.activations) * scale,
        steps=workload.steps * STEP * scale,
        pieces=workload.pieces * PIECE * scale,
        lookups=_estimate_lookups(workload, uncached) * scale,
        calls=max(workload.calls - 1, 0) * PRODUCT * scale,  # the start of the node includes the first
        product=_estimate_product(workload, machine, read_rate),
    )


def _estimate_traffic(activations: int) -> float:
    return activations / ACTIVATIONS + max(activations - LARGE_ACTIVATIONS, 0) / MEMORY


def _estimate_lookups(workload: OperatorWorkload, uncached: bool) -> float:
    miss, overlapped = (MISS, OVERLAPPED) if uncached else (0.0, 0.0)
    return workload.lookups * (PIECE + miss) + workload.overlapped * (PIECE + overlapped)


def _estimate_product(workload: OperatorWorkload, machine: Machine, read_rate: float) -> float:
    """Return the seconds of a product: few rows are bound by reading the weights, many rows by their multiply-adds."""
    return (
        max(
            (workload.operations + workload.padding) / _get_product_rate(workload, machine),
            workload.weights / read_rate,
        )
        if workload.operations
        else 0.0
    )


def _find_fused_values(model: onnx.ModelProto, shapes: Shapes) -> frozenset[str]:
    """Return the outputs of nodes that ONNX Runtime fuses into the product before them: an added bias, an activation.

    It does not fuse them where the operand of a MatMul has more than two axes.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    fusable, fused = set(), set()
    for node in model.graph.node:
        sources = [name for name in node.input if name not in constants]
        can_fuse = len(sources) == 1 and sources[0] in fusable and uses[sources[0]] == 1
        if node.op_type in _PRODUCTS:
            if node.op_type != "MatMul" or len(shapes.get(node.input[0], ())) <= 2:
                fusable.add(node.output[0])
        elif can_fuse and (
            node.op_type in _FREE_AFTER_PRODUCT or (node.op_type == "Add" and len(node.input) > len(sources))
        ):
            fused.add(node.output[0])
            if node.op_type == "Add":
                fusable.add(node.output[0])
    return frozenset(fused)


def _find_folded_values(model: onnx.ModelProto) -> frozenset[str]:
    """Return the values that depend only on constants and are folded at load; dequantized weights are not folded."""
    constants = {tensor.name for tensor in model.graph.initializer}
    folded: set[str] = set()
    for node in model.graph.node:
        operands = {name for name in node.input if name}
        is_constant = node.op_type == "Constant" or (operands and operands <= constants | folded)
        if is_constant and node.op_type not in _NEVER_FOLDED:
            folded.update(node.output)
    return frozenset(folded)


def _make_operators(model: onnx.ModelProto, shapes: Shapes, folded: frozenset[str]) -> list[Operator]:
    itemsizes = dict(_itemsizes(model))
    constants = {tensor.name for tensor in model.graph.initializer} | folded
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":  # fused into the product that reads it: the kernel reads the integers
            itemsizes[node.output[0]] = itemsizes.get(node.input[0], 1)
            constants |= {node.output[0]} if node.input[0] in constants else set()

    def tensor(name: str) -> TensorSpec | None:
        return TensorSpec(shapes[name], itemsizes.get(name, 4), name in constants) if name in shapes else None

    masked = _find_masked_values(model)
    sums = {node.output[0] for node in model.graph.node if node.op_type == "Add"}
    return [
        Operator(
            node,
            tuple(map(tensor, node.input)),
            tuple(map(tensor, node.output)),
            bool(node.input) and node.input[0] in masked,
            bool(node.input) and node.input[0] in sums,
        )
        for node in model.graph.node
    ]


def _find_masked_values(model: onnx.ModelProto) -> frozenset[str]:
    """Return the values of which some numbers may come from a mask.

    The content of large constants is unknown: one of two axes or more that is added counts as a mask.
    """
    low: set[str] = set()
    large: set[str] = set()
    masked: set[str] = set()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            large.add(tensor.name)
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue  # its content is not read
        elif tensor.data_type == onnx.TensorProto.FLOAT and prod(tensor.dims) == 1:
            low |= {tensor.name} if onnx.numpy_helper.to_array(tensor).item() <= _LOW else set()
    for node in model.graph.node:
        match node.op_type:
            case "Where":
                holds = not (low | masked).isdisjoint(node.input[1:])
            case "Add":
                holds = not (large | masked).isdisjoint(node.input)
            case "Mul":
                holds = not low.isdisjoint(node.input)
            case operator:
                holds = operator in _MOVING and node.input[0] in masked
        if holds:
            masked.add(node.output[0])
    return frozenset(masked)


def _itemsizes(model: onnx.ModelProto) -> Mapping[str, int]:
    """Return the bytes of an element, for every value with a known type."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return {
        name: onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
        for name, kind in types.items()
        if kind not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
    }


def _count_interface_bytes(model: onnx.ModelProto, shapes: Shapes) -> int:
    """Return the bytes of the request and of its answer."""
    itemsizes = _itemsizes(model)
    values = (*model.graph.input, *model.graph.output)
    tensors = [TensorSpec(shapes[v.name], itemsizes.get(v.name, 4)) for v in values if v.name in shapes]
    return sum(tensor.bytes for tensor in tensors)
