"""Which transform of a group concentrates what matters in few channels.

Dropping the channels outside of a subspace loses, to second order, tr(Σ_dropped · M_dropped), with Σ the second moment of
what the channels hold and M that of the gradients (Moments). Where any invertible transform is allowed, balanced
truncation makes both diagonal and equal (Moore 1981, "Principal Component Analysis in Linear Systems"), which is optimal
for a linear layer: it is the SVD of Σ^½ W. Where it has to be orthogonal, several bases are tried.
"""

import torch
from torch import Tensor

from recprune_export.pruning.statistics.moments import TINY, Moments

RIDGE = 1e-6  # of the mean eigenvalue
SMALLEST = 1e-4  # loss beside the largest, below which channels are scaled no further


def balanced_basis(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return A, D×D, and the loss when each channel is dropped after the transform, D, largest first.

    Channels are scaled by what they matter, on both sides alike, so that small weights are those that matter little; on
    average values are as large as before.
    """
    sigma, curvature = _regular(moments.values), _regular(moments.gradients)
    root = torch.linalg.cholesky(sigma)  # Σ = L Lᵀ
    loss, vectors = torch.linalg.eigh(root.T @ curvature @ root)  # the balanced values, squared
    loss, vectors = loss.flip(0).clamp_min(0.0), vectors.flip(1)
    whitening = torch.linalg.solve_triangular(root.T, vectors, upper=True)  # L⁻ᵀ U: values of variance 1
    balanced = whitening * (loss / loss.max().clamp_min(TINY)).clamp_min(SMALLEST).pow(0.25)
    now = (balanced.T @ moments.sizes @ balanced).trace().clamp_min(TINY)
    size = moments.sizes.trace()  # none where all points lie on the other side, and then there is no scale to keep
    return balanced * (size / now).sqrt() if size > TINY else balanced, loss


def orthogonal_basis(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the best of several orthogonal A, D×D, and the loss when each channel is dropped, D.

    Tried are the directions of most variance (PCA, as SliceGPT: Ashkboos et al. 2024, section 3.2), of most sensitivity,
    and of their product; the best one loses least when half, a quarter and an eighth of the channels are kept.
    """
    sigma, curvature = moments.values, moments.gradients
    product = sigma @ curvature
    normal = sigma / sigma.trace().clamp_min(TINY) + curvature / curvature.trace().clamp_min(TINY)
    found = [
        _ordered(torch.linalg.eigh(m).eigenvectors, moments) for m in (sigma, curvature, product + product.T, normal)
    ]
    width = len(sigma)
    kept = sorted({max(1, width // share) for share in (2, 4, 8)})

    def lost(basis: Tensor) -> float:
        return sum(float(_lost(basis, moments, k)) for k in kept)

    best = min(found, key=lost)
    tails = torch.stack([_lost(best, moments, k) for k in range(width)] + [torch.zeros((), dtype=torch.float64)])
    return best, (tails[:-1] - tails[1:]).clamp_min(0.0)


def _ordered(basis: Tensor, moments: Moments) -> Tensor:
    """Columns by what each alone would lose, most first."""
    alone = ((basis.T @ moments.values) * basis.T).sum(1) * ((basis.T @ moments.gradients) * basis.T).sum(1)
    return basis[:, alone.argsort(descending=True)]


def _lost(basis: Tensor, moments: Moments, kept: int) -> Tensor:
    """tr(Σ_dropped · M_dropped) where the first `kept` columns stay."""
    dropped = basis[:, kept:]
    return ((dropped.T @ moments.values @ dropped) * (dropped.T @ moments.gradients @ dropped)).sum()


def _regular(matrix: Tensor) -> Tensor:
    ridge = RIDGE * matrix.diagonal().mean().clamp_min(TINY)
    return matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype)
