"""Safe reading of untrusted ONNX files: complete, no weights from other folders, no sizes beyond the file's."""

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from recprune_export.errors import ModelFileError
from recprune_export.mapped_pages import register_map
from recprune_export.onnx.inner_graphs import iterate_graphs, list_inner_graphs


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model without its external weights, after a check of their locations.

    Raises `ModelFileError` if the file is not an ONNX model, if weights are outside its folder or shorter than declared, or if names are
    not valid text.
    """
    if not path.is_file():
        raise ModelFileError(f"{path} is not a file: give a bundle or an .onnx file.")
    try:
        model = onnx.load(path, load_external_data=False)
        _read_names(model.graph)
    except Exception as error:  # protobuf and the file system have no common base
        raise ModelFileError(
            f"{path} cannot be read as an ONNX model: it is damaged, or is not an ONNX model at all."
        ) from error
    if not model.graph.node or not model.graph.input:
        raise ModelFileError(f"{path} is not an ONNX model with an input and an operator.")
    for tensor in _iterate_tensors(model):
        _check_tensor(path, tensor)
    return model


def find_weight_files(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the files that hold external weights of a model.

    >>> find_weight_files(onnx.ModelProto())
    frozenset()
    """
    locations = (
        _read_location(tensor).get("location", "") for tensor in _iterate_tensors(model) if _is_external(tensor)
    )
    return frozenset(locations)


def read_tensor(tensor: TensorProto, folder: Path = Path()) -> np.ndarray:
    """Return the content of a tensor of a file in `folder`; external weights are mapped, not read.

    Numbers of fewer than eight bits are read as a whole.
    """
    if not _is_external(tensor) or _BITS.get(tensor.data_type, 0) < 8 or not all(tensor.dims):
        return numpy_helper.to_array(tensor, base_dir=str(folder))
    entries, dtype = _read_location(tensor), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    offset = int(entries.get("offset", 0))
    array = np.memmap(folder / entries["location"], dtype=dtype, mode="r", offset=offset, shape=tuple(tensor.dims))
    register_map(array._mmap, str(folder / entries["location"]))  # type: ignore[attr-defined]
    return array


def _check_tensor(path: Path, tensor: TensorProto) -> None:
    expected_bytes = count_bytes(tensor)
    if expected_bytes is None or expected_bytes < 0:
        raise ModelFileError(f"{path} is refused: its tensor '{tensor.name}' has an invalid type or size.")
    if _is_external(tensor):
        _check_location(path, tensor, expected_bytes)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != expected_bytes:
        raise ModelFileError(
            f"{path} is refused: its tensor '{tensor.name}' should have {expected_bytes:,} bytes and has {len(tensor.raw_data):,}."
        )
    elif not tensor.HasField("raw_data") and _count_entries(tensor) < prod(tensor.dims):
        raise ModelFileError(f"{path} is refused: its tensor '{tensor.name}' contains fewer numbers than it declares.")


def _check_location(path: Path, tensor: TensorProto, expected_bytes: int) -> None:
    entries = _read_location(tensor)
    name = entries.get("location", "")
    folders = PurePosixPath(name).parts
    file = path.parent / name
    inside = folders and not PurePosixPath(name).is_absolute() and ".." not in folders and "\0" not in name
    if not inside or not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(path.parent)):
        raise ModelFileError(f"{path} is refused: its weights '{tensor.name}' are outside its folder, in {name!r}.")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected_bytes))
        size = file.stat().st_size if file.is_file() else -1
    except (OSError, ValueError):
        raise ModelFileError(f"{path} is refused: the location of its weights '{tensor.name}' is invalid.") from None
    if size < 0:
        raise ModelFileError(
            f"{path} has its weights '{tensor.name}' in {name!r}, which does not exist: copy both files again."
        )
    if offset < 0 or length != expected_bytes or offset + length > size:
        raise ModelFileError(
            f"{path} is refused: its weights '{tensor.name}' should have {expected_bytes:,} bytes in {name!r}, but the file is shorter."
        )


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _read_location(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def count_bytes(tensor: TensorProto) -> int | None:
    """Return the bytes of a tensor by its type and shape; None for an invalid type or shape."""
    if any(size < 0 for size in tensor.dims):
        return None
    if tensor.data_type == TensorProto.STRING:
        return 0 if not _is_external(tensor) and not tensor.HasField("raw_data") else None
    bits = _BITS.get(tensor.data_type)
    return None if bits is None else (prod(tensor.dims) * bits + 7) // 8


def _count_entries(tensor: TensorProto) -> int:
    """Return an upper bound of the numbers in the typed fields: an entry holds one, or half of one for complex types."""
    fields = (
        tensor.float_data, tensor.int32_data, tensor.string_data, tensor.int64_data, tensor.double_data, tensor.uint64_data,
    )  # fmt: skip
    packed = max(1, 8 // max(1, _BITS.get(tensor.data_type, 8)))  # an entry holds two numbers of four bits
    return packed * max(map(len, fields))


def _list_bits() -> dict[int, int]:
    bits_by_type = {}
    for name, number in TensorProto.DataType.items():
        if name in ("UNDEFINED", "STRING"):
            continue
        is_four_bit, is_two_bit = name in ("INT4", "UINT4", "FLOAT4E2M1"), name in ("INT2", "UINT2")
        bits_by_type[number] = (
            4 if is_four_bit else 2 if is_two_bit else 8 * onnx.helper.tensor_dtype_to_np_dtype(number).itemsize
        )
    return bits_by_type


_BITS = _list_bits()


def _read_names(graph: onnx.GraphProto) -> None:
    """Read every name: protobuf decodes names on access, and then raises an error or returns the bytes of names that are not text.

    Raises `UnicodeError`.
    """
    if any(isinstance(name, bytes) for name in _iterate_names(graph)):
        raise UnicodeError("a name is no text")


def _iterate_names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    for inside in iterate_graphs(graph):
        for node in inside.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (attribute.name for attribute in node.attribute)
        for value in (*inside.input, *inside.output, *inside.value_info):
            yield from (value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim))
        for tensor in inside.initializer:
            yield tensor.name
            yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _iterate_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model: initializers, constants, sparse tensors, those of inner graphs and functions."""
    yield from _iterate_graph_tensors(model.graph)
    for function in model.functions:
        yield from _iterate_attribute_tensors(function.node)


def _iterate_graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _iterate_attribute_tensors(graph.node)


def _iterate_attribute_tensors(nodes: "Iterator[onnx.NodeProto] | list[onnx.NodeProto]") -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse_tensors = [
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            ]
            for sparse_tensor in sparse_tensors:
                yield from (sparse_tensor.values, sparse_tensor.indices)
        for inner in list_inner_graphs(node):
            yield from _iterate_graph_tensors(inner)
