"""A Gaussian process on every principal axis of the sections: the strongest method that needs no training.

Each axis k of the sections' centred expression is a field over the tissue block,

    f_k ~ GP(0, σ_k² · exp(-|x - x'|² / 2ℓ²) · B(z, z')),      B = 1 within a section, c · ρ^((z - z')²) between two,

seen through noise of variance σ_k² r_k. ℓ, c and ρ are shared by the axes, r_k is the axis' own, σ_k² drops out; all
are chosen by the evidence. So there is no rank and no smoothing width to set: axes that the tissue does not support get
a large r_k and vanish, fine-grained axes stay sharp, and 1 - c is what a section shares with no other.

One eigendecomposition of the covariance serves all axes and noise levels. It is exact up to `EXACT` spots; beyond, the
same is done tile by tile, every tile seeing the spots within a few length scales (the kernel is zero beyond).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from threadpoolctl import threadpool_limits
from torch import Tensor

from c2sti._types import FloatArray, InsertedSection, Prediction, SlicePair
from c2sti.ops import smoothed_axes

N_AXES = 60
N_LEADING = 8  # axes whose evidence chooses ℓ, c and ρ
EXACT = 2500
FIT_SPOTS = 600
FIT_WINDOWS = 3
HALO = 2.5  # length scales around a tile that it sees
TILE = 4.0  # side of a tile, in length scales
LENGTHS = (1.0, 1.5, 2.2, 3.2, 4.5)  # in spot spacings
SHARED = (0.5, 0.75, 0.95)
DECAYS = (0.4, 0.7, 0.9, 0.98)
NOISES = tuple(np.exp(np.linspace(np.log(0.05), np.log(300), 20)))


@dataclass(frozen=True)
class Kernel:
    """ℓ in spot spacings, c and ρ of the covariance above."""

    length: float
    shared: float
    decay: float

    def __call__(self, x: Tensor, z: Tensor, x2: Tensor, z2: Tensor) -> Tensor:
        """(n, m) covariance of points at (x, z) with points at (x2, z2); points at one depth are one section's."""
        gap = (z[:, None] - z2[None]) ** 2
        between = torch.where(gap > 0, self.shared * self.decay**gap, 1.0)
        return between * torch.exp(
            -0.5 * torch.cdist(x, x2, compute_mode="donot_use_mm_for_euclid_dist") ** 2 / self.length**2
        )


@dataclass(frozen=True)
class Observed:
    """All spots of all sections: (n, 2) places in spot spacings, (n,) depths, (n, K) component values."""

    x: Tensor
    z: Tensor
    values: Tensor

    def __getitem__(self, index: NDArray[np.intp]) -> Observed:
        rows = torch.as_tensor(index, device=self.x.device)
        return Observed(self.x[rows], self.z[rows], self.values[rows])


def gp(
    pair: SlicePair,
    at: FloatArray,
    positions: Sequence[float],
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Prediction:
    """Gaussian process interpolation on each principal axis of the pair and its context; see the module's text.

    `seed` chooses the spots from which ℓ, c and ρ are learnt where there are many.
    """
    sections = pair.sections
    axes = smoothed_axes([s.expression for s in sections], N_AXES)
    means = np.stack([s.mean for s in sections])
    observed = _observe(pair, axes, means, device)
    kernel, noise = _learn(observed, len(sections), seed)
    progress(0.3)
    target = torch.as_tensor(at / pair.spacing, device=device, dtype=torch.float64)
    scores = np.zeros((len(positions), len(at), len(axes)))
    for here, spots, share in _tiles(observed, target, kernel):
        weights = _posterior(kernel, observed[spots], noise)
        near, place = observed[spots], target[torch.as_tensor(here, device=device)]
        for i, p in enumerate(positions):
            depth = torch.full((len(place),), p, device=device, dtype=torch.float64)
            scores[i, here] = (kernel(place, depth, near.x, near.z) @ weights).cpu().numpy()
        progress(0.7 * share)
    slices = [
        InsertedSection(score, axes, (1 - p) * means[0] + p * means[1])
        for score, p in zip(scores, positions, strict=True)
    ]
    notes = {
        "length": kernel.length * pair.spacing,
        "shared": kernel.shared,
        "decay": kernel.decay,
        "noise": noise.cpu().numpy(),
    }
    return Prediction(tuple(slices), notes)


def _observe(pair: SlicePair, axes: FloatArray, means: FloatArray, device: str) -> Observed:
    sections = pair.sections
    x = np.concatenate([s.xy for s in sections]) / pair.spacing
    z = np.concatenate([np.full(len(s.xy), s.position) for s in sections])
    values = np.concatenate([s.expression @ axes.T - m @ axes.T for s, m in zip(sections, means, strict=True)])
    return Observed(*(torch.as_tensor(v, device=device, dtype=torch.float64) for v in (x, z, values)))


def _learn(observed: Observed, n_sections: int, seed: int) -> tuple[Kernel, Tensor]:
    """ℓ, c, ρ and the noise ratio of every axis, by evidence.

    ℓ first with the others at mid-range, then c and ρ, then ℓ again: as good as the full grid at a third of its cost.
    """
    windows = [observed[index] for index in _windows(observed, n_sections, seed)]

    def evidence(kernel: Kernel) -> float:
        return float(sum(_misfit(kernel, window)[:, :N_LEADING].amin(dim=0).sum() for window in windows))

    # Matrices of this size gain nothing from threads, and lose much to them where processes share the cores.
    with threadpool_limits(1):
        best = min((Kernel(length, 0.75, 0.7) for length in LENGTHS), key=evidence)
        best = min((Kernel(best.length, shared, decay) for shared, decay in product(SHARED, DECAYS)), key=evidence)
        best = min((Kernel(length, best.shared, best.decay) for length in LENGTHS), key=evidence)
    final = [observed] if len(observed.x) <= EXACT else windows
    misfit = torch.stack([_misfit(best, spots) for spots in final]).sum(dim=0)
    return best, torch.tensor(NOISES, device=misfit.device, dtype=misfit.dtype)[misfit.argmin(dim=0)]


def _windows(observed: Observed, n_sections: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Spots to learn from: a thinned sample of small sections, a few whole patches of large ones.

    Thinning a large section would put its spots further apart than they are correlated. Neither choice depends on the
    order of the sections.
    """
    z, x = observed.z.cpu().numpy(), observed.x.cpu().numpy()
    if len(z) <= EXACT:
        share = min(1.0, FIT_SPOTS / len(z))
        members = [np.flatnonzero(z == depth) for depth in np.unique(z)]
        yield np.concatenate([_sample(m, round(share * len(m)), seed) for m in members])
        return
    places = x[np.lexsort(x.T)]
    for centre in places[_sample(np.arange(len(places)), FIT_WINDOWS, seed)]:
        yield KDTree(x).query(centre, k=FIT_SPOTS)[1]


def _sample(index: NDArray[np.intp], size: int, seed: int) -> NDArray[np.intp]:
    return np.random.default_rng(seed).permutation(index)[:size]


def _misfit(kernel: Kernel, spots: Observed) -> Tensor:
    """(R, K) negative log evidence of each axis at each noise ratio, its variance profiled out."""
    spectrum, vectors = torch.linalg.eigh(kernel(spots.x, spots.z, spots.x, spots.z))
    power = (vectors.T @ spots.values) ** 2
    ratios = torch.tensor(NOISES, device=power.device, dtype=power.dtype)
    total = spectrum.clamp_min(0)[:, None] + ratios
    n = len(spectrum)
    variance = (1 / total).T @ power / n
    return 0.5 * n * torch.log(variance + 1e-12) + 0.5 * torch.log(total).sum(dim=0)[:, None]


def _posterior(kernel: Kernel, spots: Observed, noise: Tensor) -> Tensor:
    """(n, K) what a covariance with the spots is multiplied by: (C + r_k I)⁻¹ f_k, one factorisation a noise level."""
    covariance = kernel(spots.x, spots.z, spots.x, spots.z)
    unit = torch.eye(len(covariance), device=covariance.device, dtype=covariance.dtype)
    weights = torch.empty_like(spots.values)
    for ratio in noise.unique():
        axes = noise == ratio
        weights[:, axes] = torch.cholesky_solve(spots.values[:, axes], torch.linalg.cholesky(covariance + ratio * unit))
    return weights


def _tiles(
    observed: Observed, target: Tensor, kernel: Kernel
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], float]]:
    """Targets, the spots that they see, and their share of all targets; one tile where everything fits.

    Tiles are anchored at 0, so that they do not depend on which points are asked for.
    """
    if len(observed.x) <= EXACT:
        yield np.arange(len(target)), np.arange(len(observed.x)), 1.0
        return
    side = TILE * kernel.length
    places, x = target.cpu().numpy(), observed.x.cpu().numpy()
    tiles, member = np.unique(np.floor(places / side), axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(member.ravel()))[:-1])
    tree = KDTree(x)
    for tile, here in zip(tiles, groups, strict=True):
        near = np.array(tree.query_ball_point((tile + 0.5) * side, side / 2 + HALO * kernel.length, p=np.inf))
        if len(near):
            yield here, near, len(here) / len(target)
