"""Weightless maths that models, baselines and alignment share.

Spatial kernels as sparse operators, principal axes of smoothed sections without densifying them, the Pearson gene graph
(eq. 2 of the paper) and how it spreads what genes know (the P of eq. 3), deformable sampling (eq. 5), the gradient of
the H&E (section 2.3) and total variation (section 2.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import isqrt

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.ndimage import map_coordinates
from scipy.sparse.linalg import LinearOperator, svds
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional

from c2sti._backed import Expression, Moments, blocks
from c2sti._types import FloatArray, Lattice

DENSE = 256  # genes up to which principal axes are found from their inner products; of more, by Lanczos


@contextmanager
def inference() -> Iterator[None]:
    """No gradients, and float32 on a GPU as on a processor: by default cuDNN's convolutions have 10 bits (TF32)."""
    cudnn = torch.backends.cudnn
    kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    with torch.no_grad(), cudnn.flags(**kept, allow_tf32=False):
        yield


def spacing(xy: FloatArray) -> float:
    """Median distance from a spot to its nearest neighbour; coincident spots count once."""
    points = np.unique(xy, axis=0)
    return float(np.median(KDTree(points).query(points, k=2)[0][:, 1]))


def gaussian_operator(source: FloatArray, target: FloatArray, width: float, n_neighbors: int = 25) -> sp.csr_array:
    """(M, n) row-normalised Gaussian weights from the (n, 2) source points to (M, 2) targets.

    `width` is the standard deviation, in the unit of the coordinates. A target sees `n_neighbors` source points; one
    that is far from all of them gets the mean of these.
    """
    k = min(n_neighbors, len(source))
    order = np.lexsort(source.T)  # which of equally near points are among the k does not depend on their order
    distance, index = KDTree(source[order]).query(target, k=[*range(1, k + 1)])
    # The floor keeps the row sum positive where every neighbour is many widths away.
    weight = np.exp(-0.5 * (distance / width) ** 2) + 1e-12
    weight /= weight.sum(axis=1, keepdims=True)
    start = np.arange(len(target) + 1) * k
    return sp.csr_array((weight.ravel(), order[index].ravel(), start), shape=(len(target), len(source)))


def nearest(source: FloatArray, target: FloatArray) -> NDArray[np.intp]:
    """(M,) index of the source point nearest to each target; of equally near ones the same in whatever order they are.

    Everything that a bin takes from its nearest spot is found by this, so that it is one spot.
    """
    order = np.lexsort(source.T)
    return order[KDTree(source[order]).query(target)[1]]


def nearest_operator(source: FloatArray, target: FloatArray) -> sp.csr_array:
    """(M, n) 0/1 weights: each target takes its nearest source point."""
    index = nearest(source, target)
    ones = np.ones(len(target))
    return sp.csr_array((ones, index, np.arange(len(target) + 1)), shape=(len(target), len(source)))


def affine(xy: FloatArray, matrix: FloatArray) -> FloatArray:
    """(n, 2) points moved by a (3, 3) matrix that acts on homogeneous (x, y, 1)."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def local_noise(xy: FloatArray, values: sp.csr_array | FloatArray) -> FloatArray:
    """(N,) variance of each column of (n, N) values that a spot does not share with the spot next to it.

    Half the mean squared difference of nearest neighbours: what varies slowly over the tissue cancels (Rice 1984).
    """
    beside = KDTree(xy).query(xy, k=2)[1][:, 1]
    change = values - values[beside]
    square = change.multiply(change) if sp.issparse(change) else np.square(change)
    return np.asarray(square.mean(axis=0), dtype=np.float64).ravel() / 2


def smoothed_axes(
    expressions: Sequence[sp.csr_array], n_axes: int, smoothers: Sequence[sp.csr_array] | None = None
) -> FloatArray:
    """(K, N) principal axes of the (n_i, N) expression of several sections, each centred by its own mean.

    With `smoothers`, (n_i, n_i) row-normalised operators, they are those of the smoothed expression. Rows are
    orthonormal, strongest first; the largest loading of each is positive. At most `n_axes`: fewer come back where the
    data have fewer, and one without variance may be zero.
    """
    stacked = sp.vstack([x.astype(np.float64) for x in expressions], format="csr")
    (n, n_genes), lengths = stacked.shape, [x.shape[0] for x in expressions]
    labels = np.repeat(np.arange(len(lengths)), lengths)
    member = sp.csr_array((np.ones(n), (np.arange(n), labels)))
    means = (member.T @ stacked).toarray() / np.array(lengths)[:, None]
    smoother = sp.eye_array(n, format="csr") if smoothers is None else sp.block_diag(smoothers, format="csr")

    # Neither the centring nor the smoothing is carried out on the matrix, but inside matrix-vector products.
    def forward(v: FloatArray) -> FloatArray:
        return smoother @ (stacked @ v - member @ (means @ v))

    def backward(u: FloatArray) -> FloatArray:
        u = smoother.T @ u
        return stacked.T @ u - means.T @ (member.T @ u)

    rank = min(n - 1, n_genes, n_axes)  # centring takes one from the spots, and none from the genes
    if n_genes <= DENSE:
        power, vectors = eigh(backward(forward(np.eye(n_genes))))
        strength, axes = np.sqrt(np.maximum(power[::-1][:rank], 0)), vectors.T[::-1][:rank]
    else:
        operator = LinearOperator(
            (n, n_genes), matvec=forward, rmatvec=backward, matmat=forward, rmatmat=backward, dtype=np.float64
        )
        # A fixed start makes Lanczos deterministic without touching anybody's random state.
        start = np.random.default_rng(0).standard_normal(min(n, n_genes))
        if not backward(forward(np.resize(start, n_genes))).any():
            return np.zeros((rank, n_genes))  # nothing varies, which Lanczos takes for a mistake
        _, strength, axes = svds(operator, k=rank, v0=start, solver="arpack")
        strength, axes = strength[::-1], axes[::-1]
    present = strength > 1e-7 * strength.max(initial=0)  # the others are rounding
    axes = axes * present[:, None]
    return axes * signs(axes)[:, None]


def centred(values: FloatArray) -> FloatArray:
    """Columns minus their mean; a column without variance becomes exactly zero, not the residue of rounding."""
    deviation = values - values.mean(axis=0)
    size = np.abs(values).max(axis=0, initial=0)
    return np.where(np.abs(deviation).max(axis=0, initial=0) <= 1e-6 * size, 0, deviation)


def pearson_graph(
    values: Sequence[FloatArray], weights: Sequence[float], n_edges: int, chunk: int = 2048, *, power: int = 1
) -> sp.csr_array:
    """(N, N) gene graph of Pearson correlation (eq. 2) over several sections: symmetric CSR float32, zero diagonal.

    Every section of (n_i, N) expression is centred by itself, so that a difference between two sections is not mistaken
    for co-expression, and their covariances are added by weight. A gene without variance correlates 0 with all. Of each
    gene the `n_edges` strongest correlations are kept; an edge that either end keeps is kept. The N × N matrix is never
    held: genes go through in chunks. The paper prints a `power` of 2 for the norms, which does not give a correlation.
    """
    return pearson_graphs(values, [weights], n_edges, chunk, power=power)[0]


def pearson_graphs(
    values: Sequence[FloatArray], weights: Sequence[Sequence[float]], n_edges: int, chunk: int = 2048, *, power: int = 1
) -> list[sp.csr_array]:
    """The same by several weightings of the sections, each of which is multiplied once: one graph a weighting."""
    n_genes, k = values[0].shape[1], min(n_edges, values[0].shape[1] - 1)
    shape = (len(weights), n_genes, k)
    weight, column = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.intp)
    chunks = [slice(first, min(first + chunk, n_genes)) for first in range(0, n_genes, chunk)]
    for i, genes, block in _pearson_blocks(values, weights, chunks, power):
        found = torch.from_numpy(block)
        index = found.abs().topk(k, dim=1).indices
        weight[i, genes], column[i, genes] = found.gather(1, index).numpy(), index.numpy()
    every = np.arange(n_genes)
    if power == 1:
        weight = weight.clip(-1, 1)
    return [symmetric_graph(w, every, c, n_genes) for w, c in zip(weight, column, strict=True)]


def pearson_rows(values: Sequence[FloatArray], weights: Sequence[float], genes: NDArray[np.intp]) -> FloatArray:
    """(G, N) correlations, as in :func:`pearson_graph`, of some genes with all; 0 of a gene with itself."""
    return next(block for _, _, block in _pearson_blocks(values, [weights], [genes])).clip(-1, 1)


def _pearson_blocks(
    values: Sequence[FloatArray],
    weights: Sequence[Sequence[float]],
    chunks: Sequence[slice | NDArray[np.intp]],
    power: int = 1,
) -> Iterator[tuple[int, slice | NDArray[np.intp], FloatArray]]:
    """Correlations of some genes with all: place of the weighting, genes of a chunk and their (C, N) block."""
    rows = [(centred(v) / np.sqrt(len(v))).astype(np.float32) for v in values]
    variances = np.stack([np.square(r, dtype=np.float64).sum(axis=0) for r in rows])
    shares = np.asarray(weights, dtype=np.float64)
    length = np.sqrt(shares @ variances)
    scale = np.divide(1, length**power, out=np.zeros_like(length), where=length > 0).astype(np.float32)
    for some in chunks:
        covariances = [r[:, some].T @ r for r in rows]
        for i, share in enumerate(shares.astype(np.float32)):
            block = share[0] * covariances[0]
            for covariance, part in zip(covariances[1:], share[1:], strict=True):
                block += part * covariance
            block *= scale[i]
            block *= scale[i, some, None]
            block[np.arange(len(block)), np.arange(len(scale[i]))[some]] = 0
            yield i, some, block


def symmetric_graph(
    weight: NDArray[np.float32], genes: NDArray[np.intp], column: NDArray[np.intp], n_genes: int
) -> sp.csr_array:
    """(N, N) graph of the (G, k) strongest edges of some genes, completed to a symmetric one."""
    row = np.repeat(genes, column.shape[1])
    low, high = np.minimum(row, column.ravel()), np.maximum(row, column.ravel())
    # An edge kept by both ends comes twice, with the same correlation up to rounding: the first copy stands for it.
    _, once = np.unique(low * n_genes + high, return_index=True)
    once = once[weight.ravel()[once] != 0]
    upper = sp.coo_array((weight.ravel()[once], (low[once], high[once])), shape=(n_genes, n_genes))
    return (upper + upper.T).tocsr()


def graph_values(xy: FloatArray, expression: Expression, width: float, most: int = 4096) -> NDArray[np.float32]:
    """(P, N) dense expression from which a section's gene graph is made, lightly smoothed: at most `most` rows.

    Count noise pulls every correlation towards zero. A section of more spots is averaged over patches of tissue, which
    bounds the work; patches, up to `most` spots one spot each, are then smoothed by a Gaussian of the given width.
    """
    patch = partition(xy, most)
    means = patch_means(patch, blocks(expression), expression.shape[1])
    centres = mean_operator(patch, np.ones(len(patch))) @ xy
    return gaussian_operator(centres, centres, width).astype(np.float32) @ means


def partition(xy: FloatArray, n_parts: int) -> NDArray[np.intp]:
    """(n,) number of the part that each point belongs to: n_parts of them, of neighbouring points, as many in each.

    Points are halved across their wider extent, in proportion, again and again; each is a part of its own where there
    are no more points than parts.
    """
    if n_parts >= len(xy):
        return np.arange(len(xy))
    part, n_found = np.empty(len(xy), np.intp), 0
    waiting = [(np.arange(len(xy)), max(n_parts, 1))]
    while waiting:
        index, n = waiting.pop()
        if n == 1:
            part[index] = n_found
            n_found += 1
            continue
        points = xy[index]
        wider = int(np.argmax(np.ptp(points, axis=0)))
        order = index[np.lexsort((points[:, 1 - wider], points[:, wider]))]
        cut = round(len(index) * (n // 2) / n)
        waiting += [(order[:cut], n // 2), (order[cut:], n - n // 2)]
    return part


def signs(axes: FloatArray) -> FloatArray:
    """(K,) those that make the largest loading of each axis positive."""
    return np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)[:, 0])


def patch_means(
    patch: NDArray[np.intp], values: Iterable[tuple[slice, sp.csr_array]], n_columns: int
) -> NDArray[np.float32]:
    """(P, N) mean over the spots of each patch, of (n, N) values in blocks of rows."""
    mean = mean_operator(patch, np.ones(len(patch))).astype(np.float32)
    total = np.zeros((mean.shape[0], n_columns), dtype=np.float32)
    for rows, block in values:
        total += (mean[:, rows] @ block).toarray()
    return total


def mean_operator(part: NDArray[np.intp], weight: FloatArray) -> sp.csr_array:
    """(P, n) means of the spots of each part, by weight."""
    total = np.bincount(part, weight)
    return sp.csr_array((weight / total[part], (part, np.arange(len(part)))), shape=(len(total), len(part)))


def most_variable(sections: Sequence[Moments], n: int, detected: float = 0.0) -> NDArray[np.intp]:
    """Indices of the n genes of largest mean variance over sections, from most to least variable.

    Only genes detected in at least the share `detected` of the spots of every section; fewer come back where fewer
    qualify.
    """
    (seen,) = np.nonzero(np.all([found.seen >= detected for found in sections], axis=0))
    variance = np.mean([found.square - found.mean**2 for found in sections], axis=0)
    return seen[np.argsort(-variance[seen], kind="stable")[:n]]


def propagation(graph: sp.csr_array) -> sp.csr_array:
    """Spread of one graph convolution, the P of eq. 3: D^-½ (A⁺ + I) D^-½ with A⁺ = max(A, 0) and D its degrees.

    Of an (N, N) symmetric gene graph A with a zero diagonal; symmetric CSR float32, eigenvalues in [-1, 1]. Genes that
    correlate negatively are not mixed; a gene without positive edges keeps to itself.
    """
    looped = graph.maximum(0) + sp.eye_array(graph.shape[0], format="csr")
    scale = sp.diags_array(1 / np.sqrt(looped.sum(axis=1)))
    return sp.csr_array(scale @ looped @ scale).astype(np.float32)


def deformable_sampling(maps: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Sample (K, H, W) maps at deformed taps (eq. 5): out(q) = Σₙ wₙ(q) · maps(q + pₙ + Δpₙ(q)), bilinear between bins.

    `offsets` (T, 2, H, W) shift each of the T = k·k regular taps (row by row, the centre is T // 2) by (dx, dy) in
    bins, x along W; `weights` (T, H, W) are kernel times mask. Beyond the border the nearest bin is taken.
    """
    height, width = maps.shape[1:]
    axes = (torch.arange(n, dtype=maps.dtype, device=maps.device) for n in (height, width))
    y, x = torch.meshgrid(*axes, indexing="ij")
    out = torch.zeros_like(maps)
    # Tap by tap: sampling all at once would hold T copies of the maps.
    for tap, offset, weight in zip(taps(weights.shape[0]), offsets, weights, strict=True):
        out = out + weight * bilinear(maps, torch.stack([x + tap[0] + offset[0], y + tap[1] + offset[1]], dim=-1))
    return out


def bilinear(maps: Tensor, at: Tensor) -> Tensor:
    """(K, h, w) values of (K, H, W) maps at (h, w, 2) places (x, y) in bins; beyond the border that of the border."""
    height, width = maps.shape[1:]
    # To grid_sample's scale, on which an axis goes from -1 to 1. An axis of one bin has one place to look.
    units = (2 / max(n - 1, 1) for n in (width, height))
    scaled = torch.stack([axis * unit - 1 for axis, unit in zip(at.unbind(-1), units, strict=True)], dim=-1)
    return functional.grid_sample(maps[None], scaled[None], padding_mode="border", align_corners=True)[0]


def sample(maps: Tensor, lattice: Lattice, points: FloatArray) -> Tensor:
    """(M, K) bilinear values of (K, H, W) maps at (M, 2) points of the frame; beyond the border that of the border."""
    at = torch.as_tensor((points - np.asarray(lattice.origin)) / lattice.pitch, dtype=maps.dtype, device=maps.device)
    return bilinear(maps, at[None])[:, 0].T


def linear_at(
    maps: Sequence[FloatArray] | FloatArray, lattice: Lattice, points: FloatArray, beyond: float | None = None
) -> FloatArray:
    """(C, M) values of (C, H, W) maps at (M, 2) points of the frame, linear between bins.

    Beyond the border that of the border, or a value that is given.
    """
    at = ((points - np.asarray(lattice.origin)) / lattice.pitch).T[::-1]
    how = {"mode": "nearest"} if beyond is None else {"mode": "constant", "cval": beyond}
    return np.stack([map_coordinates(layer, at, order=1, **how) for layer in maps])


def taps(n: int) -> list[tuple[int, int]]:
    """Places (dx, dy) of the n = k·k taps of a k × k kernel, k odd, row by row."""
    reach = isqrt(n) // 2
    return [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]


def sobel_magnitude(image: Tensor) -> Tensor:
    """(H, W) where a (C, H, W) image changes: amplitude of its Sobel gradient, the mean over the channels.

    In [0, 1], where 1 is the 99th percentile over the image: one scale for all images. 0 where the image is flat, and
    wherever one of the 3 × 3 bins is NaN: the edge of an image is no edge of the tissue.
    """
    from kornia.filters import sobel  # noqa: PLC0415 - it brings all of kornia, half a second

    known = image.isfinite().all(dim=0)
    inside = functional.max_pool2d((~known).to(image)[None], 3, stride=1, padding=1)[0] == 0
    filled = torch.where(known, image, 0)
    amplitude = sobel(filled[None], eps=0.0)[0].mean(dim=0)
    # Rounding leaves a trace on a flat image, which the scale would blow up to structure.
    amplitude = torch.where(inside & (amplitude > 1e-6 * filled.abs().max()), amplitude, 0)
    # Of those inside, behind all others; quantile() refuses more than 16 million bins.
    ranked, n = torch.where(inside, amplitude, -1).flatten().sort().values, inside.sum()
    place = len(ranked) - n + (99 * (n - 1) + 99) // 100
    high = ranked.gather(0, place.clamp(0, len(ranked) - 1)[None])
    scale = torch.where(high > 0, high, amplitude.max())
    return (amplitude / torch.where(scale > 0, scale, 1)).clamp(max=1)


def total_variation(field: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring bins of a (..., H, W) field: the mean along W and along H, averaged.

    An axis of one bin has no neighbours and counts as constant.
    """
    steps = [field.diff(dim=axis).abs() for axis in (-2, -1)]
    return 0.5 * torch.stack([step.sum() / max(step.numel(), 1) for step in steps]).sum()
