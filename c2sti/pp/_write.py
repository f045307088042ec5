"""Alignments into containers: coordinates, transformations, and the H&E that follows its tissue.

`stage` computes everything for one container and returns a function that only assigns, so that a failure with the
second container leaves the first as it was.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData, ImplicitModificationWarning
from numpy.typing import NDArray

from c2sti import _keys, _logging
from c2sti._types import FloatArray
from c2sti.io import Container, Source, frame_of, is_spatialdata, table_of
from c2sti.io._histology import LEAST_ON_IMAGE, UnusableImage, on_image, on_white
from c2sti.io._libraries import Library, as_number, scale_key, section_library
from c2sti.io._places import library_rows, named_axes
from c2sti.io._spatialdata import frames_of, is_own, read_table, region_of, slide_key
from c2sti.ops import affine

if TYPE_CHECKING:
    from spatialdata import SpatialData

BORDER = 0.02  # of an image's sides: where its background is looked for
MOST_LARGER = 4  # times the side of an image that the moved one may have, wherever the tissue is moved to


@dataclass(frozen=True)
class Move:
    """How one section is moved."""

    source: Source  # where the section is kept
    matrix: FloatArray  # (3, 3) from its frame to that of the reference; the identity leaves even its image as it is
    record: Mapping[str, Any]  # goes into uns["alignment"]
    canvas: FloatArray  # (2,) right and lower end of the frame that its moved image shows, unit of the reference

    @property
    def stays(self) -> bool:
        """Whether the section is where it belongs."""
        return np.array_equal(self.matrix, np.eye(3))


def stage(container: Container, moves: Sequence[Move], key_added: str) -> Callable[[], None]:
    """Prepare what is written into one container, or a copy of it, of all its sections; calling the result writes it.

    `key_added` is a key in ``obsm`` and ``uns``, or a new coordinate system of a SpatialData.
    """
    if is_spatialdata(container):
        return _stage_spatialdata(container, moves, key_added)
    return _stage_anndata(container, moves, key_added)


def name_of(source: Source) -> str:
    """What records call a section: by its library where it is alone in its AnnData, else by its name."""
    if is_spatialdata(source.container) or source.library is not None:
        return source.name
    found = _library(source, source.container)
    return source.name if found is None else found.name


def frame_of_source(sdata: SpatialData, source: Source) -> str:
    """The coordinate system in which a section is read; `sdata` is its container or a copy of that."""
    return frame_of(source, sdata)


# -- AnnData


def _stage_anndata(adata: AnnData, moves: Sequence[Move], key_added: str) -> Callable[[], None]:
    before = np.array(named_axes(adata.obsm[moves[0].source.spatial_key]), dtype=np.float64)
    coordinates = np.full_like(before, np.nan)
    for move in moves:
        rows = _rows(move.source, adata)
        coordinates[rows] = before[rows]
        if not move.stays:
            coordinates[rows, :2] = affine(before[rows, :2], move.matrix)
    images = _moved_libraries(adata, before[:, :2], moves)
    record = _record(moves)

    def write() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImplicitModificationWarning)  # a view becomes an object of its own
            adata.obsm[key_added] = coordinates
            adata.uns.pop(key_added, None)  # of an earlier alignment
            if images:
                adata.uns[key_added] = images
            adata.uns[_keys.ALIGNMENT] = record

    return write


def _rows(source: Source, adata: AnnData) -> NDArray[np.intp]:
    """(n,) all rows of a section, inside of the tissue or not."""
    return library_rows(adata, source.library_key, source.library)


def _record(moves: Sequence[Move]) -> dict[str, Any]:
    """What goes into ``uns["alignment"]``: a record, or where an object holds several sections one by name."""
    if len(moves) == 1:
        return dict(moves[0].record)
    return {_keys.label_column(move.source.name): dict(move.record) for move in moves}


def _moved_libraries(adata: AnnData, xy: FloatArray, moves: Sequence[Move]) -> dict[str, Mapping[str, Any]]:
    """Images of sections in the frame of the reference, by library; by section where sections share one.

    `xy` holds the (n_obs, 2) coordinates before the move.
    """
    held = [(move, _library(move.source, adata)) for move in moves]
    uses = Counter(library.name for _, library in held if library is not None)
    found: dict[str, Mapping[str, Any]] = {}
    for move, library in held:
        if library is not None:
            name = library.name if uses[library.name] == 1 else move.source.name
            own = xy[_rows(move.source, adata)]
            found[name] = library.content if move.stays else warped(library, own, move.matrix, move.canvas)
    return found


def _library(source: Source, adata: AnnData) -> Library | None:
    """Images of a section in `uns`, those that can be moved; `adata` is its container or a copy of that."""
    try:
        return section_library(source, adata, _rows(source, adata))
    except UnusableImage:  # of which reading the section has warned
        return None


# -- images


def image_end(source: Source) -> FloatArray:
    """(2,) right and lower end of a section's images in their frame; 0 where `uns` holds none."""
    library = None if is_spatialdata(source.container) else _library(source, source.container)
    images = {} if library is None else _images(library)
    return np.max([np.zeros(2), *(np.array(pixels.shape[1::-1]) / scale for pixels, scale in images.values())], axis=0)


def _images(library: Library) -> dict[str, tuple[np.ndarray, float]]:
    """Images with their pixels per unit: those that have a scale and (h, w) or (h, w, 1 … 4) numbers.

    An image with its channels first would become huge. Alpha is laid on white.
    """
    found = {}
    for name, image in library.images.items():
        pixels, scale = np.asarray(image), library.scale(name)
        flat = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] <= 4)
        if scale is not None and flat and pixels.size > 0 and pixels.dtype.kind in "uif":
            found[name] = (on_white(pixels) if pixels.ndim == 3 else pixels, scale)
    return found


def warped(library: Library, xy: FloatArray, matrix: FloatArray, canvas: FloatArray) -> dict[str, Any]:
    """The content of a library with images in the frame of the reference, at the resolution that they had.

    Squidpy's convention puts the corner of an image at (0, 0): what a move brings to negative coordinates is lost, and
    one that leads far away makes the image coarser rather than huge. Left out are images that cannot be placed, since
    they have no scale, or do not lie under the section's (n, 2) spots.
    """
    stretch = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    factors = _scaled(library.factors, stretch)
    images = {}
    for name, (pixels, scale) in _images(library).items():
        if len(on_image(xy, pixels.shape, np.diag([scale, scale, 1.0]))) >= LEAST_ON_IMAGE * len(xy):
            key, most = scale_key(name), float(MOST_LARGER * max(pixels.shape[:2]) / canvas.max())
            factors[key] = min(scale / stretch, most)
            images[name] = _warped(pixels, matrix, scale, factors[key], canvas)
    return {**library.content, "images": images, "scalefactors": factors}


def _scaled(factors: Mapping[str, Any], stretch: float) -> dict[str, Any]:
    """Scale factors where lengths are `stretch` times what they were.

    Lengths (``*_fullres``) grow with it; pixels per unit (``*_scalef``) and µm per unit shrink. Lengths in µm, text,
    matrices, and whatever else there is stay as they are.
    """
    found = dict(factors)
    for key, value in factors.items():
        number, name = as_number(value), str(key)
        shrinks = name.endswith("_scalef") or name in ("microns_per_pixel", "mpp")
        power = 1 if name.endswith("_fullres") else -1 if shrinks else 0
        if power and number is not None and np.isfinite(number):
            found[key] = number * stretch**power
    return found


def _warped(pixels: np.ndarray, matrix: FloatArray, old: float, new: float, canvas: FloatArray) -> np.ndarray:
    from skimage.transform import warp  # noqa: PLC0415 - slow to import, and only images need it

    # Pixel i covers [i, i + 1) / scale, so its centre lies half a pixel further on; warp counts centres.
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    forward = np.linalg.inv(centre) @ np.diag([new, new, 1]) @ matrix @ np.diag([1 / old, 1 / old, 1]) @ centre
    width, height = np.maximum(np.ceil(canvas * new), 1).astype(int).tolist()
    colour = background(pixels)
    # Moved as a difference from the background, so that what is beyond the image gets its colour in every channel.
    difference = pixels.astype(np.float32) - colour
    moved = warp(difference, np.linalg.inv(forward), output_shape=(height, width), order=1, cval=0) + colour
    if np.issubdtype(pixels.dtype, np.integer):
        limit = np.iinfo(pixels.dtype)
        moved = np.clip(np.rint(moved), limit.min, limit.max)
    return moved.astype(pixels.dtype)


def background(pixels: np.ndarray) -> np.ndarray:
    """(channels,) colour of the glass: the median over the brighter half of the image's border."""
    rim = max(int(round(min(pixels.shape[:2]) * BORDER)), 1)
    sides = (pixels[:rim], pixels[-rim:], pixels[:, :rim], pixels[:, -rim:])
    border = np.concatenate([side.reshape(-1, *pixels.shape[2:]) for side in sides]).astype(np.float32)
    brightness = border if border.ndim == 1 else border.mean(axis=1)
    return np.median(border[brightness >= np.median(brightness)], axis=0)


# -- SpatialData


def _stage_spatialdata(sdata: SpatialData, moves: Sequence[Move], key_added: str) -> Callable[[], None]:
    from spatialdata.transformations import Affine, get_transformation, set_transformation  # noqa: PLC0415
    from spatialdata.transformations import Sequence as Chain  # noqa: PLC0415

    moved = []
    tables: dict[str, list[Move]] = {}
    for move, names in zip(moves, _elements(sdata, [move.source for move in moves]), strict=True):
        source = move.source
        tables.setdefault(table_of(sdata, source.name, source.table_key), []).append(move)
        frame = frame_of_source(sdata, source)
        along = Affine(move.matrix, input_axes=("x", "y"), output_axes=("x", "y"))
        for element in (sdata[one] for one in names):
            present = get_transformation(element, to_coordinate_system=frame)
            moved.append((element, present if move.stays else Chain([present, along])))

    def write() -> None:
        for element, transformation in moved:
            set_transformation(element, transformation, to_coordinate_system=key_added)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImplicitModificationWarning)
            for key, of_table in tables.items():
                sdata.tables[key].uns[_keys.ALIGNMENT] = _record(of_table)

    return write


def _elements(sdata: SpatialData, sources: Sequence[Source]) -> list[list[str]]:
    """Names of the elements that move with each of the sections of one SpatialData.

    All that are in the coordinate system of the section. Where another section is in it too: the region of the section,
    its H&E, and elements that are called after its region or library.
    """
    frames = [frame_of_source(sdata, source) for source in sources]
    regions = [region_of(source, sdata) for source in sources]
    slides = [_slide(sdata, source, region) for source, region in zip(sources, regions, strict=True)]
    uses = Counter(zip(frames, slides, strict=True))
    found = []
    for i, (source, frame, region, slide) in enumerate(zip(sources, frames, regions, slides, strict=True)):
        inside = [key for kind, key, one in sdata.gen_elements() if kind != "tables" and frame in frames_of(one)]
        beside = [j for j in range(len(sources)) if j != i and frames[j] == frame]
        if beside:
            others = {name for j in beside for name in (regions[j], sources[j].name)}
            kept = {key for key in inside if is_own(key, {region, source.name}, others)} | {region}
            if slide is not None and uses[frame, slide] == 1:
                kept.add(slide)
            elif slide is not None:
                _logging.warning(
                    f"image {slide!r} lies under several sections, {source.name} among them, and is not moved"
                )
            inside = [key for key in inside if key in kept]
        found.append(inside)
    return found


def _slide(sdata: SpatialData, source: Source, region: str) -> str | None:
    """Name of the image that is the H&E of a section."""
    if source.image_key is not None:
        return source.image_key
    _, _, xy, frame, _ = read_table(source, sdata)
    try:
        return slide_key(source, sdata, xy, frame, region)
    except UnusableImage:  # of which reading the section has warned
        return None
