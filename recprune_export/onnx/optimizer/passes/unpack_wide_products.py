"""Products with many columns and few inputs, such as the scores of all items, without the packed layout of ONNX Runtime."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_producer,
    get_constant_integers,
    get_dims,
    get_rank,
    replace_node,
)
from recprune_export.onnx.optimizer.linear_layers import Linear, find_transposed_products, match_linear
from recprune_export.onnx.optimizer.new_nodes import NewNodes
from recprune_export.onnx.optimizer.optimizer_constants import MAX_UNPACKED_INPUTS, MIN_UNPACKED_OUTPUTS


def unpack_wide_products(model: ir.Model) -> int:
    """Give the weight of a wide product three axes, and multiply its bias as one more input.

    Before: `Add(MatMul(x, W), b)`, x [batch, ..., inputs] of three axes or more, W [inputs, outputs] or the transpose of a table, of few
    inputs and many outputs. After: `MatMul(Pad(x, 1), Unsqueeze(Concat(W, b)))`, without Pad and Concat where there is no b.
    Values that depend only on weights are computed once, when ONNX Runtime loads the model. ONNX Runtime 1.32 packs constant weights of
    two axes in blocks of 128 columns, and writes the result block by block, each time through all rows. The rows are in more pages of
    memory than the TLB of the processor has entries. Other weights have blocks of up to 1024 columns. A sum with b would be another pass
    over the result.

    Returns the number of changed products.
    """
    graph = model.graph
    layers = list(_find_wide_products(graph))
    for layer in layers:
        _unpack(graph, layer)
    if layers:
        graph.sort()
        fill_shapes(model)
    return len(layers)


def pack_wide_products(model: ir.Model) -> int:
    """Undo `unpack_wide_products`, for passes that look for layers; return the number of changed products."""
    graph = model.graph
    changed = 0
    for node in find_nodes(graph, "MatMul"):
        view = find_producer(node.inputs[1], "Unsqueeze")
        weight = None if view is None or get_constant_integers(view.inputs[1]) != [0] else view.inputs[0]
        if view is None or weight is None or get_rank(weight) != 2:
            continue
        x, bias, pad = node.inputs[0], None, find_producer(node.inputs[0], "Pad")
        joined = find_producer(weight, "Concat")
        if joined is not None:
            row = find_producer(joined.inputs[1], "Unsqueeze")
            if pad is None or row is None:
                continue
            x, weight, bias = pad.inputs[0], joined.inputs[0], row.inputs[0]
        product = ir.node("MatMul", [x, weight])
        nodes = [product] if bias is None else [product, ir.node("Add", [product.outputs[0], bias])]
        replace_node(graph, node, nodes)
        changed += 1
    return changed


def _find_wide_products(graph: ir.Graph) -> Iterator[Linear]:
    """Yield the layers of few inputs and many outputs: those with separate weights, and those that multiply a table."""
    found = {layer.node: layer for node in graph if (layer := match_linear(node))}
    for value in graph.initializers.values():
        if value.const_value is not None and get_rank(value) == 2 and value.dtype == ir.DataType.FLOAT:
            found.update({layer.node: layer for layer in find_transposed_products(value)})
    for layer in found.values():
        sizes = get_dims(layer.operand)
        is_wide = layer.inputs <= MAX_UNPACKED_INPUTS and layer.outputs >= MIN_UNPACKED_OUTPUTS
        if is_wide and layer.node.op_type == "MatMul" and sizes is not None and len(sizes) > 2:
            yield layer


def _unpack(graph: ir.Graph, layer: Linear) -> None:
    x, weight, last = layer.operand, layer.weight, layer.shift or layer.node
    rank = get_rank(x)
    assert rank is not None
    new = NewNodes(graph, layer.weight.name or "")
    if layer.transposed:
        weight = new.add("Transpose", weight, perm=[1, 0])
    first = new.constant("first", [0])
    if layer.bias is not None:
        bias = _get_vector(graph, layer)
        weight = new.add("Concat", weight, new.add("Unsqueeze", bias, first), axis=0)
        one_more = new.constant("one_more", [0] * (2 * rank - 1) + [1])
        x = new.add("Pad", x, one_more, new.constant("one", 1.0, np.float32))
    new.add("MatMul", x, new.add("Unsqueeze", weight, first))
    replace_node(graph, last, new.nodes)


def _get_vector(graph: ir.Graph, layer: Linear) -> ir.Value:
    """Return b as a value [outputs]."""
    bias = layer.bias
    assert bias is not None
    array = bias.const_value.numpy() if bias.const_value is not None else None
    assert array is not None
    if array.shape == (layer.outputs,):
        return bias
    vector = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (layer.outputs,)))
    return add_initializer(graph, f"{bias.name}_vector", vector)
