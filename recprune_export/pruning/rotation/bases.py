"""Transforms of a group that concentrate the signal in few channels.

Dropping the channels outside a subspace loses, to second order, tr(Σ_dropped · M_dropped), with Σ the second moment of
the channels and M that of the gradients (`Moments`). Where any invertible transform is allowed, balanced truncation makes
both diagonal and equal (Moore 1981, "Principal Component Analysis in Linear Systems"), which is optimal for a linear
layer: it is the SVD of Σ^½ W. Where the transform has to be orthogonal, several bases are tried.
"""

import torch
from torch import Tensor

from recprune_export.pruning.statistics.moments import TINY, Moments


def balanced_basis(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return A, D×D, and the loss when each channel is dropped after the transform, D, largest first.

    Channels are scaled by their loss, equally on both sides, so that small weights are the unimportant ones; the mean
    square of all values is unchanged. Takes O(D³) time and O(D²) memory.
    """
    min_loss = 1e-4  # of the largest loss: channels of a smaller loss are scaled as if they had this one
    sigma, curvature = _regular(moments.values), _regular(moments.gradients)
    root = _factorize(sigma)  # Σ = L Lᵀ
    loss, vectors = torch.linalg.eigh(root.T @ curvature @ root)  # the balanced values, squared
    loss, vectors = loss.flip(0).clamp_min(0.0), vectors.flip(1)
    whitening = torch.linalg.solve_triangular(root.T, vectors, upper=True)  # L⁻ᵀ U: values of variance 1
    balanced = whitening * (loss / loss.max().clamp_min(TINY)).clamp_min(min_loss).pow(0.25)
    new_size = (balanced.T @ moments.sizes @ balanced).trace().clamp_min(TINY)
    size = moments.sizes.trace()  # zero where all sites lie on the dual side, where there is no scale to keep
    return balanced * (size / new_size).sqrt() if size > TINY else balanced, loss


def orthogonal_basis(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the best of several orthogonal A, D×D, and the loss when each channel is dropped, D.

    The candidates are the directions of most variance (PCA, as in SliceGPT: Ashkboos et al. 2024, section 3.2), of largest
    gradients, and of their product and sum; the best one loses least when half, a quarter and an eighth of the channels
    are kept. Takes O(D³) time and O(D²) memory.
    """
    sigma, curvature = moments.values, moments.gradients
    product = sigma @ curvature
    normalized_sum = sigma / sigma.trace().clamp_min(TINY) + curvature / curvature.trace().clamp_min(TINY)
    candidates = [
        _ordered(torch.linalg.eigh(m).eigenvectors, moments)
        for m in (sigma, curvature, product + product.T, normalized_sum)
    ]
    width = len(sigma)
    widths = sorted({max(1, width // share) for share in (2, 4, 8)})
    tails = [_truncation_losses(basis, moments) for basis in candidates]
    best = min(range(len(candidates)), key=lambda i: sum(float(tails[i][k]) for k in widths))
    return candidates[best], (tails[best][:-1] - tails[best][1:]).clamp_min(0.0)


def _ordered(basis: Tensor, moments: Moments) -> Tensor:
    """Sort columns by the loss of each alone, largest first."""
    losses = ((basis.T @ moments.values) * basis.T).sum(1) * ((basis.T @ moments.gradients) * basis.T).sum(1)
    return basis[:, losses.argsort(descending=True)]


def _truncation_losses(basis: Tensor, moments: Moments) -> Tensor:
    """Return tr(Σ_dropped · M_dropped) when the first k columns are kept, k = 0 … D, [D + 1].

    It is the sum of (BᵀΣB) * (BᵀMB) over the dropped rows and columns; all sums take one cumulative sum over each axis.
    """
    products = (basis.T @ moments.values @ basis) * (basis.T @ moments.gradients @ basis)
    sums = products.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)
    return torch.cat([sums, sums.new_zeros(1)])


def _factorize(matrix: Tensor) -> Tensor:
    """Return L of L Lᵀ, D×D. Gradients are multiplied in float32: if this made an eigenvalue negative, a ridge is added."""
    for ridge_fraction in (0.0, 1e-7, 1e-6, 1e-5):  # of the sum of the eigenvalues
        ridge = ridge_fraction * matrix.trace() * torch.eye(len(matrix), dtype=matrix.dtype)
        root, failed = torch.linalg.cholesky_ex(matrix + ridge)
        if not failed:
            return root
    return torch.linalg.cholesky(matrix)  # raises


def _regular(matrix: Tensor) -> Tensor:
    ridge_fraction = 1e-6  # of the mean eigenvalue
    ridge = ridge_fraction * matrix.diagonal().mean().clamp_min(TINY)
    return matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype)
