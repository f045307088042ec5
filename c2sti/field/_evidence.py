"""What the evidence chooses: the covariance that all maps share, and the noise of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits
from torch import Tensor

from c2sti._types import FloatArray
from c2sti.field._kernel import Kernel, Observed, Spectrum

LENGTHS = (1.0, 1.5, 2.2, 3.2, 4.5, 6.5, 9.5)  # in spot spacings
CORRELATIONS = (0.15, 0.3, 0.5, 0.7, 0.85, 0.94)  # c · ρ, of sections one unit of z apart
USUAL, SHARED = 0.75, (0.5, 0.75, 0.95)  # c of two sections, which do not tell it from ρ; and of more
MANY_SECTIONS = 3  # whose distances do
NOISES = tuple(np.exp(np.linspace(np.log(0.05), np.log(300), 20)))


def best_length(windows: Sequence[Observed], *, gaussian: bool) -> Kernel:
    """The covariance with the ℓ of most evidence in some windows of tissue, c and ρ at mid-range."""
    start = Kernel(LENGTHS[0], USUAL, CORRELATIONS[2] / USUAL, gaussian)
    misfits = [_misfit(replace(start, length=length), windows) for length in LENGTHS]
    return replace(start, length=float(np.exp(_vertex(np.log(LENGTHS), misfits))))


def best_sharing(kernel: Kernel, windows: Sequence[Observed]) -> Kernel:
    """The same with the c and ρ of most evidence: b = c · ρ, the correlation of sections one unit of z apart, first.

    Two sections tell of nothing else, and c is then what sections usually share; where there are more, it is chosen
    too.
    """

    def sharing(correlation: float, c: float) -> Kernel:
        shared = max(c, correlation**0.95)  # sections share no less than what they have in common from afar
        return replace(kernel, shared=shared, decay=correlation / shared)

    misfits = [_misfit(sharing(b, USUAL), windows) for b in CORRELATIONS]
    correlation = _of_odds(_vertex(_odds(CORRELATIONS), misfits))
    if max(len(window.z.unique()) for window in windows) < MANY_SECTIONS:
        return sharing(correlation, USUAL)
    misfits = [_misfit(sharing(correlation, c), windows) for c in SHARED]
    return sharing(correlation, _of_odds(_vertex(_odds(SHARED), misfits)))


def _odds(shares: Sequence[float]) -> FloatArray:
    """Logarithm of the odds of shares in (0, 1)."""
    return np.log(np.divide(shares, np.subtract(1, shares)))


def _of_odds(odds: float) -> float:
    return float(1 / (1 + np.exp(-odds)))


def _vertex(grid: FloatArray, misfits: Sequence[float] | FloatArray) -> float:
    """Where the parabola through the least of some misfits and the two beside it is least; the end of a grid is one."""
    best = int(np.argmin(misfits))
    if best in (0, len(grid) - 1):
        return float(grid[best])
    a, b, _ = np.polyfit(grid[best - 1 : best + 2] - grid[best], np.asarray(misfits)[best - 1 : best + 2], 2)
    return float(grid[best] - b / (2 * a)) if a > 0 else float(grid[best])


def best_noise(seen: Sequence[Spectrum], values: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(K,) least misfit, noise ratio r there and variance σ² of each map, by spectra and values of some windows."""
    grid = torch.tensor(NOISES, device=values[0].device, dtype=values[0].dtype).log()
    misfits = torch.stack([known.misfit(v, grid.exp()) for known, v in zip(seen, values, strict=True)])
    misfit = misfits.sum(dim=0)
    best = misfit.argmin(dim=0)
    inner = best.clamp(1, len(grid) - 2)
    below, here, above = (misfit.gather(0, (inner + step)[None])[0] for step in (-1, 0, 1))
    bend = below - 2 * here + above
    shift = torch.where((best == inner) & (bend > 0), (below - above) / (2 * bend.clamp(min=1e-300)), 0)
    noise = (grid[best] + shift * (grid[1] - grid[0])).exp()
    scales = [known.scale(v, noise) for known, v in zip(seen, values, strict=True)]
    return misfit.amin(dim=0), noise, torch.stack(scales).mean(dim=0)


def _misfit(kernel: Kernel, windows: Sequence[Observed]) -> float:
    """Negative log evidence of all maps in some windows, each map at the best of the noise ratios."""
    # Matrices of this size gain nothing from threads, and lose much to them where processes share the cores.
    with threadpool_limits(1):
        return float(sum(misfits_of(kernel, window.cpu()).amin(dim=0).sum() for window in windows))


def misfits_of(kernel: Kernel, spots: Observed) -> Tensor:
    """(R, K) negative log evidence of each map at each noise ratio, its variance profiled out.

    Eigenvectors are not needed for that: C = Q T Qᵀ with a tridiagonal T takes a third of the time, and what depends on
    the noise is then solved in passing.
    """
    whiten = spots.variance.rsqrt()
    covariance = kernel(spots.x, spots.z, spots.x, spots.z)
    matrix = (whiten[:, None] * covariance * whiten).numpy()
    values = (whiten[:, None] * spots.values).numpy()
    varies = values.any(axis=0)
    if not varies.all():  # a map that is zero everywhere would choose the covariance of least determinant
        values = values[:, varies]
    n = len(matrix)
    reflected, diagonal, beside, tau, _ = lapack.dsytrd(matrix, lower=1, lwork=int(lapack.dsytrd_lwork(n, lower=1)[0]))
    # Qᵀ f; Q leaves the first spot alone, and the rest is stored like the Q of a QR factorisation.
    turned, _, _ = lapack.dormqr("L", "T", reflected[1:, :-1], tau, values[1:], 64 * n)
    values = np.concatenate([values[:1], turned])
    found = []
    for ratio in NOISES:
        factor, below, _ = lapack.dpttrf(np.maximum(diagonal, 0) + ratio, beside)
        solved, _ = lapack.dpttrs(factor, below, values)
        variance = (values * solved).sum(axis=0) / n
        found.append(0.5 * n * np.log(variance + 1e-12) + 0.5 * np.log(factor).sum())
    return torch.from_numpy(np.stack(found))
