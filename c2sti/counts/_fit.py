"""A model of the counts of a section between two measured ones: shares of genes, and what they vary by together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti._types import FloatArray

GENE_CHUNK = 512  # genes that are dense at a time


@dataclass(frozen=True)
class Measured:
    """A measured neighbour at the rows of an interpolated section.

    Parameters
    ----------
    rows
        (m,) which rows of the interpolated section it covers.
    library
        (m,) counts there, over all genes that were measured.
    counts
        Gives (m, n) counts of some genes.
    weight
        1 − p or p: how near the interpolated section is.
    """

    rows: NDArray[np.intp]
    library: FloatArray
    counts: Callable[[NDArray[np.intp]], FloatArray]
    weight: float


@dataclass(frozen=True)
class Place:
    """An interpolated section between two measured ones.

    Parameters
    ----------
    name
        Of the section: what is drawn for another one is different.
    xy
        (M, 2) its rows.
    genes
        (N,) names.
    values
        Gives (M, n) interpolated values of some genes: log1p expression, 0 or more.
    neighbours
        Before and after it.
    """

    name: str
    xy: FloatArray
    genes: Sequence[str]
    values: Callable[[NDArray[np.intp]], FloatArray]
    neighbours: tuple[Measured, Measured]


@dataclass(frozen=True)
class Model:
    """What counts are drawn from.

    Parameters
    ----------
    table
        Turns interpolated values into shares.
    inverted_by
        (N,) dispersions with which it does.
    row_factor, gene_factor
        (M,) and (N,) by which shares are multiplied.
    mean
        (N,) counts over the measured spots, by which genes are compared.
    dispersion
        (N,) squared coefficient of variation of M·G.
    loadings
        (K, N) of what genes share, on the logarithm.
    scores
        (m, K) of the measured spots, mean 0 and variance 1: those of the first neighbour, then of the second.
    """

    table: Shares
    inverted_by: FloatArray
    row_factor: FloatArray
    gene_factor: FloatArray
    mean: FloatArray
    dispersion: FloatArray
    loadings: FloatArray
    scores: FloatArray

    def shares(self, values: FloatArray, gene: int) -> FloatArray:
        """(M,) expected shares of a gene, of its (M,) interpolated values."""
        return self.gene_factor[gene] * self.row_factor * self.table.of(values, float(self.inverted_by[gene]))


def columns(
    place: Place, genes: NDArray[np.intp] | None = None
) -> Iterator[tuple[int, FloatArray, tuple[FloatArray, FloatArray]]]:
    """Every gene by its number: (M,) interpolated values, and the counts of either neighbour, in double precision."""
    genes = np.arange(len(place.genes)) if genes is None else genes
    for first in range(0, len(genes), GENE_CHUNK):
        chunk = genes[first : first + GENE_CHUNK]
        values = np.asarray(place.values(chunk), dtype=np.float64, order="F")
        a, b = (np.asarray(side.counts(chunk), dtype=np.float64, order="F") for side in place.neighbours)
        for i in range(values.shape[1]):
            yield int(chunk[i]), values[:, i], (a[:, i], b[:, i])


def nearest(place: Place, side: Measured, k: int) -> NDArray[np.intp]:
    """(M, k) measured spots of a neighbour that lie nearest to each row."""
    k = min(k, len(side.rows))
    return KDTree(place.xy[side.rows]).query(place.xy, k=k)[1].reshape(len(place.xy), k)


def fitted(place: Place, share: FloatArray, counts: Sequence[FloatArray]) -> list[FloatArray]:
    """(m,) means of a gene in the spots of either neighbour, made to add up to what was counted in that one."""
    means = [side.library * share[side.rows] for side in place.neighbours]
    return [mu * (c.sum() / mu.sum()) if mu.sum() > 0 else mu for mu, c in zip(means, counts, strict=True)]


def shared_factor(model: Model, gene: int) -> tuple[FloatArray, float]:
    """(m,) the factor M of a gene in each measured spot, and its squared coefficient of variation."""
    factor = np.exp(model.scores @ model.loadings[:, gene])
    factor /= factor.mean()
    return factor, float(factor.var())


def stream(place: Place, gene: int | None, seed: int, purpose: str) -> np.random.Generator:
    """Random numbers of a gene of a section, told by their names; or of the section itself."""
    told = "" if gene is None else place.genes[gene]
    name = int.from_bytes(hashlib.sha256(f"{place.name}\n{purpose}\n{told}".encode()).digest()[:8], "little")
    return np.random.default_rng([seed, name])


TARGET_SUM = 1e4  # interpolated values are log1p of counts scaled to this
LEAST_DISPERSED, MOST_DISPERSED = 1e-6, 30.0


def expected_log(share: FloatArray, dispersion: float, library: FloatArray) -> FloatArray:
    """(J,) what log1p(1e4 C / L) is on average, for counts C of mean share · L and variance mean + dispersion · mean².

    With log(1 + x) = ∫ (1 − exp(−t x)) exp(−t) / t dt the mean is an integral over the Laplace transform of the
    negative binomial distribution, which is known.

    Parameters
    ----------
    share
        (J,) in [0, 1].
    dispersion
        ≥ 0; 0 is Poisson.
    library
        (l,) library sizes over which the mean is taken as well.
    """
    u, step = np.linspace(-24.0, 4.0, 113, retstep=True)  # log t: beyond, the integrand is nothing
    t = np.exp(u)
    hit = -np.expm1(-t * TARGET_SUM / library[:, None])
    exponent = share[:, None, None] * library[:, None] * hit
    if dispersion > 0:
        exponent = np.log1p(dispersion * exponent) / dispersion
    return (-np.expm1(-exponent) @ (np.exp(-t) * step)).mean(axis=1)


class Shares:
    """Turns interpolated values into shares, by a table of :func:`expected_log` for the libraries at hand."""

    def __init__(self, library: FloatArray, n_libraries: int = 9) -> None:
        levels = np.quantile(np.maximum(library, 1), (np.arange(n_libraries) + 0.5) / n_libraries)
        self.log_share = np.linspace(np.log(1e-9), 0.0, 128)
        self.dispersion = np.concatenate([[0.0], np.geomspace(0.03, MOST_DISPERSED, 15)])
        rows = [expected_log(np.exp(self.log_share), d, levels) for d in self.dispersion]
        self.log_value = np.log(rows)

    def of(self, values: FloatArray, dispersion: float) -> FloatArray:
        """(M,) shares of one gene; a value of 0 is a share of 0, and no share is above 1."""
        at = np.clip(dispersion, 0, MOST_DISPERSED)
        k = min(int(np.searchsorted(self.dispersion, at, side="right")) - 1, len(self.dispersion) - 2)
        w = (at - self.dispersion[k]) / (self.dispersion[k + 1] - self.dispersion[k])
        curve = (1 - w) * self.log_value[k] + w * self.log_value[k + 1]
        log_value = np.log(np.maximum(values, 1e-300))
        found = np.exp(np.interp(log_value, curve, self.log_share))
        low = np.exp(np.minimum(log_value - curve[0], 0))  # below the table both are proportional
        return np.where(values > 0, found * low, 0.0)


PANEL = 1000  # most abundant genes, in which shared variation is sought
MOST_AXES = 20
GENES_AN_AXIS = 20  # with fewer, axes would be single genes
TAKE_PART = 10  # genes that an axis has to be of, 1 / Σ v⁴ of its loadings: what one gene does is no sharing
AGREEMENT = 0.2  # least correlation of an axis' scores between two halves of the counts
LARGEST_RESIDUAL = 10.0


def no_axes(place: Place) -> tuple[FloatArray, FloatArray]:
    return np.zeros((0, len(place.genes))), np.zeros((sum(len(side.rows) for side in place.neighbours), 0))


def with_axes(place: Place, model: Model, seed: int) -> Model:
    """The model with axes along which the residuals of many genes vary together."""
    panel = np.sort(np.argsort(-model.mean, kind="stable")[:PANEL])
    halves = _half_residuals(place, model, panel, seed)
    axes = np.linalg.eigh(halves[0].T @ halves[0])[1][:, ::-1][:, : min(MOST_AXES, len(panel) // GENES_AN_AXIS)]
    one, other = (half @ axes for half in halves)
    shared = (one * other).mean(axis=0)
    agreement = shared / np.maximum(np.sqrt((one**2).mean(axis=0) * (other**2).mean(axis=0)), 1e-12)
    kept = (agreement > AGREEMENT) & (1 > TAKE_PART * (axes**4).sum(axis=0))
    if not kept.any():
        return model
    # Scaled so that what both halves have in common has variance one.
    first = one[:, kept] / np.sqrt(shared[kept])
    scores = one[:, kept] + other[:, kept]
    scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    loadings = _bounded(_loadings(place, model, first, seed), scores, model.dispersion)
    return replace(model, loadings=loadings, scores=scores)


def _residuals(
    place: Place, model: Model, genes: NDArray[np.intp] | None, seed: int
) -> Iterator[tuple[int, FloatArray, FloatArray, FloatArray]]:
    """Of every gene its number, (m,) half of the mean of each measured spot, and how far either half lies from it.

    Means are those of each section: how deep a gene was seen in one of the two is nothing that spots share.
    """
    for g, values, counts in columns(place, genes):
        share = model.shares(values, g)
        rng = stream(place, g, seed, "halves")
        mean = np.concatenate(fitted(place, share, counts)) / 2
        whole = np.concatenate(counts)
        first = rng.binomial(whole.astype(np.int64), 0.5)
        yield g, mean, first - mean, whole - first - mean


def _half_residuals(
    place: Place, model: Model, panel: NDArray[np.intp], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(m, P) residuals of both halves, over the standard deviation that their gene would give them."""
    m = sum(len(side.rows) for side in place.neighbours)
    first, second = (np.zeros((m, len(panel)), dtype=np.float32) for _ in range(2))
    for i, (g, mean, one, other) in enumerate(_residuals(place, model, panel, seed)):
        sd = np.sqrt(np.maximum(mean + model.dispersion[g] * mean**2, 1e-12))
        for half, residual in ((first, one), (second, other)):
            half[:, i] = np.clip(residual / sd, -LARGEST_RESIDUAL, LARGEST_RESIDUAL)
    return first, second


def _loadings(place: Place, model: Model, scores: FloatArray, seed: int) -> FloatArray:
    """(K, N) slopes of second halves on scores that were found in the first, drawn to 0 as far as noise made them."""
    found, noise = (np.zeros((scores.shape[1], len(place.genes))) for _ in range(2))
    square = scores**2
    for g, mean, _, other in _residuals(place, model, None, seed):
        total = mean.sum()
        if total > 0:
            found[:, g] = other @ scores / total
            noise[:, g] = (mean + model.dispersion[g] * mean**2) @ square / total**2
    told = noise.min(axis=0) > 0
    precision = 1 / noise[:, told]
    true = np.maximum((found[:, told] ** 2 * precision - 1).sum(axis=1) / precision.sum(axis=1), 0)
    drawn_in = np.zeros_like(found)
    drawn_in[:, told] = found[:, told] * true[:, None] / (true[:, None] + noise[:, told])
    return drawn_in


def _bounded(loadings: FloatArray, scores: FloatArray, dispersion: FloatArray) -> FloatArray:
    """Loadings that give no gene more variance than it has."""
    by_axes = np.expm1((loadings**2).sum(axis=0))
    scale = np.sqrt(np.minimum(dispersion / np.maximum(by_axes, 1e-12), 1))
    return loadings * scale


AROUND = 12  # measured spots of a section whose counts tell what all genes add up to at a row
PRIOR_COUNTS = 100.0  # counts that the model's own sum of shares is worth beside those
MOST_OF_ALL = 0.5  # share of the library from which on genes count as all
AT_FIRST = 0.3  # dispersion of a gene before it is known
TREND_GENES = 100  # genes that tell one point of the trend
LEAST_ROWS = 20  # measured rows from which anything is told


def fit(place: Place, seed: int = 0) -> Model:
    """Learn from two neighbours what the counts of an interpolated section are drawn from.

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
