"""Images of squidpy's convention, moved along with their tissue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from c2sti._types import FloatArray
from c2sti.grid._histology import LEAST_ON_IMAGE, on_white, share_on_image
from c2sti.grid._libraries import Library, as_number, scale_key

BORDER = 0.02  # of an image's sides: where its background is looked for
MOST_LARGER = 4  # times the side of an image that the moved one may have, wherever the tissue is moved to


def end_of(library: Mapping[str, Any]) -> FloatArray:
    """(2,) right and lower end of a library's images in their frame."""
    ends = (np.array(pixels.shape[1::-1]) / scale for pixels, scale in _images(library).values())
    return np.max([np.zeros(2), *ends], axis=0)


def _images(library: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, float]]:
    """Images of one channel to four, alpha laid on white, and pixels per unit; those that have a scale."""
    held = Library("", "the library", library)
    known = {name: (np.asarray(one), held.scale(name)) for name, one in held.images.items()}
    return {
        name: (on_white(pixels) if pixels.ndim == 3 else pixels, scale)
        for name, (pixels, scale) in known.items()
        if scale is not None and _is_image(pixels)
    }


def _is_image(pixels: np.ndarray) -> bool:
    """Whether an array is (h, w) or (h, w, 1 … 4) numbers; one with its channels first would become huge."""
    flat = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] <= 4)
    return flat and pixels.size > 0 and pixels.dtype.kind in "uif"


def warped(library: Mapping[str, Any], xy: FloatArray, matrix: FloatArray, canvas: FloatArray) -> dict[str, Any]:
    """A library whose images lie in the frame of the reference, at the resolution that they had.

    Squidpy's convention puts the corner of an image at (0, 0): what a move brings to negative coordinates is lost, and
    one that leads far away makes the image coarser rather than huge. Left out are images that cannot be placed, since
    they have no scale, or do not lie under the section's (n, 2) spots.
    """
    stretch = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    factors = scaled(Library("", "the library", library).factors, stretch)
    images = {}
    for name, (pixels, scale) in _images(library).items():
        if share_on_image(xy, pixels.shape, scale) >= LEAST_ON_IMAGE:
            key, most = scale_key(name), float(MOST_LARGER * max(pixels.shape[:2]) / canvas.max())
            factors[key] = min(scale / stretch, most)
            images[name] = _warped(pixels, matrix, scale, factors[key], canvas)
    return {**library, "images": images, "scalefactors": factors}


def scaled(factors: Mapping[str, Any], stretch: float) -> dict[str, Any]:
    """Scale factors where lengths are `stretch` times what they were: those whose unit is the one of the coordinates.

    Lengths (``*_fullres``) grow with it; pixels per unit (``*_scalef``) and µm per unit shrink. Lengths in µm, text,
    matrices, and whatever else there is stay as they are.
    """
    found = dict(factors)
    for key, value in factors.items():
        number = as_number(value)
        if number is not None and np.isfinite(number):
            power = _power(str(key))
            found[key] = number * stretch**power if power else value
    return found


def _power(key: str) -> int:
    """How a scale factor grows with the unit of the coordinates."""
    if key.endswith("_fullres"):
        return 1
    return -1 if key.endswith("_scalef") or key in ("microns_per_pixel", "mpp") else 0


def _warped(pixels: np.ndarray, matrix: FloatArray, old: float, new: float, canvas: FloatArray) -> np.ndarray:
    from skimage.transform import AffineTransform, warp  # noqa: PLC0415 - slow to import, and only images need it

    # Pixel i covers [i, i + 1) / scale, so its centre lies half a pixel further on; warp counts centres.
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    forward = np.linalg.inv(centre) @ np.diag([new, new, 1]) @ matrix @ np.diag([1 / old, 1 / old, 1]) @ centre
    width, height = np.maximum(np.ceil(canvas * new), 1).astype(int).tolist()
    colour = background(pixels)
    # Moved as a difference from the background, so that what is beyond the image gets its colour in every channel.
    difference = pixels.astype(np.float32) - colour
    moved = warp(difference, AffineTransform(matrix=forward).inverse, output_shape=(height, width), order=1, cval=0)
    moved = moved + colour
    if np.issubdtype(pixels.dtype, np.integer):
        limit = np.iinfo(pixels.dtype)
        return np.clip(np.rint(moved), limit.min, limit.max).astype(pixels.dtype)
    return moved.astype(pixels.dtype)


def background(pixels: np.ndarray) -> np.ndarray:
    """(channels,) colour of the glass: the median over the brighter half of the image's border."""
    rim = max(int(round(min(pixels.shape[:2]) * BORDER)), 1)
    sides = (pixels[:rim], pixels[-rim:], pixels[:, :rim], pixels[:, -rim:])
    border = np.concatenate([side.reshape(-1, *pixels.shape[2:]) for side in sides]).astype(np.float32)
    brightness = border if border.ndim == 1 else border.mean(axis=1)
    return np.median(border[brightness >= np.median(brightness)], axis=0)
