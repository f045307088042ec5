"""The covariance of maps, the spots that they are seen at, and the spectrum by which all maps are solved at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from c2sti._types import FloatArray


@dataclass(frozen=True)
class Kernel:
    """ℓ in spot spacings, c and ρ of the covariance above, and whether S is a Gaussian."""

    length: float
    shared: float
    decay: float
    gaussian: bool = True

    def __call__(self, x: Tensor, z: Tensor, x2: Tensor, z2: Tensor) -> Tensor:
        """(n, m) covariance of points at (x, z) with points at (x2, z2); points at one z are one section's."""
        return self.between(z, z2) * self.within(x, x2)

    def within(self, x: Tensor, x2: Tensor) -> Tensor:
        """(n, m) covariance of places in one section, S."""
        distance = torch.cdist(x, x2, compute_mode="donot_use_mm_for_euclid_dist")
        if self.gaussian:
            return (distance / self.length).square_().mul_(-0.5).exp_()
        u = distance * (3**0.5 / self.length)
        return torch.exp(-u).mul_(u.add_(1))

    def between(self, z: Tensor, z2: Tensor) -> Tensor:
        """(n, m) covariance of one place at two z, B; sections are few, so each two are looked at once."""
        (own, row), (other, column) = (one.unique(return_inverse=True) for one in (z, z2))
        gap = (own[:, None] - other[None]) ** 2
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
