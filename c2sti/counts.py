"""Counts as they might have been measured on an interpolated section, drawn around its smooth values.

The counts of gene g in row i are

    C_ig ~ Poisson(L_i · q_ig · M_ig · G_ig),

a library size L, the share q of the gene, and two factors of mean one for the variation that a smooth section lacks: M
is shared by genes (spots hold more of one kind of cell than their surroundings, and all of its genes follow), G, of a
gamma distribution, is each gene's own. All of it comes from the two measured neighbours at the rows of the section:

- **libraries** are drawn from nearby spots, as ranks within their own section; the level belonging to a rank is
  interpolated between the sections;
- **shares** are read off the interpolated values. These are an expectation of logarithms, E log1p(1e4 C / L), which
  lies far below the logarithm of the expectation where a gene is rare: :func:`expected_log` gives it, and is
  inverted. What is left is made to agree with the neighbours, row by row over all genes and gene by gene over all rows;
- **dispersions** of genes are moments of the neighbours' counts around the very shares, shrunk towards a trend over the
  mean as far as they are uncertain;
- **what genes share** are principal axes of the neighbours' residuals, found in one half of each count and kept where
  the other half agrees. A row takes the scores of the nearby spot that gave it the rank of its library.

Every gene has a stream of random numbers of its own, seeded by its name: its counts do not depend on which other genes
are drawn, in what order, or how many at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti._types import TARGET_SUM, FloatArray

GENE_CHUNK = 512  # genes that are dense at a time
TINY = np.finfo(np.float64).tiny
LEAST_ROWS = 20  # measured rows that a model needs
AROUND = 12  # measured spots of a section whose counts give the sum over all genes at a row
PRIOR_COUNTS = 100.0  # counts that the model's own sum of shares is worth beside those
MOST_OF_ALL = 0.5  # share of the library from which on genes count as all
AT_FIRST = 0.3  # dispersion of a gene before it is known
LEAST_DISPERSED, MOST_DISPERSED = 1e-6, 30.0
TREND_GENES = 100  # genes that give one point of the trend
PANEL = 1000  # most abundant genes, in which shared variation is sought
MOST_AXES = 20
GENES_AN_AXIS = 20  # with fewer, axes would be single genes
TAKE_PART = 10  # genes that an axis has to be of, 1 / Σ v⁴ of its loadings: variation of one gene is not shared
AGREEMENT = 0.2  # least correlation of an axis' scores between two halves of the counts
LARGEST_RESIDUAL = 10.0
NEAR = 6  # measured spots of a section among which a row finds its library


@dataclass(frozen=True)
class Measured:
    """A measured neighbour at the rows of an interpolated section."""

    rows: NDArray[np.intp]  # (m,) which rows of the interpolated section it covers
    library: FloatArray  # (m,) counts there, over all genes that were measured
    counts: Callable[[NDArray[np.intp]], FloatArray]  # gives (m, n) counts of some genes
    weight: float  # 1 − p or p: how near the interpolated section is


@dataclass(frozen=True)
class Place:
    """An interpolated section between two measured ones."""

    name: str  # seeds the random numbers
    xy: FloatArray  # (M, 2) its rows
    genes: Sequence[str]  # (N,) names
    values: Callable[[NDArray[np.intp]], FloatArray]  # gives (M, n) log1p expression of some genes, 0 or more
    neighbours: tuple[Measured, Measured]  # before and after it


@dataclass(frozen=True)
class Model:
    """What counts are drawn from."""

    table: Shares  # turns interpolated values into shares
    inverted_by: FloatArray  # (N,) dispersions with which it does
    row_factor: FloatArray  # (M,) by which shares are multiplied
    gene_factor: FloatArray  # (N,) likewise
    dispersion: FloatArray  # (N,) squared coefficient of variation of M·G
    loadings: FloatArray  # (K, N) of what genes share, on the logarithm
    scores: FloatArray  # (m, K) of the measured spots, first neighbour first, mean 0 and variance 1

    def shares(self, values: FloatArray, gene: int) -> FloatArray:
        """(M,) expected shares of a gene, of its (M,) interpolated values."""
        return self.gene_factor[gene] * self.row_factor * self.table.of(values, float(self.inverted_by[gene]))


def fit(place: Place, seed: int = 0) -> Model:
    """Learn from two neighbours what the counts of an interpolated section are drawn from."""
    covered = sum(len(side.rows) for side in place.neighbours)
    if covered < LEAST_ROWS:
        raise ValueError(f"the measured neighbours cover {covered} rows of the section; {LEAST_ROWS} are needed")
    table, n = Shares(np.concatenate([side.library for side in place.neighbours])), len(place.genes)
    at_first = np.full(n, AT_FIRST)
    no_axes = np.zeros((0, n)), np.zeros((covered, 0))
    model = Model(table, at_first, _row_factor(place, table), np.ones(n), at_first, *no_axes)
    _, _, excess, squares, _ = _moments(place, model)
    model = replace(model, inverted_by=np.clip(excess / np.maximum(squares, TINY), 0, MOST_DISPERSED))
    gene_factor, mean, excess, squares, powers = _moments(place, model)
    model = replace(model, gene_factor=gene_factor, dispersion=shrunk(mean, excess, squares, powers))
    return _with_axes(place, model, mean, seed)


def draw(
    place: Place, model: Model, *, seed: int = 0, genes: NDArray[np.intp] | None = None
) -> tuple[sp.csr_matrix, FloatArray]:
    """(M, n) CSR float32 counts of some genes, or all, and the (M,) library sizes over all genes behind them."""
    library, spot = draw_libraries(place, seed)
    size = library / _swelling(place, model, spot, seed)
    drawn = []
    for g, values, _ in _columns(place, genes):
        rng = _stream(place, g, seed, "counts")
        mean = size * model.shares(values, g) * _factors(model, g, spot, rng)
        drawn.append(sp.csc_matrix(rng.poisson(mean).astype(np.float32)[:, None]))
    counts = sp.hstack(drawn, format="csr") if drawn else sp.csr_matrix((len(library), 0))
    return sp.csr_matrix(counts, dtype=np.float32), library


def draw_libraries(place: Place, seed: int = 0) -> tuple[FloatArray, NDArray[np.intp]]:
    """(M,) library sizes, and the measured spot whose scores go with each: a number in the first, then the second.

    A row takes the rank of one of the measured spots nearest to it, of the second neighbour with probability p; the
    library of that rank is that of both sections, (1 − p) to p on the logarithm. So sizes follow the measured
    distribution, are large where they were large, and a deep and a shallow neighbour make a section in between.
    """
    n, rng = len(place.xy), _stream(place, None, seed, "libraries")
    second = rng.random(n) < place.neighbours[1].weight
    covers = [np.isin(np.arange(n), side.rows) for side in place.neighbours]
    second = np.where(covers[0] == covers[1], second, covers[1])
    alone = 0 in (len(side.rows) for side in place.neighbours)
    rank, spot = np.zeros(n), np.zeros(n, dtype=np.intp)
    log_library: list[tuple[float, FloatArray]] = []
    start = 0
    for side, takes in zip(place.neighbours, (~second, second), strict=True):
        m = len(side.rows)
        if m:
            near, ranks = _nearest(place, side, NEAR), np.empty(m)
            ranks[np.lexsort((rng.random(m), side.library))] = (np.arange(m) + rng.random(m)) / m
            taken = near[np.arange(n), rng.integers(0, near.shape[1], n)]
            takes = takes | alone
            rank[takes], spot[takes] = ranks[taken[takes]], start + taken[takes]
            log_library.append((side.weight, np.log(np.maximum(np.sort(side.library), 1))))
        start += m
    whole = sum(weight for weight, _ in log_library)
    levels = [w / whole * np.interp(rank, (np.arange(len(lv)) + 0.5) / len(lv), lv) for w, lv in log_library]
    return np.exp(np.sum(levels, axis=0)), spot


def expected_log(share: FloatArray, dispersion: float, library: FloatArray) -> FloatArray:
    """(J,) mean of log1p(1e4 C / L) for counts C of mean share · L and variance mean + dispersion · mean².

    It is the mean over the (l,) library sizes as well. With log(1 + x) = ∫ (1 − exp(−t x)) exp(−t) / t dt it is an
    integral over the Laplace transform of the negative binomial distribution (of the Poisson for a dispersion of 0).
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


# ---- genes and spots, one after the other


def _columns(
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


def _nearest(place: Place, side: Measured, k: int) -> NDArray[np.intp]:
    """(M, k) measured spots of a neighbour that lie nearest to each row."""
    k = min(k, len(side.rows))
    return KDTree(place.xy[side.rows]).query(place.xy, k=k)[1].reshape(len(place.xy), k)


def _stream(place: Place, gene: int | None, seed: int, purpose: str) -> np.random.Generator:
    """Random numbers of a gene of a section, seeded by their names; or of the section itself."""
    name = "" if gene is None else place.genes[gene]
    digest = hashlib.sha256(f"{place.name}\n{purpose}\n{name}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _means(place: Place, share: FloatArray, counts: Sequence[FloatArray]) -> list[FloatArray]:
    """(m,) means of a gene in the spots of either neighbour, made to add up to what was counted in that one."""
    means = [side.library * share[side.rows] for side in place.neighbours]
    return [mu * (c.sum() / mu.sum()) if mu.sum() > 0 else mu for mu, c in zip(means, counts, strict=True)]


# ---- shares and dispersions


def _row_factor(place: Place, table: Shares) -> FloatArray:
    """(M,) what shares are multiplied by, so that over all genes they add up to what was measured around a row.

    Values of log1p are lower where spots are shallow, for all genes alike; this takes it back. Of a result that holds
    only some of the genes, which may well add up to more here than there, sums around a row are compared instead.
    """
    total = np.zeros(len(place.xy))
    sums = [np.zeros(len(side.rows)) for side in place.neighbours]
    for _, values, counts in _columns(place):
        total += table.of(values, AT_FIRST)
        for one, of_gene in zip(sums, counts, strict=True):
            one += of_gene
    counted, library, expected = (np.zeros(len(total)) for _ in range(3))
    for side, one in zip(place.neighbours, sums, strict=True):
        if len(side.rows):
            near = _nearest(place, side, AROUND)
            counted += one[near].sum(axis=1)
            library += side.library[near].sum(axis=1)
            expected += (side.library * total[side.rows])[near].sum(axis=1)
    most = counted.sum() > MOST_OF_ALL * library.sum()
    return (counted + PRIOR_COUNTS) / ((library * total if most else expected) + PRIOR_COUNTS)


def _moments(place: Place, model: Model) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Factors by which shares agree with the neighbours on average, and what :func:`shrunk` needs, by gene.

    Sums are over the measured spots, each neighbour by its weight.
    """
    n = len(place.genes)
    factor, mean, excess, squares = (np.zeros(n) for _ in range(4))
    powers = np.zeros((4, n))
    for g, values, counts in _columns(place):
        share = model.shares(values, g)
        expected = measured = 0.0
        for side, c in zip(place.neighbours, counts, strict=True):
            expected += side.weight * share[side.rows].sum()
            measured += side.weight * (c / np.maximum(side.library, 1)).sum()
        factor[g] = measured / expected if expected > 0 else 0.0
        for side, c, mu in zip(place.neighbours, counts, _means(place, share, counts), strict=True):
            mean[g] += side.weight * mu.sum()
            excess[g] += side.weight * (np.square(c - mu) - mu).sum()
            squares[g] += side.weight * np.square(mu).sum()
            powers[:, g] += side.weight**2 * np.array([(mu**k).sum() for k in (1, 2, 3, 4)])
    return factor, mean, excess, squares, powers


def shrunk(mean: FloatArray, excess: FloatArray, squares: FloatArray, powers: FloatArray) -> FloatArray:
    """(N,) dispersions, ≥ 0: each gene's own, drawn towards the trend over the mean as far as it is uncertain.

    The trend pools genes of similar mean, Σ μ; genes vary around it by as much as chance does not explain. The ratio of
    `excess`, Σ (C − μ)² − μ, and `squares`, Σ μ², is the dispersion d. `powers` are (4, N) Σ μ, μ², μ³ and μ⁴, weights
    squared: the variance of (C − μ)² is about V + 2 V², V = μ + d μ².
    """
    own, trend = excess / np.maximum(squares, TINY), _trend(mean, excess, squares)
    m1, m2, m3, m4 = powers
    variance = m1 + trend * m2 + 2 * (m2 + 2 * trend * m3 + trend**2 * m4)
    chance = np.maximum(variance / np.maximum(squares**2, TINY), TINY)
    distance = np.square(own - trend) / chance
    known = squares > 0
    beyond = np.clip(distance, 0, 25)[known] - 1  # genes that lie farther are outliers, and all count the same
    scatter = max(beyond.sum() / max((trend**2 / chance)[known].clip(max=1e6).sum(), 1e-12), 0.01) * trend**2
    weight = scatter / np.maximum(scatter + chance, TINY)
    return np.clip(np.where(known, trend + weight * (own - trend), trend), 0, MOST_DISPERSED)


def _trend(mean: FloatArray, excess: FloatArray, squares: FloatArray) -> FloatArray:
    """(N,) dispersion of genes of similar mean."""
    order = np.argsort(mean, kind="stable")
    parts = np.array_split(order, max(len(order) // TREND_GENES, 1))
    parts = [part for part in parts if squares[part].sum() > 0]
    if not parts:
        return np.zeros(len(order))
    at = [np.log(mean[part].mean()) for part in parts]
    level = [max(excess[part].sum() / squares[part].sum(), 0.0) for part in parts]
    return np.interp(np.log(np.maximum(mean, 1e-300)), at, level)


# ---- what genes share


def _with_axes(place: Place, model: Model, mean: FloatArray, seed: int) -> Model:
    """The model with axes along which the residuals of many genes vary together."""
    panel = np.sort(np.argsort(-mean, kind="stable")[:PANEL])
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
    loadings = _loadings(place, model, first, seed)
    by_axes = np.expm1((loadings**2).sum(axis=0))  # no gene gets more variance than it has
    loadings = loadings * np.sqrt(np.minimum(model.dispersion / np.maximum(by_axes, 1e-12), 1))
    return replace(model, loadings=loadings, scores=scores)


def _residuals(
    place: Place, model: Model, genes: NDArray[np.intp] | None, seed: int
) -> Iterator[tuple[int, FloatArray, FloatArray, FloatArray]]:
    """Of every gene its number, (m,) half of the mean of each measured spot, and how far either half lies from it.

    Means are those of each section: a difference between the sections' levels is nothing that spots share.
    """
    for g, values, counts in _columns(place, genes):
        mean = np.concatenate(_means(place, model.shares(values, g), counts)) / 2
        whole = np.concatenate(counts)
        first = _stream(place, g, seed, "halves").binomial(whole.astype(np.int64), 0.5)
        yield g, mean, first - mean, whole - first - mean


def _half_residuals(
    place: Place, model: Model, panel: NDArray[np.intp], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(m, P) residuals of both halves, over the standard deviation that their gene would give them."""
    first, second = (np.zeros((len(model.scores), len(panel)), dtype=np.float32) for _ in range(2))
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
    known = noise.min(axis=0) > 0
    precision = 1 / noise[:, known]
    true = np.maximum((found[:, known] ** 2 * precision - 1).sum(axis=1) / precision.sum(axis=1), 0)
    drawn_in = np.zeros_like(found)
    drawn_in[:, known] = found[:, known] * true[:, None] / (true[:, None] + noise[:, known])
    return drawn_in


# ---- drawing


def _factors(model: Model, gene: int, spot: NDArray[np.intp], rng: np.random.Generator) -> FloatArray:
    """(M,) of mean one: what a gene shares with others, M, times what is its own, G."""
    factor = np.exp(model.scores @ model.loadings[:, gene])
    factor /= factor.mean()
    own = (1 + model.dispersion[gene]) / (1 + float(factor.var())) - 1
    return factor[spot] * (rng.gamma(1 / own, own, len(spot)) if own > LEAST_DISPERSED else 1.0)


def _swelling(place: Place, model: Model, spot: NDArray[np.intp], seed: int) -> FloatArray:
    """(M,) what all shares add up to once they have their factors; genes that are not at hand keep theirs.

    A library that is divided by it comes out as large as it was drawn.
    """
    plain, factored = np.zeros(len(place.xy)), np.zeros(len(place.xy))
    for g, values, _ in _columns(place):
        share = model.shares(values, g)
        plain += share
        factored += share * _factors(model, g, spot, _stream(place, g, seed, "counts"))
    return factored + np.maximum(1 - plain, 0)
