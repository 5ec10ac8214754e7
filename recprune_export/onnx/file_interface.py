"""The tensors in which a file takes jagged inputs: those of the model's request, or a padded matrix for each input.

A program takes the elements and the lengths of each input (`program/requests/jagged_inputs.py`). A few nodes at the beginning of the
file compute them from the inputs of the file.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from recprune_export.onnx.graph import add_initializer, replace_uses
from recprune_export.program.requests.jagged_inputs import (
    LENGTHS_SUFFIX,
    METADATA,
    FileInput,
    has_jagged_inputs,
    is_packed,
    list_file_inputs,
    list_program_inputs,
)
from recprune_export.program.signature import LENGTHS, OFFSETS, Axis, Signature


def name_sizes(model: ir.Model, signature: Signature) -> None:
    """Name the symbolic sizes of a graph that takes the tensors of a program.

    Before: the symbols of the exporter. After: `batch`, and the number of elements of each jagged input under its name.
    """
    names: dict[str, str] = {}
    for value, spec in zip(model.graph.inputs, list_program_inputs(signature), strict=True):
        for dim, size in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(dim, ir.SymbolicDim) and isinstance(size, str) and dim.value is not None:
                names[dim.value] = size
    for graph in model.graphs():
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
            if value.shape is not None:
                value.shape = ir.Shape([_rename(dim, names) for dim in value.shape])


def _rename(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None or dim.value not in names:
        return dim
    return ir.SymbolicDim(names[dim.value])


def add_file_interface(model: ir.Model, signature: Signature) -> None:
    """Replace the inputs of a graph that takes the tensors of a program by those that a file takes.

    Before: two inputs for each jagged input, named as in `list_program_inputs`. After: the inputs of `list_file_inputs`. The metadata of
    the file describe how they contain the inputs.
    """
    if not has_jagged_inputs(signature):
        return
    writer = _Writer(model.graph, signature)
    inputs = [writer.add(spec) for spec in list_file_inputs(signature)]
    writer.compute()
    model.graph.inputs[:] = inputs
    if len(model.graph):
        model.graph.insert_before(model.graph[0], writer.nodes)
    NameFixPass()(model)
    for value, spec in zip(model.graph.inputs, list_file_inputs(signature), strict=True):
        value.name = spec.name
    jagged = [i.to_dict() for i in signature.inputs if i.jagged is not None]
    model.metadata_props[METADATA] = json.dumps(jagged, separators=(",", ":"))


class _Writer:
    """Makes the nodes that compute a program's tensors from a file's."""

    def __init__(self, graph: ir.Graph, signature: Signature) -> None:
        self._graph, self._signature = graph, signature
        self.nodes: list[ir.Node] = []
        self._given = {
            i.name: value for i, value in zip(list_program_inputs(signature), list(graph.inputs), strict=True)
        }
        self._file: dict[str, ir.Value] = {}

    def add(self, spec: FileInput) -> ir.Value:
        """Return the input of the file."""
        if spec.members[0].jagged is None:
            return self._given[spec.name]
        value = ir.Value(name=spec.name, type=ir.TensorType(_data_type(spec.dtype)), shape=_shape(spec.shape))
        self._file[spec.name] = value
        return value

    def compute(self) -> None:
        """Compute every jagged input from the inputs of the file."""
        specs = [spec for spec in list_file_inputs(self._signature) if spec.members[0].jagged is not None]
        lengths: dict[str, ir.Value] = {}
        for spec in specs:
            if spec.is_rows:
                lengths |= self._read_rows(spec)
        for spec in specs:
            if not is_packed(spec.members[0]):
                self._compress(spec)
            elif not spec.is_rows:
                self._split(spec, lengths)
        for name, value in lengths.items():
            self._replace(self._given[name + LENGTHS_SUFFIX], value)

    def _read_rows(self, spec: FileInput) -> dict[str, ir.Value]:
        """Return the number of elements in each row, int64 [batch], of each input."""
        jagged = spec.members[0].jagged
        assert jagged is not None
        ends = self._file[spec.name]
        if ends.dtype != ir.DataType.INT64:
            ends = self._call("Cast", ends, to=ir.DataType.INT64.value)
        count = len(spec.members)
        parts = [ends]
        if jagged.stacked:
            axis = int(jagged.keys_last)
            parts = [self._call("Gather", ends, self._constant(number), axis=axis) for number in range(count)]
        if jagged.form != LENGTHS:
            values = [i.jagged.values for i in spec.members if i.jagged is not None]
            parts = [self._differences(part, values[number], jagged.form) for number, part in enumerate(parts)]
        if not jagged.stacked and count > 1:
            matrix = self._call("Reshape", parts[0], self._constant([count, -1]))
            parts = [self._call("Gather", matrix, self._constant(number), axis=0) for number in range(count)]
        return {i.name: part for i, part in zip(spec.members, parts, strict=True)}

    def _differences(self, offsets: ir.Value, values: str, form: str) -> ir.Value:
        if form == OFFSETS:
            total = self._call("Shape", self._file[values], start=0, end=1)
            following = self._call("Slice", offsets, self._constant([1]), self._constant([1 << 62]))
            return self._call("Sub", self._call("Concat", following, total, axis=0), offsets)
        ends = self._call("Slice", offsets, self._constant([1]), self._constant([1 << 62]))
        return self._call("Sub", ends, self._call("Slice", offsets, self._constant([0]), self._constant([-1])))

    def _split(self, spec: FileInput, lengths: Mapping[str, ir.Value]) -> None:
        """Give each input its part of the elements."""
        value = self._file[spec.name]
        if len(spec.members) == 1:
            self._replace(self._given[spec.members[0].name], value)
            return
        leaders = [i.jagged.present for i in spec.members if i.jagged is not None]
        sums = [self._call("ReduceSum", lengths[name], self._constant([0]), keepdims=1) for name in leaders]
        sizes = self._call("Concat", *sums, axis=0)
        node = ir.node("Split", [value, sizes], {"axis": 0}, num_outputs=len(spec.members))
        self.nodes.append(node)
        for member, part in zip(spec.members, node.outputs, strict=True):
            self._replace(self._given[member.name], part)

    def _compress(self, spec: FileInput) -> None:
        """Give an input the elements of its padded matrix, and their number in each row where it is the leader."""
        (member,) = spec.members
        assert member.jagged is not None
        present = self._present(member.jagged.present)
        rank = len(member.shape)
        sizes = [-1, *(int(size) for size in member.shape[2:])]
        flat = self._call("Reshape", self._file[spec.name], self._constant(sizes))
        mask = self._call("Reshape", present, self._constant([-1]))
        kept = self._call("Compress", flat, mask, axis=0) if rank > 2 else self._call("Compress", flat, mask)
        self._replace(self._given[member.name], kept)
        if member.jagged.present == member.name:
            numbers = self._call("Cast", present, to=ir.DataType.INT64.value)
            counts = self._call("ReduceSum", numbers, self._constant([1]), keepdims=0)
            self._replace(self._given[member.name + LENGTHS_SUFFIX], counts)

    def _present(self, name: str) -> ir.Value:
        """Return which elements of a padded matrix a row has, [batch, most]."""
        value = self._file[name]
        first = value
        if value.shape is not None and len(value.shape) > 2:
            first = self._call("Reshape", value, self._constant([0, 0, -1]))
            first = self._call("Gather", first, self._constant(0), axis=2)
        if value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return self._call("Not", self._call("IsNaN", first))
        assert value.dtype is not None
        return self._call("GreaterOrEqual", first, self._constant(0, value.dtype.numpy()))

    def _replace(self, given: ir.Value, value: ir.Value) -> None:
        if value.type is None:
            value.type = given.type
        value.shape = value.shape or given.shape
        replace_uses(given, value)

    def _constant(self, number: int | Sequence[int], dtype: np.dtype | None = None) -> ir.Value:
        return add_initializer(self._graph, "interface", np.array(number, dtype=dtype or np.int64))

    def _call(self, operator: str, *operands: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(operator, list(operands), attributes)
        self.nodes.append(node)
        result = node.outputs[0]
        return result


def _data_type(dtype: str) -> ir.DataType:
    return ir.DataType.from_numpy(np.dtype(dtype))


def _shape(axes: Sequence[Axis]) -> ir.Shape:
    return ir.Shape([size if isinstance(size, int) else ir.SymbolicDim(size) for size in axes])
