"""The curvature of the loss at each weight: the diagonal of the Gauss-Newton matrix, from calibration data.

Setting a weight w to zero loses about w² h, with h the curvature of the loss (LeCun et al. 1990, "Optimal Brain Damage",
equation 4). The squared gradient of a probe has h as its mean (`Objective.probe`), without labels. Most ids are too rare
for an estimate of each weight: h of a table is the outer product of the sums of its rows and columns (Shazeer and Stern
2018, "Adafactor", section 3), so that a rare id counts in proportion to its frequency.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.distributed.gradients import sum_gradient_list
from recprune_export.distributed.shares import ORDER, gather_answers
from recprune_export.finetuning.finetuning_constants import ROW_SMOOTHING
from recprune_export.finetuning.sparse_updates import find_table_lookups, sparse_gradients
from recprune_export.program.program import Program
from recprune_export.pruning.statistics.moments import CurvatureProbe


@dataclass(frozen=True)
class OuterProduct:
    """The product of a number for each row and a tensor of the shape of a row, computed for the requested rows.

    `rows` is [rows], `columns` [*shape of a row]; `product[index]` is rows[index] ⊗ columns.
    """

    rows: Tensor
    columns: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.rows.shape + self.columns.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.rows.dtype

    def __getitem__(self, index: slice | EllipsisType | int) -> Tensor:
        rows = self.rows[index]
        return rows.reshape((*rows.shape, *(1 for _ in self.columns.shape))) * self.columns


Curvature = Mapping[str, Tensor | OuterProduct]  # by parameter, of its shape


def weight_curvature(
    program: Program,
    tables: frozenset[str],
    batches: Iterable[Batch],
    probe: CurvatureProbe,
    seed: int = 0,
    *,
    names: Collection[str] | None = None,
) -> Curvature:
    """Return for each parameter the curvature at each weight, up to one common factor; of tables as an outer product.

    With `names` only those parameters are computed, with the same numbers. Time: a forward and a backward pass of each batch,
    which goes no further back than to these parameters. Frozen parameters are included: tuning does not change them, but masks do.
    Memory: a number for each row of a table and for each other weight; a table that is not only looked up has a gradient of the same size
    for each batch. With several processes, each is given its share of every batch; squares are those of the gradients of whole batches.
    """
    program.set_training(False)
    parameters = {name: p for name, p in program.parameters().items() if names is None or name in names}
    if not parameters:
        return {}
    factors = {
        name: (p.new_zeros(len(p)), p.new_zeros(p.shape[1:])) for name, p in parameters.items() if name in tables
    }
    whole = {name: torch.zeros_like(p) for name, p in parameters.items() if name not in tables}
    generator = torch.Generator().manual_seed(seed)
    with (
        _unfrozen(parameters.values()),
        sparse_gradients(program, frozenset(tables & parameters.keys() & find_table_lookups(program).keys())),
    ):
        for request, labels in batches:
            (answers,) = gather_answers([program(request)], labels.get(ORDER))
            scalar = probe(answers, generator)
            gradients = sum_gradient_list(torch.autograd.grad(scalar, list(parameters.values()), allow_unused=True))
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is None:
                    continue
                if name in factors:
                    _add_rows(*factors[name], gradient)
                else:
                    whole[name] += _squares(gradient)
    return {**whole, **{name: _outer(rows, columns) for name, (rows, columns) in factors.items()}}


@contextmanager
def _unfrozen(parameters: Iterable[Tensor]) -> Iterator[None]:
    frozen = [p for p in parameters if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _add_rows(rows: Tensor, columns: Tensor, gradient: Tensor) -> None:
    """Add the squares of a gradient, [rows, ...], dense or sparse in the rows, to the sums of rows and columns."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        squares = _squares(gradient.values())
        rows.index_add_(0, gradient.indices()[0], squares.flatten(1).sum(1))
    else:
        squares = _squares(gradient)
        rows += squares.reshape(len(squares), -1).sum(1)
    columns += squares.sum(0)


def _squares(gradient: Tensor) -> Tensor:
    """Return the squares of a gradient, zero if it is not finite, as that of √x at 0."""
    return gradient.nan_to_num(0.0, 0.0, 0.0).square()


def _outer(rows: Tensor, columns: Tensor) -> OuterProduct:
    smoothed = rows + ROW_SMOOTHING * rows.mean()
    return OuterProduct(smoothed, columns / smoothed.sum().clamp_min(torch.finfo(torch.float32).tiny))
