"""What genes share beyond the smooth section: axes along which the residuals of many of them vary together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from c2sti._types import FloatArray
from c2sti.counts._place import Model, Place, columns, fitted, stream

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
