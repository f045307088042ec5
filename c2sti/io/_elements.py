"""Elements of a SpatialData as arrays: images, transformations, instances, and which image can be the H&E."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from c2sti import _logging
from c2sti._types import FloatArray, Lattice
from c2sti.io._histology import BRIGHTEST, LEAST_ON_IMAGE, SlideImage, histology_on, on_white
from c2sti.io._images import UnusableImage

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

BLOCK = 2048  # pixels along a side of a label image that are held at a time


def levels_of(element: DataArray | DataTree) -> tuple[DataArray, ...]:
    """Fine to coarse."""
    from xarray import DataArray  # noqa: PLC0415

    if isinstance(element, DataArray):
        return (element,)
    return tuple(next(iter(scale.ds.data_vars.values())) for scale in element.children.values())


def frames_of(element: Any) -> dict[str, Any]:
    """Transformations of an element, by coordinate system."""
    from spatialdata.transformations import get_transformation  # noqa: PLC0415

    return dict(get_transformation(element, get_all=True))


def matrix_of(element: Any, frame: str) -> FloatArray:
    """(3, 3) from homogeneous (x, y, 1) of an element to the frame."""
    return np.asarray(frames_of(element)[frame].to_affine_matrix(("x", "y"), ("x", "y")), dtype=np.float64)


def places_of(element: Any, frame: str, instances: pd.Index, region: str, name: str) -> FloatArray:
    """(n, 2) where the instances that the rows of a table name lie in the frame.

    Text and numbers are matched as text. An instance that the element lists twice at one place is one.

    Raises
    ------
    ValueError
        The element lacks some, or holds one at several places.
    """
    centroids = _centroids(element, frame)
    if centroids.index.has_duplicates:
        centroids = centroids[~centroids.reset_index(names="instance").duplicated().to_numpy()]
    found, repeated = _match(centroids.index, instances)
    if repeated.any():
        raise ValueError(
            f"the index of region {region!r} of {name} is not unique: {int(repeated.sum())} of {len(instances)} rows "
            f"of the table name an instance that lies at several places (first: {instances[repeated][0]}); number them "
            f"anew in both, or keep the first of each: sdata[{region!r}] = sdata[{region!r}][~sdata[{region!r}].index."
            "duplicated()]"
        )
    lacking = found < 0
    if lacking.any():
        raise ValueError(
            f"{int(lacking.sum())} of {len(instances)} rows of the table of {name} are not in its region {region!r} "
            f"(first: instance {instances[lacking][0]}); {_fix(centroids.index, instances, lacking, region)}"
        )
    return centroids.to_numpy(dtype=np.float64)[found]


def _match(index: pd.Index, wanted: pd.Index) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(n,) place of each wanted value in an index, -1 where it is not there, and whether it is there more than once."""
    found, repeated = _find(index, wanted)
    if (found < 0).any():
        as_text = _find(_texts(index), _texts(wanted))
        if (as_text[0] >= 0).sum() > (found >= 0).sum():
            return as_text
    return found, repeated


def _find(index: pd.Index, wanted: pd.Index) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    first = np.flatnonzero(~index.duplicated())
    at = index[first].get_indexer(wanted)
    found = np.where(at >= 0, first[at], -1)
    return found, (found >= 0) & index.duplicated(keep=False)[found]


def _texts(values: pd.Index) -> pd.Index:
    """The same as text; whole numbers without a fraction."""
    if pd.api.types.is_float_dtype(values) and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    return values.astype(str)


def _fix(index: pd.Index, instances: pd.Index, lacking: NDArray[np.bool_], region: str) -> str:
    if lacking.all() and len(index):
        return (
            f"the region holds {_kind(index)} such as {index[0]}, the table {_kind(instances)} such as "
            f"{instances[0]}: give both the same names"
        )
    return f"keep those that are: spatialdata.match_table_to_element(sdata, {region!r})"


def _kind(values: pd.Index) -> str:
    return "numbers" if pd.api.types.is_numeric_dtype(values) else "text"


def _centroids(element: Any, frame: str) -> pd.DataFrame:
    """(n, 2) x and y of each instance of an element, by instance; geometries in two dimensions or three."""
    from xarray import DataArray, DataTree  # noqa: PLC0415

    if isinstance(element, DataArray | DataTree):
        centres = _label_centroids(levels_of(element)[0])
    elif hasattr(element, "geometry"):
        middle = element.geometry.centroid
        centres = pd.DataFrame({"x": middle.x.to_numpy(), "y": middle.y.to_numpy()}, index=element.index)
    else:
        centres = element[["x", "y"]].compute()
    matrix = matrix_of(element, frame)
    moved = centres.to_numpy(dtype=np.float64) @ matrix[:2, :2].T + matrix[:2, 2]
    return pd.DataFrame(moved, index=centres.index, columns=["x", "y"])


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


COLOURS = {"r": "r", "g": "g", "b": "b", "a": "a", "red": "r", "green": "g", "blue": "b", "alpha": "a"}
SAME_PLACE, SAME_COLOUR = 0.01, 0.05  # of the diagonal; of white: one image at two resolutions differs by less
PARSE = ", then Image2DModel.parse(…) with its transformations, under a new name"
LOOKS, LOOK = 9, 16  # spots at which the numbers of an image are looked at; pixels on each side of one


def slide_of(element: DataArray | DataTree, key: str, name: str, frame: str) -> SlideImage:
    """An image in the frame: red, green and blue, its alpha laid on white, of which nothing is read yet."""
    levels = tuple(_colours(level) for level in levels_of(element))
    return SlideImage(levels, np.linalg.inv(matrix_of(element, frame)), f"image {key!r} of {name}")


def check_slide(
    element: DataArray | DataTree, key: str, xy: FloatArray, name: str, frame: str, *, by_name: bool = False
) -> SlideImage:
    """The same, if it can be the H&E under (n, 2) spots.

    Parameters
    ----------
    element, key, name, frame
        The image, what it is called, the section, and the frame.
    xy
        Spots in the frame.
    by_name
        Whether channels that are called after stains are refused.

    Raises
    ------
    UnusableImage
        It cannot; the message says why, and what the fix is.
    """
    image = levels_of(element)[0]
    if set(image.dims) != {"c", "y", "x"}:
        raise UnusableImage(f"image {key!r} has the axes {image.dims}; H&E has c, y and x")
    found = f"image {key!r} has {_found(image)}; H&E has three of uint8, or of numbers in [0, 1]"
    if by_name and not all(c in COLOURS or c.isdigit() for c in _channels(image)):
        raise UnusableImage(f"{found}; channels called after stains are passed over, unless image_key= names the image")
    n = image.sizes["c"]
    if n not in (3, 4):
        fix = "a grey image can be repeated: image.isel(c=[0, 0, 0])" if n == 1 else "choose three: image.isel(c=[…])"
        raise UnusableImage(f"{found}; {fix}{PARSE}")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        bits = 8 * (image.dtype.itemsize - 1)
        raise UnusableImage(
            f"{found}; bring it to 8 bits, (image // {2**bits}).astype('uint8') where it uses its whole range{PARSE}"
        )
    slide = slide_of(element, key, name, frame)
    _check_covers(slide, key, xy, frame)
    _check_range(slide, key, xy)
    return slide


def _found(image: DataArray) -> str:
    return f"{image.sizes.get('c', 0)} channel(s) [{', '.join(_channels(image, lower=False))}] of {image.dtype}"


def _channels(image: DataArray, *, lower: bool = True) -> list[str]:
    names = [str(c) for c in image.coords["c"].values] if "c" in image.coords else []
    return [name.lower() for name in names] if lower else names


def _colours(level: DataArray) -> DataArray:
    """Red, green and blue of an image, in this order where its channels are named; alpha laid on white, lazily."""
    import xarray as xr  # noqa: PLC0415

    letters = [COLOURS.get(c, "") for c in _channels(level)]
    if sorted(letters) in (sorted("rgb"), sorted("rgba")):
        level = level.isel(c=[letters.index(letter) for letter in "rgba" if letter in letters])
    if level.sizes.get("c") != 4:
        return level
    level = level.drop_vars("c", errors="ignore")
    return xr.apply_ufunc(
        on_white,
        level.chunk({"c": -1}) if hasattr(level.data, "dask") else level,
        input_core_dims=[["c"]],
        output_core_dims=[["c"]],
        exclude_dims={"c"},
        dask="parallelized",
        output_dtypes=[level.dtype],
        dask_gufunc_kwargs={"output_sizes": {"c": 3}},
    ).transpose("c", "y", "x")


def _inside(slide: SlideImage, xy: FloatArray) -> FloatArray:
    """(m, 2) column and row of the spots that lie on the image."""
    pixel = xy @ slide.to_pixel[:2, :2].T + slide.to_pixel[:2, 2]
    return pixel[((pixel >= 0) & (pixel < (slide.levels[0].sizes["x"], slide.levels[0].sizes["y"]))).all(axis=1)]


def _check_covers(slide: SlideImage, key: str, xy: FloatArray, frame: str) -> None:
    share = len(_inside(slide, xy)) / len(xy)
    if share < LEAST_ON_IMAGE:
        low, high = (_corners(slide).round(1).min(axis=0).tolist(), _corners(slide).round(1).max(axis=0).tolist())
        raise UnusableImage(
            f"image {key!r} does not cover the tissue: {1 - share:.0%} of the spots lie beside it (in {frame!r} it "
            f"reaches from {low} to {high}, the spots from {xy.min(axis=0).round(1).tolist()} to "
            f"{xy.max(axis=0).round(1).tolist()}); correct its transformation, or name another with image_key="
        )


def _check_range(slide: SlideImage, key: str, xy: FloatArray) -> None:
    """Whether floats are in [0, 1], by what lies around a few spots."""
    level = slide.levels[0]
    if level.dtype == np.uint8:
        return
    inside = _inside(slide, xy)
    for column, row in inside[:: max(len(inside) // LOOKS, 1)].astype(int):
        around = {axis: slice(max(at - LOOK, 0), at + LOOK) for axis, at in (("x", column), ("y", row))}
        values = np.asarray(level.isel(around).data)
        if not (values.min() >= 1 - BRIGHTEST and values.max() <= BRIGHTEST):
            raise UnusableImage(
                f"image {key!r} holds {level.dtype} from {values.min():.4g} to {values.max():.4g}; colours are uint8, "
                f"or numbers in [0, 1]: image.astype('uint8') where they reach from 0 to 255{PARSE}"
            )


# ---------------------------------------------------------------- several resolutions


def finest_of(slides: Mapping[str, SlideImage], name: str) -> str:
    """Name of the finest of several resolutions of one image, as readers of Visium give them.

    Raises
    ------
    ValueError
        They are not of one image.
    """
    keys = sorted(slides)
    finest = max(keys, key=lambda key: slides[key].scale)
    if not all(_same_image(slides[finest], slides[key]) for key in keys if key != finest):
        raise ValueError(
            f"{name} has the images {keys}; choose one with image_key= (of several sections, one each: image_key=[…])"
        )
    if len(keys) > 1:
        _logging.info(f"{name}: of the resolutions {keys} of one image {finest!r} is used")
    return finest


def _same_image(one: SlideImage, other: SlideImage) -> bool:
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
    """(4, 2) corners of the image in the frame."""
    width, height = slide.levels[0].sizes["x"], slide.levels[0].sizes["y"]
    pixel = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], dtype=np.float64)
    return (pixel @ np.linalg.inv(slide.to_pixel).T)[:, :2]
