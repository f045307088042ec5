"""The sections of a block side by side, and how finely they are looked at: patches, cells, windows.

- Components are sought in `PATCHES` patches of tissue; up to that many spots a patch is one spot.
- The length scale of the maps is learnt in a few windows of single spots; up to `WHOLE` spots from all.
- Maps are solved on cells of tissue, `PER_LENGTH` to a length scale; up to `PATCHES` spots a cell is one spot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti._types import FloatArray, Section
from c2sti.field import windows_of
from c2sti.ops import partition

PATCHES = 1500  # of all sections together
WHOLE, WINDOW = 800, 500  # spots that a length scale is learnt from: all, or those of each window where there are more
NEAR = 1.4  # spacings within which spots lie beside each other
PER_LENGTH = 1.6  # cells per length scale, either way


class Block:
    """Sections side by side, n spots in all.

    Parameters
    ----------
    sections
        The sections.
    spacing
        Of the spots, unit of the frame.
    use_counts
        Whether counts are looked at where those of all sections are known.
    """

    def __init__(self, sections: Sequence[Section], spacing: float, *, use_counts: bool) -> None:
        positions = [section.position for section in sections]
        libraries = [known_library(section) for section in sections if use_counts]
        self.sections = sections
        self.libraries = [library for library in libraries if library is not None]
        self.counted = len(self.libraries) == len(sections)
        self.lengths = [len(section.xy) for section in sections]
        self.x: FloatArray = np.concatenate([section.xy for section in sections]) / spacing
        self.unit = float(np.diff(np.sort(positions)).max())  # the widest gap, so that a pair's is 1
        self.z = np.repeat(np.array(positions) / self.unit, self.lengths)

    def rows(self) -> list[slice]:
        """Spots of each section."""
        return [slice(first, last) for first, last in pairwise(np.cumsum([0, *self.lengths]).tolist())]

    @property
    def is_small(self) -> bool:
        """Whether a patch, and a cell, is one spot."""
        return len(self.x) <= PATCHES

    def patches(self) -> list[NDArray[np.intp]]:
        """(n_i,) number of the patch that each spot of a section lies in."""
        return self._parts(PATCHES)

    def _parts(self, n: int) -> list[NDArray[np.intp]]:
        """(n_i,) number of the part of tissue that each spot of a section lies in; about n parts of all sections."""
        return [partition(self.x[rows], round(n * (rows.stop - rows.start) / len(self.x))) for rows in self.rows()]

    def cells(self, length: float) -> NDArray[np.intp]:
        """(n,) number of the cell that each spot lies in: small enough for maps of a length scale."""
        fine = ceil(len(self.x) * (PER_LENGTH / length) ** 2)  # spots lie 1 apart
        parts = self._parts(min(len(self.x), max(PATCHES, fine)))
        first = np.cumsum([0, *(part.max() + 1 for part in parts)])
        return np.concatenate([part + start for part, start in zip(parts, first, strict=False)])

    def windows(self, seed: int) -> list[NDArray[np.intp]]:
        """Spots to learn from: all, or those of some windows of the tissue."""
        return windows_in(self.x, self.z, seed, WINDOW)

    def variance(self, chosen: NDArray[np.intp]) -> FloatArray:
        """(n,) how noisy a spot is for its library size, 1 on average (geometric); 1 where counts are not known.

        A parabola over the logarithm of the library size, one for all sections, through the squared difference of the
        chosen spots and the mean of those around them, in which what varies slowly cancels.
        """
        if not self.counted:
            return np.ones(len(self.x))
        sizes, noises = [], []
        for section, library, rows in zip(self.sections, self.libraries, self.rows(), strict=True):
            own = chosen[(rows.start <= chosen) & (chosen < rows.stop)] - rows.start
            own, around = _around(self.x[rows], own)
            if len(own):
                power = around.power(2)
                total = 1 + power.sum(axis=1)
                sizes.append((np.log(library[own]) + power @ np.log(library)) / total)
                noises.append(_squared_distances(section, own, around) / total)
        return noise_by_size(np.concatenate(sizes), np.concatenate(noises), np.log(np.concatenate(self.libraries)))


def windows_in(x: FloatArray, z: FloatArray, seed: int, size: int) -> list[NDArray[np.intp]]:
    """Spots at (n, 2) places x and (n,) z: all, or windows of about `size` where there are more than `WHOLE`."""
    if len(x) <= WHOLE:
        return [np.arange(len(x))]
    return windows_of(np.column_stack([x, z]), seed, size)


def _around(x: FloatArray, own: NDArray[np.intp]) -> tuple[NDArray[np.intp], sp.csr_array]:
    """Those of some spots that have others within `NEAR`, and (m, n) weights of these, which add up to 1.

    Weights fall to zero at that distance, so that none of equally near spots is singled out.
    """
    pairs = KDTree(x[own]).sparse_distance_matrix(KDTree(x), NEAR, output_type="ndarray")
    pairs = pairs[own[pairs["i"]] != pairs["j"]]
    weight = (1 - (pairs["v"] / NEAR) ** 2) ** 2
    weights = sp.csr_array((weight, (pairs["i"], pairs["j"])), shape=(len(own), len(x)))
    total = weights.sum(axis=1)
    some = total > 0
    return own[some], sp.csr_array(weights[some].multiply(1 / total[some][:, None]))


def known_library(section: Section) -> FloatArray | None:
    """(n,) library sizes; a spot without a count has the least. None where counts are not known, or there are none."""
    if section.counts is None or section.library is None or not np.any(section.library > 0):
        return None
    library = np.asarray(section.library, dtype=np.float64)
    return np.where(library > 0, library, library[library > 0].min())


def _squared_distances(section: Section, own: NDArray[np.intp], around: sp.csr_array) -> FloatArray:
    """(m,) squared distances of the log expression of spots from that of those around them."""
    rows = np.unique(np.concatenate([own, around.indices]))
    values = section.expression[rows]
    change = values[np.searchsorted(rows, own)] - around[:, rows].astype(np.float32) @ values
    return np.asarray(change.power(2).sum(axis=1), dtype=np.float64).ravel()


def noise_by_size(size: FloatArray, noise: FloatArray, wanted: FloatArray) -> FloatArray:
    """(n,) noise at log library sizes, 1 on average, by a parabola through the noise of (m,) others."""
    degree = min(2, len(np.unique(size.round(9))) - 1)  # a line through two sizes, a level at one
    curve = np.polynomial.Polynomial.fit(size, np.log(np.maximum(noise, 1e-9)), degree)
    fitted = curve(np.clip(wanted, size.min(), size.max()))  # a parabola says nothing beyond its points
    return np.exp(fitted - fitted.mean())
