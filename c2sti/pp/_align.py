"""The public face of alignment: estimate or take a placement, judge it, write it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
from anndata import AnnData

from c2sti import _keys, _logging, _validators
from c2sti._docs import documented
from c2sti._types import FloatArray
from c2sti.io import Key, SliceGrid, Source, check_writable, copied, is_spatialdata, on_shared_genes, sources
from c2sti.ops import affine
from c2sti.pp._estimate import Method, described, estimate, given, simpleitk
from c2sti.pp._maps import Use
from c2sti.pp._write import Move, frame_of_source, image_end, name_of, stage

if TYPE_CHECKING:
    from spatialdata import SpatialData

# Of a section: its (3, 3) matrix to the frame of the reference, its fit, the method, the section it was aligned to.
Placement = tuple[FloatArray, float, str, int]
POOR_FIT = 0.35  # 27 pairs of unrelated real sections reach 0.32 at best, the least of 31 pairs of neighbours has 0.41


@documented
def align(
    reference: AnnData | SpatialData,
    moving: AnnData | SpatialData | None = None,
    *,
    library_key: str | None = None,
    method: Method = "rigid",
    use: Use = "auto",
    matrix: FloatArray | None = None,
    scale: float | None = None,
    flip: bool = False,
    layer: Key = None,
    spatial_key: str = _keys.SPATIAL,
    table_key: Key = None,
    image_key: Key = None,
    coordinate_system: Key = None,
    key_added: str = _keys.ALIGNED,
    copy: bool = False,
) -> tuple[AnnData | SpatialData, ...] | None:
    """Bring a section into the frame of its neighbour.

    All rotations and translations are searched. Sections are compared by the principal components of their smoothed
    expression and, where both have one, by their H&E; neither spots nor genes need to be the same.

    Parameters
    ----------
    reference, moving
        The section that stays, and the one that is moved; or one object that holds both, with `library_key`: the first
        of its sections stays.
    matrix
        (2, 3) or (3, 3) matrix, found by another tool, that takes homogeneous (x, y, 1) of `moving` to the frame of the
        reference. It is used as it is; `method`, `scale` and `flip` then have no part.
    scale
        Units of the reference in one unit of `moving`; by default estimated from the distances between spots.
    spatial_key
        Key of the coordinates in ``obsm`` and of the images in ``uns``.
    key_added
        Key in ``obsm`` and ``uns``, or new coordinate system of a SpatialData, for the common coordinates.
    copy
        Return aligned copies of both and leave the inputs as they are.
    %(shared)s

    Returns
    -------
    None, or the copies, one for each object given. In an AnnData, of both sections:

    - ``obsm[key_added]``: (n, 2) float64, coordinates in the frame and unit of the reference (further columns stay)
    - ``uns[key_added]``: the H&E in that frame by library, where there is one; cut off at negative coordinates
    - ``uns["alignment"]``: ``matrix`` (3, 3) float64; ``fit`` in [0, 1]; ``method``: rigid, affine, given, or
      "reference" for the section that stays; ``angle_deg``, from x towards y, after mirroring x if ``flipped``;
      ``shift`` (2,) of the centre of the spots; ``scale``; ``reference``: its name or library. A dict of these by the
      name of the section where one object holds several

    In a SpatialData the elements of the section get a transformation to the coordinate system `key_added`, in memory
    (``write_transformations()`` saves them), and the table gets ``uns["alignment"]``.

    Warns
    -----
    UserWarning
        The fit is below 0.35, as of sections that have nothing to do with each other; :doc:`/guide/alignment` says how
        it is computed.

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0)
    >>> first, second = tissue.section(0.0), tissue.section(100.0, angle=120.0)
    >>> c2sti.pp.align(first, second)
    >>> round(second.uns["alignment"]["angle_deg"])
    -120
    """
    if moving is None and library_key is None:
        raise TypeError(
            "moving is missing; give two sections, or one object that holds both and library_key=, the column of obs "
            "that names the section of each row"
        )
    found = sources(
        [reference] if moving is None else [reference, moving],
        names=("the object",) if moving is None else ("reference", "moving"),
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
        aligned=False,
    )
    if len(found) != 2:
        raise ValueError(
            f"obs[{library_key!r}] names {len(found)} sections ({', '.join(s.name for s in found)}), and align takes "
            "two; c2sti.pp.align_series takes a series"
        )
    fixed, moved = grids = _read(found, method, use, key_added, copy)
    if matrix is None:
        simpleitk()
        placed, fit = estimate(fixed, moved, method, use, scale, flip)
    else:
        placed, fit = given(fixed, moved, use, matrix)
    _check_fit(placed, fit, fixed, moved)
    how = "given" if matrix is not None else method
    written = _write(found, grids, [(np.eye(3), fit, "reference", 0), (placed, fit, how, 0)], 0, key_added, copy)
    return tuple(written) if copy else None


@documented
def align_series(
    slices: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    library_key: str | None = None,
    reference: int = 0,
    chain: bool = True,
    method: Method = "rigid",
    use: Use = "auto",
    flip: bool = False,
    layer: Key = None,
    spatial_key: str = _keys.SPATIAL,
    table_key: Key = None,
    image_key: Key = None,
    coordinate_system: Key = None,
    key_added: str = _keys.ALIGNED,
    copy: bool = False,
) -> list[AnnData | SpatialData] | None:
    """Bring all sections of a series into a common coordinate system.

    Parameters
    ----------
    slices
        Sections in the order of the series, at least two; or one object that holds them, with `library_key`: in order
        of z where each has one, else in that of the categories.
    reference
        Index of the section that stays, in that order.
    chain
        Align each section to its neighbour on the side of the reference and compose the moves: neighbours look most
        alike, but small errors add up along the series, and all sections beyond a pair that fits poorly may be
        misplaced. Otherwise each is aligned to the reference directly.
    spatial_key
        Key of the coordinates in ``obsm`` and of the images in ``uns``.
    key_added
        Key in ``obsm`` and ``uns``, or new coordinate system of a SpatialData, for the common coordinates.
    copy
        Return aligned copies of all and leave the inputs as they are.
    %(shared)s

    Returns
    -------
    None, or the list of copies, one for each object given. Each section gets what :func:`align` writes.
    ``uns["alignment"]`` holds the matrix to the frame of the reference; ``fit`` is that with the section it was aligned
    to, ``aligned_to``.

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0)
    >>> sections = [tissue.section(100.0 * i, angle=30.0 * i) for i in range(3)]
    >>> c2sti.pp.align_series(sections)
    >>> [round(section.uns["alignment"]["angle_deg"], -1) for section in sections[1:]]
    [-30.0, -60.0]
    """
    found = sources(
        slices,
        least=2,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
        aligned=False,
    )
    reference = _validators.whole(reference, "reference", least=-len(found), most=len(found) - 1)
    simpleitk()
    grids = _read(found, method, use, key_added, copy)
    root = reference % len(found)
    placements: list[Placement] = [(np.eye(3), 1.0, "reference", root)] * len(found)
    for i in sorted(set(range(len(found))) - {root}, key=lambda i: abs(i - root)):
        target = i + int(np.sign(root - i)) if chain else root
        placed, fit = estimate(grids[target], grids[i], method, use, None, flip)
        _check_fit(placed, fit, grids[target], grids[i])
        placements[i] = placements[target][0] @ placed, fit, method, target
    written = _write(found, grids, placements, root, key_added, copy)
    return written if copy else None


def _read(found: Sequence[Source], method: str, use: str, key_added: str, copy: bool) -> list[SliceGrid]:
    """The sections, after a check of all that can be checked before anything is computed."""
    _validators.one_of(method, "method", get_args(Method))
    _validators.one_of(use, "use", get_args(Use))
    _validators.key(key_added)
    if len({(id(s.container), s.table_key, s.library) for s in found}) < len(found):
        raise ValueError("one object is given as two sections; pass a copy of it: adata.copy()")
    for source in found:
        sdata = is_spatialdata(source.container)
        name = "coordinate_system" if sdata else "spatial_key"
        if key_added == (frame_of_source(source.container, source) if sdata else source.spatial_key):
            raise ValueError(
                f"key_added={key_added!r} is {name}: the measured coordinates would be lost; choose another"
            )
        if not copy:
            check_writable(source.container, source.name)
    grids = [source.read() for source in found]
    return grids if use == "histology" else on_shared_genes(grids, stacklevel=4)


def _check_fit(matrix: FloatArray, fit: float, reference: SliceGrid, moving: SliceGrid) -> None:
    """Log how a section was moved, and warn of a poor fit."""
    move = described(matrix)
    _logging.info(
        f"{moving.name} on {reference.name}: rotated by {move['angle_deg']:.1f}°"
        f"{', mirrored' if move['flipped'] else ''}, fit {fit:.2f}"
    )
    if fit < POOR_FIT:
        warnings.warn(
            f"{moving.name} fits {reference.name} poorly: fit {fit:.2f}, and up to {POOR_FIT} comes about by "
            "chance. Look at both; if one is mirrored, use flip=True; a placement found otherwise goes into matrix=",
            UserWarning,
            stacklevel=3,
        )


def _write(
    found: Sequence[Source],
    grids: Sequence[SliceGrid],
    placements: Sequence[Placement],
    root: int,
    key_added: str,
    copy: bool,
) -> list[AnnData | SpatialData]:
    """Compute all that is to be written, then write it; gives back the containers."""
    names, end, pitch = [name_of(source) for source in found], image_end(found[root]), grids[root].pitch
    moves = []
    for source, grid, (matrix, fit, method, target) in zip(found, grids, placements, strict=True):
        record, centre = {"matrix": matrix, "fit": fit, "method": method, **described(matrix)}, grid.xy.mean(axis=0)
        record["shift"] = affine(centre[None], matrix)[0] - record["scale"] * centre
        record |= {"reference": names[root], "aligned_to": names[target]}
        beyond = affine(grid.xy, matrix).max(axis=0) + 2 * pitch
        canvas = np.maximum(end, np.maximum(beyond, pitch))  # tissue at negative coordinates is not shown
        moves.append(Move(source, matrix, record, canvas))
    containers = {id(source.container): source.container for source in found}  # one may be given for several tables
    receivers = {key: copied(container) if copy else container for key, container in containers.items()}
    writes = [
        stage(receiver, [move for move in moves if id(move.source.container) == key], key_added)
        for key, receiver in receivers.items()
    ]
    for write in writes:
        write()
    kinds = {"coordinate system" if is_spatialdata(receiver) else "obsm" for receiver in receivers.values()}
    _logging.info(
        f"added {key_added!r} ({' and '.join(sorted(kinds))}) and uns[{_keys.ALIGNMENT!r}] to "
        f"{', '.join(source.name for source in found)}"
    )
    places = {source.place: id(source.container) for source in found}
    return [receivers[places[place]] for place in sorted(places)]
