"""Where in the gap between two sections: fractions, or z in the unit in which the sections carry it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from c2sti import _check
from c2sti._types import FloatArray
from c2sti.grid._read import SliceGrid

LEAST_GAP = 0.02  # of the pitch; real sections are 5 µm apart or more, spots 500 µm or less
SMALL_GAP = 20.0  # sections this near to each other may have depths below 1 between them


def depth_of_each(z: Sequence[float], n_sections: int) -> FloatArray:
    """(n_sections,) depths.

    Raises
    ------
    TypeError, ValueError
        They are no numbers; or not one a section.
    """
    depths = _check.reals(z, "z")
    if depths.shape != (n_sections,):
        raise ValueError(f"z has shape {depths.shape}; one depth for each of the {n_sections} sections is needed")
    return depths


def position_of(positions: Sequence[float], z_a: float | None, z_b: float | None) -> FloatArray:
    """Fractions in (0, 1), from a to b, of positions given as fractions or as depths.

    Depths are understood where both sections carry one. Numbers that all lie within (0, 1) are read as fractions.

    Raises
    ------
    ValueError
        Not strictly increasing from a to b, or outside of the gap.
    """
    wanted = np.atleast_1d(_check.reals(positions, "positions"))
    if wanted.ndim != 1 or len(wanted) == 0 or not np.isfinite(wanted).all():
        raise ValueError(f"positions = {positions!r} must be a list of at least one number")
    fractions, where = _fractions(wanted, z_a, z_b)
    if not ((fractions > 0) & (fractions < 1)).all():
        raise ValueError(f"positions = {wanted.tolist()} must lie strictly between {where}")
    if (np.diff(fractions) <= 0).any():
        ordered = wanted[np.unique(fractions, return_index=True)[1]].tolist()
        raise ValueError(
            f"positions = {wanted.tolist()} must increase from slice_a to slice_b without repeats; try {ordered}"
        )
    return fractions


def _fractions(wanted: FloatArray, z_a: float | None, z_b: float | None) -> tuple[FloatArray, str]:
    if z_a is None or z_b is None or z_a == z_b:
        return wanted, "0 (slice_a) and 1 (slice_b); depths are understood when both sections carry obs['z_um']"
    if not ((wanted > 0) & (wanted < 1)).all():
        return (wanted - z_a) / (z_b - z_a), f"the depths of the two sections ({z_a:g} and {z_b:g})"
    if min(z_a, z_b) < wanted.min() and wanted.max() < max(z_a, z_b) and abs(z_b - z_a) < SMALL_GAP:
        warnings.warn(
            f"positions = {wanted.tolist()} are read as fractions, not as depths between {z_a:g} and {z_b:g}",
            UserWarning,
            stacklevel=4,
        )
    return wanted, ""


def with_told_z(a: SliceGrid, b: SliceGrid) -> tuple[SliceGrid, SliceGrid]:
    """The two sections; without z where both carry the same, which does not tell how far apart they are.

    Warns
    -----
    UserWarning
        They carry the same z; or z that cannot be in the unit of the coordinates.
    """
    if a.z is None or b.z is None:
        return a, b
    if a.z == b.z:
        warnings.warn(
            f"{a.name} and {b.name} both carry z = {a.z:g}, which does not tell how far apart they are; the result "
            "carries no z. Put the z of each into obs['z_um']",
            UserWarning,
            stacklevel=3,
        )
        return replace(a, z=None), replace(b, z=None)
    check_unit([a.z, b.z], a.pitch)
    return a, b


def check_unit(z: Sequence[float] | FloatArray, pitch: float) -> None:
    """Warn where z of some sections counts them, or runs from 0 to 1, beside coordinates in µm or pixels."""
    gaps = np.abs(np.diff(z))
    if gaps.max() <= 1 and gaps.max() < LEAST_GAP * pitch:
        warnings.warn(
            f"z of the sections differs by {gaps.max():g}, and spots are {pitch:.4g} apart: z looks like an order, not "
            "like a distance in the unit of the coordinates. Put z in that unit into obs['z_um'] (or z=)",
            UserWarning,
            stacklevel=4,
        )
