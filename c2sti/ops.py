"""Weightless maths that models, baselines and alignment share.

Spatial kernels as sparse operators, principal axes of smoothed sections without densifying them, and the Pearson gene
graph (eq. 2 of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds
from scipy.spatial import KDTree

from c2sti._types import FloatArray


def spacing(xy: FloatArray) -> float:
    """Median distance from a spot to its nearest neighbour; coincident spots count once."""
    points = np.unique(xy, axis=0)
    return float(np.median(KDTree(points).query(points, k=2)[0][:, 1]))


def gaussian_operator(source: FloatArray, target: FloatArray, width: float, n_neighbors: int = 25) -> sp.csr_array:
    """(M, n) row-normalised Gaussian weights from n source points to M targets.

    Parameters
    ----------
    source, target
        (n, 2) and (M, 2) coordinates.
    width
        Standard deviation, in the unit of the coordinates.
    n_neighbors
        Source points that a target sees. A target far from all of them falls back to the mean of the nearest few.
    """
    k = min(n_neighbors, len(source))
    distance, index = KDTree(source).query(target, k=[*range(1, k + 1)])
    # The floor keeps the row sum positive where every neighbour is many widths away.
    weight = np.exp(-0.5 * (distance / width) ** 2) + 1e-12
    weight /= weight.sum(axis=1, keepdims=True)
    start = np.arange(len(target) + 1) * k
    return sp.csr_array((weight.ravel(), index.ravel(), start), shape=(len(target), len(source)))


def nearest_operator(source: FloatArray, target: FloatArray) -> sp.csr_array:
    """(M, n) 0/1 weights: each target takes its nearest source point."""
    index = KDTree(source).query(target)[1]
    ones = np.ones(len(target))
    return sp.csr_array((ones, index, np.arange(len(target) + 1)), shape=(len(target), len(source)))


def smoothed_axes(
    expressions: Sequence[sp.csr_array], n_axes: int, smoothers: Sequence[sp.csr_array] | None = None
) -> FloatArray:
    """Principal axes of several sections' (smoothed) expression, each section centred by its own mean.

    Neither the centring nor the smoothing is carried out on the matrix: both are applied inside matrix-vector products,
    so sparse sections of any size stay sparse.

    Parameters
    ----------
    expressions
        (n_i, N) one a section.
    n_axes
        Number of axes wanted, K; fewer come back where the data have fewer.
    smoothers
        (n_i, n_i) row-normalised operators, or None for no smoothing.

    Returns
    -------
    (K, N) orthonormal rows, strongest first; the largest loading of each is positive.
    """
    n_genes = expressions[0].shape[1]
    stacked = sp.vstack([x.astype(np.float64) for x in expressions], format="csr")
    lengths = [x.shape[0] for x in expressions]
    labels = np.repeat(np.arange(len(lengths)), lengths)
    member = sp.csr_array((np.ones(len(labels)), (np.arange(len(labels)), labels)))
    means = (member.T @ stacked).toarray() / np.array(lengths)[:, None]
    smooth = None if smoothers is None else sp.block_diag(smoothers, format="csr")

    def forward(v: FloatArray) -> FloatArray:
        centred = stacked @ v - member @ (means @ v)
        return centred if smooth is None else smooth @ centred

    def backward(u: FloatArray) -> FloatArray:
        u = u if smooth is None else smooth.T @ u
        return stacked.T @ u - means.T @ (member.T @ u)

    shape = (stacked.shape[0], n_genes)
    rank = min(min(shape) - 1, n_axes)
    operator = LinearOperator(
        shape, matvec=forward, rmatvec=backward, matmat=forward, rmatmat=backward, dtype=np.float64
    )
    # A fixed start makes Lanczos deterministic without touching anybody's random state.
    start = np.random.default_rng(0).standard_normal(min(shape))
    _, strength, axes = svds(operator, k=rank, v0=start, solver="arpack")
    axes = axes[np.argsort(-strength)]
    return axes * np.sign(axes[np.arange(rank), np.abs(axes).argmax(axis=1)])[:, None]


def centred(values: FloatArray) -> FloatArray:
    """Columns minus their mean; a column without variance becomes exactly zero, not the residue of rounding."""
    deviation = values - values.mean(axis=0)
    size = np.abs(values).max(axis=0, initial=0)
    return np.where(np.abs(deviation).max(axis=0, initial=0) <= 1e-6 * size, 0, deviation)


def pearson_graph(
    values: Sequence[FloatArray], weights: Sequence[float], n_edges: int, chunk: int = 1024
) -> sp.csr_array:
    """Gene graph of Pearson correlation (eq. 2, with the norm to the power one) over several sections.

    Every section is centred by itself, so that a difference between two sections is not mistaken for co-expression, and
    their covariances are added by weight. A gene without variance correlates 0 with all. The N × N matrix is never
    held: genes go through in chunks.

    Parameters
    ----------
    values
        (n_i, N) expression of each section.
    weights
        Share of each section, ≥ 0.
    n_edges
        Strongest correlations, by absolute value, kept for each gene. An edge that either end keeps is kept.

    Returns
    -------
    (N, N) symmetric CSR float32 with a zero diagonal.
    """
    n_genes = values[0].shape[1]
    rows = np.concatenate([np.sqrt(w / len(v)) * centred(v) for v, w in zip(values, weights, strict=True)])
    length = np.linalg.norm(rows, axis=0)
    unit = torch.as_tensor((rows / np.where(length > 0, length, 1)).astype(np.float32))
    k = min(n_edges, n_genes - 1)
    weight, column = np.empty((n_genes, k), dtype=np.float32), np.empty((n_genes, k), dtype=np.intp)
    for first in range(0, n_genes, chunk):
        genes = torch.arange(first, min(first + chunk, n_genes))
        block = unit[:, genes].T @ unit
        block[genes - first, genes] = 0
        index = block.abs().topk(k, dim=1).indices
        weight[genes], column[genes] = block.gather(1, index).numpy(), index.numpy()
    return _symmetric(weight.clip(-1, 1), column)


def _symmetric(weight: NDArray[np.float32], column: NDArray[np.intp]) -> sp.csr_array:
    """Graph of the (N, k) strongest edges of each gene, completed to a symmetric one."""
    n_genes, k = column.shape
    row = np.repeat(np.arange(n_genes), k)
    low, high = np.minimum(row, column.ravel()), np.maximum(row, column.ravel())
    # An edge kept by both ends comes twice, with the same correlation up to rounding: the first copy stands for it.
    _, once = np.unique(low * n_genes + high, return_index=True)
    once = once[weight.ravel()[once] != 0]
    upper = sp.coo_array((weight.ravel()[once], (low[once], high[once])), shape=(n_genes, n_genes))
    return (upper + upper.T).tocsr()


def graph_values(xy: FloatArray, expression: sp.csr_array, width: float, most: int = 4096) -> NDArray[np.float32]:
    """(n, N) dense expression from which a section's gene graph is made: lightly smoothed, at most `most` rows.

    Count noise pulls every correlation towards zero. A small section is smoothed by a Gaussian of the given width; a
    large one is averaged over square blocks, which takes away as much noise and bounds the work.
    """
    if expression.shape[0] <= most:
        return np.asarray((gaussian_operator(xy, xy, width) @ expression).todense(), dtype=np.float32)
    side = np.sqrt(np.prod(np.ptp(xy, axis=0)) / most) * 1.05
    block = np.unique(np.floor(xy / side), axis=0, return_inverse=True)[1].ravel()
    member = sp.csr_array((np.ones(len(block), dtype=np.float32), (block, np.arange(len(block)))))
    return np.asarray((member @ expression).todense() / member.sum(axis=1)[:, None], dtype=np.float32)


def most_variable(expressions: Sequence[sp.csr_array], n: int, detected: float = 0.0) -> NDArray[np.intp]:
    """Indices of the n genes of largest mean variance over sections, among those detected widely enough in all of them.

    Parameters
    ----------
    expressions
        (n_i, N) one a section.
    n
        How many; fewer come back where fewer qualify. Sorted from most to least variable.
    detected
        Least share of spots, in every section, in which a gene must be seen.
    """
    variances, shares = [], []
    for x in expressions:
        mean = np.asarray(x.mean(axis=0)).ravel()
        square = np.asarray(x.multiply(x).mean(axis=0)).ravel()
        variances.append(square - mean**2)
        shares.append(np.asarray((x > 0).mean(axis=0)).ravel())
    (seen,) = np.nonzero((np.stack(shares) >= detected).all(axis=0))
    order = np.argsort(-np.mean(variances, axis=0)[seen], kind="stable")
    return seen[order[:n]]
