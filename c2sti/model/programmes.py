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

Where the input is not made of counts (or they cannot be told from it), only the first of them applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from c2sti._types import FloatArray, Noise, Section, SlicePair
from c2sti.field import EXACT, Field, Kernel, Observed, observe
from c2sti.ops import smoothed_axes

TARGET_SUM = 1e4  # log expression is log1p of counts scaled to this
WHOLE = 0.05  # how far from a whole number a recovered count may lie
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

    def variance_at(self, points: FloatArray, positions: Sequence[float], spacing: float) -> FloatArray:
        """(S, M, K) how unsure these maps are: posterior variances."""
        return self.field.variance_at(points / spacing, positions)


@dataclass(frozen=True)
class Counts:
    """Counts of a section, (n, N) CSR, and the (n,) counts of each spot over all genes that were measured."""

    counts: sp.csr_array
    depth: FloatArray

    def log_expression(self) -> sp.csr_array:
        """log1p of counts scaled to 1e4 a spot."""
        return _on_data(self.counts, np.log1p(self.counts.data * self._by_entry(TARGET_SUM / self.depth)))

    def log_counts(self) -> sp.csr_array:
        """log1p of the counts as they are: large where a spot is deep."""
        return _on_data(self.counts, np.log1p(self.counts.data))

    def residuals(self) -> sp.csr_array:
        """Counts over the standard deviation that chance would give them, sqrt(depth · share of the gene)."""
        share = np.asarray(self.counts.sum(axis=0)).ravel() / self.depth.sum()
        expected = self._by_entry(self.depth) * share[self.counts.indices]
        return _on_data(self.counts, np.minimum(self.counts.data / np.sqrt(expected), LARGEST_RESIDUAL))

    def halves(self, *seeds: int) -> tuple[Counts, Counts]:
        """Two independent sections of half the depth: every molecule goes to one of them by a coin.

        The coin depends on the section and on the seeds, not on which other sections there are or in what order.
        """
        rng = np.random.default_rng([*seeds, self.counts.nnz, int(self.counts.data.sum())])
        first = rng.binomial(self.counts.data.astype(np.int64), 0.5).astype(np.float64)
        pair = (first, self.counts.data - first)
        one, other = (Counts(_on_data(self.counts, data), self.depth / 2) for data in pair)
        return one, other

    def _by_entry(self, by_spot: FloatArray) -> FloatArray:
        return np.repeat(by_spot, np.diff(self.counts.indptr))


def _on_data(like: sp.csr_array, data: FloatArray) -> sp.csr_array:
    made = sp.csr_array((data, like.indices, like.indptr), shape=like.shape, copy=True)
    made.eliminate_zeros()  # in place, hence the copy
    return made


def recover_counts(expression: sp.csr_array) -> Counts | None:
    """Counts behind log1p of counts scaled to 1e4; None where the values are not that.

    The smallest value of a spot is one count, which tells its depth; all others must then be whole numbers.
    """
    filled = np.diff(expression.indptr) > 0
    if not filled.any():
        return None
    scaled = np.expm1(expression.data.astype(np.float64))
    depth = np.full(expression.shape[0], np.nan)
    depth[filled] = TARGET_SUM / np.minimum.reduceat(scaled, expression.indptr[:-1][filled])
    depth[~filled] = np.nanmin(depth)
    found = scaled * np.repeat(depth, np.diff(expression.indptr)) / TARGET_SUM
    whole = np.rint(found)
    if np.mean(np.abs(found - whole) < WHOLE) < 0.95:
        return None
    return Counts(sp.csr_array((whole, expression.indices, expression.indptr), shape=expression.shape), depth)


def describe(
    pair: SlicePair,
    *,
    n_programmes: int = 60,
    n_splits: int = 2,
    views: bool = True,
    rough: bool = True,
    device: str = "cpu",
    seed: int = 0,
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
    """
    sections = pair.sections
    expressions = [s.expression for s in sections]
    axes = smoothed_axes(expressions, n_programmes)
    plain = Field.learn(_observe(pair, expressions, axes, None, device), seed, gaussian=not rough)
    counts = [recover_counts(s.expression) for s in sections] if views else [None]
    measured = [c for c in counts if c is not None]
    if len(measured) < len(sections):
        return [Programmes(axes, plain)]
    whole = [_views(c) for c in measured]
    variances = _spot_variances(pair, whole, [c.depth for c in measured], plain.kernel, n_programmes, device, seed)

    def found(source: Sequence[sp.csr_array], projected: Sequence[sp.csr_array]) -> Programmes:
        axes = smoothed_axes(source, n_programmes, [sp.diags_array(v**-0.5).tocsr() for v in variances])
        field = Field.with_kernel(_observe(pair, projected, axes, variances, device), plain.kernel, seed)
        return Programmes(axes[:, : pair.n_genes], field)

    descriptions = [found(whole, whole)]
    for split in range(n_splits if len(plain.observed.x) <= EXACT else 0):
        one, other = zip(*(map(_views, c.halves(seed, split)) for c in measured), strict=True)
        descriptions += [found(one, other), found(other, one)]
    return descriptions


def noise_of(programmes: Sequence[Programmes], at: FloatArray, positions: Sequence[float], spacing: float) -> Noise:
    """Variance of the mean of several descriptions: the mean of their variances, for they err alike."""
    return Noise(
        lambda: np.concatenate([p.variance_at(at, positions, spacing) for p in programmes], axis=2),
        lambda: np.concatenate([np.square(p.loadings) for p in programmes]) / len(programmes),
    )


def _views(counts: Counts) -> sp.csr_array:
    """(n, 3N) log expression, log counts and residuals, side by side."""
    return sp.hstack([counts.log_expression(), counts.log_counts(), counts.residuals()], format="csr")


def _observe(
    pair: SlicePair,
    values: Sequence[sp.csr_array],
    axes: FloatArray,
    variances: Sequence[FloatArray] | None,
    device: str,
) -> Observed:
    centred = [v @ axes.T - v.mean(axis=0) @ axes.T for v in values]
    places = [s.xy / pair.spacing for s in pair.sections]
    return observe(places, [s.position for s in pair.sections], centred, variances=variances, device=device)


def _spot_variances(
    pair: SlicePair,
    values: Sequence[sp.csr_array],
    depths: Sequence[FloatArray],
    kernel: Kernel,
    n_programmes: int,
    device: str,
    seed: int,
) -> list[FloatArray]:
    """(n_i,) how noisy a spot is for its depth, 1 on average (geometric): what smooth programmes leave unexplained.

    A curve over the logarithm of the depth, one for all sections: a spot's own residual would be noise itself.
    """
    axes = smoothed_axes(values, n_programmes)
    field = Field.with_kernel(_observe(pair, values, axes, None, device), kernel, seed)
    log_left = []
    for section, value in zip(pair.sections, values, strict=True):
        mean = value.mean(axis=0)
        size = np.asarray(value.multiply(value).sum(axis=1)).ravel() - 2 * (value @ mean) + mean @ mean
        scores = value @ axes.T - mean @ axes.T
        (maps,) = field.at(section.xy / pair.spacing, [section.position])
        # The axes are orthonormal: |y - f·axes|² without ever making y - f·axes.
        left = size - 2 * (scores * maps).sum(axis=1) + (maps**2).sum(axis=1)
        log_left.append(np.log(np.maximum(left, 1e-9)))
    x = np.log(np.concatenate(depths))
    curve = np.polynomial.Polynomial.fit(x, np.concatenate(log_left), 2 if np.ptp(x) > 0 else 0)
    fitted = curve(x)
    return np.split(np.exp(fitted - fitted.mean()), np.cumsum([len(d) for d in depths])[:-1])


def shared_mean(sections: Sequence[Section], position: float) -> FloatArray:
    """(N,) expression around which the programmes of a section at this position vary."""
    return (1 - position) * sections[0].mean + position * sections[1].mean
