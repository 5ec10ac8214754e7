"""Read an ONNX file from anybody: whole, with no weights from elsewhere, and no larger than it is."""

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

from recprune_export.errors import ModelFileError


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model without its external weights, whose places have been checked.

    Raises `ModelFileError` where the file is no ONNX model, holds weights that lie outside of its folder or are shorter than
    it says, or names that are no text.
    """
    if not path.is_file():
        raise ModelFileError(f"{path} is no file: give a bundle or an .onnx file.")
    try:
        model = onnx.load(path, load_external_data=False)
        _read_names(model.graph)
    except Exception as error:  # protobuf and the file system have no common base
        raise ModelFileError(
            f"{path} cannot be read as an ONNX model: it is damaged, or is not an ONNX model at all."
        ) from error
    if not model.graph.node or not model.graph.input:
        raise ModelFileError(f"{path} is no ONNX model with an input and an operator.")
    for tensor in _tensors(model):
        _check_tensor(path, tensor)
    return model


def find_weight_files(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the files beside a model that hold its weights.

    >>> find_weight_files(onnx.ModelProto())
    frozenset()
    """
    places = (_places(tensor).get("location", "") for tensor in _tensors(model) if _is_outside(tensor))
    return frozenset(places)


def _check_tensor(path: Path, tensor: TensorProto) -> None:
    wanted = _bytes(tensor)
    if wanted is None or wanted < 0:
        raise ModelFileError(f"{path} is refused: its tensor '{tensor.name}' has a type or a size that cannot be.")
    if _is_outside(tensor):
        _check_place(path, tensor, wanted)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != wanted:
        raise ModelFileError(
            f"{path} is refused: its tensor '{tensor.name}' should have {wanted:,} bytes and has {len(tensor.raw_data):,}."
        )
    elif not tensor.HasField("raw_data") and _entries(tensor) < prod(tensor.dims):
        raise ModelFileError(f"{path} is refused: its tensor '{tensor.name}' holds fewer numbers than it says.")


def _check_place(path: Path, tensor: TensorProto, wanted: int) -> None:
    places = _places(tensor)
    name = places.get("location", "")
    parts = PurePosixPath(name).parts
    file = path.parent / name
    inside = parts and not PurePosixPath(name).is_absolute() and ".." not in parts and "\0" not in name
    if not inside or not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(path.parent)):
        raise ModelFileError(f"{path} is refused: its weights '{tensor.name}' lie outside of its folder, in {name!r}.")
    try:
        offset, length = int(places.get("offset", 0)), int(places.get("length", wanted))
        size = file.stat().st_size if file.is_file() else -1
    except (OSError, ValueError):
        raise ModelFileError(
            f"{path} is refused: where its weights '{tensor.name}' lie cannot be understood."
        ) from None
    if size < 0:
        raise ModelFileError(
            f"{path} has its weights '{tensor.name}' in {name!r}, which is not there: copy both again."
        )
    if offset < 0 or length != wanted or offset + length > size:
        raise ModelFileError(
            f"{path} is refused: its weights '{tensor.name}' should have {wanted:,} bytes in {name!r}, which it has not."
        )


def _is_outside(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _places(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _bytes(tensor: TensorProto) -> int | None:
    """How large a tensor's content is by its type and sizes, in bytes; None for what cannot be."""
    if any(size < 0 for size in tensor.dims):
        return None
    if tensor.data_type == TensorProto.STRING:
        return 0 if not _is_outside(tensor) and not tensor.HasField("raw_data") else None
    bits = _BITS.get(tensor.data_type)
    return None if bits is None else (prod(tensor.dims) * bits + 7) // 8


def _entries(tensor: TensorProto) -> int:
    """How many numbers stand in the fields by type: at least one entry, or half of one for complex, holds each."""
    fields = (
        tensor.float_data, tensor.int32_data, tensor.string_data, tensor.int64_data, tensor.double_data, tensor.uint64_data,
    )  # fmt: skip
    packed = max(1, 8 // max(1, _BITS.get(tensor.data_type, 8)))  # of four bits each, two stand in one entry
    return packed * max(map(len, fields))


def _bits() -> dict[int, int]:
    known = {}
    for name, number in TensorProto.DataType.items():
        if name in ("UNDEFINED", "STRING"):
            continue
        four, two = name in ("INT4", "UINT4", "FLOAT4E2M1"), name in ("INT2", "UINT2")
        known[number] = 4 if four else 2 if two else 8 * onnx.helper.tensor_dtype_to_np_dtype(number).itemsize
    return known


_BITS = _bits()


def _read_names(graph: onnx.GraphProto) -> None:
    """Touch every name: protobuf decodes them when they are read, and raises then."""
    for node in _nodes(graph):
        _ = (node.name, node.op_type, node.domain, list(node.input), list(node.output))
        _ = [attribute.name for attribute in node.attribute]
    for value in (*graph.input, *graph.output, *graph.value_info):
        _ = (value.name, [dim.dim_param for dim in value.type.tensor_type.shape.dim])
    for tensor in graph.initializer:
        _ = (tensor.name, [(entry.key, entry.value) for entry in tensor.external_data])


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside of them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                yield from _nodes(inner)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers, constants, sparse ones, those of inner graphs and functions."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        yield from _constants(function.node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _constants(graph.node)


def _constants(nodes: "Iterator[onnx.NodeProto] | list[onnx.NodeProto]") -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse = [
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            ]
            for each in sparse:
                yield from (each.values, each.indices)
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors_of(inner)
