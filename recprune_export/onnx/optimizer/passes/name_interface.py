"""The names of inputs and outputs."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, OutputFixPass

from recprune_export.errors import ExportError


def name_interface(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs their names.

    Before: any names. After: inputs and outputs are called as asked, in order; a value inside the graph that had one of
    these names has another; each output is a value of its own, also where the model returns an input, or a value twice.

    Raises `ExportError` where two of the names are equal, which ONNX does not allow.
    """
    names = [*inputs, *outputs]
    double = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if double is not None:
        raise ExportError(
            f"Two of the model's inputs and outputs are called '{double}', which ONNX does not allow; rename one of them."
        )
    OutputFixPass()(model)
    for value, name in zip((*model.graph.inputs, *model.graph.outputs), names, strict=True):
        value.name = name
    NameFixPass()(model)
