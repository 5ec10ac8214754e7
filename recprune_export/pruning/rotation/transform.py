"""A transform of a group's channels."""

import base64
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Transform:
    """A matrix A, D×D in float64: channels x become Aᵀx on one side and A⁻¹x on the other, which keeps inner products.

    >>> transform = Transform(torch.eye(2, dtype=torch.float64))
    >>> Transform.from_text(transform.to_text()).matrix.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    matrix: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transform) and torch.equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash(self.matrix.shape)

    def matrix_for_side(self, side: int) -> Tensor:
        """Return the matrix by which the axis of a weight is multiplied from the right: A on side +1, A⁻ᵀ on side -1."""
        return self.matrix if side > 0 else torch.linalg.inv(self.matrix).T

    def to_text(self) -> str:
        """Return the matrix in base64, little endian, float64."""
        return base64.b64encode(self.matrix.numpy().astype("<f8").tobytes()).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the result of `to_text`. Raises `ValueError` if it is no square matrix."""
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
        width = round(len(values) ** 0.5)
        return cls(torch.from_numpy(values.reshape(width, width).copy()))
