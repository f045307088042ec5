"""The covariance of component maps, and what the evidence chooses of it: length scale, sharing, noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.special import expit, logit
from torch import Tensor

from c2sti._tasks import one_thread
from c2sti._types import FloatArray


@dataclass(frozen=True)
class Kernel:
    """ℓ in spot spacings, c and ρ of the covariance above, whether S is a Gaussian, and the power of |z - z'|."""

    length: float
    shared: float
    decay: float
    gaussian: bool = True
    power: float = 2

    @property
    def correlation(self) -> float:
        """Of one place in two sections, one unit of z apart."""
        return self.shared * self.decay

    def __call__(self, x: Tensor, z: Tensor, x2: Tensor, z2: Tensor) -> Tensor:
        """(n, m) covariance of points at (x, z) with points at (x2, z2); points at one z are one section's."""
        return self.between(z, z2) * self.within(x, x2)

    def within(self, x: Tensor, x2: Tensor) -> Tensor:
        """(n, m) covariance of places in one section, S."""
        return self.at(torch.cdist(x, x2, compute_mode="donot_use_mm_for_euclid_dist"))

    def at(self, distance: Tensor) -> Tensor:
        """S at distances, which may be overwritten."""
        if self.gaussian:
            return (distance / self.length).square_().mul_(-0.5).exp_()
        u = distance * (3**0.5 / self.length)
        return torch.exp(-u).mul_(u.add_(1))

    def between(self, z: Tensor, z2: Tensor) -> Tensor:
        """(n, m) covariance of one place at two z, B; sections are few, so each two are looked at once."""
        (own, row), (other, column) = (one.unique(return_inverse=True) for one in (z, z2))
        gap = (own[:, None] - other[None]).abs() ** self.power
        return torch.where(gap > 0, self.shared * self.decay**gap, 1.0)[row][:, column]


@dataclass(frozen=True)
class Observed:
    """Spots of all sections.

    Parameters
    ----------
    x, z
        (n, 2) places in spot spacings, (n,) z of their sections.
    values
        (n, K) noisy values of the maps.
    variance
        (n,) v, how noisy a spot is beside others: 1 on average.
    """

    x: Tensor
    z: Tensor
    values: Tensor
    variance: Tensor

    @classmethod
    def of(cls, x: FloatArray, z: FloatArray, values: FloatArray, variance: FloatArray, device: str) -> Observed:
        """Arrays as float64 tensors on a device."""
        columns = (x, z, values, variance)
        return cls(*(torch.as_tensor(c, device=device, dtype=torch.float64) for c in columns))

    def __getitem__(self, index: NDArray[np.intp]) -> Observed:
        rows = torch.as_tensor(index, device=self.x.device)
        return Observed(self.x[rows], self.z[rows], self.values[rows], self.variance[rows])

    def cpu(self) -> Observed:
        """The same in the processor's memory."""
        return Observed(self.x.cpu(), self.z.cpu(), self.values.cpu(), self.variance.cpu())


@dataclass(frozen=True)
class Spectrum:
    """(n,) eigenvalues, ≥ 0, and (n, n) vectors of the spots' covariance, and the (n,) 1/√v that whiten their noise."""

    power: Tensor
    vectors: Tensor
    whiten: Tensor

    @classmethod
    def of(cls, kernel: Kernel, spots: Observed) -> Spectrum:
        """Of the covariance of some spots, in units of their noise."""
        whiten = spots.variance.rsqrt()
        covariance = whiten[:, None] * kernel(spots.x, spots.z, spots.x, spots.z) * whiten
        if covariance.is_cuda:
            power, vectors = torch.linalg.eigh(covariance)
        else:
            power, vectors = map(torch.from_numpy, np.linalg.eigh(covariance.numpy()))
        return cls(power.clamp_min(0), vectors, whiten)

    def project(self, values: Tensor) -> Tensor:
        """(n, K) values of the spots, whitened, on the vectors."""
        return dot(self.vectors.T, self.whiten[:, None] * values)

    def scale(self, values: Tensor, noise: Tensor) -> Tensor:
        """(K,) variance σ² of each map that is most likely at its noise ratio."""
        return (self.project(values) ** 2 / (self.power[:, None] + noise)).mean(dim=0)

    def misfit(self, values: Tensor, ratios: Tensor) -> Tensor:
        """(R, K) negative log evidence of each map at each of R noise ratios, its variance profiled out."""
        total, n = self.power[:, None] + ratios, len(self.power)
        variance = (1 / total).T @ self.project(values) ** 2 / n
        return 0.5 * n * torch.log(variance + 1e-12) + 0.5 * torch.log(total).sum(dim=0)[:, None]

    def solve(self, values: Tensor, noise: Tensor) -> Tensor:
        """(n, K) what a covariance with the spots is multiplied by: (C + r_k V)⁻¹ f_k."""
        return self.whiten[:, None] * dot(self.vectors, self.project(values) / (self.power[:, None] + noise))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product; on a processor by numpy, whose library is a few times as fast on some of them."""
    return a @ b if a.is_cuda else torch.from_numpy(a.numpy() @ b.numpy())


LENGTHS = (1.0, 1.5, 2.2, 3.2, 4.5, 6.5, 9.5)  # in spot spacings
CORRELATIONS = (0.15, 0.3, 0.5, 0.7, 0.85, 0.94)  # c · ρ, of sections one unit of z apart
NEARLY_SAME = (*CORRELATIONS, 0.98, 0.993)  # of sections that may differ by no more than how they are bent
USUAL, SHARED = 0.75, (0.5, 0.75, 0.95)  # c of two sections, which do not tell it from ρ; and of more
MANY_SECTIONS = 3  # whose distances do
NOISES = tuple(np.exp(np.linspace(np.log(0.05), np.log(300), 20)))


def best_length(windows: Sequence[Observed], *, gaussian: bool) -> Kernel:
    """The covariance with the ℓ of most evidence in some windows of tissue, c and ρ at mid-range."""
    start = Kernel(LENGTHS[0], USUAL, CORRELATIONS[2] / USUAL, gaussian)
    misfits = [_misfit(replace(start, length=length), windows) for length in LENGTHS]
    return replace(start, length=float(np.exp(_vertex(np.log(LENGTHS), misfits))))


def best_sharing(kernel: Kernel, windows: Sequence[Observed], correlations: Sequence[float] = CORRELATIONS) -> Kernel:
    """The same with the c and ρ of most evidence: b = c · ρ, the correlation of sections one unit of z apart, first.

    Two sections tell of nothing else, and c is then what sections usually share; where there are more, it is chosen
    too.
    """

    def sharing(correlation: float, c: float) -> Kernel:
        shared = max(c, correlation**0.95)  # sections share no less than what they have in common from afar
        return replace(kernel, shared=shared, decay=correlation / shared)

    misfits = [_misfit(sharing(b, USUAL), windows) for b in correlations]
    correlation = float(expit(_vertex(logit(correlations), misfits)))
    if max(len(window.z.unique()) for window in windows) < MANY_SECTIONS:
        return sharing(correlation, USUAL)
    misfits = [_misfit(sharing(correlation, c), windows) for c in SHARED]
    return sharing(correlation, float(expit(_vertex(logit(SHARED), misfits))))


def log_evidence(kernel: Kernel, windows: Sequence[Observed]) -> float:
    """Of a covariance, over all maps in some windows; only differences between covariances mean anything."""
    return -_misfit(kernel, windows)


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
    with one_thread():
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
