"""What the network starts from: the sections as programmes of genes, each a map over the tissue with its loadings.

The paper's graph A (eq. 2) says which genes vary together; its leading directions are programmes, and a gene belongs
to each by a loading. `gp` takes them from log expression alone, with maps that are smooth without end. Four things make
them better without any training, the last three about counts, which are what was measured:

- **roughness**: maps are Matérn fields, with one derivative; tissue has borders;
- **views**: counts say more than their normalised logarithm, in which one molecule is 0.7 in a deep spot and 3 in a
  shallow one. Programmes are principal axes of three views side by side, of which the loadings on log expression stay;
- **variance**: shallow spots are noisier and count for less, both for the programmes and for their maps;
- **splits**: a programme found in the very counts that are then projected on it carries their noise twice. Counts are
  thinned into two independent halves, one gives the loadings, the other the maps, and several halvings are averaged.

Where counts are not given, only the first of them applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from c2sti._stored import in_memory
from c2sti._types import FloatArray, Noise, Section, SlicePair
from c2sti.field import EXACT, Field, Kernel, Observed, observe
from c2sti.profiles import GRAM, Profiles, Room, View
from c2sti.thinning import split

TARGET_SUM = 1e4  # log expression is log1p of counts scaled to this
LARGEST_RESIDUAL = 10.0


@dataclass(frozen=True)
class Programmes:
    """K programmes: how they lie in the tissue, and how genes belong to them.

    Parameters
    ----------
    loadings
        (K, N) on log expression.
    field
        Their maps, seen through noise.
    """

    loadings: FloatArray
    field: Field

    def at(self, points: FloatArray, positions: Sequence[float], spacing: float) -> FloatArray:
        """(S, M, K) maps at (M, 2) points of the frame and S positions."""
        return self.field.at(points / spacing, positions)


@dataclass(frozen=True)
class Counts:
    """Counts of a section, (n, N) CSR, and the (n,) counts of each spot over all genes that were measured."""

    counts: sp.csr_array
    depth: FloatArray

    def log_expression(self) -> sp.csr_array:
        """log1p of counts scaled to 1e4 a spot."""
        return self._of_entries(np.log1p(self.counts.data * self._by_entry(TARGET_SUM / self.depth)))

    def log_counts(self) -> sp.csr_array:
        """log1p of the counts as they are: large where a spot is deep."""
        return self._of_entries(np.log1p(self.counts.data))

    def residuals(self) -> sp.csr_array:
        """Counts over the standard deviation that chance would give them, sqrt(depth · share of the gene)."""
        counts = self.counts
        share = np.bincount(counts.indices, counts.data, counts.shape[1]) / self.depth.sum()
        deviation = self._by_entry(np.sqrt(self.depth)) * np.sqrt(share).astype(counts.dtype)[counts.indices]
        return self._of_entries(np.minimum(counts.data / deviation, LARGEST_RESIDUAL))

    def halves(self, gene_keys: NDArray[np.uint64], *seeds: int) -> tuple[Counts, Counts]:
        """Two independent sections of half the library size, see :func:`c2sti.thinning.split`."""
        first = split(self.counts, gene_keys, *seeds)
        pair = (first, self.counts.data - first)
        one, other = (Counts(_without_zeros(self._of_entries(data)), self.depth / 2) for data in pair)
        return one, other

    def _of_entries(self, data: FloatArray) -> sp.csr_array:
        """Other values in the places of the counts."""
        return sp.csr_array((data, self.counts.indices, self.counts.indptr), shape=self.counts.shape)

    def _by_entry(self, by_spot: FloatArray) -> FloatArray:
        return np.repeat(by_spot.astype(self.counts.dtype), np.diff(self.counts.indptr))


def _without_zeros(values: sp.csr_array) -> sp.csr_array:
    made = values.copy()
    made.eliminate_zeros()  # in place, hence the copy
    return made


def counted(section: Section) -> Counts | None:
    """The counts of a section in memory, None where they are not known."""
    library = known_library(section)
    return None if library is None or section.counts is None else Counts(in_memory(section.counts), library)


def known_library(section: Section) -> FloatArray | None:
    """(n,) library sizes; a spot without a count has the least. None where counts are not known."""
    if section.counts is None or section.library is None:
        return None
    library = np.asarray(section.library, dtype=np.float64)
    return np.where(library > 0, library, library[library > 0].min(initial=np.inf))


def describe(
    pair: SlicePair,
    *,
    n_programmes: int = 60,
    n_splits: int = 2,
    views: bool = True,
    rough: bool = True,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> list[Programmes]:
    """The sections as programmes, by several descriptions that are to be averaged; the first is that of all counts.

    Parameters
    ----------
    pair
        Two sections and their context.
    n_programmes
        K of each description.
    n_splits
        Halvings of the counts, two descriptions each. Sections of more than 2,500 spots together are not halved: they
        have less noise to lose and more time to cost.
    views
        Whether to look at counts at all.
    rough
        Whether maps are Matérn fields. ``views=False, rough=False`` is `gp`.
    seed
        Of the halvings, and of the spots to learn from.
    progress
        Is told each share of the work that has been done, 1 in all.
    """
    # Sums come out in one order, and the same bytes, whatever the number of threads. They would gain little here.
    with threadpool_limits(1 if sum(len(s.xy) for s in pair.sections) <= GRAM else None):
        return _described(pair, n_programmes, n_splits, views, rough, device, seed, progress)


def _described(
    pair: SlicePair,
    n_programmes: int,
    n_splits: int,
    views: bool,
    rough: bool,
    device: str,
    seed: int,
    progress: Callable[[float], object],
) -> list[Programmes]:
    sections = pair.sections
    room = Room()
    given = Profiles([View([s.expression for s in sections], room)])
    axes, scores = given.principal(n_programmes)
    progress(0.2)
    plain = Field.learn(_observe(pair, scores, None, device), seed, gaussian=not rough)
    progress(0.2)
    counts = [counted(s) for s in sections] if views else [None]
    measured = [c for c in counts if c is not None]
    if len(measured) < len(sections):
        return [Programmes(axes, plain)]
    whole = given.beside(_views(measured, room)[1:])
    depths = np.concatenate([c.depth for c in measured])
    variance = _spot_variances(pair, whole, depths, plain.kernel, n_programmes, device, seed)
    weight = sp.diags_array(variance**-0.5).tocsr()
    found = [whole.principal(n_programmes, weight)]
    progress(0.2)
    for turn in range(n_splits if len(variance) <= EXACT else 0):
        halves = zip(*(c.halves(pair.keys, seed, turn) for c in measured), strict=True)
        one, other = (Profiles(_views(half, room)) for half in halves)
        for source, projected in ((one, other), (other, one)):
            axes = source.axes(n_programmes, weight)
            found.append((axes, projected.scores(axes)))
        progress(0.4 / n_splits)
    # All see the spots through the same noise, hence one field, whose costly part is done once.
    together = Field.with_kernel(
        _observe(pair, np.concatenate([scores for _, scores in found], axis=1), variance, device), plain.kernel, seed
    )
    fields = together.split([len(axes) for axes, _ in found])
    return [Programmes(axes[:, : pair.n_genes], field) for (axes, _), field in zip(found, fields, strict=True)]


def noise_of(programmes: Sequence[Programmes], at: FloatArray, positions: Sequence[float], spacing: float) -> Noise:
    """Variance of the mean of several descriptions: the mean of their variances, for they err alike."""
    return Noise(
        lambda: Field.joined([p.field for p in programmes]).variance_at(at / spacing, positions),
        lambda: np.concatenate([np.square(p.loadings) for p in programmes]) / len(programmes),
    )


def _views(sections: Sequence[Counts], room: Room) -> list[View]:
    """Log expression, log counts and residuals."""
    return [
        View([c.log_expression() for c in sections], room),
        View([c.log_counts() for c in sections], room),
        View([c.residuals() for c in sections], room),
    ]


def _observe(pair: SlicePair, scores: FloatArray, variance: FloatArray | None, device: str) -> Observed:
    """(n, K) scores of all spots, and their (n,) variances, as what is seen of fields."""
    ends = np.cumsum([len(s.xy) for s in pair.sections])[:-1]
    return observe(
        [s.xy / pair.spacing for s in pair.sections],
        [s.position for s in pair.sections],
        np.split(scores, ends),
        variances=None if variance is None else np.split(variance, ends),
        device=device,
    )


def _spot_variances(
    pair: SlicePair,
    profiles: Profiles,
    depths: FloatArray,
    kernel: Kernel,
    n_programmes: int,
    device: str,
    seed: int,
) -> FloatArray:
    """(n,) how noisy a spot is for its depth, 1 on average (geometric): what smooth programmes leave unexplained.

    A curve over the logarithm of the depth, one for all sections: a spot's own residual would be noise itself.
    """
    scores = profiles.leading(n_programmes)
    field = Field.with_kernel(_observe(pair, scores, None, device), kernel, seed)
    maps = np.concatenate([field.at(s.xy / pair.spacing, [s.position])[0] for s in pair.sections])
    # The axes are orthonormal: |y - f·axes|² without ever making y - f·axes.
    left = profiles.sizes() - 2 * (scores * maps).sum(axis=1) + (maps**2).sum(axis=1)
    x = np.log(depths)
    return noise_over_depth(x, left, x)


def noise_over_depth(seen: FloatArray, left: FloatArray, log_depth: FloatArray) -> FloatArray:
    """(n,) noise at depths, 1 on average, by a parabola over what (m,) spots of other log depths leave unexplained."""
    degree = min(2, len(np.unique(seen.round(9))) - 1)  # a line through two depths, a level at one
    curve = np.polynomial.Polynomial.fit(seen, np.log(np.maximum(left, 1e-9)), degree)
    fitted = curve(np.clip(log_depth, seen.min(), seen.max()))  # a parabola says nothing beyond its points
    return np.exp(fitted - fitted.mean())


def shared_mean(sections: Sequence[Section], position: float) -> FloatArray:
    """(N,) expression around which the programmes of a section at this position vary."""
    return (1 - position) * sections[0].mean + position * sections[1].mean
