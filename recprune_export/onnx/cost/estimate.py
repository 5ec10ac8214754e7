"""The cost of a request, from the graph alone: operations, bytes, the floor of the machine, and an estimate.

The *floor* is what no runtime on this machine can go below: the multiply-adds of all matrix products at the best rate
that was measured, or the bytes that have to be read (weights, rows of tables, the request and its answer) at the best
rate at which memory was read, whichever takes longer (the roofline of Williams, Waterman and Patterson 2009). What
flows between operators counts nothing: a perfect runtime would keep it in registers. What follows from constants alone
is computed once, when the file is loaded, and is one from there on. An *estimate* adds what ONNX
Runtime's operators cost by themselves; it decides between two forms of one graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from recprune_export.onnx.cost.machine import REFERENCE, Machine
from recprune_export.onnx.cost.operator_cost import (
    NO_WORKLOAD,
    Operator,
    OperatorWorkload,
    TensorSpec,
    compute_workload,
)
from recprune_export.onnx.cost.weightless_model import Shapes, infer_shapes

# What ONNX Runtime 1.32 takes on the reference machine, in seconds; on others in proportion to the cost of a node.
PIECE = 7.4e-9  # to copy one stretch of memory, however short
STEP = 0.035e-9  # a vectorised operation on one element
MISS = 40e-9  # to look up a row in a table that no cache holds, one after the other
OVERLAPPED = 20e-9  # the same, many of them at once
PRODUCT = 0.17e-6  # to begin one of many small products
ACTIVATIONS = 90e9  # bytes per second between operators
FEED = 0.7e-6  # to hand over one more input or output
NEAR = 1 << 20  # bytes of all tables together that stay in the cache beside everything else

_FREE_AFTER_PRODUCT = {"Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "Elu"}
_PRODUCTS = {"Gemm", "MatMul", "Conv"}
_NEVER_FOLDED = {"DequantizeLinear", "If", "Loop", "Scan"}


@dataclass(frozen=True)
class CostTerms:
    """What the estimate for a node is the sum of, in seconds; each goes with one constant, or a few of `work.py`.

    `start`: to begin the node; `traffic`: what is read and written between operators; `steps`, `pieces`: as in
    `StageCheckpoints`; `lookups`: of both kinds; `calls`: to begin every product but the first; `product`: multiply-adds, or reading the weights.
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
        """The estimate."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class NodeCost:
    """Work of one node for one batch size, its floor, and the terms of its estimate, in seconds."""

    name: str
    operator: str
    workload: OperatorWorkload
    floor: float
    terms: CostTerms

    @property
    def estimate(self) -> float:
        """Seconds."""
        return self.terms.total


@dataclass(frozen=True)
class Cost:
    """The cost of one request of `batch` rows. `operations`: multiply-adds; bytes as in the file's types."""

    batch: int
    nodes: tuple[NodeCost, ...]
    operations: int
    weights: int
    activations: int
    interface: int
    floor: float
    estimate: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, times in milliseconds."""
        return {
            "operations": self.operations,
            "bytes": {"weights": self.weights, "activations": self.activations, "interface": self.interface},
            "floor": self.floor * 1e3,
        }


def estimate_file_cost(path: Path, batch: int, machine: Machine = REFERENCE) -> Cost:
    """Return the cost of the model in a file."""
    return estimate_cost(onnx.load(path, load_external_data=False), batch, machine)


def estimate_cost(model: onnx.ModelProto, batch: int, machine: Machine = REFERENCE) -> Cost:
    """Return the cost of a model, whose weights need not be loaded."""
    return estimate_cost_with_shapes(model, infer_shapes(model, batch), batch, machine)


def estimate_cost_with_shapes(model: onnx.ModelProto, shapes: Shapes, batch: int, machine: Machine = REFERENCE) -> Cost:
    """Return the cost of a model whose values have these shapes."""
    folded = _folded(model)
    operators = _operators(model, shapes, folded)
    works = [NO_WORKLOAD if o.node.output[0] in folded else compute_workload(o) for o in operators]
    interface = _interface(model, shapes)
    read = sum(work.weights for work in works) + interface
    rate = machine.read_rate(read)
    absorbed = _absorbed(model, shapes)
    far = sum({o.node.input[0]: work.table for o, work in zip(operators, works, strict=True)}.values()) > NEAR
    nodes = tuple(
        NodeCost(
            name=o.node.name,
            operator=o.node.op_type,
            workload=work,
            floor=_floor(work, machine, rate),
            terms=_terms(work, machine, rate, far, o.node.output[0] in absorbed),
        )
        for o, work in zip(operators, works, strict=True)
    )
    return Cost(
        batch=batch,
        nodes=nodes,
        operations=sum(work.operations for work in works),
        weights=sum(work.weights for work in works),
        activations=sum(work.activations for work in works),
        interface=interface,
        floor=max(sum(work.operations / _rate(work, machine) for work in works), read / rate),
        estimate=machine.call + _feeding(model, machine) + sum(node.estimate for node in nodes),
    )


def _feeding(model: onnx.ModelProto, machine: Machine) -> float:
    """Every input and output but the first of each, which the call has."""
    more = max(len(model.graph.input) - 1, 0) + max(len(model.graph.output) - 1, 0)
    return more * FEED * machine.node / REFERENCE.node


def _floor(work: OperatorWorkload, machine: Machine, read_rate: float) -> float:
    return max(work.operations / _rate(work, machine), work.weights / read_rate)


def _rate(work: OperatorWorkload, machine: Machine) -> float:
    return machine.int8 if work.int8 else machine.fp32


def _terms(work: OperatorWorkload, machine: Machine, read_rate: float, far: bool, absorbed: bool) -> CostTerms:
    scale = machine.node / REFERENCE.node
    if absorbed:
        return CostTerms(start=machine.node, steps=work.steps * STEP * scale)
    return CostTerms(
        start=work.nodes * machine.node,
        traffic=work.activations / ACTIVATIONS * scale,
        steps=work.steps * STEP * scale,
        pieces=work.pieces * PIECE * scale,
        lookups=_lookups(work, far) * scale,
        calls=max(work.calls - 1, 0) * PRODUCT * scale,  # the first is a part of the node; other operators make none
        product=_product(work, machine, read_rate),
    )


def _lookups(work: OperatorWorkload, far: bool) -> float:
    one_by_one, at_once = (MISS, OVERLAPPED) if far else (0.0, 0.0)
    return work.lookups * (PIECE + one_by_one) + work.overlapped * (PIECE + at_once)


def _product(work: OperatorWorkload, machine: Machine, read_rate: float) -> float:
    """Few rows are bound by the weights that are read, whatever their number; beyond them each row costs the same."""
    return (
        max((work.operations + work.padding) / _rate(work, machine), work.weights / read_rate)
        if work.operations
        else 0.0
    )


def _absorbed(model: onnx.ModelProto, shapes: Shapes) -> frozenset[str]:
    """Results of nodes that ONNX Runtime makes a part of the product before: an added bias, an activation.

    It does not where what is multiplied has more than two axes.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    open_ends, absorbed = set(), set()
    for node in model.graph.node:
        sources = [name for name in node.input if name not in constants]
        fits = len(sources) == 1 and sources[0] in open_ends and uses[sources[0]] == 1
        if node.op_type in _PRODUCTS:
            if node.op_type != "MatMul" or len(shapes.get(node.input[0], ())) <= 2:
                open_ends.add(node.output[0])
        elif fits and (
            node.op_type in _FREE_AFTER_PRODUCT or (node.op_type == "Add" and len(node.input) > len(sources))
        ):
            absorbed.add(node.output[0])
            if node.op_type == "Add":
                open_ends.add(node.output[0])
    return frozenset(absorbed)


def _folded(model: onnx.ModelProto) -> frozenset[str]:
    """Values that depend on what the file holds alone, and are computed at load; ONNX Runtime widens no weights there."""
    constants = {tensor.name for tensor in model.graph.initializer}
    folded: set[str] = set()
    for node in model.graph.node:
        operands = {name for name in node.input if name}
        alone = node.op_type == "Constant" or (operands and operands <= constants | folded)
        if alone and node.op_type not in _NEVER_FOLDED:
            folded.update(node.output)
    return frozenset(folded)


def _operators(model: onnx.ModelProto, shapes: Shapes, folded: frozenset[str]) -> list[Operator]:
    itemsizes = dict(_itemsizes(model))
    constants = {tensor.name for tensor in model.graph.initializer} | folded
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":  # a part of the product that reads it: nothing is widened
            itemsizes[node.output[0]] = itemsizes.get(node.input[0], 1)
            constants |= {node.output[0]} if node.input[0] in constants else set()

    def tensor(name: str) -> TensorSpec | None:
        return TensorSpec(shapes[name], itemsizes.get(name, 4), name in constants) if name in shapes else None

    return [
        Operator(node, tuple(map(tensor, node.input)), tuple(map(tensor, node.output))) for node in model.graph.node
    ]


def _itemsizes(model: onnx.ModelProto) -> Mapping[str, int]:
    """Bytes of an element, of every value whose type is stated."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return {
        name: onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
        for name, kind in types.items()
        if kind not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
    }


def _interface(model: onnx.ModelProto, shapes: Shapes) -> int:
    """Bytes of the request and of its answer."""
    itemsizes = _itemsizes(model)
    values = (*model.graph.input, *model.graph.output)
    tensors = [TensorSpec(shapes[v.name], itemsizes.get(v.name, 4)) for v in values if v.name in shapes]
    return sum(tensor.bytes for tensor in tensors)
