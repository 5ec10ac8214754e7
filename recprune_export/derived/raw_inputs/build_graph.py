"""Put the encoding of raw values into an ONNX graph, with standard operators: `LabelEncoder` of ai.onnx.ml 2, and arithmetic.

The keys of a `LabelEncoder` are lists of numbers or strings: every runtime reads them, they take less space than the tensors
of ai.onnx.ml 4, though they load more slowly (docs/decisions/raw-inputs.md).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recprune_export.derived.raw_inputs.raw_input import TEXT, RawIds, RawInput, RawNumbers
from recprune_export.errors import ExportError
from recprune_export.onnx.inner_graphs import iterate_graphs
from recprune_export.program.signature import Input

ML_DOMAIN, ML_VERSION = "ai.onnx.ml", 2
MOST_BYTES = (1 << 31) - 1  # of a protobuf message
_TYPES = {"str": TensorProto.STRING, "int64": TensorProto.INT64, "float64": TensorProto.DOUBLE}


def add_raw_inputs(model: onnx.ModelProto, plan: tuple[RawInput, ...]) -> None:
    """Replace inputs of a graph by those of `plan`, and compute the former from the latter.

    Raises `ExportError` if a raw input has the name of an output, or the vocabularies are too large for one file.
    """
    graph = model.graph
    raw_specs = [spec for part in plan for spec in part.inputs]
    outputs = {output.name for output in graph.output}
    for spec in raw_specs:
        if spec.name in outputs:
            raise ExportError(f"'{spec.name}' is a raw input and an output of the model: rename one of them.")
    inside = {name for inner in iterate_graphs(graph) for name in _list_names(inner)}
    names = _Names({*inside, *(spec.name for spec in raw_specs)})
    encoded = {part.name: names.make(f"{part.name}_encoded") for part in plan}
    others = {spec.name: names.make(f"{spec.name}_inside") for spec in raw_specs if spec.name not in encoded}
    _rename(graph, {**{old: new for old, new in others.items() if old in inside}, **encoded})
    builder = _Builder(names)
    read = {name for inner in iterate_graphs(graph) for node in inner.node for name in node.input}
    for part in plan:
        if encoded[part.name] in read:  # otherwise the field was removed, and its input is ignored
            builder.encode(part, encoded[part.name])
    kept = [value for value in graph.input if value.name not in encoded.values()]
    nodes = [*builder.nodes, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.extend([*map(_make_value_info, raw_specs), *kept])
    graph.initializer.extend(builder.initializers)
    graph.node.extend(nodes)
    if not any(opset.domain == ML_DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(ML_DOMAIN, ML_VERSION))
    if model.ByteSize() > MOST_BYTES:
        raise ExportError("The vocabularies need more than 2 GB, the limit of an ONNX file: leave out --raw-inputs.")


class _Names:
    """Names that are used, so that new ones differ."""

    def __init__(self, used: Iterable[str]) -> None:
        self._used = set(used)

    def make(self, name: str) -> str:
        while name in self._used:
            name += "_"
        self._used.add(name)
        return name


class _Builder:
    """Makes nodes and constants."""

    def __init__(self, names: _Names) -> None:
        self._names = names
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def encode(self, part: RawInput, output: str) -> None:
        """Add the nodes that compute an input of the model under the name `output`."""
        if isinstance(part, RawNumbers):
            self._standardize(part, output)
        else:
            self._look_up(part, output)

    def _look_up(self, part: RawIds, output: str) -> None:
        kind = "strings" if part.dtype == TEXT else "int64s"
        keys = [*part.keys, part.missing_key]
        if part.dtype == TEXT:
            keys = [str(key).encode() for key in keys]
        attributes = {f"keys_{kind}": keys, "values_int64s": [*part.ids, part.missing], "default_int64": part.unknown}
        needs_more = part.is_history or part.encoded_dtype != "int64"
        ids = self._names.make(f"{part.name}_ids") if needs_more else output
        self._add("LabelEncoder", [part.name], ids, domain=ML_DOMAIN, **attributes)
        if part.is_history:
            self._move_to_end(part, ids, output)
        elif needs_more:
            self._add("Cast", [ids], output, to=helper.np_dtype_to_tensor_dtype(np.dtype(part.encoded_dtype)))

    def _move_to_end(self, part: RawIds, ids: str, output: str) -> None:
        """Order the elements of each row [length] by whether their id is known, and then by position: the keys of a row are distinct."""
        length = part.shape[1]
        assert isinstance(length, int)
        padding = self._constant("padding", np.array(part.unknown, dtype=np.int64))
        places = self._constant("places", np.arange(length, dtype=np.int64))
        length_name = self._constant("length", np.array(length, dtype=np.int64))
        count = self._constant("count", np.array([length], dtype=np.int64))
        is_padding = self._add("Equal", [ids, padding])
        is_known = self._add("Cast", [self._add("Not", [is_padding])], to=TensorProto.INT64)
        order = self._add("Add", [self._add("Mul", [is_known, length_name]), places])
        _, indices = self._add_topk(order, count)
        self._add("GatherElements", [ids, indices], output, axis=1)

    def _standardize(self, part: RawNumbers, output: str) -> None:
        axis = self._constant("axis", np.array([1], dtype=np.int64))
        columns = [c.name if c.size is not None else self._add("Unsqueeze", [c.name, axis]) for c in part.columns]
        numbers = columns[0] if len(columns) == 1 else self._add("Concat", columns, axis=1)
        means, stds = (self._constant(kind, np.array(of)) for kind, of in (("means", part.means), ("stds", part.stds)))
        scaled = self._add("Div", [self._add("Sub", [numbers, means]), stds])
        single = self._add("Cast", [scaled], to=TensorProto.FLOAT)
        zero = self._constant("zero", np.array(0, dtype=np.float32))
        self._add("Where", [self._add("IsNaN", [single]), zero, single], output)

    def _constant(self, name: str, array: np.ndarray) -> str:
        unique = self._names.make(f"raw_{name}")
        self.initializers.append(numpy_helper.from_array(array, unique))
        return unique

    def _add(self, operator: str, inputs: list[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        output = output or self._names.make(f"raw_{operator.lower()}")
        name = self._names.make(f"encode_{output}")
        self.nodes.append(helper.make_node(operator, inputs, [output], name, domain=domain, **attributes))
        return output

    def _add_topk(self, values: str, count: str) -> tuple[str, str]:
        smallest, indices = self._names.make("raw_order"), self._names.make("raw_indices")
        node = helper.make_node("TopK", [values, count], [smallest, indices], axis=1, largest=0, sorted=1)
        self.nodes.append(node)
        return smallest, indices


def _make_value_info(spec: Input) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], list(spec.shape))


def _list_names(graph: onnx.GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.node):
        yield value.name
    for node in graph.node:
        yield from (*node.input, *node.output)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values of a graph and of its inner graphs."""
    for inner in iterate_graphs(graph):
        for value in (*inner.input, *inner.output, *inner.initializer, *inner.value_info):
            value.name = names.get(value.name, value.name)
        for node in inner.node:
            for values in (node.input, node.output):
                values[:] = [names.get(value, value) for value in values]
