"""H&E of sections that were never cut: that of the two neighbours, moved and blended as expression is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c2sti import _logging
from c2sti._types import FloatArray, Lattice
from c2sti.io._histology import HEImage, Picture, histology_on
from c2sti.ops import linear_at


def source_places(
    points: FloatArray, displacement: FloatArray | None, lattice: Lattice, position: float
) -> tuple[FloatArray, FloatArray]:
    """Places in the first and in the second section of what lies at the points of an interpolated one.

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


MOST_PIXELS = 1024  # along the longer side of the tissue
MOST_CANVAS = 4096  # from the origin of the frame, where by squidpy's convention an image begins
MARGIN = 1.0  # bins around the lattice that are shown too: tissue does not end with its last spot
BLANK_PIXELS = 100  # along the longer side of a white image
WHITE = 255


def section_images(
    a: Picture | None,
    b: Picture | None,
    lattice: Lattice,
    positions: Sequence[float] | FloatArray,
    *,
    displacement: Sequence[FloatArray] | None = None,
    targets: Mapping[float, Picture] | None = None,
) -> list[HEImage] | None:
    """H&E of both measured sections and of those interpolated between them, on one canvas.

    The material of an interpolated section is looked up in either neighbour where it lies there, and the two colours
    are blended 1 - p : p. What only one neighbour shows is taken from that one, what neither shows is white.

    Parameters
    ----------
    a, b
        H&E of the sections at positions 0 and 1; None where there is none.
    lattice
        Of the pair: what is shown.
    positions
        (S,) of the interpolated sections.
    displacement
        (2, h, w) of each interpolated section, see :func:`c2sti.io.source_places`; None where nothing moves.
    targets
        H&E of missing sections that were stained, by position: these are shown as they are.

    Returns
    -------
    S + 2 images, uint8, of a, the interpolated sections, b; or None, if one of the two has none or if nothing of the
    tissue lies at positive coordinates.
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
        if targets and p in targets:
            shown.append(histology_on(targets[p], fine))
        else:
            shown.append(_between(ends, fine, field, lattice, p))
    return [HEImage(_placed(colours, corner), 1 / fine.pitch) for colours in (*shown, ends[1])]


def section_image(picture: Picture | None, lattice: Lattice) -> HEImage | None:
    """H&E of one measured section over the lattice, uint8; None if there is none at positive coordinates."""
    canvas = None if picture is None else _canvas(lattice, picture.scale)
    if picture is None or canvas is None:
        return None
    fine, corner = canvas
    return HEImage(_placed(histology_on(picture, fine), corner), 1 / fine.pitch)


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
    if field is not None and np.any(field):
        places = source_places(fine.centres, field, lattice, p)
        first, second = (_colours_at(end, fine, at) for end, at in zip(ends, places, strict=True))
    else:
        first, second = ends
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
    row, column = corner
    _, height, width = colours.shape
    canvas = np.full((row + height, column + width, 3), WHITE, dtype=np.uint8)
    known = np.nan_to_num(np.moveaxis(colours, 0, -1), nan=1.0)
    canvas[row:, column:] = np.rint(np.clip(known, 0, 1) * WHITE)
    return canvas


# ---------------------------------------------------------------- as libraries of uns["spatial"]


def library_of_sections(
    pictures: Mapping[str, HEImage], shown: str, pitch: float, points: FloatArray
) -> dict[str, Any]:
    """One library for all sections of a result: squidpy draws a layer over the image that `img_res_key` names.

    Parameters
    ----------
    images
        H&E by section, all of one scale; those that there are.
    shown
        The section whose H&E is drawn by default, as ``"hires"``. Where it does not reach under all bins, or where
        there is none, that is :func:`blank`, and the H&E is drawn by its own name.
    pitch
        Side of a bin.
    points
        (M, 2) centres of the bins.
    """
    own = pictures.get(shown)
    under = own if own is not None and reaches(own, points) else blank(points, pitch)
    named = {} if under is own and len(pictures) == 1 else pictures  # an only one is not written twice
    images = {"hires": under, **named}
    factors = {f"tissue_{name}_scalef": image.scale for name, image in images.items()}
    return {
        "images": {name: image.pixels for name, image in images.items()},
        "scalefactors": {**factors, "spot_diameter_fullres": float(pitch)},
    }


def library_of_section(picture: HEImage | None, pitch: float, points: FloatArray, name: str) -> dict[str, Any]:
    """A library for one section: its H&E under bins of that pitch, or white where there is none."""
    return library_of_sections({} if picture is None else {name: picture}, name, pitch, points)


def reaches(image: HEImage, points: FloatArray) -> bool:
    """Whether squidpy shows all points over an image: its axes reach from -0.5 to the number of pixels less 0.5."""
    places = points * image.scale
    height, width = image.pixels.shape[:2]
    return bool((places >= -0.5).all() and (places <= np.array([width, height]) - 0.5).all())


def blank(points: FloatArray, pitch: float) -> HEImage:
    """A white image, under all bins: squidpy's default plot fails without one, and its axes end with the image.

    They reach from half a pixel before the origin of the frame to half a one before the image's end. So pixels are
    large where tissue lies at negative coordinates.
    """
    low, high = points.min(axis=0) - pitch, points.max(axis=0) + pitch
    scale = BLANK_PIXELS / max(float(high.max()), pitch)
    if low.min() < 0:
        scale = min(scale, -0.5 / float(low.min()))
    width, height = np.maximum(np.ceil(high * scale + 0.5), 1).astype(int)
    return HEImage(np.full((height, width, 3), WHITE, dtype=np.uint8), scale)
