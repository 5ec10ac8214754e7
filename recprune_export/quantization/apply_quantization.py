"""Apply a quantization plan: a copy of the graph in which some weights have fewer bits."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.formats import int8_layers, quantized_tables, scored_tables
from recprune_export.quantization.formats.exact_shifts import clear_shifted_bits
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget


def quantize_weights(
    model: ir.Model,
    forms: Mapping[str, str],
    calibration_values: Mapping[str, np.ndarray],
    runtime: RuntimeTarget = ANY_RUNTIME,
) -> ir.Model:
    """Return a copy of `model` with each weight named in `forms` stored in its form; `model` is not changed.

    `calibration_values` holds the operands of static products on calibration rows, by the name of the value. `runtime` states whether
    operators of com.microsoft may be used; without them the file also runs in other runtimes.
    """
    copy = model.clone()
    graph, candidates = copy.graph, find_candidates(copy, min_fraction=0.0)
    activations = int8_layers.ActivationQuantizer(calibration_values)
    for name, form in forms.items():
        if name in candidates.layers:
            int8_layers.FORMS[form](graph, candidates.layers[name], activations)
        elif form in quantized_tables.LOOKUPS:
            quantized_tables.LOOKUPS[form](graph, candidates.tables[name])
        else:
            scored_tables.quantize_scored_table(graph, candidates.tables[name], form, activations)
    RemoveUnusedNodesPass()(copy)  # so that only used nodes count as consumers
    if all(map(runtime.allows, int8_layers.CONTRIB_KERNELS)):
        int8_layers.use_contrib_kernels(graph)
    if runtime.operators == "onnx":
        clear_shifted_bits(graph)
    RemoveUnusedNodesPass()(copy)
    fill_shapes(copy)
    return copy
