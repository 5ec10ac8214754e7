"""Small graphs in ONNX's own text form, their weights beside them, and what a pass makes of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx import fill_shapes, make_in_memory_session
from recprune_export.onnx.optimizer import TOLERANCE, largest_relative_difference

Request = Sequence[np.ndarray]


def graph(text: str, **weights: np.ndarray) -> ir.Model:
    """Read a graph such as `g (int64[batch] ids) => (float[batch, 4] y) { y = Gather(table, ids) }`."""
    parsed = onnx.parser.parse_graph(text)
    parsed.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    model = helper.make_model(parsed, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    read = ir.from_proto(model)
    fill_shapes(read)
    return read


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers that are not special."""
    return np.random.default_rng(seed).normal(0.3, 0.7, size=shape).astype(np.float32)


def numbers(*values: int) -> np.ndarray:
    """Sizes, axes, positions."""
    return np.array(values, dtype=np.int64)


def operators(model: ir.Model) -> Counter[str]:
    """How often each operator stands in the graph."""
    return Counter(node.op_type for node in model.graph)


def rewritten(
    rewrite: Callable[[ir.Model], int], model: ir.Model, requests: Sequence[Request], places: int | None = 1
) -> ir.Model:
    """Apply a pass; assert that it changed so many places, and that the answers are the same to 1e-5 of the largest."""
    copy = model.clone()
    changed = rewrite(copy)
    if places is not None:
        assert changed == places
    RemoveUnusedNodesPass()(copy)
    assert_alike(model, copy, requests)
    return copy


def assert_alike(one: ir.Model, other: ir.Model, requests: Sequence[Request]) -> None:
    """Assert that two graphs answer alike."""
    run_one, run_other = make_in_memory_session(one), make_in_memory_session(other)
    for request in requests:
        assert largest_relative_difference(run_one(request), run_other(request)) <= TOLERANCE


def assert_left_alone(rewrite: Callable[[ir.Model], int], model: ir.Model) -> None:
    """Assert that a pass does nothing to a graph that it does not fit."""
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert rewrite(model) == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def weights_of(model: ir.Model) -> Mapping[str, np.ndarray]:
    """Floating-point constants by name."""
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
