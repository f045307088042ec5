"""Images as people bring them: several libraries, odd names and scale factors, transparency, what cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti import io

SIDE, PITCH, PIXELS = 12, 10.0, 160
RED, BLUE, GREY = (200, 30, 30), (30, 30, 200), (100, 100, 100)


def section(seed: int, colour: Any = None, key: str = "S", *, shift: float = 0.0, **factors: Any) -> AnnData:
    """Square spots, 10 apart from (20, 20); even genes rise along x, odd ones along y; an image of one colour."""
    rng = np.random.default_rng(seed)
    y, x = (v.ravel().astype(float) for v in np.indices((SIDE, SIDE)))
    rate = np.where(np.arange(30) % 2 == 0, 0.3 + x[:, None] / SIDE, 0.3 + y[:, None] / SIDE) * 20
    adata = AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.var_names = [f"GENE{i}" for i in range(30)]
    adata.obs_names = [f"s{seed}_{i}" for i in range(adata.n_obs)]
    adata.obsm["spatial"] = np.column_stack([x, y]) * PITCH + 20 + [shift, 0]
    if colour is not None:
        adata.uns["spatial"] = {key: library(colour, **factors)}
    return adata


def library(colour: Any, name: str = "hires", scale: Any = 1.0, side: int = PIXELS, **factors: Any) -> dict[str, Any]:
    pixels = np.empty((side, side, np.size(colour)), np.uint8)
    pixels[:] = colour
    return {"images": {name: pixels}, "scalefactors": {f"tissue_{name}_scalef": scale, **factors}}


def interpolate(a: Any, b: Any, **keys: Any) -> AnnData:
    return c2sti.tl.interpolate(a, b, model="linear", show_progress_bar=False, **keys)


def shown(out: AnnData) -> dict[str, list[int]]:
    """Colour of the H&E of each section, amid the tissue."""
    images = out.uns["spatial"]["c2sti"]["images"]
    return {name: np.asarray(images[name])[80, 80].tolist() for name in ("slice_a", "c2sti_1", "slice_b")}


def virtual(out: AnnData) -> list[str]:
    return list(out.uns["c2sti"]["virtual_histology"])


def pair(colour: Any = GREY, **factors: Any) -> tuple[AnnData, AnnData]:
    return section(0, colour, "A", **factors), section(1, colour, "B", **factors)


# ---------------------------------------------------------------- whose image it is


def concatenated(label: str = "library_id") -> list[AnnData]:
    """Two sections of one object, parted again: each carries both libraries."""
    a, b = section(0, RED, "S1"), section(1, BLUE, "S2", shift=1.0)
    both = ad.concat({"S1": a, "S2": b}, label=label, uns_merge="unique", index_unique="-")
    return [both[both.obs[label] == name].copy() for name in ("S1", "S2")]


@pytest.mark.parametrize("label", ["library_id", "sample"])
def test_a_constant_column_names_the_image_of_a_section(label: str) -> None:
    one, two = concatenated(label)
    assert shown(interpolate(one, two)) == {"slice_a": list(RED), "c2sti_1": [115, 30, 115], "slice_b": list(BLUE)}
    c2sti.pp.align(one, two)
    assert (list(one.uns["spatial_aligned"]), list(two.uns["spatial_aligned"])) == (["S1"], ["S2"])
    assert two.uns["spatial_aligned"]["S2"]["images"]["hires"][80, 80].tolist() == list(BLUE)
    assert one.uns["alignment"]["reference"] == "S1"


def test_each_section_can_be_given_its_image() -> None:
    one, two = concatenated()
    for adata in (one, two):
        del adata.obs["library_id"]
    with pytest.raises(
        ValueError, match=r"slice_a has images of \['S1', 'S2'\].*image_key=\['S1', 'S2'\]\), or delete the others: del"
    ):
        interpolate(one, two)
    assert shown(interpolate(one, two, image_key=["S1", "S2"]))["c2sti_1"] == [115, 30, 115]
    assert shown(interpolate(one, two, image_key={"slice_a": "S2", "slice_b": "S1"}))["slice_a"] == list(BLUE)
    with pytest.raises(KeyError, match=r"slice_a has no image 'S3' in uns\['spatial'\]; it has \['S1', 'S2'\]"):
        interpolate(one, two, image_key="S3")


def test_one_name_for_both_does_not_give_both_one_image() -> None:
    one, two = concatenated()
    with pytest.warns(UserWarning, match=r"obs\['library_id'\] of slice_b says that its image is 'S2', which is used"):
        out = interpolate(one, two, image_key="S1")
    assert shown(out)["slice_b"] == list(BLUE)


def test_columns_that_name_different_images_name_none() -> None:
    one, two = concatenated()
    one.obs["slide"] = "S2"
    with pytest.raises(ValueError, match="slice_a has images of"):
        interpolate(one, two)


def test_the_image_of_another_section_is_not_taken() -> None:
    one, two = concatenated()
    two.obs["library_id"] = pd.Categorical(["S2"] * two.n_obs, categories=["S1", "S2"])
    del two.uns["spatial"]["S2"]
    with pytest.warns(UserWarning, match=r"image of slice_b is not used: obs\['library_id'\] says .* 'S2', .* of 'S1'"):
        out = interpolate(one, two)
    assert virtual(out) == []
    two.uns["spatial"]["S2"] = {}  # known, and without an image: nothing to warn about
    assert virtual(interpolate(one, two)) == []


def test_one_slide_under_both_sections_is_used_for_both() -> None:
    one, two = concatenated()
    for adata in (one, two):
        adata.uns["spatial"] = {"slide": library(GREY)}
    assert shown(interpolate(one, two))["slice_b"] == list(GREY)


def test_sections_of_one_object_have_their_own_images() -> None:
    one, two = concatenated()
    both = ad.concat([one, two], uns_merge="unique")
    assert shown(interpolate(both, None, library_key="library_id"))["c2sti_1"] == [115, 30, 115]
    c2sti.pp.align(both, library_key="library_id")
    assert list(both.uns["spatial_aligned"]) == ["S1", "S2"]
    assert shown(interpolate(both, None, library_key="library_id", spatial_key="spatial_aligned"))["slice_a"] == list(
        RED
    )


def test_another_column_may_name_the_image_of_each_section_of_one_object() -> None:
    one, two = concatenated()
    both = ad.concat([one, two], uns_merge="unique")
    both.obs["slide"] = both.obs.pop("library_id").astype(str)
    both.obs["patient"] = both.obs["slide"].map({"S1": "anna", "S2": "ben"})
    assert shown(interpolate(both, None, library_key="patient"))["c2sti_1"] == [115, 30, 115]
    del both.uns["spatial"]["S2"]
    with pytest.warns(UserWarning, match="image of ben is not used: .*'S2', and the only image .* is that of 'S1'"):
        assert virtual(interpolate(both, None, library_key="patient")) == []


def test_one_slide_that_is_moved_for_two_sections_is_kept_by_section() -> None:
    one, two = concatenated()
    two.obsm["spatial"] = two.obsm["spatial"] + [200.0, 0.0]
    both = ad.concat([one, two])
    slide = library(RED, side=400)
    slide["images"]["hires"][:, 190:] = BLUE
    both.uns["spatial"] = {"slide": slide}
    c2sti.pp.align(both, library_key="library_id", matrix=np.array([[1, 0, -201.0], [0, 1, 0]]))
    moved = both.uns["spatial_aligned"]
    assert list(moved) == ["S1", "S2"]
    out = interpolate(both, None, library_key="library_id", spatial_key="spatial_aligned")
    assert shown(out) == {"slice_a": list(RED), "c2sti_1": [115, 30, 115], "slice_b": list(BLUE)}


def test_entries_beside_the_libraries_are_passed_over() -> None:
    a, b = pair()
    for adata in (a, b):
        adata.uns["spatial"] = {"is_single": np.True_, **adata.uns["spatial"]}
    c2sti.pp.align(a, b)
    assert (list(a.uns["spatial_aligned"]), list(b.uns["spatial_aligned"])) == (["A"], ["B"])
    assert shown(interpolate(a, b))["slice_b"] == list(GREY)


# ---------------------------------------------------------------- resolutions, scale factors, keys


def test_any_resolution_with_a_scale_factor_is_used() -> None:
    a, b = section(0), section(1)
    for adata, colour in ((a, RED), (b, BLUE)):
        adata.uns["spatial"] = {"ST": library(colour, "downscaled_fullres")}
    assert shown(interpolate(a, b))["c2sti_1"] == [115, 30, 115]


def test_hires_goes_first_and_then_the_finest() -> None:
    adata = section(0)
    held: dict[str, Any] = {"images": {}, "scalefactors": {}}
    for name, scale in (("coarse", 0.5), ("fine", 2.0), ("lowres", 0.25)):
        held["images"][name] = np.full((int(PIXELS * scale), int(PIXELS * scale), 3), 90, np.uint8)
        held["scalefactors"][f"tissue_{name}_scalef"] = scale
    adata.uns["spatial"] = {"S": held}
    assert io.read_slice(adata).image.scale == 0.25  # type: ignore[union-attr]
    held["images"].pop("lowres")
    assert io.read_slice(adata).image.scale == 2.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value", [1, np.float32(1), np.array(1.0), np.array([1.0]), "1.0", np.str_("1"), np.array(1, dtype=object)]
)
def test_scale_factors_are_numbers_in_any_form(value: Any) -> None:
    a, b = pair(RED, scale=value)
    assert shown(interpolate(a, b))["slice_a"] == list(RED)
    c2sti.pp.align(a, b, matrix=np.diag([0.5, 0.5, 1])[:2], use="expression")
    assert b.uns["spatial_aligned"]["B"]["scalefactors"]["tissue_hires_scalef"] == 2.0


@pytest.mark.filterwarnings("ignore:moving fits")
def test_scale_factors_move_by_their_units() -> None:
    a, b = pair()
    kept = {"unit": "pixel", "fiducial_diameter_fullres": None, "bin_size_um": 8.0, "transformation_matrix": np.eye(3)}
    b.uns["spatial"]["B"]["scalefactors"] |= {
        "spot_diameter_fullres": 6.0,
        "nucleus_diameter_fullres": "4",
        "regist_target_img_scalef": 0.5,
        "microns_per_pixel": 0.5,
        "mpp": 0.25,
        **kept,
    }
    c2sti.pp.align(a, b, matrix=np.diag([0.5, 0.5, 1])[:2])
    found = b.uns["spatial_aligned"]["B"]["scalefactors"]
    assert {key: found.pop(key) for key in kept} == kept
    assert found == {
        "tissue_hires_scalef": 2.0,
        "spot_diameter_fullres": 3.0,
        "nucleus_diameter_fullres": 2.0,
        "regist_target_img_scalef": 1.0,
        "microns_per_pixel": 1.0,
        "mpp": 0.5,
    }


@pytest.mark.parametrize("held", [{"images": {}}, {"images": {}, "scalefactors": None}, {"images": None}, {}])
def test_a_library_without_images_is_none(held: dict[str, Any]) -> None:
    a, b = section(0), section(1)
    a.uns["spatial"], b.uns["spatial"] = {"A": held}, {"B": held}
    c2sti.pp.align(a, b)
    assert "spatial_aligned" not in b.uns
    assert virtual(interpolate(a, b)) == []


def test_images_lie_under_coordinates_of_another_key() -> None:
    a, b = section(0, RED, "A"), section(1, BLUE, "B")
    for adata in (a, b):
        adata.obsm["X_spatial"] = adata.obsm.pop("spatial")
    keys: dict[str, Any] = {"spatial_key": "X_spatial"}
    assert shown(interpolate(a, b, **keys))["c2sti_1"] == [115, 30, 115]
    c2sti.pp.align(a, b, matrix=np.eye(3), **keys)
    assert list(b.uns["spatial_aligned"]) == ["B"]
    for adata in (a, b):
        adata.obsm["spatial"] = adata.obsm["X_spatial"].copy()
    assert shown(interpolate(a, b, **keys))["slice_b"] == list(BLUE)
    b.obsm["spatial"] = b.obsm["spatial"] + 5
    with pytest.warns(
        UserWarning, match=r"slice_b is not used: uns\['spatial'\]\['B'\] lies in the frame of obsm\['spatial'\]"
    ):
        assert virtual(interpolate(a, b, **keys)) == []


# ---------------------------------------------------------------- what cannot be used


def spoil(change: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda held: held["images"].update(hires=change(held["images"]["hires"]))


UNUSABLE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no scale factor": (
        lambda held: held["scalefactors"].clear(),
        r"\['tissue_hires_scalef'\] is None and no",
    ),
    "a scale factor in words": (
        lambda held: held["scalefactors"].update(tissue_hires_scalef="half"),
        r"\['tissue_hires_scalef'\] is 'half' and no positive number",
    ),
    "a scale factor of 0": (
        lambda held: held["scalefactors"].update(tissue_hires_scalef=0.0),
        "is 0.0 and no",
    ),
    "another scale": (
        lambda held: held["scalefactors"].update(tissue_hires_scalef=50.0),
        r"\['hires'\] lies under 0% of the spots: it has 160 x 160 pixels, .* from pixel \[1000, 1000\]",
    ),
    "16 bits": (
        spoil(lambda p: p.astype(np.uint16) * 257),
        r"holds uint16 from 2.57e\+04 .*\(image // 256\)",
    ),
    "floats to 255": (spoil(lambda p: p.astype(np.float32)), r"holds float32 from 100 to 100; .* floats in \[0, 1\]"),
    "colours first": (spoil(lambda p: np.moveaxis(p, -1, 0)), r"shape \(3, 160, 160\).*np\.moveaxis\(image, 0, -1\)"),
    "grey": (spoil(lambda p: p[..., 0]), r"shape \(160, 160\).*np\.dstack\(\[image\] \* 3\)"),
    "a path": (spoil(lambda p: "tissue.png"), r"shape \(\)"),
    "images are a list": (lambda held: held.update(images=[1]), r"\['images'\] is a list; a dict"),
    "scale factors are a number": (lambda held: held.update(scalefactors=0.5), r"\['scalefactors'\] is a float"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_image_that_cannot_be_used_blocks_nothing_else(case: str) -> None:
    spoiled, reason = UNUSABLE[case]
    a, b = section(0, GREY, "A"), section(1, GREY, "B")
    spoiled(b.uns["spatial"]["B"])
    with pytest.warns(UserWarning, match="the image of slice_b is not used: .*" + reason):
        out = interpolate(a, b)
    assert virtual(out) == []
    with pytest.raises(ValueError, match="the image of slice_b cannot be used: .*" + reason):
        interpolate(a, b, image_key=["A", "B"])


def test_sections_are_aligned_without_an_image_that_cannot_be_used() -> None:
    spoiled, reason = UNUSABLE["grey"]
    a, b = section(0, GREY, "A"), section(1, GREY, "B")
    spoiled(b.uns["spatial"]["B"])
    with pytest.warns(UserWarning, match="the image of moving is not used: .*" + reason):
        c2sti.pp.align(a, b)
    assert "spatial_aligned" in b.obsm
    with (
        pytest.warns(UserWarning, match="the image of moving is not used"),
        pytest.raises(ValueError, match="needs an H&E image of both .* the image of moving is not used: .*" + reason),
    ):
        c2sti.pp.align(a, b, use="histology")


@pytest.mark.parametrize("held", [[1], np.zeros((9, 9, 3)), "tissue.png"])
def test_uns_that_holds_no_dict_blocks_nothing(held: Any) -> None:
    a, b = pair()
    b.uns["spatial"] = held
    with pytest.warns(UserWarning, match=rf"uns\['spatial'\] is a {type(held).__name__}; a dict by squidpy's"):
        assert virtual(interpolate(a, b)) == []


def test_another_resolution_stands_in_for_one_that_cannot_be_used() -> None:
    a, b = pair(RED)
    for adata, key in ((a, "A"), (b, "B")):
        held = adata.uns["spatial"][key]
        held["images"]["lowres"] = held["images"]["hires"][::2, ::2]
        held["images"]["hires"] = held["images"]["hires"].astype(np.uint16)
        held["scalefactors"]["tissue_lowres_scalef"] = 0.5
    out = interpolate(a, b)
    assert np.asarray(out.uns["spatial"]["c2sti"]["images"]["slice_a"])[40, 40].tolist() == list(RED)


def test_the_warning_points_to_the_line_of_the_caller() -> None:
    a, b = pair(scale=None)
    with pytest.warns(UserWarning, match="is not used") as told:
        interpolate(a, b)
    assert {Path(one.filename).name for one in told} == {Path(__file__).name}


# ---------------------------------------------------------------- alpha


@pytest.mark.parametrize("floats", [False, True])
def test_alpha_is_laid_on_white(floats: bool) -> None:
    """Opaque above, half transparent below, black glass that is transparent at the left."""
    a, b = pair((100, 50, 200, 255))
    for adata, key in ((a, "A"), (b, "B")):
        pixels = adata.uns["spatial"][key]["images"]["hires"]
        pixels[90:, :, 3] = 51
        pixels[:, :30] = 0
        if floats:
            adata.uns["spatial"][key]["images"]["hires"] = (pixels / 255).astype(np.float32)
    out = np.asarray(interpolate(a, b).uns["spatial"]["c2sti"]["images"]["c2sti_1"])
    assert [out[at].tolist() for at in ((60, 60), (120, 60), (60, 15))] == [
        [100, 50, 200],
        [224, 214, 244],  # 255 + (colour - 255) / 5
        [255, 255, 255],
    ]
    original = c2sti.tl.to_spatialdata(interpolate(a, b), originals={"one": a})["one_histology"]
    assert original.isel(x=15, y=60).data.compute().tolist() == [255, 255, 255]


def test_a_moved_image_with_alpha_has_three_channels_and_white_glass() -> None:
    a, b = pair((100, 50, 200, 255))
    for adata, key in ((a, "A"), (b, "B")):
        adata.uns["spatial"][key]["images"]["hires"][:, :30] = 0
    c2sti.pp.align(a, b, matrix=np.array([[1.0, 0, 0.0], [0, 1, 1e-9]]))
    moved = b.uns["spatial_aligned"]["B"]["images"]["hires"]
    assert moved.shape[2] == 3
    assert (moved[60, 15].tolist(), moved[60, 60].tolist()) == ([255, 255, 255], [100, 50, 200])


@pytest.mark.filterwarnings("ignore:moving fits")
def test_an_image_that_cannot_be_moved_does_not_stop_the_others() -> None:
    a, b = pair()
    b.uns["spatial"]["B"]["images"] |= {"first": np.zeros((3, 160, 160), np.uint8), "path": "a.png", "none": None}
    b.uns["spatial"]["B"]["scalefactors"] |= {"tissue_first_scalef": 1.0, "tissue_path_scalef": 1.0}
    c2sti.pp.align(a, b, matrix=np.array([[1, 0, 5.0], [0, 1, 0]]))
    assert list(b.uns["spatial_aligned"]["B"]["images"]) == ["hires"]
