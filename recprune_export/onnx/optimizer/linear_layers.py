"""Linear layers: a Gemm or a MatMul with a constant weight."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    copy_bits,
    find_only_consumer,
    find_producer,
    get_constant_array,
    get_rank,
    replace_node,
)


@dataclass(frozen=True)
class Linear:
    """A layer y = x · W + b. `shift` is the node that adds b, where the product does not (a MatMul and an Add)."""

    node: ir.Node
    weight: ir.Value
    transposed: bool
    bias: ir.Value | None
    shift: ir.Node | None = None

    @property
    def operand(self) -> ir.Value:
        """The operand x."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def result(self) -> ir.Value:
        """The result y."""
        return (self.shift or self.node).outputs[0]

    @property
    def inputs(self) -> int:
        """The number of rows of W."""
        return int(self.weight.shape[1 if self.transposed else 0])  # type: ignore[index, arg-type]

    @property
    def outputs(self) -> int:
        """The number of columns of W."""
        return int(self.weight.shape[0 if self.transposed else 1])  # type: ignore[index, arg-type]

    def matrix(self) -> np.ndarray:
        """Return W, [inputs, outputs], in float64."""
        array = get_constant_array(self.weight)
        assert array is not None
        return (array.T if self.transposed else array).astype(np.float64)

    def vector(self) -> np.ndarray | None:
        """Return b, [outputs], in float64, or None."""
        array = get_constant_array(self.bias)
        return None if array is None else np.broadcast_to(array.reshape(-1), (self.outputs,)).astype(np.float64)

    @property
    def owns_weight(self) -> bool:
        """Whether the layer is the only consumer of W, so that W may change without a second copy in the file."""
        return len(list(self.weight.uses())) == 1


def match_linear(node: ir.Node) -> Linear | None:
    """Return the linear layer of a Gemm or MatMul, with the Add that follows if that is its bias; None for others."""
    if node.op_type not in ("Gemm", "MatMul") or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    if node.inputs[0] is None or weight is None or weight.const_value is None or get_rank(weight) != 2:
        return None
    if weight.dtype != ir.DataType.FLOAT or node.inputs[0].const_value is not None:
        return None
    if node.op_type == "MatMul":
        bias, shift = _match_bias_add(node, int(weight.shape[1]))  # type: ignore[index, arg-type]
        return Linear(node, weight, False, bias, shift)
    plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    fits = bias is None or bias.const_value is not None
    if not plain or node.attributes.get_int("transA", 0) != 0 or not fits:
        return None
    return Linear(node, weight, bool(node.attributes.get_int("transB", 0)), bias)


def find_transposed_products(table: ir.Value) -> list[Linear]:
    """Return the layers that multiply by the transpose of `table` [rows, dimensions], with an output for each row.

    They are `Gemm(x, E, transB=1)`, and `MatMul(x, Transpose(E))` with the bias that follows.
    """
    transposes = [user for user, _ in table.uses() if user.op_type == "Transpose" and _swaps_axes(user)]
    gemms = [match_linear(user) for user, place in table.uses() if user.op_type == "Gemm" and place == 1]
    products = [
        _match_transposed_matmul(user, table)
        for node in transposes
        for user, place in node.outputs[0].uses()
        if place == 1
    ]
    return [layer for layer in (*gemms, *products) if layer is not None and layer.transposed]


def _match_transposed_matmul(node: ir.Node, table: ir.Value) -> Linear | None:
    x = node.inputs[0]
    if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx") or x is None or x.const_value is not None:
        return None
    if x is node.inputs[1]:
        return None
    return Linear(node, table, True, *_match_bias_add(node, int(table.shape[0])))  # type: ignore[index, arg-type]


def _swaps_axes(transpose: ir.Node) -> bool:
    return list(transpose.attributes.get_ints("perm", (1, 0))) == [1, 0]


def _match_bias_add(product: ir.Node, outputs: int) -> tuple[ir.Value | None, ir.Node | None]:
    """Return the constant vector that the only consumer of a product adds to it, and that Add."""
    add = find_only_consumer(product.outputs[0])
    if add is None or add.op_type != "Add":
        return None, None
    (bias,) = [value for value in add.inputs if value is not product.outputs[0]] or [None]
    array = get_constant_array(bias)
    fits = array is not None and array.size in (1, outputs) and array.size == max(array.shape[-1:], default=1)
    return (bias, add) if fits else (None, None)


def replace_weights(graph: ir.Graph, layer: Linear, matrix: np.ndarray, vector: np.ndarray | None) -> ir.Value:
    """Replace W [inputs, outputs] and b of a layer; return its result.

    A MatMul without b that gets one becomes a Gemm if its operand has two axes, otherwise a MatMul and an Add.
    """
    weight = add_initializer(
        graph, f"{layer.weight.name}_folded", _to_float32(matrix.T if layer.transposed else matrix)
    )
    copy_bits(layer.weight, weight)
    bias = None if vector is None else add_initializer(graph, f"{weight.name}_bias", _to_float32(vector))
    two_axes = get_rank(layer.operand) == 2
    if layer.node.op_type == "Gemm" or (two_axes and bias is not None and layer.shift is None):
        operands: Sequence[ir.Value] = [layer.operand, weight, *([bias] if bias is not None else [])]
        return _replace(graph, layer.node, [ir.node("Gemm", operands, attributes={"transB": int(layer.transposed)})])
    product = ir.node("MatMul", [layer.operand, weight])
    if bias is None:
        return _replace(graph, layer.node, [product])
    if layer.shift is None:
        return _replace(graph, layer.node, [product, ir.node("Add", [product.outputs[0], bias])])
    _replace(graph, layer.node, [product])
    return _replace(graph, layer.shift, [ir.node("Add", [product.outputs[0], bias])])


def _replace(graph: ir.Graph, old: ir.Node, new: Sequence[ir.Node]) -> ir.Value:
    replace_node(graph, old, new)
    return new[-1].outputs[0]


def _to_float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)


def match_view(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the result of a node that only reshapes `value`, with the same batch; None for others."""
    if find_producer(node.outputs[0], "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity") is None:
        return None
    before, after = value.shape, node.outputs[0].shape
    if node.inputs[0] is not value or before is None or after is None or not len(before) or not len(after):
        return None
    static = all(isinstance(size, int) for size in (*before[1:], *after[1:]))
    return node.outputs[0] if static and before[0] == after[0] else None
