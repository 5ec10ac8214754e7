"""Carry out a plan: a copy of the graph in which some weights have fewer bits."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.formats import int8_layers, quantized_tables, scored_tables


def quantize_weights(
    model: ir.Model, forms: Mapping[str, str], calibration_values: Mapping[str, np.ndarray]
) -> ir.Model:
    """Return a copy of `model` with the weights that `forms` names in these forms; the model is left as it is.

    `calibration_values` holds, by the name of a value, what the operands of static products were on calibration rows.
    """
    copy = model.clone()
    graph, found = copy.graph, find_candidates(copy)
    rounding = int8_layers.ActivationQuantizer(calibration_values)
    for name, form in forms.items():
        if name in found.layers:
            int8_layers.FORMS[form](graph, found.layers[name], rounding)
        elif form in quantized_tables.LOOKUPS:
            quantized_tables.LOOKUPS[form](graph, found.tables[name])
        else:
            scored_tables.quantize_scored_table(graph, found.tables[name], form, rounding)
    RemoveUnusedNodesPass()(copy)  # before users of a value are counted
    int8_layers.use_contrib_kernels(graph)
    RemoveUnusedNodesPass()(copy)
    fill_shapes(copy)
    return copy
