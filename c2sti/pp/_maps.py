"""What two sections are compared by: component maps of expression and stain maps of the H&E, on rasters.

Also the one score that chooses between placements, :func:`fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from c2sti._backed import Expression, in_memory, moments, some_genes
from c2sti._types import FloatArray, Lattice
from c2sti.io import HEImage, SliceGrid, histology_on, log_normalise, profiles, shared_genes, values_of
from c2sti.ops import affine, gaussian_operator, linear_at, most_variable, smoothed_axes

Use = Literal["auto", "expression", "histology", "both"]

N_GENES = 1000  # most variable genes that take part
N_COMPONENTS = 10
SMOOTHING = 0.8  # width of the Gaussian between spots and raster, in steps
MOST_STEPS = 64  # a side of the larger section: one of 100,000 spots costs what one of 4,000 does
TISSUE_REACH = 1.0  # steps from a spot; 0.71 would do in an array without gaps, but single lost spots leave no hole
MARGIN = 2  # pixels around the spots
# The share of the whole that three stain channels get beside ten of expression. Sections are told apart best when both
# weigh alike, but drawn or faded images mislead at that weight.
STAIN_WEIGHT = 0.5
LEAST_GENES = 3
LEAST_SHARED = 8  # spots in the overlap, below which no correlation is taken


@dataclass(frozen=True)
class Maps:
    """One section as a raster of many channels; lengths are in the unit of the reference."""

    channels: NDArray[np.float32]  # (C, H, W), in units that the two sections share; 0 outside of the tissue
    tissue: NDArray[np.float32]  # (H, W), 1 inside of the tissue, 0 outside
    lattice: Lattice  # where the pixels lie
    points: FloatArray  # (n, 2) spots, or the bins into which cells were gathered
    step: float  # distance between neighbouring points

    def at(self, points: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """(n, C) channels at points by linear interpolation, and (n,) whether the points lie in the tissue."""
        values = linear_at([*self.channels, self.tissue], self.lattice, points, beyond=0.0)
        # Near a border pixels outside, which are 0, are mixed in: the mean over the tissue pixels alone is wanted.
        return (values[:-1] / np.maximum(values[-1], 0.5)).T, values[-1] > 0.5

    def halved(self) -> Maps:
        """Means of two by two pixels, for what need not be exact."""
        height, width = (n // 2 for n in self.lattice.shape)

        def mean(x: NDArray[np.float32]) -> NDArray[np.float32]:
            blocks = x[..., : 2 * height, : 2 * width].reshape(*x.shape[:-2], height, 2, width, 2)
            return blocks.mean(axis=(-3, -1))

        pitch = self.lattice.pitch
        x, y = (o + pitch / 2 for o in self.lattice.origin)
        lattice = Lattice((x, y), 2 * pitch, (height, width))
        return Maps(mean(self.channels), mean(self.tissue), lattice, self.points, self.step)


def fit(reference: Maps, moving: Maps, matrix: FloatArray) -> float:
    """How well two sections agree in a placement: correlation times overlap, in [0, 1].

    The correlation is the Pearson correlation of the two sections' maps over the spots in both tissues, pooled over
    channels of which each is centred within the overlap; the mean over the spots of either section, and 0 where
    negative. The overlap is the share of one section's spots in the other's tissue, the larger of the two shares.
    """
    pairs = [_compare(reference, moving, matrix), _compare(moving, reference, np.linalg.inv(matrix))]
    correlation = float(np.mean([r for r, _ in pairs]))
    return float(np.clip(correlation * max(share for _, share in pairs), 0, 1))


def _compare(fixed: Maps, moved: Maps, matrix: FloatArray) -> tuple[float, float]:
    there, inside = fixed.at(affine(moved.points, matrix))
    if inside.sum() < LEAST_SHARED:
        return 0.0, float(inside.mean())
    own = moved.at(moved.points)[0][inside]
    there = there[inside]
    x, y = own - own.mean(axis=0), there - there.mean(axis=0)
    length = np.sqrt(np.square(x).sum() * np.square(y).sum())
    return (float((x * y).sum() / length) if length > 0 else 0.0), float(inside.mean())


def make_maps(reference: SliceGrid, moving: SliceGrid, scale: float, use: Use) -> tuple[Maps, Maps]:
    """Maps of both sections, with the same channels and pixels of the same size.

    `scale` is the units of the reference in one unit of `moving`; ``use="auto"`` takes all that both sections have.
    """
    grids, scales = (reference, moving), (1.0, scale)
    stained = _stained(grids, use)
    genes = reference.genes[:0] if use == "histology" else shared_genes(grids)
    if use != "histology" and len(genes) < LEAST_GENES:
        raise ValueError(
            f"{reference.name} and {moving.name} share {len(genes)} of {len(reference.genes)} and {len(moving.genes)} "
            f"genes; at least {LEAST_GENES} are needed to compare them: give both the same names, or use='histology'"
        )
    extent = max(np.ptp(g.xy, axis=0).max() * s for g, s in zip(grids, scales, strict=True))
    step = max(*(g.pitch * s for g, s in zip(grids, scales, strict=True)), extent / MOST_STEPS)

    points, expression = zip(*(_points(g, s, step, genes) for g, s in zip(grids, scales, strict=True)), strict=True)
    lattices = [_raster(p, step / 2) for p in points]
    tissues = [
        (KDTree(p).query(lattice.centres)[0] <= TISSUE_REACH * step).reshape(lattice.shape)
        for p, lattice in zip(points, lattices, strict=True)
    ]
    channels = [np.zeros((0, *t.shape)) for t in tissues]
    if use != "histology":
        channels = _components(points, expression, lattices, tissues, step)
    if stained:
        stains = [
            _stain(g.image, s, lattice, tissue)
            for g, s, lattice, tissue in zip(grids, scales, lattices, tissues, strict=True)
            if g.image is not None
        ]
        energy = np.square(channels[0][:, tissues[0]]).mean(axis=1).sum() if len(channels[0]) else 1 / STAIN_WEIGHT
        weight = np.sqrt(STAIN_WEIGHT * energy / len(stains[0]))
        channels = [np.concatenate([c, weight * s]) for c, s in zip(channels, stains, strict=True)]
    first, second = (
        Maps((c * t).astype(np.float32), t.astype(np.float32), lattice, p, float(step))
        for c, t, lattice, p in zip(channels, tissues, lattices, points, strict=True)
    )
    return first, second


def _stained(grids: Sequence[SliceGrid], use: Use) -> bool:
    without = [g for g in grids if g.image is None]
    if use in ("histology", "both") and without:
        missing = " and ".join(
            f"the image of {g.name} is not used: {g.no_image}" if g.no_image else f"{g.name} has none" for g in without
        )
        raise ValueError(
            f"use={use!r} needs an H&E image of both sections, and {missing} (in uns of an AnnData, in images of a "
            "SpatialData); choose use='expression'"
        )
    return use != "expression" and not without


def _points(grid: SliceGrid, scale: float, step: float, genes: pd.Index) -> tuple[FloatArray, Expression]:
    """Spots with their log expression; gathered into bins of one step where they are many, or finer than the raster.

    A few thousand cells are left where they are: bins would blur their outline, and the maps are smoothed anyway.
    """
    if len(grid.xy) <= MOST_STEPS**2 and step <= 1.5 * grid.pitch * scale:
        xy, values, library = grid.xy, values_of(grid, genes), grid.library
    else:
        corner = grid.xy.min(axis=0)
        bins = Lattice((float(corner[0]), float(corner[1])), step / scale, (1, 1))
        xy, values, library = profiles(grid, bins, genes)
    return xy * scale, log_normalise(values, library) if grid.counts else values


def _raster(points: FloatArray, pitch: float) -> Lattice:
    corner = points.min(axis=0) - MARGIN * pitch
    width, height = np.ceil(np.ptp(points, axis=0) / pitch).astype(int) + 1 + 2 * MARGIN
    return Lattice((float(corner[0]), float(corner[1])), float(pitch), (int(height), int(width)))


def _components(
    points: Sequence[FloatArray],
    expression: Sequence[Expression],
    lattices: Sequence[Lattice],
    tissues: Sequence[NDArray[np.bool_]],
    step: float,
) -> list[FloatArray]:
    """(K, H, W) maps of the principal axes that the two sections share, centred by section.

    An axis of standard deviation s is divided by the root of s: as they are the first would decide alone, and brought
    to equal variance the last, which are noise, would weigh as much.
    """
    variable = most_variable([moments(x) for x in expression], N_GENES)
    chosen = [in_memory(some_genes(x, variable)) for x in expression]
    smoothers = [gaussian_operator(p, p, SMOOTHING * step) for p in points]
    axes = smoothed_axes(chosen, N_COMPONENTS, smoothers)
    maps = []
    for p, x, lattice, tissue in zip(points, chosen, lattices, tissues, strict=True):
        smooth = gaussian_operator(p, lattice.centres, SMOOTHING * step) @ (x @ axes.T)
        maps.append(smooth.T.reshape(-1, *lattice.shape))
        maps[-1] -= maps[-1][:, tissue].mean(axis=1)[:, None, None]
    variance = np.mean([np.square(m[:, t]).mean(axis=1) for m, t in zip(maps, tissues, strict=True)], axis=0)
    weight = np.where(variance > 0, np.maximum(variance, 1e-30) ** -0.25, 0)
    return [m * weight[:, None, None] for m in maps]


def _stain(image: HEImage, scale: float, lattice: Lattice, tissue: NDArray[np.bool_]) -> FloatArray:
    """(3, H, W) haematoxylin, eosin and brightness, each of mean 0 and variance 1 over the tissue."""
    from skimage.color import rgb2hed  # noqa: PLC0415 - slow to import, and only images need it

    x, y = (o / scale for o in lattice.origin)
    rgb = np.nan_to_num(histology_on(image, Lattice((x, y), lattice.pitch / scale, lattice.shape)), nan=1.0)
    haematoxylin, eosin, _ = np.moveaxis(rgb2hed(np.moveaxis(rgb, 0, -1)), -1, 0)
    stack = np.stack([gaussian_filter(c, 1.0) for c in (haematoxylin, eosin, rgb.mean(axis=0))])
    centred = stack - stack[:, tissue].mean(axis=1)[:, None, None]
    deviation = centred[:, tissue].std(axis=1)[:, None, None]
    return np.where(deviation > 1e-6, centred / np.maximum(deviation, 1e-6), 0)
