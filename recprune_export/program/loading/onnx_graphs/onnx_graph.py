"""The graph of an ONNX file as plain values: nodes, weights, inputs and outputs; what the importer cannot take is refused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.inliner import inline_local_functions

from recprune_export.error_text import first_line, summarize_error
from recprune_export.errors import CaptureError, ModelFileError
from recprune_export.onnx.inner_graphs import list_inner_graphs
from recprune_export.onnx.reading import read_model, read_tensor
from recprune_export.program.signature import Axis

STANDARD, CONTRIB = "", "com.microsoft"
OLDEST_OPSET, NEWEST_OPSET = 11, 24
_STANDARD_NAMES = ("", "ai.onnx")
# Types of numbers in which PyTorch computes.
_NUMBERS = frozenset({"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"})
_ADVICE = "export the model without it, or give the PyTorch model that the file was made from"


@dataclass(frozen=True)
class Node:
    """One operator of a graph; an empty name among `inputs` stands for an input that is not given.

    `opset` is the version of the operator set that the file declares for `domain`.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = STANDARD
    opset: int = OLDEST_OPSET

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return an attribute, or `default` where the file does not give it."""
        return self.attributes.get(attribute, default)

    def reads(self) -> Iterator[str]:
        """Yield the names of the values that the node reads, those that its inner graphs read from outside included."""
        yield from (name for name in self.inputs if name)
        for attribute in self.attributes.values():
            if isinstance(attribute, OnnxGraph):
                yield from attribute.reads_from_outside()

    def refuse(self, reason: str) -> CaptureError:
        """Return the error for an operator that the importer does not take in this form."""
        return CaptureError(f"The ONNX operator {self.describe()} {reason}: {_ADVICE}.")

    def describe(self) -> str:
        """Return the operator with the name of the node, or of its first output where it has none.

        >>> Node("Relu", ("x",), ("y",)).describe(), Node("Relu", ("x",), ("y",), name="mlp/relu").describe()
        ("Relu (which computes 'y')", "Relu (node 'mlp/relu')")
        """
        operator = f"{self.domain}.{self.operator}" if self.domain else self.operator
        named = f"node '{self.name}'" if self.name else f"which computes '{next(iter(self.outputs), '')}'"
        return f"{operator} ({named})"


@dataclass(frozen=True)
class GraphInput:
    """One tensor that a file takes; a size that is no number is the name of a symbol, or "" where it has none."""

    name: str
    dtype: np.dtype
    shape: tuple[Axis, ...]


@dataclass(frozen=True)
class OnnxGraph:
    """A graph, or the body of a Loop or of a branch of an If; `inputs` of an inner graph have no types."""

    nodes: tuple[Node, ...]
    initializers: Mapping[str, np.ndarray]
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]

    def find_producers(self) -> dict[str, Node]:
        """Return the node that computes each value."""
        return {name: node for node in self.nodes for name in node.outputs}

    def reads_from_outside(self) -> Iterator[str]:
        """Yield the names of the values of outer graphs that this one reads."""
        known = {*self.initializers, *(i.name for i in self.inputs)}
        for node in self.nodes:
            yield from (name for name in node.reads() if name not in known)
            known.update(node.outputs)
        yield from (name for name in self.outputs if name not in known)


def read_onnx_graph(path: Path) -> OnnxGraph:
    """Read the graph of an ONNX file; functions of the file are written out. Weights in other files are mapped.

    Raises `ModelFileError` for a file that is damaged or refused (`read_model`), and `CaptureError` for one with what the
    importer does not take: an old operator set, strings, sparse or quantized weights.
    """
    model = _inline_functions(path, read_model(path))
    versions = {entry.domain: entry.version for entry in model.opset_import}
    opset = max((versions[name] for name in _STANDARD_NAMES if name in versions), default=0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise CaptureError(
            f"{path} uses the operator set {opset} of ONNX, and {OLDEST_OPSET} to {NEWEST_OPSET} are read: convert it with "
            "onnx.version_converter, or export the model again."
        )
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelFileError(f"{path} is refused: two of its inputs and outputs are called '{twice}'.")
    return _read_graph(path, model.graph, versions | {STANDARD: opset}, path.parent)


def _inline_functions(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    _refuse_recursion(path, model.functions)
    try:
        inlined: onnx.ModelProto = inline_local_functions(model)
    except Exception as error:  # the inliner raises errors of C++
        raise ModelFileError(
            f"{path} holds functions that cannot be written out ({summarize_error(error)}): export the model without them."
        ) from error
    return inlined


def _refuse_recursion(path: Path, functions: Sequence[onnx.FunctionProto]) -> None:
    """Raise `ModelFileError` for a function that calls itself, which would be written out without end."""
    calls = {(f.domain, f.name): [(node.domain, node.op_type) for node in f.node] for f in functions}
    waiting = dict(calls)
    while waiting:
        plain = [name for name, called in waiting.items() if not any(other in waiting for other in called)]
        if not plain:
            raise ModelFileError(f"{path} is refused: its function '{next(iter(waiting))[1]}' calls itself.")
        for name in plain:
            del waiting[name]


def _read_graph(path: Path, graph: onnx.GraphProto, versions: Mapping[str, int], folder: Path) -> OnnxGraph:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise CaptureError(f"{path} stores the weight '{name}' as a sparse tensor: store it dense, zeros included.")
    initializers = {tensor.name: _read_array(path, tensor, folder) for tensor in graph.initializer}
    inputs = [_read_input(path, value) for value in graph.input if value.name not in initializers]
    nodes = [_read_node(path, node, versions, folder) for node in graph.node]
    return OnnxGraph(tuple(nodes), initializers, tuple(inputs), tuple(output.name for output in graph.output))


def _read_node(path: Path, node: onnx.NodeProto, versions: Mapping[str, int], folder: Path) -> Node:
    _check_node(path, node, versions)
    attributes = {a.name: _read_attribute(path, a, versions, folder) for a in node.attribute}
    domain = STANDARD if node.domain in _STANDARD_NAMES else node.domain
    return Node(
        node.op_type, tuple(node.input), tuple(node.output), attributes, node.name, domain, versions.get(domain, 1)
    )


def _check_node(path: Path, node: onnx.NodeProto, versions: Mapping[str, int]) -> None:
    """Raise `ModelFileError` for a node without the inputs, outputs and attributes of its operator."""
    if list_inner_graphs(node):  # whose nodes are checked one by one: they read values from outside
        return
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = dict(versions)
    try:
        onnx.checker.check_node(node, context)
    except Exception as error:  # the checker raises errors of C++
        raise ModelFileError(f"{path} is refused: its node '{node.name}' is invalid ({first_line(error)}).") from error


def _read_attribute(path: Path, attribute: onnx.AttributeProto, versions: Mapping[str, int], folder: Path) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.GraphProto):
        return _read_graph(path, value, versions, folder)
    if isinstance(value, TensorProto):
        return _read_array(path, value, folder)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _read_array(path: Path, tensor: TensorProto, folder: Path) -> np.ndarray:
    """Return the numbers of a tensor; bfloat16, which NumPy does not have, as float32."""
    if tensor.data_type == TensorProto.STRING:
        raise CaptureError(
            f"{path} holds texts, in the tensor '{tensor.name}': give a model that takes ids and numbers."
        )
    array = read_tensor(tensor, folder)
    if tensor.data_type == TensorProto.BFLOAT16:
        return array.astype(np.float32)
    if array.dtype.name not in _NUMBERS:
        name = TensorProto.DataType.Name(tensor.data_type).lower()
        raise CaptureError(
            f"{path} stores '{tensor.name}' as {name}: give the model as it was trained; --quantize makes its weights smaller."
        )
    return array


def _read_input(path: Path, value: onnx.ValueInfoProto) -> GraphInput:
    tensor = value.type.tensor_type
    kind = tensor.elem_type
    if not value.type.HasField("tensor_type"):
        if value.type.WhichOneof("value") is None:  # of an inner graph, where the type may be left out
            return GraphInput(value.name, np.dtype(np.float32), ())
        raise CaptureError(f"{path} takes '{value.name}', which is no tensor: give a model that takes tensors alone.")
    if kind == TensorProto.STRING:
        raise CaptureError(
            f"{path} takes texts in '{value.name}': give a model that takes ids, and their texts with --vocabulary."
        )
    if kind not in TensorProto.DataType.values():
        raise ModelFileError(f"{path} is refused: its input '{value.name}' has a type that cannot be.")
    dtype = np.dtype(np.float32) if kind in (0, TensorProto.BFLOAT16) else onnx.helper.tensor_dtype_to_np_dtype(kind)
    if dtype.name not in _NUMBERS:
        raise CaptureError(
            f"{path} takes '{value.name}' as {dtype.name}: export the model with inputs of float32 or int64."
        )
    sizes = tensor.shape.dim
    shape = tuple(size.dim_value if size.HasField("dim_value") else size.dim_param for size in sizes)
    return GraphInput(value.name, dtype, shape)
