"""How close an inserted section comes to the measured one: the scores of the benchmark.

Every score is a function of two (n, N) matrices, `predicted` and `measured`, with the same rows (spots or bins) and
columns (genes), both log1p expression. Nothing is guessed from the data: ranges are arguments, and rows outside of a
tissue are left out by `mask`.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._types import FloatArray

__all__ = ["ceiling", "gene_pcc", "pcc", "psnr", "rmse", "rv", "ssim"]

_FLAT = 1e-9  # below this product of lengths a correlation is undefined


def _rows(x: FloatArray, mask: NDArray[np.bool_] | None) -> FloatArray:
    dense = np.asarray(x.toarray() if isinstance(x, sp.sparray | sp.spmatrix) else x, dtype=np.float64)
    return dense if mask is None else dense[mask]


def _check(predicted: FloatArray, measured: FloatArray) -> None:
    if predicted.shape != measured.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, measured {measured.shape}; they must be equal")


def gene_pcc(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> FloatArray:
    """Pearson correlation over spots, gene by gene.

    Parameters
    ----------
    predicted, measured
        (n, N) log1p expression, dense or sparse.
    mask
        (n,) rows to score; all by default.

    Returns
    -------
    (N,) correlations in [-1, 1]. A gene that is constant in either matrix scores 0: an undefined score is never
    dropped, or a method could raise its mean by predicting constants.

    Raises
    ------
    ValueError
        The matrices differ in shape.

    Examples
    --------
    >>> import numpy as np
    >>> float(gene_pcc(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))[0])
    1.0
    """
    p, m = _rows(predicted, mask), _rows(measured, mask)
    _check(p, m)
    p, m = p - p.mean(axis=0), m - m.mean(axis=0)
    length = np.sqrt(np.square(p).sum(axis=0) * np.square(m).sum(axis=0))
    return np.where(length > _FLAT, (p * m).sum(axis=0) / np.maximum(length, _FLAT), 0.0)


def pcc(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Mean over genes of the Pearson correlation over spots.

    Parameters
    ----------
    predicted, measured, mask
        As in :func:`gene_pcc`.

    Returns
    -------
    Number in [-1, 1], 1 at best.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]])
    >>> round(pcc(x, 2 * x + 1), 6)
    1.0
    """
    return float(gene_pcc(predicted, measured, mask=mask).mean())


def rmse(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Root mean squared error, pooled over spots and genes.

    Parameters
    ----------
    predicted, measured, mask
        As in :func:`gene_pcc`.

    Returns
    -------
    Number ≥ 0 in units of log1p expression, 0 at best.

    Examples
    --------
    >>> import numpy as np
    >>> rmse(np.zeros((2, 2)), np.full((2, 2), 3.0))
    3.0
    """
    p, m = _rows(predicted, mask), _rows(measured, mask)
    _check(p, m)
    return float(np.sqrt(np.square(p - m).mean()))


def rv(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Similarity of the two gene × gene correlation matrices: is co-expression preserved?

    The RV coefficient of the matrices with their diagonals left out. It holds two dense (N, N) matrices.

    Parameters
    ----------
    predicted, measured, mask
        As in :func:`gene_pcc`.

    Returns
    -------
    Number in [-1, 1]: 1 where the matrices are proportional, 0 where they share nothing or one of them is empty.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0, 1.0], [1.0, 0.5], [2.0, 3.0]])
    >>> round(rv(x, x), 6)
    1.0
    """
    p, m = _rows(predicted, mask), _rows(measured, mask)
    _check(p, m)
    a, b = _correlations(p), _correlations(m)
    size = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / size) if size > _FLAT else 0.0


def _correlations(x: FloatArray) -> FloatArray:
    z = x - x.mean(axis=0)
    z = z / np.maximum(np.linalg.norm(z, axis=0), _FLAT)
    correlations = z.T @ z
    np.fill_diagonal(correlations, 0)
    return correlations


def psnr(
    predicted: FloatArray, measured: FloatArray, *, data_range: float, mask: NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio, from the mean squared error pooled over spots and genes.

    Parameters
    ----------
    predicted, measured, mask
        As in :func:`gene_pcc`.
    data_range
        The range that the values can take. Scores made with different ranges cannot be compared, so it is never
        guessed.

    Returns
    -------
    Number in dB, infinite where the matrices are equal.

    Examples
    --------
    >>> import numpy as np
    >>> psnr(np.zeros((2, 2)), np.ones((2, 2)), data_range=10.0)
    20.0
    """
    error = rmse(predicted, measured, mask=mask)
    return float("inf") if error == 0 else float(20 * np.log10(data_range / error))


def ssim(
    predicted: FloatArray, measured: FloatArray, *, data_range: float, mask: NDArray[np.bool_] | None = None
) -> float:
    """Structural similarity of gene maps on a lattice, mean over genes and tissue bins.

    Parameters
    ----------
    predicted, measured
        (N, H, W) log1p expression, H and W of at least 7; finite everywhere (0 outside of the tissue, say).
    data_range
        The range that the values can take; see :func:`psnr`.
    mask
        (H, W) bins over which the local similarities are averaged; all by default.

    Returns
    -------
    Number in [-1, 1], 1 at best.

    Examples
    --------
    >>> import numpy as np
    >>> maps = np.random.default_rng(0).random((2, 16, 16))
    >>> ssim(maps, maps, data_range=1.0)
    1.0
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - seldom wanted, and slow to import

    _check(predicted, measured)
    mask = np.ones(predicted.shape[1:], dtype=bool) if mask is None else mask
    local = [
        structural_similarity(p, m, data_range=data_range, full=True)[1][mask].mean()
        for p, m in zip(np.asarray(predicted, float), np.asarray(measured, float), strict=True)
    ]
    return float(np.mean(local))


def ceiling(
    counts: FloatArray | sp.csr_array, *, genes: NDArray[np.intp] | slice = slice(None), seed: int = 0
) -> float:
    """The mean PCC that a perfect prediction could reach, given the count noise of the measured section itself.

    The counts are split into two binomial halves, whose correlation gives the reliability of a half; the Spearman–Brown
    formula turns it into that of the whole, and its square root is the correlation of the whole with the noise-free
    truth. What both halves share counts as truth, a spot's own capture efficiency too, so it is an upper bound.

    Parameters
    ----------
    counts
        (n, N) raw integer counts of the held-out section, all genes (they make the library size).
    genes
        Columns to score.
    seed
        Of the binomial split.

    Returns
    -------
    Number in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> deep = np.array([[10**6, 10**5], [10**5, 10**6], [10**6, 10**6]])
    >>> round(ceiling(deep), 2)
    1.0
    """
    whole = _rows(counts, None).astype(np.int64)
    half = np.random.default_rng(seed).binomial(whole, 0.5)
    r = np.maximum(gene_pcc(_log_normalise(half)[:, genes], _log_normalise(whole - half)[:, genes]), 0)
    return float(np.sqrt(2 * r / (1 + r)).mean())


def _log_normalise(counts: FloatArray | sp.csr_array) -> FloatArray:
    """Dense (n, N) counts scaled to 1e4 a spot, then log1p; a spot without counts stays zero."""
    dense = _rows(counts, None)
    return np.log1p(dense / np.maximum(dense.sum(axis=1, keepdims=True), 1) * 1e4)
