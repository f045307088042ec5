"""In which region was a section measured? Beyond its capture window there may be tissue that it does not show.

A window is a convex region as (k, 3) half-planes ``[nx, ny, c]`` with outward unit normals n: a point x lies in it
where ``n · x ≤ c`` for all of them. None stands for a window that is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, KDTree, QhullError

from c2sti import _validators
from c2sti._types import FloatArray

OUTSIDE = 0.05  # share of a section's spots that may lie outside of a window that is given
SLIDES = ((77, 127), (127, 223))  # last row and column of Visium's arrays of 6.5 and of 11 mm, counted from 0
OFF_PLACE = 0.1  # pitches that spots may lie (root mean square) from where their row and column say
CELL = {"square": 1.0, "hex": 3**0.5 / 2}  # area of a spot of an array, in squares of the pitch
FULL = 0.95  # share of its rectangle that an array fills
DEPTH = 0.8  # pitches from the outermost spot within which a straight border lies
BENT = 0.5  # pitches by which a side of the hull may bulge and be straight
GAP, DENSE = 2.5, 0.8  # pitches without a spot that end a border, and share of the places along it that are taken
LONGER, LEAST_RUN = 2.5, 12  # times what a round tissue has by chance, and pitches, that a straight border is long
OBLIQUE, SAME_SIDE = np.deg2rad(3), np.deg2rad(20)  # of a border to the array, and of two borders that are one
SIMILAR = 0.9  # of the longest border's length that another one of the same side has
ENOUGH = 2000  # spots from which the direction of an array is found
ROUND_OFF = 1e-9


def window_of(
    xy: FloatArray,
    pitch: float,
    layout: str,
    *,
    all_xy: FloatArray | None = None,
    array: FloatArray | None = None,
    given: Any = None,
    name: str = "slice",
) -> FloatArray | None:
    """The capture window of a section, (k, 3) half-planes: as `given` by the user, or from its array and its borders.

    `all_xy` are coordinates of all rows of the container, where some lie outside of the tissue, and `array` the (n, 2)
    ``array_row`` and ``array_col`` of the points. None where the section ends at no window, as far as is known.
    """
    if given is not None:
        return _given(given, xy, pitch, name)
    array_window = _of_array(xy, pitch, layout, array, all_xy)
    if array_window is None and all_xy is not None:
        array_window = _of_rows(all_xy, pitch, layout)
    sides = list(() if array_window is None else array_window)
    # A section that ends in a straight border within the window of its array was cut to a region.
    sides += [side for side in _borders(xy, pitch, layout) if all_xy is None or within(side[None], all_xy).all()]
    return np.stack(sides) if sides else None


def within(window: FloatArray | None, points: FloatArray) -> NDArray[np.bool_]:
    """(M,) whether each point lies in a window or on its border; all do where none is known."""
    inside = np.ones(len(points), dtype=bool)
    for x, y, c in () if window is None else window:
        inside &= points[:, 0] * x + points[:, 1] * y <= c + ROUND_OFF * max(abs(c), 1.0)
    return inside


def _half_planes(corners: FloatArray, margin: float = 0.0) -> FloatArray:
    """(k, 3) sides of the convex hull of points, moved outwards by a margin."""
    return ConvexHull(corners).equations * [1, 1, -1] + [0, 0, margin]


def _corners(points: FloatArray) -> FloatArray:
    """(k, 2) corners of the convex hull of points, counterclockwise; none where they lie on one line."""
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:
        return np.empty((0, 2))


def _sides(corners: FloatArray, bent: float = 0.0) -> Iterator[tuple[FloatArray, float, float]]:
    """Sides of a convex polygon, also several as one that bulges by `bent` at most: outward normal, length, bulge."""
    n = len(corners)
    for start in range(n):
        for step in range(1, n):
            x, y = corners[(start + step) % n] - corners[start]
            normal = np.array([y, -x]) / np.hypot(x, y)
            between = corners[(start + np.arange(1, step)) % n] - corners[start]
            bulge = float((between @ normal).max(initial=0.0))
            if bulge > bent:
                break
            yield normal, float(np.hypot(x, y)), bulge


def _given(given: Any, xy: FloatArray, pitch: float, name: str) -> FloatArray:
    corners = _validators.reals(given, f"window of {name}")
    if corners.shape == (4,):
        x0, y0, x1, y1 = corners
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    finite = corners.ndim == 2 and corners.shape[1] == 2 and np.isfinite(corners).all()
    if not finite or len(corners) < 3 or len(_corners(corners)) == 0:
        raise ValueError(
            f"the window of {name} is {_validators.shown(given)}; four finite numbers (x0, y0, x1, y1) are needed, or "
            "the corners of a polygon, (k, 2), that enclose an area"
        )
    window = _half_planes(corners)
    outside = 1 - within(window + [0, 0, pitch], xy).mean()
    if outside > OUTSIDE:
        (x0, y0), (x1, y1) = xy.min(axis=0), xy.max(axis=0)
        raise ValueError(
            f"{outside:.0%} of the spots of {name} (x {x0:.4g}..{x1:.4g}, y {y0:.4g}..{y1:.4g}) lie outside of its "
            f"window= {_validators.shown(given)}; give it in the unit and the frame of these coordinates"
        )
    return window


# ---- of arrays


def _of_array(
    xy: FloatArray, pitch: float, layout: str, array: FloatArray | None, all_xy: FloatArray | None
) -> FloatArray | None:
    """Window of a Visium array, from the row and column of its spots; it moves with them."""
    if array is None or layout != "hex" or not np.isfinite(array).all():
        return None
    every_other = (array == np.rint(array)).all() and (array >= 0).all() and (array.sum(axis=1) % 2 == 0).all()
    design = np.column_stack([array, np.ones(len(array))])
    move, _, rank, _ = np.linalg.lstsq(design, xy)
    off_place = np.sqrt(np.square(design @ move - xy).sum(axis=1).mean())
    if not every_other or rank < 3 or off_place > OFF_PLACE * pitch:
        return None
    for row, column in SLIDES:
        corners = np.array([[0, 0, 1], [row, 0, 1], [row, column, 1], [0, column, 1]]) @ move
        window = _half_planes(corners, pitch / 2)
        if (array <= [row, column]).all() and (all_xy is None or within(window, all_xy).all()):
            return window
    return None


def _of_rows(all_xy: FloatArray, pitch: float, layout: str) -> FloatArray | None:
    """Window of an array of which the container holds the spots off the tissue too: the rectangle that they fill.

    Where they fill no rectangle they are a few that were taken from the tissue, and say nothing of the window.
    """
    if layout not in CELL or len(corners := _corners(all_xy)) == 0:
        return None
    area, sides = np.inf, np.empty((0, 3))
    for (x, y), _, _ in _sides(corners):
        normals = np.array([[x, y], [-y, x], [-x, -y], [y, -x]])
        right, top, left, bottom = ends = (corners @ normals.T).max(axis=0)
        if (right + left) * (top + bottom) < area:
            area, sides = (right + left) * (top + bottom), np.column_stack([normals, ends])
    filled = min(ConvexHull(corners).volume, len(all_xy) * CELL[layout] * pitch**2)
    return sides + [0, 0, pitch / 2] if filled >= FULL * area else None


# ---- of the spots alone


def _borders(xy: FloatArray, pitch: float, layout: str) -> list[FloatArray]:
    """Straight borders along which spots lie side by side, each as (3,) half-plane; in an array, along the array.

    They are half as long as the tissue is wide, and far longer than those of a round tissue: an ellipse that is `wide`
    along a border and `deep` across it, in pitches, lies within one pitch of its outermost point over 2 wide / √deep.
    """
    points = np.unique(xy, axis=0) / pitch
    if layout == "scattered" or len(corners := _corners(points)) == 0:
        return []
    folds, phase = _directions(points, layout)
    found: list[tuple[float, float, FloatArray]] = []
    for normal, side, bulge in _sides(corners, BENT):
        angle = np.arctan2(normal[1], normal[0])
        if folds and abs(np.angle(np.exp(1j * folds * angle) / phase)) > folds * OBLIQUE:
            continue
        tangent, outermost = np.array([-normal[1], normal[0]]), (corners @ normal).max()
        wide, deep = np.ptp(corners @ tangent) + 1, np.ptp(corners @ normal) + 1
        least = max(LONGER * 2 * wide / np.sqrt(deep), wide / 2, LEAST_RUN)
        if side + 2 * GAP < least:
            continue
        length = _run(points[points @ normal >= outermost - DEPTH] @ tangent)
        if length >= least:
            found.append((length, bulge, np.append(normal, (outermost + 0.5) * pitch)))
    return _one_a_side(found)


def _one_a_side(found: list[tuple[float, float, FloatArray]]) -> list[FloatArray]:
    """Of borders with lengths and bulges one a side: the straightest of the longest, which end at different corners."""
    kept = []
    while found:
        longest, _, first = max(found, key=lambda one: one[0])
        same = [bool(plane[:2] @ first[:2] > np.cos(SAME_SIDE)) for _, _, plane in found]
        long = (one for one, is_same in zip(found, same, strict=True) if is_same and one[0] >= SIMILAR * longest)
        kept.append(min(long, key=lambda one: one[1])[2])
        found = [one for one, is_same in zip(found, same, strict=True) if not is_same]
    return kept


def _directions(points: FloatArray, layout: str) -> tuple[int, complex]:
    """In how many directions borders may run along an array, and exp(i · this number · angle) of one; 0 for cells."""
    if layout not in CELL:
        return 0, 1.0
    folds = 12 if layout == "hex" else 4
    some = points[:: -(-len(points) // ENOUGH)]
    distance, nearest = KDTree(points).query(some, k=5)
    step = (points[nearest] - some[:, None])[distance > 0]
    turn = np.exp(1j * folds * np.arctan2(step[:, 1], step[:, 0])).mean()
    return folds, complex(turn / abs(turn))


def _run(along: FloatArray) -> float:
    """Length of the longest stretch of places, in pitches, that lie side by side."""
    along = np.sort(along)
    runs = np.split(along, np.flatnonzero(np.diff(along) > GAP) + 1)
    lengths = [0.0]
    for run in runs:
        length = float(run[-1] - run[0]) + 1
        if len(np.unique(np.floor(run - run[0] + 0.5))) >= DENSE * length:
            lengths.append(length)
    return max(lengths)
