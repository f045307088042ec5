"""Alignments into containers: coordinates, transformations, and the H&E that follows its tissue.

Writing comes in two steps. `stage` computes everything for one container and returns a function that only assigns, so
that a failure with the second container leaves the first as it was.
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

from c2sti import _keys
from c2sti._types import FloatArray
from c2sti.grid import Container, Source, is_spatialdata, table_of
from c2sti.grid._libraries import Library, UnusableImage, section_library
from c2sti.grid._places import named_axes
from c2sti.grid._rows import library_rows
from c2sti.pp._elements import frame_of_source, section_elements
from c2sti.pp._images import end_of, warped
from c2sti.pp._maps import apply

if TYPE_CHECKING:
    from spatialdata import SpatialData


@dataclass(frozen=True)
class Move:
    """How one section is moved.

    Parameters
    ----------
    source
        The section, and where it is kept.
    matrix
        (3, 3) from its frame to that of the reference; the identity leaves even its image as it is.
    record
        Goes into ``uns["alignment"]``.
    canvas
        (2,) right and lower end of the frame that its moved image has to show, unit of the reference.
    """

    source: Source
    matrix: FloatArray
    record: Mapping[str, Any]
    canvas: FloatArray

    @property
    def stays(self) -> bool:
        """Whether the section is where it belongs."""
        return bool(np.array_equal(self.matrix, np.eye(3)))


def name_of(source: Source) -> str:
    """What records call a section: by its library where it is alone in its AnnData, else by its name."""
    if is_spatialdata(source.container) or source.keys.library is not None:
        return source.name
    found = library_of_source(source, source.container)
    return source.name if found is None else found.name


def picture_end(source: Source) -> FloatArray:
    """(2,) right and lower end of a section's images in its frame; 0 where `uns` holds none."""
    found = None if is_spatialdata(source.container) else library_of_source(source, source.container)
    return np.zeros(2) if found is None else end_of(found.content)


def library_of_source(source: Source, adata: AnnData) -> Library | None:
    """Images of a section in `uns`, those that can be moved; `adata` is its container or a copy of that."""
    keys = source.keys
    try:
        found = section_library(
            adata, source.name, spatial_key_of(source), keys.image_key, keys.library, rows_of_source(source, adata)
        )
    except UnusableImage:  # which was said when the section was read
        return None
    return found if found is not None and not found.foreign else None


def spatial_key_of(source: Source) -> str:
    """Key of the coordinates that are read."""
    return source.keys.spatial_key or _keys.SPATIAL


def rows_of_source(source: Source, adata: AnnData) -> NDArray[np.intp]:
    """(n,) all rows of a section, inside of the tissue or not."""
    if source.keys.library_key is None or source.keys.library is None:
        return np.arange(adata.n_obs)
    return library_rows(adata, source.keys.library_key, source.keys.library)


def stage(container: Container, moves: Sequence[Move], key_added: str) -> Callable[[], None]:
    """Prepare what is to be written into one container; calling the answer writes it.

    Parameters
    ----------
    container
        That the sections are kept in, or a copy of it.
    moves
        Of all of its sections that are aligned.
    key_added
        Key in ``obsm`` and ``uns``, or new coordinate system of a SpatialData.
    """
    if is_spatialdata(container):
        return _stage_spatialdata(container, moves, key_added)
    return _stage_anndata(container, moves, key_added)


def _stage_anndata(adata: AnnData, moves: Sequence[Move], key_added: str) -> Callable[[], None]:
    before = np.array(named_axes(adata.obsm[spatial_key_of(moves[0].source)]), dtype=np.float64)
    coordinates = np.full_like(before, np.nan)
    for move in moves:
        rows = rows_of_source(move.source, adata)
        coordinates[rows] = before[rows]
        if not move.stays:
            coordinates[rows, :2] = apply(move.matrix, before[rows, :2])
    images = moved_libraries(adata, before[:, :2], moves)
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


def moved_libraries(adata: AnnData, xy: FloatArray, moves: Sequence[Move]) -> dict[str, Mapping[str, Any]]:
    """Images of sections in the frame of the reference, by library; by section where sections share one.

    `xy` holds the (n_obs, 2) coordinates before the move.
    """
    held = [(move, library_of_source(move.source, adata)) for move in moves]
    uses = Counter(library.name for _, library in held if library is not None)
    found: dict[str, Mapping[str, Any]] = {}
    for move, library in held:
        if library is not None:
            name = library.name if uses[library.name] == 1 else move.source.name
            own = xy[rows_of_source(move.source, adata)]
            found[name] = library.content if move.stays else warped(library.content, own, move.matrix, move.canvas)
    return found


def _record(moves: Sequence[Move]) -> dict[str, Any]:
    """What goes into ``uns["alignment"]``: a record, or where an object holds several sections one by name."""
    if len(moves) == 1:
        return dict(moves[0].record)
    return {_keys.label_column(move.source.name): dict(move.record) for move in moves}


def _stage_spatialdata(sdata: SpatialData, moves: Sequence[Move], key_added: str) -> Callable[[], None]:
    from spatialdata.transformations import Affine, get_transformation, set_transformation  # noqa: PLC0415
    from spatialdata.transformations import Sequence as Chain  # noqa: PLC0415

    moved = []
    tables: dict[str, list[Move]] = {}
    for move, names in zip(moves, section_elements(sdata, [move.source for move in moves]), strict=True):
        source = move.source
        tables.setdefault(table_of(sdata, source.name, source.keys.table_key), []).append(move)
        frame = frame_of_source(sdata, source)
        if frame == key_added:
            raise ValueError(
                f"key_added={key_added!r} is coordinate_system, in which {source.name} is read: the measured "
                "coordinates would be lost; choose another"
            )
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
