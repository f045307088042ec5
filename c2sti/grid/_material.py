"""Where the material of an inserted section lies in the two measured ones: what labels and pictures are moved by."""

from __future__ import annotations

from c2sti._types import FloatArray, Lattice
from c2sti.ops import linear_at


def material_places(
    points: FloatArray, displacement: FloatArray | None, lattice: Lattice, position: float
) -> tuple[FloatArray, FloatArray]:
    """Places in the first and in the second section of what lies at the points of an inserted one.

    Displacement d points from a bin towards where its material lies in the first section; material on a straight way
    from the one section to the other lies at x + d / (2 (1 - p)) in the first and at x - d / (2 p) in the second.

    Parameters
    ----------
    points
        (M, 2) unit of the frame.
    displacement
        (2, H, W) d = (dx, dy) of each bin, unit of the frame; beyond the border that of the border. None where the
        method moves nothing.
    lattice
        What `displacement` is given on: on its bins, or on bins several times as wide.
    position
        p, strictly between 0 and 1.

    Returns
    -------
    Two (M, 2) arrays.
    """
    if displacement is None:
        return points, points
    d = linear_at(displacement, lattice.coarsened(max(displacement.shape[1:])), points).T
    return points + d / (2 * (1 - position)), points - d / (2 * position)
