"""The mean loss over rows with labels, of which some may be missing and each may have a weight."""

from collections.abc import Callable

import torch
from torch import Tensor

RowLosses = Callable[[Tensor, Tensor], Tensor]  # output [B, ...], label [B] -> the loss of each row, [B]


def mean_label_loss(losses: RowLosses, output: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return Σ w·loss / Σ w over the rows whose `label`, [B], is not NaN, as a scalar; 0 without such rows.

    `weights` are [B], 1 by default.
    """
    known = ~label.isnan()
    if weights is None and bool(known.all()):
        return losses(output, label).mean()
    by_row = losses(output, label.nan_to_num(0.0))
    factors = known.to(by_row.dtype) if weights is None else known * weights.to(by_row.dtype)
    tiny = torch.finfo(by_row.dtype).tiny
    return (by_row.masked_fill(factors == 0.0, 0.0) * factors).sum() / factors.sum().clamp_min(tiny)
