"""Workloads of operators: one rule for each, from the shapes of its operands and results.

Sizes are for one request of some batch size; bytes are those of the operands' types.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, prod

import onnx

from recprune_export.onnx.cost.cost_constants import (
    ADDRESSED,
    ALIASED,
    ALIASED_BYTES,
    BROADCAST,
    EINSUM,
    HALVED,
    JOINED,
    LANES,
    MASKED,
    MAX_COLUMNS,
    NORMALIZED,
    OPERAND,
    OTHERS,
    PACKED_COLUMNS,
    PAGE_BYTES,
    PAGES,
    RECURRENT,
    SCATTERED,
    SKIPPED,
    STEPS,
    SUMMED_ROW,
    TRANSFORMED,
    TRANSPOSED,
    UNCACHED_PAGE,
)
from recprune_export.onnx.inner_graphs import list_inner_graphs

Shape = tuple[int, ...]
Rule = Callable[["Operator"], "OperatorWorkload"]


@dataclass(frozen=True)
class OperatorWorkload:
    """The workload of one operator.

    `operations`: multiply-adds of matrix products; `calls`: products that are computed one by one. `weights`: bytes of
    constants to read. `activations`: other bytes read and written. `steps`: evaluations of a function or comparisons, in
    units of one cheap vectorized operation on one element. `pieces`: contiguous blocks of memory that are copied one by
    one. `lookups`: rows read at random positions of a table, one after the other; `overlapped`: many at once.
    """

    operations: int = 0
    calls: int = 0
    padding: int = 0
    weights: int = 0
    activations: int = 0
    steps: float = 0.0
    pieces: float = 0.0
    lookups: int = 0
    overlapped: int = 0
    table: int = 0
    nodes: float = 1.0
    int8: bool = False


NO_WORKLOAD = OperatorWorkload(nodes=0.0)


@dataclass(frozen=True)
class TensorSpec:
    """The shape of a tensor, bytes of one element, and whether it is a constant."""

    shape: Shape
    itemsize: int = 4
    constant: bool = False

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        return self.size * self.itemsize


@dataclass(frozen=True)
class Operator:
    """A node with the shapes of its operands and results; None for one that is omitted or has an unknown shape.

    `masked`: whether the first operand may hold scores that a mask made very low. `of_sum`: whether it is a sum.
    """

    node: onnx.NodeProto
    inputs: tuple[TensorSpec | None, ...]
    outputs: tuple[TensorSpec | None, ...]
    masked: bool = False
    of_sum: bool = False

    @property
    def result(self) -> TensorSpec:
        """The first result of the node."""
        assert self.outputs[0] is not None
        return self.outputs[0]

    def operand(self, position: int) -> TensorSpec:
        """Return a required operand."""
        tensor = self.inputs[position]
        assert tensor is not None
        return tensor

    def integer(self, name: str, default: int = 0) -> int:
        """Return an integer attribute."""
        return next((a.i for a in self.node.attribute if a.name == name), default)

    def integers(self, name: str) -> list[int]:
        """Return an attribute that is a list of integers."""
        return next((list(a.ints) for a in self.node.attribute if a.name == name), [])

    @property
    def constant_bytes(self) -> int:
        """The bytes of the constant operands."""
        return sum(t.bytes for t in self.inputs if t is not None and t.constant)

    @property
    def activation_bytes(self) -> int:
        """The bytes of the computed operands and of the results."""
        computed = [t for t in self.inputs if t is not None and not t.constant]
        return sum(t.bytes for t in (*computed, *(t for t in self.outputs if t is not None)))


def compute_workload(operator: Operator) -> OperatorWorkload:
    """Return the workload of an operator; one without a rule reads its operands and writes its results."""
    named = zip(operator.inputs, operator.node.input, strict=True)
    if operator.outputs[0] is None or any(tensor is None and name for tensor, name in named):
        return OperatorWorkload(nodes=OTHERS)
    rule, nodes = _RULES.get(operator.node.op_type, (_elementwise, OTHERS))
    return replace(rule(operator), nodes=nodes)


# Operators of matrix products whose multiply-adds a rule counts
_COUNTED = {
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "MatMulInteger",
    "QGemm",
    "MatMulIntegerToFloat",
    "Conv",
    "LSTM",
    "GRU",
    "RNN",
}
# Operators of matrix products without such a rule
_UNCOUNTED = {
    "Attention",
    "ConvInteger",
    "ConvTranspose",
    "DeformConv",
    "QLinearConv",
    "QLinearMatMul",
    "TfIdfVectorizer",
}
# Operators of ONNX Runtime's own domain that compute no matrix product
_NO_PRODUCTS = {
    "BiasGelu", "FastGelu", "GatherBlockQuantized", "Gelu", "QuickGelu", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
}  # fmt: skip


def is_product(node: onnx.NodeProto) -> bool:
    """Return whether a node computes a matrix product, or may: an operator of another domain, or one with such a node inside."""
    if node.op_type in _COUNTED | _UNCOUNTED | {"Einsum"}:
        return True
    if node.domain not in ("", "ai.onnx") and node.op_type not in _NO_PRODUCTS:
        return True
    return any(is_product(inner) for graph in list_inner_graphs(node) for inner in graph.node)


def count_multiply_adds(operator: Operator, workload: OperatorWorkload) -> int | None:
    """Return the multiply-adds of an operator with this workload; None if it computes products whose number is unknown.

    An Einsum has one for each combination of its letters, of two operands at a time.
    """
    if not is_product(operator.node):
        return 0
    if operator.node.op_type not in _COUNTED | {"Einsum"} or any(
        tensor is None for tensor in (*operator.inputs[:2], *operator.outputs[:1])
    ):
        return None
    return _count_einsum(operator) if operator.node.op_type == "Einsum" else workload.operations


def _count_einsum(operator: Operator) -> int | None:
    equation = next((a.s.decode(errors="replace") for a in operator.node.attribute if a.name == "equation"), "")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation or len(terms) > 2 or None in operator.inputs:
        return None
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, operator.inputs, strict=True):
        for letter, size in zip(term, tensor.shape if tensor else (), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return prod(sizes.values()) if len(terms) == 2 else 0


_RULES: dict[str, tuple[Rule, float]] = {}


def _rule(*operators: str, nodes: float = OTHERS) -> Callable[[Rule], Rule]:
    """Register the rule of some operators, whose start costs as much as `nodes` of the simplest ones."""

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, (rule, nodes)))
        return rule

    return register


@_rule(
    "Shape", "Size", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Constant", "ConstantOfShape", "Range"
)
def _view(operator: Operator) -> OperatorWorkload:
    """Return no work for shapes and views."""
    return OperatorWorkload()


@_rule("DequantizeLinear", nodes=0.0)
def _dequantize(operator: Operator) -> OperatorWorkload:
    """Return no work: dequantization is fused into the product that reads it."""
    return OperatorWorkload()


@_rule("QuantizeLinear", "DynamicQuantizeLinear")
def _quantize(operator: Operator) -> OperatorWorkload:
    """Return the work of reading and rounding each element once."""
    return OperatorWorkload(activations=operator.activation_bytes, steps=float(2 * operator.operand(0).size))


@_rule(*STEPS)
def _elementwise(operator: Operator) -> OperatorWorkload:
    """Return the work of one function on each element."""
    size = max(tensor.size for tensor in (*operator.inputs, *operator.outputs) if tensor is not None)
    steps = float(STEPS.get(operator.node.op_type, 1) * size)
    return OperatorWorkload(weights=operator.constant_bytes, activations=operator.activation_bytes, steps=steps)


@_rule(
    "Add", "Sub", "Mul", "Div", "Min", "Max", "And", "Or", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"
)
def _broadcast(operator: Operator) -> OperatorWorkload:
    """Return the work of a binary operator: a row that is added to many short rows starts a loop for each of them."""
    out = operator.result
    broadcast_operands = [t for t in operator.inputs if t is not None and t.size > 1 and t.shape != out.shape]
    rows = out.size / max(out.shape[-1], 1) if broadcast_operands and len(out.shape) > 1 else 0.0
    steps = out.size + BROADCAST * min(rows, out.size / 4)
    return OperatorWorkload(weights=operator.constant_bytes, activations=operator.activation_bytes, steps=steps)


@_rule("Gemm", "FusedGemm")
def _gemm(operator: Operator) -> OperatorWorkload:
    left, right, out = operator.operand(0), operator.operand(1), operator.result
    inner = left.shape[0 if operator.integer("transA") else -1]
    return _product(operator, out.shape[0], inner, out.shape[1], calls=1, right=right)


@_rule("MatMul", "FusedMatMul", "MatMulInteger", nodes=1.5)
def _matmul(operator: Operator) -> OperatorWorkload:
    left, right, out = operator.operand(0), operator.operand(1), operator.result
    inner = left.shape[-2 if operator.integer("transA") else -1]
    columns = out.shape[-1] if len(right.shape) > 1 else 1
    if prod(right.shape[:-2]) == 1:  # one matrix for all rows: a single product
        return _product(operator, ceil(out.size / max(columns, 1)), inner, columns, calls=1, right=right)
    rows = out.shape[-2] if len(left.shape) > 1 else 1
    return _product(operator, rows, inner, columns, calls=ceil(out.size / max(rows * columns, 1)), right=right)


@_rule("QGemm", "MatMulIntegerToFloat", nodes=3.0)
def _integer_product(operator: Operator) -> OperatorWorkload:
    left, out = operator.operand(0), operator.result
    right = operator.operand(3 if operator.node.op_type == "QGemm" else 1)
    columns = out.shape[-1]
    return _product(operator, ceil(out.size / max(columns, 1)), left.shape[-1], columns, calls=1, right=right)


def _product(
    operator: Operator, rows: int, inner: int, columns: int, calls: int, right: TensorSpec
) -> OperatorWorkload:
    is_packed = right.constant and len(right.shape) == 2
    packed = 0 if is_packed or (right.constant and rows == 1) else 2 * calls * inner * columns * right.itemsize
    idle = 1 if columns == 1 else -columns % LANES  # a single column is bound by its reads
    return OperatorWorkload(
        operations=calls * rows * inner * columns,
        calls=calls,
        padding=calls * rows * inner * idle,
        weights=operator.constant_bytes,
        activations=operator.activation_bytes + packed,
        pieces=_count_uncached_pages(rows, inner, columns, is_packed) * UNCACHED_PAGE,
        int8=right.itemsize == 1,
    )


def _count_uncached_pages(rows: int, inner: int, columns: int, is_packed: bool) -> int:
    """Return how often a product begins a row of a block of columns in a page whose address is not cached.

    A product writes its result one block of columns after the other, each through all rows; packed weights have small blocks.

    >>> [_count_uncached_pages(*sizes) for sizes in ((3072, 13, 1000, True), (3072, 13, 1000, False), (384, 13, 1000, True))]
    [24576, 0, 0]
    """
    widest = PACKED_COLUMNS * max(PACKED_COLUMNS >> max(inner - 1, 0).bit_length(), 1)
    blocks = ceil(columns / (PACKED_COLUMNS if is_packed else min(widest, MAX_COLUMNS)))
    pages = min(rows, rows * columns * 4 // PAGE_BYTES)
    return rows * blocks if blocks > 1 and pages > PAGES else 0


@_rule("Conv", nodes=10.0)
def _conv(operator: Operator) -> OperatorWorkload:
    kernel, out = operator.operand(1), operator.result
    return OperatorWorkload(
        operations=out.size * prod(kernel.shape[1:]),
        calls=out.shape[0],
        weights=operator.constant_bytes,
        activations=operator.activation_bytes,
    )


@_rule("LSTM", "GRU", "RNN", nodes=40.0)
def _recurrent(operator: Operator) -> OperatorWorkload:
    """Return the work of both weights, for each step of each row."""
    length, batch = operator.operand(0).shape[:2]
    inputs, hidden = operator.operand(1), operator.operand(2)
    return OperatorWorkload(
        operations=length * batch * (inputs.size + hidden.size),
        calls=length,
        weights=operator.constant_bytes,
        activations=operator.activation_bytes,
        steps=RECURRENT * length * batch * hidden.shape[-1],
    )


@_rule("Gather")
def _gather(operator: Operator) -> OperatorWorkload:
    """Return the work of copying rows of a table, or pieces of a computed value."""
    data, out = operator.operand(0), operator.result
    axis = operator.integer("axis") % len(data.shape)
    pieces = prod(data.shape[:axis]) * operator.operand(1).size
    if data.constant and axis == 0:
        ids = 0 if operator.operand(1).constant else operator.operand(1).bytes
        return OperatorWorkload(weights=out.bytes, activations=out.bytes + ids, lookups=pieces, table=data.bytes)
    return OperatorWorkload(activations=2 * out.bytes, pieces=pieces)


@_rule("GatherND", nodes=1.3)
def _gather_nd(operator: Operator) -> OperatorWorkload:
    """Return the work of copying rows of a table, which overlap since GatherND computes all addresses first, or slices."""
    data, out, indices = operator.operand(0), operator.result, operator.operand(1)
    if data.constant and not indices.constant and indices.shape[-1:] == (1,):
        rows = prod(indices.shape)
        return OperatorWorkload(
            weights=out.bytes, activations=out.bytes + indices.bytes, overlapped=rows, table=data.bytes
        )
    pieces = ADDRESSED * prod(indices.shape[:-1])
    return OperatorWorkload(activations=2 * out.bytes, pieces=pieces, weights=operator.constant_bytes)


@_rule("Concat")
def _concat(operator: Operator) -> OperatorWorkload:
    """Return the work of copying a piece for each operand and each index of the axes before the concatenated one."""
    before = prod(operator.result.shape[: operator.integer("axis") % len(operator.result.shape)])
    pieces = (JOINED * before + OPERAND) * len(operator.inputs)
    return OperatorWorkload(activations=operator.activation_bytes, weights=operator.constant_bytes, pieces=pieces)


@_rule("Slice", "Split", nodes=1.6)
def _slice(operator: Operator) -> OperatorWorkload:
    """Return the work of copying a piece for each index of the axes before the sliced one."""
    source = operator.operand(0)
    results = [t for t in operator.outputs if t is not None]
    pieces = 0.0
    for result in results:
        sliced_axes = [
            axis for axis, sizes in enumerate(zip(source.shape, result.shape, strict=True)) if sizes[0] != sizes[1]
        ]
        pieces += JOINED * prod(result.shape[: sliced_axes[-1]]) if sliced_axes else 1.0
    return OperatorWorkload(activations=2 * sum(t.bytes for t in results), pieces=pieces)


@_rule("Transpose")
def _transpose(operator: Operator) -> OperatorWorkload:
    """Return the work of a transpose: unchanged last axes move as one block; a matrix is transposed in registers."""
    source = operator.operand(0)
    order = operator.integers("perm") or list(reversed(range(len(source.shape))))
    moving = [axis for axis in order if source.shape[axis] != 1]
    if moving == sorted(moving):
        return OperatorWorkload(activations=2 * source.bytes)
    unchanged = next(i for i in range(len(order)) if order[-1 - i] != len(order) - 1 - i)
    if unchanged:
        return OperatorWorkload(
            activations=2 * source.bytes, pieces=source.size // max(prod(source.shape[-unchanged:]), 1)
        )
    steps = TRANSPOSED if _swaps_neighbors(order) else SCATTERED
    if order == [1, 0] and source.shape[1] * source.itemsize % ALIASED_BYTES == 0:
        steps = ALIASED
    return OperatorWorkload(activations=2 * source.bytes, steps=source.size * steps)


def _swaps_neighbors(order: Sequence[int]) -> bool:
    """Return whether a permutation only swaps two neighboring blocks of axes, as one that moves a single axis does.

    >>> [_swaps_neighbors(order) for order in ([1, 0], [0, 2, 1], [1, 2, 0, 3], [2, 3, 0, 1], [2, 1, 0])]
    [True, True, True, True, False]
    """
    moved = [axis for position, axis in enumerate(order) if axis != position]
    first, last = min(moved), max(moved)
    return moved == [*range(moved[0], last + 1), *range(first, moved[0])]


@_rule("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceProd", nodes=1.4)
def _reduce(operator: Operator) -> OperatorWorkload:
    """Return the work of a reduction: a sum over a middle axis costs a call for each output row, a maximum does not."""
    source, out = operator.operand(0), operator.result
    keeps_last_axis = 0 < out.size < source.size and len(source.shape) > 1 and out.shape[-1:] == source.shape[-1:]
    calls = keeps_last_axis and operator.node.op_type not in ("ReduceMax", "ReduceMin")
    pieces = SUMMED_ROW * out.size / out.shape[-1] if calls else JOINED * out.size
    return OperatorWorkload(activations=source.bytes + out.bytes, steps=float(source.size), pieces=pieces)


@_rule("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "SkipLayerNormalization", nodes=1.2)
def _normalize(operator: Operator) -> OperatorWorkload:
    """Return the work of three passes over each row, of which exp is slow where its results are subnormal."""
    skipped = operator.node.op_type == "LayerNormalization" and operator.of_sum and len(operator.operand(0).shape) == 3
    steps = (SKIPPED if skipped else MASKED if operator.masked else NORMALIZED) * operator.operand(0).size
    return OperatorWorkload(weights=operator.constant_bytes, activations=operator.activation_bytes, steps=steps)


@_rule("Einsum", nodes=12.0)
def _einsum(operator: Operator) -> OperatorWorkload:
    """Return the work of transposing the operands, and of a small product for each element of the batch."""
    return OperatorWorkload(activations=operator.activation_bytes, steps=EINSUM * operator.result.size)


@_rule("DFT", nodes=12.0)
def _dft(operator: Operator) -> OperatorWorkload:
    """Return the work of transforms one by one: of other lengths than powers of 2 as a convolution of a longer one.

    The length is that of the longer side: a one-sided result has half as many numbers.
    """
    source, out = operator.operand(0), operator.result
    axis = next(
        (a for a, sizes in enumerate(zip(source.shape[:-1], out.shape[:-1], strict=True)) if sizes[0] != sizes[1]), 1
    )
    length = max(source.shape[axis], out.shape[axis])
    rows = out.size // max(out.shape[axis] * out.shape[-1], 1)
    steps = HALVED * log2(max(length, 2)) if length & (length - 1) == 0 else TRANSFORMED
    return OperatorWorkload(activations=operator.activation_bytes, steps=float(rows * length * steps))
