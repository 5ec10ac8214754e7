"""Name the symbolic batch."""

import onnx_ir as ir

from recprune_export.program.signature import BATCH


def name_batch(model: ir.Model) -> None:
    """Call the batch `batch` wherever it stands.

    Before: the exporter's symbol (`s27`, ...) is axis 0 of the inputs. After: that symbol is called `batch` in the
    shape of every value; nothing else is changed.
    """
    symbols = {
        dim.value for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)
    }
    for value in _values(model.graph):
        if value.shape is None or value.shape.frozen:
            continue
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, ir.SymbolicDim) and dim.value in symbols:
                value.shape[axis] = ir.SymbolicDim(BATCH)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]
