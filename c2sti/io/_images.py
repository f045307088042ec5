"""Images of the libraries of `uns` by squidpy's convention, how they are scaled, and means of pixels over bins."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray, Lattice
from c2sti.io._rows import obs_column

if TYPE_CHECKING:
    pass


LIBRARY_ID = "library_id"  # obs: library of each row, by squidpy's convention
FIRST = ("hires", "lowres")  # images that are taken before any other
PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


class UnusableImage(ValueError):
    """An image that is there and cannot be used; the message says why, and what the fix is."""


@dataclass(frozen=True)
class Library:
    """Images of one slide.

    Parameters
    ----------
    name
        Its key.
    where
        What messages call it, e.g. ``"uns['spatial']['S1']"``.
    content
        ``{"images": …, "scalefactors": …}``.
    foreign
        Whether it lies in the frame of ``obsm["spatial"]``, and that is not the one that is read.
    """

    name: str
    where: str
    content: Mapping[str, Any]
    foreign: bool = False

    @property
    def images(self) -> dict[str, Any]:
        """Images by the name of their resolution, hires and lowres first, then from fine to coarse.

        Raises
        ------
        UnusableImage
            They are no dict.
        """
        held = self.content.get("images")
        found = {k: v for k, v in _mapping(held, f"{self.where}['images']").items() if v is not None}
        first = [name for name in FIRST if name in found]
        rest = sorted(found.keys() - set(first), key=lambda name: (-(self.scale(name) or 0.0), str(name)))
        return {name: found[name] for name in (*first, *rest)}

    @property
    def factors(self) -> Mapping[str, Any]:
        """Scale factors by name; none where there are none."""
        return _mapping(self.content.get("scalefactors"), f"{self.where}['scalefactors']")

    def scale(self, resolution: str) -> float | None:
        """Pixels per unit of the coordinates; None where there is no such number, or it is not positive and finite."""
        found = as_number(self.factors.get(scale_key(resolution)))
        return found if found is not None and 0 < found < np.inf else None


def scale_key(resolution: str) -> str:
    """Scale factor of an image."""
    return f"tissue_{resolution}_scalef"


def as_number(value: Any) -> float | None:
    """A number as Python's, numpy's, text or the only entry of an array; None where it is none."""
    if isinstance(value, str | bytes):
        try:
            return float(value)
        except ValueError:
            return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    try:
        return _validators.number(value, "value")
    except (TypeError, ValueError):
        return None


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UnusableImage(f"{where} is a {type(value).__name__}; a dict by squidpy's convention is needed, or none")
    return value or {}


def unusable(fault: UnusableImage, name: str, *, named: bool) -> str:
    """Say that a section has an image that cannot be used: an error where the user named it, else a warning.

    Returns
    -------
    The reason.
    """
    if named:
        raise UnusableImage(f"the image of {name} cannot be used: {fault}") from fault
    warnings.warn(f"the image of {name} is not used: {fault}", UserWarning, stacklevel=outside())
    return str(fault)


def outside() -> int:
    """The `stacklevel` of a warning by which it points to the line that called c2sti."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    return level + 1


def section_library(
    adata: AnnData,
    name: str,
    spatial_key: str,
    image_key: str | None = None,
    library: str | None = None,
    rows: NDArray[np.intp] | None = None,
) -> Library | None:
    """The library with the images of a section; None where there is none.

    The one that `image_key` names; else `library`; else the one that a text column of `obs` names in every row of the
    section; else the only one that there is, unless it is another section's.

    Parameters
    ----------
    adata
        That holds the section.
    name
        What errors call the section.
    spatial_key
        Key of its coordinates. Where `uns` holds no images under it, those of ``uns["spatial"]`` are looked at.
    image_key
        Library that the user names.
    library
        Name of the section, where one object holds several.
    rows
        (n,) rows of the section, None for all.

    Raises
    ------
    KeyError
        There is no library `image_key`.
    ValueError
        There are several, and nothing tells which is meant.
    UnusableImage
        What is there is no library, or belongs to another section.
    """
    key = spatial_key
    held = _libraries(adata.uns.get(key), f"uns[{key!r}]")
    if not _with_images(held):
        elsewhere = _libraries(adata.uns.get(_keys.SPATIAL), f"uns[{_keys.SPATIAL!r}]")
        key, held = (_keys.SPATIAL, elsewhere) if _with_images(elsewhere) else (key, held)
    if image_key is None:
        chosen = _chosen(adata, name, key, held, library, rows)
    else:
        chosen = _named(adata, name, key, held, image_key, rows)
    if chosen not in _with_images(held):
        return None
    foreign = key != spatial_key and not _one_frame(adata, spatial_key, rows)
    found = Library(str(chosen), f"uns[{key!r}][{chosen!r}]", held[chosen], foreign)
    return found if found.images and found.factors is not None else None


def _libraries(found: Any, where: str) -> dict[Any, Mapping[str, Any]]:
    """Entries that are libraries."""
    return {key: value for key, value in _mapping(found, where).items() if isinstance(value, Mapping)}


def _with_images(held: Mapping[Any, Mapping[str, Any]]) -> list[Any]:
    """Names of the libraries that hold images, sorted; a mapping without any holds none."""
    return sorted((k for k, one in held.items() if not _is_empty(one.get("images"))), key=str)


def _is_empty(images: Any) -> bool:
    return images is None or (isinstance(images, Mapping) and not images)


def _named(
    adata: AnnData,
    name: str,
    key: str,
    held: Mapping[Any, Mapping[str, Any]],
    image_key: str,
    rows: NDArray[np.intp] | None,
) -> Any:
    """The library that the user names; the section's own where one name was given for all sections."""
    there = _with_images(held)
    if image_key not in there:
        raise KeyError(f"{name} has no image {image_key!r} in uns[{key!r}]; it has {there}")
    columns = {column: own for column, (own, _) in _text_columns(adata, rows).items() if own in there}
    if len(set(columns.values())) != 1 or image_key in columns.values():
        return image_key
    column, own = next(iter(columns.items()))
    warnings.warn(
        f"obs[{column!r}] of {name} says that its image is {own!r}, which is used, and not {image_key!r}; leave out "
        f"image_key=, or correct obs[{column!r}]",
        UserWarning,
        stacklevel=outside(),
    )
    return own


def _chosen(
    adata: AnnData,
    name: str,
    key: str,
    held: Mapping[Any, Mapping[str, Any]],
    library: str | None,
    rows: NDArray[np.intp] | None,
) -> Any:
    """Name of the section's library; None where it has none."""
    there = _with_images(held)
    if library in held or not there:
        return library
    columns = _text_columns(adata, rows)
    named = sorted({own for own, _ in columns.values() if own is not None and own in held})
    if len(named) == 1:
        return named[0]
    if len(there) > 1:
        raise ValueError(
            f"{name} has images of {there} in uns[{key!r}]; choose one with image_key= (of several sections, one each: "
            f"image_key={there[:2]}), or delete the others: del adata.uns[{key!r}][{there[0]!r}]"
        )
    for column, (own, values) in columns.items():
        for section in {own, library} - {None, there[0]}:
            if {section, there[0]} <= values:
                raise UnusableImage(
                    f"obs[{column!r}] says that the section is {section!r}, and the only image in uns[{key!r}] is that "
                    f"of {there[0]!r}; put that of {section!r} there, or, if it shows both, image_key={there[0]!r}"
                )
    if LIBRARY_ID in columns and columns[LIBRARY_ID][0] is not None:
        _logging.warning(
            f"obs[{LIBRARY_ID!r}] of {name} says {columns[LIBRARY_ID][0]!r}; the image used is that of {there[0]!r}, "
            f"the only one in uns[{key!r}]"
        )
    return there[0]


def _text_columns(adata: AnnData, rows: NDArray[np.intp] | None) -> dict[str, tuple[str | None, set[str]]]:
    """Of each column of text the value that all rows of the section share, if they do, and all values, used or not."""
    found = {}
    for key in adata.obs.columns:
        column = obs_column(adata, key)
        if not isinstance(column.dtype, pd.CategoricalDtype):
            if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
                continue
            column = column.astype(str).astype("category")
        categories = column.cat.categories.astype(str)
        codes = column.cat.codes.to_numpy()
        codes = codes if rows is None else codes[rows]
        constant = len(codes) > 0 and codes[0] >= 0 and bool((codes == codes[0]).all())
        found[str(key)] = (categories[codes[0]] if constant else None, set(categories))
    return found


def _one_frame(adata: AnnData, spatial_key: str, rows: NDArray[np.intp] | None) -> bool:
    """Whether the coordinates read are those of ``obsm["spatial"]``, or there are none of that name."""
    if _keys.SPATIAL not in adata.obsm:
        return True
    own = slice(None) if rows is None else rows
    read, spatial = (np.asarray(adata.obsm[key])[own] for key in (spatial_key, _keys.SPATIAL))
    if (
        read.ndim != 2
        or spatial.ndim != 2
        or not (_validators.is_real(read.dtype) and _validators.is_real(spatial.dtype))
    ):
        return False
    return bool(np.allclose(read[:, :2], spatial[:, :2], rtol=1e-6, atol=1e-6 * np.ptp(spatial[:, :2]), equal_nan=True))


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
