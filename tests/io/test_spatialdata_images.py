"""SpatialData as people bring it: names that differ, several sections in one object, odd instances, transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

import c2sti
from c2sti import io
from c2sti._types import Lattice
from c2sti.io import histology_on
from tests.io.test_images import BLUE, RED, SIDE, interpolate, section, shown, virtual

HALF = Scale([0.5, 0.5], axes=("x", "y"))
XY = np.asarray(section(0).obsm["spatial"])


def image(colour: Any, side: int = 160, **keys: Any) -> Any:
    pixels = np.empty((np.size(colour), side, side), np.uint8)
    pixels[:] = np.reshape(colour, (-1, 1, 1))
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), **keys)


def table(seed: int, region: str = "spots", instances: Any = None) -> AnnData:
    adata = section(seed)
    adata.obs["region"] = pd.Categorical([region] * adata.n_obs)
    adata.obs["instance"] = np.arange(adata.n_obs) if instances is None else instances
    return TableModel.parse(adata, region=region, region_key="region", instance_key="instance")


def shapes(xy: np.ndarray = XY, index: Any = None, **keys: Any) -> Any:
    return ShapesModel.parse(xy, geometry=0, radius=3.0, index=np.arange(len(xy)) if index is None else index, **keys)


def slide(seed: int, frames: dict[str, Any] | None = None, **images: Any) -> SpatialData:
    return SpatialData(shapes={"spots": shapes(transformations=frames)}, images=images, tables={"table": table(seed)})


# ---------------------------------------------------------------- names that differ between sections


def test_the_only_frame_of_each_section_is_taken() -> None:
    whole = sd.concatenate({"s1": slide(0, {"global": HALF}), "s2": slide(1, {"global": HALF})})
    concatenated = [whole.subset([f"spots-{k}", f"table-{k}"]) for k in ("s1", "s2")]
    legacy = [slide(i, {f"L{i}_hires": HALF}) for i in (0, 1)]
    for pair in (concatenated, legacy):
        assert interpolate(*pair).uns["c2sti"]["lattice"]["pitch"] == pytest.approx(5.0)
    with pytest.raises(KeyError, match=r"slice_b is in .*not in 'L0_.*rename_coordinate_systems\({'L1_hires': 'L0_"):
        interpolate(*legacy, coordinate_system="L0_hires")
    assert interpolate(*legacy, coordinate_system=["L0_hires", "L1_hires"]).n_obs > 0


def test_a_full_image_in_another_frame_is_said_not_to_be_used() -> None:
    pair = [slide(i, {f"S{i}": Identity()}, full=image(RED)) for i in (0, 1)]  # Visium HD of spatialdata-io 0.2
    with pytest.warns(UserWarning, match="image 'full' is not in coordinate system 'S.'; it is in .*'global'") as told:
        assert virtual(interpolate(*pair, coordinate_system="global")) == []
    assert len(told) == 2


def test_the_frame_that_is_not_scaled_is_taken() -> None:
    pair = [slide(i, {f"S{i}": Identity(), f"S{i}_hires": HALF}) for i in (0, 1)]
    assert interpolate(*pair).uns["c2sti"]["lattice"]["pitch"] == pytest.approx(10.0)
    c2sti.pp.align(*pair)
    c2sti.pp.align(*pair)  # the frame that the first one added is not one of the spots' own
    assert "spatial_aligned" in pair[1].coordinate_systems


def test_tables_of_different_names() -> None:
    pair = [slide(0), slide(1)]
    for i, sdata in enumerate(pair):
        sdata.tables[f"t{i}"] = sdata.tables.pop("table")
    assert interpolate(*pair).n_obs > 0
    with pytest.raises(KeyError, match=r"slice_b has no table 't0'; its tables are \['t1'\].*table_key=\[…\]"):
        interpolate(*pair, table_key="t0")
    assert interpolate(*pair, table_key=["t0", "t1"]).n_obs > 0
    pair[0].tables["notes"] = AnnData(np.ones((2, 2)))  # annotates nothing
    assert interpolate(*pair).n_obs > 0


# ---------------------------------------------------------------- instances


def of(region: Any, adata: AnnData) -> SpatialData:
    return SpatialData(shapes={"spots": region}, tables={"table": adata})


@pytest.mark.parametrize(
    ("index", "instances"),
    [
        (np.arange(144).astype(str), np.arange(144)),
        (np.arange(144), np.arange(144).astype(str).astype(object)),
        (np.arange(144).astype(str), np.arange(144).astype(np.int32)),
    ],
)
def test_text_and_numbers_are_matched_as_text(index: np.ndarray, instances: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(144)
    sdata = of(shapes(XY[order], index[order]), table(0))
    sdata.tables["table"].obs["instance"] = instances
    np.testing.assert_allclose(io.read_slice(sdata).xy, XY)


def test_a_repeated_index_matters_where_a_row_refers_to_it() -> None:
    full = shapes()
    beside = of(ShapesModel.parse(pd.concat([full, shapes(XY[-3:] + 500, [141, 142, 143])])), table(0)[:-3].copy())
    np.testing.assert_allclose(io.read_slice(beside).xy, XY[:-3])
    again = of(ShapesModel.parse(pd.concat([full, full.iloc[-3:]])), table(0))
    np.testing.assert_allclose(io.read_slice(again).xy, XY)
    apart = of(ShapesModel.parse(pd.concat([full, shapes(XY[-3:] + 500, [141, 142, 143])])), table(0))
    with pytest.raises(
        ValueError, match=r"index of region 'spots' of slice is not unique: 3 of 144 rows .*first: 141.*duplicated"
    ):
        io.read_slice(apart)


def test_instances_of_no_kin_are_shown() -> None:
    sdata = of(shapes(index=[f"cell_{i}" for i in range(144)]), table(0))
    with pytest.raises(
        ValueError,
        match=r"144 of 144 rows .*'spots' .first: instance '0'; the region holds \['cell_0', .*give both",
    ):
        io.read_slice(sdata)


# ---------------------------------------------------------------- several sections in one object


def two_sections(*, beside: float = 0.0, **images: Any) -> SpatialData:
    """Rows of two regions, one by one in turn; the second lies `beside` the first."""
    first, second = table(0, "S1_spots"), table(1, "S2_spots")
    rows = np.arange(288).reshape(2, 144).T.ravel()
    both = AnnData(np.concatenate([first.X.toarray(), second.X.toarray()]), var=first.var)
    both.obs = pd.concat([first.obs, second.obs]).astype({"region": str})
    both.obs["sample"] = [name.removesuffix("_spots") for name in both.obs["region"]]
    both = both[rows].copy()
    both.obs["region"] = both.obs["region"].astype("category")
    return SpatialData(
        shapes={"S1_spots": shapes(), "S2_spots": shapes(XY + [beside, 0])},
        images=images,
        tables={
            "table": TableModel.parse(
                both, region=["S1_spots", "S2_spots"], region_key="region", instance_key="instance"
            )
        },
    )


def test_a_table_of_two_regions_is_refused_and_two_fixes_are_named() -> None:
    sdata = two_sections()
    with pytest.raises(ValueError, match=r"annotates \['S1_spots', 'S2_spots'\]; .*library_key='region', or .*subset"):
        io.read_slice(sdata)
    part = io.read_slice(sdata.subset(["S2_spots"]))
    np.testing.assert_array_equal(part.values.toarray(), section(1).X.toarray())


@pytest.mark.parametrize("library_key", ["region", "sample"])
def test_sections_of_one_object_are_read_by_their_column(library_key: str) -> None:
    sdata = two_sections(beside=3.0, S1_he=image(RED), S2_he=image(BLUE))
    name = "S2_spots" if library_key == "region" else "S2"
    read = io.read_slice(sdata, library_key=library_key, library=name)
    np.testing.assert_allclose(read.xy, XY + [3.0, 0])
    np.testing.assert_array_equal(read.values.toarray(), section(1).X.toarray())
    out = interpolate(sdata, None, library_key="sample")
    assert shown(out) == {"slice_a": list(RED), "c2sti_1": [115, 30, 115], "slice_b": list(BLUE)}


def matrix(sdata: SpatialData, name: str) -> np.ndarray:
    moved = get_transformation(sdata[name], to_coordinate_system="spatial_aligned")
    return moved.to_affine_matrix(("x", "y"), ("x", "y"))


def test_what_belongs_to_a_section_moves_with_it() -> None:
    far = Scale([1, 1], axes=("x", "y"))
    sdata = two_sections(
        beside=300.0, S1_he=image(RED), S2_he=image(BLUE, 460, transformations={"global": far}), other=image(RED, 100)
    )
    move = np.array([[1, 0, -300.0], [0, 1, 0], [0, 0, 1]])
    c2sti.pp.align(sdata, library_key="sample", matrix=move)
    for name, expected in (("S1_spots", np.eye(3)), ("S2_spots", move), ("S1_he", np.eye(3)), ("S2_he", move)):
        np.testing.assert_allclose(matrix(sdata, name), expected)
    assert "spatial_aligned" not in get_transformation(sdata["other"], get_all=True)
    assert set(sdata.tables["table"].uns["alignment"]) == {"S1", "S2"}
    out = interpolate(sdata, None, library_key="sample", coordinate_system="spatial_aligned")
    assert shown(out) == {"slice_a": list(RED), "c2sti_1": [115, 30, 115], "slice_b": list(BLUE)}


def test_an_image_under_both_sections_cannot_be_moved_for_one() -> None:
    sdata = two_sections(he=image(RED))
    assert shown(interpolate(sdata, None, library_key="sample"))["slice_b"] == list(RED)
    c2sti.pp.align(sdata, library_key="sample", matrix=np.array([[1, 0, 0.0], [0, 1, 4.0]]))
    with pytest.warns(UserWarning, match="image 'he' is not in coordinate system 'spatial_aligned'"):
        out = interpolate(sdata, None, library_key="sample", coordinate_system="spatial_aligned")
    assert virtual(out) == []


def test_the_image_under_the_spots_is_taken_of_two_that_lie_beside_each_other() -> None:
    sdata = slide(0, left=image(RED), right=image(BLUE))
    away = sd.transformations.Translation([200, 0], axes=("x", "y"))
    set_transformation(sdata["right"], away)
    read = io.read_slice(sdata).image
    assert read is not None
    assert (histology_on(read, Lattice((50.0, 50.0), 10.0, (2, 2)))[:, 0, 0] * 255).round().tolist() == list(RED)


# ---------------------------------------------------------------- channels


def colour_of(sdata: SpatialData, x: float) -> list[int]:
    read = io.read_slice(sdata).image
    assert read is not None and hasattr(read.levels[0], "dask")
    return (histology_on(read, Lattice((x, 50.0), 2.0, (2, 2)))[:, 0, 0] * 255).round().astype(int).tolist()


@pytest.mark.parametrize("names", [None, ["r", "g", "b", "a"], ["a", "b", "g", "r"]])
@pytest.mark.parametrize("scale_factors", [None, [2]])
def test_alpha_is_laid_on_white(names: list[str] | None, scale_factors: list[int] | None) -> None:
    pixels = np.empty((4, 160, 160), np.uint8)
    pixels[:] = np.reshape([100, 50, 200, 255], (4, 1, 1))
    pixels[:, :, :40], pixels[3, :, 100:] = 0, 51
    if names is not None and names[0] == "a":
        pixels = pixels[::-1]
    sdata = slide(0, he=Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=names, scale_factors=scale_factors))
    assert [colour_of(sdata, x) for x in (20.0, 60.0, 130.0)] == [[255] * 3, [100, 50, 200], [224, 214, 244]]


def test_channels_are_taken_by_their_names() -> None:
    assert colour_of(slide(0, he=image(RED[::-1], c_coords=["b", "g", "r"])), 60.0) == list(RED)


def test_the_section_counts_are_those_of_the_table() -> None:
    assert io.read_slice(slide(0)).values.shape == (SIDE**2, 30)
