"""A result as SpatialData: one table and one element of bins a section, in µm, with the pictures that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _check, _keys, _log, _result, grid
from c2sti._types import FloatArray
from c2sti.tl._to_slices import to_slices

if TYPE_CHECKING:
    from spatialdata import SpatialData

VALID = re.compile(r"(?!\.{1,2}$)(?!__)[\w.-]+")  # what SpatialData takes for the name of an element
GLOBAL = "global"
REGION, INSTANCE = "region", "instance"  # columns of a table that tie its rows to shapes


def to_spatialdata(
    adata: AnnData,
    *,
    key: str = "c2sti",
    um_per_unit: float = 1.0,
    originals: Mapping[str, AnnData | SpatialData] | None = None,
    spatial_key: str = "spatial",
    table_key: str | None = None,
    coordinate_system: str = "global",
) -> SpatialData:
    """Turn a result into SpatialData: a table and squares for every section, measured or inserted.

    Parameters
    ----------
    adata
        Result of :func:`interpolate` or :func:`interpolate_series`, or a stack of :func:`to_slices`.
    key
        The `key_added` that it was made with.
    um_per_unit
        µm in one unit of its coordinates; 1 where they are in µm, the size of a pixel where they are in pixels.
    originals
        Measured sections to put beside it, by the prefix that their elements get: ``{"before": sdata_a}``. They have to
        lie in the frame of the result. Images stay lazily read.
    spatial_key, table_key, coordinate_system
        Where the originals have their coordinates, as in :func:`interpolate`.

    Returns
    -------
    SpatialData in one coordinate system, "global", in µm. For each section of the result, say "c2sti_1":

    - ``sdata["c2sti_1_bins"]``: squares of one pitch (circles, if the result was asked for at points of one's own).
    - ``sdata.tables["c2sti_1"]``: its rows, those inside the section's tissue. ``X`` expression; ``obs["inserted"]``,
      ``obs["support"]``, annotations; ``obsm["spatial"]`` in µm; ``varp["coexpression"]`` where graphs were made;
      ``uns["c2sti"]``: provenance, ``"section"``, and ``"synthetic"``, which is False for the measured sections.
    - ``sdata["c2sti_1_histology"]``: its H&E, where there is one; ``uns["c2sti"]["virtual_histology"]`` of the
      table is True where it was made, not photographed.

    Of each original all elements in its coordinate system, named by its prefix.

    Raises
    ------
    KeyError
        ``uns[key]`` is missing: this is not a result, or it had another `key_added`.
    ValueError
        A name that SpatialData cannot write, a `um_per_unit` that is not positive, or an original that cannot be read.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> sdata = c2sti.tl.to_spatialdata(c2sti.tl.interpolate(a, b, show_progress_bar=False))
    >>> sorted(sdata.tables)
    ['c2sti_1', 'slice_a', 'slice_b']
    """
    from spatialdata import SpatialData  # noqa: PLC0415 - half a second that others should not pay

    um_per_unit = _check.number(um_per_unit, "um_per_unit", above=0)
    if originals is not None:
        _check.a(originals, "originals", Mapping, "a dict of sections by prefix")
    record = _result.record_of(adata, key)
    _result.lattice_of(record, key)
    stack = adata if _keys.SECTION in adata.obs else to_slices(adata, key=key)
    _result.check_stack(stack)
    names = [str(name) for name in record["sections"]]
    for name in (*names, *(originals or {})):
        check_name(name)
    elements: dict[str, Any] = {}
    for name in names:
        if not (stack.obs[_keys.SECTION] == name).any():  # points that were asked for may lie beside its tissue
            _log.warning(f"{name} has no row in its tissue, and is left out: SpatialData holds no empty shapes")
            continue
        elements |= _section(stack, name, key, um_per_unit)
    for prefix, original in (originals or {}).items():
        if grid.is_spatialdata(original):
            found = _of_spatialdata(original, prefix, table_key, coordinate_system, um_per_unit)
        else:
            found = _of_anndata(original, prefix, spatial_key, um_per_unit)
        taken = sorted(set(found) & set(elements))
        if taken:
            raise ValueError(f"originals[{prefix!r}] would write over {taken}; give it another name")
        elements |= found
    return SpatialData.init_from_elements(elements)


def check_name(name: str) -> None:
    """Refuse names that SpatialData cannot write.

    Raises
    ------
    ValueError
        It holds "/" or other characters beyond letters, digits and ``_ . -``.
    """
    _check.a(name, f"a name in originals, {name!r},", str, "text")
    if not VALID.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a section: letters, digits, '_', '.' and '-' can be written to files; "
            f"{_cleaned(name)!r} would do (inserted sections are named by key_added=)"
        )


def _cleaned(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_") or "section"


def _section(stack: AnnData, name: str, key: str, um: float) -> dict[str, Any]:
    """Table, bins and picture of one section of a stack."""
    from spatialdata import sanitize_table  # noqa: PLC0415
    from spatialdata.models import ShapesModel, TableModel  # noqa: PLC0415

    record = stack.uns[key]
    table = stack[(stack.obs[_keys.SECTION] == name).to_numpy()].copy()
    xy = np.asarray(table.obsm[_keys.SPATIAL], dtype=np.float64) * um
    pitch = float(record["lattice"]["pitch"]) * um
    bins = f"{name}_bins"
    shapes = ShapesModel.parse(_squares(xy, pitch) if _is_lattice(xy, record, um) else _circles(xy, pitch))
    table.obs[_keys.SECTION] = table.obs[_keys.SECTION].astype(str).astype("category")
    given = [str(column) for column in table.obs]
    sanitize_table(table)  # annotations keep the names that users gave them, which may hold blanks
    colours = {
        _keys.colours(column): stack.uns[_keys.colours(before)]
        for before, column in zip(given, table.obs, strict=True)
        if _keys.colours(before) in stack.uns
    }
    table.obs[REGION] = pd.Categorical([bins] * table.n_obs)
    table.obs[INSTANCE] = np.arange(table.n_obs)
    table.obsm[_keys.SPATIAL] = xy
    del table.obsm[_keys.SPATIAL_3D]
    library = stack.uns[_keys.SPATIAL][name]
    table.uns = {**colours, key: _provenance(record, name)}
    graph = table.varp[_keys.graph(name)] if _keys.graph(name) in table.varp else None
    table.varp = {} if graph is None else {_keys.COEXPRESSION: graph}
    parsed = TableModel.parse(table, region=bins, region_key=REGION, instance_key=INSTANCE)
    found = {bins: shapes, name: parsed}
    pixels = np.asarray(library["images"]["hires"])
    if pixels.min() < pixels.max():  # a blank picture is there for squidpy's sake
        found[f"{name}_histology"] = _image(pixels, um / float(library["scalefactors"]["tissue_hires_scalef"]))
    return found


def _provenance(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a table says of itself: all but the graphs, which lie in `varp`, and the names, which are its columns."""
    kept = {k: v for k, v in record.items() if k not in (_keys.COEXPRESSION, "genes", "notes")}
    made = name in [str(s) for s in record["inserted"]]
    painted = name in [str(s) for s in record.get(_keys.VIRTUAL_HISTOLOGY, ())]
    return {**kept, "section": name, "synthetic": made, _keys.VIRTUAL_HISTOLOGY: painted}


def _is_lattice(xy: FloatArray, record: Mapping[str, Any], um: float) -> bool:
    """Whether points are centres of the lattice's bins."""
    bins = (xy / um - np.asarray(record["lattice"]["origin"])) / float(record["lattice"]["pitch"])
    return bool(np.abs(bins - np.rint(bins)).max(initial=0) < 1e-3)


def _squares(xy: FloatArray, side: float) -> Any:
    import geopandas  # noqa: PLC0415
    import shapely  # noqa: PLC0415

    (x0, y0), (x1, y1) = (xy - side / 2).T, (xy + side / 2).T
    return geopandas.GeoDataFrame(geometry=shapely.box(x0, y0, x1, y1))


def _circles(xy: FloatArray, diameter: float) -> Any:
    import geopandas  # noqa: PLC0415

    return geopandas.GeoDataFrame({"radius": np.full(len(xy), diameter / 2)}, geometry=geopandas.points_from_xy(*xy.T))


def _image(pixels: np.ndarray, um_per_pixel: float) -> Any:
    from spatialdata.models import Image2DModel  # noqa: PLC0415
    from spatialdata.transformations import Scale  # noqa: PLC0415

    scale = Scale([um_per_pixel, um_per_pixel], axes=("x", "y"))
    return Image2DModel.parse(
        np.moveaxis(pixels[..., :3], -1, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={GLOBAL: scale},
    )


# ---------------------------------------------------------------- measured sections beside it


def _of_anndata(adata: AnnData, name: str, spatial_key: str, um: float) -> dict[str, Any]:
    """Circles, table and picture of a section in AnnData."""
    from spatialdata import sanitize_table  # noqa: PLC0415
    from spatialdata.models import ShapesModel, TableModel  # noqa: PLC0415

    read = grid.read_slice(adata, name=f"originals[{name!r}]", spatial_key=spatial_key)
    spots = f"{name}_spots"
    table = AnnData(adata.X.copy(), obs=adata.obs.copy(), var=adata.var.copy())
    sanitize_table(table)
    table.obs[REGION] = pd.Categorical([spots] * table.n_obs)
    table.obs[INSTANCE] = np.arange(table.n_obs)
    table.obsm[_keys.SPATIAL] = read.xy * um
    found = {
        spots: ShapesModel.parse(_circles(read.xy * um, read.pitch * um)),
        name: TableModel.parse(table, region=spots, region_key=REGION, instance_key=INSTANCE),
    }
    if isinstance(read.image, grid.HEImage):
        pixels = read.image.pixels
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        found[f"{name}_histology"] = _image(pixels, um / read.image.scale)
    return found


def _of_spatialdata(
    sdata: SpatialData, prefix: str, table_key: str | None, coordinate_system: str, um: float
) -> dict[str, Any]:
    """All elements in the frame, and the tables that annotate them."""
    from spatialdata.models import TableModel  # noqa: PLC0415
    from spatialdata.transformations import Scale, Sequence, get_transformation, set_transformation  # noqa: PLC0415

    frame = grid.frame_of(sdata, f"originals[{prefix!r}]", table_key, coordinate_system)
    scale = Scale([um, um], axes=("x", "y"))
    found = {}
    for kind, name, element in sdata.gen_elements():
        known = {} if kind == "tables" else get_transformation(element, get_all=True)
        if frame in known:
            copy = element.copy()  # shallow where it is an image: pixels are shared, transformations are not
            set_transformation(copy, {GLOBAL: Sequence([known[frame], scale])}, set_all=True)
            found[f"{prefix}_{name}"] = copy
    for name, table in _tables(sdata):
        region_key, instance_key = (
            table.uns["spatialdata_attrs"]["region_key"],
            table.uns["spatialdata_attrs"]["instance_key"],
        )
        regions = [f"{prefix}_{region}" for region in table.obs[region_key].astype(str)]
        if set(regions) <= set(found):
            copy = table.copy()
            del copy.uns["spatialdata_attrs"]
            copy.obs[region_key] = pd.Categorical(regions)
            found[f"{prefix}_{name}"] = TableModel.parse(
                copy, region=sorted(set(regions)), region_key=region_key, instance_key=instance_key
            )
    return found


def _tables(sdata: SpatialData) -> Iterator[tuple[str, AnnData]]:
    return ((name, table) for name, table in sdata.tables.items() if "spatialdata_attrs" in table.uns)
