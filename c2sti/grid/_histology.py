"""H&E of a section: a picture in memory or one that stays on disk, averaged over the bins of a lattice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from scipy.ndimage import affine_transform

from c2sti import _check
from c2sti._types import FloatArray, Lattice, PictureEncoder

if TYPE_CHECKING:
    from xarray import DataArray

FINER = 4  # pixels along a bin that a level of a pyramid needs at least to be read
BRIGHTEST = 1.01  # of numbers that are colours in [0, 1], with what interpolation adds
BAND = 1024  # rows of pixels that are held at a time
MOST_POINTS = 2**22  # at which an oblique picture is sampled at a time


@dataclass(frozen=True)
class HEImage:
    """A picture in the frame of its section: pixel (row, column) covers [column, column + 1) / scale in x.

    Parameters
    ----------
    pixels
        (h, w, 3) uint8, or float in [0, 1].
    scale
        Pixels per unit of the frame.
    """

    pixels: np.ndarray
    scale: float

    @property
    def to_pixel(self) -> FloatArray:
        """(3, 3) from homogeneous (x, y, 1) of the frame to (column, row, 1)."""
        return np.diag([self.scale, self.scale, 1.0])


@dataclass(frozen=True)
class SlideImage:
    """A picture that may be larger than memory and lie anyhow in the frame: only what is asked for is read.

    Parameters
    ----------
    levels
        (3, h, w) uint8, or float in [0, 1], at falling resolutions; all show the same rectangle.
    to_pixel
        (3, 3) from homogeneous (x, y, 1) of the frame to (column, row, 1) of the first level, in which pixel (row,
        column) covers [column, column + 1) × [row, row + 1).
    name
        What errors call it.
    """

    levels: tuple[DataArray, ...]
    to_pixel: FloatArray
    name: str

    @property
    def scale(self) -> float:
        """Pixels of the first level per unit of the frame."""
        return _stretch(self.to_pixel)

    def near(self, lattice: Lattice) -> tuple[np.ndarray, FloatArray] | None:
        """What of the picture lies under a lattice, at about a quarter of its pitch; None where nothing does.

        Returns
        -------
        (h, w, 3) pixels, uint8 or float32 in [0, 1], and the (3, 3) matrix from the frame to them.
        """
        level, to_level = self._level(lattice.pitch)
        corners = np.array([[x, y, 1.0] for x in _ends(lattice, 0) for y in _ends(lattice, 1)]) @ to_level.T
        factor = max(int(lattice.pitch * _stretch(to_level) / FINER), 1)
        columns, rows = (_cut(corners[:, axis], level.sizes[dim], factor) for axis, dim in enumerate(("x", "y")))
        if columns.stop <= columns.start or rows.stop <= rows.start:
            return None
        pixels = _means(level.isel(x=columns, y=rows).transpose("y", "x", "c"), factor)
        if level.dtype == np.uint8 and factor > 1:
            pixels /= 255
        elif level.dtype != np.uint8 and pixels.max(initial=0) > BRIGHTEST:
            raise ValueError(
                f"{self.name} holds {level.dtype} values up to {pixels.max():.4g}; colours are uint8, or numbers in "
                "[0, 1]"
            )
        move = np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, factor]]) / factor
        return pixels, move @ to_level

    def _level(self, pitch: float) -> tuple[DataArray, FloatArray]:
        """The coarsest level with pixels of a quarter of a pitch or less (else the finest), and the matrix to it."""
        first = self.levels[0]
        found = first, self.to_pixel
        for level in self.levels[1:]:
            shrink = np.diag([level.sizes["x"] / first.sizes["x"], level.sizes["y"] / first.sizes["y"], 1.0])
            if pitch * _stretch(shrink @ self.to_pixel) >= FINER:
                found = level, shrink @ self.to_pixel
        return found


Picture = HEImage | SlideImage


def _means(image: DataArray, factor: int) -> np.ndarray:
    """(h, w, 3) means of blocks of pixels, computed in bands of rows so that few are held at a time."""
    if factor == 1:
        return np.asarray(image.data)
    band = max(BAND // factor, 1) * factor
    parts = [image.isel(y=slice(first, first + band)) for first in range(0, image.sizes["y"], band)]
    # What is left over at the far borders is less than half a bin.
    blocks = [p.coarsen(x=factor, y=factor, boundary="trim") for p in parts if p.sizes["y"] >= factor]
    return np.concatenate([np.asarray(b.reduce(np.mean, dtype=np.float32).data) for b in blocks])


def _stretch(matrix: FloatArray) -> float:
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def _ends(lattice: Lattice, axis: int) -> tuple[float, float]:
    """Outer borders of the lattice's bins along x (0) or y (1)."""
    start = lattice.origin[axis] - lattice.pitch / 2
    return start, start + lattice.pitch * lattice.shape[1 - axis]


def _cut(at: FloatArray, n_pixels: int, factor: int) -> slice:
    """Pixels from the least to the greatest coordinate, with one to spare, in whole blocks of `factor`."""
    start = max(int(np.floor(at.min())) - factor, 0)
    stop = min(int(np.ceil(at.max())) + factor, n_pixels)
    return slice(start, min(start + -(-(stop - start) // factor) * factor, n_pixels))


def read_image(adata: AnnData, xy: FloatArray, name: str, spatial_key: str, library: str | None) -> HEImage | None:
    """Picture of ``uns[spatial_key]`` (squidpy's convention), or None where there is none.

    Raises
    ------
    ValueError
        Several libraries and none chosen, or a scale factor that sends the spots off the picture.
    """
    where = f"uns[{spatial_key!r}]"
    found = adata.uns.get(spatial_key)
    held = {} if found is None else _mapping(found, f"{where} of {name}")
    libraries = {key: value for key, value in held.items() if isinstance(value, Mapping) and "images" in value}
    if library is None and len(libraries) > 1:
        raise ValueError(f"{name} has pictures of {sorted(libraries)}; choose one with image_key=")
    if library is not None and library not in libraries:
        raise KeyError(f"{name} has no picture {library!r} in {where}; it has {sorted(libraries)}")
    if not libraries:
        return None
    key = library if library is not None else next(iter(libraries))
    where = f"{where}[{key!r}]"
    largest = _largest(libraries[key], where, f" of {name}")
    if largest is None:
        return None
    factor, image = largest
    _check_on_image(image, xy, f"{where} of {name}", factor)
    return image


def image_of(library: Mapping[str, Any], name: str) -> HEImage:
    """Picture of one library, ``{"images": {"hires": …}, "scalefactors": {"tissue_hires_scalef": …}}``.

    Raises
    ------
    ValueError
        It is not one.
    """
    whole = isinstance(library, Mapping) and {"images", "scalefactors"} <= set(library)
    found = _largest(library, name, "") if whole else None
    if found is None:
        raise ValueError(
            f'{name} is no picture; give a library of uns["spatial"], {{"images": {{"hires": array}}, "scalefactors": '
            '{"tissue_hires_scalef": pixels per unit}}'
        )
    return found[1]


def _largest(library: Mapping[str, Any], where: str, of: str) -> tuple[str, HEImage] | None:
    """Name of the scale factor, and the picture that it belongs to; None where there is no picture."""
    images = _mapping(library["images"], f"{where}['images']{of}")
    factors = _mapping(library.get("scalefactors", {}), f"{where}['scalefactors']{of}")
    there = [resolution for resolution in ("hires", "lowres") if resolution in images]
    for resolution in there:
        factor = f"tissue_{resolution}_scalef"
        if factor in factors:
            scale = _check.number(factors[factor], f"{where}{of}: {factor}", above=0)
            return factor, HEImage(_pixels(images[resolution], f"{where}['images'][{resolution!r}]{of}"), scale)
    if there:
        raise ValueError(
            f"{where}{of} holds a picture, {there[0]!r}, and no 'tissue_{there[0]}_scalef' in its scalefactors "
            f"({sorted(factors)}); add it, in pixels per unit of the coordinates, or delete the picture from uns"
        )
    return None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} is a {type(value).__name__}; a dict by squidpy's convention is needed, or none")
    return value


def _pixels(picture: Any, where: str) -> np.ndarray:
    """A picture whose shape and numbers are those of a photograph.

    Raises
    ------
    ValueError
        They are not.
    """
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        raise ValueError(f"{where} has shape {pixels.shape}; an H&E picture has (height, width, 3), colours last")
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"{where} holds {pixels.dtype}; colours are uint8, or numbers in [0, 1]")
    if pixels.dtype != np.uint8 and not (pixels.min() >= 1 - BRIGHTEST and pixels.max() <= BRIGHTEST):
        raise ValueError(
            f"{where} holds {pixels.dtype} from {pixels.min():.4g} to {pixels.max():.4g}; colours are uint8, or "
            "numbers in [0, 1]"
        )
    return pixels


def _check_on_image(image: HEImage, xy: FloatArray, where: str, factor: str) -> None:
    height, width = image.pixels.shape[:2]
    pixel = xy * image.scale
    inside = ((pixel >= 0) & (pixel < (width, height))).all(axis=1).mean()
    if inside < 0.5:
        raise ValueError(
            f"{where}: {factor} = {image.scale:.4g} sends {1 - inside:.0%} of the spots off the picture "
            f"(they reach pixel {pixel.max(axis=0).round().astype(int).tolist()}, the picture is {width} x "
            f"{height}); correct the scale factor, or delete the picture from uns"
        )


def histology_on(image: Picture, lattice: Lattice) -> FloatArray:
    """(3, H, W) mean colour in [0, 1] of every bin; NaN where less than half a bin is on the picture.

    An area mean, with pixels split between bins where a border runs through them. For an oblique picture it is the mean
    over points that lie less than a pixel apart.
    """
    if isinstance(image, SlideImage):
        near = image.near(lattice)
        if near is None:
            return np.full((3, *lattice.shape), np.nan, dtype=np.float32)
        pixels, matrix = near
    else:
        pixels, matrix = image.pixels, image.to_pixel
    upright = _upright(pixels[..., :3], matrix)
    return _oblique_mean(pixels, matrix, lattice) if upright is None else _area_mean(*upright, lattice)


def _upright(pixels: np.ndarray, matrix: FloatArray) -> tuple[np.ndarray, FloatArray] | None:
    """The picture with x along its columns and y down its rows, and the matrix to it; None where it lies aslant."""
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
    n = max(int(np.ceil(lattice.pitch * _stretch(matrix))), 2)
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
    start = [_ends(lattice, 0)[0] + step / 2, _ends(lattice, 1)[0] + rows.start * lattice.pitch + step / 2]
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


MOST_PIXELS = 1024  # a side of a picture that an encoder is given


def features_on(image: Picture, lattice: Lattice, encoder: PictureEncoder) -> FloatArray:
    """(C_h, H, W) what an encoder says of every bin; it sees the lattice edge to edge, pixel by pixel or so."""
    most = max(MOST_PIXELS // max(lattice.shape), 1)
    n = int(np.clip(round(lattice.pitch * image.scale), 1, most))
    shift = lattice.pitch * (n - 1) / (2 * n)
    origin = (lattice.origin[0] - shift, lattice.origin[1] - shift)
    fine = Lattice(origin, lattice.pitch / n, (lattice.shape[0] * n, lattice.shape[1] * n))
    return np.asarray(encoder(histology_on(image, fine), lattice.shape), dtype=np.float32)
