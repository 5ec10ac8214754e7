"""A model without its weights: small enough to infer shapes, to price, and to run on weights that stay where they lie."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from recprune_export.program.signature import BATCH

LARGE = 1 << 10  # bytes; what is smaller may be a size or an axis, which shape inference has to read

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightlessModel:
    """`model` refers to the tensors in `weights` by their names only; each is as large as it says, its content apart."""

    model: onnx.ModelProto
    weights: Mapping[str, ir.TensorProtocol]


def strip_weights(model: ir.Model) -> WeightlessModel:
    """Return a copy of `model` in which weights are references to data outside. The model is left as it is."""
    bare = model.clone()
    weights = {}
    for name, value in bare.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > LARGE and tensor.dtype != ir.DataType.STRING:
            weights[name] = tensor
            value.const_value = ir.ExternalTensor(
                "memory", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
    return WeightlessModel(ir.to_proto(bare), weights)


def infer_shapes(model: onnx.ModelProto, batch: int) -> Shapes:
    """Return the shape of every value whose shape is known when each symbolic axis of an input is `batch` long."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in _inferred(model, batch):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def fill_shapes(model: ir.Model) -> None:
    """Give shape and type to the values that lack them, as far as ONNX can tell; what is known stays as it is.

    The shapes are inferred for two batch sizes: what is the same is a number, what grows with the batch is a term of it.
    """
    values = [value for node in model.graph for value in node.outputs]
    if all(_is_known(value.shape) and value.type is not None for value in values):
        return
    bare = strip_weights(model).model
    one, other = (infer_shapes(bare, batch) for batch in _BATCHES)
    kinds = {value.name: value.type.tensor_type.elem_type for value in _inferred(bare, _BATCHES[0])}
    for value in values:
        name = value.name or ""
        if not _is_known(value.shape) and name in one:
            value.shape = ir.Shape([_as_term(*sizes) for sizes in zip(one[name], other[name], strict=True)])
        if value.type is None and kinds.get(name):
            value.type = ir.TensorType(ir.DataType(kinds[name]))


def _is_known(shape: ir.Shape | None) -> bool:
    """Whether every size is a number or a term of the batch."""
    return shape is not None and all(isinstance(size, int) or BATCH in str(size.value) for size in shape)


_BATCHES = (7907, 7919)  # primes that are no size of a model


def _as_term(one: int, other: int) -> int | ir.SymbolicDim:
    if one == other:
        return one
    (times, rest), (times_too, rest_too) = divmod(one, _BATCHES[0]), divmod(other, _BATCHES[1])
    plain = times == times_too and rest == rest_too == 0
    return ir.SymbolicDim((BATCH if times == 1 else f"{times}*{BATCH}") if plain else None)


def _inferred(model: onnx.ModelProto, batch: int) -> Sequence[onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(_concrete(model, batch), data_prop=True).graph
    return (*graph.input, *graph.value_info, *graph.output)


def _standard(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Operators of ONNX itself whose result has the same shape and type: of others it cannot tell."""
    make, (result,) = onnx.helper.make_node, node.output[:1]
    floats = make("Cast", [f"{result}/standard"], [result], to=onnx.TensorProto.FLOAT)
    if node.domain != "com.microsoft" or node.op_type not in _OPERANDS:
        yield node
    elif node.op_type == "GatherBlockQuantized":  # of 4 bits: two numbers in a byte
        yield make("Gather", node.input[:2], [f"{result}/bytes"], axis=0)
        yield make("Concat", [f"{result}/bytes"] * 2, [f"{result}/standard"], axis=-1)
        yield floats
    else:
        yield make("MatMulInteger", [node.input[i] for i in _OPERANDS[node.op_type]], [f"{result}/standard"])
        yield floats


_OPERANDS = {"QGemm": (0, 3), "MatMulIntegerToFloat": (0, 1), "GatherBlockQuantized": (0, 1)}


def _concrete(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The graph for one batch size, of large weights no more than shape and type: inference copies all that it is given."""
    one = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    one.graph.name = model.graph.name
    one.graph.node.extend(each for node in model.graph.node for each in _standard(node))
    one.graph.input.extend(model.graph.input)
    one.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() > LARGE:
            one.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            one.graph.initializer.append(tensor)
    for value in one.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = batch
    for value in one.graph.output:
        value.type.tensor_type.ClearField("shape")
    return one
