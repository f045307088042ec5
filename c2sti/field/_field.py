"""Gaussian fields, learnt from spots and solved tile by tile: their means and variances at any place and z."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from c2sti._tasks import each
from c2sti._types import FloatArray
from c2sti.field._detail import Detail
from c2sti.field._kernel import Kernel, Observed, Spectrum, best_noise, dot

MOST = 1500  # spots up to which a tile is not halved
HALO, FADE = 3.5, 1.0  # length scales around a tile that it sees, and over the last of which weights fade
WINDOWS = 3  # that are learnt from where there are many spots


class Tile(NamedTuple):
    """Places, and the spots that they are predicted from.

    Parameters
    ----------
    number
        Among the tiles of the spots, which do not depend on the places.
    near, weight
        (n,) indices of the spots; and their weights in (0, 1], which fade towards the end of what is seen.
    here
        (m,) indices of the places.
    """

    number: int
    near: NDArray[np.intp]
    weight: FloatArray
    here: NDArray[np.intp]


# Lowest and highest x and y; the spots that it sees, and their weights; the places in it.
Box: TypeAlias = tuple[FloatArray, FloatArray, NDArray[np.intp], FloatArray, NDArray[np.intp]]


def tiles_of(x: FloatArray, target: FloatArray, length: float) -> Iterator[Tile]:
    """Parts of the tissue that are solved one by one, for maps of a length scale.

    The box around the (n, 2) spots is halved along its longer side, and so are its halves, where they see more than
    `MOST` spots and both together are less work, which grows with the third power of the spots seen. Tiles depend on
    the spots alone; places beyond the box belong to the nearest tile.
    """
    number = 0
    every, places = np.arange(len(x)), np.arange(len(target))
    waiting: list[Box] = [(x.min(axis=0), x.max(axis=0), every, np.ones(len(x)), places)]
    while waiting:
        low, high, near, weight, here = waiting.pop()
        if len(near) > MOST:
            axis = int(np.argmax(high - low))
            middle = (low[axis] + high[axis]) / 2
            end, start = high.copy(), low.copy()
            end[axis] = start[axis] = middle
            boxes = (low, end), (start, high)
            seen = [_in_reach(x, near, *box, length) for box in boxes]
            if sum(len(index) ** 3 for index, _ in seen) < len(near) ** 3:
                before = target[here, axis] < middle
                parts = here[before], here[~before]
                halves = zip(boxes, seen, parts, strict=True)
                waiting += [(*box, index, fade, part) for box, (index, fade), part in halves]
                continue
        yield Tile(number, near, weight, here)
        number += 1


def _in_reach(
    x: FloatArray, near: NDArray[np.intp], low: FloatArray, high: FloatArray, length: float
) -> tuple[NDArray[np.intp], FloatArray]:
    """Which of some spots a box sees, and their weights: 1 up to `FADE` before the end, 0 at the end."""
    beyond = np.maximum(low - x[near], x[near] - high).max(axis=1) / length
    along = np.clip((HALO - beyond) / FADE, 0, 1)
    weight = along**2 * (3 - 2 * along)
    return near[weight > 0], weight[weight > 0]


def windows_of(places: FloatArray, seed: int, size: int) -> list[NDArray[np.intp]]:
    """Spots of windows of the tissue of some size, by (n, 3) x, y and z: around random quantiles of x and of y.

    They are the same in whatever order spots come, and one spot more moves them by no more than that.
    """
    order = np.lexsort(places.T)
    x = places[order, :2]
    shares = np.random.default_rng(seed).random((WINDOWS, 2))
    centres = [[np.quantile(axis, share) for axis, share in zip(x.T, pair, strict=True)] for pair in shares]
    return [np.sort(order[index]) for index in KDTree(x).query(centres, k=min(size, len(x)))[1]]


WINDOW = 1000  # spots of a window that noise is learnt from where there are more than `MOST`: as much work
KEPT = 2**30  # bytes that fields of one length scale keep of what they have solved
CHUNK = 1024  # places whose variances are computed together
OWN_LENGTHS = (1.5, 2.6, 4.5, 8.0)  # over which a map is averaged
STEPS = 20  # of the shares of the length scales, which then change no more
SLIGHT = 1e-3  # largest share of a map up to which a length scale is left out


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
    kept
        By tile what a covariance with its spots is multiplied by, where fields are asked again and again; else None.
    """

    observed: Observed
    kernel: Kernel
    noise: Tensor
    scale: Tensor
    share: Tensor
    known: Spectrum | None = None
    kept: dict[int, Tensor] | None = None

    def weights(self, tile: Tile) -> Tensor:
        """(n, K) what a covariance with the spots of a tile is multiplied by to give the fields' means."""
        if self.sees_all(tile):
            return self._weights_of_all
        found = None if self.kept is None else self.kept.get(tile.number)
        if found is None:
            spots = self.spots(tile)
            found = Spectrum.of(self.kernel, spots).solve(spots.values, self.noise)
            if self.kept is not None and sum(w.nbytes for w in self.kept.values()) + found.nbytes <= KEPT:
                self.kept[tile.number] = found
        return found

    def spectrum(self, tile: Tile) -> Spectrum:
        """Of the spots of a tile."""
        return self._spectrum_of_all if self.sees_all(tile) else Spectrum.of(self.kernel, self.spots(tile))

    def sees_all(self, tile: Tile) -> bool:
        """Whether a tile sees all spots: what it needs is the same whatever is asked, so it is computed once."""
        return len(tile.near) == len(self.observed.x)

    def spots(self, tile: Tile) -> Observed:
        """Those that a tile sees, of which the far ones are noisier."""
        near = self.observed[tile.near]
        return replace(near, variance=near.variance / torch.as_tensor(tile.weight, device=near.x.device))

    @cached_property
    def _spectrum_of_all(self) -> Spectrum:
        return self.known or Spectrum.of(self.kernel, self.observed)

    @cached_property
    def _weights_of_all(self) -> Tensor:
        return self._spectrum_of_all.solve(self.observed.values, self.noise)


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
        coarser: Callable[[float], Observed] | None = None,
        spots: Callable[[NDArray[np.intp] | slice], Observed] | None = None,
        windows_of_spots: Sequence[NDArray[np.intp]] = (),
    ) -> Field:
        """Noise ratios and variances by the evidence of all spots, or of those in some windows.

        Parameters
        ----------
        observed
            The spots.
        kernel
            That all maps share.
        seed
            Of the windows.
        own_lengths
            Whether each map is a mean over `OWN_LENGTHS`, weighted by its evidence and by how usual each is among the
            maps, and not of the kernel's length.
        coarser
            Gives, where there are many spots, cells of them that are small enough for a longer length scale.
        spots, windows_of_spots
            Gives some of the single spots, and those of a few windows, where sections are asked for detail that they
            share.
        """
        many = len(observed.x) > MOST
        if many:
            places = np.column_stack([observed.x.cpu().numpy(), observed.z.cpu().numpy()])
            windows = [observed[index] for index in windows_of(places, seed, WINDOW)]
        else:
            windows = [observed]
        lengths = OWN_LENGTHS if own_lengths else (kernel.length,)
        kernels = [replace(kernel, length=length) for length in lengths]
        spectra = [[Spectrum.of(k, window) for window in windows] for k in kernels]
        misfits, noises, scales = zip(*(best_noise(own, [w.values for w in windows]) for own in spectra), strict=True)
        shares = _posterior(torch.stack(misfits))
        shares = torch.where((shares > SLIGHT).any(dim=1, keepdim=True), shares, 0)
        shares = shares / shares.sum(dim=0)
        parts = []
        for own, known, noise, scale, share in zip(kernels, spectra, noises, scales, shares, strict=True):
            if share.any():
                seen = coarser(own.length) if many and coarser and own.length > kernel.length else observed
                parts.append(Part(seen, own, noise, scale, share, None if many else known[0]))
        field = cls(tuple(parts))
        if spots is None:
            return field
        maps = [(part.kernel, part.scale * part.share, part.noise * part.scale * part.share) for part in parts]
        detail = Detail.of([spots(window) for window in windows_of_spots], maps)
        return field.with_detail(spots(slice(None)), detail) if detail.shown else field

    def with_detail(self, spots: Observed, detail: Detail) -> Field:
        """The same and, on top, the field of the detail that sections share, from all single spots."""
        x, z = spots.x.cpu().numpy(), spots.z.cpu().numpy()
        left = spots.values.clone()
        for own in np.unique(z):
            rows = np.flatnonzero(z == own)
            left[rows] -= torch.as_tensor(self.at(x[rows], [float(own)])[0]).to(left)
        every = torch.ones_like(self.parts[0].noise)
        scale = left.var(dim=0, correction=0) / (1 + detail.noise)  # the rest of what is left at the spots is noise
        part = Part(replace(spots, values=left), detail.kernel, every * detail.noise, scale, every)
        return Field((*self.parts, part))

    def keeping(self) -> Field:
        """The same, with tiles that are solved once, however often they are asked, as far as memory is set aside."""
        return Field(tuple(replace(part, kept={}) for part in self.parts))

    def at(
        self, target: FloatArray, z: Sequence[float], progress: Callable[[float], object] = lambda share: None
    ) -> FloatArray:
        """(S, M, K) posterior means at (M, 2) places in spot spacings and S z; a section's z means itself."""
        return self.at_each([(target, z)], progress)[0]

    def at_each(
        self,
        wanted: Sequence[tuple[FloatArray, Sequence[float]]],
        progress: Callable[[float], object] = lambda share: None,
    ) -> list[FloatArray]:
        """The same for several sets of places, each with z of its own: what is costly is done once."""
        return self._over_tiles(_means, wanted, progress)

    def variance_at(self, target: FloatArray, z: Sequence[float]) -> FloatArray:
        """(S, M, K) posterior variances at the same places: 0 where all is known, σ² where nothing is."""
        return self._over_tiles(_variances, [(target, z)], lambda share: None)[0]

    def _over_tiles(
        self,
        work: Callable[[Asked, Tile], list[FloatArray]],
        wanted: Sequence[tuple[FloatArray, Sequence[float]]],
        progress: Callable[[float], object],
    ) -> list[FloatArray]:
        """(S, M, K) mean over the length scales of what `work` finds at the places of each set, tile by tile."""
        first = np.cumsum([0, *(len(target) for target, _ in wanted)])
        sets = tuple((a, b, tuple(z)) for (a, b), (_, z) in zip(pairwise(first.tolist()), wanted, strict=True))
        places = np.concatenate([target for target, _ in wanted])
        n_maps = len(self.parts[0].noise)
        totals = [np.zeros((len(z), b - a, n_maps), np.float32) for a, b, z in sets]
        for part in self.parts:
            share = part.share.cpu().numpy().astype(np.float32)
            x = part.observed.x
            tiles = [tile for tile in tiles_of(x.cpu().numpy(), places, part.kernel.length) if len(tile.here)]
            asked: Asked = part, torch.as_tensor(places, device=x.device, dtype=torch.float64), sets
            here = x.is_cuda or len(tiles) == 1
            n_threads = torch.get_num_threads()
            found = map(partial(work, asked), tiles) if here else each(work, asked, tiles, n_threads=n_threads)
            for tile, of_each in zip(tiles, found, strict=True):
                for total, (a, b, _), values in zip(totals, sets, of_each, strict=True):
                    total[:, tile.here[_rows(tile, a, b)] - a] += values * share
                progress(len(tile.here) / len(places) / len(self.parts))
        return totals


# What is asked of every tile: the fields, (M, 2) places of all sets, and of each set the first of its places, the one
# after its last, and the z that are wanted there.
Asked: TypeAlias = tuple[Part, Tensor, tuple[tuple[int, int, tuple[float, ...]], ...]]


def _posterior(misfits: Tensor) -> Tensor:
    """(L, K) probability of each length scale for each map, of its negative log evidence.

    How often each occurs among the maps is learnt as well, from equal shares on (expectation maximisation): weak maps,
    of which the evidence says little, are as most maps are.
    """
    shares = torch.softmax(-misfits, dim=0)
    for _ in range(STEPS):
        usual = shares.mean(dim=1, keepdim=True).clamp(min=1e-9)
        shares = torch.softmax(usual.log() - misfits, dim=0)
    return shares


def _rows(tile: Tile, first: int, stop: int) -> NDArray[np.intp]:
    """Which places of a tile are those of one set."""
    return np.flatnonzero((first <= tile.here) & (tile.here < stop))


def _means(asked: Asked, tile: Tile) -> list[FloatArray]:
    """(S, m, K) posterior means for each set: of each section what its spots contribute, blended by B."""
    part, places, sets = asked
    rows = [torch.as_tensor(_rows(tile, a, b), device=places.device) for a, b, _ in sets]
    wanted = [places.new_tensor(z) for *_, z in sets]
    means = [places.new_zeros((len(z), len(own), len(part.noise))) for z, own in zip(wanted, rows, strict=True)]
    if len(tile.near):
        weights, spots = part.weights(tile), part.observed[tile.near]
        here = places[torch.as_tensor(tile.here, device=places.device)]
        once, place = here.unique(dim=0, return_inverse=True)  # sets may have places in common
        for own, of_section in _sections(spots):
            found = dot(part.kernel.within(once, spots.x[of_section]), weights[of_section])
            for total, z, of_set in zip(means, wanted, rows, strict=True):
                for mean, share in zip(total, part.kernel.between(z, own[None])[:, 0], strict=True):
                    mean.add_(found[place[of_set]], alpha=float(share))
    return [total.float().cpu().numpy() for total in means]


def _variances(asked: Asked, tile: Tile) -> list[FloatArray]:
    """(S, m, K) posterior variances for the one set that there is."""
    part, places, ((_, _, wanted),) = asked
    z, here = places.new_tensor(wanted), places[torch.as_tensor(tile.here, device=places.device)]
    found = part.scale.expand(len(z), len(here), -1).clone()
    if len(tile.near) == 0:
        return [found.float().cpu().numpy()]
    known, spots = part.spectrum(tile), part.observed[tile.near]
    kept = 1 / (known.power[:, None] + part.noise)
    for first in range(0, len(here), CHUNK):
        some = slice(first, first + CHUNK)
        told = []
        for own, rows in _sections(spots):
            within = part.kernel.within(here[some], spots.x[rows]) * known.whiten[rows]
            told.append((dot(within, known.vectors[rows]), part.kernel.between(z, own[None])[:, 0]))
        for j in range(len(z)):
            mixed = torch.stack([values * share[j] for values, share in told]).sum(dim=0)
            found[j, some] *= (1 - dot(mixed**2, kept)).clamp(0, 1)
    return [found.float().cpu().numpy()]


def _sections(spots: Observed) -> Iterator[tuple[Tensor, Tensor]]:
    """Z of each section, and which of the spots are its own."""
    for z in spots.z.unique():
        yield z, torch.nonzero(spots.z == z)[:, 0]
