"""How much the answers feel each weight: the diagonal of the Gauss-Newton matrix, from calibration data.

Setting a weight w to zero loses about w² h, with h the curvature of the loss (LeCun et al. 1990, "Optimal Brain Damage",
equation 4). The square of a probe's gradient has h as its mean (`Objective.probe`), without labels. Most ids are too rare
for figures of their own: of a table, h is the outer product of what its rows and its columns sum to (Shazeer and Stern
2018, "Adafactor", section 3), so that a rare id counts for as little as it is asked for.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.finetuning.sparse_updates import find_table_lookups, sparse_gradients
from recprune_export.program.program import Program
from recprune_export.pruning.statistics.moments import CurvatureProbe

Curvature = Mapping[str, Tensor]  # by parameter, of its shape

ROW_SMOOTHING = 0.25  # of what a row has on average, added to every row: what calibration data did not show may come


def weight_curvature(
    program: Program, tables: frozenset[str], batches: Iterable[Batch], probe: CurvatureProbe, seed: int = 0
) -> Curvature:
    """Return for each parameter a tensor of its shape with the curvature at each weight, up to one common factor.

    Also for parameters that are frozen: tuning leaves them alone, zeros do not.
    """
    program.set_training(False)
    parameters = program.parameters()
    factors = {
        name: (p.new_zeros(len(p)), p.new_zeros(p.shape[1:])) for name, p in parameters.items() if name in tables
    }
    whole = {name: torch.zeros_like(p) for name, p in parameters.items() if name not in tables}
    generator = torch.Generator().manual_seed(seed)
    with (
        _unfrozen(parameters.values()),
        sparse_gradients(program, frozenset(tables & find_table_lookups(program).keys())),
    ):
        for request, _ in batches:
            slope = probe(program(request), generator)
            gradients = torch.autograd.grad(slope, list(parameters.values()), allow_unused=True)
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
    """Add the squares of a gradient, rows × dim (or no dim, or several), dense or of some rows alone."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        squares = _squares(gradient.values())
        rows.index_add_(0, gradient.indices()[0], squares.flatten(1).sum(1))
    else:
        squares = _squares(gradient)
        rows += squares.reshape(len(squares), -1).sum(1)
    columns += squares.sum(0)


def _squares(gradient: Tensor) -> Tensor:
    """Zero where there is no slope, as of √x at 0."""
    return gradient.nan_to_num(0.0, 0.0, 0.0).square()


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    seen = rows + ROW_SMOOTHING * rows.mean()
    share = columns / seen.sum().clamp_min(torch.finfo(torch.float32).tiny)
    return seen.reshape(-1, *(1 for _ in columns.shape)) * share
