"""Greedy selection of the channels from which refitted consumers best reproduce their outputs.

After channels are removed and the layer that reads them is refitted by least squares, the loss is, to second order,
tr(M · R), where R is the residual covariance of all channels given the kept ones and M the second moment of the
gradients. Channels are selected greedily by the decrease of this loss (orthogonal matching pursuit: Pati et al. 1993, on
the Gram matrix; column subset selection).
"""

import torch
from torch import Tensor

from recprune_export.pruning.statistics.moments import Moments


def greedy_order(moments: Moments) -> tuple[list[int], Tensor]:
    """Return the channels in the order of selection, and the loss when the first k are kept, [D + 1].

    The covariance counts, not the second moment, because the next bias takes up the mean of removed channels.
    """
    negligible = 1e-10  # of the largest variance: the other channels determine such a channel
    residual, curvature = moments.covariance.clone(), moments.gradients
    width = len(residual)
    losses = [_loss(residual, curvature)]
    floor = negligible * residual.diagonal().max().clamp_min(1e-30)
    order: list[int] = []
    remaining = torch.ones(width, dtype=torch.bool)
    for _ in range(width):
        variance = residual.diagonal()
        gain = ((residual @ curvature) * residual).sum(1) / variance.clamp_min(floor)
        gain = torch.where(remaining & (variance > floor), gain, torch.full_like(gain, -1.0))
        best = int(gain.argmax())
        if gain[best] < 0.0:
            break
        column = residual[:, best] / residual[best, best].sqrt()
        residual = residual - torch.outer(column, column)
        order.append(best)
        remaining[best] = False
        losses.append(_loss(residual, curvature))
    order += [index for index in range(width) if bool(remaining[index])]
    losses += [losses[-1]] * (width + 1 - len(losses))
    return order, torch.stack(losses).clamp_min(0.0)


def _loss(residual: Tensor, curvature: Tensor) -> Tensor:
    return (residual * curvature).sum()
