"""Component maps of a tissue block as Gaussian fields, seen at noisy spots: what `gp` and the network start from.

Map k of the sections' expression is a field over the block,

    f_k ~ GP(0, σ_k² · S(|x - x'| / ℓ) · B(z, z')),      B = 1 within a section, c · ρ^((z - z')²) between two,

with S a Gaussian, exp(-u²/2), or Matérn's of order 3/2, (1 + √3 u) exp(-√3 u), whose fields have one derivative and not
infinitely many; seen through noise of variance σ_k² r_k v_i. ℓ, c and ρ are shared by the maps, r_k is the map's own,
v_i the spot's, σ_k² drops out; all but v are chosen by the evidence. So there is no smoothing width to set: maps that
the tissue does not support get a large r_k and vanish, fine-grained ones stay sharp, and 1 - c is what a section shares
with no other. A map may also have a length scale of its own: it is then the mean over a few, weighted by its evidence.

One eigendecomposition of the covariance serves all maps and noise levels. Many spots are solved tile by tile: a tile is
halved where that is less work, and sees the spots around it, whose weight fades to zero over some length scales.
Tiles are solved side by side by threads, or on the caller's Dask cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.spatial import KDTree
from threadpoolctl import threadpool_limits
from torch import Tensor

from c2sti._tasks import each
from c2sti._types import FloatArray

MOST = 1500  # spots up to which a tile is not halved, and noise is learnt from all
WINDOWS, WINDOW = 3, 1000  # from which it is learnt where there are more, and their spots: as much work
HALO, FADE = 3.5, 1.0  # length scales around a tile that it sees, and over the last of which weights fade
CHUNK = 1024  # places whose variances are computed together
LENGTHS = (1.0, 1.5, 2.2, 3.2, 4.5, 6.5, 9.5)  # in spot spacings
OWN_LENGTHS = (1.5, 2.6, 4.5, 8.0)  # over which a map is averaged
SLIGHT = 1e-3  # largest share of a map up to which a length scale is left out
CORRELATIONS = (0.15, 0.3, 0.5, 0.7, 0.85, 0.94)  # c · ρ, of sections one unit of z apart
USUAL, SHARED = 0.75, (0.5, 0.75, 0.95)  # c of two sections, which do not tell it from ρ; and of more
MANY_SECTIONS = 3  # whose distances do
NOISES = tuple(np.exp(np.linspace(np.log(0.05), np.log(300), 20)))


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


@dataclass(frozen=True)
class Tile:
    """Places, and the spots that they are told from.

    Parameters
    ----------
    here
        (m,) indices of the places.
    near
        (n,) indices of the spots.
    weight
        (n,) of each spot in (0, 1]: it fades towards the end of what is seen.
    """

    here: NDArray[np.intp]
    near: NDArray[np.intp]
    weight: FloatArray


@dataclass(frozen=True)
class Part:
    """K fields of one length scale, as seen at spots.

    Parameters
    ----------
    observed
        The spots, or cells of spots that are small beside the length scale.
    kernel
        Covariance of the fields.
    noise, scale
        (K,) noise ratio r and variance σ² of each.
    share
        (K,) of this length scale in each map.
    known
        Spectrum of the spots, where it has been computed.
    """

    observed: Observed
    kernel: Kernel
    noise: Tensor
    scale: Tensor
    share: Tensor
    known: Spectrum | None = None

    @cached_property
    def whole(self) -> Solved:
        """What a tile that sees all spots needs: the same whatever is asked, so it is computed once."""
        return Solved.of(self, self.observed, self.known)


@dataclass(frozen=True)
class Solved:
    """The spectrum of some spots, and (n, K) what a covariance with them is multiplied by to give the fields' means."""

    spectrum: Spectrum
    weights: Tensor

    @classmethod
    def of(cls, part: Part, spots: Observed, known: Spectrum | None = None) -> Solved:
        """Of spots that one tile sees, and their spectrum where it is known."""
        spectrum = known or Spectrum.of(part.kernel, spots)
        return cls(spectrum, spectrum.solve(spots.values, part.noise))


@dataclass(frozen=True)
class Field:
    """K fields, each of one or several length scales whose shares add up to 1."""

    parts: tuple[Part, ...]

    @classmethod
    def learn(
        cls,
        observed: Observed,
        kernel: Kernel,
        seed: int,
        *,
        own_lengths: bool,
        n_leading: int,
        coarser: Callable[[float], Observed] | None = None,
    ) -> Field:
        """c, ρ, noise ratios and variances by the evidence of all spots, or of those in some windows.

        Parameters
        ----------
        observed
            The spots.
        kernel
            With the length scale that all maps share.
        seed
            Of the windows.
        own_lengths
            Whether each map is a mean over `OWN_LENGTHS`, weighted by its evidence, and not of the kernel's length.
        n_leading
            Maps that c and ρ are chosen by.
        coarser
            Gives, where there are many spots, cells of them that are small enough for a longer length scale.
        """
        many = len(observed.x) > MOST
        if many:
            places = np.column_stack([observed.x.cpu().numpy(), observed.z.cpu().numpy()])
            windows = [observed[index] for index in windows_of(places, seed, WINDOW)]
        else:
            windows = [observed]
        kernel = best_sharing(kernel, [replace(w, values=w.values[:, :n_leading]) for w in windows])
        lengths = OWN_LENGTHS if own_lengths else (kernel.length,)
        kernels = [replace(kernel, length=length) for length in lengths]
        spectra = [[Spectrum.of(k, window) for window in windows] for k in kernels]
        misfits, noises, scales = zip(*(_best_noise(own, [w.values for w in windows]) for own in spectra), strict=True)
        shares = torch.softmax(-torch.stack(misfits), dim=0)
        shares = torch.where((shares > SLIGHT).any(dim=1, keepdim=True), shares, 0)
        shares = shares / shares.sum(dim=0)
        parts = []
        for own, known, noise, scale, share in zip(kernels, spectra, noises, scales, shares, strict=True):
            if share.any():
                seen = coarser(own.length) if many and coarser and own.length > kernel.length else observed
                parts.append(Part(seen, own, noise, scale, share, None if many else known[0]))
        return cls(tuple(parts))

    @property
    def n_maps(self) -> int:
        """K."""
        return len(self.parts[0].noise)

    def at(
        self, target: FloatArray, z: Sequence[float], progress: Callable[[float], object] = lambda share: None
    ) -> FloatArray:
        """(S, M, K) posterior means at (M, 2) places in spot spacings and S z; a section's z means itself."""
        return self._over_tiles(_means, target, z, progress)

    def variance_at(self, target: FloatArray, z: Sequence[float]) -> FloatArray:
        """(S, M, K) posterior variances at the same places: 0 where all is known, σ² where nothing is."""
        return self._over_tiles(_variances, target, z, lambda share: None)

    def _over_tiles(
        self,
        work: Callable[[Question, Seen], FloatArray],
        target: FloatArray,
        z: Sequence[float],
        progress: Callable[[float], object],
    ) -> FloatArray:
        """(S, M, K) mean over the length scales of what `work` finds at the places, tile by tile."""
        total = np.zeros((len(z), len(target), self.n_maps), dtype=np.float32)
        for part in self.parts:
            share = part.share.cpu().numpy().astype(np.float32)
            for here, found in _each_tile(part, work, target, z):
                total[:, here] += found * share
                progress(len(here) / len(target) / len(self.parts))
        return total


def _each_tile(
    part: Part, work: Callable[[Question, Seen], FloatArray], target: FloatArray, z: Sequence[float]
) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
    """Places of each tile, and what is found there."""
    observed = part.observed
    question = Question(replace(part, observed=observed[np.zeros(0, np.intp)], known=None), tuple(z))
    places = torch.as_tensor(target, device=observed.x.device, dtype=torch.float64)
    x = observed.x.cpu().numpy()
    tiles = [tile for tile in tiles_of(x, np.asarray(target), part.kernel.length) if len(tile.here)]

    def seen(i: int) -> Seen:
        tile = tiles[i]
        near = observed[tile.near]
        spots = replace(near, variance=near.variance / torch.as_tensor(tile.weight, device=places.device))
        return Seen(spots, places[torch.as_tensor(tile.here, device=places.device)])

    if len(tiles) == 1 and len(tiles[0].near) == len(x):
        yield tiles[0].here, work(question, replace(seen(0), solved=part.whole))
    elif observed.x.is_cuda:
        yield from ((tile.here, work(question, seen(i))) for i, tile in enumerate(tiles))
    else:
        for i, found in each(work, question, len(tiles), seen, n_threads=torch.get_num_threads()):
            yield tiles[i].here, found


@dataclass(frozen=True)
class Question:
    """What is asked of every tile: the fields, without their spots, and the z wanted."""

    part: Part
    z: tuple[float, ...]


@dataclass(frozen=True)
class Seen:
    """The spots that a tile sees, its (m, 2) places, and what is known of these spots already."""

    spots: Observed
    places: Tensor
    solved: Solved | None = None


def _means(question: Question, seen: Seen) -> FloatArray:
    """(S, m, K) posterior means: of each section what its spots contribute, blended by B."""
    spots, places, kernel = seen.spots, seen.places, question.part.kernel
    z = places.new_tensor(question.z)
    means = places.new_zeros((len(z), len(places), len(question.part.noise)))
    if len(spots.x):
        weights = (seen.solved or Solved.of(question.part, spots)).weights
        for own, rows in _sections(spots):
            found = dot(kernel.within(places, spots.x[rows]), weights[rows])
            for mean, share in zip(means, kernel.between(z, own[None])[:, 0], strict=True):
                mean.add_(found, alpha=float(share))
    return means.float().cpu().numpy()


def _variances(question: Question, seen: Seen) -> FloatArray:
    """(S, m, K) posterior variances."""
    spots, places, part = seen.spots, seen.places, question.part
    z = places.new_tensor(question.z)
    found = part.scale.expand(len(z), len(places), -1).clone()
    if len(spots.x) == 0:
        return found.float().cpu().numpy()
    known = seen.solved.spectrum if seen.solved else Spectrum.of(part.kernel, spots)
    kept = 1 / (known.power[:, None] + part.noise)
    for first in range(0, len(places), CHUNK):
        some = slice(first, first + CHUNK)
        told = []
        for own, rows in _sections(spots):
            within = part.kernel.within(places[some], spots.x[rows]) * known.whiten[rows]
            told.append((dot(within, known.vectors[rows]), part.kernel.between(z, own[None])[:, 0]))
        for j in range(len(z)):
            mixed = torch.stack([values * share[j] for values, share in told]).sum(dim=0)
            found[j, some] *= (1 - dot(mixed**2, kept)).clamp(0, 1)
    return found.float().cpu().numpy()


def _sections(spots: Observed) -> Iterator[tuple[Tensor, Tensor]]:
    """Z of each section, and which of the spots are its own."""
    for z in spots.z.unique():
        yield z, torch.nonzero(spots.z == z)[:, 0]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product; on a processor by numpy, whose library is a few times as fast on some of them."""
    return a @ b if a.is_cuda else torch.from_numpy(a.numpy() @ b.numpy())


# ---- tiles


def tiles_of(x: FloatArray, target: FloatArray, length: float) -> Iterator[Tile]:
    """Parts of the tissue that are solved one by one, for maps of a length scale.

    The box around the (n, 2) spots is halved along its longer side, and so are its halves, where they see more than
    `MOST` spots and both together are less work, which grows with the third power of the spots seen. Tiles depend on
    the spots alone; places beyond the box belong to the nearest tile.
    """
    every, places = np.arange(len(x)), np.arange(len(target))
    yield from _halved(x, target, length, x.min(axis=0), x.max(axis=0), every, np.ones(len(x)), places)


def _halved(
    x: FloatArray,
    target: FloatArray,
    length: float,
    low: FloatArray,
    high: FloatArray,
    near: NDArray[np.intp],
    weight: FloatArray,
    here: NDArray[np.intp],
) -> Iterator[Tile]:
    if len(near) > MOST:
        axis = int(np.argmax(high - low))
        middle = (low[axis] + high[axis]) / 2
        ends = np.array(high), np.array(low)
        ends[0][axis] = ends[1][axis] = middle
        boxes = (low, ends[0]), (ends[1], high)
        seen = [_in_reach(x, near, *box, length) for box in boxes]
        if sum(len(index) ** 3 for index, _ in seen) < len(near) ** 3:
            before = target[here, axis] < middle
            for box, (index, fade), part in zip(boxes, seen, (here[before], here[~before]), strict=True):
                yield from _halved(x, target, length, *box, index, fade, part)
            return
    yield Tile(here, near, weight)


def _in_reach(
    x: FloatArray, near: NDArray[np.intp], low: FloatArray, high: FloatArray, length: float
) -> tuple[NDArray[np.intp], FloatArray]:
    """Which of some spots a box sees, and their weights: 1 up to `FADE` before the end, 0 at the end."""
    beyond = np.maximum(low - x[near], x[near] - high).max(axis=1) / length
    along = np.clip((HALO - beyond) / FADE, 0, 1)
    weight = along**2 * (3 - 2 * along)
    return near[weight > 0], weight[weight > 0]


# ---- what the evidence chooses


def windows_of(places: FloatArray, seed: int, size: int) -> list[NDArray[np.intp]]:
    """Spots of windows of the tissue of some size, by (n, 3) x, y and z: around random quantiles of x and of y.

    They are the same in whatever order spots come, and one spot more moves them by no more than that.
    """
    order = np.lexsort(places.T)
    x = places[order, :2]
    shares = np.random.default_rng(seed).random((WINDOWS, 2))
    centres = [[np.quantile(axis, share) for axis, share in zip(x.T, pair, strict=True)] for pair in shares]
    return [np.sort(order[index]) for index in KDTree(x).query(centres, k=min(size, len(x)))[1]]


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


def _best_noise(seen: Sequence[Spectrum], values: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
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
        return float(sum(_misfits(kernel, window.cpu()).amin(dim=0).sum() for window in windows))


def _misfits(kernel: Kernel, spots: Observed) -> Tensor:
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
