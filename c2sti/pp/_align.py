"""The public face of alignment: estimate or take a placement, judge it, write it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
from anndata import AnnData

from c2sti import _check, _keys, _log
from c2sti._types import FloatArray
from c2sti.grid import SliceGrid, is_spatialdata, read_slice
from c2sti.pp._estimate import Placement, estimate, given
from c2sti.pp._maps import Use, apply
from c2sti.pp._refine import Method, simpleitk
from c2sti.pp._write import Slice, Where, copied, libraries, picture_end, stage

if TYPE_CHECKING:
    from spatialdata import SpatialData

POOR_FIT = 0.35  # 27 pairs of unrelated real sections reach 0.32 at best, the least of 31 pairs of neighbours has 0.41


def align(
    reference: Slice,
    moving: Slice,
    *,
    method: Method = "rigid",
    use: Use = "auto",
    matrix: FloatArray | None = None,
    scale: float | None = None,
    flip: bool = False,
    layer: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    table_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str = "global",
    key_added: str = _keys.ALIGNED,
    copy: bool = False,
) -> tuple[Slice, Slice] | None:
    """Bring a section into the frame of its neighbour.

    All rotations and translations are searched, so the sections may lie anywhere on their slides. Sections are compared
    by the principal components of their smoothed expression and, where both have an image, by their H&E; neither
    spots nor genes need to be the same. Nothing is drawn at random.

    Parameters
    ----------
    reference
        The section that stays.
    moving
        The section that is moved.
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
        Layer with the expression, counts or log-normalised; `X` by default.
    spatial_key
        Key of the coordinates in ``obsm`` and of the images in ``uns``.
    table_key
        Table of a SpatialData; may be left out where there is one.
    image_key
        Library of ``uns[spatial_key]``, or image of a SpatialData; may be left out where there is one.
    coordinate_system
        Of a SpatialData, in which the spots are read. Where there is no "global", that in which they are stored.
    key_added
        Key in ``obsm`` and ``uns``, or new coordinate system of a SpatialData, under which the common frame is added.
    copy
        Return aligned copies of both and leave the inputs as they are.

    Returns
    -------
    None, or the two copies. In an AnnData, of both sections unless said otherwise:

    - ``obsm[key_added]``: (n, 2) float64, coordinates in the frame and unit of the reference (further columns stay)
    - ``uns[key_added]``: the H&E in that frame by library, where there is one; shared with ``uns[spatial_key]`` by the
      reference, for `moving` the warped picture. :func:`c2sti.tl.interpolate` finds it by ``spatial_key=key_added``
    - ``uns["alignment"]``, of `moving` only: ``matrix`` (3, 3) float64; ``fit`` in [0, 1]; ``method``: rigid, affine
      or given; ``angle_deg``, from x towards y, after mirroring x if ``flipped``; ``shift`` (2,) by which the centre of
      the spots moves; ``scale``; ``reference``: its library, or "reference"

    In a SpatialData each element that knows `coordinate_system` gets a transformation to the coordinate system
    `key_added`, and the table of `moving` gets ``uns["alignment"]``. They are in memory; ``write_transformations()``
    saves them.

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

    By squidpy's convention pictures begin at (0, 0): what of a picture is moved to negative coordinates is cut off,
    spots are not. Up to version 1.8 ``squidpy.pl.spatial_scatter`` takes coordinates from ``spatial_key`` but the
    picture from ``uns["spatial"]`` (squidpy issue 1269), so give it the moved one::

        picture = moving.uns["spatial_aligned"][library]
        sq.pl.spatial_scatter(
            moving,
            spatial_key="spatial_aligned",
            img=picture["images"]["hires"],
            scale_factor=picture["scalefactors"]["tissue_hires_scalef"],
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
    where = _where(spatial_key, table_key, image_key, coordinate_system, key_added, (reference, moving))
    if matrix is None:
        simpleitk()
    fixed = _read(reference, "reference", layer, where)
    moved = _read(moving, "moving", layer, where)
    placement = estimate(fixed, moved, method, use, scale, flip) if matrix is None else given(fixed, moved, use, matrix)
    _judge(placement, fixed, moved)
    written = _write(
        [reference, moving], [np.eye(3), placement.matrix], [None, placement], [fixed, moved], 0, where, copy
    )
    return (written[0], written[1]) if copy else None


def align_series(
    slices: Sequence[Slice],
    *,
    reference: int = 0,
    chain: bool = True,
    method: Method = "rigid",
    use: Use = "auto",
    flip: bool = False,
    layer: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    table_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str = "global",
    key_added: str = _keys.ALIGNED,
    copy: bool = False,
) -> list[Slice] | None:
    """Bring all sections of a series into one frame.

    Parameters
    ----------
    slices
        Sections in the order of the series, at least two.
    reference
        Index of the section that stays.
    chain
        Align each section to its neighbour on the side of the reference and compose the moves: neighbours look most
        alike, but small errors add up along the series. Otherwise each is aligned to the reference directly.
    method, use, flip, layer, spatial_key, table_key, image_key, coordinate_system, key_added, copy
        As in :func:`align`.

    Returns
    -------
    None, or the list of copies. Each section gets what :func:`align` writes. ``uns["alignment"]`` of all but the
    reference holds the matrix to the frame of the reference; ``fit`` is that with the section it was aligned to,
    ``aligned_to``.

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
    if isinstance(slices, AnnData) or is_spatialdata(slices):
        raise TypeError("slices is one container; give a list, one AnnData or SpatialData a section")
    slices = _check.several(slices, "slices", "sections")
    if len(slices) < 2:
        raise ValueError(f"slices holds {len(slices)} sections; a series has at least two, in order")
    reference = _check.whole(reference, "reference", least=-len(slices), most=len(slices) - 1)
    where = _where(spatial_key, table_key, image_key, coordinate_system, key_added, slices)
    simpleitk()
    grids = [_read(section, f"slices[{i}]", layer, where) for i, section in enumerate(slices)]
    root = reference % len(slices)
    placements: list[Placement | None] = [None] * len(slices)
    matrices = [np.eye(3) for _ in slices]
    targets = [root] * len(slices)
    for i in sorted(set(range(len(slices))) - {root}, key=lambda i: abs(i - root)):
        targets[i] = i + int(np.sign(root - i)) if chain else root
        found = estimate(grids[targets[i]], grids[i], method, use, None, flip)
        _judge(found, grids[targets[i]], grids[i])
        matrices[i] = matrices[targets[i]] @ found.matrix
        placements[i] = Placement(matrices[i], found.fit, found.method)
    written = _write(slices, matrices, placements, grids, root, where, copy, targets)
    return written if copy else None


def _check_choices(method: str, use: str) -> None:
    for name, value, known in (("method", method, get_args(Method)), ("use", use, get_args(Use))):
        _check.one_of(value, name, known)


def _where(
    spatial_key: str,
    table_key: str | None,
    image_key: str | None,
    coordinate_system: str,
    key_added: str,
    sections: Sequence[AnnData | SpatialData],
) -> Where:
    _check.key(key_added)
    if len({id(s) for s in sections if s is not None}) < sum(s is not None for s in sections):
        raise ValueError("one object is given as two sections; pass a copy of it: adata.copy()")
    for of_spatialdata, name, key in (
        (False, "spatial_key", spatial_key),
        (True, "coordinate_system", coordinate_system),
    ):
        if key_added == key and any(is_spatialdata(s) == of_spatialdata for s in sections):
            raise ValueError(
                f"key_added={key_added!r} is {name}: the measured coordinates would be lost; choose another"
            )
    return Where(spatial_key, table_key, image_key, coordinate_system, key_added)


def _read(section: AnnData | SpatialData, name: str, layer: str | None, where: Where) -> SliceGrid:
    return read_slice(
        section,
        name=name,
        layer=layer,
        spatial_key=where.spatial_key,
        table_key=where.table_key,
        image_key=where.image_key,
        coordinate_system=where.coordinate_system,
    )


def _judge(placement: Placement, reference: SliceGrid, moving: SliceGrid) -> None:
    _log.info(
        f"{moving.name} on {reference.name}: turned by {placement.angle_deg:.1f}°"
        f"{', mirrored' if placement.flipped else ''}, fit {placement.fit:.2f}"
    )
    if placement.fit < POOR_FIT:
        warnings.warn(
            f"{moving.name} fits {reference.name} poorly: fit {placement.fit:.2f}, and up to {POOR_FIT} comes about by "
            "chance. Look at both; if one lies on its other face, use flip=True; a placement found otherwise goes into "
            "matrix=",
            UserWarning,
            stacklevel=3,
        )


def _write(
    sections: Sequence[Slice],
    matrices: Sequence[FloatArray],
    placements: Sequence[Placement | None],
    grids: Sequence[SliceGrid],
    root: int,
    where: Where,
    copy: bool,
    targets: Sequence[int] | None = None,
) -> list[Slice]:
    """Compute all that is to be written, then write it."""
    name = _name_of(sections[root], where, grids[root].name)
    end = (
        picture_end(sections[root], where.spatial_key, where.image_key)
        if isinstance(sections[root], AnnData)
        else np.zeros(2)
    )
    receivers = [copied(s) if copy else s for s in sections]
    writes = []
    for i, (section, matrix, placement, grid) in enumerate(zip(receivers, matrices, placements, grids, strict=True)):
        record = None if placement is None else placement.record(grid.xy, name)
        if record is not None and targets is not None:
            record["aligned_to"] = _name_of(sections[targets[i]], where, grids[targets[i]].name)
        beyond = apply(matrix, grid.xy).max(axis=0) + 2 * grids[root].pitch
        canvas = np.maximum(
            end, np.maximum(beyond, grids[root].pitch)
        )  # of tissue at negative coordinates nothing shows
        writes.append(stage(section, matrix, record, where, canvas))
    for write in writes:
        write()
    return receivers


def _name_of(section: AnnData | SpatialData, where: Where, otherwise: str) -> str:
    found = libraries(section, where.spatial_key, where.image_key) if isinstance(section, AnnData) else {}
    return next(iter(found)) if len(found) == 1 else otherwise
