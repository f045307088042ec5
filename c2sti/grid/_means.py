"""Means of an image's pixels over the bins of a lattice."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.ndimage import affine_transform

from c2sti._types import FloatArray, Lattice

MOST_POINTS = 2**22  # at which an oblique image is sampled at a time


def mean_colours(pixels: np.ndarray, matrix: FloatArray, lattice: Lattice) -> FloatArray:
    """(3, H, W) mean colour in [0, 1] of every bin; NaN where less than half a bin is on the image.

    An area mean, with pixels split between bins where a border runs through them. For an oblique image it is the mean
    over points that lie less than a pixel apart.

    Parameters
    ----------
    pixels
        (h, w, 3) uint8, or float in [0, 1].
    matrix
        (3, 3) from homogeneous (x, y, 1) of the lattice's frame to (column, row, 1).
    lattice
        The bins.
    """
    upright = _upright(pixels, matrix)
    return _oblique_mean(pixels, matrix, lattice) if upright is None else _area_mean(*upright, lattice)


def stretch(matrix: FloatArray) -> float:
    """Length of a unit after a (3, 3) matrix."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def ends(lattice: Lattice, axis: int) -> tuple[float, float]:
    """Outer borders of the lattice's bins along x (0) or y (1)."""
    start = lattice.origin[axis] - lattice.pitch / 2
    return start, start + lattice.pitch * lattice.shape[1 - axis]


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


def _area_mean(pixels: np.ndarray, matrix: FloatArray, lattice: Lattice) -> FloatArray:
    """Bins and pixels are both axis-aligned, so it is two small products with overlap lengths."""
    white = np.float32(255 if pixels.dtype == np.uint8 else 1)
    across, down = (
        _overlap(_edges(lattice, axis) * matrix[axis, axis] + matrix[axis, 2], pixels.shape[1 - axis])
        for axis in (0, 1)
    )
    total = np.stack([down @ (np.asarray(pixels[..., c], dtype=np.float32) / white) @ across.T for c in range(3)])
    area = np.outer(down.sum(axis=1), across.sum(axis=1))
    return np.where(area > 0.5, total / np.maximum(area, 1e-6), np.nan).astype(np.float32)


def _edges(lattice: Lattice, axis: int) -> FloatArray:
    """(n + 1,) borders of the bins along x (0) or y (1)."""
    return lattice.origin[axis] + lattice.pitch * (np.arange(lattice.shape[1 - axis] + 1) - 0.5)


def _overlap(edges: FloatArray, n_pixels: int) -> sp.csr_array:
    """(n_bins, n_pixels) share of each bin's side, between edges in pixels, that each pixel covers."""
    low, high = edges[:-1], edges[1:]
    first = np.clip(np.floor(low), 0, n_pixels).astype(np.intp)
    count = np.clip(np.ceil(high), 0, n_pixels).astype(np.intp) - first
    row = np.repeat(np.arange(len(low)), count)
    pixel = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + first[row]
    shared = np.minimum(high[row], pixel + 1) - np.maximum(low[row], pixel)
    side = np.diff(edges)[row]
    return sp.csr_array((np.maximum(shared, 0) / side, (row, pixel)), shape=(len(low), n_pixels))


def _oblique_mean(pixels: np.ndarray, matrix: FloatArray, lattice: Lattice) -> FloatArray:
    """Linear interpolation at n × n points of each bin, in bands of rows so that few are held at a time."""
    white = np.float32(255 if pixels.dtype == np.uint8 else 1)
    n = max(int(np.ceil(lattice.pitch * stretch(matrix))), 2)
    height, width = lattice.shape
    band = max(MOST_POINTS // (n * n * width), 1)
    return np.concatenate(
        [
            _band_mean(pixels, matrix, lattice, n, slice(first, min(first + band, height))) / white
            for first in range(0, height, band)
        ],
        axis=1,
    )


def _band_mean(pixels: np.ndarray, matrix: FloatArray, lattice: Lattice, n: int, rows: slice) -> FloatArray:
    shape = ((rows.stop - rows.start) * n, lattice.shape[1] * n)
    step = lattice.pitch / n
    start = [ends(lattice, 0)[0] + step / 2, ends(lattice, 1)[0] + rows.start * lattice.pitch + step / 2]
    # From (row, column) of the points to (row, column) of the pixels, whose centres lie half a pixel in.
    turn = matrix[:2, :2][::-1, ::-1] * step
    offset = (matrix[:2, :2] @ start + matrix[:2, 2])[::-1] - 0.5
    row, column = np.indices(shape, sparse=True)
    inside = np.ones(shape, dtype=bool)
    for axis in (0, 1):
        at = turn[axis, 0] * row + turn[axis, 1] * column + offset[axis]
        inside &= (at >= -0.5) & (at < pixels.shape[axis] - 0.5)

    def mean(values: np.ndarray) -> FloatArray:
        return values.reshape(-1, n, lattice.shape[1], n).mean(axis=(1, 3))

    share = mean(inside.astype(np.float32))
    colours = []
    for c in range(3):
        values = affine_transform(
            np.asarray(pixels[..., c], dtype=np.float32), turn, offset, output_shape=shape, order=1, mode="nearest"
        )
        colours.append(mean(values * inside))
    return np.where(share > 0.5, np.stack(colours) / np.maximum(share, 1e-6), np.nan).astype(np.float32)
