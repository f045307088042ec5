"""SpatialData out: what it holds, that it is written and read back, and that it is drawn."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import spatialdata
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import PointsModel
from spatialdata.transformations import Affine, Scale, get_transformation, set_transformation

import c2sti
from c2sti import io
from tests.io.test_spatialdata import with_image

MICRONS = 0.5


@pytest.fixture(scope="module")
def measured() -> list[AnnData]:
    sections = c2sti.datasets.phantom(seed=1, size=12, n_genes=20).series([0.0, 300.0])
    for section in sections:
        section.obs["cell type"] = pd.Categorical(np.where(section.obsm["spatial"][:, 0] > 600, "T/NK", "B"))
        section.uns["cell type_colors"] = ["#112233", "#445566"]
    return sections


@pytest.fixture(scope="module")
def result(measured: list[AnnData]) -> AnnData:
    return c2sti.tl.interpolate(*measured, n_slices=2, model="linear", obs_keys="cell type", show_progress_bar=False)


@pytest.fixture(scope="module")
def sdata(result: AnnData, measured: list[AnnData]) -> SpatialData:
    return c2sti.tl.to_spatialdata(result, um_per_unit=MICRONS, originals={"before": measured[0]})


def test_each_section_is_a_table_of_squares_in_microns(result: AnnData, sdata: SpatialData) -> None:
    assert sorted(sdata.coordinate_systems) == ["c2sti_1", "c2sti_2", "c2sti_stack", "global", "slice_a", "slice_b"]
    for name in ("slice_a", "c2sti_1", "c2sti_2", "slice_b"):
        rows = result.obs[f"{name}_tissue"].to_numpy()
        table, bins = sdata.tables[name], sdata[f"{name}_bins"]
        np.testing.assert_array_equal(table.X, result.layers[name][rows])
        centres = np.column_stack([bins.centroid.x, bins.centroid.y])
        np.testing.assert_allclose(centres, result.obsm["spatial"][rows] * MICRONS)
        np.testing.assert_allclose(np.sqrt(bins.area), result.uns["c2sti"]["lattice"]["pitch"] * MICRONS)
        assert table.uns["c2sti"]["synthetic"] == (name not in ("slice_a", "slice_b"))
        assert table.uns["c2sti"]["section"] == name
        assert set(table.obs["cell_type"].dropna().unique()) <= {"B", "T/NK"}
        assert list(table.uns["cell_type_colors"]) == ["#112233", "#445566"]
        graph = result.uns["c2sti"]["coexpression"][name]
        assert abs(table.varp["coexpression"] - graph).max() == 0


@pytest.mark.filterwarnings("ignore:The object has `points` element")  # at every query of points
@pytest.mark.filterwarnings("ignore:The table is annotating")  # what no part of lies in the box
def test_sections_lie_at_their_z(sdata: SpatialData, result: AnnData) -> None:
    """By spatialdata's own queries: points have z, shapes have none, and nothing is lost of either."""
    rows = {name: int(result.obs[f"{name}_tissue"].sum()) for name in ("slice_a", "c2sti_1", "c2sti_2", "slice_b")}
    points = sdata["c2sti_stack"].compute()
    assert points.groupby("section", observed=True).size().to_dict() == rows
    assert points.groupby("section", observed=True)["z"].first().to_dict() == pytest.approx(
        {"slice_a": 0, "c2sti_1": 100, "c2sti_2": 200, "slice_b": 300}
    )
    for name, table in sdata.tables.items():
        if name in rows:
            own = points[points["section"] == name].sort_values("instance")
            np.testing.assert_allclose(own[["x", "y", "z"]], table.obsm["spatial_3d"])
            assert not sdata[f"{name}_bins"].has_z.any()
    box = {"axes": ("x", "y", "z"), "target_coordinate_system": "c2sti_stack"}
    thin = sdata.query.bounding_box(min_coordinate=[-1e5, -1e5, 150.0], max_coordinate=[1e5, 1e5, 250.0], **box)
    assert thin["c2sti_stack"].compute()["section"].unique().tolist() == ["c2sti_2"]
    assert len(thin["c2sti_stack"]) == rows["c2sti_2"]


@pytest.mark.filterwarnings("ignore:The object has `points` element")  # at every query of points
@pytest.mark.filterwarnings("ignore:The table is annotating")  # images and shapes that lie outside
def test_each_section_can_be_taken_by_itself_or_all_by_a_window(sdata: SpatialData) -> None:
    alone = sdata.filter_by_coordinate_system("c2sti_1")
    assert sorted(name for _, name, _ in alone.gen_elements()) == sorted(
        name for _, name, _ in sdata.gen_elements() if name.startswith("c2sti_1")
    )
    for system in sdata.coordinate_systems:
        assert set(spatialdata.get_extent(sdata, coordinate_system=system)) >= {"x", "y"}
    extent = spatialdata.get_extent(sdata, coordinate_system="global")
    middle = float(np.mean(extent["x"]))
    box = {"axes": ("x", "y"), "target_coordinate_system": "global"}
    left = sdata.query.bounding_box(min_coordinate=[-1e5, -1e5], max_coordinate=[middle, 1e5], **box)
    for name in ("slice_a", "c2sti_1", "c2sti_2", "slice_b"):
        xy = sdata.tables[name].obsm["spatial"]
        inside = (xy[:, 0] - left[f"{name}_bins"].bounds.pipe(lambda b: (b.maxx - b.minx).iloc[0]) / 2) <= middle
        assert left.tables[name].n_obs == inside.sum() == len(left[f"{name}_bins"])


def test_sections_without_z_have_no_stack_until_a_gap_is_given(measured: list[AnnData]) -> None:
    bare = [section.copy() for section in measured]
    for section in bare:
        del section.obs["z_um"]
    out = c2sti.tl.interpolate(*bare, model="linear", show_progress_bar=False)
    for result in (out, c2sti.tl.to_slices(out)):
        flat = c2sti.tl.to_spatialdata(result)
        assert "c2sti_stack" not in flat
        assert "z" not in flat.tables["c2sti_1"].obs
        assert "spatial_3d" not in flat.tables["c2sti_1"].obsm
    deep = c2sti.tl.to_spatialdata(out, gap=80.0)
    assert set(deep["c2sti_stack"].compute()["z"]) == {0.0, 40.0, 80.0}
    stack = c2sti.tl.to_slices(out, gap=80.0)
    assert set(c2sti.tl.to_spatialdata(stack)["c2sti_stack"].compute()["z"]) == {0.0, 40.0, 80.0}
    with pytest.raises(ValueError, match="gap= is for results whose sections are layers"):
        c2sti.tl.to_spatialdata(stack, gap=80.0)


def test_an_original_lies_beside_it(measured: list[AnnData], sdata: SpatialData) -> None:
    np.testing.assert_array_equal(sdata.tables["before"].X.toarray(), measured[0].X.toarray())
    read = io.read_slice(sdata, table_key="before", image_key="before_histology")
    expected = io.read_slice(measured[0])
    np.testing.assert_allclose(read.xy, expected.xy * MICRONS)
    assert read.image is not None and expected.image is not None
    assert read.image.scale == pytest.approx(expected.image.scale / MICRONS)


def test_it_is_written_and_read_back(sdata: SpatialData, result: AnnData, tmp_path: Path) -> None:
    sdata.write(tmp_path / "out.zarr")
    back = spatialdata.read_zarr(tmp_path / "out.zarr")
    assert sorted(name for _, name, _ in back.gen_elements()) == sorted(name for _, name, _ in sdata.gen_elements())
    for name, table in sdata.tables.items():
        np.testing.assert_array_equal(np.asarray(table.to_df()), np.asarray(back.tables[name].to_df()))
    assert bool(back.tables["c2sti_1"].uns["c2sti"]["synthetic"]) is True
    assert bool(back.tables["slice_a"].uns["c2sti"]["synthetic"]) is False
    assert c2sti.tl.describe(back) == c2sti.tl.describe(sdata)
    tables, images = ["slice_a", "slice_b"], ["before_histology", "slice_b_histology"]
    again = c2sti.tl.interpolate(back, back, table_key=tables, image_key=images, model="linear")
    assert again.n_obs == result.n_obs


def test_spatialdata_plot_draws_it(sdata: SpatialData) -> None:
    pytest.importorskip("spatialdata_plot")
    gene = sdata.tables["c2sti_1"].var_names[0]
    ax = plt.figure().gca()
    sdata.pl.render_shapes("c2sti_1_bins", color=gene, table_name="c2sti_1").pl.show(ax=ax, coordinate_systems="global")
    assert ax.collections
    plt.close("all")


def test_originals_in_spatialdata_keep_their_pixels_and_are_not_changed() -> None:
    """In a frame of their own, multiscale and lazily read; elements outside of the frame are left out."""
    a, b = (with_image(seed, scale_factors=[2]) for seed in (0, 1))
    turn = Affine(np.array([[0, -2, 3], [2, 0, 1], [0, 0, 1.0]]), input_axes=("x", "y"), output_axes=("x", "y"))
    for sdata in (a, b):
        set_transformation(sdata["he"], get_transformation(sdata["he"]), to_coordinate_system="slide")
        set_transformation(sdata["bins"], turn, to_coordinate_system="slide")
        sdata["genes"] = PointsModel.parse(pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]}))
        set_transformation(sdata["genes"], {"elsewhere": Scale([2.0, 2.0], axes=("x", "y"))}, set_all=True)
    out = c2sti.tl.interpolate(a, b, model="linear", show_progress_bar=False)
    both = c2sti.tl.to_spatialdata(out, um_per_unit=3.0, originals={"a": a, "b": b})
    assert {"a_bins", "a_he", "a_table", "b_bins", "b_he", "b_table"} <= {name for _, name, _ in both.gen_elements()}
    assert "a_genes" not in both
    assert set(get_transformation(a["he"], get_all=True)) == {"global", "slide"}
    assert a.tables["table"].obs["region"].unique().tolist() == ["bins"]
    pixel = both["a_he"]["scale0"]["image"].data
    assert pixel.dask is not None and pixel is a["he"]["scale0"]["image"].data  # shared, not read
    read = io.read_slice(both, table_key="a_table", image_key="a_he")
    np.testing.assert_allclose(read.xy, io.read_slice(a).xy * 3.0)
    assert read.image is not None and read.image.scale == pytest.approx(2.0 / 3.0)


def test_points_of_ones_own_are_circles(measured: list[AnnData]) -> None:
    at = np.array([[500.0, 500.0], [611.3, 570.0], [420.7, 700.1]])
    out = c2sti.tl.interpolate(*measured, at=at, model="linear", show_progress_bar=False)
    sdata = c2sti.tl.to_spatialdata(out)
    assert set(sdata["c2sti_1_bins"].geom_type) == {"Point"}


def test_a_section_with_no_point_in_its_tissue_is_left_out(
    measured: list[AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("c2sti._logging.warning", said.append)
    a, b = measured[0].copy(), measured[1].copy()
    middle = np.median(a.obsm["spatial"][:, 0])
    b = b[b.obsm["spatial"][:, 0] < middle].copy()
    far = a.obsm["spatial"][a.obsm["spatial"][:, 0] > middle + 200]  # where b has no tissue
    out = c2sti.tl.interpolate(a, b, at=far, model="linear", on_misfit="ignore", show_progress_bar=False)
    made = c2sti.tl.to_spatialdata(out)
    assert "slice_a" in made.tables
    assert "slice_b" not in made.tables
    assert said[-1] == "slice_b has no row in its tissue, and is left out: SpatialData holds no empty shapes"


def test_names_that_cannot_be_written_are_refused(result: AnnData, measured: list[AnnData]) -> None:
    with pytest.raises(ValueError, match=r"'day 1/a' cannot be the name of a section.*'day_1_a' would do"):
        c2sti.tl.to_spatialdata(result, originals={"day 1/a": measured[0]})
    with pytest.raises(ValueError, match="key_added='a/b' holds '/'"):
        c2sti.tl.interpolate(*measured, key_added="a/b", model="linear", show_progress_bar=False)
    with pytest.raises(ValueError, match=r"originals\['slice_a'\] would write over \['slice_a', 'slice_a_histology'\]"):
        c2sti.tl.to_spatialdata(result, originals={"slice_a": measured[0]})
    with pytest.raises(ValueError, match="um_per_unit = 0 must be positive"):
        c2sti.tl.to_spatialdata(result, um_per_unit=0)
    with pytest.raises(KeyError, match=r"uns\['other'\] does not hold the result"):
        c2sti.tl.to_spatialdata(result, key="other")


def test_a_picture_of_numbers_becomes_one_of_8_bits(result: AnnData, measured: list[AnnData]) -> None:
    plain = measured[0].copy()
    (library,) = plain.uns["spatial"].values()
    pixels = np.zeros((*library["images"]["hires"].shape[:2], 3), dtype=np.float32)
    pixels[0, 0], pixels[0, 1] = (0.2, 1.0, 1.005), (0.1, -0.005, 0.9)  # as resampling leaves them
    library["images"] = {"hires": pixels}
    bare = measured[1].copy()
    del bare.uns["spatial"]
    found = c2sti.tl.to_spatialdata(result, originals={"a": plain, "b": bare})
    image = np.asarray(found["a_histology"].data)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[:, 0, :3].T, [[51, 255, 255], [26, 0, 230], [0, 0, 0]])
    assert "b_spots" in found
    assert "b_histology" not in found


def test_a_stack_of_another_key_is_named(result: AnnData) -> None:
    stack = c2sti.tl.to_slices(result)
    with pytest.raises(KeyError, match=r"uns\['other'\] does not hold the result of c2sti.tl.interpolate; uns has"):
        c2sti.tl.to_spatialdata(stack, key="other")
