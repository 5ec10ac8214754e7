"""Application of transforms to a program's parameters, with a proof that the outputs are unchanged."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recprune_export.channels.groups import slice_positions
from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.pruning.apply.masking import Float64Interpreter
from recprune_export.pruning.rotation.eligibility import RotatableGroup
from recprune_export.pruning.rotation.transform import Transform


def apply_transforms(
    program: Program, rotatable: Mapping[str, RotatableGroup], transforms: Mapping[str, Transform]
) -> Program:
    """Return a program with the outputs of `program` in which the channels of each group in `transforms` are transformed.

    Raises `PruningError` where a group may not be transformed, or where the outputs differ by more than 1e-5.
    """
    if not transforms:
        return program
    transformed = program.with_copied_parameters()
    with torch.no_grad():
        for name, transform in transforms.items():
            if name not in rotatable:
                raise PruningError(f"The plan transforms the channels of '{name}', which this model does not allow.")
            group = program.analysis.group(name)
            for (tensor, axis), side in rotatable[name].sides.items():
                _multiply(
                    tensor_at(transformed.module, tensor),
                    axis,
                    slice_positions(group, tensor, axis),
                    transform.matrix_for_side(side),
                )
    _check_outputs(program, transformed)
    return transformed


def _multiply(weight: Tensor, axis: int, positions: Tensor, matrix: Tensor) -> None:
    """Multiply each copy of the group on an axis of a weight by a matrix, in place."""
    view = weight.movedim(axis, -1)
    for indices in positions:
        rows = view[..., indices]
        view[..., indices] = (rows.double() @ matrix).to(weight.dtype)


def _check_outputs(program: Program, transformed: Program) -> None:
    tolerance = 1e-5  # of the largest output, in single precision
    tensors = sample_request_tensors(program.signature, batch=16)
    before, after = Float64Interpreter(program)(*tensors), Float64Interpreter(transformed)(*tensors)
    for one, other in zip(before, after, strict=True):
        finite = one.isfinite() & other.isfinite()
        difference = float((one - other)[finite].abs().max()) if finite.any() else 0.0
        largest = float(one[finite].abs().max()) if finite.any() else 1.0
        if not difference <= tolerance * max(largest, 1e-30):
            raise PruningError(
                f"A rotation changed the answers by {difference / max(largest, 1e-30):.1e} of the largest, so nothing was "
                "written. This is a fault of the analysis: please report the model, and use another --score until then."
            )
