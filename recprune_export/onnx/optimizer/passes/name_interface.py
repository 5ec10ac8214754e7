"""The names of inputs and outputs."""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass, OutputFixPass

from recprune_export.errors import ExportError


def name_interface(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename inputs and outputs.

    Before: any names. After: inputs and outputs have the given names, in order; an inner value with one of these names
    is renamed; each output is a distinct value, also where the model returns an input, or a value twice.

    Raises `ExportError` if two of the names are equal, which ONNX does not allow.
    """
    names = [*inputs, *outputs]
    duplicate = next((name for position, name in enumerate(names) if name in names[:position]), None)
    if duplicate is not None:
        raise ExportError(
            f"Two inputs or outputs of the model are named '{duplicate}', which ONNX does not allow; rename one of them."
        )
    OutputFixPass()(model)
    for value, name in zip((*model.graph.inputs, *model.graph.outputs), names, strict=True):
        value.name = name
    NameFixPass()(model)
