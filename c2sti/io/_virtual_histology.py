"""Virtual H&E of interpolated sections: that of the two neighbours, displaced and blended as expression is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2sti import _logging
from c2sti._types import FloatArray, Lattice
from c2sti.io._histology import HEImage, histology_on
from c2sti.ops import linear_at

MOST_PIXELS = 1024  # along the longer side of the tissue
MOST_CANVAS = 4096  # from the origin of the frame, where by squidpy's convention an image begins
MARGIN = 1.0  # bins around the lattice that are shown too: tissue does not end with its last spot
BLANK_PIXELS = 100  # along the longer side of a white image
WHITE = 255

Canvas = tuple[NDArray[np.uint8], float]  # (H, W, 3) pixels that begin at the origin of the frame, and pixels per unit


def source_places(
    points: FloatArray, displacement: FloatArray | None, lattice: Lattice, position: float
) -> tuple[FloatArray, FloatArray]:
    """Places in the first and in the second section of what lies at the points of an interpolated one.

    Displacement d points from a bin towards where its material lies in the first section; material on a straight way
    from the one section to the other lies at x + d / (2 (1 - p)) in the first and at x - d / (2 p) in the second, where
    p is the position in (0, 1). d = (dx, dy) is (2, H, W), of each bin of the lattice or of bins several times as wide,
    beyond the border that of the border; None where the method moves nothing.
    """
    if displacement is None:
        return points, points
    d = linear_at(displacement, lattice.coarsened(max(displacement.shape[1:])), points).T
    return points + d / (2 * (1 - position)), points - d / (2 * position)


def section_images(
    a: HEImage | None,
    b: HEImage | None,
    lattice: Lattice,
    positions: Sequence[float] | FloatArray,
    *,
    displacement: Sequence[FloatArray] | None = None,
    targets: Mapping[float, HEImage] | None = None,
) -> list[Canvas] | None:
    """H&E of a, of the S sections interpolated between, and of b, on one canvas over the lattice.

    The material of an interpolated section is looked up in either neighbour where it lies there, see
    :func:`source_places`, and the two colours are blended 1 - p : p. What only one neighbour shows is taken from that
    one, what neither shows is white. `targets`, H&E of missing sections by position, are shown as they are. None if a
    or b has no H&E, or if nothing of the tissue lies at positive coordinates.
    """
    if a is None or b is None:
        return None
    canvas = _canvas(lattice, max(a.scale, b.scale))
    if canvas is None:
        _logging.warning("no image in uns['spatial'] reaches tissue at negative coordinates: the H&E is left out")
        return None
    fine, corner = canvas
    ends = (histology_on(a, fine), histology_on(b, fine))
    fields: Sequence[FloatArray | None] = [None] * len(positions) if displacement is None else displacement
    shown = [ends[0]]
    for p, field in zip(map(float, positions), fields, strict=True):
        measured = targets.get(p) if targets else None
        shown.append(_between(ends, fine, field, lattice, p) if measured is None else histology_on(measured, fine))
    return [(_placed(colours, corner), 1 / fine.pitch) for colours in (*shown, ends[1])]


def section_image(image: HEImage | None, lattice: Lattice) -> Canvas | None:
    """H&E of one measured section over the lattice; None if there is none at positive coordinates."""
    canvas = None if image is None else _canvas(lattice, image.scale)
    if image is None or canvas is None:
        return None
    fine, corner = canvas
    return _placed(histology_on(image, fine), corner), 1 / fine.pitch


def library_of_sections(
    images: Mapping[str, Canvas | None], shown: str, pitch: float, points: FloatArray
) -> dict[str, Any]:
    """One library of ``uns["spatial"]`` for all sections of a result: squidpy draws the image that `img_res_key` names.

    `images` are by section, all of one scale. That of the section `shown` is drawn by default, as ``"hires"``. Where it
    does not reach under all of the (M, 2) points, or where there is none, that is a white image, and the H&E is drawn
    by its own name. `pitch` is the side of a bin.
    """
    written = {name: image for name, image in images.items() if image is not None}
    own = written.get(shown)
    under = own if own is not None and _reaches(*own, points) else _blank(points, pitch)
    written = {"hires": under, **({} if under is own and len(written) == 1 else written)}  # an only one is written once
    factors = {f"tissue_{name}_scalef": scale for name, (_, scale) in written.items()}
    return {
        "images": {name: pixels for name, (pixels, _) in written.items()},
        "scalefactors": {**factors, "spot_diameter_fullres": float(pitch)},
    }


def _canvas(lattice: Lattice, scale: float) -> tuple[Lattice, tuple[int, int]] | None:
    """Pixels over the lattice, on a grid that begins at the origin of the frame, and the (row, column) of the first.

    As fine as the finer image, unless that makes them too many.
    """
    low = np.asarray(lattice.origin) - (0.5 + MARGIN) * lattice.pitch
    high = low + lattice.pitch * (np.array(lattice.shape[::-1]) + 2 * MARGIN)
    if (high <= 0).any():
        return None
    side = max(1 / scale, float((high - low).max()) / MOST_PIXELS, float(high.max()) / MOST_CANVAS)
    first = np.maximum(np.floor(low / side), 0).astype(int)
    width, height = (np.ceil(high / side).astype(int) - first).tolist()
    x, y = ((first + 0.5) * side).tolist()
    return Lattice((x, y), side, (height, width)), (int(first[1]), int(first[0]))


def _between(
    ends: tuple[FloatArray, FloatArray], fine: Lattice, field: FloatArray | None, lattice: Lattice, p: float
) -> FloatArray:
    """(3, h, w) colours of the section at p, NaN where neither neighbour is known."""
    first, second = ends
    if field is not None and np.any(field):
        places = source_places(fine.centres, field, lattice, p)
        first, second = (_colours_at(end, fine, at) for end, at in zip(ends, places, strict=True))
    weights = np.stack([(1 - p) * np.isfinite(first[0]), p * np.isfinite(second[0])])
    total = weights.sum(axis=0)
    blended = weights[0] * np.nan_to_num(first) + weights[1] * np.nan_to_num(second)
    return np.where(total > 0, blended / np.maximum(total, 1e-6), np.nan)


def _colours_at(colours: FloatArray, fine: Lattice, places: FloatArray) -> FloatArray:
    """(3, h, w) colours at the (h·w, 2) places of the pixels, linear between pixels that are known."""
    layers = np.stack([np.isfinite(colours[0]), *np.nan_to_num(colours)]).astype(np.float32)
    known, *found = linear_at(layers, fine, places, beyond=0.0).reshape(-1, *fine.shape)
    return np.where(known > 0.5, np.stack(found) / np.maximum(known, 1e-6), np.nan)


def _placed(colours: FloatArray, corner: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) the colours on a white canvas that begins at the origin of the frame."""
    known = np.nan_to_num(np.moveaxis(colours, 0, -1), nan=1.0)
    pixels = np.rint(np.clip(known, 0, 1) * WHITE).astype(np.uint8)
    return np.pad(pixels, ((corner[0], 0), (corner[1], 0), (0, 0)), constant_values=WHITE)


def _reaches(pixels: NDArray[np.uint8], scale: float, points: FloatArray) -> bool:
    """Whether squidpy shows all points over an image: its axes reach from -0.5 to the number of pixels less 0.5."""
    places = points * scale
    return bool((places >= -0.5).all() and (places <= np.array(pixels.shape[1::-1]) - 0.5).all())


def _blank(points: FloatArray, pitch: float) -> Canvas:
    """A white image under all bins: squidpy's default plot fails without one, and its axes end with the image.

    They reach from half a pixel before the origin of the frame to half a one before the image's end. So pixels are
    large where tissue lies at negative coordinates.
    """
    low, high = points.min(axis=0) - pitch, points.max(axis=0) + pitch
    scale = BLANK_PIXELS / max(float(high.max()), pitch)
    if low.min() < 0:
        scale = min(scale, -0.5 / float(low.min()))
    width, height = np.maximum(np.ceil(high * scale + 0.5), 1).astype(int)
    return np.full((height, width, 3), WHITE, dtype=np.uint8), scale
