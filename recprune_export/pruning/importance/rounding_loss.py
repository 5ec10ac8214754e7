"""Predicted loss of outputs when weights are rounded to few bits.

An error e in a looked-up row of a table loses, to second order, eᵀ M e, with M the second moment of the outputs' gradients
at the lookup: the same formula predicts the loss of a removed dimension, so that both can be compared. Where a group may be rotated, its
kept dimensions are turned by a random orthogonal matrix before they are rounded: after balanced truncation the first dimensions contain
most of the variance, and the scale of a row suits none of them (incoherence processing: Chee et al. 2023, "QuIP", section 3; random
Hadamard transforms: Ashkboos et al. 2024, "QuaRot").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from recprune_export.channels.groups import Group, slice_positions
from recprune_export.program.program import Program
from recprune_export.program.rounding import round_layer_weight, round_table_rows
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.rotation.eligibility import RotatableGroup
from recprune_export.pruning.statistics.weight_reads import LayerReads, TableReads
from recprune_export.stored_bits import LAYER_BITS, TABLE_BITS


@dataclass(frozen=True)
class TableRounding:
    """Predicted losses of one table by its bits, at each width of its group, [widths], without and with turned dimensions."""

    table: str
    unturned: Mapping[int, Tensor]
    turned: Mapping[int, Tensor]

    def scaled(self, factor: float) -> Self:
        """Return the losses multiplied by `factor`."""
        unturned, turned = (
            {bits: losses * factor for bits, losses in by_bits.items()} for by_bits in (self.unturned, self.turned)
        )
        return replace(self, unturned=unturned, turned=turned)


def predict_table_losses(
    group: Group,
    table: str,
    reads: TableReads,
    ranking: Ranking,
    rotatable: RotatableGroup | None,
    widths: Sequence[int],
) -> TableRounding:
    """Return the predicted loss of a table all of whose dimensions are channels of `group`, for each of `widths`."""
    original = _rotate(group, table, reads, ranking, None)
    read = _rotate(group, table, reads, ranking, rotatable)
    can_turn = rotatable is not None and ranking.transform is not None
    unturned: dict[int, list[float]] = {bits: [] for bits in TABLE_BITS}
    turned: dict[int, list[float]] = {bits: [] for bits in TABLE_BITS}
    for width in widths:
        columns = list(ranking.order[:width])
        part = read.keep(columns)
        # A plan that keeps all dimensions does not change them, unless it turns them.
        unturned_part = original if width == group.width else part
        turn = turn_matrix(width) if can_turn and width > 1 else None
        for bits in TABLE_BITS:
            plain = unturned_part.loss(bits, None)
            unturned[bits].append(plain)
            turned[bits].append(plain if turn is None or bits >= 16 else part.loss(bits, turn))
    return TableRounding(
        table,
        {bits: torch.tensor(losses) for bits, losses in unturned.items()},
        {bits: torch.tensor(losses) for bits, losses in turned.items()},
    )


def predict_whole_table_losses(table: str, reads: TableReads) -> TableRounding:
    """Return the predicted loss of rounding a table whose dimensions cannot be removed."""
    kept = _Kept(reads.rows[:, None], reads.multiplied_rows[:, None], reads.gradients[None], reads.operands[None])
    losses = {bits: torch.tensor([kept.loss(bits, None)]) for bits in TABLE_BITS}
    return TableRounding(table, losses, losses)


@dataclass(frozen=True)
class _Kept:
    """The statistics of the kept dimensions: rows [n, copies, k], and moments of each copy, [copies, k, k]."""

    rows: Tensor
    multiplied_rows: Tensor
    gradients: Tensor
    operands: Tensor

    def keep(self, columns: list[int]) -> Self:
        """Return the statistics of some of the dimensions."""
        return type(self)(
            *(rows[:, :, columns] for rows in (self.rows, self.multiplied_rows)),
            *(moment[:, columns][:, :, columns] for moment in (self.gradients, self.operands)),
        )

    def loss(self, bits: int, turn: Tensor | None) -> float:
        """Return the predicted loss of rows of `bits` bits."""
        if bits >= 32:
            return 0.0
        lookups = (_mean_squared_errors(self.rows, bits, turn) * _diagonals(self.gradients)).sum()
        products = (_mean_squared_errors(self.multiplied_rows, bits, turn) * _diagonals(self.operands)).sum()
        return float(lookups + products)


def _rotate(group: Group, table: str, reads: TableReads, ranking: Ranking, rotatable: RotatableGroup | None) -> _Kept:
    """Return the statistics of all dimensions in the coordinates of the ranking."""
    positions = slice_positions(group, table, 1)
    matrix = torch.eye(group.width, dtype=torch.float64)
    if rotatable is not None and ranking.transform is not None:
        matrix = ranking.transform.matrix_for_side(rotatable.sides[table, 1])
    inverse = torch.linalg.inv(matrix)

    def rotate_moment(moment: Tensor) -> Tensor:
        return inverse @ torch.stack([moment[copy][:, copy] for copy in positions]) @ inverse.T

    return _Kept(
        reads.rows[:, positions] @ matrix,
        reads.multiplied_rows[:, positions] @ matrix,
        rotate_moment(reads.gradients),
        rotate_moment(reads.operands),
    )


def _mean_squared_errors(rows: Tensor, bits: int, turn: Tensor | None) -> Tensor:
    """Return the mean square of each dimension's rounding error, [copies, k]; zeros without rows."""
    if not len(rows):
        return rows.new_zeros(rows.shape[1:])
    values = rows if turn is None else rows @ turn
    flat = values.flatten(1)
    errors = (round_table_rows(flat, bits) - flat).square().mean(0).reshape(values.shape[1:])
    # The error of turned dimensions has no direction.
    return errors if turn is None else errors.mean(1, keepdim=True).expand_as(errors)


def _diagonals(moments: Tensor) -> Tensor:
    return moments.diagonal(dim1=1, dim2=2)


def turn_matrix(width: int) -> Tensor:
    """Return a random orthogonal matrix, [width, width] in float64, the same for each width; Hadamard's for powers of two.

    >>> turn = turn_matrix(4)
    >>> torch.allclose(turn @ turn.T, torch.eye(4, dtype=torch.float64))
    True
    """
    generator = torch.Generator().manual_seed(width)
    if width & (width - 1) == 0:
        matrix = torch.ones(1, 1, dtype=torch.float64)
        while len(matrix) < width:
            matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
        signs = torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1
        return signs[:, None] * matrix / width**0.5
    gaussian = torch.randn(width, width, generator=generator, dtype=torch.float64)
    orthogonal, triangle = torch.linalg.qr(gaussian)
    return orthogonal * triangle.diagonal().sign()


def predict_layer_losses(program: Program, layers: Mapping[str, LayerReads]) -> dict[str, dict[int, float]]:
    """Return the predicted loss of each layer's weight [outputs, inputs] by its bits."""
    parameters = program.parameters()
    losses: dict[str, dict[int, float]] = {}
    for name, reads in layers.items():
        weight = parameters[name].detach().double()
        losses[name] = {
            bits: float(reads.gradients @ ((round_layer_weight(weight, bits) - weight).square() @ reads.inputs))
            for bits in LAYER_BITS
        }
    return losses
