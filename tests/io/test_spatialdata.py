"""SpatialData in: layouts, frames, lazily read images, and what cannot be used."""

from __future__ import annotations

from collections.abc import Callable

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from shapely.geometry import box
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Image3DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, set_transformation

import c2sti
from c2sti import io
from c2sti._types import Lattice
from c2sti.io import HEImage, _spatialdata, histology_on
from tests.conftest import square_array

PITCH = 10.0
SIDE = 12


def affine(matrix: np.ndarray) -> Affine:
    return Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))


def turned(angle: float, scale: float) -> np.ndarray:
    """(3, 3) rotation by degrees and scaling, with a shift."""
    c, s = scale * np.cos(np.deg2rad(angle)), scale * np.sin(np.deg2rad(angle))
    return np.array([[c, -s, 40.0], [s, c, -25.0], [0, 0, 1]])


def moved(xy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def colours(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(3, ...) a smooth image of the tissue, asymmetric in every way, in [0, 1]."""
    return np.stack([0.6 + 0.3 * np.sin(x / 17), 0.5 + 0.3 * np.cos(y / 23), 0.3 + 0.002 * x + 0.001 * y])


def painted(to_frame: np.ndarray, height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    """(3, h, w) what a camera sees whose pixels lie in the frame by `to_frame`."""
    row, column = np.indices((height, width)) + 0.5
    x, y = np.moveaxis(moved(np.stack([column, row], axis=-1), to_frame), -1, 0)
    values = colours(x, y)
    return (values * 255).round().astype(np.uint8) if dtype is np.uint8 else values.astype(dtype)


def counts(seed: int, n: int = SIDE**2, n_genes: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).poisson(4.0, (n, n_genes)).astype(np.float32)


def section(
    *,
    seed: int = 0,
    to_frame: np.ndarray | None = None,
    image: np.ndarray | None = None,
    image_to_frame: np.ndarray | None = None,
    frame: str = "global",
    scale_factors: list[int] | None = None,
) -> SpatialData:
    """A square array of bins at (15, 15), (25, 15), …, kept in units of its own."""
    to_frame = np.eye(3) if to_frame is None else to_frame
    xy = square_array(SIDE, PITCH) + 15.0
    own = moved(xy, np.linalg.inv(to_frame))
    table = AnnData(counts(seed), var=pd.DataFrame(index=[f"g{i}" for i in range(30)]))
    table.obs["region"] = pd.Categorical(["bins"] * len(xy))
    table.obs["instance"] = np.arange(len(xy)) + 7
    shapes = ShapesModel.parse(
        own, geometry=0, radius=4.0, index=pd.Index(np.arange(len(xy)) + 7), transformations={frame: affine(to_frame)}
    )
    images = {}
    if image is not None:
        images["he"] = Image2DModel.parse(
            image,
            dims=("c", "y", "x"),
            scale_factors=scale_factors,
            transformations={
                frame: Identity() if image_to_frame is None else affine(image_to_frame),
            },
        )
    return SpatialData(
        shapes={"bins": shapes},
        images=images,
        tables={"table": TableModel.parse(table, region="bins", region_key="region", instance_key="instance")},
    )


PIXEL = np.diag([0.5, 0.5, 1.0])  # half a unit a pixel: 280 pixels cover 0 … 140


def with_image(seed: int = 0, **other: object) -> SpatialData:
    return section(seed=seed, image=painted(PIXEL, 280, 280), image_to_frame=PIXEL, **other)


# ---------------------------------------------------------------- frames and images


def test_h_and_e_reads_as_from_anndata() -> None:
    read = io.read_slice(with_image())
    assert read.image is not None
    lattice = io.common_lattice(read, read)
    exact = HEImage((np.moveaxis(painted(PIXEL, 280, 280), 0, -1),), np.diag([2.0, 2.0, 1.0]))
    np.testing.assert_allclose(histology_on(read.image, lattice), histology_on(exact, lattice), atol=2e-3)


@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0, 270.0, 33.0])
def test_an_image_is_met_wherever_it_lies(angle: float, scale_factors: list[int] | None) -> None:
    to_frame = turned(angle, 0.4)
    corner = np.linalg.inv(to_frame) @ [75.0, 75.0, 1.0] - [300.0, 300.0, 0.0]
    to_frame = to_frame @ np.array([[1, 0, corner[0]], [0, 1, corner[1]], [0, 0, 1]])
    sdata = section(image=painted(to_frame, 600, 600), image_to_frame=to_frame, scale_factors=scale_factors)
    read = io.read_slice(sdata)
    assert read.image is not None
    lattice = io.common_lattice(read, read)
    x, y = lattice.centres.T
    expected = colours(x, y).reshape(3, *lattice.shape)
    np.testing.assert_allclose(histology_on(read.image, lattice), expected, atol=0.015)


def test_mirrored_pixels_are_the_same_image() -> None:
    lattice = Lattice((20.0, 20.0), 10.0, (8, 9))
    mirror = np.array([[-0.5, 0, 140.0], [0, 0.5, 0], [0, 0, 1]])
    plain, flipped = (
        io.read_slice(section(image=painted(m, 280, 280), image_to_frame=m)).image for m in (PIXEL, mirror)
    )
    assert plain is not None and flipped is not None
    np.testing.assert_allclose(histology_on(plain, lattice), histology_on(flipped, lattice), atol=1e-5)


def test_a_bin_off_the_image_is_unknown() -> None:
    for angle in (0.0, 20.0):
        to_frame = turned(angle, 1.0)
        image = HEImage((np.full((40, 50, 3), 128, np.uint8),), np.linalg.inv(to_frame))
        lattice = Lattice((-20.0, -60.0), 4.0, (40, 40))
        known = ~np.isnan(histology_on(image, lattice)[0])
        pixel = moved(lattice.centres, image.to_pixel).reshape(40, 40, 2)
        inside = ((pixel >= 0) & (pixel < [50, 40])).all(axis=-1)
        assert (known == inside).mean() > 0.98 and known.any()
        np.testing.assert_allclose(histology_on(image, lattice)[:, known], 128 / 255, atol=1e-5)
        assert np.isnan(histology_on(image, Lattice((900.0, 900.0), 4.0, (3, 3)))).all()


def test_only_the_level_and_the_part_that_are_needed_are_read() -> None:
    """A dask array that counts: an image of a million pixels on a side is never computed as a whole."""
    touched: list[tuple[int, int]] = []

    def block(block_info: dict) -> np.ndarray:
        (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
        touched.append((y0, x0))
        return np.full((y1 - y0, x1 - x0, 3), 200, np.uint8)

    def lazy(side: int) -> da.Array:
        chunks = (1000,) * (side // 1000)
        return da.map_blocks(block, chunks=(chunks, chunks, (3,)), dtype=np.uint8)

    image = HEImage((lazy(64_000), lazy(16_000)), np.eye(3))
    touched.clear()
    colour = histology_on(image, Lattice((20_000.0, 20_000.0), 100.0, (30, 30)))
    np.testing.assert_allclose(colour, 200 / 255, atol=1e-5)
    assert 0 < len(set(touched)) <= 4  # 3,000 of 64,000 pixels are 750 of 16,000


def test_a_rotated_and_scaled_copy_gives_the_same_answer() -> None:
    """The same tissue, kept in other units and at an angle, with an image whose pixels are turned by 90°."""
    other = turned(31.0, 3.7)
    quarter = np.array([[0, -0.5, 140.0], [0.5, 0, 0], [0, 0, 1]])
    plain = [with_image(seed) for seed in (0, 1)]
    copies = [
        section(
            seed=seed,
            to_frame=other,
            image=painted(quarter, 280, 280),
            image_to_frame=quarter,
            scale_factors=None,
        )
        for seed in (0, 1)
    ]
    answers = [c2sti.tl.interpolate(*pair, n_slices=3, show_progress_bar=False) for pair in (plain, copies)]
    np.testing.assert_allclose(answers[0].obsm["spatial"], answers[1].obsm["spatial"], atol=1e-6)
    for name in ("slice_a", "c2sti_1", "c2sti_2", "c2sti_3"):
        # The images are resampled otherwise, which the network sees.
        np.testing.assert_allclose(answers[0].layers[name], answers[1].layers[name], atol=1e-3)
    images = [
        [histology_on(io.read_slice(s).image, Lattice((15.0, 15.0), PITCH, (SIDE, SIDE))) for s in pair]  # type: ignore[arg-type]
        for pair in (plain, copies)
    ]
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)


# ---------------------------------------------------------------- what annotates the table


def squares() -> gpd.GeoDataFrame:
    xy = square_array(SIDE, PITCH) + 15.0
    return ShapesModel.parse(gpd.GeoDataFrame(geometry=[box(x - 5, y - 5, x + 5, y + 5) for x, y in xy]))


def raster() -> object:
    """Labels 1 …, one a bin, at two pixels a unit."""
    image = np.zeros((280, 280), dtype=np.int32)
    for i, (x, y) in enumerate(square_array(SIDE, PITCH) + 15.0):
        column, row = int(2 * x), int(2 * y)
        image[row - 6 : row + 6, column - 6 : column + 6] = i + 1
    return Labels2DModel.parse(image, dims=("y", "x"), transformations={"global": affine(PIXEL)}, scale_factors=[2])


@pytest.mark.parametrize(("make", "first", "kind"), [(squares, 0, "shapes"), (raster, 1, "labels")])
def test_squares_and_label_images_are_read_by_their_centres(make: Callable, first: int, kind: str) -> None:
    table = section().tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    table.obs["instance"] = np.arange(table.n_obs) + first
    sdata = SpatialData(
        **{kind: {"bins": make()}},
        tables={"table": TableModel.parse(table, region="bins", region_key="region", instance_key="instance")},
    )
    read = io.read_slice(sdata)
    np.testing.assert_allclose(read.xy, square_array(SIDE, PITCH) + 15.0)
    assert read.layout == "square"
    assert read.pitch == pytest.approx(PITCH)


def test_a_label_image_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _spatialdata._label_centroids(_spatialdata.levels_of(raster())[0])
    monkeypatch.setattr(_spatialdata, "BLOCK", 37)
    pd.testing.assert_frame_equal(_spatialdata._label_centroids(_spatialdata.levels_of(raster())[0]), whole)


def test_without_global_the_frame_of_the_spots_is_taken() -> None:
    """As the reader of Visium leaves it: frames are named after the data set, and two sections share none."""
    a, b = (with_image(seed, frame=f"slide_{seed}") for seed in (0, 1))
    for sdata in (a, b):
        for element in (sdata["bins"], sdata["he"]):
            set_transformation(element, affine(np.diag([0.1, 0.1, 1])), to_coordinate_system="small")
    set_transformation(a["bins"], Identity(), to_coordinate_system="slide_0")
    set_transformation(b["bins"], Identity(), to_coordinate_system="slide_1")
    out = c2sti.tl.interpolate(a, b, model="linear", show_progress_bar=False)
    assert out.uns["c2sti"]["lattice"]["pitch"] == pytest.approx(PITCH)
    small = c2sti.tl.interpolate(a, b, model="linear", coordinate_system="small", show_progress_bar=False)
    assert small.uns["c2sti"]["lattice"]["pitch"] == pytest.approx(PITCH / 10)


def test_two_resolutions_of_one_image_are_one() -> None:
    sdata = with_image()
    coarse = np.diag([2.0, 2.0, 1.0])
    sdata.images["lowres"] = Image2DModel.parse(
        painted(coarse, 70, 70), dims=("c", "y", "x"), transformations={"global": affine(coarse)}
    )
    image = io.read_slice(sdata).image
    assert image is not None and image.scale == pytest.approx(2.0)
    sdata.images["other"] = Image2DModel.parse(
        255 - painted(coarse, 70, 70), dims=("c", "y", "x"), transformations={"global": affine(coarse)}
    )
    with pytest.raises(ValueError, match=r"images \['he', 'lowres', 'other'\]; choose one with image_key="):
        io.read_slice(sdata)
    assert io.read_slice(sdata, image_key="lowres").image.scale == pytest.approx(0.5)  # type: ignore[union-attr]


# ---------------------------------------------------------------- what cannot be used


def test_a_table_is_needed_and_only_one() -> None:
    sdata = with_image()
    table = sdata.tables["table"]
    del sdata.tables["table"]
    with pytest.raises(ValueError, match=r"slice has no table; .*TableModel"):
        io.read_slice(sdata)
    sdata.tables["one"], sdata.tables["two"] = table, table.copy()
    with pytest.raises(ValueError, match=r"tables \['one', 'two'\]; choose one with table_key="):
        io.read_slice(sdata)
    assert len(io.read_slice(sdata, table_key="two").xy) == SIDE**2


def test_a_table_must_annotate_what_is_there() -> None:
    sdata = section()
    with pytest.warns(UserWarning, match="annotating"):
        lonely = SpatialData(shapes={"cells": sdata["bins"]}, tables={"table": sdata.tables["table"]})
    with pytest.raises(KeyError, match=r"annotates 'bins', which is not there; the elements are \['cells'\]"):
        io.read_slice(lonely)
    short = SpatialData(shapes={"bins": sdata["bins"].iloc[5:]}, tables={"table": sdata.tables["table"]})
    with pytest.raises(ValueError, match=r"5 of 144 rows .* not in its region 'bins' .first: instance '7'"):
        io.read_slice(short)
    free = section()
    free.tables["table"] = AnnData(counts(0))
    with pytest.raises(ValueError, match="annotates no region"):
        io.read_slice(free)


def test_a_frame_that_is_not_there_is_named() -> None:
    sdata = with_image()
    with pytest.raises(KeyError, match=r"'bins' of slice is in the coordinate systems \['global'\] and not in 'mars'"):
        io.read_slice(sdata, coordinate_system="mars")
    set_transformation(sdata["he"], Identity(), to_coordinate_system="slide")
    with pytest.raises(KeyError, match=r"'bins' of slice is in the coordinate systems \['global'\] and not in 'slide'"):
        io.read_slice(sdata, coordinate_system="slide")
    aside = section(frame="a", to_frame=turned(10.0, 2.0))
    np.testing.assert_allclose(io.read_slice(aside).xy, square_array(SIDE, PITCH) + 15.0)  # the only one
    set_transformation(aside["bins"], affine(np.diag([2.0, 2.0, 1])), to_coordinate_system="b")
    with pytest.raises(KeyError, match=r"systems \['a', 'b'\] .*rename_coordinate_systems\({'a': 'global'}\)"):
        io.read_slice(aside)


def only(image: np.ndarray, **other: object) -> SpatialData:
    sdata = section()
    sdata.images["he"] = Image2DModel.parse(
        image, dims=("c", "y", "x"), transformations={"global": affine(PIXEL)}, **other
    )
    return sdata


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 280, 280), np.uint8), r"1 channel\(s\) \[0\] of uint8 .*; H&E has three .*isel\(c=\[…\]\)"),
        (np.zeros((5, 280, 280), np.uint8), r"5 channel\(s\) .*; H&E has three"),
        (np.zeros((3, 280, 280), np.uint16), r"holds uint16 from 0 to 0; .*image // 256\)\.astype\('uint8'\)"),
        (np.full((3, 280, 280), 200.0, np.float32), r"holds float32 from 200 to 200; .*image\.astype\('uint8'\)"),
        (np.zeros((4, 280, 280), np.uint16), r"holds uint16 from 6.554e\+04 .*image // 256"),
    ],
)
def test_images_that_are_no_h_and_e_are_refused_by_name(image: np.ndarray, message: str) -> None:
    sdata = only(image)
    with pytest.raises(ValueError, match="the image of slice cannot be used: image 'he' .*" + message):
        io.read_slice(sdata, image_key="he")
    with pytest.warns(UserWarning, match="the image of slice is not used: image 'he' .*" + message):
        assert io.read_slice(sdata).no_image.startswith("image 'he' ")


def test_an_image_in_three_dimensions_is_refused_by_its_axes() -> None:
    sdata = section()
    sdata.images["he"] = Image3DModel.parse(np.zeros((3, 2, 280, 280), np.uint8), dims=("c", "z", "y", "x"))
    with pytest.raises(ValueError, match=r"image 'he' has .* along \('c', 'z', 'y', 'x'\); H&E has three along"):
        io.read_slice(sdata, image_key="he")


@pytest.mark.parametrize("to_frame", [PIXEL, np.diag([0.55, 0.55, 1.0])])
def test_two_images_as_fine_or_of_another_size_have_to_be_chosen_from(to_frame: np.ndarray) -> None:
    sdata = with_image()
    sdata.images["second"] = Image2DModel.parse(
        painted(PIXEL, 280, 280), dims=("c", "y", "x"), transformations={"global": affine(to_frame)}
    )
    with pytest.raises(ValueError, match=r"slice has the images \['he', 'second'\]; choose one with image_key="):
        io.read_slice(sdata)


@pytest.mark.parametrize("channels", [["DAPI"], ["DAPI", "18S", "ATP1A1"]])
def test_fluorescence_is_passed_over_and_it_is_said(channels: list[str]) -> None:
    sdata = only(np.zeros((len(channels), 280, 280), np.uint16), c_coords=channels)
    with pytest.warns(
        UserWarning,
        match=rf"slice is not used: image 'he' .*{channels[0]}.* numbered or called",
    ):
        assert io.read_slice(sdata).image is None
    sdata.images["colours"] = with_image()["he"]
    assert io.read_slice(sdata).image is not None


def test_floats_beyond_one_where_nothing_was_looked_at_are_refused_when_read() -> None:
    pixels = np.full((3, 280, 280), 0.5, np.float32)
    pixels[:, 270:, 270:] = 200.0
    image = io.read_slice(only(pixels)).image
    assert image is not None
    with pytest.raises(ValueError, match="image 'he' of slice holds float32 from 0.5 to 200"):
        histology_on(image, Lattice((95.0, 95.0), PITCH, (5, 5)))


def test_an_image_has_to_lie_under_the_tissue() -> None:
    sdata = with_image()
    set_transformation(sdata["he"], affine(np.diag([0.05, 0.05, 1])))
    message = r"image 'he' of slice lies under 0% of the spots: it has 280 x 280 pixels, .* from pixel \[300, 300\]"
    with pytest.raises(ValueError, match=message):
        io.read_slice(sdata, image_key="he")
    with pytest.warns(UserWarning, match="the image of slice is not used: " + message):
        assert io.read_slice(sdata).image is None
    with pytest.raises(KeyError, match=r"no image 'stain'; its images are \['he'\]"):
        io.read_slice(sdata, image_key="stain")
    set_transformation(sdata["he"], {"slide": Identity()}, set_all=True)
    with pytest.raises(ValueError, match=r"not in coordinate system 'global'; it is in \['slide'\]"):
        io.read_slice(sdata, image_key="he")


def test_reading_leaves_the_object_as_it_was() -> None:
    sdata = with_image(scale_factors=[2, 2])
    before = [repr(sdata), sdata["bins"].copy(), sdata.tables["table"].to_df()]
    read = io.read_slice(sdata)
    histology_on(read.image, io.common_lattice(read, read))  # type: ignore[arg-type]
    assert repr(sdata) == before[0]
    pd.testing.assert_frame_equal(sdata["bins"], before[1])
    pd.testing.assert_frame_equal(sdata.tables["table"].to_df(), before[2])
    assert hasattr(sdata["he"]["scale0"]["image"].data, "dask")
