"""Alignments into containers: coordinates, transformations, and the H&E that follows its tissue.

Writing comes in two steps. `stage` computes everything for one section and returns a function that only assigns, so
that a failure with the second section leaves the first as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from anndata import AnnData

from c2sti import _keys
from c2sti._types import FloatArray
from c2sti.grid import frame_of, is_spatialdata, table_of
from c2sti.pp._maps import apply

if TYPE_CHECKING:
    from spatialdata import SpatialData

Slice = TypeVar("Slice", AnnData, "SpatialData", "AnnData | SpatialData")

BORDER = 0.02  # of a picture's sides: where its background is looked for
MOST_LARGER = 4  # times the side of a picture that the moved one may have, wherever the tissue is moved to


@dataclass(frozen=True)
class Where:
    """Keys under which a section is read and its alignment written; see :func:`c2sti.pp.align`."""

    spatial_key: str
    table_key: str | None
    image_key: str | None
    coordinate_system: str
    key_added: str


def stage(
    section: Slice,
    matrix: FloatArray,
    record: Mapping[str, Any] | None,
    where: Where,
    canvas: FloatArray,
) -> Callable[[], None]:
    """Prepare what is to be written into one section; calling the answer writes it.

    Parameters
    ----------
    section
        The container, or a copy of it.
    matrix
        (3, 3) from the section's frame to that of the reference; the identity leaves even the picture as it is.
    record
        Goes into ``uns["alignment"]``; None writes nothing there.
    where
        Keys.
    canvas
        (2,) right and lower end of the frame that a moved picture has to show, unit of the reference.
    """
    if is_spatialdata(section):
        return _stage_spatialdata(section, matrix, record, where)
    return _stage_anndata(section, matrix, record, where, canvas)


def copied(section: Slice) -> Slice:
    """A copy that can be written into without touching the original."""
    if is_spatialdata(section):
        from spatialdata import deepcopy  # noqa: PLC0415

        return deepcopy(section)
    return section.copy()


def _stage_anndata(
    adata: AnnData, matrix: FloatArray, record: Mapping[str, Any] | None, where: Where, canvas: FloatArray
) -> Callable[[], None]:
    still = np.array_equal(matrix, np.eye(3))
    coordinates = np.array(adata.obsm[where.spatial_key], dtype=np.float64)
    if not still:
        coordinates[:, :2] = apply(matrix, coordinates[:, :2])
    pictures = {
        name: library if still else warped(library, matrix, canvas)
        for name, library in libraries(adata, where.spatial_key, where.image_key).items()
    }

    def write() -> None:
        adata.obsm[where.key_added] = coordinates
        adata.uns.pop(where.key_added, None)  # of an earlier alignment
        if pictures:
            adata.uns[where.key_added] = pictures
        if record is not None:
            adata.uns[_keys.ALIGNMENT] = dict(record)

    return write


def _stage_spatialdata(
    sdata: SpatialData, matrix: FloatArray, record: Mapping[str, Any] | None, where: Where
) -> Callable[[], None]:
    from spatialdata.transformations import Affine, Sequence, get_transformation, set_transformation  # noqa: PLC0415

    name = "the section"  # it has been read before, so no error is left to name it
    key = table_of(sdata, name, where.table_key)
    frame = frame_of(sdata, name, key, where.coordinate_system)
    move = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    still = np.array_equal(matrix, np.eye(3))
    moved = []
    for kind, _, element in sdata.gen_elements():
        known = {} if kind == "tables" else get_transformation(element, get_all=True)
        if frame in known:
            present = known[frame]
            moved.append((element, present if still else Sequence([present, move])))
    table = sdata.tables[key]

    def write() -> None:
        for element, transformation in moved:
            set_transformation(element, transformation, to_coordinate_system=where.key_added)
        if record is not None:
            table.uns[_keys.ALIGNMENT] = dict(record)

    return write


def libraries(adata: AnnData, spatial_key: str, image_key: str | None) -> dict[str, dict[str, Any]]:
    """Pictures of a section by library, in squidpy's convention; only the one named by `image_key`, if it is."""
    found = adata.uns.get(spatial_key)
    found = found if isinstance(found, Mapping) else {}
    return {name: library for name, library in found.items() if "images" in library and image_key in (None, name)}


def picture_end(adata: AnnData, spatial_key: str, image_key: str | None) -> FloatArray:
    """(2,) right and lower end of a section's pictures in its frame; 0 where it has none."""
    ends = [np.zeros(2)]
    for library in libraries(adata, spatial_key, image_key).values():
        for name, pixels in library["images"].items():
            factor = library["scalefactors"].get(f"tissue_{name}_scalef")
            if factor:
                ends.append(np.array(np.shape(pixels)[1::-1]) / factor)
    return np.max(ends, axis=0)


def warped(library: Mapping[str, Any], matrix: FloatArray, canvas: FloatArray) -> dict[str, Any]:
    """A library whose pictures lie in the frame of the reference, at the resolution that they had.

    Squidpy's convention puts the corner of a picture at (0, 0): what a move brings to negative coordinates is lost, and
    one that leads far away makes the picture coarser rather than huge.
    """
    stretch = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    factors = {
        key: float(value / stretch if key.startswith("tissue_") else value * stretch)
        for key, value in library["scalefactors"].items()
    }
    images = {}
    for name, pixels in library["images"].items():
        key = f"tissue_{name}_scalef"
        if key in factors:
            picture = np.asarray(pixels)
            factors[key] = min(factors[key], float(MOST_LARGER * max(picture.shape[:2]) / canvas.max()))
            images[name] = _warped(picture, matrix, float(library["scalefactors"][key]), factors[key], canvas)
    return {**library, "images": images, "scalefactors": factors}


def _warped(pixels: np.ndarray, matrix: FloatArray, old: float, new: float, canvas: FloatArray) -> np.ndarray:
    from skimage.transform import AffineTransform, warp  # noqa: PLC0415 - slow to import, and only pictures need it

    # Pixel i covers [i, i + 1) / scale, so its centre lies half a pixel further on; warp counts centres.
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    forward = np.linalg.inv(centre) @ np.diag([new, new, 1]) @ matrix @ np.diag([1 / old, 1 / old, 1]) @ centre
    width, height = np.maximum(np.ceil(canvas * new), 1).astype(int).tolist()
    colour = background(pixels)
    # Moved as a difference from the background, so that what is beyond the picture gets its colour in every channel.
    difference = pixels.astype(np.float32) - colour
    moved = warp(difference, AffineTransform(matrix=forward).inverse, output_shape=(height, width), order=1, cval=0)
    moved = moved + colour
    if np.issubdtype(pixels.dtype, np.integer):
        limit = np.iinfo(pixels.dtype)
        return np.clip(np.rint(moved), limit.min, limit.max).astype(pixels.dtype)
    return moved.astype(pixels.dtype)


def background(pixels: np.ndarray) -> np.ndarray:
    """(channels,) colour of the glass: the median over the brighter half of the picture's border."""
    rim = max(int(round(min(pixels.shape[:2]) * BORDER)), 1)
    sides = (pixels[:rim], pixels[-rim:], pixels[:, :rim], pixels[:, -rim:])
    border = np.concatenate([side.reshape(-1, *pixels.shape[2:]) for side in sides]).astype(np.float32)
    brightness = border if border.ndim == 1 else border.mean(axis=1)
    return np.median(border[brightness >= np.median(brightness)], axis=0)
