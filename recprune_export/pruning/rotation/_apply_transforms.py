"""Application of transforms to a program's parameters, with a proof that the outputs are unchanged."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recprune_export.channels.groups import slice_positions
from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.program.row_chunks import row_chunks
from recprune_export.program.streamed_tables.streamed_table import StreamedTable
from recprune_export.pruning.apply.masking import Float64Interpreter
from recprune_export.pruning.rotation.eligibility import RotatableGroup
from recprune_export.pruning.rotation.transform import Transform

TOLERANCE = 1e-5  # of the largest output, for weights that are rounded to float32
EXACT_TOLERANCE = 1e-7  # for weights in float64
MOST_ROUNDING = 1e-3  # the answers of a model that magnifies rounding by more are meaningless


def apply_transforms(
    program: Program, rotatable: Mapping[str, RotatableGroup], transforms: Mapping[str, Transform]
) -> Program:
    """Return a program with the outputs of `program` in which the channels of each group in `transforms` are transformed.

    Other tensors are shared with `program`. Time: a product with a matrix for each row of the tables. Memory: the transformed
    tensors once, and a chunk of rows in float64.

    If the outputs differ by more than 1e-5, the weights are also transformed in float64: if the outputs are then equal, the rounding of
    weights to float32 caused the difference.

    Raises `PruningError` if a group may not be transformed, or if the outputs differ.
    """
    if not transforms:
        return program
    transformed = _transform(program, rotatable, transforms)
    difference = _compare(program, transformed)
    if difference > TOLERANCE:
        exact = _compare(program, _transform(program, rotatable, transforms, torch.float64))
        if exact > EXACT_TOLERANCE:
            raise PruningError(
                f"A rotation changed the outputs by {exact:.1e} of the largest, so nothing was written. This is a bug in the "
                "analysis: please report the model; until it is fixed, use another --score."
            )
        if difference > MOST_ROUNDING:
            raise PruningError(
                f"Weights rounded to float32 change the outputs by {difference:.1e} of the largest, since the model amplifies small "
                "differences, as an exponential of large numbers does; nothing was written. Use --score variance, "
                "which does not rotate channels."
            )
    return transformed


def _transform(
    program: Program,
    rotatable: Mapping[str, RotatableGroup],
    transforms: Mapping[str, Transform],
    dtype: torch.dtype | None = None,
) -> Program:
    """Return the transformed program, its tensors in `dtype`, by default that of the program."""
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, transform in transforms.items():
            if name not in rotatable:
                raise PruningError(f"The plan transforms the channels of '{name}', which this model does not allow.")
            group = program.analysis.group(name)
            for (tensor, axis), side in rotatable[name].sides.items():
                streamed = tensors.get(tensor, tensor_at(program.module, tensor))
                if isinstance(streamed, StreamedTable):
                    positions, matrix = slice_positions(group, tensor, axis), transform.matrix_for_side(side)
                    tensors[tensor] = _multiply_streamed(streamed, axis, positions, matrix, dtype)
                    continue
                if tensor not in tensors:
                    tensors[tensor] = _empty_like(tensor_at(program.module, tensor), dtype)
                    source = tensor_at(program.module, tensor)
                else:
                    source = tensors[tensor]
                positions, matrix = slice_positions(group, tensor, axis), transform.matrix_for_side(side)
                _multiply(source, tensors[tensor], axis, positions, matrix)
    return program.with_tensors(tensors)


def _multiply_streamed(
    table: StreamedTable, axis: int, positions: Tensor, matrix: Tensor, dtype: torch.dtype | None
) -> nn.Parameter:
    """Return the product of a streamed table, which is computed for each row when it is read."""
    if axis != 1:
        raise PruningError(f"The rows of '{table.rows.name}' cannot be transformed: the table is larger than memory.")
    rows = table.rows.to_dtype(dtype or table.dtype).multiply_columns(positions, matrix)
    return nn.Parameter(StreamedTable(rows), requires_grad=table.requires_grad)


def _empty_like(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    empty = torch.empty_like(tensor, dtype=dtype, requires_grad=False)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _multiply(weight: Tensor, product: Tensor, axis: int, positions: Tensor, matrix: Tensor) -> None:
    """Write to `product` the `weight` with each copy of the group on an axis multiplied by a matrix; both may be the same."""
    for rows in row_chunks(weight) if axis else (...,):
        chunk = product[rows]
        if product is not weight:
            chunk.copy_(weight[rows])
        view = chunk.movedim(axis, -1)
        for indices in positions:
            view[..., indices] = (view[..., indices].double() @ matrix).to(product.dtype)


def _compare(program: Program, transformed: Program) -> float:
    """Return the difference of the outputs as a fraction of the largest number, computed in float64."""
    worst = 0.0
    tensors = sample_request_tensors(program.signature, batch=16)
    before, after = Float64Interpreter(program)(*tensors), Float64Interpreter(transformed)(*tensors)
    for one, other in zip((x.double() for x in before), (x.double() for x in after), strict=True):
        finite = one.isfinite() & other.isfinite()
        difference = float((one - other)[finite].abs().max()) if finite.any() else 0.0
        largest = float(one[finite].abs().max()) if finite.any() else 1.0
        worst = max(worst, difference / max(largest, 1e-30))
    return worst
