"""What two measured neighbours say about the counts of a section between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from c2sti._types import FloatArray
from c2sti.counts._axes import no_axes, with_axes
from c2sti.counts._place import Model, Place, columns, fitted, nearest
from c2sti.counts._shares import MOST_DISPERSED, Shares

AROUND = 12  # measured spots of a section whose counts tell what all genes add up to at a row
PRIOR_COUNTS = 100.0  # counts that the model's own sum of shares is worth beside those
MOST_OF_ALL = 0.5  # share of the library from which on genes count as all
AT_FIRST = 0.3  # dispersion of a gene before it is known
TREND_GENES = 100  # genes that tell one point of the trend
LEAST_ROWS = 20  # measured rows from which anything is told


def fit(place: Place, seed: int = 0) -> Model:
    """Learn from two neighbours what the counts of an inserted section are drawn from.

    Parameters
    ----------
    place
        The section.
    seed
        Of halving the counts.

    Raises
    ------
    ValueError
        The neighbours cover too little of the section.
    """
    covered = sum(len(side.rows) for side in place.neighbours)
    if covered < LEAST_ROWS:
        raise ValueError(f"the measured neighbours cover {covered} rows of the section; {LEAST_ROWS} are needed")
    table = Shares(np.concatenate([side.library for side in place.neighbours]))
    row_factor = _row_factor(place, table)
    inverted_by = np.full(len(place.genes), AT_FIRST)
    model = Model(table, inverted_by, row_factor, np.ones(len(place.genes)), inverted_by, inverted_by, *no_axes(place))
    moments = _moments(place, model)
    model = replace(model, inverted_by=np.clip(moments.own, 0, MOST_DISPERSED))
    moments = _moments(place, model)
    model = replace(model, gene_factor=moments.gene_factor, mean=moments.mean, dispersion=shrunk(moments))
    return with_axes(place, model, seed)


def _row_factor(place: Place, table: Shares) -> FloatArray:
    """(M,) what shares are multiplied by, so that over all genes they add up to what was measured around a row.

    Values of log1p are lower where spots are shallow, for all genes alike; this takes it back. Of a result that holds
    only some of the genes, which may well add up to more here than there, sums around a row are compared instead.
    """
    total = np.zeros(len(place.xy))
    sums = [np.zeros(len(side.rows)) for side in place.neighbours]
    for _, values, counts in columns(place):
        total += table.of(values, AT_FIRST)
        for one, of_gene in zip(sums, counts, strict=True):
            one += of_gene
    counted, depth, told = (np.zeros(len(total)) for _ in range(3))
    for side, one in zip(place.neighbours, sums, strict=True):
        if len(side.rows):
            near = nearest(place, side, AROUND)
            counted += one[near].sum(axis=1)
            depth += side.library[near].sum(axis=1)
            told += (side.library * total[side.rows])[near].sum(axis=1)
    most = counted.sum() > MOST_OF_ALL * depth.sum()
    return (counted + PRIOR_COUNTS) / ((depth * total if most else told) + PRIOR_COUNTS)


@dataclass(frozen=True)
class Moments:
    """Sums over the measured spots, each neighbour by its weight, from which the genes' dispersions follow.

    Parameters
    ----------
    gene_factor
        (N,) by which shares agree with the neighbours on average.
    mean
        (N,) Σ μ, the mean counts of the spots.
    excess, squares
        (N,) Σ (C − μ)² − μ and Σ μ², whose ratio is the dispersion.
    powers
        (4, N) Σ μ, μ², μ³ and μ⁴, weights squared, from which the variance of `excess` follows.
    """

    gene_factor: FloatArray
    mean: FloatArray
    excess: FloatArray
    squares: FloatArray
    powers: FloatArray

    @property
    def own(self) -> FloatArray:
        """(N,) dispersion that a gene's own counts tell."""
        return self.excess / np.maximum(self.squares, np.finfo(np.float64).tiny)

    def variance(self, dispersion: FloatArray) -> FloatArray:
        """(N,) of `own`, for genes of these dispersions: that of (C − μ)² is about V + 2 V², V = μ + d μ²."""
        m1, m2, m3, m4 = self.powers
        of_excess = m1 + dispersion * m2 + 2 * (m2 + 2 * dispersion * m3 + dispersion**2 * m4)
        return of_excess / np.maximum(self.squares**2, np.finfo(np.float64).tiny)


def _moments(place: Place, model: Model) -> Moments:
    n = len(place.genes)
    factor, mean, excess, squares = (np.zeros(n) for _ in range(4))
    powers = np.zeros((4, n))
    for g, values, counts in columns(place):
        share = model.row_factor * model.table.of(values, float(model.inverted_by[g]))
        expected = measured = 0.0
        for side, c in zip(place.neighbours, counts, strict=True):
            expected += side.weight * share[side.rows].sum()
            measured += side.weight * (c / np.maximum(side.library, 1)).sum()
        factor[g] = measured / expected if expected > 0 else 0.0
        for side, c, mu in zip(place.neighbours, counts, fitted(place, share, counts), strict=True):
            mean[g] += side.weight * mu.sum()
            excess[g] += side.weight * (np.square(c - mu) - mu).sum()
            squares[g] += side.weight * np.square(mu).sum()
            powers[:, g] += side.weight**2 * np.array([(mu**k).sum() for k in (1, 2, 3, 4)])
    return Moments(factor, mean, excess, squares, powers)


def shrunk(moments: Moments) -> FloatArray:
    """(N,) dispersions, ≥ 0: each gene's own, drawn towards the trend over the mean as far as it is uncertain.

    The trend pools the moments of genes of similar mean; how far genes truly lie from it is told by how much farther
    they lie than chance explains.
    """
    trend = _trend(moments)
    chance = np.maximum(moments.variance(trend), np.finfo(np.float64).tiny)
    distance = np.square(moments.own - trend) / chance
    told = moments.squares > 0
    excess = np.clip(distance, 0, 25)[told] - 1  # genes that lie farther are outliers, and all tell the same
    spread = max(excess.sum() / max((trend**2 / chance)[told].clip(max=1e6).sum(), 1e-12), 0.01) * trend**2
    weight = spread / np.maximum(spread + chance, np.finfo(np.float64).tiny)
    return np.clip(np.where(told, trend + weight * (moments.own - trend), trend), 0, MOST_DISPERSED)


def _trend(moments: Moments) -> FloatArray:
    order = np.argsort(moments.mean, kind="stable")
    parts = np.array_split(order, max(len(order) // TREND_GENES, 1))
    at, level = [], []
    for part in parts:
        squares = moments.squares[part].sum()
        if squares > 0:
            at.append(np.log(moments.mean[part].mean()))
            level.append(max(moments.excess[part].sum() / squares, 0.0))
    if not at:
        return np.zeros(len(order))
    return np.interp(np.log(np.maximum(moments.mean, 1e-300)), at, level)
