"""The placement of one section on another: found, or taken from another tool and judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from c2sti import _check
from c2sti._types import FloatArray
from c2sti.grid import SliceGrid
from c2sti.pp._maps import Use, apply, fit, make_maps
from c2sti.pp._refine import COARSE_STEP, Method, refine
from c2sti.pp._search import search

SAME_UNIT = 0.03  # pitches that differ by less are one: so far the estimates of real arrays scatter
LIKELY_RATIO = 1.5  # between arrays up to here the pitch tells the unit; beyond, the platforms may differ
LEAST_KEPT = 0.9  # share of the fit that refinement may cost before it counts as gone astray


@dataclass(frozen=True)
class Placement:
    """Where a section belongs: (3, 3) matrix from its frame to that of the reference, how well it fits, and whence."""

    matrix: FloatArray
    fit: float
    method: str

    @property
    def flipped(self) -> bool:
        """Whether x is mirrored before the rotation."""
        return bool(np.linalg.det(self.matrix[:2, :2]) < 0)

    @property
    def scale(self) -> float:
        """Units of the reference in one unit of the section; for an affine matrix the mean over directions."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:2, :2]))))

    @property
    def angle_deg(self) -> float:
        """Rotation in degrees from x towards y, in (-180, 180]; of an affine matrix the nearest rotation's."""
        linear = self.matrix[:2, :2] @ np.diag([-1.0 if self.flipped else 1.0, 1.0])
        return float(np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])))

    def record(self, xy: FloatArray, reference: str) -> dict[str, Any]:
        """What goes into ``uns["alignment"]``."""
        centre = xy.mean(axis=0)
        return {
            "matrix": self.matrix,
            "fit": self.fit,
            "method": self.method,
            "angle_deg": self.angle_deg,
            "shift": apply(self.matrix, centre[None])[0] - self.scale * centre,
            "scale": self.scale,
            "flipped": self.flipped,
            "reference": reference,
        }


def estimate(
    reference: SliceGrid, moving: SliceGrid, method: Method, use: Use, scale: float | None, flip: bool
) -> Placement:
    """Search, refine the most promising, and keep the one that fits best."""
    ratio = unit_ratio(reference, moving) if scale is None else _check.number(scale, "scale", above=0)
    fixed, moved = make_maps(reference, moving, ratio, use)
    small = fixed.halved(), moved.halved()  # a quarter of the pixels are enough to choose by
    found = [c.matrix for c in search(*small, flip)]
    found += [refine(*small, m, "rigid", COARSE_STEP) for m in found]
    best = max(found, key=lambda m: fit(fixed, moved, m))
    # The refined placement is nearer to the truth even where the fit, which jumps from spot to spot, is a little less.
    refined = refine(fixed, moved, best, "rigid")
    best = refined if fit(fixed, moved, refined) > LEAST_KEPT * fit(fixed, moved, best) else best
    if method == "affine":
        best = max(best, refine(fixed, moved, best, "affine"), key=lambda m: fit(fixed, moved, m))
    return Placement(best @ np.diag([ratio, ratio, 1.0]), fit(fixed, moved, best), method)


def given(reference: SliceGrid, moving: SliceGrid, use: Use, matrix: FloatArray) -> Placement:
    """Take a matrix as it is, and measure how well it fits."""
    full = _check.reals(matrix, "matrix")
    if full.shape == (2, 3):
        full = np.vstack([full, [0, 0, 1]])
    if full.shape != (3, 3) or not np.isfinite(full).all() or not np.array_equal(full[2], [0, 0, 1]):
        raise ValueError(
            f"matrix has shape {np.shape(matrix)}; a finite (2, 3), or (3, 3) with last row 0 0 1, is needed, that "
            "takes (x, y, 1) of moving to the frame of the reference"
        )
    if abs(np.linalg.det(full[:2, :2])) < 1e-12:
        raise ValueError("matrix has no inverse: it would press the section flat")
    ratio = float(np.sqrt(abs(np.linalg.det(full[:2, :2]))))
    fixed, moved = make_maps(reference, moving, ratio, use)
    return Placement(full, fit(fixed, moved, full @ np.diag([1 / ratio, 1 / ratio, 1.0])), "given")


def unit_ratio(reference: SliceGrid, moving: SliceGrid) -> float:
    """Units of the reference in one unit of `moving`, from the distances between spots.

    Two arrays of one kind differ in the unit if their pitches differ. A ratio far from 1 may also come from two
    kinds of array in one unit: then the sizes of the tissues decide, which serial sections share. The pitch of cells
    and scattered spots is that of their density and says little about the unit unless it is far off.
    """
    ratio = reference.pitch / moving.pitch
    if abs(ratio - 1) <= SAME_UNIT:
        return 1.0
    if 1 / LIKELY_RATIO < ratio < LIKELY_RATIO:
        return ratio if {reference.layout, moving.layout} <= {"square", "hex"} else 1.0
    size = np.sqrt(_area(reference) / _area(moving))
    return ratio if abs(np.log(size / ratio)) < abs(np.log(size)) else 1.0


def _area(grid: SliceGrid) -> float:
    """Area of the tissue in the section's unit, up to the shape of its bins."""
    return len(grid.xy) * grid.pitch**2 / (4 if grid.layout == "cells" else 1)
