"""One copy of constants that are equal."""

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import copy_bits, get_bits
from recprune_export.onnx.mapped_tensors import CHUNK_BYTES

_FIRST = 256  # elements; most different constants differ there


def deduplicate_initializers(model: ir.Model) -> None:
    """Replace each constant by an earlier one of the same type, shape and bytes.

    Streamed tables are not changed.

    Time: a constant is read only if another one has the same type, shape and first elements. Memory: two chunks. (The pass of onnx-ir
    holds the bytes of all constants.)
    """
    for graph in model.graphs():
        candidates: dict[Hashable, list[ir.Value]] = {}
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or getattr(tensor, "is_streamed", False):
                continue
            if tensor.dtype != ir.DataType.STRING and not _is_interface(value):
                candidates.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), []).append(value)
        for values in candidates.values():
            if len(values) > 1:
                _deduplicate(graph, values)


def _is_interface(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_graph_output()


def _deduplicate(graph: ir.Graph, values: list[ir.Value]) -> None:
    """Deduplicate constants of one type and shape."""
    distinct: dict[bytes, list[ir.Value]] = {}
    for value in values:
        similar = distinct.setdefault(_flatten(value)[:_FIRST].tobytes(), [])
        equal = next((other for other in similar if _have_equal_bytes(_flatten(value), _flatten(other))), None)
        if equal is None:
            similar.append(value)
        else:
            if get_bits(value) < get_bits(equal):
                copy_bits(value, equal)
            value.replace_all_uses_with(equal)
            del graph.initializers[value.name]  # type: ignore[arg-type]


def _flatten(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy().reshape(-1)


def _have_equal_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    step = max(1, CHUNK_BYTES // one.itemsize)
    return all(
        one[start : start + step].tobytes() == other[start : start + step].tobytes()
        for start in range(0, len(one), step)
    )
