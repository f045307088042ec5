"""Depths of a series: those that its sections carry or are given, and those at which sections are wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2sti import _check, grid
from c2sti._types import FloatArray

SAME = 1e-6  # of the series' thickness: nearer to a measured section, a depth is that section's
MOST_SECTIONS = 10_000  # more are a spacing in the wrong unit


def depths_of(grids: Sequence[grid.SliceGrid], z: Sequence[float] | None) -> FloatArray:
    """(n_sections,) depths: those given, or those that the sections carry.

    Raises
    ------
    ValueError
        They are missing, not one a section, or do not increase.
    """
    if z is None:
        without = [g.name for g in grids if g.z is None]
        if without:
            raise ValueError(
                f"{', '.join(without)} carry no depth; give one a section with z=[…] in µm, or put it into obs['z_um']"
            )
        z = [g.z for g in grids if g.z is not None]
    depths = grid.depth_of_each(z, len(grids))
    _check_increasing(depths, "the depths of the sections", "put slices (and z) in order, and leave out what is twice")
    return depths


def _check_increasing(depths: FloatArray, what: str, mend: str) -> None:
    if not np.isfinite(depths).all() or (np.diff(depths) <= 0).any():
        raise ValueError(f"{what}, {depths.tolist()}, must increase without repeats; {mend}")


def depths_wanted(depths: FloatArray, at_z: Sequence[float] | None, spacing: float | None) -> FloatArray:
    """(S,) depths of the sections wanted: those given, or even steps from the first on.

    Raises
    ------
    ValueError
        Neither or both are given, or they do not lie in the series in order.
    """
    top, bottom = depths[[0, -1]]
    if (at_z is None) == (spacing is None):
        gaps = np.diff(depths)
        raise ValueError(
            f"give either spacing= (the sections are {gaps.min():g} to {gaps.max():g} apart) or at_z= (depths from "
            f"{top:g} to {bottom:g})"
        )
    if spacing is not None:
        if not 0 < _check.number(spacing, "spacing") <= bottom - top:
            raise ValueError(f"spacing = {spacing:g} must be positive and at most {bottom - top:g}, the whole series")
        if (bottom - top) / spacing > MOST_SECTIONS:
            raise ValueError(
                f"spacing = {spacing:g} makes {(bottom - top) / spacing:.0f} sections between {top:g} and {bottom:g}; "
                "is it in the unit of the depths?"
            )
        return top + spacing * np.arange(int((bottom - top) / spacing * (1 + SAME)) + 1)
    wanted = np.atleast_1d(_check.reals(at_z, "at_z"))
    if wanted.ndim != 1 or len(wanted) == 0:
        raise ValueError(f"at_z has shape {wanted.shape}; a list of depths is needed")
    _check_increasing(wanted, "at_z", f"try {np.unique(wanted).tolist()}")
    slack = SAME * (bottom - top)
    outside = wanted[(wanted < top - slack) | (wanted > bottom + slack)]
    if len(outside):
        raise ValueError(
            f"at_z = {outside.tolist()} lie outside of the series, which runs from {top:g} to {bottom:g}; sections can "
            "be inserted between measured ones only"
        )
    return wanted
