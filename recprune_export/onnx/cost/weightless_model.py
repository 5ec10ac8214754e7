"""A model without its weights: cheap for shape inference, and runnable without copying weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from recprune_export.onnx.cost.shape_inference import LARGE, infer_value_infos, read_shapes
from recprune_export.program.requests.jagged_inputs import ELEMENTS
from recprune_export.program.signature import BATCH

_BATCHES = (7907, 7919)  # primes that are not sizes of a model


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


def fill_shapes(model: ir.Model) -> None:
    """Set missing shapes and types of values as far as ONNX can infer them; known ones are not changed.

    Shapes are inferred for two batch sizes: a size that is the same is a number, one that grows is a term of the batch.
    """
    values = [value for node in model.graph for value in node.outputs]
    if all(_is_known(value.shape) and value.type is not None for value in values):
        return
    weightless = strip_weights(model).model
    inferred = [infer_value_infos(weightless, batch) for batch in _BATCHES]
    first, second = (read_shapes(weightless, infos) for infos in inferred)
    types = {info.name: info.type.tensor_type.elem_type for info in inferred[0]}
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


def _make_dim(first: int, second: int) -> int | ir.SymbolicDim:
    if first == second:
        return first
    (factor, remainder), (second_factor, second_remainder) = divmod(first, _BATCHES[0]), divmod(second, _BATCHES[1])
    is_multiple = factor == second_factor and remainder == second_remainder == 0
    return ir.SymbolicDim((BATCH if factor == 1 else f"{factor}*{BATCH}") if is_multiple else None)
