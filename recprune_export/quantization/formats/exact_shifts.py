"""Shifts that every runtime computes exactly.

OpenVINO (2026.4) computes a shift of uint8 to the right by a product of floats and rounds it: 15 >> 2 is 4 there, not 3. If the bits that
a shift drops are zero, both are exact.
"""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, get_constant_array, get_output

ALL_BITS = 0xFF


def clear_shifted_bits(graph: ir.Graph) -> None:
    """Set the bits to zero that a shift of uint8 to the right drops. After: `BitShift(BitwiseAnd(x, mask), n)`."""
    for node in list(find_nodes(graph, "BitShift")):
        rows, bits = node.inputs
        steps = get_constant_array(bits)
        assert rows is not None
        if steps is None or steps.dtype != np.uint8 or node.attributes["direction"].as_string() != "RIGHT":
            continue
        mask = add_initializer(graph, f"{rows.name}_mask", (ALL_BITS << steps.astype(np.int64)).astype(np.uint8))
        kept = ir.node("BitwiseAnd", [rows, mask])
        get_output(kept).type = rows.type
        graph.insert_before(node, kept)
        node.replace_input_with(0, kept.outputs[0])
