"""H&E of a section: an image in memory or one that stays on disk, averaged over the bins of a lattice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray, ImageEncoder, Lattice
from c2sti.io._images import Library, UnusableImage, ends, mean_colours, scale_key, section_library, stretch, unusable

if TYPE_CHECKING:
    from xarray import DataArray

LEAST_ON_IMAGE = 0.5  # share of the spots that lie on the image of their section
FINER = 4  # pixels along a bin that a level of a pyramid needs at least to be read
BRIGHTEST = 1.01  # of numbers that are colours in [0, 1], with what interpolation adds
BAND = 1024  # rows of pixels that are held at a time


@dataclass(frozen=True)
class HEImage:
    """An image in the frame of its section: pixel (row, column) covers [column, column + 1) / scale in x.

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
    """An image that may be larger than memory and lie anyhow in the frame: only what is asked for is read.

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
        return stretch(self.to_pixel)

    def near(self, lattice: Lattice) -> tuple[np.ndarray, FloatArray] | None:
        """What of the image lies under a lattice, at about a quarter of its pitch; None where nothing does.

        Returns
        -------
        (h, w, 3) pixels, uint8 or float32 in [0, 1], and the (3, 3) matrix from the frame to them.
        """
        level, to_level = self._level(lattice.pitch)
        corners = np.array([[x, y, 1.0] for x in ends(lattice, 0) for y in ends(lattice, 1)]) @ to_level.T
        factor = max(int(lattice.pitch * stretch(to_level) / FINER), 1)
        columns, rows = (_cut(corners[:, axis], level.sizes[dim], factor) for axis, dim in enumerate(("x", "y")))
        if columns.stop <= columns.start or rows.stop <= rows.start:
            return None
        pixels = _means(level.isel(x=columns, y=rows).transpose("y", "x", "c"), factor)
        if level.dtype == np.uint8 and factor > 1:
            pixels /= 255
        elif level.dtype != np.uint8 and pixels.max(initial=0) > BRIGHTEST:
            raise UnusableImage(
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
            if pitch * stretch(shrink @ self.to_pixel) >= FINER:
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


def _cut(at: FloatArray, n_pixels: int, factor: int) -> slice:
    """Pixels from the least to the greatest coordinate, with one to spare, in whole blocks of `factor`."""
    start = max(int(np.floor(at.min())) - factor, 0)
    stop = min(int(np.ceil(at.max())) + factor, n_pixels)
    return slice(start, min(start + -(-(stop - start) // factor) * factor, n_pixels))


def read_image(
    adata: AnnData,
    xy: FloatArray,
    name: str,
    spatial_key: str,
    image_key: str | None,
    library: str | None = None,
    rows: NDArray[np.intp] | None = None,
) -> tuple[HEImage | None, str]:
    """H&E of a section in ``uns[spatial_key]`` (squidpy's convention), and why there is one that is not used.

    Parameters
    ----------
    adata
        That holds the section.
    xy
        (n, 2) spots of the section.
    name, spatial_key, image_key, library, rows
        As in :func:`c2sti.io._images.section_library`.

    Returns
    -------
    The image, or None; and the reason, empty where the image is used or where there is none.

    Raises
    ------
    KeyError, ValueError
        There is no such library; several and nothing tells which is meant; or the one named cannot be used.

    Warns
    -----
    UserWarning
        An image that was not named cannot be used.
    """
    try:
        found = section_library(adata, name, spatial_key, image_key, library, rows)
        if found is None or not found.foreign:
            return (None if found is None else _usable(found, xy)), ""
        _usable(found, np.asarray(adata.obsm[_keys.SPATIAL])[slice(None) if rows is None else rows])
        raise UnusableImage(
            f"{found.where} lies in the frame of obsm[{_keys.SPATIAL!r}], and the coordinates read are "
            f"obsm[{spatial_key!r}]; c2sti.pp.align moves an image along, or put one that lies there into "
            f"uns[{spatial_key!r}]"
        )
    except UnusableImage as fault:
        return None, unusable(fault, name, named=image_key is not None)


def image_of(library: Mapping[str, Any], name: str) -> HEImage:
    """H&E of one library, ``{"images": {"hires": …}, "scalefactors": {"tissue_hires_scalef": …}}``.

    Raises
    ------
    ValueError
        It holds none, or none that can be used.
    """
    whole = isinstance(library, Mapping) and {"images", "scalefactors"} <= set(library)
    found = _usable(Library("", name, library), None) if whole else None
    if found is None:
        raise ValueError(
            f'{name} is no H&E image; give a library of uns["spatial"], {{"images": {{"hires": array}}, '
            '"scalefactors": {"tissue_hires_scalef": pixels per unit}}'
        )
    return found


def _usable(library: Library, xy: FloatArray | None) -> HEImage | None:
    """The first image of a library that can be used, under (n, 2) spots if these are given; None where it has none.

    Raises
    ------
    UnusableImage
        There are some, and none can be used.
    """
    faults = []
    for resolution, pixels in library.images.items():
        try:
            image = _image(library, resolution, pixels)
            if xy is not None:
                _check_on_image(image, xy, library.where, resolution)
        except UnusableImage as fault:
            faults.append(str(fault))
            continue
        if faults:
            _logging.warning(
                f"the image {resolution!r} of {library.where} is used, others are not: {'; '.join(faults)}"
            )
        return image
    if faults:
        raise UnusableImage("; ".join(faults))
    return None


def _image(library: Library, resolution: str, pixels: Any) -> HEImage:
    scale, key = library.scale(resolution), scale_key(resolution)
    if scale is None:
        found = library.factors.get(key)
        held = f"an image {resolution!r}, and no {key!r} in its scalefactors ({sorted(map(str, library.factors))})"
        if found is not None:
            held = f"{key} = {_validators.shown(found)}, which is no positive number"
        raise UnusableImage(
            f"{library.where} holds {held}; correct it: {library.where}['scalefactors'][{key!r}] = pixels of the image "
            "per unit of the coordinates"
        )
    return HEImage(_pixels(pixels, f"{library.where}['images'][{resolution!r}]"), scale)


def _pixels(image: Any, where: str) -> np.ndarray:
    """(h, w, 3) colours of an H&E, its alpha laid on white.

    Raises
    ------
    UnusableImage
        Shape or numbers are not those of a photograph.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or 0 in pixels.shape:
        fix = ""
        if pixels.ndim == 3 and pixels.shape[0] in (3, 4):
            fix = ": np.moveaxis(image, 0, -1)"
        elif pixels.ndim == 2 and pixels.size:
            fix = ": np.dstack([image] * 3), if it is a grey one"
        raise UnusableImage(f"{where} has shape {pixels.shape}; H&E has (height, width, 3), colours last{fix}")
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        fix = _to_8_bits(pixels)
        raise UnusableImage(f"{where} holds {pixels.dtype}; colours are uint8, or numbers in [0, 1]{fix}")
    if pixels.dtype != np.uint8 and not (pixels.min() >= 1 - BRIGHTEST and pixels.max() <= BRIGHTEST):
        raise UnusableImage(
            f"{where} holds {pixels.dtype} from {pixels.min():.4g} to {pixels.max():.4g}; colours are uint8, or "
            "numbers in [0, 1]: image.astype('uint8') where they reach from 0 to 255"
        )
    return on_white(pixels)


def _to_8_bits(pixels: np.ndarray) -> str:
    """How integers of more than 8 bits become colours."""
    if pixels.dtype.kind not in "iu" or pixels.min() < 0:
        return ""
    if pixels.max() <= 255:
        return ": image.astype('uint8')"
    return ": (image // 256).astype('uint8'), where they use 16 bits"


def on_white(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) colours of (..., 4), white as far as alpha, the last, is low; of the same type, floats or integers.

    Three channels stay as they are.
    """
    if pixels.shape[-1] != 4:
        return pixels
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    floats = np.issubdtype(pixels.dtype, np.floating)
    white = 1.0 if floats else float(np.iinfo(pixels.dtype).max)
    if (alpha == white).all():
        return colours
    laid = np.empty(colours.shape, dtype=pixels.dtype)
    for first in range(0, len(pixels), BAND):
        band = slice(first, first + BAND)
        share = alpha[band] / np.float32(white)
        mixed = white + (colours[band].astype(np.float32) - white) * share
        laid[band] = mixed if floats else np.rint(mixed)
    return laid


def share_on_image(xy: FloatArray, shape: tuple[int, ...], scale: float) -> float:
    """Share of (n, 2) spots that lie on an image of (h, w, …) pixels, `scale` of them per unit."""
    pixel = xy[:, :2] * scale
    return float(((pixel >= 0) & (pixel < shape[1::-1])).all(axis=1).mean())


def _check_on_image(image: HEImage, xy: FloatArray, where: str, resolution: str) -> None:
    inside = share_on_image(xy, image.pixels.shape, image.scale)
    if inside < LEAST_ON_IMAGE:
        height, width = image.pixels.shape[:2]
        raise UnusableImage(
            f"{where}: {scale_key(resolution)} = {image.scale:.4g} sends {1 - inside:.0%} of the spots off the image "
            f"{resolution!r} (they reach pixel {(xy[:, :2] * image.scale).max(axis=0).round().astype(int).tolist()}, "
            f"the image is {width} x {height}); correct the scale factor, or delete the image from uns"
        )


def histology_on(image: Picture, lattice: Lattice) -> FloatArray:
    """(3, H, W) mean colour in [0, 1] of every bin; NaN where less than half a bin is on the image.

    See :func:`c2sti.io._images.mean_colours`.
    """
    if isinstance(image, SlideImage):
        near = image.near(lattice)
        if near is None:
            return np.full((3, *lattice.shape), np.nan, dtype=np.float32)
        pixels, matrix = near
    else:
        pixels, matrix = image.pixels, image.to_pixel
    return mean_colours(pixels, matrix, lattice)


MOST_PIXELS = 1024  # a side of an image that an encoder is given


def features_on(image: Picture, lattice: Lattice, encoder: ImageEncoder) -> FloatArray:
    """(C_h, H, W) what an encoder says of every bin; it sees the lattice edge to edge, pixel by pixel or so."""
    most = max(MOST_PIXELS // max(lattice.shape), 1)
    n = int(np.clip(round(lattice.pitch * image.scale), 1, most))
    shift = lattice.pitch * (n - 1) / (2 * n)
    origin = (lattice.origin[0] - shift, lattice.origin[1] - shift)
    fine = Lattice(origin, lattice.pitch / n, (lattice.shape[0] * n, lattice.shape[1] * n))
    return np.asarray(encoder(histology_on(image, fine), lattice.shape), dtype=np.float32)
