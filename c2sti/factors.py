"""A prediction as its factors: weights of each section, and a basis that all of them share.

A section that was never measured is ``max(weights @ basis + offset, 0)``. Here the offsets become columns of the
weights, so that two matrices are all there is, and both are brought to the rank that a tolerance needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh

from c2sti._tasks import one_thread
from c2sti._types import FloatArray, InterpolatedSection, Prediction

TOLERANCE = 1e-4  # root mean square of what compression changes, over that of the values around their mean
NO_STEP = 1e-5  # share of the largest step between offsets up to which there is none
ROWS = 65_536  # that are multiplied together
NOTHING = 1e-13  # share of the largest squared size of a direction up to which it is rounding

Factor: TypeAlias = FloatArray | sp.csr_array  # weights or basis


def compressed(prediction: Prediction, tolerance: float = TOLERANCE) -> Prediction:
    """The same sections on one basis without offsets, of the least rank whose values are the same to a tolerance.

    That is the largest root mean square change of the values of all sections, over that of the values around their
    mean. Weights that are sparse are those of measured spots, and stay as they are.
    """
    weights, basis = on_one_basis(prediction.slices)
    if not any(map(sp.issparse, (*weights, basis))):
        weights, basis = _of_least_rank(weights, np.asarray(basis), tolerance)
    nothing = np.zeros(basis.shape[1], dtype=np.float32)
    return replace(prediction, slices=tuple(InterpolatedSection(w, basis, nothing) for w in weights))


def _of_least_rank(
    weights: Sequence[FloatArray], basis: FloatArray, tolerance: float
) -> tuple[list[FloatArray], FloatArray]:
    """(M, r) weights and (r, N) basis by the singular value decomposition of all values, which are never made.

    With W W' = Q G Q' and R = G^½ Q', W is orthonormal columns times R, and R B B' R' has the eigenvalues s².
    """
    n_rows = sum(map(len, weights))
    with one_thread("blas"):
        total, gram = np.zeros(len(basis)), np.zeros((len(basis), len(basis)))
        for w in weights:
            for first in range(0, len(w), ROWS):
                some = w[first : first + ROWS].astype(np.float64)
                total += some.sum(axis=0)
                gram += some.T @ some
        of_genes = np.zeros_like(gram)
        for first in range(0, basis.shape[1], ROWS):
            some = basis[:, first : first + ROWS].astype(np.float64)
            of_genes += some @ some.T
        size, axes = eigh(gram)
        kept = size > NOTHING * max(size[-1], np.finfo(float).tiny)
        root, axes = np.sqrt(size[kept]), axes[:, kept]
        square, turn = eigh(root[:, None] * (axes.T @ of_genes @ axes) * root)
        around = gram - np.outer(total, total) / max(n_rows, 1)
        spread = float((around * of_genes).sum())
        lost = np.cumsum(np.maximum(square, 0))
        left = lost > tolerance**2 * spread
        turn = turn[:, left][:, ::-1]
        to_weights, to_basis = (axes / root) @ turn, turn.T @ (root[:, None] * axes.T)
        made = (to_basis @ basis).astype(np.float32)
        return [_product(w, to_weights) for w in weights], made


def _product(weights: FloatArray, change: FloatArray) -> NDArray[np.float32]:
    """(M, r) product in double precision, some rows at a time, as float32."""
    found = np.empty((len(weights), change.shape[1]), dtype=np.float32)
    for first in range(0, len(weights), ROWS):
        found[first : first + ROWS] = weights[first : first + ROWS] @ change
    return found


def on_one_basis(slices: Sequence[InterpolatedSection]) -> tuple[list[Factor], Factor]:
    """Weights of sections, one matrix each, on one basis: offsets, and bases of their own, become more columns."""
    bases = {id(s.basis): s.basis for s in slices}
    if len(bases) == 1:
        weights, basis = [s.weights for s in slices], slices[0].basis
    else:
        weights, basis = [_beside_others(s, list(bases.values())) for s in slices], joined(list(bases.values()), axis=0)
    shares, steps = _steps(slices)
    if len(steps) == 0:
        return weights, basis
    ones = [np.ones((w.shape[0], 1)) * share for w, share in zip(weights, shares, strict=True)]
    return [joined(both, axis=1) for both in zip(weights, ones, strict=True)], joined([basis, steps], axis=0)


def _beside_others(section: InterpolatedSection, bases: Sequence[Factor]) -> Factor:
    """Weights of a section on several bases together, which it has one of."""
    n = section.weights.shape[0]
    return joined([section.weights if section.basis is b else sp.csr_array((n, b.shape[0])) for b in bases], axis=1)


def _steps(slices: Sequence[InterpolatedSection]) -> tuple[FloatArray, FloatArray]:
    """(S, R) shares and (R, N) steps that give the offsets of S sections; none where they are zero."""
    offsets = np.stack([np.asarray(s.offset, dtype=np.float64) for s in slices])
    last = offsets[-1]
    shares, size, steps = np.linalg.svd(offsets - last, full_matrices=False)
    kept = size > NO_STEP * max(size[0], np.finfo(float).tiny)
    shares, steps = shares[:, kept] * size[kept], steps[kept]
    if last.any():
        shares, steps = np.column_stack([shares, np.ones(len(slices))]), np.concatenate([steps, last[None]])
    return shares, steps


def with_rows_of(own: Factor, *others: tuple[NDArray[np.bool_], Factor]) -> Factor:
    """A matrix with some of its rows, by mask, taken from others of its shape."""
    if not sp.issparse(own):
        taken = own.copy()
        for rows, other in others:
            taken[rows] = other[rows]
        return taken
    place, parts = np.arange(own.shape[0]), [own]
    for rows, other in others:
        place[rows] = sum(part.shape[0] for part in parts) + np.arange(rows.sum())
        parts.append(other[rows])
    return sp.csr_array(sp.vstack(parts, format="csr")[place])


def joined(parts: Sequence[Factor], axis: int) -> Factor:
    """Matrices side by side (1) or one above the other (0), of the first one's kind and precision."""
    rest = [part.astype(parts[0].dtype, copy=False) for part in parts]
    if not any(map(sp.issparse, parts)):
        return np.concatenate(rest, axis=axis)
    return sp.csr_array((sp.vstack if axis == 0 else sp.hstack)([sp.csr_array(part) for part in rest]))
