"""Fourier transforms over an axis of known length as matrix products."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import (
    find_nodes,
    find_only_consumer,
    find_producer,
    get_constant_integers,
    get_constant_scalar,
    get_dims,
    get_rank,
    replace_node,
    replace_uses,
)
from recprune_export.onnx.optimizer.new_nodes import NewNodes
from recprune_export.onnx.optimizer.optimizer_constants import MAX_DFT_LENGTH


def dft_to_matmul(model: ir.Model) -> int:
    """Multiply by the matrix of a Fourier transform.

    Before: `DFT(x, N, axis)` of x [..., L, ..., 1 or 2], real or complex, forward or inverse, one-sided or not, of known L and
    N up to `MAX_DFT_LENGTH`. After: `MatMul(T, [re x; im x])`, from which the real and the imaginary part are split; parts that were
    joined before or are split afterwards are used directly, and a factor before or after the transform is multiplied into T. T is
    computed from integers once, when ONNX Runtime loads the model: it is structure, not a parameter. ONNX Runtime 1.32 takes 110 ns for
    each element of a transform, unless the length is a power of 2.

    Returns the number of replaced transforms.
    """
    graph = model.graph
    transforms = [match for node in find_nodes(graph, "DFT") if (match := _match(node))]
    for transform in transforms:
        _replace(graph, transform)
    if transforms:
        graph.sort()
        fill_shapes(model)
    return len(transforms)


@dataclass(frozen=True)
class _Transform:
    """A DFT of `length` numbers along `axis`, from `bins` complex or real numbers to `results` of them."""

    node: ir.Node
    axis: int
    length: int
    bins: int
    results: int
    is_inverse: bool
    is_onesided: bool

    @property
    def is_real(self) -> bool:
        """Whether the result has no imaginary part."""
        return self.is_inverse and self.is_onesided


def _match(node: ir.Node) -> _Transform | None:
    sizes = get_dims(node.inputs[0])
    if sizes is None or len(sizes) < 3 or node.inputs[0] is None or node.inputs[0].const_value is not None:
        return None
    if "axis" in node.attributes:  # of an older operator set
        return None
    operands = [*node.inputs, None, None][1:3]
    length, axis = (None if value is None else get_constant_integers(value) for value in operands)
    if any(value is not None and numbers is None for value, numbers in zip(operands, (length, axis), strict=True)):
        return None
    place = (axis[0] if axis else -2) % len(sizes)
    bins = sizes[place] if place < len(sizes) - 1 else None
    if not isinstance(bins, int) or sizes[-1] not in (1, 2) or node.inputs[0].dtype != ir.DataType.FLOAT:
        return None
    inverse, onesided = (bool(node.attributes.get_int(name, 0)) for name in ("inverse", "onesided"))
    whole = 2 * (bins - 1) if inverse and onesided else bins
    n = length[0] if length else whole
    results = n if inverse or not onesided else n // 2 + 1
    known = sum(not isinstance(size, int) for size in sizes[place + 1 :]) <= 1
    fits = 1 <= n <= MAX_DFT_LENGTH and known
    if onesided:  # runtimes differ in the other values that they accept
        fits = fits and (sizes[-1] == 2 and bins == n // 2 + 1 if inverse else sizes[-1] == 1)
    return _Transform(node, place, n, bins, results, inverse, onesided) if fits else None


def _replace(graph: ir.Graph, transform: _Transform) -> None:
    axis, result = transform.axis, transform.node.outputs[0]
    source, scale = _pass_factors(transform.node.inputs[0])
    last = transform.node
    while (factor := find_only_consumer(last.outputs[0])) and (found := _match_factor(factor)):
        last, scale = factor, scale * found[1]
    new = NewNodes(graph, result.name or "")
    parts = _find_parts(source, new)
    joined = parts[0] if len(parts) == 1 else new.add("Concat", *parts, axis=axis)
    matrix = _make_matrix(transform, len(parts), scale, new)
    behind = (get_dims(source) or [])[axis + 1 : -1]
    before = [0] * axis  # sizes that do not change
    rows = (1 if transform.is_real else 2) * transform.results
    places = [*before, rows, *(size if isinstance(size, int) else -1 for size in behind)]
    if _multiply(behind) == 1:  # one product for all rows
        if behind:
            joined = new.add("Reshape", joined, new.constant("rows", [*before, len(parts) * transform.bins]))
        product = new.add("MatMul", joined, new.add("Transpose", matrix, perm=[1, 0]))
    elif len(behind) > 1:
        flat = [*before, len(parts) * transform.bins, _multiply(behind)]
        product = new.add("MatMul", matrix, new.add("Reshape", joined, new.constant("flat", flat)))
    else:
        product = new.add("MatMul", matrix, joined)
    if len(behind) > 1 or (behind and _multiply(behind) == 1):
        product = new.add("Reshape", product, new.constant("places", places))
    results = [product] if transform.is_real else new.split(product, [transform.results] * 2, axis)
    end = new.constant("end", [-1])
    columns = [new.add("Unsqueeze", part, end) for part in results]
    whole = new.add("Concat", *columns, axis=-1)
    rank = get_rank(result)
    replace_node(graph, last, new.nodes)
    _take_parts(whole, results, columns, rank or 0)


def _multiply(sizes: Sequence[object]) -> int:
    """Return the product of sizes; -1 where one is unknown."""
    known = [size for size in sizes if isinstance(size, int)]
    return prod(known) if len(known) == len(sizes) else -1


def _pass_factors(value: ir.Value | None) -> tuple[ir.Value, float]:
    """Return x and the factor of a value that is x times constants."""
    assert value is not None
    scale = 1.0
    while (found := _match_factor(find_producer(value, "Mul", "Div"))) is not None:
        value, scale = found[0], scale * found[1]
    return value, scale


def _match_factor(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """Return x and the factor of `Mul(x, factor)`, `Mul(factor, x)` or `Div(x, divisor)`; None for other nodes."""
    if node is None or node.op_type not in ("Mul", "Div") or node.domain not in ("", "ai.onnx"):
        return None
    sides = [node.inputs, node.inputs[::-1]] if node.op_type == "Mul" else [node.inputs]
    for x, other in sides:
        number = get_constant_scalar(other)
        if x is None or x.const_value is not None or number is None or get_rank(other) not in (0, 1):
            continue
        if node.op_type == "Mul":
            return x, number
        return None if number == 0.0 else (x, 1.0 / number)
    return None


def _find_parts(source: ir.Value, new: NewNodes) -> list[ir.Value]:
    """Return the real part of a value [..., 1 or 2], and the imaginary part if it has one, without the last axis."""
    sizes = get_dims(source)
    assert sizes is not None
    last = len(sizes) - 1

    def strip(value: ir.Value) -> ir.Value:
        view = find_producer(value, "Unsqueeze")
        operand = (
            None if view is None or get_constant_integers(view.inputs[1]) not in ([-1], [last]) else view.inputs[0]
        )
        return new.add("Squeeze", value, new.constant("last", [-1])) if operand is None else operand

    if sizes[-1] == 1:
        return [strip(source)]
    concat = find_producer(source, "Concat")
    if concat is None or concat.attributes.get_int("axis", 0) not in (-1, last) or len(concat.inputs) != 2:
        return [new.add("Gather", source, new.constant("part", part), axis=last) for part in (0, 1)]
    real, imaginary = concat.inputs
    assert real is not None
    assert imaginary is not None
    zeros = find_producer(imaginary, "Expand")
    has_imaginary = zeros is None or get_constant_scalar(zeros.inputs[0]) != 0.0
    return [strip(part) for part in (real, imaginary)[: 1 + has_imaginary]]


def _take_parts(whole: ir.Value, parts: Sequence[ir.Value], columns: Sequence[ir.Value], rank: int) -> None:
    """Make the readers of a part of `whole` [..., 1 or 2] read it directly: `parts` [...], `columns` [..., 1]."""
    ends = ([-1], [rank - 1])
    for user, place in list(whole.uses()):
        if place:
            continue
        axis = [user.attributes.get_int("axis", 0)]
        operands = [get_constant_integers(value) for value in user.inputs[1:]]
        if user.op_type == "Gather" and axis in ends and operands[0] and get_rank(user.inputs[1]) == 0:
            replace_uses(user.outputs[0], parts[operands[0][0]])
        elif user.op_type == "Split" and axis in ends and len(user.outputs) == len(columns):
            for output, column in zip(user.outputs, columns, strict=True):
                _replace_column(output, column, ends)
        elif user.op_type == "Squeeze" and operands[:1] in ([[-1]], [[rank - 1]]):
            replace_uses(user.outputs[0], parts[0])
        elif user.op_type == "Slice" and len(operands) == 3 and operands[2] in ends:
            (start,), (stop,) = operands[0] or [0], operands[1] or [0]
            if 0 <= start < len(columns) and stop == start + 1:
                _replace_column(user.outputs[0], columns[start], ends)


def _replace_column(value: ir.Value, column: ir.Value, ends: Sequence[Sequence[int]]) -> None:
    """Replace a value by `column`, an Unsqueeze, and its squeezed form by the input of `column`."""
    producer = column.producer()
    assert producer is not None
    part = producer.inputs[0]
    assert part is not None
    for reader, _ in list(value.uses()):
        if reader.op_type == "Squeeze" and len(reader.inputs) > 1 and get_constant_integers(reader.inputs[1]) in ends:
            replace_uses(reader.outputs[0], part)
    replace_uses(value, column)


def _add_integers(new: NewNodes, part: str, numbers: np.ndarray) -> ir.Value:
    """Return integers as floats: constants stored as integers do not count as parameters."""
    return new.add("Cast", new.constant(part, numbers, np.int16), to=ir.DataType.FLOAT.value)


def _make_matrix(transform: _Transform, parts: int, scale: float, new: NewNodes) -> ir.Value:
    """Return the real matrix of a transform, [results of all parts, bins of all parts], computed from integers.

    Rows are the real results, then the imaginary ones; columns the real bins, then the imaginary ones. The angle of result m
    and bin k is 2π (m·k mod N) / N, exact to the rounding of float32.
    """
    n = transform.length
    m, k = np.arange(transform.results)[:, None], np.arange(transform.bins)[None, :]
    counts = np.where(k < n, 1, 0)  # of a longer operand the first N are read
    if transform.is_real:  # a bin represents itself and its conjugate
        counts = np.where((k == 0) | (2 * k == n), 1, 2)
    factor = new.constant("factor", scale / n if transform.is_inverse else scale, np.float32)
    weight = new.add("Mul", _add_integers(new, "counts", counts), factor)
    turn = new.constant("turn", 2 * np.pi / n, np.float32)
    angle = new.add("Mul", _add_integers(new, "steps", m * k % n), turn)
    cos, sin = (new.add("Mul", new.add(function, angle), weight) for function in ("Cos", "Sin"))
    negative = new.add("Neg", sin)
    # (re + i im) e^(∓iθ): forward re cos + im sin and im cos - re sin, inverse re cos - im sin and im cos + re sin.
    of_imaginary, of_real = (negative, sin) if transform.is_inverse else (sin, negative)
    real = cos if parts == 1 else new.add("Concat", cos, of_imaginary, axis=1)
    if transform.is_real:
        return real
    imaginary = of_real if parts == 1 else new.add("Concat", of_real, cos, axis=1)
    return new.add("Concat", real, imaginary, axis=0)
