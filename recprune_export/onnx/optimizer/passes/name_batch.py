"""The name of the symbolic batch axis."""

import re

import onnx_ir as ir

from recprune_export.program.requests.jagged_inputs import ELEMENTS
from recprune_export.program.signature import BATCH


def name_batch(model: ir.Model) -> None:
    """Rename the batch axis to `batch` in all shapes.

    Before: the exporter's symbol (`s27`, ...) is axis 0 of the inputs. After: that symbol is `batch` in the shape of
    every value, also in terms such as `5*s27`; nothing else is changed. Numbers of elements of jagged inputs keep their
    names.
    """
    inputs = [dim for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)]
    values = {dim.value for dim in inputs if dim.value is not None}
    symbols = sorted(re.escape(value) for value in values if not value.endswith(ELEMENTS))
    if not symbols:
        return
    symbol = re.compile(rf"\b({'|'.join(symbols)})\b")
    for graph in model.graphs():
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
            if value.shape is not None:
                value.shape = ir.Shape([_rename_dim(dim, symbol) for dim in value.shape])


def _rename_dim(dim: int | ir.SymbolicDim, symbol: re.Pattern[str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return ir.SymbolicDim(symbol.sub(BATCH, str(dim.value)))
