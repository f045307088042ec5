"""Losses: those of the paper (section 2.4), and ours, which are the scores of the benchmark made differentiable.

The paper sums over bins; these are means, so that a weight does not depend on the size of a section. Ours take
``predicted`` and ``truth`` as (M, N): points by genes, log1p expression, as :mod:`c2sti.metrics` does. All that is not
defined counts 0 and has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from c2sti.ops import total_variation

FLAT = 1e-6  # below this departure from its mean, in log1p expression or of its size, a gene has no variance
FLOOR = 1e-3  # added to the variance of a gene: without it, one that is almost constant would outweigh all others


def similarity(predicted: Tensor, truth: Tensor) -> Tensor:
    """L_sim: mean absolute difference of two tensors of one shape; a scalar."""
    return (predicted - truth).abs().mean()


def squares(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of two tensors of one shape; a scalar. Unlike L1, it asks for the mean of counts."""
    return (predicted - truth).square().mean()


def smoothness(displacement: Tensor) -> Tensor:
    """L_sno: total variation of a (..., h, w) displacement; a scalar.

    Notes
    -----
    The paper takes it of the motion features, whose scale the next layer can undo.
    """
    return total_variation(displacement)


def paper_loss(
    predicted: Tensor,
    truth: Tensor,
    displacement: Tensor,
    sim: float = 1.0,
    sno: float = 1.0,
    *,
    difference: Callable[[Tensor, Tensor], Tensor] = similarity,
) -> Tensor:
    """λ_sim · L_sim + λ_sno · L_sno, a scalar, of two sections and a (..., h, w) displacement.

    Both weights λ are 1 in the paper, and L_sim is :func:`similarity`.
    """
    return sim * difference(predicted, truth) + sno * smoothness(displacement)


def correlation(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean over genes of the Pearson correlation over the rows of two (M, N); a scalar in [-1, 1], 1 at best."""
    return (unit_columns(predicted) * unit_columns(truth)).sum(dim=0).mean()


def relative_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """Root mean squared error of two (M, N), each gene measured by its own variance; a scalar ≥ 0, 0 at best."""
    error = (predicted - truth) / (truth.var(dim=0, correction=0) + FLOOR).sqrt()
    # A norm, unlike the root of a mean, has a gradient where the error is zero.
    return torch.linalg.vector_norm(error) / error.numel() ** 0.5


def coexpression(predicted: Tensor, truth: Tensor) -> Tensor:
    """RV similarity of the gene × gene correlations of two (M, N), diagonals left out; a scalar in [-1, 1], 1 at best.

    It holds two dense (N, N) matrices.
    """
    a, b = gene_correlations(predicted), gene_correlations(truth)
    square = a.square().sum() * b.square().sum()
    defined = square > FLAT**2
    return torch.where(defined, (a * b).sum(), 0) / torch.where(defined, square, 1).sqrt()


def endpoint_error(shifts: Tensor, truth: Tensor) -> Tensor:
    """Mean distance in bins between found and known motion, both (4, h, w): (dx, dy) to the first, then to the second.

    Bins of unknown motion, NaN, do not count. Below a tenth of a bin the distance counts by its square.
    """
    known = truth.isfinite().all(dim=0)
    missed = (shifts - torch.where(known, truth, shifts.detach())).unflatten(0, (2, 2))
    distance = (missed.square().sum(dim=1) + 0.1**2).sqrt() - 0.1
    return distance.sum() / (2 * known.sum().clamp(min=1))


def gene_correlations(values: Tensor) -> Tensor:
    """(N, N) Pearson correlations of the columns of (M, N), with a zero diagonal."""
    unit = unit_columns(values)
    return (unit.T @ unit) * (1 - torch.eye(unit.shape[1]).to(unit))


def unit_columns(values: Tensor) -> Tensor:
    """Columns of (M, N) minus their mean, of length one; a column without variance is zero and has no gradient."""
    deviation = values - values.mean(dim=0)
    flat = deviation.abs().amax(dim=0) <= FLAT * values.abs().amax(dim=0).clamp(min=1)
    # Both replacements are needed: a root of zero sends NaN back even from where its value is not used.
    length = torch.where(flat, 1, deviation.square().sum(dim=0)).sqrt()
    return torch.where(flat, 0, deviation) / length
