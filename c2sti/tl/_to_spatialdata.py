"""A result as SpatialData: one table and one element of bins a section, in µm, with its H&E, and all of them in 3-D."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _keys, _logging, _result, _validators, io
from c2sti._docs import documented
from c2sti._types import FloatArray
from c2sti.tl._to_slices import stack_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

VALID = re.compile(r"(?!\.{1,2}$)(?!__)[\w.-]+")  # what SpatialData takes for the name of an element
GLOBAL = "global"
REGION, INSTANCE = "region", "instance"  # columns of a table that tie its rows to shapes, where it has none such itself
ATTRS = "spatialdata_attrs"  # uns of a table: which columns these are
STACK = "stack"  # end of the name of the points that are the rows of all sections, and of their coordinate system


@documented
def to_spatialdata(
    adata: AnnData,
    *,
    key: str = "c2sti",
    gap: float | None = None,
    um_per_unit: float = 1.0,
    originals: Mapping[str, AnnData | SpatialData] | None = None,
    spatial_key: str | None = None,
    table_key: str | None = None,
    coordinate_system: str | None = None,
) -> SpatialData:
    """Turn a result into SpatialData: a table and squares for every section, measured or interpolated.

    Parameters
    ----------
    adata
        Result of :func:`interpolate` or :func:`interpolate_series`, or a stack of :func:`to_slices`.
    %(shared)s
    originals
        Measured sections to put beside it, by the prefix that their elements get: ``{"before": sdata_a}``. They have to
        lie in the coordinate system of the result. Of an AnnData rows outside of the tissue (``obs["in_tissue"]``) are
        left out.
    spatial_key, table_key, coordinate_system
        Where the originals have their coordinates, as in :func:`interpolate`; by default as the result's sections.

    Returns
    -------
    SpatialData in µm. The coordinate system "global" lays all sections on each other; each has one of its own as well,
    called like its table. For each section of the result, say "c2sti_1" (in names of elements "_" stands for characters
    that SpatialData cannot write):

    - ``sdata["c2sti_1_bins"]``: squares of one pitch (circles, if the result was made with ``at=``).
    - ``sdata.tables["c2sti_1"]``: the rows of :func:`get_section`, with ``obsm["spatial"]`` in µm and
      ``varp["coexpression"]`` where graphs were made. ``uns["c2sti"]["synthetic"]`` is False for measured sections, and
      ``"virtual_histology"`` is True where the H&E is not photographed. Columns "region" and "instance" (where there
      are such, "c2sti_region" and "c2sti_instance") tie rows to shapes.
    - ``sdata["c2sti_1_histology"]``: its H&E, where there is one.

    Where the sections have z, the points ``sdata["c2sti_stack"]`` are the centres of all rows in 3-D, with columns
    "section" (the name of the table), "instance" (its row, from 0) and "inserted", in a coordinate system of their own,
    "c2sti_stack".

    Of each original all elements in its coordinate system, named by its prefix; of an AnnData "before" its table,
    ``sdata["before_spots"]`` and ``sdata["before_histology"]``.

    Raises
    ------
    KeyError
        ``uns[key]`` is missing.
    ValueError
        A name that SpatialData cannot write, or an original that cannot be read.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> sdata = c2sti.tl.to_spatialdata(c2sti.tl.interpolate(a, b, show_progress_bar=False))
    >>> sorted(sdata.tables)
    ['c2sti_1', 'slice_a', 'slice_b']
    """
    from spatialdata import SpatialData  # noqa: PLC0415 - half a second that others should not pay

    um_per_unit = _validators.number(um_per_unit, "um_per_unit", above=0)
    gap = None if gap is None else _validators.number(gap, "gap", above=0)
    originals = {} if originals is None else originals
    _validators.a(originals, "originals", Mapping, "a dict of sections by prefix")
    record = _result.record_of(adata, key)
    _result.lattice_of(record, key)
    layered = _keys.SECTION not in adata.obs
    if not layered and gap is not None:
        raise ValueError("gap= is for results whose sections are layers; z of a stack is in its obs['z']")
    stack = stack_of(adata, key, gap) if layered else adata
    _result.check_stack(stack)
    # Where sections carry no z, positions from 0 to 1 stand for it in a stack.
    z = stack.obs[_keys.Z]
    in_3d = gap is not None or "z" in record or _keys.PLANE in record or not (z.min() == 0 and z.max() == 1)
    for name in originals:
        if not VALID.fullmatch(_validators.text(name, "a name in originals")):
            raise ValueError(
                f"{name!r} cannot be the name of a section: letters, digits, '_', '.' and '-' can be written to files; "
                f"{_cleaned(name)!r} would do"
            )
    elements: dict[str, Any] = {}
    tables: dict[str, AnnData] = {}
    for name, called in _called(map(str, record["sections"])).items():
        if not (stack.obs[_keys.SECTION] == name).any():  # points of at= may lie outside of its tissue
            _logging.warning(f"{name} has no row in its tissue, and is left out: SpatialData holds no empty shapes")
            continue
        found = _section(stack, name, called, key, um_per_unit, in_3d)
        elements |= found
        tables[called] = found[called]
    if in_3d:
        elements |= _points(tables, f"{_cleaned(key)}_{STACK}", elements)
    used = record.get("parameters", {})
    for prefix, original in originals.items():
        if io.is_spatialdata(original):
            system = coordinate_system or used.get("coordinate_system")
            found = _of_spatialdata(original, prefix, table_key, system, um_per_unit)
        else:
            places = spatial_key or str(used.get("spatial_key", _keys.SPATIAL))
            found = _of_anndata(original, prefix, places, um_per_unit)
        taken = sorted(name for name in found if name.lower() in map(str.lower, elements))
        if taken:
            raise ValueError(f"originals[{prefix!r}] would write over {taken}; give it another name")
        elements |= found
    return SpatialData.init_from_elements(elements)


def _cleaned(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_") or "section"


def _called(names: Iterable[str]) -> dict[str, str]:
    """What the elements of each section are called: its name as far as it can be written, each once."""
    called: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        wanted = name if VALID.fullmatch(name) else _cleaned(name)
        for one in chain([wanted], (f"{wanted}_{i}" for i in count(2))):
            own = {f"{one}{end}".lower() for end in ("", "_bins", "_histology")}
            if not own & taken:
                break
        called[name], taken = one, taken | own
        if one != name:
            _logging.warning(f"the elements of section {name!r} are called {one!r}, which can be written to files")
    return called


def _section(stack: AnnData, name: str, called: str, key: str, um: float, in_3d: bool) -> dict[str, Any]:
    """Table, bins and H&E of one section of a stack."""
    from spatialdata.transformations import get_transformation, set_transformation  # noqa: PLC0415

    record = stack.uns[key]
    table = stack[(stack.obs[_keys.SECTION] == name).to_numpy()].copy()
    xy, bins = np.asarray(table.obsm[_keys.SPATIAL], dtype=np.float64), f"{called}_bins"
    pitch = float(record["lattice"]["pitch"])
    at = (xy - np.asarray(record["lattice"]["origin"])) / pitch
    on_lattice = bool(np.abs(at - np.rint(at)).max(initial=0) < 1e-3)
    table.obs[_keys.SECTION] = table.obs[_keys.SECTION].astype(str).astype("category")
    table.obsm[_keys.SPATIAL] = xy * um
    xyz = table.obsm.pop(_keys.SPATIAL_3D, None)  # may have been taken out of a stack
    if in_3d:
        xyz = np.column_stack([xy, table.obs[_keys.Z]]) if xyz is None else np.asarray(xyz, dtype=np.float64)
        table.obsm[_keys.SPATIAL_3D] = xyz * [um, um, 1]
    else:
        del table.obs[_keys.Z]
    image = _result.image_of(table.uns.pop(_keys.SPATIAL, {}).get(name, {}), name)
    # graphs lie in `varp`, and names of genes are its columns
    table.uns[key] = {k: v for k, v in record.items() if k not in (_keys.COEXPRESSION, "genes", "notes")} | {
        "section": name,
        "synthetic": name in [str(s) for s in record["inserted"]],
        _keys.VIRTUAL_HISTOLOGY: name in [str(s) for s in record.get(_keys.VIRTUAL_HISTOLOGY, ())],
    }
    graphs = {_keys.graph(str(section)) for section in record["sections"]}
    varp = {k: v for k, v in table.varp.items() if k not in graphs}
    graph = table.varp.get(_keys.graph(name))
    graph = io.held_graph(record, name, table.var_names) if graph is None else graph
    if graph is not None:
        varp[_result.free_name(_keys.COEXPRESSION, varp)] = graph
    table.varp = varp
    found = {bins: _shapes(xy * um, pitch * um, square=on_lattice), called: _annotating(table, bins)}
    if image is not None:
        found[f"{called}_histology"] = _image(image[0], um / image[1])
    for element in (element for element_name, element in found.items() if element_name != called):
        set_transformation(element, get_transformation(element), to_coordinate_system=called)
    return found


def _points(tables: Mapping[str, AnnData], wanted: str, taken: Iterable[str]) -> dict[str, Any]:
    """The rows of all sections as points, in a coordinate system of their own.

    spatialdata 0.7 cannot tell the extent of a coordinate system that holds elements in two and in three dimensions.
    """
    from spatialdata.models import PointsModel  # noqa: PLC0415
    from spatialdata.transformations import Identity  # noqa: PLC0415

    name = _result.free_name(wanted, taken)
    xyz = np.concatenate([table.obsm[_keys.SPATIAL_3D] for table in tables.values()])
    centres = pd.DataFrame(xyz, columns=list("xyz"))
    centres[_keys.SECTION] = pd.Categorical(np.repeat(list(tables), [table.n_obs for table in tables.values()]))
    centres[INSTANCE] = np.concatenate([np.arange(table.n_obs) for table in tables.values()])
    centres[_keys.INSERTED] = np.concatenate([table.obs[_keys.INSERTED].to_numpy(bool) for table in tables.values()])
    return {name: PointsModel.parse(centres, transformations={name: Identity()})}


def _annotating(table: AnnData, region: str) -> AnnData:
    """A table whose rows belong to the shapes 0, 1, 2 … of a region, with columns and colours renamed for files."""
    from spatialdata import sanitize_table  # noqa: PLC0415
    from spatialdata.models import TableModel  # noqa: PLC0415

    colours = [table.uns.pop(_keys.colours(str(column)), None) for column in table.obs]
    sanitize_table(table)
    table.uns |= {_keys.colours(c): given for c, given in zip(table.obs, colours, strict=True) if given is not None}
    region_key, instance_key = (_result.free_name(column, table.obs) for column in (REGION, INSTANCE))
    table.obs[region_key] = pd.Categorical([region] * table.n_obs)
    table.obs[instance_key] = np.arange(table.n_obs)
    return TableModel.parse(table, region=region, region_key=region_key, instance_key=instance_key)


def _shapes(xy: FloatArray, width: float, *, square: bool) -> Any:
    """Squares or circles of a width."""
    import geopandas  # noqa: PLC0415
    import shapely  # noqa: PLC0415
    from spatialdata.models import ShapesModel  # noqa: PLC0415

    if not square:
        return ShapesModel.parse(xy, geometry=0, radius=width / 2)
    return ShapesModel.parse(geopandas.GeoDataFrame(geometry=shapely.box(*(xy - width / 2).T, *(xy + width / 2).T)))


def _image(pixels: np.ndarray, um_per_pixel: float) -> Any:
    from spatialdata.models import Image2DModel  # noqa: PLC0415
    from spatialdata.transformations import Scale  # noqa: PLC0415

    scale = {GLOBAL: Scale([um_per_pixel, um_per_pixel], axes=("x", "y"))}
    channels = np.moveaxis(pixels[..., :3], -1, 0)
    return Image2DModel.parse(channels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=scale)


# ---- measured sections beside it


def _of_anndata(adata: AnnData, name: str, spatial_key: str, um: float) -> dict[str, Any]:
    """Circles, table and H&E of a section in AnnData."""
    rows, xy, pitch, image = io.read_places(adata, name=f"originals[{name!r}]", spatial_key=spatial_key)
    spots = f"{name}_spots"
    whole = adata.to_memory() if adata.is_view else adata  # views of backed files cannot be indexed once more
    table = whole[rows].to_memory()
    table.uns.pop(ATTRS, None)  # ties to another SpatialData
    for key, value in list(table.uns.items()):
        if isinstance(value, Mapping) and any(isinstance(one, Mapping) and "images" in one for one in value.values()):
            del table.uns[key]  # images, by squidpy's convention
    held = table.obsm[spatial_key]
    table.obsm[spatial_key] = (held if isinstance(held, np.ndarray) else xy) * um  # with z, where it has one
    found = {spots: _shapes(xy * um, pitch * um, square=False), name: _annotating(table, spots)}
    if image is not None:
        pixels = image.levels[0]
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        found[f"{name}_histology"] = _image(pixels, um / image.scale)
    return found


def _of_spatialdata(
    sdata: SpatialData, prefix: str, table_key: str | None, coordinate_system: str | None, um: float
) -> dict[str, Any]:
    """All elements in the coordinate system, and the tables that annotate them."""
    from spatialdata.models import TableModel  # noqa: PLC0415
    from spatialdata.transformations import Scale, Sequence, get_transformation, set_transformation  # noqa: PLC0415

    source = io.Source(sdata, f"originals[{prefix!r}]", table_key=table_key, coordinate_system=coordinate_system)
    system = io.frame_of(source, sdata)
    scale = Scale([um, um], axes=("x", "y"))
    found = {}
    for kind, name, element in sdata.gen_elements():
        known = {} if kind == "tables" else get_transformation(element, get_all=True)
        if system in known:
            copy = element.copy()  # shallow where it is an image: pixels are shared, transformations are not
            set_transformation(copy, {GLOBAL: Sequence([known[system], scale])}, set_all=True)
            found[f"{prefix}_{name}"] = copy
    for name, table in sdata.tables.items():
        if ATTRS not in table.uns:
            continue
        region_key, instance_key = (table.uns[ATTRS][key] for key in ("region_key", "instance_key"))
        regions = np.array([f"{prefix}_{region}" for region in table.obs[region_key].astype(str)], dtype=object)
        rows = np.isin(regions, list(found))
        if rows.any():
            copy = table[rows].copy()
            del copy.uns[ATTRS]
            copy.obs[region_key] = pd.Categorical(regions[rows])
            found[f"{prefix}_{name}"] = TableModel.parse(
                copy, region=sorted(set(regions[rows])), region_key=region_key, instance_key=instance_key
            )
        if not rows.all():
            left_out = f"{int((~rows).sum())} of {len(rows)} rows of table {name!r} of originals[{prefix!r}]"
            _logging.warning(f"{left_out} annotate nothing in coordinate system {system!r}, and are left out")
    return found
