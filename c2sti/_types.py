"""What interpolators take and return: plain arrays, no containers, no gene names.

Letters, package-wide: n spots of a section, M points of an interpolated section, N genes, K components, H rows and W
columns of a lattice, S interpolated sections. Row 0 of a lattice is the top: x runs along W, y along H.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti._backed import Expression, Moments, in_memory, moments, some_genes

FloatArray = NDArray[np.floating]
TARGET_SUM = 1e4  # expression is log1p of counts scaled to this in every spot
BY_SECTION = frozenset({"displacement"})  # notes of a prediction with an entry for each of its sections


@dataclass(frozen=True)
class Lattice:
    """A square lattice of bins laid over the shared frame of two sections.

    Parameters
    ----------
    origin
        Centre (x, y) of the top left bin, in the unit of the frame.
    pitch, shape
        Side of a bin, in the unit of the frame; rows and columns, (H, W).
    """

    origin: tuple[float, float]
    pitch: float
    shape: tuple[int, int]

    @property
    def centres(self) -> FloatArray:
        """(H·W, 2) centres of all bins, row by row."""
        rows, columns = np.indices(self.shape).reshape(2, -1)
        return np.column_stack([columns, rows]) * self.pitch + np.asarray(self.origin)

    def coarsened(self, most: int) -> Lattice:
        """The lattice, or one over the same area with at most `most` bins a side."""
        factor = -(-max(self.shape) // most)
        if factor == 1:
            return self
        shift = (factor - 1) / 2 * self.pitch
        origin = (self.origin[0] + shift, self.origin[1] + shift)
        return Lattice(origin, factor * self.pitch, (-(-self.shape[0] // factor), -(-self.shape[1] // factor)))

    def bins(self, xy: FloatArray) -> NDArray[np.intp]:
        """(n,) index of the bin in which each point lies, -1 outside of the lattice."""
        column, row = np.floor((xy - np.asarray(self.origin)) / self.pitch + 0.5).astype(np.intp).T
        inside = (row >= 0) & (row < self.shape[0]) & (column >= 0) & (column < self.shape[1])
        return np.where(inside, row * self.shape[1] + column, -1)


class PointFeatures(Protocol):
    """Maps (M, 2) points of the frame to (M, F) features of an H&E around them, NaN beyond the image.

    The first is the optical density of all dyes, which is near 0 on glass.
    """

    def __call__(self, points: FloatArray) -> FloatArray: ...


@dataclass(frozen=True)
class Section:
    """One measured section in the shared frame.

    Parameters
    ----------
    xy
        (n, 2) spot centres, unit of the frame.
    expression
        (n, N) log1p expression per spot, CSR float32; or what reads it in blocks, where it is left on disk.
    position
        z on the scale of the pair: 0 is section a, 1 is section b; context lies beyond.
    histology
        (3, H, W) mean H&E colour in [0, 1] of each bin of the pair's lattice, NaN where no image covers it; None
        where the section has no image.
    features
        (C_h, H, W) features of that image by an encoder of the user's; None without one.
    counts
        (n, N) the counts behind the expression, None where they are not known.
    library
        (n,) library sizes by which the counts were normalised; None without counts.
    image_features
        Features of the H&E around any point, where the missing section has H&E too; else None.
    """

    xy: FloatArray
    expression: Expression
    position: float
    histology: FloatArray | None = None
    features: FloatArray | None = None
    counts: Expression | None = None
    library: FloatArray | None = None
    image_features: PointFeatures | None = None

    @cached_property
    def moments(self) -> Moments:
        """Mean, mean square and share of spots above zero of each gene."""
        return moments(self.expression)

    @property
    def mean(self) -> FloatArray:
        """(N,) mean expression over the spots."""
        return self.moments.mean

    def each(self, change: Callable[[Expression], Expression]) -> Section:
        """The section with expression and counts changed alike."""
        counts = None if self.counts is None else change(self.counts)
        return replace(self, expression=change(self.expression), counts=counts)


@dataclass(frozen=True)
class SlicePair:
    """Two neighbouring sections, further sections of their series, and the lattice laid over them.

    Parameters
    ----------
    a, b
        The sections at positions 0 and 1, with the same genes in the same order.
    spacing
        Distance between neighbouring spots, mean of the two sections, unit of the frame.
    lattice
        Bins of the result by default, and of histology.
    context
        Sections beyond the pair, any number.
    targets
        (3, H, W) H&E of missing sections that were stained though not sequenced, by position.
    gene_keys
        (N,) hashes of gene names, which make random draws independent of the order of genes.
    target_features
        Features of the images in `targets` around any point, by position.
    """

    a: Section
    b: Section
    spacing: float
    lattice: Lattice
    context: tuple[Section, ...] = ()
    targets: Mapping[float, FloatArray] = field(default_factory=dict)
    gene_keys: NDArray[np.uint64] | None = None
    target_features: Mapping[float, PointFeatures] = field(default_factory=dict)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """(N,) `gene_keys`, or the places of the genes where there are none."""
        return np.arange(self.n_genes, dtype=np.uint64) if self.gene_keys is None else self.gene_keys

    @property
    def sections(self) -> tuple[Section, ...]:
        """The pair, then its context."""
        return (self.a, self.b, *self.context)

    @property
    def n_genes(self) -> int:
        """N, the number of genes."""
        return self.a.expression.shape[1]

    def subset(self, genes: NDArray[np.intp]) -> SlicePair:
        """The pair with some of its genes, by index."""
        a, b, *context = (section.each(lambda x: some_genes(x, genes)) for section in self.sections)
        return replace(self, a=a, b=b, context=tuple(context), gene_keys=self.keys[genes])

    def in_memory(self) -> SlicePair:
        """The pair with no expression left on disk."""
        a, b, *context = (section.each(in_memory) for section in self.sections)
        return replace(self, a=a, b=b, context=tuple(context))


@dataclass(frozen=True)
class InterpolatedSection:
    """One section that was never measured, as ``max(weights @ basis + offset, 0)``.

    The factors are a sparse operator and the measured spots, or component maps and gene loadings. The dense (M, N)
    matrix is computed on request.

    Parameters
    ----------
    weights
        (M, K) dense or CSR.
    basis
        (K, N) dense or CSR; shared by the sections of one prediction.
    offset
        (N,) expression around which the components vary.
    """

    weights: FloatArray | sp.csr_array
    basis: FloatArray | sp.csr_array
    offset: FloatArray

    def expression(self, genes: slice | NDArray[np.intp] = slice(None)) -> NDArray[np.float32]:
        """(M, n) log1p expression of the chosen genes, ≥ 0."""
        return self.block(slice(None), genes)

    def block(self, points: slice, genes: slice | NDArray[np.intp]) -> NDArray[np.float32]:
        """(m, n) log1p expression of the chosen points and genes, ≥ 0."""
        weights, basis = self.weights[points], self.basis
        if sp.issparse(weights) and sp.issparse(basis):
            weights, basis = _of_used_spots(weights.astype(np.float32, copy=False), basis, genes)
        else:
            basis = basis[:, genes]
        values = np.asarray(weights @ basis)
        values += self.offset[genes].astype(values.dtype, copy=False)  # in place: memory is what a gene costs
        return np.maximum(values, 0, out=values).astype(np.float32, copy=False)

    def rows(self, points: slice | NDArray[np.intp]) -> InterpolatedSection:
        """The section at some of its points."""
        return replace(self, weights=self.weights[points])

    def subset(self, genes: NDArray[np.intp]) -> InterpolatedSection:
        """The section with some of its genes, by index."""
        return replace(self, basis=self.basis[:, genes], offset=self.offset[genes])


def _of_used_spots(
    weights: sp.csr_array, basis: sp.sparray, genes: slice | NDArray[np.intp]
) -> tuple[sp.csr_array, NDArray[np.float32]]:
    """Weights and basis of the spots that have a weight, the basis dense: quicker than adding sparse rows."""
    spots, place = np.unique(weights.indices, return_inverse=True)
    few = sp.csr_array((weights.data, place, weights.indptr), shape=(weights.shape[0], len(spots)))
    if basis.format == "csr":
        return few, basis[spots][:, genes].astype(np.float32, copy=False).toarray()
    part = basis[:, genes].tocoo()  # by genes, of which slicing rows is slow
    row = np.full(basis.shape[0], -1)
    row[spots] = np.arange(len(spots))
    kept = row[part.coords[0]] >= 0
    dense = np.zeros((len(spots), part.shape[1]), dtype=np.float32)
    dense[row[part.coords[0][kept]], part.coords[1][kept]] = part.data[kept]
    return few, dense


@dataclass(frozen=True)
class Noise:
    """Variance of a prediction that comes from the noise of measured spots: ``weights @ basis``.

    Parameters
    ----------
    weights
        Returns (S, M, R) numbers ≥ 0. A function, as is `basis`: it is called only if standard deviations are wanted.
    basis
        Returns (R, N) variances of each gene per unit of the weights, ≥ 0.
    """

    weights: Callable[[], FloatArray]
    basis: Callable[[], FloatArray]


@dataclass(frozen=True)
class Prediction:
    """The result of an interpolator.

    Parameters
    ----------
    slices
        S interpolated sections, in the order of the positions.
    notes
        Estimates of the method (length scale, noise, …), numbers and arrays for `uns`; those in `BY_SECTION` have one
        entry for each section.
    noise
        Variance that comes from the noise of measured spots, where the method provides it.
    """

    slices: tuple[InterpolatedSection, ...]
    notes: dict[str, Any] = field(default_factory=dict)
    noise: Noise | None = None

    def subset(self, genes: NDArray[np.intp]) -> Prediction:
        """The sections with some of their genes, by index."""
        noise = self.noise
        if noise is not None:
            basis = noise.basis
            noise = replace(noise, basis=lambda: basis()[:, genes])
        return replace(self, slices=tuple(s.subset(genes) for s in self.slices), noise=noise)

    def part(self, sections: slice, points: slice | NDArray[np.intp] = slice(None)) -> Prediction:
        """Some of the sections, at some of the points."""
        notes = {k: note[sections] if k in BY_SECTION else note for k, note in self.notes.items()}
        noise = self.noise
        if noise is not None:
            weights = noise.weights
            noise = replace(noise, weights=lambda: weights()[sections, points])
        slices = tuple(section.rows(points) for section in self.slices[sections])
        return replace(self, slices=slices, notes=notes, noise=noise)


class ImageEncoder(Protocol):
    """Maps an image, (3, h, w) colour in [0, 1], NaN where unknown, to (C_h, H, W) features of bins."""

    def __call__(self, image: FloatArray, shape: tuple[int, int]) -> FloatArray: ...


class Interpolator(Protocol):
    """A method: the pair, (M, 2) points in its frame, S positions in (0, 1) → S interpolated sections."""

    def __call__(
        self,
        pair: SlicePair,
        at: FloatArray,
        positions: Sequence[float],
        *,
        device: str,
        seed: int,
        progress: Callable[[float], object],
    ) -> Prediction: ...
