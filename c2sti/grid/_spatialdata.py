"""SpatialData → arrays: which table, which frame, where its spots lie, and which image is the H&E.

What the readers of spatialdata-io make is read as it is: circles of Visium, squares of Visium HD, polygons, circles or
label images of cells. Nothing is guessed: where several tables or pictures would do, they are listed.

Centroids are mapped by the affine. SpatialData's own gridding (`rasterize`, `rasterize_bins`, `bounding_box_query`) is
off by half a pixel up to its version 0.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _log
from c2sti._types import FloatArray, Lattice
from c2sti.grid._histology import SlideImage, histology_on

if TYPE_CHECKING:  # half a second that a caller with AnnData should not pay
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

GLOBAL = "global"
COLOURS = {
    "r",
    "g",
    "b",
    "a",
    "red",
    "green",
    "blue",
    "alpha",
}  # and plain numbers: what channels of a photograph are called
BLOCK = 2048  # pixels along a side of a label image that are held at a time
SAME_PLACE, SAME_COLOUR = 0.01, 0.05  # of the diagonal; of white: one picture at two resolutions differs by less


def read_table(
    sdata: SpatialData, name: str, table_key: str | None, coordinate_system: str
) -> tuple[AnnData, FloatArray, str]:
    """The table of a section, the (n, 2) coordinates of its rows, and the coordinate system that they are in.

    Raises
    ------
    KeyError
        No such table, region or coordinate system; the message lists those that are there.
    ValueError
        No table, several, or one that annotates several regions.
    """
    table = sdata.tables[table_of(sdata, name, table_key)]
    region, instances = _region(sdata, table, name)
    frame = _frame(sdata, region, name, coordinate_system)
    centroids = _centroids(sdata[region], frame)
    rows = centroids.index.get_indexer(pd.Index(instances))
    if (rows < 0).any():
        raise ValueError(
            f"{(rows < 0).sum()} of {len(rows)} rows of the table of {name} are not in its region {region!r} (first: "
            f"instance {instances[rows < 0][0]}); keep those that are: spatialdata.match_table_to_element(sdata, "
            f"{region!r})"
        )
    return table, centroids.to_numpy(dtype=np.float64)[rows], frame


def table_of(sdata: SpatialData, name: str, table_key: str | None) -> str:
    """Key of the table that is meant."""
    if not sdata.tables:
        raise ValueError(
            f"{name} has no table; expression is read from one that annotates its spots, bins or cells (elements: "
            f"{sorted(element for _, element, _ in sdata.gen_elements())}): sdata.tables['table'] = "
            "spatialdata.models.TableModel.parse(adata, region=…, region_key=…, instance_key=…)"
        )
    if table_key is None and len(sdata.tables) != 1:
        raise ValueError(f"{name} has the tables {sorted(sdata.tables)}; choose one with table_key=")
    key = table_key if table_key is not None else next(iter(sdata.tables))
    if key not in sdata.tables:
        raise KeyError(f"{name} has no table {key!r}; its tables are {sorted(sdata.tables)}")
    return key


def frame_of(sdata: SpatialData, name: str, table_key: str | None, coordinate_system: str) -> str:
    """The coordinate system that is meant: the one named or, where there is no "global", the one of the spots."""
    table = sdata.tables[table_of(sdata, name, table_key)]
    return _frame(sdata, _region(sdata, table, name)[0], name, coordinate_system)


def _region(sdata: SpatialData, table: AnnData, name: str) -> tuple[str, np.ndarray]:
    """The element that a table annotates, and the (n,) instances of its rows."""
    from spatialdata.models import get_table_keys  # noqa: PLC0415

    if "spatialdata_attrs" not in table.uns:
        raise ValueError(
            f"the table of {name} annotates no region; say which with sdata.set_table_annotates_spatialelement(…)"
        )
    _, region_key, instance_key = get_table_keys(table)
    regions = sorted(table.obs[region_key].astype(str).unique())
    if len(regions) != 1:
        raise ValueError(
            f"the table of {name} annotates {regions}; a section is one region: take one, with its images, by "
            f"sdata.subset([{regions[0]!r}, …])"
        )
    elements = sorted(key for kind, key, _ in sdata.gen_elements() if kind != "tables")
    if regions[0] not in elements:
        raise KeyError(
            f"the table of {name} annotates {regions[0]!r}, which is not there; the elements are {elements}: read it "
            "as well, or annotate another with sdata.set_table_annotates_spatialelement(…)"
        )
    return regions[0], table.obs[instance_key].to_numpy()


def _frame(sdata: SpatialData, region: str, name: str, coordinate_system: str) -> str:
    from spatialdata.transformations import Identity  # noqa: PLC0415

    known = _frames(sdata[region])
    if coordinate_system in known:
        return coordinate_system
    # Readers of Visium name the frame of the full picture after the data set, so two sections share no name.
    own = [key for key, transformation in known.items() if isinstance(transformation, Identity)]
    if coordinate_system == GLOBAL and GLOBAL not in sdata.coordinate_systems and len(own) == 1:
        return own[0]
    if coordinate_system in sdata.coordinate_systems:
        raise KeyError(
            f"{region!r} of {name} is not in coordinate system {coordinate_system!r}; it is in {sorted(known)}"
        )
    raise KeyError(
        f"{name} has no coordinate system {coordinate_system!r}; it has {sorted(sdata.coordinate_systems)}: choose one "
        "with coordinate_system="
    )


def _centroids(element: Any, frame: str) -> pd.DataFrame:
    """(n, 2) x and y of each instance of an element, by instance."""
    import spatialdata as sd  # noqa: PLC0415
    from xarray import DataArray, DataTree  # noqa: PLC0415

    if isinstance(element, DataArray | DataTree):
        centres = _label_centroids(_levels(element)[0])
        matrix = _matrix(element, frame)
        moved = centres.to_numpy() @ matrix[:2, :2].T + matrix[:2, 2]
        return pd.DataFrame(moved, index=centres.index, columns=["x", "y"])
    return sd.get_centroids(element, coordinate_system=frame).compute()[["x", "y"]]


def _label_centroids(labels: DataArray) -> pd.DataFrame:
    """Mean x and y, in pixels, of each label but 0; block by block, since a label image may be larger than memory."""
    parts = []
    for rows in _blocks(labels.sizes["y"]):
        for columns in _blocks(labels.sizes["x"]):
            block = np.asarray(labels.transpose("y", "x")[rows, columns].data)
            row, column = np.nonzero(block)
            found, index = np.unique(block[row, column], return_inverse=True)
            x = np.bincount(index, column, minlength=len(found))
            y = np.bincount(index, row, minlength=len(found))
            n = np.bincount(index, minlength=len(found))
            parts.append(
                pd.DataFrame({"x": x + n * (columns.start + 0.5), "y": y + n * (rows.start + 0.5), "n": n}, index=found)
            )
    total = pd.concat(parts).groupby(level=0).sum()
    return total[["x", "y"]].div(total["n"], axis=0)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))


def _levels(element: DataArray | DataTree) -> tuple[DataArray, ...]:
    """Fine to coarse."""
    from xarray import DataArray  # noqa: PLC0415

    if isinstance(element, DataArray):
        return (element,)
    return tuple(next(iter(scale.ds.data_vars.values())) for scale in element.children.values())


def _frames(element: Any) -> dict[str, Any]:
    """Transformations of an element, by coordinate system."""
    from spatialdata.transformations import get_transformation  # noqa: PLC0415

    return dict(get_transformation(element, get_all=True))


def _matrix(element: Any, frame: str) -> FloatArray:
    """(3, 3) from homogeneous (x, y, 1) of an element to the frame."""
    return np.asarray(_frames(element)[frame].to_affine_matrix(("x", "y"), ("x", "y")), dtype=np.float64)


# ---------------------------------------------------------------- H&E


def read_slide(sdata: SpatialData, xy: FloatArray, name: str, frame: str, image_key: str | None) -> SlideImage | None:
    """The H&E under the spots, to be read lazily; None where there is none.

    Without `image_key` it is the one picture (three channels of 8 bits or of floats) in the frame. Images with named
    stains, one channel or many are fluorescence: they are passed over, and the log says so.

    Raises
    ------
    KeyError
        No such image, or it is not in the frame.
    ValueError
        Several pictures; one that is no H&E in its channels or type; or one that does not lie under the spots.
    """
    key = _chosen(sdata, name, frame) if image_key is None else _named(sdata, name, frame, image_key)
    if key is None:
        return None
    slide = _slide(sdata, key, name, frame)
    _check_covers(slide, xy, frame)
    return slide


def _named(sdata: SpatialData, name: str, frame: str, image_key: str) -> str:
    if image_key not in sdata.images:
        raise KeyError(f"{name} has no image {image_key!r}; its images are {sorted(sdata.images)}")
    known = _frames(sdata.images[image_key])
    if frame not in known:
        raise KeyError(
            f"image {image_key!r} of {name} is not in coordinate system {frame!r}; it is in {sorted(known)}: add a "
            "transformation with spatialdata.transformations.set_transformation, or leave it out"
        )
    fault = _fault(sdata.images[image_key])
    if fault:
        raise ValueError(f"image {image_key!r} of {name} {fault}")
    return image_key


def _chosen(sdata: SpatialData, name: str, frame: str) -> str | None:
    inside = {k: image for k, image in sdata.images.items() if frame in _frames(image)}
    if sdata.images and not inside:
        _log.warning(
            f"the images {sorted(sdata.images)} of {name} are not in coordinate system {frame!r} and are not used"
        )
    pictures = {key: image for key, image in inside.items() if _is_photograph(_levels(image)[0])}
    passed = {key: _found(_levels(image)[0]) for key, image in inside.items() if key not in pictures}
    if passed:
        listed = ", ".join(f"{key!r} ({found})" for key, found in passed.items())
        _log.warning(f"images of {name} that are no H&E are not used: {listed}")
    for key, image in pictures.items():
        fault = _fault(image)
        if fault:
            raise ValueError(f"image {key!r} of {name} {fault}")
    if len(pictures) > 1:
        return _one_of(sdata, sorted(pictures), name, frame)
    return next(iter(pictures), None)


def _is_photograph(image: DataArray) -> bool:
    """Three or four channels that are not called after stains."""
    channels = [str(c).lower() for c in image.coords["c"].values] if "c" in image.coords else []
    return image.sizes.get("c", 0) in (3, 4) and all(c in COLOURS or c.isdigit() for c in channels)


def _found(image: DataArray) -> str:
    channels = ", ".join(str(c) for c in image.coords["c"].values) if "c" in image.coords else ""
    return f"{image.sizes.get('c', 0)} channel(s) [{channels}] of {image.dtype}"


def _fault(element: DataArray | DataTree) -> str | None:
    """What keeps an image from being H&E, and how that is mended."""
    image = _levels(element)[0]
    if set(image.dims) != {"c", "y", "x"}:
        return f"has the axes {image.dims}; H&E has c, y and x"
    found = f"has {_found(image)}; H&E has three of uint8, or of numbers in [0, 1]"
    mend = {
        1: "a grey picture can be repeated: image.isel(c=[0, 0, 0])",
        4: "where the fourth is transparency, drop it: image.isel(c=[0, 1, 2])",
    }
    again = ", then Image2DModel.parse(…) with its transformations, under a new name"
    if image.sizes["c"] != 3:
        return f"{found}; {mend.get(image.sizes['c'], 'choose three: image.isel(c=[…])')}{again}"
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        bits = 8 * (image.dtype.itemsize - 1)
        return f"{found}; bring it to 8 bits, (image // {2**bits}).astype('uint8') where it uses its whole range{again}"
    return None


def _one_of(sdata: SpatialData, keys: list[str], name: str, frame: str) -> str:
    """The finest of several resolutions of one picture, as readers of Visium give them."""
    slides = {key: _slide(sdata, key, name, frame) for key in keys}
    finest = max(keys, key=lambda key: slides[key].scale)
    if not all(_same_picture(slides[finest], slides[key]) for key in keys if key != finest):
        raise ValueError(f"{name} has the pictures {keys}; choose one with image_key=")
    _log.info(f"{name}: of the resolutions {keys} of one picture {finest!r} is used")
    return finest


def _same_picture(one: SlideImage, other: SlideImage) -> bool:
    """Whether two images show the same thing in the same place, one more finely than the other."""
    first, second = (_corners(slide) for slide in (one, other))
    diagonal = float(np.linalg.norm(np.ptp(first, axis=0)))
    if one.scale < 1.05 * other.scale or np.abs(first - second).max() > SAME_PLACE * diagonal:
        return False
    pitch = diagonal / 24
    low = first.min(axis=0) + pitch / 2
    width, height = np.maximum(np.ptp(first, axis=0) // pitch, 1).astype(int).tolist()
    lattice = Lattice((float(low[0]), float(low[1])), pitch, (height, width))
    return bool(np.nanmean(np.abs(histology_on(one, lattice) - histology_on(other, lattice))) < SAME_COLOUR)


def _corners(slide: SlideImage) -> FloatArray:
    """(4, 2) corners of the picture in the frame."""
    width, height = slide.levels[0].sizes["x"], slide.levels[0].sizes["y"]
    pixel = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], dtype=np.float64)
    return (pixel @ np.linalg.inv(slide.to_pixel).T)[:, :2]


def _slide(sdata: SpatialData, key: str, name: str, frame: str) -> SlideImage:
    image = sdata.images[key]
    return SlideImage(_levels(image), np.linalg.inv(_matrix(image, frame)), f"image {key!r} of {name}")


def _check_covers(slide: SlideImage, xy: FloatArray, frame: str) -> None:
    width, height = slide.levels[0].sizes["x"], slide.levels[0].sizes["y"]
    pixel = xy @ slide.to_pixel[:2, :2].T + slide.to_pixel[:2, 2]
    inside = ((pixel >= 0) & (pixel < (width, height))).all(axis=1).mean()
    if inside < 0.5:
        low, high = (_corners(slide).round(1).min(axis=0).tolist(), _corners(slide).round(1).max(axis=0).tolist())
        raise ValueError(
            f"{slide.name} does not cover the tissue: {1 - inside:.0%} of the spots lie beside it (in {frame!r} it "
            f"reaches from {low} to {high}, the spots from {xy.min(axis=0).round(1).tolist()} to "
            f"{xy.max(axis=0).round(1).tolist()}); correct its transformation, or name another with image_key="
        )
