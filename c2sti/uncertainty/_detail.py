"""What the expectation of a spot has beyond that of the spots around it, by splitting counts in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._types import TARGET_SUM, FloatArray, Noise, Prediction, Section, SlicePair
from c2sti.ops import gaussian_operator
from c2sti.thinning import split

N_GENES = 1024  # that are looked at together
MOST_SPOTS = 1000  # of a section, whose detail is looked at
TURN = 1  # of the count splitting; components take 0
AROUND = 0.6  # of the Gaussian over the spots around one, in spot spacings
AWAY = 1.5  # of the Gaussian by which places take part in the detail of spots, in spot spacings
SLIGHT = 0.01  # share of the surroundings up to which a spot is left out of them
LEAST_PLACE = 0.1  # of the mean detail


@dataclass(frozen=True)
class Detail:
    """How far the expectations of a section's spots lie from those of their surroundings, squared."""

    genes: FloatArray  # (N,) mean over the spots
    errors: FloatArray  # (N,) variance of that mean
    xy: FloatArray  # (n, 2) spots
    spots: FloatArray  # (n,) mean over genes
    width: float  # of the Gaussian by which other places take part in it, unit of the coordinates

    @classmethod
    def of(cls, section: Section, keys: NDArray[np.uint64], spacing: float, seed: int) -> Detail | None:
        """Of at most `MOST_SPOTS` spots; None where counts are not known, or there are no spots around."""
        if section.counts is None or section.library is None:
            return None
        order = np.lexsort(section.xy.T)
        order = order[section.library[order] > 0]
        if len(order) < 3:
            return None
        xy, n = section.xy[order], len(order)
        own = np.sort(np.random.default_rng(seed).permutation(n)[:MOST_SPOTS])
        beyond, around = _beyond_surroundings(xy, own, AROUND * spacing)
        used = np.unique(beyond.indices)
        first_read = np.argsort(order[used])  # what is left on disk is read in its own order
        rows = order[used][first_read]
        beyond = sp.csr_array(beyond[:, used[first_read]])
        parts, ratio = _halves(section.counts[rows], section.library[rows], keys, seed)
        first, second = (sp.csc_array(beyond @ part) for part in parts)
        genes, errors, spots = np.zeros(len(keys)), np.zeros(len(keys)), np.zeros(len(own))
        for start in range(0, len(keys), N_GENES):
            some = slice(start, start + N_GENES)
            product = first[:, some].toarray() * second[:, some].toarray() * ratio[some] ** 2 / (1 + around[:, None])
            genes[some], errors[some] = product.mean(axis=0), product.var(axis=0) / len(own)
            spots += product.sum(axis=1) / len(keys)
        return cls(genes, errors, xy[own], spots, AWAY * spacing * float(np.sqrt(n / len(own))))

    def places(self, at: FloatArray) -> FloatArray:
        """(M,) detail at some points over the mean, as far as spots are like those around them.

        That is the slope of a line, 0 to 1, by which spots are predicted from the Gaussian mean that leaves them out.
        """
        level = self.spots.mean()
        if level <= 0:
            return np.ones(len(at))
        operator = gaussian_operator(self.xy, self.xy, self.width)
        own = operator.diagonal()
        without = (operator @ self.spots - own * self.spots) / np.maximum(1 - own, SLIGHT)
        power = without.var()
        slope = np.clip(((without - without.mean()) * (self.spots - level)).mean() / power, 0, 1) if power > 0 else 0.0
        found = gaussian_operator(self.xy, at, self.width) @ self.spots / level
        return np.maximum(1 + slope * (found - 1), LEAST_PLACE)


def _beyond_surroundings(xy: FloatArray, own: NDArray[np.intp], width: float) -> tuple[sp.csr_array, FloatArray]:
    """(m, n) operator that gives some of the spots less the mean of those around; and its (m,) gain for white noise."""
    weights = sp.coo_array(gaussian_operator(xy, xy[own], width))
    row, column = weights.coords
    other = own[row] != column
    row, column, share = row[other], column[other], weights.data[other]
    share = share / np.bincount(row, share, minlength=len(own))[row]
    near = share > SLIGHT
    row, column, share = row[near], column[near], share[near]
    share = share / np.bincount(row, share, minlength=len(own))[row]
    every = np.arange(len(own))
    entries = np.concatenate([np.ones(len(own)), -share])
    places = np.concatenate([every, row]), np.concatenate([own, column])
    gain = np.bincount(row, share**2, minlength=len(own)).astype(np.float64)
    return sp.csr_array((entries, places), shape=(len(own), len(xy))), gain


def _halves(
    counts: sp.csr_array, library: FloatArray, keys: NDArray[np.uint64], seed: int
) -> tuple[list[sp.csr_array], FloatArray]:
    """Log expression of the two parts of split counts; and of each gene that of all counts over theirs, means."""
    first = split(counts, keys, seed, TURN)
    factor = np.repeat(TARGET_SUM / library, np.diff(counts.indptr))
    logs = [np.log1p(2 * part * factor) for part in (first, counts.data - first)]
    parts = [sp.csr_array((x, counts.indices, counts.indptr), counts.shape) for x in logs]
    each = (logs[0] + logs[1]) / 2, np.log1p(counts.data * factor)
    of_parts, of_all = (np.bincount(counts.indices, x, counts.shape[1]).astype(np.float64) for x in each)
    return parts, of_all / np.maximum(of_parts, np.finfo(float).tiny)


def with_detail(
    whole: Prediction, pair: SlicePair, at: FloatArray, positions: Sequence[float], seed: int
) -> Prediction:
    """A prediction whose noise has the detail of spots on top: one more column of its weights, and row of its basis."""

    @cache
    def found() -> tuple[Detail | None, Detail | None]:
        first, second = (Detail.of(section, pair.keys, pair.spacing, seed) for section in (pair.a, pair.b))
        return first, second

    noise = whole.noise

    def weights() -> FloatArray:
        of_a, of_b = (np.zeros(len(at)) if one is None else one.places(at) for one in found())
        column = np.stack([(1 - p) * of_a + p * of_b for p in positions])[:, :, None]
        if noise is None:
            return column
        own = noise.weights()
        return np.concatenate([own, column.astype(own.dtype)], axis=2)

    def basis() -> FloatArray:
        row = between_genes([one for one in found() if one is not None], pair.n_genes)[None]
        if noise is None:
            return row
        own = noise.basis()
        return np.concatenate([own, row.astype(own.dtype)])

    return replace(whole, noise=Noise(weights, basis))


def between_genes(found: Sequence[Detail], n_genes: int) -> FloatArray:
    """(N,) detail of each gene, ≥ 0: the mean of the sections, drawn to that of all genes as far as it is uncertain."""
    if len(found) == 0:
        return np.zeros(n_genes)
    own = np.mean([one.genes for one in found], axis=0)
    errors = np.sum([one.errors for one in found], axis=0) / len(found) ** 2
    level = own.mean()
    differ = max(float((np.square(own - level) - errors).mean()), 0.0)
    sure = differ / np.maximum(differ + errors, np.finfo(float).tiny)
    return np.maximum(level + sure * (own - level), 0)
