"""A shift gives the same numbers whether a runtime drops the lower bits or rounds them."""

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx.runtime.in_memory import make_in_memory_session
from recprune_export.quantization.formats.exact_shifts import clear_shifted_bits
from tests.onnx.graphs import graph

ROWS = np.arange(256, dtype=np.uint8).reshape(64, 4)


@pytest.mark.parametrize("steps", [np.array(4, dtype=np.uint8), np.array([0, 2, 4, 6], dtype=np.uint8)])
def test_the_dropped_bits_are_zero_and_answers_stay(steps: np.ndarray) -> None:
    model = graph('g (uint8[batch, 4] x) => (uint8[batch, 4] y) { y = BitShift <direction = "RIGHT"> (x, n) }', n=steps)
    (before,) = make_in_memory_session(model)([ROWS])
    clear_shifted_bits(model.graph)
    (after,) = make_in_memory_session(model)([ROWS])
    np.testing.assert_array_equal(before, after)
    shift = next(node for node in model.graph if node.op_type == "BitShift")
    kept = shift.inputs[0]
    assert kept is not None
    model.graph.outputs.append(kept)
    kept.shape, kept.type = ir.Shape(["batch", 4]), ir.TensorType(ir.DataType.UINT8)
    _, read = make_in_memory_session(model)([ROWS])
    rounded = np.round(read / 2.0 ** steps.astype(np.float64))
    np.testing.assert_array_equal(rounded.astype(np.uint8), before)
