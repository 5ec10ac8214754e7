"""A transform of a group's channels, and a program with transforms applied to its parameters."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group
from recprune_export.errors import PruningError
from recprune_export.program.program import Program, example_tensors
from recprune_export.pruning.masking import DoublePrecision
from recprune_export.pruning.rotation.legality import Rotatable

TOLERANCE = 1e-5  # of the largest output, in single precision
BATCH = 16


@dataclass(frozen=True, eq=False)
class Transform:
    """A matrix A, D×D in float64: channels x become Aᵀx on one side and A⁻¹x on the other, so inner products stay.

    >>> one = Transform(torch.eye(2, dtype=torch.float64))
    >>> Transform.from_text(one.to_text()).matrix.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    matrix: Tensor

    def on(self, side: int) -> Tensor:
        """Return what the axis of a weight is multiplied with, from the right: A on side +1, A⁻ᵀ on side -1."""
        return self.matrix if side > 0 else torch.linalg.inv(self.matrix).T

    def to_text(self) -> str:
        """Return the matrix in base64, little endian, float64."""
        return base64.b64encode(self.matrix.numpy().astype("<f8").tobytes()).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `to_text` wrote. Raises `ValueError` where it is no square matrix."""
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
        width = round(len(values) ** 0.5)
        return cls(torch.from_numpy(values.reshape(width, width).copy()))


def apply_transforms(
    program: Program, analysis: Analysis, rotatable: Mapping[str, Rotatable], transforms: Mapping[str, Transform]
) -> Program:
    """Return a program that answers as `program` does, the channels of each group in `transforms` transformed.

    Raises `PruningError` where a group may not be transformed, or where the answers are not the same to 1e-5.
    """
    if not transforms:
        return program
    transformed = program.with_own_parameters()
    parameters = transformed.parameters()
    with torch.no_grad():
        for name, transform in transforms.items():
            if name not in rotatable:
                raise PruningError(f"The plan transforms the channels of '{name}', which this model does not allow.")
            group = analysis.group(name)
            for (tensor, axis), side in rotatable[name].sides.items():
                _multiply(parameters[tensor], axis, slice_positions(group, tensor, axis), transform.on(side))
    _check_the_same(program, transformed)
    return transformed


def slice_positions(group: Group, tensor: str, axis: int) -> Tensor:
    """Return the indices on the axis of a parameter at which each channel lies, [occurrences, D]."""
    places: list[list[int]] = [
        sorted(s.index for s in channel.slices if (s.tensor, s.axis) == (tensor, axis)) for channel in group.channels
    ]
    return torch.tensor(places, dtype=torch.int64).T.contiguous()


def _multiply(weight: Tensor, axis: int, positions: Tensor, matrix: Tensor) -> None:
    """Multiply each copy of the group on an axis by a matrix, chunk by chunk of the other axes, in place."""
    view = weight.movedim(axis, -1)
    for own in positions:
        rows = view[..., own]
        view[..., own] = (rows.double() @ matrix).to(weight.dtype)


def _check_the_same(program: Program, transformed: Program) -> None:
    tensors = example_tensors(program.signature, BATCH)
    before, after = DoublePrecision(program)(*tensors), DoublePrecision(transformed)(*tensors)
    for one, other in zip(before, after, strict=True):
        finite = one.isfinite() & other.isfinite()
        difference = float((one - other)[finite].abs().max()) if finite.any() else 0.0
        largest = float(one[finite].abs().max()) if finite.any() else 1.0
        if not difference <= TOLERANCE * max(largest, 1e-30):
            raise PruningError(
                f"A rotation changed the answers by {difference / max(largest, 1e-30):.1e} of the largest, so nothing was "
                "written. This is a fault of the analysis: please report the model, and use another --score until then."
            )
