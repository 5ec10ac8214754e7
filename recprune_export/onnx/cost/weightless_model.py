"""A model without its weights: cheap for shape inference and cost estimates, and runnable without copying weights."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from recprune_export.program.requests.jagged_inputs import ELEMENTS
from recprune_export.program.signature import BATCH

LARGE = 1 << 10  # bytes; smaller tensors may be sizes or axes, which shape inference has to read

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightlessModel:
    """A `model` that refers to the tensors in `weights` by name only, with their types and shapes but no content."""

    model: onnx.ModelProto
    weights: Mapping[str, ir.TensorProtocol]


def strip_weights(model: ir.Model) -> WeightlessModel:
    """Return a copy of `model` in which weights are references to external data. The model is not changed."""
    copy = model.clone()
    weights = {}
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > LARGE and tensor.dtype != ir.DataType.STRING:
            weights[name] = tensor
            value.const_value = ir.ExternalTensor(
                "memory",
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=name,
                doc_string=tensor.doc_string,
            )
    return WeightlessModel(ir.to_proto(copy), weights)


def infer_shapes(model: onnx.ModelProto, batch: int) -> Shapes:
    """Return the shapes of all values that are known when each symbolic axis of an input has size `batch`."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in _infer_value_infos(model, batch):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def add_value_infos(model: onnx.ModelProto, batch: int) -> None:
    """Add the inferred shapes and types of values of which the file states none."""
    stated = {value.name for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    model.graph.value_info.extend(value for value in _infer_value_infos(model, batch) if value.name not in stated)


def fill_shapes(model: ir.Model) -> None:
    """Set missing shapes and types of values as far as ONNX can infer them; known ones are not changed.

    Shapes are inferred for two batch sizes: a size that is the same is a number, one that grows is a term of the batch.
    """
    values = [value for node in model.graph for value in node.outputs]
    if all(_is_known(value.shape) and value.type is not None for value in values):
        return
    weightless = strip_weights(model).model
    first, second = (infer_shapes(weightless, batch) for batch in _BATCHES)
    types = {value.name: value.type.tensor_type.elem_type for value in _infer_value_infos(weightless, _BATCHES[0])}
    for value in values:
        name = value.name or ""
        if not _is_known(value.shape) and name in first:
            value.shape = ir.Shape([_make_dim(*sizes) for sizes in zip(first[name], second[name], strict=True)])
        if value.type is None and types.get(name):
            value.type = ir.TensorType(ir.DataType(types[name]))


def _is_known(shape: ir.Shape | None) -> bool:
    """Return whether every size is a number, a term of the batch, or a number of elements."""
    return shape is not None and all(
        isinstance(size, int) or BATCH in str(size.value) or str(size.value).endswith(ELEMENTS) for size in shape
    )


_TERM = re.compile(rf"(?:(\d+)\*)?{BATCH}(?: \+ (\d+))?")
ELEMENTS_OF_ROW = 3  # of a jagged input, by which costs are estimated
_BATCHES = (7907, 7919)  # primes that are not sizes of a model


def _make_dim(first: int, second: int) -> int | ir.SymbolicDim:
    if first == second:
        return first
    (factor, remainder), (second_factor, second_remainder) = divmod(first, _BATCHES[0]), divmod(second, _BATCHES[1])
    is_multiple = factor == second_factor and remainder == second_remainder == 0
    return ir.SymbolicDim((BATCH if factor == 1 else f"{factor}*{BATCH}") if is_multiple else None)


def _infer_value_infos(model: onnx.ModelProto, batch: int) -> Sequence[onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(_fix_batch(model, batch), data_prop=True).graph
    return (*graph.input, *graph.value_info, *graph.output)


def _replace_contrib(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield standard operators whose result has the shape and type of `node`: ONNX infers nothing for contrib operators."""
    make, (result,) = onnx.helper.make_node, node.output[:1]
    cast = make("Cast", [f"{result}/standard"], [result], to=onnx.TensorProto.FLOAT)
    if node.domain != "com.microsoft" or node.op_type not in _OPERANDS:
        yield node
    elif node.op_type == "GatherBlockQuantized":  # of 4 bits: two numbers in a byte
        yield make("Gather", node.input[:2], [f"{result}/bytes"], axis=0)
        yield make("Concat", [f"{result}/bytes"] * 2, [f"{result}/standard"], axis=-1)
        yield cast
    else:
        yield make("MatMulInteger", [node.input[i] for i in _OPERANDS[node.op_type]], [f"{result}/standard"])
        yield cast


_OPERANDS = {"QGemm": (0, 3), "MatMulIntegerToFloat": (0, 1), "GatherBlockQuantized": (0, 1)}


def _choose_size(name: str, batch: int) -> int:
    """Return the size of a symbolic axis: `batch`, a term of it, or the number of elements of a jagged input.

    >>> [_choose_size(name, 10) for name in ("batch", "3*batch", "batch + 1", "ids_elements")]
    [10, 30, 11, 31]
    """
    if name.endswith(ELEMENTS):
        return ELEMENTS_OF_ROW * batch + 1  # no multiple, which would be mistaken for a term of the batch
    match = _TERM.fullmatch(name)
    return batch if match is None else int(match[1] or 1) * batch + int(match[2] or 0)


def _fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return the graph for one batch size, without the content of large weights, which inference would copy."""
    fixed = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    fixed.graph.name = model.graph.name
    fixed.graph.node.extend(standard for node in model.graph.node for standard in _replace_contrib(node))
    fixed.graph.input.extend(model.graph.input)
    fixed.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > LARGE:
            fixed.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            fixed.graph.initializer.append(tensor)
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = _choose_size(dim.dim_param, batch)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed.graph.value_info.extend(_fix_known_shapes(model, batch))
    return fixed


def _fix_known_shapes(model: onnx.ModelProto, batch: int) -> Iterator[onnx.ValueInfoProto]:
    """Yield the stated shapes of computed values: ONNX infers none behind operators such as a Range over the batch."""
    for stated in model.graph.value_info:
        dims = stated.type.tensor_type.shape.dim
        known = stated.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") or _TERM.fullmatch(dim.dim_param) or dim.dim_param.endswith(ELEMENTS)
            for dim in dims
        )
        if known:
            value = onnx.ValueInfoProto()
            value.CopyFrom(stated)
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value"):
                    dim.dim_value = _choose_size(dim.dim_param, batch)
            yield value
