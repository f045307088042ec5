"""Programmes of sections with very many spots: as in :mod:`c2sti.model.programmes`, gathered block by block.

Beyond `MANY` spots, or where expression is left on disk, nothing of the size spots × genes is held. What that changes:

- axes are those of means over square patches of tissue (at most `PATCHES` a section), which have lost most of the count
  noise; so there are no halvings, whose point it is to keep that noise out, and depth does not weigh on the axes. On
  small sections this scores as :func:`~c2sti.model.programmes.describe` does without halvings;
- how noisy a spot is for its depth is read off in a few windows of the tissue, not everywhere;
- the spots of a section are gathered by two and two (or three and three) where the maps vary so slowly that nothing is
  lost by it.

Expression is read twice (three times, where it is made of counts), whatever the number of genes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import eigh
from scipy.spatial import KDTree

from c2sti._stored import Stored, blocks
from c2sti._types import FloatArray, Section, SlicePair
from c2sti.field import EXACT, Field, Observed, observe
from c2sti.model.programmes import LARGEST_RESIDUAL, Programmes, known_library, noise_over_depth
from c2sti.ops import patch_means, patches
from c2sti.profiles import signs

MANY = EXACT  # spots of all sections together: as many as maps of are exact
PATCHES = 1200  # of a section
CHUNK = 4096  # genes whose inner products are added at a time
WINDOWS, WINDOW = 12, 300  # of tissue, and their spots, that tell how noise depends on depth
FINE = 1.6  # points per length scale that are kept: more are gathered


def is_large(pair: SlicePair) -> bool:
    """Whether the sections of a pair are described block by block."""
    return any(isinstance(s.expression, Stored) for s in pair.sections) or sum(len(s.xy) for s in pair.sections) > MANY


def describe_large(
    pair: SlicePair,
    *,
    n_programmes: int,
    views: bool,
    rough: bool,
    device: str,
    seed: int,
    progress: Callable[[float], object] = lambda share: None,
) -> list[Programmes]:
    """One description of the pair; parameters as of :func:`c2sti.model.programmes.describe`."""
    seen = [_counted(s) if views else Seen(s) for s in pair.sections]
    spot_depths = [s.depth for s in seen if s.depth is not None]
    if len(spot_depths) < len(seen):
        seen = [Seen(s) for s in pair.sections]
    means, axes = _axes(seen, n_programmes)
    progress(0.3)
    scores, sizes = zip(*(_project(s, m, axes) for s, m in zip(seen, means, strict=True)), strict=True)
    progress(0.3)
    places = [s.xy / pair.spacing for s in pair.sections]
    depths = [s.position for s in pair.sections]
    plain = Field.learn(observe(places, depths, scores, device=device), seed, gaussian=not rough)
    progress(0.4)
    loadings = axes[:, : pair.n_genes]
    if len(spot_depths) < len(seen):
        return [Programmes(loadings, _gathered(plain))]
    variances = _noise_by_depth(plain, sizes, spot_depths, seed)
    weighted = observe(places, depths, scores, variances=variances, device=device)
    return [Programmes(loadings, _gathered(Field.with_kernel(weighted, plain.kernel, seed)))]


# ---- a section as its programmes are sought in it


@dataclass(frozen=True)
class Seen:
    """One section: log expression as it is or, with the (n,) depths of the spots, three views of its counts.

    Parameters
    ----------
    section
        With log expression.
    depth
        Counts of each spot.
    share
        (N,) of each gene in all counts.
    """

    section: Section
    depth: FloatArray | None = None
    share: FloatArray | None = None

    @property
    def n_views(self) -> int:
        """Matrices side by side."""
        return 1 if self.depth is None else 3

    def blocks(self) -> Iterator[tuple[slice, list[sp.csr_array]]]:
        """Rows, and their views: log expression, and of counts their logarithm and their residuals."""
        section = self.section
        if section.counts is None or self.depth is None or self.share is None:
            yield from ((rows, [block]) for rows, block in blocks(section.expression))
            return
        for rows, block in blocks(section.counts):
            depth = np.repeat(self.depth[rows], np.diff(block.indptr))
            residuals = np.minimum(block.data / np.sqrt(depth * self.share[block.indices]), LARGEST_RESIDUAL)
            yield rows, [_logs(section, rows, block), _like(block, np.log1p(block.data)), _like(block, residuals)]


def _logs(section: Section, rows: slice, counts: sp.csr_array) -> sp.csr_array:
    """Log expression of some rows; of what lies on disk from the counts, which have been read."""
    expression = section.expression
    if not isinstance(expression, Stored) or expression.factor is None:
        return expression[rows]
    return _like(counts, np.log1p(counts.data * np.repeat(expression.factor[rows], np.diff(counts.indptr))))


def _like(block: sp.csr_array, data: FloatArray) -> sp.csr_array:
    return sp.csr_array((data.astype(np.float32), block.indices, block.indptr), shape=block.shape)


def _counted(section: Section) -> Seen:
    """A section with what its counts say, in one reading; as it is where they are not known."""
    library = known_library(section)
    if library is None or section.counts is None:
        return Seen(section)
    total = sum(np.asarray(block.sum(axis=0, dtype=np.float64)).ravel() for _, block in blocks(section.counts))
    return Seen(section, library, total / library.sum())


# ---- axes from patches of tissue


def _axes(seen: Sequence[Seen], n_axes: int) -> tuple[list[FloatArray], FloatArray]:
    """Mean of each section, (V·N,), and (K, V·N) principal axes, strongest first, of the means over its patches."""
    rows, means = [], []
    for one in seen:
        patch = patches(one.section.xy, PATCHES)
        found = patch_means(patch, one.blocks(), one.section.expression.shape[1] * one.n_views)
        size = np.bincount(patch)
        means.append((size @ found) / size.sum())
        found -= means[-1].astype(np.float32)
        found *= np.sqrt(size)[:, None].astype(np.float32)  # a mean of many spots says as much as they do
        rows.append(found)
    n = sum(map(len, rows))
    gram = np.zeros((n, n))
    for first in range(0, rows[0].shape[1], CHUNK):
        chunk = np.concatenate([r[:, first : first + CHUNK] for r in rows])
        gram += chunk @ chunk.T
    rank = max(min(n_axes, n - len(rows), rows[0].shape[1]), 1)  # one at least, though it may be of nothing
    _, vectors = eigh(gram, subset_by_index=(n - rank, n - 1))
    each = np.split(vectors[:, ::-1].astype(np.float32), np.cumsum([len(r) for r in rows])[:-1])
    axes = sum(v.T @ r for v, r in zip(each, rows, strict=True))
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return means, axes * signs(axes)[:, None]


def _project(one: Seen, mean: FloatArray, axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(n, K) scores of the centred spots on the axes, and their (n,) squared lengths."""
    n_genes = one.section.expression.shape[1]
    right = np.ascontiguousarray(np.vstack([axes, mean.astype(np.float32)[None]]).T)
    views = [right[first : first + n_genes] for first in range(0, len(right), n_genes)]
    scores = np.empty((len(one.section.xy), len(axes)))
    size = np.empty(len(scores))
    for rows, found in one.blocks():
        product = sum(block @ view for block, view in zip(found, views, strict=True)).astype(np.float64)
        scores[rows] = product[:, :-1]
        square = sum(np.add.reduceat(np.append(np.square(b.data, dtype=np.float64), 0), b.indptr[:-1]) for b in found)
        size[rows] = np.where(np.diff(found[0].indptr) > 0, square, 0) - 2 * product[:, -1]
    return scores - axes.astype(np.float64) @ mean, size + mean @ mean


# ---- the maps


def _noise_by_depth(
    plain: Field, sizes: Sequence[FloatArray], depths: Sequence[FloatArray], seed: int
) -> list[FloatArray]:
    """(n_i,) how noisy a spot is for its depth, 1 on average: what smooth maps leave unexplained in some windows."""
    x, z = plain.observed.x.cpu().numpy(), plain.observed.z.cpu().numpy()
    size, log_depth = np.concatenate(sizes), np.log(np.concatenate(depths))
    places = x[np.lexsort(x.T)]
    centres = places[np.random.default_rng(seed).permutation(len(places))[:WINDOWS]]
    chosen = np.unique(KDTree(x).query(centres, k=min(WINDOW, len(x)))[1])
    left, fast = np.empty(len(chosen)), _gathered(plain)
    for depth in np.unique(z[chosen]):
        here = z[chosen] == depth
        spots = chosen[here]
        scores = plain.observed.values[torch.as_tensor(spots, device=plain.observed.x.device)].cpu().numpy()
        (maps,) = fast.at(x[spots], [depth])
        # The axes are orthonormal: |y - f·axes|² without ever making y - f·axes.
        left[here] = size[spots] - 2 * (scores * maps).sum(axis=1) + (maps**2).sum(axis=1)
    noise = noise_over_depth(log_depth[chosen], left, log_depth)
    return np.split(noise, np.cumsum([len(d) for d in depths])[:-1])


def _gathered(field: Field) -> Field:
    """The same field seen at the means of neighbouring spots, where its length scale spans several of them."""
    side = max(1, int(field.kernel.length / FINE))
    observed = field.observed
    if side == 1 or len(observed.x) <= EXACT:
        return field
    x = observed.x.cpu().numpy()
    cell = np.column_stack([observed.z.cpu().numpy(), np.floor(x / side)])
    _, index = np.unique(cell, axis=0, return_inverse=True)
    member = sp.csr_array((1 / observed.variance.cpu().numpy(), (index.ravel(), np.arange(len(x)))))
    weight = member.sum(axis=1)

    def mean(of: torch.Tensor) -> torch.Tensor:
        columns = of.cpu().numpy().reshape(len(x), -1)
        return torch.as_tensor((member @ columns) / weight[:, None]).to(of)

    together = Observed(
        mean(observed.x), mean(observed.z)[:, 0], mean(observed.values), torch.as_tensor(1 / weight).to(observed.x)
    )
    return replace(field, observed=together)
