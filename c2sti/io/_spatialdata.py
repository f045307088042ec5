"""Which table, rows, coordinate system and image of a SpatialData are a section, and where its instances lie."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging
from c2sti._types import FloatArray, Lattice
from c2sti.io._histology import HEImage, UnusableImage, check_colours, check_under, histology_on, on_image, on_white
from c2sti.io._places import library_rows, obs_column

if TYPE_CHECKING:  # half a second that a caller with AnnData should not pay
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

    from c2sti.io._read import Source

GLOBAL = "global"
WORD = re.compile("[0-9A-Za-z]+")  # of the name of an element
BLOCK = 2048  # pixels along a side of a label image that are held at a time
COLOURS = {"r": "r", "g": "g", "b": "b", "a": "a", "red": "r", "green": "g", "blue": "b", "alpha": "a"}
SAME_PLACE, SAME_COLOUR = 0.01, 0.05  # of the diagonal; of white: one image at two resolutions differs by less
LOOKS, LOOK = 9, 16  # spots at which the numbers of an image are looked at; pixels on each side of one
CHOOSE = "choose one with {0}= (of several sections, one each: {0}=[…])"


def read_table(source: Source, sdata: SpatialData) -> tuple[AnnData, NDArray[np.intp], FloatArray, str, str]:
    """The table of a section, its (n,) rows of it, their (n, 2) coordinates, the coordinate system, and the region.

    `sdata` is the container of the section, or a copy of that. KeyError or ValueError where there is no such table,
    region or coordinate system, or there are several; the message lists them.
    """
    table, rows, region, instances = _region(source, sdata)
    frame = _frame(source, sdata, region)
    if frame not in (source.coordinate_system, GLOBAL):
        _logging.info(f"{source.name} is read in coordinate system {frame!r}, that of {region!r}")
    return table, rows, _places(sdata[region], frame, instances, region, source.name), frame, region


def frame_of(source: Source, sdata: SpatialData) -> str:
    """The coordinate system in which a section is read; errors as in :func:`read_table`."""
    return _frame(source, sdata, region_of(source, sdata))


def region_of(source: Source, sdata: SpatialData) -> str:
    """The element in which a section lies; errors as in :func:`read_table`."""
    return _region(source, sdata)[2]


def table_of(sdata: SpatialData, name: str, table_key: str | None) -> str:
    """Key of the table that is meant: the one named, else the only one that annotates a region."""
    if not sdata.tables:
        raise ValueError(
            f"{name} has no table; expression is read from one that annotates its spots, bins or cells: "
            "sdata.tables['table'] = spatialdata.models.TableModel.parse(adata, region=…, region_key=…, instance_key=…)"
        )
    if table_key is not None and table_key not in sdata.tables:
        raise KeyError(
            f"{name} has no table {table_key!r}; its tables are {sorted(sdata.tables)}: {CHOOSE.format('table_key')}"
        )
    annotating = [key for key, table in sdata.tables.items() if "spatialdata_attrs" in table.uns]
    keys = [table_key] if table_key is not None else annotating or list(sdata.tables)
    if len(keys) != 1:
        raise ValueError(f"{name} has the tables {sorted(keys)}; {CHOOSE.format('table_key')}")
    return keys[0]


def frames_of(element: Any) -> dict[str, Any]:
    """Transformations of an element, by coordinate system."""
    from spatialdata.transformations import get_transformation  # noqa: PLC0415

    return dict(get_transformation(element, get_all=True))


def matrix_of(element: Any, frame: str) -> FloatArray:
    """(3, 3) from homogeneous (x, y, 1) of an element to a coordinate system."""
    return np.asarray(frames_of(element)[frame].to_affine_matrix(("x", "y"), ("x", "y")), dtype=np.float64)


def levels_of(element: DataArray | DataTree) -> tuple[DataArray, ...]:
    """Resolutions of an image, fine to coarse."""
    from xarray import DataArray  # noqa: PLC0415

    if isinstance(element, DataArray):
        return (element,)
    return tuple(next(iter(scale.ds.data_vars.values())) for scale in element.children.values())


# ---------------------------------------------------------------- table, region, coordinate system


def _region(source: Source, sdata: SpatialData) -> tuple[AnnData, NDArray[np.intp], str, pd.Index]:
    """The table of a section, its (n,) rows of it, the element that they annotate, and the (n,) instances of these."""
    from spatialdata.models import get_table_keys  # noqa: PLC0415

    name = source.name
    table = sdata.tables[table_of(sdata, name, source.table_key)]
    rows = library_rows(table, source.library_key, source.library)
    if "spatialdata_attrs" not in table.uns:
        raise ValueError(
            f"the table of {name} annotates no region; say which with sdata.set_table_annotates_spatialelement(…)"
        )
    _, region_key, instance_key = get_table_keys(table)
    regions = sorted(obs_column(table, region_key).iloc[rows].astype(str).unique())
    if len(regions) != 1:
        raise ValueError(
            f"the table of {name} annotates {regions}; a section is one region: name each by library_key="
            f"{region_key!r}, or take one, with its images, by sdata.subset([…])"
        )
    elements = sorted(key for kind, key, _ in sdata.gen_elements() if kind != "tables")
    if regions[0] not in elements:
        raise KeyError(
            f"the table of {name} annotates {regions[0]!r}, which is not there; the elements are {elements}: read it "
            "as well, or annotate another with sdata.set_table_annotates_spatialelement(…)"
        )
    return table, rows, regions[0], pd.Index(obs_column(table, instance_key).iloc[rows].to_numpy())


def _frame(source: Source, sdata: SpatialData, region: str) -> str:
    """The coordinate system that is named; by default "global", else the only one of the region that it can be."""
    name, wanted = source.name, source.coordinate_system
    known = list(frames_of(sdata[region]))
    if wanted in known:
        return wanted
    # Readers of Visium name the frame of the full image after the data set, so two sections share no name.
    measured = [key for key in known if key != _keys.ALIGNED] or known
    if wanted in (None, GLOBAL):
        unmoved = [key for key in measured if np.allclose(matrix_of(sdata[region], key), np.eye(3))]
        for found in ([key for key in measured if key == GLOBAL], measured, unmoved):
            if len(found) == 1:
                return found[0]
    raise KeyError(
        f"{region!r} of {name} is in the coordinate systems {sorted(known)} and not in {wanted or GLOBAL!r}; "
        f"{CHOOSE.format('coordinate_system')}, or rename it: "
        f"sdata.rename_coordinate_systems({{{sorted(measured)[0]!r}: {wanted or GLOBAL!r}}})"
    )


# ---------------------------------------------------------------- instances


def _places(element: Any, frame: str, instances: pd.Index, region: str, name: str) -> FloatArray:
    """(n, 2) where the instances that the rows of a table name lie in a coordinate system.

    Text and numbers are matched as text. An instance that the element lists twice at one place is one.
    """
    centroids = _centroids(element)
    if not instances.isin(centroids.index).all():
        centroids.index, instances = _texts(centroids.index), _texts(instances)
    if centroids.index.has_duplicates:
        centroids = centroids[~centroids.reset_index(names="instance").duplicated().to_numpy()]
    repeated = instances.isin(centroids.index[centroids.index.duplicated()])
    if repeated.any():
        raise ValueError(
            f"the index of region {region!r} of {name} is not unique: {int(repeated.sum())} of {len(instances)} rows "
            f"of the table name an instance that lies at several places (first: {instances[repeated][0]}); number them "
            f"anew in both, or keep the first of each: sdata[{region!r}] = sdata[{region!r}][~sdata[{region!r}].index."
            "duplicated()]"
        )
    centroids = centroids[~centroids.index.duplicated()]
    found = centroids.index.get_indexer(instances)
    lacking = found < 0
    if lacking.any():
        raise ValueError(
            f"{int(lacking.sum())} of {len(instances)} rows of the table of {name} are not in its region {region!r} "
            f"(first: instance {instances[lacking][0]!r}; the region holds {centroids.index[:3].tolist()} …); give "
            f"both the same names, or keep the others: spatialdata.match_table_to_element(sdata, {region!r})"
        )
    matrix = matrix_of(element, frame)
    return centroids.to_numpy(dtype=np.float64)[found] @ matrix[:2, :2].T + matrix[:2, 2]


def _texts(values: pd.Index) -> pd.Index:
    """The same as text; whole numbers without a fraction."""
    if pd.api.types.is_float_dtype(values) and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    return values.astype(str)


def _centroids(element: Any) -> pd.DataFrame:
    """(n, 2) x and y of each instance of an element, by instance; geometries in two dimensions or three."""
    from xarray import DataArray, DataTree  # noqa: PLC0415

    if isinstance(element, DataArray | DataTree):
        return _label_centroids(levels_of(element)[0])
    if hasattr(element, "geometry"):
        middle = element.geometry.centroid
        return pd.DataFrame({"x": middle.x.to_numpy(), "y": middle.y.to_numpy()}, index=element.index)
    return element[["x", "y"]].compute()


def _label_centroids(labels: DataArray) -> pd.DataFrame:
    """Mean x and y, in pixels, of each label but 0; block by block, since a label image may be larger than memory."""
    labels, parts = labels.transpose("y", "x"), []
    for top in range(0, labels.sizes["y"], BLOCK):
        for left in range(0, labels.sizes["x"], BLOCK):
            block = np.asarray(labels[top : top + BLOCK, left : left + BLOCK].data)
            row, column = np.nonzero(block)
            found, index = np.unique(block[row, column], return_inverse=True)
            n = np.bincount(index, minlength=len(found))
            x = np.bincount(index, column, minlength=len(found)) + n * (left + 0.5)
            y = np.bincount(index, row, minlength=len(found)) + n * (top + 0.5)
            parts.append(pd.DataFrame({"x": x, "y": y, "n": n}, index=found))
    total = pd.concat(parts).groupby(level=0).sum()
    return total[["x", "y"]].div(total["n"], axis=0)


# ---------------------------------------------------------------- H&E


def read_slide(source: Source, sdata: SpatialData, xy: FloatArray, frame: str, region: str) -> HEImage | None:
    """The H&E under (n, 2) spots, to be read lazily: the one named, else that of :func:`slide_key`; errors as there."""
    name, image_key = source.name, source.image_key
    if image_key is None:
        key = slide_key(source, sdata, xy, frame, region)
        return None if key is None else _slide(sdata.images[key], key, name, frame)
    if image_key not in sdata.images:
        raise KeyError(f"{name} has no image {image_key!r}; its images are {sorted(sdata.images)}")
    return _checked_slide(sdata.images[image_key], image_key, xy, name, frame)


def slide_key(source: Source, sdata: SpatialData, xy: FloatArray, frame: str, region: str) -> str | None:
    """Name of the image in a coordinate system with colours under the spots of a section; None where it has none.

    Of several those that are called after the region or library of the section go first. UnusableImage where there are
    images, and none can be used; ValueError where several can, and they are not resolutions of one.
    """
    name, names = source.name, {one for one in (region, source.library) if one is not None}
    whose = {key: is_own(key, names, _other_regions(sdata, region)) for key in sdata.images}
    usable, faults = {}, []
    for key in [key for key in whose if whose[key]] or [key for key in whose if whose[key] is None]:
        try:
            usable[key] = _checked_slide(sdata.images[key], key, xy, name, frame, by_name=True)
        except UnusableImage as fault:
            faults.append(str(fault))
    if not usable and faults:
        raise UnusableImage("; ".join(faults))
    if not usable:
        return None
    key = _finest(usable, name)
    if faults:
        _logging.warning(f"{name}: image {key!r} is used, others are not: {'; '.join(faults)}")
    return key


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


def _other_regions(sdata: SpatialData, region: str) -> set[str]:
    """Regions of tables that lie beside that of a section: neither holds the name of the other."""
    attrs = [table.uns.get("spatialdata_attrs", {}) for table in sdata.tables.values()]
    found = {str(one) for each in attrs for one in np.atleast_1d(each.get("region", []))}
    return {one for one in found if not (_holds(one, region) or _holds(region, one))}


def _slide(element: DataArray | DataTree, key: str, name: str, frame: str) -> HEImage:
    """An image in a coordinate system: red, green and blue, its alpha laid on white, of which nothing is read yet."""
    levels = tuple(_colours(level) for level in levels_of(element))
    return HEImage(levels, np.linalg.inv(matrix_of(element, frame)), f"image {key!r} of {name}")


def _colours(level: DataArray) -> Any:
    """(h, w, 3) dask array of red, green and blue, in this order where the channels are named."""
    import dask.array as da  # noqa: PLC0415

    letters = [COLOURS.get(c.lower(), "") for c in _channels(level)]
    if sorted(letters) in (sorted("rgb"), sorted("rgba")):
        level = level.isel(c=[letters.index(letter) for letter in "rgba" if letter in letters])
    pixels = da.asarray(level.transpose("y", "x", "c").data)
    if pixels.shape[2] != 4:
        return pixels
    pixels = pixels.rechunk({2: -1})
    return pixels.map_blocks(on_white, dtype=pixels.dtype, chunks=(*pixels.chunks[:2], (3,)))


def _channels(image: DataArray) -> list[str]:
    return [str(c) for c in image.coords["c"].values] if "c" in image.coords else []


def _checked_slide(
    element: DataArray | DataTree, key: str, xy: FloatArray, name: str, frame: str, *, by_name: bool = False
) -> HEImage:
    """The same; UnusableImage where it cannot be the H&E under (n, 2) spots, or `by_name` a channel is a stain."""
    image, known = levels_of(element)[0], sorted(frames_of(element))
    if frame not in known:
        raise UnusableImage(
            f"image {key!r} is not in coordinate system {frame!r}; it is in {known}: add a transformation with "
            "spatialdata.transformations.set_transformation, or leave it out"
        )
    channels = _channels(image)
    stained = by_name and not all(c.lower() in COLOURS or c.isdigit() for c in channels)
    if set(image.dims) != {"c", "y", "x"} or image.sizes["c"] not in (3, 4) or stained:
        raise UnusableImage(
            f"image {key!r} has {image.sizes.get('c', 0)} channel(s) [{', '.join(channels)}] of {image.dtype} along "
            f"{image.dims}; H&E has three along c, y and x, numbered or called r, g and b: parse image.isel(c=[…]) "
            "under a new name, or, where these are its colours, name it with image_key="
        )
    slide = _slide(element, key, name, frame)
    check_under(slide, xy)
    if image.dtype != np.uint8:  # of others what lies around a few spots is looked at
        inside = on_image(xy, slide.levels[0].shape, slide.to_pixel)
        for column, row in inside[:: max(len(inside) // LOOKS, 1)].astype(int):
            rows, columns = (slice(max(at - LOOK, 0), at + LOOK) for at in (row, column))
            check_colours(np.asarray(slide.levels[0][rows, columns]), slide.name)
    return slide


def _finest(slides: Mapping[str, HEImage], name: str) -> str:
    """Name of the finest of several resolutions of one image, as readers of Visium give them."""
    keys = sorted(slides)
    finest = max(keys, key=lambda key: slides[key].scale)
    if not all(_same_image(slides[finest], slides[key]) for key in keys if key != finest):
        raise ValueError(f"{name} has the images {keys}; {CHOOSE.format('image_key')}")
    if len(keys) > 1:
        _logging.info(f"{name}: of the resolutions {keys} of one image {finest!r} is used")
    return finest


def _same_image(one: HEImage, other: HEImage) -> bool:
    """Whether two images show the same thing in the same place, the first more finely than the second."""
    first, second = (_corners(slide) for slide in (one, other))
    diagonal = float(np.linalg.norm(np.ptp(first, axis=0)))
    if one.scale < 1.05 * other.scale or np.abs(first - second).max() > SAME_PLACE * diagonal:
        return False
    pitch = diagonal / 24
    x, y = (first.min(axis=0) + pitch / 2).tolist()
    width, height = np.maximum(np.ptp(first, axis=0) // pitch, 1).astype(int).tolist()
    lattice = Lattice((x, y), pitch, (height, width))
    return bool(np.nanmean(np.abs(histology_on(one, lattice) - histology_on(other, lattice))) < SAME_COLOUR)


def _corners(slide: HEImage) -> FloatArray:
    """(4, 2) corners of the image in the coordinate system."""
    height, width = slide.levels[0].shape[:2]
    pixel = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], dtype=np.float64)
    return (pixel @ np.linalg.inv(slide.to_pixel).T)[:, :2]
