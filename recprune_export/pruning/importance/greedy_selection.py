"""Greedy selection of the channels from which refitted consumers best reproduce their outputs.

After channels are removed and the layer that reads them is refitted by least squares, the loss is, to second order,
tr(M · R), where R is the residual covariance of all channels given the kept ones and M the second moment of the
gradients. Channels are selected greedily by the decrease of this loss (orthogonal matching pursuit: Pati et al. 1993, on
the Gram matrix; column subset selection).

Channel i decreases the loss by Qᵢᵢ / Rᵢᵢ, where Q = R M R. Let c and u be the columns of R and Q at the selected channel,
both divided by the root of its variance, and q = cᵀ M c the decrease. After the selection R becomes R - c cᵀ, and Q becomes
Q - c wᵀ - w cᵀ with w = u - q/2 · c: a step of a pivoted Cholesky decomposition of R that updates Q as well (for M = I:
Farahat et al. 2011, "An efficient greedy method for unsupervised feature selection").
"""

import torch
from torch import Tensor

from recprune_export.pruning.statistics.moments import Moments


def greedy_order(moments: Moments) -> tuple[list[int], Tensor]:
    """Return the channels in the order of selection, and the loss when the first k are kept, [D + 1].

    The covariance counts, not the second moment, because the next bias takes up the mean of removed channels. Channels that
    the selected ones determine come last.

    Takes O(D³) time and O(D²) memory: for every 64 channels a product of D×64 with 64×D, and two products of D×D whenever
    the decrease has become a thousand times smaller, because the rounding errors of Q do not become smaller with it.
    """
    residual = _Residual(moments.covariance, moments.gradients)
    width = len(moments.covariance)
    order: list[int] = []
    decreases: list[float] = []
    while (best := residual.find_best()) is not None:
        order.append(best)
        decreases.append(residual.select(best))
    order += sorted(set(range(width)) - set(order))
    decreases += [0.0] * (width - len(decreases))
    steps = torch.tensor([*decreases, max(residual.loss(), 0.0)], dtype=torch.float64)
    return order, steps.flip(0).cumsum(0).flip(0)


class _Residual:
    """The matrices R and Q = R M R given the selected channels.

    Their diagonals are always up to date; the other elements are updated for a block of selected channels at once.
    """

    def __init__(self, covariance: Tensor, curvature: Tensor) -> None:
        block, negligible = 64, 1e-10  # of the largest variance: the other channels determine such a channel
        self._residual, self._curvature = covariance.clone(), curvature
        self._variance = covariance.diagonal().clone()
        self._floor = negligible * float(self._variance.max().clamp_min(1e-30))
        self._remaining = torch.ones(len(covariance), dtype=torch.bool)
        # The vectors c and w of the channels since the last update, one per column.
        self._c, self._w = covariance.new_empty(len(covariance), block), covariance.new_empty(len(covariance), block)
        self._pending = 0
        self._compute_product()

    def find_best(self) -> int | None:
        """Return the channel that decreases the loss most; None if the selected ones determine all others."""
        max_ratio = 1e-3  # of the largest decrease when Q was computed
        decreases = self._decreases()
        if float(decreases.max()) < max_ratio * self._largest_decrease:
            self._update()
            self._compute_product()
            decreases = self._decreases()
        best = int(decreases.argmax())
        return best if float(decreases[best]) >= 0.0 else None

    def select(self, channel: int) -> float:
        """Remove from all channels the part determined by `channel`, and return the decrease of the loss."""
        variance, done = self._variance[channel], slice(self._pending)
        c = self._residual[:, channel] - self._c[:, done] @ self._c[channel, done]
        u = (
            self._product[:, channel]
            - self._c[:, done] @ self._w[channel, done]
            - self._w[:, done] @ self._c[channel, done]
        )
        decrease = self._squares[channel] / variance
        c /= variance.sqrt()
        w = u / variance.sqrt() - (decrease / 2.0) * c
        self._variance -= c * c
        self._squares -= 2.0 * c * w
        self._remaining[channel] = False
        self._c[:, self._pending], self._w[:, self._pending] = c, w
        self._pending += 1
        if self._pending == self._c.shape[1]:
            self._update()
        return float(decrease)

    def loss(self) -> float:
        """Return tr(M · R)."""
        self._update()
        return float((self._residual * self._curvature).sum())

    def _decreases(self) -> Tensor:
        """Return the decrease of the loss by each channel that may be selected, else -1."""
        decreases = self._squares.clamp_min(0.0) / self._variance.clamp_min(self._floor)
        return decreases.where(self._remaining & (self._variance > self._floor), -1.0)

    def _update(self) -> None:
        c, w = self._c[:, : self._pending], self._w[:, : self._pending]
        self._residual.addmm_(c, c.T, alpha=-1.0)
        self._product.addmm_(c, w.T, alpha=-1.0).addmm_(w, c.T, alpha=-1.0)
        self._pending = 0

    def _compute_product(self) -> None:
        self._product = self._residual @ self._curvature @ self._residual
        self._squares = self._product.diagonal().clone()
        self._largest_decrease = float(self._decreases().max())
