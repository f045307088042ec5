"""Component maps of a tissue block as Gaussian fields, seen at noisy spots: what `gp` and the network start from.

Map k of the sections' expression is a field over the block,

    f_k ~ GP(0, σ_k² · S(|x - x'| / ℓ) · B(z, z')),      B = 1 within a section, c · ρ^((z - z')²) between two,

with S a Gaussian, exp(-u²/2), or Matérn's of order 3/2, (1 + √3 u) exp(-√3 u), whose fields have one derivative and not
infinitely many; seen through noise of variance σ_k² r_k v_i. ℓ, c and ρ are shared by the maps, r_k is the map's own,
v_i the spot's, σ_k² drops out; all but v are chosen by the evidence. So there is no smoothing width to set: maps that
the tissue does not support get a large r_k and vanish, fine-grained ones stay sharp, and 1 - c is what a section shares
with no other.

One eigendecomposition of the covariance serves all maps and noise levels. It is exact up to `EXACT` spots; beyond, the
same is done tile by tile, every tile seeing the spots within a few length scales (the kernel is zero beyond): side by
side by threads, or on the caller's Dask cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack, solve
from scipy.spatial import KDTree
from threadpoolctl import threadpool_limits
from torch import Tensor

from c2sti._tasks import each
from c2sti._types import FloatArray

N_LEADING = 8  # maps whose evidence chooses ℓ, c and ρ
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
    """ℓ in spot spacings, c and ρ of the covariance above, and whether S is a Gaussian."""

    length: float
    shared: float
    decay: float
    gaussian: bool = True

    def __call__(self, x: Tensor, z: Tensor, x2: Tensor, z2: Tensor) -> Tensor:
        """(n, m) covariance of points at (x, z) with points at (x2, z2); points at one depth are one section's."""
        return self.between(z, z2) * self.within(x, x2)

    def within(self, x: Tensor, x2: Tensor) -> Tensor:
        """(n, m) covariance of places in one section, S."""
        u = torch.cdist(x, x2, compute_mode="donot_use_mm_for_euclid_dist") / self.length
        return torch.exp(-0.5 * u**2) if self.gaussian else (1 + 3**0.5 * u) * torch.exp(-(3**0.5) * u)

    def between(self, z: Tensor, z2: Tensor) -> Tensor:
        """(n, m) covariance of one place at two depths, B; sections are few, so each two are looked at once."""
        (depths, row), (depths2, column) = (depth.unique(return_inverse=True) for depth in (z, z2))
        gap = (depths[:, None] - depths2[None]) ** 2
        return torch.where(gap > 0, self.shared * self.decay**gap, 1.0)[row][:, column]


@dataclass(frozen=True)
class Observed:
    """All spots of all sections.

    Parameters
    ----------
    x, z
        (n, 2) places in spot spacings, (n,) depths.
    values
        (n, K) noisy values of the maps.
    variance
        (n,) v, how noisy a spot is beside others: 1 on average.
    """

    x: Tensor
    z: Tensor
    values: Tensor
    variance: Tensor

    def __getitem__(self, index: NDArray[np.intp]) -> Observed:
        rows = torch.as_tensor(index, device=self.x.device)
        return Observed(self.x[rows], self.z[rows], self.values[rows], self.variance[rows])

    def cpu(self) -> Observed:
        """The same in the processor's memory."""
        return Observed(self.x.cpu(), self.z.cpu(), self.values.cpu(), self.variance.cpu())


def observe(
    places: Sequence[FloatArray],
    depths: Sequence[float],
    values: Sequence[FloatArray],
    *,
    variances: Sequence[FloatArray] | None = None,
    device: str,
) -> Observed:
    """Spots of several sections side by side: (n_i, 2) places in spot spacings, depths, (n_i, K) values, (n_i,) v."""
    z = np.concatenate([np.full(len(x), depth) for x, depth in zip(places, depths, strict=True)])
    v = np.ones(len(z)) if variances is None else np.concatenate(variances)
    columns = (np.concatenate(places), z, np.concatenate(values), v)
    return Observed(*(torch.as_tensor(c, device=device, dtype=torch.float64) for c in columns))


@dataclass(frozen=True)
class Spectrum:
    """(n,) eigenvalues, ≥ 0, and (n, n) vectors of the spots' covariance, and the (n,) 1/√v that whiten their noise."""

    power: Tensor
    vectors: Tensor
    whiten: Tensor

    def told(self, values: Tensor) -> Tensor:
        """(n, K) values of the spots, whitened, on the vectors."""
        return dot(self.vectors.T, self.whiten[:, None] * values)

    def weights(self, values: Tensor, noise: Tensor) -> Tensor:
        """(n, K) what a covariance with the spots is multiplied by: (C + r_k V)⁻¹ f_k."""
        return self.whiten[:, None] * dot(self.vectors, self.told(values) / (self.power[:, None] + noise))


@dataclass(frozen=True)
class Field:
    """K fields as learnt from spots: their covariance, and of each its noise ratio r and variance σ², (K,).

    Where all is exact, the spectrum of the covariance stays at hand.
    """

    observed: Observed
    kernel: Kernel
    noise: Tensor
    scale: Tensor
    known: Spectrum | None = field(default=None, repr=False)

    @classmethod
    def learn(cls, observed: Observed, seed: int, *, gaussian: bool = True) -> Field:
        """ℓ, c, ρ and r by evidence; `seed` chooses the spots to learn from where there are many."""
        return cls.with_kernel(observed, _best_kernel(observed, seed, gaussian), seed)

    @classmethod
    def with_kernel(cls, observed: Observed, kernel: Kernel, seed: int) -> Field:
        """Only r, and with it σ², by evidence."""
        if len(observed.x) > EXACT:
            windows = [observed[index] for index in _windows(observed, seed)]
            return cls(observed, kernel, *_best_noise([(_spectrum(kernel, w), w.values) for w in windows]))
        known = _spectrum(kernel, observed)
        return cls(observed, kernel, *_best_noise([(known, observed.values)]), known)

    def split(self, sizes: Sequence[int]) -> list[Field]:
        """The same maps as several fields of so many each."""
        seen = self.observed
        parts = zip(*(part.split(list(sizes), dim=-1) for part in (seen.values, self.noise, self.scale)), strict=True)
        return [replace(self, observed=replace(seen, values=v), noise=r, scale=s) for v, r, s in parts]

    @classmethod
    def joined(cls, fields: Sequence[Field]) -> Field:
        """Fields of the same spots with the same covariance as one, which does what is costly once."""
        first = fields[0]
        values = torch.cat([f.observed.values for f in fields], dim=1)
        noise, scale = torch.cat([f.noise for f in fields]), torch.cat([f.scale for f in fields])
        return replace(first, observed=replace(first.observed, values=values), noise=noise, scale=scale)

    @cached_property
    def _exact(self) -> Spectrum:
        return self.known or _spectrum(self.kernel, self.observed)

    def at(
        self, target: FloatArray, depths: Sequence[float], progress: Callable[[float], object] = lambda share: None
    ) -> FloatArray:
        """(S, M, K) posterior means at (M, 2) places in spot spacings and S depths; a section's depth means itself."""
        means = np.zeros((len(depths), len(target), self.observed.values.shape[1]))
        for here, found, share in self._over_tiles(_means, target, depths):
            means[:, here] = found
            progress(share)
        return means

    def variance_at(self, target: FloatArray, depths: Sequence[float]) -> FloatArray:
        """(S, M, K) posterior variances at the same places: 0 where all is known, σ² where nothing is."""
        variances = np.empty((len(depths), len(target), len(self.noise)))
        variances[:] = self.scale.cpu().numpy()  # of places that see no spot
        for here, found, _ in self._over_tiles(_variances, target, depths):
            variances[:, here] = found
        return variances

    def _over_tiles(
        self, work: Callable[[Asked, Seen], FloatArray], target: FloatArray, depths: Sequence[float]
    ) -> Iterator[tuple[NDArray[np.intp], FloatArray, float]]:
        """Targets of each tile, what `work` finds of them, (S, m, K), and their share of all; in any order."""
        observed = self.observed
        places = torch.as_tensor(target, device=observed.x.device, dtype=torch.float64)
        if len(observed.x) <= EXACT:
            asked = Asked(self.kernel, self.noise, self.scale, depths, self._exact)
            yield np.arange(len(target)), work(asked, (observed, places)), 1.0
            return
        tiles = list(_tiles(observed, places, self.kernel))

        def tile(i: int) -> Seen:
            here, spots, _ = tiles[i]
            return observed[spots], places[torch.as_tensor(here, device=places.device)]

        asked = Asked(self.kernel, self.noise, self.scale, depths)
        if observed.x.is_cuda:
            found: Iterator[tuple[int, FloatArray]] = ((i, work(asked, tile(i))) for i in range(len(tiles)))
        else:
            found = each(work, asked, len(tiles), tile, n_threads=torch.get_num_threads())
        for i, values in found:
            here, _, share = tiles[i]
            yield here, values, share


@dataclass(frozen=True)
class Asked:
    """What is asked of every tile: kernel, noise ratios and variances of the maps, depths; the spectrum, if known."""

    kernel: Kernel
    noise: Tensor
    scale: Tensor
    depths: Sequence[float]
    known: Spectrum | None = None


Seen: TypeAlias = tuple[Observed, Tensor]  # the spots that a tile sees, and its (m, 2) places


def _means(asked: Asked, seen: Seen) -> FloatArray:
    """(S, m, K) posterior means."""
    (near, place), kernel = seen, asked.kernel
    if asked.known is not None:
        weights = asked.known.weights(near.values, asked.noise)
    else:
        weights = _posterior(kernel, near, asked.noise)
    within = kernel.within(place, near.x)
    means = np.empty((len(asked.depths), len(place), weights.shape[1]))
    for i, depth in enumerate(asked.depths):
        between = kernel.between(place.new_tensor([depth]), near.z)
        means[i] = dot(within, between.T * weights).cpu().numpy()
    return means


def _variances(asked: Asked, seen: Seen) -> FloatArray:
    """(S, m, K) posterior variances."""
    (near, place), kernel = seen, asked.kernel
    ratios, of_map = asked.noise.unique(return_inverse=True)
    known = asked.known or _spectrum(kernel, near)
    variances = np.empty((len(asked.depths), len(place), len(asked.noise)))
    for i, depth in enumerate(asked.depths):
        z = torch.full((len(place),), depth, device=place.device, dtype=torch.float64)
        told = dot(kernel(place, z, near.x, near.z) * known.whiten, known.vectors) ** 2
        explained = told @ (1 / (known.power[:, None] + ratios))
        variances[i] = ((1 - explained).clamp(0, 1)[:, of_map] * asked.scale).cpu().numpy()
    return variances


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product; on a processor by numpy, whose library is a few times as fast on some of them."""
    return a @ b if a.is_cuda else torch.from_numpy(a.numpy() @ b.numpy())


def _best_kernel(observed: Observed, seed: int, gaussian: bool) -> Kernel:
    """ℓ first with the others at mid-range, then c and ρ, then ℓ again: as good as the full grid at a third of it."""
    windows = [observed[index].cpu() for index in _windows(observed, seed)]
    within = cache(lambda length: [Kernel(length, 1, 1, gaussian).within(w.x, w.x) for w in windows])

    @cache
    def evidence(kernel: Kernel) -> float:
        pairs = zip(windows, within(kernel.length), strict=True)
        covariances = ((w, places * kernel.between(w.z, w.z)) for w, places in pairs)
        return float(sum(_misfit(c, w)[:, :N_LEADING].amin(dim=0).sum() for w, c in covariances))

    # Matrices of this size gain nothing from threads, and lose much to them where processes share the cores.
    with threadpool_limits(1):
        best = min((Kernel(length, 0.75, 0.7, gaussian) for length in LENGTHS), key=evidence)
        best = min((replace(best, shared=c, decay=rho) for c, rho in product(SHARED, DECAYS)), key=evidence)
        return min((replace(best, length=length) for length in LENGTHS), key=evidence)


def _best_noise(seen: Sequence[tuple[Spectrum, Tensor]]) -> tuple[Tensor, Tensor]:
    """(K,) noise ratio r and variance σ² of each map, from spectra of some spots and the (n, K) values there."""
    misfits, variances = zip(*(_profiled(known, values) for known, values in seen), strict=True)
    best = torch.stack(misfits).sum(dim=0).argmin(dim=0)
    noise = torch.tensor(NOISES, device=best.device, dtype=variances[0].dtype)[best]
    return noise, torch.stack(variances).mean(dim=0).gather(0, best[None])[0]


def _windows(observed: Observed, seed: int) -> Iterator[NDArray[np.intp]]:
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


def _misfit(covariance: Tensor, spots: Observed) -> Tensor:
    """(R, K) negative log evidence of each map at each noise ratio, its variance profiled out.

    Eigenvectors are not needed for that: C = Q T Qᵀ with a tridiagonal T takes a third of the time, and what depends on
    the noise is then solved in passing.
    """
    whiten = spots.variance.rsqrt()
    matrix = (whiten[:, None] * covariance * whiten).numpy()
    values = (whiten[:, None] * spots.values[:, :N_LEADING]).numpy()
    told = values.any(axis=0)
    if not told.all():  # a map that is zero everywhere would choose the covariance of least determinant
        values = values[:, told]
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


def _profiled(known: Spectrum, values: Tensor) -> tuple[Tensor, Tensor]:
    """(R, K) negative log evidence of each map at each noise ratio, and the variance σ² that is best there."""
    power = known.told(values) ** 2
    ratios = torch.tensor(NOISES, device=power.device, dtype=power.dtype)
    total = known.power[:, None] + ratios
    n = len(known.power)
    variance = (1 / total).T @ power / n
    return 0.5 * n * torch.log(variance + 1e-12) + 0.5 * torch.log(total).sum(dim=0)[:, None], variance


def _spectrum(kernel: Kernel, spots: Observed) -> Spectrum:
    """Of the covariance of some spots, in units of their noise."""
    whiten = spots.variance.rsqrt()
    covariance = whiten[:, None] * kernel(spots.x, spots.z, spots.x, spots.z) * whiten
    if covariance.is_cuda:
        power, vectors = torch.linalg.eigh(covariance)
    else:
        power, vectors = map(torch.from_numpy, np.linalg.eigh(covariance.numpy()))
    return Spectrum(power.clamp_min(0), vectors, whiten)


def _posterior(kernel: Kernel, spots: Observed, noise: Tensor) -> Tensor:
    """(n, K) what a covariance with the spots is multiplied by: (C + r_k V)⁻¹ f_k, one factorisation a noise level."""
    covariance = kernel(spots.x, spots.z, spots.x, spots.z)
    weights = torch.empty_like(spots.values)
    for ratio in noise.unique():
        maps = noise == ratio
        noisy = covariance.clone()
        noisy.diagonal().add_(ratio * spots.variance)
        weights[:, maps] = _solved(noisy, spots.values[:, maps])
    return weights


def _solved(covariance: Tensor, values: Tensor) -> Tensor:
    """(n, K) covariance⁻¹ values."""
    if covariance.is_cuda:
        return torch.cholesky_solve(values, torch.linalg.cholesky(covariance))
    return torch.from_numpy(solve(covariance.numpy(), values.numpy(), assume_a="pos", check_finite=False))


def _tiles(
    observed: Observed, target: Tensor, kernel: Kernel
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], float]]:
    """Targets, the spots that they see, and their share of all targets.

    Tiles are anchored at 0, so that they do not depend on which points are asked for.
    """
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
