"""SpatialData → arrays: which table, which of its rows, which frame, and which image is the H&E.

What the readers of spatialdata-io give is read as it is: circles of Visium, squares of Visium HD, polygons, circles or
label images of cells. Nothing is guessed: where several tables or images would do, they are listed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging
from c2sti._types import FloatArray
from c2sti.io._elements import check_slide, finest_of, frames_of, matrix_of, places_of, slide_of
from c2sti.io._histology import SlideImage
from c2sti.io._images import UnusableImage, unusable
from c2sti.io._rows import library_rows, obs_column

if TYPE_CHECKING:  # half a second that a caller with AnnData should not pay
    from spatialdata import SpatialData

GLOBAL = "global"
WORD = re.compile("[0-9A-Za-z]+")  # of the name of an element


def read_table(
    sdata: SpatialData,
    name: str,
    table_key: str | None,
    coordinate_system: str | None,
    library_key: str | None = None,
    library: str | None = None,
) -> tuple[AnnData, NDArray[np.intp], FloatArray, str]:
    """Where a section lies.

    Parameters
    ----------
    sdata
        That holds the section.
    name
        What errors call it.
    table_key
        Its table; None for the only one.
    coordinate_system
        That is wanted; None for "global" or, where the section is not in it, that of its spots.
    library_key, library
        Column of the table that names the section of each row, and the name of this one; None where all rows are.

    Returns
    -------
    The table; the (n,) rows of it that are the section; their (n, 2) coordinates; and the coordinate system of these.

    Raises
    ------
    KeyError
        No such table, region or coordinate system; the message lists those that are there.
    ValueError
        No table, several, or a section that lies in several regions.
    """
    table = sdata.tables[table_of(sdata, name, table_key)]
    rows = _section_rows(table, library_key, library)
    region, instances = _region(sdata, table, rows, name)
    frame = _frame(sdata, region, name, coordinate_system)
    if frame not in (coordinate_system, GLOBAL):
        _logging.info(f"{name} is read in coordinate system {frame!r}, that of {region!r}")
    return table, rows, places_of(sdata[region], frame, instances, region, name), frame


def table_of(sdata: SpatialData, name: str, table_key: str | None) -> str:
    """Key of the table that is meant: the one named, else the only one that annotates a region."""
    if not sdata.tables:
        raise ValueError(
            f"{name} has no table; expression is read from one that annotates its spots, bins or cells (elements: "
            f"{sorted(element for _, element, _ in sdata.gen_elements())}): sdata.tables['table'] = "
            "spatialdata.models.TableModel.parse(adata, region=…, region_key=…, instance_key=…)"
        )
    each = "choose one with table_key= (of several sections, one each: table_key=[…])"
    if table_key is not None and table_key not in sdata.tables:
        raise KeyError(f"{name} has no table {table_key!r}; its tables are {sorted(sdata.tables)}: {each}")
    annotating = [key for key, table in sdata.tables.items() if "spatialdata_attrs" in table.uns]
    keys = [table_key] if table_key is not None else annotating or list(sdata.tables)
    if len(keys) != 1:
        raise ValueError(f"{name} has the tables {sorted(keys)}; {each}")
    return keys[0]


def frame_of(
    sdata: SpatialData,
    name: str,
    table_key: str | None,
    coordinate_system: str | None,
    library_key: str | None = None,
    library: str | None = None,
) -> str:
    """The coordinate system that is meant; parameters and errors as in :func:`read_table`."""
    region = region_of(sdata, name, table_key, library_key, library)
    return _frame(sdata, region, name, coordinate_system)


def region_of(
    sdata: SpatialData,
    name: str,
    table_key: str | None,
    library_key: str | None = None,
    library: str | None = None,
) -> str:
    """The element in which a section lies; parameters and errors as in :func:`read_table`."""
    table = sdata.tables[table_of(sdata, name, table_key)]
    return _region(sdata, table, _section_rows(table, library_key, library), name)[0]


def _section_rows(table: AnnData, library_key: str | None, library: str | None) -> NDArray[np.intp]:
    if library_key is None or library is None:
        return np.arange(table.n_obs)
    return library_rows(table, library_key, library)


def _region(sdata: SpatialData, table: AnnData, rows: NDArray[np.intp], name: str) -> tuple[str, pd.Index]:
    """The element that rows of a table annotate, and the (n,) instances of these rows."""
    from spatialdata.models import get_table_keys  # noqa: PLC0415

    if "spatialdata_attrs" not in table.uns:
        raise ValueError(
            f"the table of {name} annotates no region; say which with sdata.set_table_annotates_spatialelement(…)"
        )
    _, region_key, instance_key = get_table_keys(table)
    regions = sorted(obs_column(table, region_key).iloc[rows].astype(str).unique())
    if len(regions) != 1:
        raise ValueError(
            f"the table of {name} annotates {regions}; a section is one region: name each by library_key="
            f"{region_key!r}, or take one, with its images, by sdata.subset([{regions[0]!r}, …])"
            if regions
            else f"the table of {name} has no rows"
        )
    elements = sorted(key for kind, key, _ in sdata.gen_elements() if kind != "tables")
    if regions[0] not in elements:
        raise KeyError(
            f"the table of {name} annotates {regions[0]!r}, which is not there; the elements are {elements}: read it "
            "as well, or annotate another with sdata.set_table_annotates_spatialelement(…)"
        )
    return regions[0], pd.Index(obs_column(table, instance_key).iloc[rows].to_numpy())


def _frame(sdata: SpatialData, region: str, name: str, wanted: str | None) -> str:
    """The coordinate system of that name; by default "global", else the only one of the region that it can be."""
    known = frames_of(sdata[region])
    if wanted is None or (wanted == GLOBAL and GLOBAL not in known):
        return _default_frame(sdata, region, name)
    if wanted in known:
        return wanted
    each = "choose one with coordinate_system= (of several sections, one each: coordinate_system=[…])"
    if wanted in sdata.coordinate_systems:
        raise KeyError(f"{region!r} of {name} is not in coordinate system {wanted!r}; it is in {sorted(known)}: {each}")
    raise KeyError(
        f"{name} has no coordinate system {wanted!r}; it has {sorted(sdata.coordinate_systems)}: {each}, or rename it: "
        f"sdata.rename_coordinate_systems({{{sorted(known)[0]!r}: {wanted!r}}})"
    )


def _default_frame(sdata: SpatialData, region: str, name: str) -> str:
    # Readers of Visium name the frame of the full image after the data set, so two sections share no name.
    known = list(frames_of(sdata[region]))
    measured = [key for key in known if key != _keys.ALIGNED] or known
    unmoved = [key for key in measured if np.allclose(matrix_of(sdata[region], key), np.eye(3))]
    for found in ([key for key in measured if key == GLOBAL], measured, unmoved):
        if len(found) == 1:
            return found[0]
    raise KeyError(
        f"{region!r} of {name} is in the coordinate systems {sorted(known)}, of which none is {GLOBAL!r}; choose one "
        "with coordinate_system= (of several sections, one each: coordinate_system=[…]), or rename it: "
        f"sdata.rename_coordinate_systems({{{sorted(measured)[0]!r}: {GLOBAL!r}}})"
    )


# ---------------------------------------------------------------- H&E


def read_slide(
    sdata: SpatialData,
    xy: FloatArray,
    name: str,
    frame: str,
    image_key: str | None,
    library: str | None = None,
    region: str | None = None,
) -> tuple[SlideImage | None, str]:
    """The H&E under the spots, to be read lazily, and why there is one that is not used.

    Without `image_key` it is the one in the frame with colours under the spots; of several those that are called after
    the region or library of the section go first.

    Returns
    -------
    The image, or None; and the reason, empty where an image is used or where there is none.

    Raises
    ------
    KeyError, ValueError
        No such image; several that cannot be told apart; or the one named cannot be used.

    Warns
    -----
    UserWarning
        There are images that were not named, and none can be used.
    """
    try:
        if image_key is not None:
            return _named(sdata, xy, name, frame, image_key), ""
        key = slide_key(sdata, xy, name, frame, library, region)
        return (None if key is None else slide_of(sdata.images[key], key, name, frame)), ""
    except UnusableImage as fault:
        return None, unusable(fault, name, named=image_key is not None)


def _named(sdata: SpatialData, xy: FloatArray, name: str, frame: str, image_key: str) -> SlideImage:
    if image_key not in sdata.images:
        raise KeyError(f"{name} has no image {image_key!r}; its images are {sorted(sdata.images)}")
    known = frames_of(sdata.images[image_key])
    if frame not in known:
        raise KeyError(
            f"image {image_key!r} of {name} is not in coordinate system {frame!r}; it is in {sorted(known)}: add a "
            "transformation with spatialdata.transformations.set_transformation, or leave it out"
        )
    return check_slide(sdata.images[image_key], image_key, xy, name, frame)


def slide_key(
    sdata: SpatialData, xy: FloatArray, name: str, frame: str, library: str | None = None, region: str | None = None
) -> str | None:
    """Name of the image that is the H&E of a section; None where it has none.

    Raises
    ------
    UnusableImage
        There are images, and none can be used.
    ValueError
        There are several that cannot be told apart.
    """
    own = {one for one in (region, library) if one is not None}
    candidates = called_after(sdata.images, own, _other_regions(sdata, region))
    usable, faults = {}, {}
    for key in candidates:
        image = sdata.images[key]
        try:
            if frame not in frames_of(image):
                raise UnusableImage(
                    f"image {key!r} is not in coordinate system {frame!r}; it is in {sorted(frames_of(image))}: add a "
                    "transformation with spatialdata.transformations.set_transformation"
                )
            usable[key] = check_slide(image, key, xy, name, frame, by_name=True)
        except UnusableImage as fault:
            faults[key] = str(fault)
    if not usable:
        if faults:
            raise UnusableImage("; ".join(faults.values()))
        return None
    key = finest_of(usable, name)
    if faults:
        _logging.warning(f"{name}: image {key!r} is used, others are not: {'; '.join(faults.values())}")
    return key


def called_after(keys: Collection[str], own: Collection[str], others: Collection[str]) -> list[str]:
    """Names of elements that are a section's by its names; where none is, those that are no other section's either."""
    whose = {key: is_own(key, own, others) for key in keys}
    return [key for key in keys if whose[key]] or [key for key in keys if whose[key] is None]


def is_own(key: str, own: Collection[str], others: Collection[str]) -> bool | None:
    """Whether an element is called after a section, or else after another one; None where its name does not tell.

    It is by the longest name of either that it holds. Words that only the names of one side have count as names:
    "S1_he" goes with "S1_spots" rather than "S2_spots".
    """
    sides = [set(own), set(others)]
    words = [{word for name in side for word in WORD.findall(name)} for side in sides]
    if others:
        sides = [sides[0] | (words[0] - words[1]), sides[1] | (words[1] - words[0])]
    longest = [max((len(name) for name in side if _holds(key, name)), default=0) for side in sides]
    return None if longest[0] == longest[1] else longest[0] > longest[1]


def _holds(key: str, name: str) -> bool:
    """Whether a name holds another as a whole: "S1_hires" holds "S1", "S10_hires" does not."""
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(name)}(?![0-9A-Za-z])", key) is not None


def _other_regions(sdata: SpatialData, region: str | None) -> set[str]:
    """Regions of tables that lie beside that of a section: neither holds the name of the other."""
    if region is None:
        return set()
    found: set[str] = set()
    for table in sdata.tables.values():
        attrs: Mapping[str, Any] = table.uns.get("spatialdata_attrs", {})
        regions = attrs.get("region", [])
        found |= {regions} if isinstance(regions, str) else {str(one) for one in regions}
    return {one for one in found if not (_holds(one, region) or _holds(region, one))}
