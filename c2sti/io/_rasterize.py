"""Two sections (and their context) on one lattice: genes matched, scales checked, cells gathered into bins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from c2sti import _validators
from c2sti._backed import Expression, blocks
from c2sti._types import FloatArray, ImageEncoder, Lattice, Section, SlicePair
from c2sti.io._genes import shared_genes, values_of
from c2sti.io._histology import HEImage, features_on, histology_on
from c2sti.io._image_features import check_target, image_features
from c2sti.io._read import SliceGrid, log_normalise
from c2sti.io._window import within
from c2sti.ops import nearest

POOR_OVERLAP, NO_OVERLAP = 0.5, 0.02
SHARED = 1.5  # points a bin from which on they are taken together
FINER = 1.5  # times the distance of spots is a bin into which they are gathered
MOST_BINS = 20_000_000


def common_lattice(*grids: SliceGrid, pitch: float | None = None) -> Lattice:
    """The lattice over the union of some sections, its bins centred on the spots of the most regular one.

    `pitch` is the side of a bin, by default the mean of the sections' pitches. ValueError where it is not positive, or
    so small that the lattice would not fit into memory.
    """
    own = float(np.mean([grid.pitch for grid in grids]))
    side = own if pitch is None else _validators.number(pitch, "pitch", above=0)
    phase = _phase(grids, side)
    every = np.concatenate([grid.xy for grid in grids])
    first, last = (np.floor((end - phase) / side + 0.5) for end in (every.min(axis=0), every.max(axis=0)))
    width, height = (last - first + 1).tolist()  # not whole numbers yet: they may be beyond what those hold
    if width * height > MOST_BINS:
        for other in grids[1:]:
            check_overlap(grids[0], other, warn=False)  # sections far apart, rather than bins too small
        raise ValueError(
            f"pitch = {side:.4g} makes {width:.0f} x {height:.0f} bins over {np.ptp(every, axis=0).round(1).tolist()}; "
            f"spots are about {grids[0].pitch:.4g} apart: choose pitch= near that"
        )
    x, y = (phase + first * side).tolist()
    return Lattice((x, y), side, (int(height), int(width)))


def _phase(grids: Sequence[SliceGrid], side: float) -> FloatArray:
    """Offset (x, y) in [0, side) that puts bin centres on spots, whatever the order of the sections.

    It is the circular mean of the coordinates modulo the pitch, of the section whose spots scatter least around it.
    """
    votes = []
    for grid in grids:
        mean = np.exp(2j * np.pi * grid.xy / side).mean(axis=0)
        offset = np.angle(mean) / (2 * np.pi) * side % side
        votes.append((round(float(np.abs(mean).min()), 3), len(grid.xy), *offset.tolist()))
    return np.array(max(votes)[2:])


def overlap(a: SliceGrid, b: SliceGrid) -> float:
    """Share of the smaller section's spots that lie in the other's tissue; the larger of the two shares."""
    return float(max(a.covers(b.xy).mean(), b.covers(a.xy).mean()))


def check_overlap(a: SliceGrid, b: SliceGrid, warn: bool = True) -> None:
    """Refuse two sections without tissue in common; warn, if asked to, when they barely overlap."""
    share = overlap(a, b)
    fix = "bring them into common coordinates first: c2sti.pp.align(slice_a, slice_b)"
    if share < NO_OVERLAP:
        ends = [(g.name, *g.xy.min(axis=0), *g.xy.max(axis=0)) for g in (a, b)]
        extents = " and ".join(f"{name}: x {x0:.0f}..{x1:.0f}, y {y0:.0f}..{y1:.0f}" for name, x0, y0, x1, y1 in ends)
        raise ValueError(f"{a.name} and {b.name} do not overlap ({extents}); {fix}")
    if warn and share < POOR_OVERLAP:
        warnings.warn(f"only {share:.0%} of {a.name} and {b.name} overlap; {fix}", UserWarning, stacklevel=4)


def make_pair(
    a: SliceGrid,
    b: SliceGrid,
    *,
    context: Mapping[float, SliceGrid] | None = None,
    lattice: Lattice | None = None,
    genes: Sequence[str] | pd.Index | None = None,
    encoder: ImageEncoder | None = None,
    targets: Mapping[float, HEImage] | None = None,
    judged: bool = False,
) -> tuple[SlicePair, pd.Index]:
    """Lay two sections, at positions 0 and 1, and their context on one lattice, as plain arrays; and name their genes.

    `context` holds further sections by position, below 0 or above 1, and `targets` images of missing sections. `genes`
    are those to keep. `encoder` describes the images of the sections, beside their colour. A warning says where the two
    barely overlap, unless the caller checks the pair (`judged`). ValueError where the sections do not match.
    """
    around = dict(context or {})
    between = [q for q in around if 0 <= q <= 1]
    if between:
        raise ValueError(
            f"context holds a section at position {between[0]}; those lie beyond the pair, below 0 (before slice_a) or "
            "above 1 (after slice_b)"
        )
    grids = [a, b, *around.values()]
    _check_scale(grids)
    for other in grids[1:]:
        check_overlap(a, other, warn=not (judged and other is b))
    lattice = common_lattice(a, b) if lattice is None else lattice
    names = shared_genes(grids, genes)
    positions = [0.0, 1.0, *around]
    sections = [section_of(grid, p, lattice, names, encoder) for grid, p in zip(grids, positions, strict=True)]
    spacing, keys = _spacing([a, b], lattice), _keys_of(names)
    pair = SlicePair(sections[0], sections[1], spacing, lattice, tuple(sections[2:]), gene_keys=keys)
    return (_with_targets(pair, [grid.image for grid in grids], targets, encoder) if targets else pair), names


def _with_targets(
    pair: SlicePair,
    images: Sequence[HEImage | None],
    targets: Mapping[float, HEImage],
    encoder: ImageEncoder | None,
) -> SlicePair:
    """The pair with the H&E of missing sections, and with features of it and of the sections' own."""
    stained = {position: histology_on(image, pair.lattice) for position, image in targets.items()}
    for position, image in targets.items():
        check_target(image, stained[position], (pair.a, pair.b), pair.lattice)
    given = [image for image in images if image is not None]
    found = iter(image_features([*given, *targets.values()], pair.spacing, pair.lattice, encoder))
    a, b, *context = (
        section if image is None else replace(section, image_features=next(found))
        for section, image in zip(pair.sections, images, strict=True)
    )
    return replace(
        pair, a=a, b=b, context=tuple(context), targets=stained, target_features=dict(zip(targets, found, strict=True))
    )


def make_sections(grids: Sequence[SliceGrid], lattice: Lattice) -> tuple[list[Section], float, NDArray[np.uint64]]:
    """Sections of a series on one lattice, at their z and without H&E; mean spot spacing; hashes of the genes."""
    _check_scale(grids)
    names = shared_genes(grids)
    sections = [section_of(replace(g, image=None), float(g.z or 0.0), lattice, names) for g in grids]
    return sections, _spacing(grids, lattice), _keys_of(names)


def _keys_of(names: pd.Index) -> NDArray[np.uint64]:
    """(N,) hashes of the names of genes."""
    return pd.util.hash_array(names.to_numpy(dtype=object), categorize=False)


def _check_scale(grids: Sequence[SliceGrid]) -> None:
    kinds = {grid.counts for grid in grids}
    if len(kinds) > 1:
        listed = ", ".join(f"{g.name}: {'raw counts' if g.counts else 'normalised'}" for g in grids)
        raise ValueError(
            f"the sections are not on one scale ({listed}); give the raw counts of all, such as layer='counts', or "
            "normalise all alike: sc.pp.normalize_total(adata, target_sum=1e4), then sc.pp.log1p(adata)"
        )


def is_gathered(grid: SliceGrid, lattice: Lattice) -> bool:
    """Whether several points of the section share a bin: single cells, or an array finer than the lattice."""
    return grid.layout == "cells" or lattice.pitch > FINER * grid.pitch


def _spacing(grids: Sequence[SliceGrid], lattice: Lattice) -> float:
    """Mean distance of the points of some sections as they enter an interpolator."""
    return float(np.mean([lattice.pitch if is_gathered(g, lattice) else g.pitch for g in grids]))


def section_of(
    grid: SliceGrid, position: float, lattice: Lattice, genes: pd.Index, encoder: ImageEncoder | None = None
) -> Section:
    """A section as it enters an interpolator, at a position and on a lattice, with the genes of a pair."""
    xy, values, library = profiles(grid, lattice, genes)
    if len(xy) == 1:
        raise ValueError(
            f"pitch = {lattice.pitch:.4g} gathers all {len(grid.xy)} points of {grid.name} into one bin, which has no "
            f"neighbours; they are about {grid.pitch:.4g} apart: choose pitch= nearer to that"
        )
    expression, counts = values, None
    if grid.counts:
        expression, counts = log_normalise(values, library), values
    elif grid.beside is not None:
        counts = profiles(replace(grid, values=grid.beside, counts=True), lattice, genes)[1]
    section = Section(xy, expression, position, counts=counts, library=None if counts is None else library)
    if grid.image is None:
        return section
    features = None if encoder is None else features_on(grid.image, lattice, encoder)
    return replace(section, histology=histology_on(grid.image, lattice), features=features)


def profiles(grid: SliceGrid, lattice: Lattice, genes: pd.Index) -> tuple[FloatArray, Expression, FloatArray]:
    """A section as it enters an interpolator: spots as they are, cells and fine bins gathered into the lattice's bins.

    Counts of one bin are summed, normalised expression is averaged, and the profile lies at the bin's centre. Bins run
    on beyond the lattice where the section (a context section, say) does. (n, 2) coordinates, (n, N) CSR values on the
    scale of the input, (n,) library sizes.
    """
    values = values_of(grid, genes)
    if not is_gathered(grid, lattice):
        return grid.xy, values, grid.library
    places, index = _places(grid, lattice)
    member = sp.csr_array((np.ones(len(index), dtype=np.float32), (index, np.arange(len(index)))))
    parts = [member[:, rows] @ block for rows, block in blocks(values)]
    total = sum(parts[1:], start=parts[0]).tocsr()
    if not grid.counts:
        total.data /= np.repeat(member.sum(axis=1), np.diff(total.indptr)).astype(np.float32)
    return places, total, member @ grid.library


def _places(grid: SliceGrid, lattice: Lattice) -> tuple[FloatArray, NDArray[np.intp]]:
    """(m, 2) places of a section's profiles, its spots or the centres of gathered bins; (n,) place of each point."""
    if not is_gathered(grid, lattice):
        return grid.xy, np.arange(len(grid.xy))
    cell = np.floor((grid.xy - np.asarray(lattice.origin)) / lattice.pitch + 0.5)
    cells, index = np.unique(cell, axis=0, return_inverse=True)
    return cells * lattice.pitch + np.asarray(lattice.origin), index.ravel()


def library_sizes(grid: SliceGrid, lattice: Lattice, points: FloatArray) -> FloatArray:
    """(M,) library size of the spot (or the gathered bin) nearest to each point."""
    xy, index = _places(grid, lattice)
    return np.bincount(index, weights=grid.library).astype(np.float64)[nearest(xy, points)]


def spots_at(grid: SliceGrid, lattice: Lattice, points: FloatArray) -> NDArray[np.object_]:
    """(M,) name of the spot (or, of a gathered bin, of its first point) nearest to each point."""
    xy, index = _places(grid, lattice)
    first = np.unique(index, return_index=True)[1]
    return grid.names.to_numpy(dtype=object)[first[nearest(xy, points)]]


def on_bins(xy: FloatArray, bins: FloatArray, lattice: Lattice) -> sp.csr_array:
    """(M, n) 0/1: which of a section's points stand for each bin, given by its centre.

    The points that a bin holds where several share most bins, as cells do; else the nearest point, and none where that
    is more than a bin away.
    """
    held = lattice.bins(xy)
    inside = held >= 0
    if inside.sum() > SHARED * len(np.unique(held[inside])):
        rows = pd.Series(np.arange(len(bins)), index=lattice.bins(bins))
        row = rows[~rows.index.duplicated(keep="last")].reindex(held, fill_value=-1).to_numpy()
        column = np.flatnonzero(row >= 0)
        row = row[column]
    else:
        row = np.flatnonzero(KDTree(xy).query(bins)[0] <= lattice.pitch)
        column = nearest(xy, bins)[row]
    return sp.csr_array((np.ones(len(row)), (row, column)), shape=(len(bins), len(xy)))


@dataclass(frozen=True)
class Rows:
    """The M points at which sections are wanted, what tissue there is, and where each section could be measured."""

    points: FloatArray  # (M, 2) unit of the frame
    bins: NDArray[np.intp]  # (M,) index of the lattice bin that holds each point, -1 off the lattice
    tissue: NDArray[np.bool_]  # (2, H, W) masks of the two sections on the lattice
    windows: tuple[FloatArray | None, FloatArray | None] = (None, None)  # their capture windows, where they are known
    seen: NDArray[np.bool_] | None = None  # (2, H, W) masks of the bins whose centres lie in these; None for all

    def inside(self, position: float) -> NDArray[np.bool_]:
        """(M,) whether each row lies in the tissue of the section at this position.

        At 0 and 1 that is the measured tissue. Between them, beyond the window of one section the other's tissue is
        taken for it; beyond both windows there is none.
        """
        first, second = self.tissue
        if self.seen is not None and 0 < position < 1:
            first, second = first | (second & ~self.seen[0]), second | (first & ~self.seen[1])
        return self._at_rows(outline(first, second, position))

    def sees(self, section: int, points: FloatArray) -> NDArray[np.bool_]:
        """(n,) whether each point lies in the capture window of section a (0) or b (1)."""
        return within(self.windows[section], points)

    def seen_at(self, section: int) -> NDArray[np.bool_]:
        """(M,) whether each row lies in the capture window of section a (0) or b (1), or in its tissue."""
        return self.sees(section, self.points) | self._at_rows(self.tissue[section])

    @property
    def blind(self) -> NDArray[np.bool_]:
        """(2, M) whether each row lies beyond the window of section a, and of b, where the other section has tissue."""
        return np.stack([~self.seen_at(i) & self._at_rows(self.tissue[1 - i]) for i in (0, 1)])

    def _at_rows(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask.ravel()[self.bins] & (self.bins >= 0)


def rows_of(a: SliceGrid, b: SliceGrid, lattice: Lattice, at: FloatArray | None = None) -> Rows:
    """Bins of the lattice inside the union of two tissues, row by row; or the points of `at`, in order."""
    centres = lattice.centres
    tissue = np.stack([a.covers(centres), b.covers(centres)])
    if at is None:
        bins = np.flatnonzero(tissue.any(axis=0))
        points = centres[bins]
        if len(bins) == 0:
            raise ValueError(
                f"none of the {len(centres)} bins of pitch = {lattice.pitch:.4g} has its centre in the tissue of "
                f"{a.name} or {b.name}; spots are about {a.pitch:.4g} apart: choose pitch= near that"
            )
    else:
        points = _validators.reals(at, "at")
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0 or not np.isfinite(points).all():
            raise ValueError(
                f"at has shape {points.shape}; finite coordinates of shape (M, 2) are needed, one point a row"
            )
        bins = lattice.bins(points)
    seen = np.stack([within(a.window, centres), within(b.window, centres)])
    shape = (2, *lattice.shape)
    return Rows(points, bins, tissue.reshape(shape), (a.window, b.window), seen.reshape(shape))


def outline(tissue_a: NDArray[np.bool_], tissue_b: NDArray[np.bool_], position: float) -> NDArray[np.bool_]:
    """Tissue of a section between two others, from their (H, W) masks, by shape-based interpolation.

    The signed distance to the border is blended linearly and the result cut at zero (Raya and Udupa, IEEE TMI 1990):
    the outline moves evenly from one section to the other, and equals theirs at both ends.
    """
    blended = (1 - position) * _signed_distance(tissue_a) + position * _signed_distance(tissue_b)
    return blended > 0


def _signed_distance(mask: NDArray[np.bool_]) -> FloatArray:
    padded = np.pad(mask, 1)
    # Half a bin is taken off so that the border lies between bins, not on one of them.
    inside = distance_transform_edt(padded) - 0.5 * padded
    outside = distance_transform_edt(~padded) - 0.5 * ~padded
    return (inside - outside)[1:-1, 1:-1]
