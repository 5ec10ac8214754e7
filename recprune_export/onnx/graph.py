"""Helpers that read and change a graph of onnx-ir."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

Dim = int | ir.SymbolicDim
BITS = "bits"  # the planned bits of a weight, in the `meta` of its value, which copies of a graph keep and files do not


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register a constant of the graph and return its value; a name in use gets a number."""
    unique_name, number = name, 1
    inputs = {value.name for value in graph.inputs}
    while unique_name in graph.initializers or unique_name in inputs:
        unique_name, number = f"{name}_{number}", number + 1
    tensor = _make_string_tensor(array, unique_name) if array.dtype.kind == "U" else ir.tensor(array, name=unique_name)
    value = ir.Value(
        name=unique_name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value


def rename_equal_values(graph: ir.Graph) -> None:
    """Rename results of nodes that have the name of an initializer, in place; results of the graph keep theirs.

    The exporter numbers results, such as `val_3`, and weights have the names of the model, which may come from an exporter too.
    """
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    results = [value for node in graph for value in node.outputs]
    taken_by_results = {value.name for value in results}
    for value in results:
        if value.name in taken and not value.is_graph_output():
            numbered = (f"{value.name}_{number}" for number in itertools.count(1))
            value.name = next(name for name in numbered if name not in taken and name not in taken_by_results)
            taken_by_results.add(value.name)


def _make_string_tensor(array: np.ndarray, name: str) -> ir.StringTensor:
    texts = np.array([text.encode() for text in array.reshape(-1).tolist()], dtype=object)
    return ir.StringTensor(texts.reshape(array.shape), shape=ir.Shape(array.shape), name=name)


def get_constant_array(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of a constant; None for a value that depends on the request."""
    if value is None or value.const_value is None or getattr(value.const_value, "is_streamed", False):
        return None
    return value.const_value.numpy()


def get_constant_integers(value: ir.Value | None) -> list[int] | None:
    """Return the elements of an integer constant, flattened; None for other values."""
    array = get_constant_array(value)
    return None if array is None or array.dtype.kind not in "iu" else [int(number) for number in array.reshape(-1)]


def get_constant_scalar(value: ir.Value | None) -> float | None:
    """Return the number of a constant with one element; None for other values."""
    array = get_constant_array(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def find_producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """Return the node that computes `value` if it is one of these standard operators, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in operators and node.domain in ("", "ai.onnx") else None


def find_only_consumer(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads `value`; None if there are several, or where the model returns it."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def get_dims(value: ir.Value | None) -> list[Dim] | None:
    """Return the shape of a value as a list, or None."""
    return None if value is None or value.shape is None else list(value.shape)


def get_rank(value: ir.Value | None) -> int | None:
    """Return the number of axes of a value, or None."""
    return None if value is None or value.shape is None else len(value.shape)


def get_axis(node: ir.Node, axes: int, default: int = 0) -> int:
    """Return the attribute `axis` as a non-negative number, for a value of `axes` axes."""
    return node.attributes.get_int("axis", default) % axes


def get_output(node: ir.Node) -> ir.Value:
    """Return the only output of a node."""
    (value,) = node.outputs
    return value


def copy_value_info(node: ir.Node, value: ir.Value) -> ir.Value:
    """Copy name, shape and type of `value` to the result of `node`, which will replace it; return the result."""
    result = get_output(node)
    result.name, result.shape, result.type = value.name, value.shape, value.type
    return result


def replace_node(graph: ir.Graph, old: ir.Node, new: Sequence[ir.Node]) -> None:
    """Replace `old` by the nodes `new`; the result of the last one takes over name, shape and type."""
    before = get_output(old)
    ir.convenience.replace_nodes_and_values(graph, old, [old], new, [before], [copy_value_info(new[-1], before)])


def replace_uses(value: ir.Value, other: ir.Value) -> None:
    """Replace `value` by `other` in all its consumers and in the outputs of the model; unused nodes stay."""
    ir.convenience.replace_all_uses_with(value, other, replace_graph_outputs=True)


def find_nodes(graph: ir.Graph, *operators: str) -> Iterator[ir.Node]:
    """Yield the nodes of these operators; the graph may be changed during the iteration."""
    for node in list(graph):
        if node.op_type in operators and node.domain in ("", "ai.onnx") and node.graph is graph:
            yield node


def find_upstream_nodes(values: Iterable[ir.Value | None]) -> set[ir.Node]:
    """Return every node on which `values` depend."""
    upstream: set[ir.Node] = set()
    waiting = [None if value is None else value.producer() for value in values]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in upstream:
            upstream.add(node)
            waiting += [operand.producer() for operand in node.inputs if operand is not None]
    return upstream


def get_bits(weight: ir.Value) -> int:
    """Return the planned bits of a weight; 32 where none are planned."""
    bits = weight.meta.get(BITS, 32)
    assert isinstance(bits, int)
    return bits


def copy_bits(source: ir.Value, target: ir.Value) -> ir.Value:
    """Plan the bits of `source` for `target`, which was computed from it; return `target`."""
    if BITS in source.meta:
        target.meta[BITS] = source.meta[BITS]
    return target


def shorten_names(graph: ir.Graph, constants: str) -> None:
    """Give short names to the values that nodes compute, except the outputs, and to initializers whose names begin with `constants`."""
    renamed = [value for node in graph for value in node.outputs if not value.is_graph_output()]
    renamed += [v for v in list(graph.initializers.values()) if (v.name or "").startswith(constants)]
    taken = {v.name for v in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    names = (name for name in map("{:x}".format, itertools.count()) if name not in taken)
    for value in renamed:
        value.name = next(names)
