"""Drawing library sizes and counts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._types import FloatArray
from c2sti.counts._fit import LEAST_DISPERSED, Measured, Model, Place, columns, nearest, shared_factor, stream

NEAR = 6  # measured spots of a section among which a row finds its library


def draw_libraries(place: Place, seed: int = 0) -> tuple[FloatArray, NDArray[np.intp]]:
    """(M,) library sizes, and the measured spot whose scores go with each: a number in the first, then the second.

    A row takes the rank of one of the measured spots nearest to it, of the second neighbour with probability p; the
    library of that rank is that of both sections, (1 − p) to p on the logarithm. So sizes follow the measured
    distribution, are large where they were large, and a deep and a shallow neighbour make a section in between.
    """
    rng = stream(place, None, seed, "libraries")
    second = rng.random(len(place.xy)) < place.neighbours[1].weight
    covers = [np.isin(np.arange(len(place.xy)), side.rows) for side in place.neighbours]
    second = np.where(covers[0] == covers[1], second, covers[1])
    rank, spot = np.zeros(len(place.xy)), np.zeros(len(place.xy), dtype=np.intp)
    log_library: list[tuple[float, FloatArray]] = []
    start = 0
    for side, takes in zip(place.neighbours, (~second, second), strict=True):
        m = len(side.rows)
        if m:
            taken, ranks = _taken(place, side, rng)
            takes = takes | (m == sum(len(s.rows) for s in place.neighbours))  # the other one covers nothing
            rank[takes], spot[takes] = ranks[taken[takes]], start + taken[takes]
            log_library.append((side.weight, np.log(np.maximum(np.sort(side.library), 1))))
        start += m
    whole = sum(weight for weight, _ in log_library)
    levels = [w / whole * np.interp(rank, (np.arange(len(lv)) + 0.5) / len(lv), lv) for w, lv in log_library]
    return np.exp(np.sum(levels, axis=0)), spot


def _taken(place: Place, side: Measured, rng: np.random.Generator) -> tuple[NDArray[np.intp], FloatArray]:
    """(M,) a measured spot near each row, and the (m,) rank in (0, 1) of the library of every measured spot."""
    m, near = len(side.rows), nearest(place, side, NEAR)
    ranks = np.empty(m)
    ranks[np.lexsort((rng.random(m), side.library))] = (np.arange(m) + rng.random(m)) / m
    return near[np.arange(len(near)), rng.integers(0, near.shape[1], len(near))], ranks


def draw(
    place: Place, model: Model, *, seed: int = 0, genes: NDArray[np.intp] | None = None
) -> tuple[sp.csr_matrix, FloatArray]:
    """Draw counts of some genes.

    Parameters
    ----------
    place, model
        The section, and what :func:`fit` says of it.
    seed
        Of all that is drawn.
    genes
        Which; all by default.

    Returns
    -------
    (M, n) CSR float32 of whole numbers, and the (M,) library sizes over all genes with which they were drawn.
    """
    library, spot = draw_libraries(place, seed)
    depth = library / _swelling(place, model, spot, seed)
    drawn = []
    for g, values, _ in columns(place, genes):
        rng = stream(place, g, seed, "counts")
        mean = depth * model.shares(values, g) * _factors(model, g, spot, rng)
        drawn.append(sp.csc_matrix(rng.poisson(mean).astype(np.float32)[:, None]))
    counts = sp.hstack(drawn, format="csr") if drawn else sp.csr_matrix((len(library), 0))
    return sp.csr_matrix(counts, dtype=np.float32), library


def _factors(model: Model, gene: int, spot: NDArray[np.intp], rng: np.random.Generator) -> FloatArray:
    """(M,) of mean one: what a gene shares with others, M, times what is its own, G."""
    factor, by_axes = shared_factor(model, gene)
    own = (1 + model.dispersion[gene]) / (1 + by_axes) - 1
    return factor[spot] * (rng.gamma(1 / own, own, len(spot)) if own > LEAST_DISPERSED else 1.0)


def _swelling(place: Place, model: Model, spot: NDArray[np.intp], seed: int) -> FloatArray:
    """(M,) what all shares add up to once they have their factors; genes that are not at hand keep theirs.

    A library that is divided by it comes out as large as it was drawn.
    """
    plain, factored = np.zeros(len(place.xy)), np.zeros(len(place.xy))
    for g, values, _ in columns(place):
        share = model.shares(values, g)
        plain += share
        factored += share * _factors(model, g, spot, stream(place, g, seed, "counts"))
    return factored + np.maximum(1 - plain, 0)
