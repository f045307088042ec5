"""What counts are drawn from: an inserted section between two measured ones, and the model of its counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti._types import FloatArray
from c2sti.counts._shares import Shares

GENE_CHUNK = 512  # genes that are dense at a time


@dataclass(frozen=True)
class Measured:
    """A measured neighbour at the rows of an inserted section.

    Parameters
    ----------
    rows
        (m,) which rows of the inserted section it covers.
    library
        (m,) counts there, over all genes that were measured.
    counts
        Gives (m, n) counts of some genes.
    weight
        1 − p or p: how near the inserted section is.
    """

    rows: NDArray[np.intp]
    library: FloatArray
    counts: Callable[[NDArray[np.intp]], FloatArray]
    weight: float


@dataclass(frozen=True)
class Place:
    """An inserted section between two measured ones.

    Parameters
    ----------
    name
        Of the section: what is drawn for another one is different.
    xy
        (M, 2) its rows.
    genes
        (N,) names.
    values
        Gives (M, n) inserted values of some genes: log1p expression, 0 or more.
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
        Turns inserted values into shares.
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
        """(M,) expected shares of a gene, of its (M,) inserted values."""
        return self.gene_factor[gene] * self.row_factor * self.table.of(values, float(self.inverted_by[gene]))


def columns(
    place: Place, genes: NDArray[np.intp] | None = None
) -> Iterator[tuple[int, FloatArray, tuple[FloatArray, FloatArray]]]:
    """Every gene by its number: (M,) inserted values, and the counts of either neighbour, in double precision."""
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
