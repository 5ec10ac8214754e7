"""Sessions on graphs in memory, without a copy of their weights."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from recprune_export.error_text import first_line
from recprune_export.errors import ExportError
from recprune_export.onnx.cost.weightless_model import strip_weights
from recprune_export.onnx.runtime.session import SessionOptions, load_session

_LONG = 1 << 24  # bytes
_LOOKUPS = {"Gather", "GatherND"}

OutputArrays = Sequence[np.ndarray]  # the outputs, in order


def make_in_memory_session(model: ir.Model, threads: int = 1) -> Callable[[Sequence[np.ndarray]], OutputArrays]:
    """Return a function that answers a request, given as arrays in the order of the graph's inputs.

    Time: milliseconds, for tables of any size. Memory: weights are not copied, except into the layout of the kernels of
    products. Raises `ExportError` if ONNX Runtime cannot load the graph; the returned function raises it if ONNX Runtime cannot run the
    request.
    """
    import onnxruntime

    weightless = strip_weights(model)
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in weightless.weights.items()}
    tables = {name: arrays.pop(name) for name in _find_long_tables(model)}
    _make_inputs(weightless.model.graph, tables)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    options = SessionOptions(threads=threads).to_onnxruntime()
    options.log_severity_level = 4  # a graph that does not run is an expected result, not an error of the user
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    for name, value in values.items():  # otherwise the session would copy them
        options.add_initializer(name, value)
    session = load_session(weightless.model.SerializeToString(), options, "the graph")
    names = [i.name for i in session.get_inputs() if i.name not in tables]
    alive = (arrays, values)  # the session reads them without owning them

    def run(request: Sequence[np.ndarray]) -> OutputArrays:
        assert alive
        try:
            answers = session.run(None, {**dict(zip(names, request, strict=True)), **tables})
        except Exception as error:  # onnxruntime's classes have no common base
            raise ExportError(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error
        return [np.asarray(answer) for answer in answers]

    return run


def _find_long_tables(model: ir.Model) -> list[str]:
    """Return the names of the long weights that are only looked up: a session copies its weights while it is made."""
    return [
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.nbytes >= _LONG
        and not value.is_graph_output()
        and all(
            node.op_type in _LOOKUPS and position == 0 and node.graph is model.graph for node, position in value.uses()
        )
    ]


def _make_inputs(graph: onnx.GraphProto, tables: Collection[str]) -> None:
    """Turn some initializers into inputs of the graph, which are then part of each request."""
    for tensor in [tensor for tensor in graph.initializer if tensor.name in tables]:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        graph.initializer.remove(tensor)
