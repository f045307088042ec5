"""How close an interpolated section comes to the measured one: scores of two (n, N) matrices of log1p expression.

Nothing is guessed from the data: ranges are arguments, and rows outside of a tissue are left out by `mask`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti import _validators
from c2sti._docs import documented
from c2sti._types import FloatArray

__all__ = ["ceiling", "gene_ceiling", "gene_pcc", "pcc", "psnr", "rmse", "rv", "ssim"]

WINDOW = 7  # bins a side over which structural similarity is local
_FLAT = 1e-9  # below this product of lengths a correlation is undefined


@documented
def gene_pcc(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> FloatArray:
    """Pearson correlation over spots, gene by gene.

    Parameters
    ----------
    %(shared)s

    Returns
    -------
    (N,) correlations in [-1, 1]. A gene that is constant in either matrix scores 0: an undefined score is never
    dropped, or a method could raise its mean by predicting constants.

    Examples
    --------
    >>> import numpy as np
    >>> float(gene_pcc(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))[0])
    1.0
    """
    p, m = _two(predicted, measured, mask)
    p, m = p - p.mean(axis=0), m - m.mean(axis=0)
    length = np.sqrt(np.square(p).sum(axis=0) * np.square(m).sum(axis=0))
    return np.where(length > _FLAT, (p * m).sum(axis=0) / np.maximum(length, _FLAT), 0.0)


@documented
def pcc(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Mean over genes of the Pearson correlation over spots.

    Parameters
    ----------
    %(shared)s

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


@documented
def rmse(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Root mean squared error, pooled over spots and genes.

    Parameters
    ----------
    %(shared)s

    Returns
    -------
    Number ≥ 0 in units of log1p expression, 0 at best.

    Examples
    --------
    >>> import numpy as np
    >>> rmse(np.zeros((2, 2)), np.full((2, 2), 3.0))
    3.0
    """
    p, m = _two(predicted, measured, mask)
    return float(np.sqrt(np.square(p - m).mean()))


@documented
def rv(predicted: FloatArray, measured: FloatArray, *, mask: NDArray[np.bool_] | None = None) -> float:
    """Similarity of the two gene × gene correlation matrices: is co-expression preserved?

    The RV coefficient of the matrices with their diagonals left out. It holds two dense (N, N) matrices.

    Parameters
    ----------
    %(shared)s

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
    p, m = _two(predicted, measured, mask)
    a, b = _correlations(p), _correlations(m)
    size = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / size) if size > _FLAT else 0.0


@documented
def psnr(
    predicted: FloatArray, measured: FloatArray, *, data_range: float, mask: NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio, from the mean squared error pooled over spots and genes.

    Parameters
    ----------
    %(shared)s

    Returns
    -------
    Number in dB, infinite where the matrices are equal.

    Examples
    --------
    >>> import numpy as np
    >>> psnr(np.zeros((2, 2)), np.ones((2, 2)), data_range=10.0)
    20.0
    """
    data_range = _validators.number(data_range, "data_range", above=0)
    error = rmse(predicted, measured, mask=mask)
    return float("inf") if error == 0 else float(20 * np.log10(data_range / error))


@documented
def ssim(
    predicted: FloatArray, measured: FloatArray, *, data_range: float, mask: NDArray[np.bool_] | None = None
) -> float:
    """Structural similarity of gene maps on a lattice, mean over genes and tissue bins.

    Parameters
    ----------
    predicted, measured
        (N, H, W) log1p expression, H and W of at least 7; finite everywhere (0 outside of the tissue, say).
    mask
        (H, W) bins over which the local similarities are averaged; all by default.
    %(shared)s

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

    data_range = _validators.number(data_range, "data_range", above=0)
    maps, truth = _two(predicted, measured, None, "(N, H, W)")
    if min(maps.shape[1:]) < WINDOW:
        raise ValueError(f"predicted and measured have shape {maps.shape}; {WINDOW} or more bins a side are needed")
    inside = _mask(mask, maps.shape[1:])
    local = [
        structural_similarity(p, m, data_range=data_range, full=True)[1][inside].mean()
        for p, m in zip(maps, truth, strict=True)
    ]
    return float(np.mean(local))


def ceiling(
    counts: FloatArray | sp.csr_array, *, genes: NDArray[np.intp] | slice = slice(None), seed: int = 0
) -> float:
    """Noise ceiling: mean over genes of :func:`gene_ceiling`.

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
    return float(gene_ceiling(counts, genes=genes, seed=seed).mean())


def gene_ceiling(
    counts: FloatArray | sp.csr_array, *, genes: NDArray[np.intp] | slice = slice(None), seed: int = 0
) -> FloatArray:
    """Noise ceiling, gene by gene: the PCC that a perfect prediction could reach, given the section's own count noise.

    Count splitting gives two binomial halves, whose correlation is the reliability of a half; the Spearman–Brown
    formula turns it into that of the whole, and its square root is the correlation of the whole with the noise-free
    truth. What both halves share counts as truth, a spot's own capture efficiency too, so it is an upper bound. That of
    a single gene is an estimate of its own, and rough where spots are few.

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
    (N,) numbers in [0, 1]; 0 for a gene whose halves do not correlate.

    Examples
    --------
    >>> import numpy as np
    >>> deep = np.array([[10**6, 10**5], [10**5, 10**6], [10**6, 10**6]])
    >>> gene_ceiling(deep).round(2).tolist()
    [1.0, 1.0]
    """
    given = _finite(_matrix(counts, "counts"), "counts")
    if given.min() < 0 or (given != np.rint(given)).any():
        kind = "negative values" if given.min() < 0 else "values that are not whole"
        raise ValueError(f"counts holds {kind}; give raw counts, before normalisation")
    try:
        chosen = np.atleast_1d(np.arange(given.shape[1])[genes])
    except IndexError as error:
        raise ValueError(f"genes = {_validators.shown(genes)} are no columns of counts ({error})") from error
    if chosen.size == 0:
        raise ValueError(f"genes = {_validators.shown(genes)} chooses no column of counts; choose one or more")
    whole = given.astype(np.int64)
    half = np.random.default_rng(_validators.seed(seed)).binomial(whole, 0.5)
    r = np.maximum(gene_pcc(_log_normalise(half)[:, chosen], _log_normalise(whole - half)[:, chosen]), 0)
    return np.sqrt(2 * r / (1 + r))


# ---- checks and helpers


def _matrix(x: Any, name: str, wanted: str = "(n, N)") -> FloatArray:
    """An array as dense double precision, with as many axes as are wanted and something along each."""
    dense = _validators.reals(x.toarray() if isinstance(x, sp.sparray | sp.spmatrix) else x, name)
    if dense.ndim != wanted.count(",") + 1 or 0 in dense.shape:
        raise ValueError(f"{name} has shape {dense.shape}; {wanted} is needed, with something in it")
    return dense


def _finite(x: FloatArray, name: str) -> FloatArray:
    if not np.isfinite(x).all():
        found = "NaN" if np.isnan(x).any() else "infinite"
        raise ValueError(f"{name} holds {found} values, with which no score is a number; leave their rows out by mask=")
    return x


def _mask(mask: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask as it is, or one that takes everything."""
    found = np.ones(shape, dtype=bool) if mask is None else np.asarray(mask)
    if found.dtype != bool or found.shape != shape:
        raise ValueError(
            f"mask has shape {found.shape} and holds {found.dtype}; True or False of shape {shape} is needed"
        )
    if not found.any():
        raise ValueError("mask is False everywhere, so there is nothing to score; take one that is True somewhere")
    return found


def _two(
    predicted: FloatArray, measured: FloatArray, mask: NDArray[np.bool_] | None, wanted: str = "(n, N)"
) -> tuple[FloatArray, FloatArray]:
    """Both as matrices of one shape, finite in the rows to score, and these rows alone."""
    p, m = _matrix(predicted, "predicted", wanted), _matrix(measured, "measured", wanted)
    if p.shape != m.shape:
        raise ValueError(f"predicted has shape {p.shape}, measured {m.shape}; they must be equal")
    if mask is not None:
        rows = _mask(mask, p.shape[:1])
        p, m = p[rows], m[rows]
    return _finite(p, "predicted"), _finite(m, "measured")


def _correlations(x: FloatArray) -> FloatArray:
    z = x - x.mean(axis=0)
    z = z / np.maximum(np.linalg.norm(z, axis=0), _FLAT)
    correlations = z.T @ z
    np.fill_diagonal(correlations, 0)
    return correlations


def _log_normalise(counts: FloatArray | NDArray[np.int64]) -> FloatArray:
    """(n, N) counts scaled to 1e4 a spot, then log1p; a spot without counts stays zero."""
    return np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 1e4)
