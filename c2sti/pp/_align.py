"""The public face of alignment: estimate or take a placement, judge it, write it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
from anndata import AnnData

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray
from c2sti.io import Key, SliceGrid, Source, check_writable, copied, is_spatialdata, on_shared_genes, sources
from c2sti.pp._estimate import Method, Placement, estimate, given, simpleitk
from c2sti.pp._maps import Use, apply
from c2sti.pp._write import Move, frame_of_source, name_of, picture_end, stage

if TYPE_CHECKING:
    from spatialdata import SpatialData

POOR_FIT = 0.35  # 27 pairs of unrelated real sections reach 0.32 at best, the least of 31 pairs of neighbours has 0.41


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

    All rotations and translations are searched, so the sections may lie anywhere on their slides. Sections are compared
    by the principal components of their smoothed expression and, where both have an image, by their H&E; neither
    spots nor genes need to be the same. Nothing is drawn at random.

    Parameters
    ----------
    reference
        The section that stays; or one object that holds both, with `library_key`: the first of its sections stays.
    moving
        The section that is moved.
    library_key
        Column of `obs` that names the section of each row, where one object holds both.
    method
        ``"rigid"``: a rotation and a translation; the matrix also holds the ratio of the two units (`scale`), known or
        estimated beforehand. ``"affine"``: scales and shears by a few percent as well, unless the rigid placement fits
        better. Tissue that was bent is matched by neither.
    use
        ``"expression"``, ``"histology"`` or ``"both"``; ``"auto"`` is both where both sections have an image, else
        expression.
    matrix
        (2, 3) or (3, 3) matrix, found by another tool, that takes homogeneous (x, y, 1) of `moving` to the frame of the
        reference. It is used as it is; `method`, `scale` and `flip` then have no part.
    scale
        Units of the reference in one unit of `moving`. Estimated by default: 1 where the spots are equally far
        apart within 3 %, else the ratio of the distances, unless the sizes of the tissues say that the unit is one and
        the platforms differ.
    flip
        Whether `moving` may lie on its other face. Its mirror image is then tried as well, which takes twice as long.
    layer
        Layer with the expression, counts or log-normalised; `X` by default. `layer`, `table_key`, `image_key` and
        `coordinate_system` take one value for both, a list of two, or a dict by name (``"reference"`` and ``"moving"``,
        or the names in `library_key`).
    spatial_key
        Key of the coordinates in ``obsm`` and of the images in ``uns``.
    table_key
        Table of a SpatialData; may be left out where there is one.
    image_key
        Library of ``uns[spatial_key]``, or image of a SpatialData; may be left out where there is one, or where a
        constant column of `obs` names the library.
    coordinate_system
        Of a SpatialData, in which the spots are read. By default "global", else that of the spots.
    key_added
        Key in ``obsm`` and ``uns``, or new coordinate system of a SpatialData, under which the common frame is added.
    copy
        Return aligned copies of both and leave the inputs as they are.

    Returns
    -------
    None, or the copies, one for each object given. In an AnnData, of both sections:

    - ``obsm[key_added]``: (n, 2) float64, coordinates in the frame and unit of the reference (further columns stay)
    - ``uns[key_added]``: the H&E in that frame by library, where there is one; shared with ``uns[spatial_key]`` by the
      reference, for `moving` the warped picture. :func:`c2sti.tl.interpolate` finds it by ``spatial_key=key_added``
    - ``uns["alignment"]``: ``matrix`` (3, 3) float64; ``fit`` in [0, 1]; ``method``: rigid, affine, given, or
      "reference" for the section that stays; ``angle_deg``, from x towards y, after mirroring x if ``flipped``;
      ``shift`` (2,) by which the centre of the spots moves; ``scale``; ``reference``: its name or library. Where one
      object holds several sections, a dict of these by the name of the section

    In a SpatialData each element that knows `coordinate_system` gets a transformation to the coordinate system
    `key_added`, and the table gets ``uns["alignment"]``. Where it holds several sections, these are the region of the
    section, its H&E, and elements that are called after the region. They are in memory; ``write_transformations()``
    saves them. The log says what was done.

    Raises
    ------
    ValueError
        `key_added` is the key that is read, the matrix cannot be one, an image is asked for that is not there, or the
        sections share no gene.
    ImportError
        SimpleITK is not installed and no `matrix` is given.

    Warns
    -----
    UserWarning
        The fit is below 0.35, as it is for sections that have nothing to do with each other.

    Notes
    -----
    The fit is a correlation times an overlap: the Pearson correlation of the two sections' smoothed maps over the spots
    in both tissues, pooled over maps, times the share of one section's spots that lie in the other's tissue (the larger
    of the two shares). It falls with the noise of the spots and is no probability.

    By squidpy's convention images begin at (0, 0): what of an image is moved to negative coordinates is cut off,
    spots are not. Up to version 1.8 ``squidpy.pl.spatial_scatter`` takes coordinates from ``spatial_key`` but the
    image from ``uns["spatial"]`` (squidpy issue 1269), so give it the moved one::

        image = moving.uns["spatial_aligned"][library]
        sq.pl.spatial_scatter(
            moving,
            spatial_key="spatial_aligned",
            img=image["images"]["hires"],
            scale_factor=image["scalefactors"]["tissue_hires_scalef"],
        )

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0)
    >>> first, second = tissue.section(0.0), tissue.section(100.0, angle=120.0)
    >>> c2sti.pp.align(first, second)
    >>> round(second.uns["alignment"]["angle_deg"])
    -120
    """
    _check_choices(method, use)
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
    _check_keys(found, key_added, copy)
    if matrix is None:
        simpleitk()
    fixed, moved = _read(found, use)
    placement = estimate(fixed, moved, method, use, scale, flip) if matrix is None else given(fixed, moved, use, matrix)
    _judge(placement, fixed, moved)
    stays = Placement(np.eye(3), placement.fit, "reference")
    written = _write(found, [fixed, moved], [stays, placement], [0, 0], 0, key_added, copy)
    return tuple(written) if copy else None


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
        Sections in the order of the series, at least two; or one object that holds them, with `library_key`.
    library_key
        Column of `obs` that names the section of each row. Sections are in order of z where each has one, else in that
        of the categories.
    reference
        Index of the section that stays, in that order.
    chain
        Align each section to its neighbour on the side of the reference and compose the moves: neighbours look most
        alike, but small errors add up along the series. Otherwise each is aligned to the reference directly.
    method, use, flip, layer, spatial_key, table_key, image_key, coordinate_system, key_added, copy
        As in :func:`align`.

    Returns
    -------
    None, or the list of copies, one for each object given. Each section gets what :func:`align` writes.
    ``uns["alignment"]`` holds the matrix to the frame of the reference; ``fit`` is that with the section it was aligned
    to, ``aligned_to``.

    Raises
    ------
    ValueError
        Fewer than two sections, a reference that is not among them, or what :func:`align` refuses.
    ImportError
        SimpleITK is not installed.

    Warns
    -----
    UserWarning
        A section fits the one it was aligned to poorly: in a chain, all beyond it are in doubt.

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0)
    >>> sections = [tissue.section(100.0 * i, angle=30.0 * i) for i in range(3)]
    >>> c2sti.pp.align_series(sections)
    >>> [round(section.uns["alignment"]["angle_deg"], -1) for section in sections[1:]]
    [-30.0, -60.0]
    """
    _check_choices(method, use)
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
    _check_keys(found, key_added, copy)
    simpleitk()
    grids = _read(found, use)
    root = reference % len(found)
    placements = [Placement(np.eye(3), 1.0, "reference") for _ in found]
    targets = [root] * len(found)
    for i in sorted(set(range(len(found))) - {root}, key=lambda i: abs(i - root)):
        targets[i] = i + int(np.sign(root - i)) if chain else root
        placed = estimate(grids[targets[i]], grids[i], method, use, None, flip)
        _judge(placed, grids[targets[i]], grids[i])
        placements[i] = Placement(placements[targets[i]].matrix @ placed.matrix, placed.fit, placed.method)
    written = _write(found, grids, placements, targets, root, key_added, copy)
    return written if copy else None


def _check_choices(method: str, use: str) -> None:
    for name, value, known in (("method", method, get_args(Method)), ("use", use, get_args(Use))):
        _validators.one_of(value, name, known)


def _check_keys(found: Sequence[Source], key_added: str, copy: bool) -> None:
    """Refuse what cannot be written, before anything is computed."""
    _validators.key(key_added)
    same = {(id(s.container), s.keys.table_key, s.keys.library) for s in found}
    if len(same) < len(found):
        raise ValueError("one object is given as two sections; pass a copy of it: adata.copy()")
    for source in found:
        if is_spatialdata(source.container):
            name, key = "coordinate_system", frame_of_source(source.container, source)
        else:
            name, key = "spatial_key", str(source.keys.spatial_key)
        if key_added == key:
            raise ValueError(
                f"key_added={key_added!r} is {name}: the measured coordinates would be lost; choose another"
            )
        if not copy:
            check_writable(source.container, source.name)


def _read(found: Sequence[Source], use: str) -> list[SliceGrid]:
    grids = [source.read() for source in found]
    return grids if use == "histology" else on_shared_genes(grids, stacklevel=4)


def _judge(placement: Placement, reference: SliceGrid, moving: SliceGrid) -> None:
    _logging.info(
        f"{moving.name} on {reference.name}: rotated by {placement.angle_deg:.1f}°"
        f"{', mirrored' if placement.flipped else ''}, fit {placement.fit:.2f}"
    )
    if placement.fit < POOR_FIT:
        warnings.warn(
            f"{moving.name} fits {reference.name} poorly: fit {placement.fit:.2f}, and up to {POOR_FIT} comes about by "
            "chance. Look at both; if one is mirrored, use flip=True; a placement found otherwise goes into matrix=",
            UserWarning,
            stacklevel=3,
        )


def _write(
    found: Sequence[Source],
    grids: Sequence[SliceGrid],
    placements: Sequence[Placement],
    targets: Sequence[int],
    root: int,
    key_added: str,
    copy: bool,
) -> list[AnnData | SpatialData]:
    """Compute all that is to be written, then write it; gives back the containers."""
    names = [name_of(source) for source in found]
    end = picture_end(found[root])
    moves = []
    for i, (source, placement, grid) in enumerate(zip(found, placements, grids, strict=True)):
        record = {**placement.record(grid.xy, names[root]), "aligned_to": names[targets[i]]}
        beyond = apply(placement.matrix, grid.xy).max(axis=0) + 2 * grids[root].pitch
        canvas = np.maximum(end, np.maximum(beyond, grids[root].pitch))  # tissue at negative coordinates is not shown
        moves.append(Move(source, placement.matrix, record, canvas))
    containers = {id(source.container): source.container for source in found}
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
    given = {source.place: id(source.container) for source in found}
    return [receivers[given[place]] for place in sorted(given)]
