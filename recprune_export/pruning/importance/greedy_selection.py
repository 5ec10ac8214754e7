"""Choose the channels whose consumers, refitted to them, answer most like before.

Removing channels and refitting the layer that reads them by least squares leaves, to second order, tr(M · R), where R is
the covariance of all channels that the kept ones cannot predict and M the second moment of the gradients. Channels are
taken greedily by what each adds (orthogonal matching pursuit: Pati et al. 1993, on the Gram matrix; column subset
selection).
"""

import torch
from torch import Tensor

from recprune_export.pruning.statistics.moments import Moments

NEGLIGIBLE_VARIANCE = 1e-10  # of the largest variance: such a channel adds nothing that the others do not say


def greedy_order(moments: Moments) -> tuple[list[int], Tensor]:
    """Return the channels in the order in which they are best kept, and the loss when the first k are kept, D + 1.

    The mean of what goes is taken to be put into the next bias, so the covariance counts, not the second moment.
    """
    residual, curvature = moments.covariance.clone(), moments.gradients
    width = len(residual)
    losses = [_loss(residual, curvature)]
    floor = NEGLIGIBLE_VARIANCE * residual.diagonal().max().clamp_min(1e-30)
    order: list[int] = []
    left = torch.ones(width, dtype=torch.bool)
    for _ in range(width):
        variance = residual.diagonal()
        gain = ((residual @ curvature) * residual).sum(1) / variance.clamp_min(floor)
        gain = torch.where(left & (variance > floor), gain, torch.full_like(gain, -1.0))
        best = int(gain.argmax())
        if gain[best] < 0.0:
            break
        column = residual[:, best] / residual[best, best].sqrt()
        residual = residual - torch.outer(column, column)
        order.append(best)
        left[best] = False
        losses.append(_loss(residual, curvature))
    order += [index for index in range(width) if bool(left[index])]
    losses += [losses[-1]] * (width + 1 - len(losses))
    return order, torch.stack(losses).clamp_min(0.0)


def _loss(residual: Tensor, curvature: Tensor) -> Tensor:
    return (residual * curvature).sum()
