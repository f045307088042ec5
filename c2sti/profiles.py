"""Expression profiles of the spots of several sections: their principal axes, and where the spots lie on them.

Few spots are compared with each other rather than many genes: the axes come from the (n, n) inner products of the
spots. Centring each section, weighting or smoothing its spots are operators on the left, so they are applied to the
inner products afterwards, and what several descriptions of the same spots share is multiplied once. Genes are made
dense in single precision, a view at a time; of many spots everything stays sparse (Lanczos).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds

from c2sti._types import FloatArray

DENSE = 256  # columns up to which all axes of many spots are found, exactly; of more the leading ones, by Lanczos
COLUMNS = 8  # of a small operator that are made at once
GRAM = 3000  # spots up to which principal axes come from their inner products
DOUBLE = 2**22  # values of a view up to which they are kept in double precision: it costs nothing there
BLOCK = 2**24  # values of a view that are dense at the same time
CHUNK = 4096  # genes whose products are summed in single precision


class Room:
    """Memory that the dense values of one view after another are written into: fresh memory takes longer than they."""

    def __init__(self) -> None:
        self._values = np.empty(0)

    def of(self, shape: tuple[int, int], dtype: type) -> FloatArray:
        """An array of that shape, which nobody else reads any more; of unknown values."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self._values.nbytes < size:
            self._values = np.empty(-(-size // 8))
        return self._values.view(np.uint8)[:size].view(dtype).reshape(shape)


@dataclass(frozen=True)
class View:
    """What is known of the spots in one respect: (n_i, N) CSR a section, the same genes in all; and room to work in."""

    sections: Sequence[sp.csr_array]
    room: Room = field(default_factory=Room)

    @property
    def shape(self) -> tuple[int, int]:
        """n, N."""
        return sum(s.shape[0] for s in self.sections), self.sections[0].shape[1]

    @cached_property
    def gram(self) -> FloatArray:
        """(n, n) inner products of the spots, as they are."""
        gram = np.zeros((self.shape[0],) * 2)
        for _, block in self.blocks():
            for first in range(0, block.shape[1], CHUNK):
                part = block[:, first : first + CHUNK]
                gram += part @ part.T
        return gram

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Genes, and the (n, b) dense values of them, good until the next ones of the same room are asked for."""
        n, n_genes = self.shape
        dtype = np.float64 if n * n_genes <= DOUBLE else np.float32
        width = min(max(BLOCK // n, 1), n_genes)
        ends = np.cumsum([s.shape[0] for s in self.sections])[:-1]
        for first in range(0, n_genes, width):
            genes = slice(first, min(first + width, n_genes))
            dense = self.room.of((n, genes.stop - first), dtype)
            for section, rows in zip(self.sections, np.split(dense, ends), strict=True):
                chosen = section if width == n_genes else section[:, genes]
                chosen.astype(dtype, copy=False).toarray(out=rows)
            yield genes, dense


@dataclass(frozen=True)
class Profiles:
    """The spots of several sections in several views, side by side: M = N · views columns."""

    views: Sequence[View]

    @property
    def lengths(self) -> list[int]:
        """Spots of each section."""
        return [s.shape[0] for s in self.views[0].sections]

    @property
    def shape(self) -> tuple[int, int]:
        """n, M."""
        return self.views[0].shape[0], sum(view.shape[1] for view in self.views)

    @property
    def few(self) -> bool:
        """Whether the spots are compared with each other."""
        return self.shape[0] <= min(GRAM, self.shape[1])

    def beside(self, others: Sequence[View]) -> Profiles:
        """The same spots with further views."""
        return Profiles([*self.views, *others])

    def axes(self, n_axes: int, smoother: sp.csr_array | None = None) -> FloatArray:
        """Principal axes of the profiles, each section centred by its own mean, then smoothed.

        Parameters
        ----------
        n_axes
            Number wanted, K; fewer come back where the data have fewer.
        smoother
            (n, n) operator on the spots, or None.

        Returns
        -------
        (K, M) orthonormal rows, strongest first; the largest loading of each is positive. One without variance may be
        zero.
        """
        rank = self._rank(n_axes)
        axes = self._by_gram(rank, smoother)[0] if self.few else self._by_lanczos(rank, smoother)
        return axes * signs(axes)[:, None]

    def leading(self, n_axes: int) -> FloatArray:
        """(n, K) centred profiles on their principal axes, up to the sign of each."""
        if not self.few:
            return self.scores(self.axes(n_axes))
        return self._inner @ self._weights(self._rank(n_axes), None)

    def principal(self, n_axes: int, smoother: sp.csr_array | None = None) -> tuple[FloatArray, FloatArray]:
        """The same axes, and the (n, K) centred profiles on them, not smoothed."""
        if not self.few:
            axes = self.axes(n_axes, smoother)
            return axes, self.scores(axes)
        axes, weights = self._by_gram(self._rank(n_axes), smoother)
        sign = signs(axes)
        return axes * sign[:, None], self._inner @ (weights * sign)

    def scores(self, axes: FloatArray) -> FloatArray:
        """(n, K) centred profiles on (K, M) axes."""
        if not self.few:
            return np.concatenate([s @ axes.T - s.mean(axis=0) @ axes.T for s in self._side_by_side])
        found = np.zeros((self.shape[0], len(axes)))
        for columns, block in self._blocks():
            found += block @ axes[:, columns].T.astype(block.dtype, copy=False)
        return self._centred(found)

    def sizes(self) -> FloatArray:
        """(n,) squared distance of each spot from the mean of its section."""
        if self.few:
            return np.diagonal(self._inner).copy()
        found = []
        for values in self._side_by_side:
            mean = values.mean(axis=0)
            square = np.asarray(values.multiply(values).sum(axis=1)).ravel()
            found.append(square - 2 * (values @ mean) + mean @ mean)
        return np.concatenate(found)

    def _rank(self, n_axes: int) -> int:
        n, n_columns = self.shape
        return min(n - 1, n_columns, n_axes)  # centring takes one from the spots, and none from the columns

    # ---- few spots

    def _blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Columns among the M, and the (n, b) dense values of them."""
        start = 0
        for view in self.views:
            for genes, block in view.blocks():
                yield slice(start + genes.start, start + genes.stop), block
            start += view.shape[1]

    def _centred(self, values: FloatArray) -> FloatArray:
        """(n, …) minus the mean over the spots of each section."""
        parts = np.split(values, np.cumsum(self.lengths)[:-1])
        return np.concatenate([part - part.mean(axis=0) for part in parts])

    @cached_property
    def _inner(self) -> FloatArray:
        """(n, n) inner products of the centred spots."""
        raw = sum(view.gram for view in self.views[1:]) + self.views[0].gram
        return self._centred(self._centred(raw).T)

    def _weights(self, rank: int, smoother: sp.csr_array | None) -> FloatArray:
        """(n, K) weights of the spots of which principal axes are made."""
        inner = self._inner if smoother is None else smoother @ (smoother @ self._inner).T
        n = len(inner)
        power, vectors = scipy.linalg.eigh(inner, subset_by_index=[n - rank, n - 1], check_finite=False)
        strength, vectors = np.sqrt(np.maximum(power[::-1], 0)), vectors[:, ::-1]
        # An axis without variance is zero, not rounding over rounding.
        present = _present(strength, 1e-4 if self._single else 1e-7)
        weights = vectors * np.where(present, 1 / np.where(present, strength, 1), 0)
        return self._centred(weights if smoother is None else smoother.T @ weights)

    def _by_gram(self, rank: int, smoother: sp.csr_array | None) -> tuple[FloatArray, FloatArray]:
        """Axes, and the (n, K) weights of the spots that they are made of."""
        weights = self._weights(rank, smoother)
        axes = np.empty((rank, self.shape[1]), np.float32 if self._single else np.float64)
        for columns, block in self._blocks():
            axes[:, columns] = weights.T.astype(block.dtype) @ block
        return axes, weights

    @property
    def _single(self) -> bool:
        return bool(np.prod(self.views[0].shape) > DOUBLE)

    # ---- many spots

    @cached_property
    def _side_by_side(self) -> list[sp.csr_array]:
        """(n_i, M) of each section."""
        sections = zip(*(view.sections for view in self.views), strict=True)
        return [views[0] if len(views) == 1 else sp.hstack(views, format="csr") for views in sections]

    def _by_lanczos(self, rank: int, smoother: sp.csr_array | None) -> FloatArray:
        """Neither the centring nor the smoothing is carried out on the matrix, but inside matrix-vector products."""
        stacked = sp.vstack([x.astype(np.float64) for x in self._side_by_side], format="csr")
        labels = np.repeat(np.arange(len(self.lengths)), self.lengths)
        member = sp.csr_array((np.ones(len(labels)), (np.arange(len(labels)), labels)))
        means = (member.T @ stacked).toarray() / np.array(self.lengths)[:, None]

        def forward(v: FloatArray) -> FloatArray:
            centred = stacked @ v - member @ (means @ v)
            return centred if smoother is None else smoother @ centred

        def backward(u: FloatArray) -> FloatArray:
            u = u if smoother is None else smoother.T @ u
            return stacked.T @ u - means.T @ (member.T @ u)

        if self.shape[1] <= DENSE:
            return _all_axes(lambda v: backward(forward(v)), self.shape[1])[:rank]
        operator = LinearOperator(
            self.shape, matvec=forward, rmatvec=backward, matmat=forward, rmatmat=backward, dtype=np.float64
        )
        # A fixed start makes Lanczos deterministic without touching anybody's random state.
        start = np.random.default_rng(0).standard_normal(min(self.shape))
        if not backward(forward(np.resize(start, self.shape[1]))).any():
            return np.zeros((rank, self.shape[1]))  # nothing varies, which Lanczos takes for a mistake
        _, strength, axes = svds(operator, k=rank, v0=start, solver="arpack")
        order = np.argsort(-strength)
        # Where there are fewer axes than were asked for, the others are rounding, from a start that scipy draws.
        return axes[order] * _present(strength[order])[:, None]


def _all_axes(gram: Callable[[FloatArray], FloatArray], n: int) -> FloatArray:
    """(n, n) eigenvectors of a small symmetric operator as rows, strongest first; zero where it has nothing left."""
    # A few columns at a time: each is as long as there are spots on its way.
    parts = np.split(np.eye(n), range(COLUMNS, n, COLUMNS), axis=1)
    power, vectors = scipy.linalg.eigh(np.concatenate([gram(part) for part in parts], axis=1))
    return vectors.T[::-1] * _present(np.sqrt(np.maximum(power[::-1], 0)))[:, None]


def _present(strength: FloatArray, least: float = 1e-7) -> NDArray[np.bool_]:
    """Which axes are more than rounding beside the strongest, by their singular values."""
    return strength > least * strength.max(initial=0)


def signs(axes: FloatArray) -> FloatArray:
    """(K,) those that make the largest loading of each axis positive."""
    return np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)[:, 0])
