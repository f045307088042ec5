"""Virtual H&E: moved and blended as the tissue is, marked as made, and drawn by squidpy as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pytest
import squidpy as sq
from anndata import AnnData

import c2sti
from c2sti._types import InterpolatedSection, Lattice, Prediction, SlicePair
from c2sti.io import HEImage, section_images
from c2sti.io._virtual_histology import Canvas
from c2sti.models._registry import METHODS

LATTICE = Lattice((5.0, 5.0), 10.0, (12, 16))


def image(pixels: np.ndarray) -> HEImage:
    """An image of 0.5 units a pixel."""
    return HEImage((pixels,), np.diag([2.0, 2.0, 1.0]))


def spot_at(x: float, y: float, width: float = 6.0) -> HEImage:
    """White glass with one dark round spot, 0.5 units a pixel."""
    row, column = np.indices((240, 320)) + 0.5
    dark = np.exp(-((column / 2 - x) ** 2 + (row / 2 - y) ** 2) / (2 * width**2))
    return image((255 * (1 - 0.9 * dark[..., None].repeat(3, axis=2))).astype(np.uint8))


def centre_of(canvas: Canvas) -> np.ndarray:
    """(x, y) centre of what is dark."""
    pixels, scale = canvas
    dark = 255.0 - pixels.mean(axis=2)
    row, column = np.indices(dark.shape) + 0.5
    return np.array([(dark * column).sum(), (dark * row).sum()]) / dark.sum() / scale


def test_without_motion_colours_are_blended_by_position() -> None:
    a = image(np.full((240, 320, 3), 200, np.uint8))
    b = image(np.full((240, 320, 3), 100, np.uint8))
    images = section_images(a, b, LATTICE, [0.25, 0.5])
    assert images is not None
    assert [int(pixels[100, 100, 0]) for pixels, _ in images] == [200, 175, 150, 100]
    assert {pixels.shape for pixels, _ in images} == {(260, 340, 3)}  # a bin more to the right and below
    assert {scale for _, scale in images} == {2.0}


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_material_moves_on_a_straight_line(p: float) -> None:
    """A spot that moves from (60, 50) to (84, 62): at p it lies on the way, once, and not twice as in a blend."""
    start, end = np.array([60.0, 50.0]), np.array([84.0, 62.0])
    a, b = spot_at(*start), spot_at(*end)
    # What is at x lies at x - p (end - start) in the first section: d / (2 (1 - p)) is that.
    d = -2 * p * (1 - p) * (end - start)
    field = np.broadcast_to(d[:, None, None], (2, *LATTICE.shape))
    images = section_images(a, b, LATTICE, [p], displacement=[field])
    assert images is not None
    np.testing.assert_allclose(centre_of(images[1]), start + p * (end - start), atol=0.3)
    assert images[1][0].min() < 40  # as dark as in either section: a blend of the two would be pale
    blend = section_images(a, b, LATTICE, [p])
    assert blend is not None and blend[1][0].min() > 60


def test_swapping_the_sections_swaps_the_images() -> None:
    a, b = spot_at(60.0, 50.0), spot_at(84.0, 62.0)
    field = np.random.default_rng(0).normal(size=(2, *LATTICE.shape)) * 4
    one = section_images(a, b, LATTICE, [0.25], displacement=[field])
    other = section_images(b, a, LATTICE, [0.75], displacement=[-field])
    assert one is not None and other is not None
    assert np.abs(one[1][0].astype(int) - other[1][0]).max() <= 1


def test_equal_images_give_that_image_and_one_fills_in_for_the_other() -> None:
    a = spot_at(60.0, 50.0)
    half = image(a.levels[0][:, :160])  # of which only the left half was photographed
    for other in (a, half):
        images = section_images(a, other, LATTICE, [0.5])
        assert images is not None
        assert np.abs(images[1][0][:240, :320].astype(int) - a.levels[0]).max() <= 1


def test_no_image_without_both() -> None:
    a = spot_at(60.0, 50.0)
    assert section_images(a, None, LATTICE, [0.5]) is None
    assert section_images(None, a, LATTICE, [0.5]) is None
    beyond = Lattice((-500.0, -500.0), 10.0, (12, 16))
    assert section_images(a, a, beyond, [0.5]) is None  # squidpy's images begin at the origin


def test_an_image_lies_under_its_tissue_far_from_the_origin_and_stays_small() -> None:
    a = spot_at(60.0, 50.0)
    shifted = image(np.pad(a.levels[0], ((4000, 0), (3000, 0), (0, 0)), constant_values=255))
    lattice = Lattice((1505.0, 2005.0), 10.0, (12, 16))
    images = section_images(shifted, shifted, lattice, [0.5])
    assert images is not None
    assert max(images[1][0].shape) <= 4097
    np.testing.assert_allclose(centre_of(images[1]), [1560.0, 2050.0], atol=2.0)


# ---------------------------------------------------------------- in a result


def shifting(pair: SlicePair, at: np.ndarray, positions: Sequence[float], **other: object) -> Prediction:
    """Expression of "linear", and tissue that moves 40 units to the right from the first section to the second."""
    found = METHODS["linear"](pair, at, positions, **other)  # type: ignore[arg-type]
    field = np.zeros((len(positions), 2, *pair.lattice.shape), dtype=np.float32)
    field[:, 0] = [[[-80.0 * p * (1 - p)]] for p in positions]
    slices: tuple[InterpolatedSection, ...] = found.slices
    return Prediction(slices, {"displacement": field})


@pytest.fixture(scope="module")
def stained() -> list[AnnData]:
    return c2sti.datasets.phantom(seed=1, size=12, n_genes=20).series([0.0, 300.0])


@pytest.fixture(scope="module")
def result(stained: list[AnnData]) -> AnnData:
    return c2sti.tl.interpolate(*stained, n_slices=2, model="linear", show_progress_bar=False)


def test_a_result_names_what_was_painted(result: AnnData, stained: list[AnnData], tmp_path: Path) -> None:
    library = result.uns["spatial"]["c2sti"]
    assert result.uns["c2sti"]["virtual_histology"].tolist() == ["c2sti_1", "c2sti_2"]
    assert list(library["images"]) == ["hires", "slice_a", "c2sti_1", "c2sti_2", "slice_b"]
    np.testing.assert_array_equal(library["images"]["hires"], library["images"]["c2sti_1"])  # of X
    photo = next(iter(stained[0].uns["spatial"].values()))
    inner = np.s_[100:300, 100:300]  # the canvas ends with the lattice
    a = library["images"]["slice_a"].astype(int)[inner]
    assert library["scalefactors"]["tissue_slice_a_scalef"] == pytest.approx(
        photo["scalefactors"]["tissue_hires_scalef"]
    )
    pixels = np.asarray(photo["images"]["hires"])[inner]
    assert np.abs(a - (pixels if pixels.dtype == np.uint8 else 255 * pixels)).max() <= 1
    result.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(back.uns["spatial"]["c2sti"]["images"]["c2sti_2"], library["images"]["c2sti_2"])
    assert list(back.uns["c2sti"]["virtual_histology"]) == ["c2sti_1", "c2sti_2"]


def test_it_moves_as_the_model_says(result: AnnData, stained: list[AnnData]) -> None:
    moved = c2sti.tl.interpolate(*stained, n_slices=2, model=shifting, show_progress_bar=False)
    still = result.uns["spatial"]["c2sti"]["images"]
    found = moved.uns["spatial"]["c2sti"]["images"]
    assert np.abs(found["c2sti_1"].astype(int) - still["c2sti_1"]).mean() > 1
    for name in ("slice_a", "slice_b"):  # photographs stay where they are
        np.testing.assert_array_equal(found[name], still[name])


def test_without_images_it_is_blank_and_nothing_is_said_to_be_painted(stained: list[AnnData], tmp_path: Path) -> None:
    plain = stained[1].copy()
    del plain.uns["spatial"]
    out = c2sti.tl.interpolate(stained[0], plain, model="linear", show_progress_bar=False)
    assert out.uns["spatial"]["c2sti"]["images"]["hires"].min() == 255
    assert len(out.uns["c2sti"]["virtual_histology"]) == 0
    out.write_h5ad(tmp_path / "blank.h5ad")
    assert len(anndata.read_h5ad(tmp_path / "blank.h5ad").uns["c2sti"]["virtual_histology"]) == 0


def test_a_stained_section_keeps_its_own_image(stained: list[AnnData]) -> None:
    target = next(iter(stained[1].uns["spatial"].values()))
    out = c2sti.tl.interpolate(
        *stained, n_slices=2, model="linear", target_images=[None, target], show_progress_bar=False
    )
    assert out.uns["c2sti"]["virtual_histology"].tolist() == ["c2sti_1"]
    images = out.uns["spatial"]["c2sti"]["images"]
    np.testing.assert_array_equal(images["c2sti_2"], images["slice_b"])


@pytest.mark.parametrize("choice", [{}, {"img_res_key": "c2sti_2"}])
def test_squidpy_draws_a_layer_over_its_image(result: AnnData, choice: dict[str, str]) -> None:
    ax = plt.figure().gca()
    gene = result.var_names[0]
    sq.pl.spatial_scatter(result, color=gene, layer="c2sti_1", shape="square", ax=ax, **choice)
    expected = result.uns["spatial"]["c2sti"]["images"][choice.get("img_res_key", "c2sti_1")]
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), expected)
    plt.close("all")


def test_stacks_series_and_spatialdata_take_the_images_along(result: AnnData, stained: list[AnnData]) -> None:
    images = result.uns["spatial"]["c2sti"]["images"]
    stack = c2sti.tl.to_slices(result)
    for name in ("slice_a", "c2sti_1", "c2sti_2", "slice_b"):
        np.testing.assert_array_equal(stack.uns["spatial"][name]["images"]["hires"], images[name])
    sdata = c2sti.tl.to_spatialdata(result)
    np.testing.assert_array_equal(np.moveaxis(sdata["c2sti_2_histology"].values, 0, -1), images["c2sti_2"])
    told = {name: bool(t.uns["c2sti"]["virtual_histology"]) for name, t in sdata.tables.items()}
    assert told == {"slice_a": False, "c2sti_1": True, "c2sti_2": True, "slice_b": False}
    series = c2sti.tl.interpolate_series(
        stained, z=[0.0, 300.0], at_z=[0.0, 100.0, 300.0], model="linear", show_progress_bar=False
    )
    assert series.uns["c2sti"]["virtual_histology"].tolist() == ["c2sti_1"]  # the others were photographed
    for name, same in (("slice_0", "slice_a"), ("c2sti_1", "c2sti_1"), ("slice_1", "slice_b")):
        np.testing.assert_array_equal(series.uns["spatial"][name]["images"]["hires"], images[same])


def test_a_stack_shows_white_where_a_section_has_no_image(stained: list[AnnData]) -> None:
    bare = stained[0].copy()
    del bare.uns["spatial"]
    series = c2sti.tl.interpolate_series(
        [bare, stained[1]], z=[0.0, 300.0], spacing=150.0, model="linear", show_progress_bar=False
    )
    darkest = {name: series.uns["spatial"][name]["images"]["hires"].min() for name in series.uns["spatial"]}
    assert darkest["slice_0"] == darkest["c2sti_1"] == 255 > darkest["slice_1"]
