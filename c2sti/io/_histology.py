"""An H&E image in the coordinate system of its section, in memory or lazy, and its mean colours in bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.ndimage import affine_transform

from c2sti._types import FloatArray, ImageEncoder, Lattice

LEAST_ON_IMAGE = 0.5  # share of the spots that lie on the image of their section
FINER = 4  # pixels along a bin that a level of a pyramid needs at least to be read
BRIGHTEST = 1.01  # of numbers that are colours in [0, 1], with what interpolation adds
MOST_POINTS = 2**22  # at which an oblique image is sampled at a time
MOST_PIXELS = 1024  # a side of an image that an encoder is given


class UnusableImage(ValueError):
    """An image that is there and cannot be used; the message says why, and what the fix is."""


@dataclass(frozen=True)
class HEImage:
    """An H&E image in the coordinate system of its section; of a lazy one only the part that is needed is read.

    `levels` are (h, w, 3) uint8, or float in [0, 1]: one array in memory, or dask arrays at falling resolutions, which
    all show the same rectangle. `to_pixel` leads from homogeneous (x, y, 1) to (column, row, 1) of the first level, in
    which pixel (row, column) covers [column, column + 1) × [row, row + 1).
    """

    levels: tuple[Any, ...]
    to_pixel: FloatArray  # (3, 3)
    name: str = "image"  # what errors call it

    @property
    def scale(self) -> float:
        """Pixels of the first level per unit of the coordinates."""
        return stretch(self.to_pixel)

    def near(self, lattice: Lattice) -> tuple[np.ndarray, FloatArray]:
        """What of the image lies under a lattice, and the (3, 3) matrix to its pixels.

        A lazy image is averaged over blocks of pixels, of about a quarter of a bin, while it is read. Its uint8 become
        float32 in [0, 255] by that.
        """
        level, matrix = self.levels[0], self.to_pixel
        for coarser in self.levels[1:]:
            shrink = np.diag([*np.divide(coarser.shape[1::-1], self.levels[0].shape[1::-1]), 1.0])
            if lattice.pitch * stretch(shrink @ self.to_pixel) >= FINER:
                level, matrix = coarser, shrink @ self.to_pixel
        lazy = not isinstance(level, np.ndarray)
        factor = max(int(lattice.pitch * stretch(matrix) / FINER), 1) if lazy else 1
        x, y = (_borders(lattice, axis)[[0, -1]] for axis in (0, 1))
        corners = np.array([[column, row, 1.0] for column in x for row in y]) @ matrix.T
        columns, rows = (_cut(corners[:, axis], level.shape[1 - axis], factor) for axis in (0, 1))
        part = level[rows, columns]
        if factor > 1 and part.size:
            import dask.array as da  # noqa: PLC0415 - only lazy images need it

            # What is left over at the far borders is less than half a bin.
            part = da.coarsen(np.mean, part, {0: factor, 1: factor}, trim_excess=True, dtype=np.float32)
        pixels = np.asarray(part)
        if level.dtype != np.uint8 and pixels.max(initial=0) > BRIGHTEST:
            check_colours(pixels, self.name)
        move = np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, factor]]) / factor
        return pixels, move @ matrix


def on_image(xy: FloatArray, shape: tuple[int, ...], to_pixel: FloatArray) -> FloatArray:
    """(m, 2) column and row of those of (n, 2) spots that lie on an image of (h, w, …) pixels."""
    pixel = xy @ to_pixel[:2, :2].T + to_pixel[:2, 2]
    return pixel[((pixel >= 0) & (pixel < shape[1::-1])).all(axis=1)]


def check_under(image: HEImage, xy: FloatArray) -> None:
    """Raise UnusableImage where less than half of (n, 2) spots lie on the image."""
    height, width = image.levels[0].shape[:2]
    share = len(on_image(xy, (height, width), image.to_pixel)) / len(xy)
    if share < LEAST_ON_IMAGE:
        pixel = np.rint(xy @ image.to_pixel[:2, :2].T + image.to_pixel[:2, 2]).astype(int)
        raise UnusableImage(
            f"{image.name} lies under {share:.0%} of the spots: it has {width} x {height} pixels, and the spots reach "
            f"from pixel {pixel.min(axis=0).tolist()} to {pixel.max(axis=0).tolist()}; correct its scale factor or "
            "transformation, or leave the image out"
        )


def check_colours(values: np.ndarray, where: str) -> None:
    """Raise UnusableImage unless values are uint8, or floats in [0, 1]."""
    if values.dtype == np.uint8:
        return
    low, high = (float(values.min()), float(values.max())) if values.dtype.kind in "biuf" else (np.nan, np.nan)
    if not (np.issubdtype(values.dtype, np.floating) and low >= 1 - BRIGHTEST and high <= BRIGHTEST):
        raise UnusableImage(
            f"{where} holds {values.dtype} from {low:.4g} to {high:.4g}; colours are uint8, or floats in [0, 1]: "
            "image.astype('uint8') where it reaches to 255, (image // 256).astype('uint8') where it uses 16 bits"
        )


def on_white(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) colours of (..., 4), laid on white by their alpha, in the same type; three channels stay as they are."""
    if pixels.shape[-1] != 4:
        return pixels
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    floats = np.issubdtype(pixels.dtype, np.floating)
    white = 1.0 if floats else float(np.iinfo(pixels.dtype).max)
    if (alpha == white).all():
        return colours
    mixed = white + (colours.astype(np.float32) - white) * (alpha / np.float32(white))
    return (mixed if floats else np.rint(mixed)).astype(pixels.dtype)


def features_on(image: HEImage, lattice: Lattice, encoder: ImageEncoder) -> FloatArray:
    """(C_h, H, W) features of every bin by an encoder, which gets the lattice edge to edge at about full resolution."""
    most = max(MOST_PIXELS // max(lattice.shape), 1)
    n = int(np.clip(round(lattice.pitch * image.scale), 1, most))
    shift = lattice.pitch * (n - 1) / (2 * n)
    origin = (lattice.origin[0] - shift, lattice.origin[1] - shift)
    fine = Lattice(origin, lattice.pitch / n, (lattice.shape[0] * n, lattice.shape[1] * n))
    return np.asarray(encoder(histology_on(image, fine), lattice.shape), dtype=np.float32)


def histology_on(image: HEImage, lattice: Lattice) -> FloatArray:
    """(3, H, W) mean colour in [0, 1] of every bin; NaN where less than half a bin is on the image.

    It is an area mean, with pixels split between bins where a border runs through them. For an oblique image it is the
    mean over points that lie less than a pixel apart.
    """
    pixels, matrix = image.near(lattice)
    if pixels.size == 0:
        return np.full((3, *lattice.shape), np.nan, dtype=np.float32)
    upright = _upright(pixels, matrix)
    white = np.float32(255 if image.levels[0].dtype == np.uint8 else 1)
    if upright is None:
        total, area = _oblique_means(pixels, matrix, lattice, white)
    else:
        total, area = _area_means(*upright, lattice, white)
    return np.where(area > 0.5, total / np.maximum(area, 1e-6), np.nan).astype(np.float32)


def stretch(matrix: FloatArray) -> float:
    """Length of a unit after a (3, 3) matrix."""
    (a, b), (c, d) = matrix[:2, :2]
    return float(np.sqrt(abs(a * d - b * c)))


def _borders(lattice: Lattice, axis: int) -> FloatArray:
    """(n + 1,) borders of the bins along x (0) or y (1)."""
    return lattice.origin[axis] + lattice.pitch * (np.arange(lattice.shape[1 - axis] + 1) - 0.5)


def _cut(at: FloatArray, n_pixels: int, factor: int) -> slice:
    """Pixels from the least to the greatest coordinate, with one to spare, in whole blocks of `factor`."""
    start = max(int(np.floor(at.min())) - factor, 0)
    stop = max(min(int(np.ceil(at.max())) + factor, n_pixels), start)
    return slice(start, min(start + -(-(stop - start) // factor) * factor, n_pixels))


def _upright(pixels: np.ndarray, matrix: FloatArray) -> tuple[np.ndarray, FloatArray] | None:
    """The image with x along its columns and y down its rows, and the matrix to it; None where it lies aslant."""
    slant = 1e-9 * np.abs(matrix[:2, :2]).max()
    if np.abs(np.diag(matrix)[:2]).max() <= slant:
        pixels, matrix = pixels.swapaxes(0, 1), matrix[[1, 0, 2]]
    if max(abs(matrix[0, 1]), abs(matrix[1, 0])) > slant:
        return None
    for axis, array_axis in ((0, 1), (1, 0)):
        if matrix[axis, axis] < 0:
            mirror = np.eye(3)
            mirror[axis, axis], mirror[axis, 2] = -1, pixels.shape[array_axis]
            pixels, matrix = np.flip(pixels, array_axis), mirror @ matrix
    return pixels, matrix


def _area_means(
    pixels: np.ndarray, matrix: FloatArray, lattice: Lattice, white: np.float32
) -> tuple[FloatArray, FloatArray]:
    """(3, H, W) colours summed by the share of a bin that each pixel covers, and (H, W) sums of these shares."""
    across, down = (
        _overlap(_borders(lattice, axis) * matrix[axis, axis] + matrix[axis, 2], pixels.shape[1 - axis])
        for axis in (0, 1)
    )
    total = np.stack([down @ (np.asarray(pixels[..., c], dtype=np.float32) / white) @ across.T for c in range(3)])
    return total, np.outer(down.sum(axis=1), across.sum(axis=1))


def _overlap(edges: FloatArray, n_pixels: int) -> sp.csr_array:
    """(n_bins, n_pixels) share of each bin's side, between edges in pixels, that each pixel covers."""
    low, high = edges[:-1], edges[1:]
    first = np.clip(np.floor(low), 0, n_pixels).astype(np.intp)
    count = np.clip(np.ceil(high), 0, n_pixels).astype(np.intp) - first
    row = np.repeat(np.arange(len(low)), count)
    pixel = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + first[row]
    shared = np.minimum(high[row], pixel + 1) - np.maximum(low[row], pixel)
    return sp.csr_array((np.maximum(shared, 0) / np.diff(edges)[row], (row, pixel)), shape=(len(low), n_pixels))


def _oblique_means(
    pixels: np.ndarray, matrix: FloatArray, lattice: Lattice, white: np.float32
) -> tuple[FloatArray, FloatArray]:
    """The same by linear interpolation at n × n points of each bin, in bands of rows so that few are held at a time."""
    n = max(int(np.ceil(lattice.pitch * stretch(matrix))), 2)
    height, width = lattice.shape
    step, band = lattice.pitch / n, max(MOST_POINTS // (n * n * width), 1)
    turn = matrix[:2, :2][::-1, ::-1] * step  # from (row, column) of the points to (row, column) of the pixels
    bands = []
    for first in range(0, height, band):
        shape = (min(band, height - first) * n, width * n)
        start = [_borders(lattice, 0)[0] + step / 2, _borders(lattice, 1)[first] + step / 2]
        offset = (matrix[:2, :2] @ start + matrix[:2, 2])[::-1] - 0.5  # the centre of a pixel lies half a pixel in
        row, column = np.indices(shape, sparse=True)
        at = [turn[axis, 0] * row + turn[axis, 1] * column + offset[axis] for axis in (0, 1)]
        inside = np.all([(at[axis] >= -0.5) & (at[axis] < pixels.shape[axis] - 0.5) for axis in (0, 1)], axis=0)
        layers = [inside.astype(np.float32)]
        for c in range(3):
            channel = np.asarray(pixels[..., c], dtype=np.float32) / white
            values = affine_transform(channel, turn, offset, output_shape=shape, order=1, mode="nearest")
            layers.append(values * inside)
        bands.append(np.stack([layer.reshape(-1, n, width, n).mean(axis=(1, 3)) for layer in layers]))
    share, *total = np.concatenate(bands, axis=1)
    return np.stack(total), share
