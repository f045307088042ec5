from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import spatialdata as sd
import squidpy as sq
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, get_transformation

import c2sti.pp._align as align_module
from c2sti.datasets import Phantom, phantom
from c2sti.io import SliceGrid, read_slice
from c2sti.io._libraries import Library
from c2sti.pp import align, align_series
from c2sti.pp._estimate import unit_ratio
from c2sti.pp._write import background, warped

PITCH = 100.0
COUNTS = 2000  # a spot, few for Visium
TURNED: dict[str, Any] = {"angle": 37.0, "shift": (150.0, -80.0)}
Pair = tuple[AnnData, AnnData]


@pytest.fixture(scope="module")
def still() -> Phantom:
    """A tissue without motion: its sections differ in biology, noise and where they lie."""
    return phantom(seed=0, size=20, n_genes=200, motion=0.0)


@pytest.fixture(scope="module")
def _fixed(still: Phantom) -> AnnData:
    return still.section(0.0, library_size=COUNTS)


@pytest.fixture(scope="module")
def _moved(still: Phantom) -> AnnData:
    return still.section(50.0, library_size=COUNTS, **TURNED)


@pytest.fixture
def fixed(_fixed: AnnData) -> AnnData:
    return _fixed.copy()


@pytest.fixture
def moved(_moved: AnnData) -> AnnData:
    return _moved.copy()


def truth(fixed: AnnData, moved: AnnData) -> np.ndarray:
    """The matrix that lays one section of a phantom on another."""
    return fixed.uns["section"]["placement"] @ np.linalg.inv(moved.uns["section"]["placement"])


def apply(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return xy[:, :2] @ matrix[:2, :2].T + matrix[:2, 2]


def error(moved: AnnData, expected: np.ndarray) -> float:
    """Mean distance of the spots from where they belong, in pitches."""
    there = apply(expected, moved.obsm["spatial"])
    return float(np.linalg.norm(moved.obsm["spatial_aligned"] - there, axis=1).mean() / PITCH)


def matrix_of(section: AnnData) -> np.ndarray:
    return section.uns["alignment"]["matrix"]


def contents(section: AnnData) -> tuple[set[str], set[str], np.ndarray]:
    return set(section.obsm), set(section.uns), section.obsm["spatial"].copy()


# ------------------------------------------------------------------ recovery


def cropped(section: AnnData) -> AnnData:
    x = section.obsm["spatial"][:, 0]
    return section[x > np.quantile(x, 0.4)].copy()


def thinned(section: AnnData) -> AnnData:
    return section[np.random.default_rng(0).random(section.n_obs) > 0.3].copy()


@pytest.mark.parametrize(
    ("how", "spoil", "flip"),
    [
        ({"angle": -110.0, "shift": (50.0, 60.0)}, cropped, False),
        ({"angle": 200.0, "shift": (-100.0, 20.0)}, thinned, False),
        ({"angle": 75.0, "shift": (40.0, 0.0), "flip": True}, lambda s: s, True),
    ],
    ids=["40 % cut off", "30 % of the spots lost", "mirrored"],
)
def test_known_moves_are_recovered(
    still: Phantom, fixed: AnnData, how: dict[str, Any], spoil: Callable[[AnnData], AnnData], flip: bool
) -> None:
    moved = spoil(still.section(50.0, library_size=COUNTS, **how))
    assert align(fixed, moved, flip=flip) is None
    expected = truth(fixed, moved)
    assert error(moved, expected) < 0.2
    record = moved.uns["alignment"]
    turn = how["angle"] if flip else -how["angle"]
    # 1.5 degrees move the spots of a section as small as this by 0.2 pitches.
    assert abs((record["angle_deg"] - turn + 180) % 360 - 180) < 1.5
    assert record["flipped"] is flip
    assert record["fit"] > 0.5


def test_expression_alone_recovers_a_move_and_histology_alone_too(fixed: AnnData, moved: AnnData) -> None:
    for use in ("expression", "histology"):
        align(fixed, moved, use=use)
        assert error(moved, truth(fixed, moved)) < 0.3, use


def test_cells_are_aligned(still: Phantom) -> None:
    cells = [still.section(z, layout="cells", image=False, **how) for z, how in ((0.0, {}), (50.0, TURNED))]
    align(*cells)
    assert error(cells[1], truth(*cells)) < 0.2


def test_units_may_differ(fixed: AnnData, moved: AnnData) -> None:
    expected = truth(fixed, moved) @ np.diag([0.4, 0.4, 1])
    moved.obsm["spatial"] = moved.obsm["spatial"] * 2.5
    library = next(iter(moved.uns["spatial"].values()))
    library["scalefactors"] = {
        "tissue_hires_scalef": library["scalefactors"]["tissue_hires_scalef"] / 2.5,
        "spot_diameter_fullres": library["scalefactors"]["spot_diameter_fullres"] * 2.5,
    }
    align(fixed, moved)
    assert error(moved, expected) < 0.2
    assert moved.uns["alignment"]["scale"] == pytest.approx(0.4, rel=1e-6)
    reference = next(iter(fixed.uns["spatial_aligned"].values()))["scalefactors"]
    aligned = next(iter(moved.uns["spatial_aligned"].values()))["scalefactors"]
    for key, value in reference.items():
        assert aligned[key] == pytest.approx(value, rel=1e-6)


def test_a_scale_that_is_given_is_used(fixed: AnnData, moved: AnnData) -> None:
    moved.obsm["spatial"] = moved.obsm["spatial"] * 1.02
    del moved.uns["spatial"]
    align(fixed, moved, scale=1 / 1.02)
    assert moved.uns["alignment"]["scale"] == pytest.approx(1 / 1.02)


def _grid(layout: str, pitch: float, n: int) -> SliceGrid:
    one = SliceGrid("x", np.zeros((n, 2)), None, True, None, None, layout, pitch)  # type: ignore[arg-type]
    return one


@pytest.mark.parametrize(
    ("reference", "moving", "ratio"),
    [
        (("square", 100, 300), ("square", 102, 280), 1.0),  # noise of the estimate
        (("square", 752, 170), ("square", 343, 150), 752 / 343),  # two units
        (("square", 110, 300), ("square", 100, 300), 1.1),
        (("cells", 110, 3000), ("cells", 100, 3000), 1.0),  # density differs, the unit does not
        (("cells", 40, 3000), ("cells", 188, 2800), 40 / 188),  # µm and pixels
        (("hex", 100, 3000), ("square", 8, 430_000), 1.0),  # two platforms, both in µm
    ],
)
def test_unit_ratio(reference: tuple[str, float, int], moving: tuple[str, float, int], ratio: float) -> None:
    assert unit_ratio(_grid(*reference), _grid(*moving)) == pytest.approx(ratio)


def test_affine_recovers_a_shear_that_rigid_cannot(fixed: AnnData, moved: AnnData) -> None:
    bend = np.array([[1.06, 0.05, 10.0], [0.0, 0.95, -20.0], [0, 0, 1]])
    expected = truth(fixed, moved) @ np.linalg.inv(bend)
    moved.obsm["spatial"] = apply(bend, moved.obsm["spatial"])
    del moved.uns["spatial"]
    align(fixed, moved, method="rigid", scale=1.0)
    rigid = error(moved, expected)
    align(fixed, moved, method="affine", scale=1.0)
    assert error(moved, expected) < min(0.2, 0.7 * rigid)


# ------------------------------------------------------------------ what is judged


def test_unrelated_sections_are_warned_about(fixed: AnnData) -> None:
    stranger = phantom(seed=9, size=20, n_genes=200).section(0.0, image=False)
    with pytest.warns(UserWarning, match=r"moving fits reference poorly: fit 0\.\d+.*flip=True"):
        align(fixed, stranger)
    assert stranger.uns["alignment"]["fit"] < 0.35


def test_the_fit_of_a_wrong_placement_is_low(fixed: AnnData, moved: AnnData) -> None:
    right = truth(fixed, moved)
    align(fixed, moved, matrix=right)
    good = moved.uns["alignment"]["fit"]
    centre = fixed.obsm["spatial"].mean(axis=0)
    around = np.array([[-1, 0, 2 * centre[0]], [0, -1, 2 * centre[1]], [0, 0, 1]])
    with pytest.warns(UserWarning, match="poorly"):
        align(fixed, moved, matrix=around @ right)
    assert moved.uns["alignment"]["fit"] < 0.5 * good
    away = np.array([[1, 0, 1e6], [0, 1, 0], [0, 0, 1.0]])
    with pytest.warns(UserWarning, match="poorly"):
        align(fixed, moved, matrix=away)
    assert moved.uns["alignment"]["fit"] == 0
    library = next(iter(moved.uns["spatial_aligned"].values()))
    assert max(library["images"]["hires"].shape) <= 4 * max(
        next(iter(moved.uns["spatial"].values()))["images"]["hires"].shape
    )
    assert 1e6 * library["scalefactors"]["tissue_hires_scalef"] < library["images"]["hires"].shape[1]


# ------------------------------------------------------------------ what is written


def test_both_sections_share_a_frame_and_nothing_else_changes(fixed: AnnData, moved: AnnData) -> None:
    before = moved.copy()
    align(fixed, moved)
    assert error(moved, truth(fixed, moved)) < 0.2
    np.testing.assert_array_equal(fixed.obsm["spatial_aligned"], fixed.obsm["spatial"])
    np.testing.assert_allclose(moved.obsm["spatial_aligned"], apply(matrix_of(moved), moved.obsm["spatial"]))
    library = next(iter(fixed.uns["spatial"]))
    assert fixed.uns["spatial_aligned"][library] is fixed.uns["spatial"][library]
    stays = fixed.uns["alignment"]
    np.testing.assert_array_equal(stays["matrix"], np.eye(3))
    assert (stays["method"], stays["angle_deg"], stays["scale"]) == ("reference", 0.0, 1.0)
    record = moved.uns["alignment"]
    assert record["reference"] == library
    assert record["method"] == "rigid"
    centres = [moved.obsm[key].mean(axis=0) for key in ("spatial_aligned", "spatial")]
    np.testing.assert_allclose(record["shift"], centres[0] - centres[1])
    assert set(moved.uns) == {*before.uns, "spatial_aligned", "alignment"}
    assert set(moved.obsm) == {"spatial", "spatial_aligned"}
    np.testing.assert_array_equal(moved.obsm["spatial"], before.obsm["spatial"])
    np.testing.assert_array_equal(moved.X.toarray(), before.X.toarray())
    pictures = [next(iter(s.uns["spatial"].values()))["images"]["hires"] for s in (moved, before)]
    np.testing.assert_array_equal(*pictures)


def test_copy_leaves_the_inputs_alone(fixed: AnnData, moved: AnnData) -> None:
    before = [contents(s) for s in (fixed, moved)]
    pair = align(fixed, moved, matrix=truth(fixed, moved), copy=True)
    assert pair is not None
    for section, (obsm, uns, xy) in zip((fixed, moved), before, strict=True):
        assert set(section.obsm) == obsm and set(section.uns) == uns
        np.testing.assert_array_equal(section.obsm["spatial"], xy)
    assert all("spatial_aligned" in s.obsm for s in pair)


def test_depth_stays_in_its_column(fixed: AnnData, moved: AnnData) -> None:
    moved.obsm["spatial"] = np.column_stack([moved.obsm["spatial"], np.full(moved.n_obs, 50.0)])
    align(fixed, moved, matrix=truth(fixed, moved))
    assert moved.obsm["spatial_aligned"].shape == (moved.n_obs, 3)
    assert (moved.obsm["spatial_aligned"][:, 2] == 50).all()


def test_written_keys_survive_h5ad(fixed: AnnData, moved: AnnData, tmp_path: Path) -> None:
    align(fixed, moved, matrix=truth(fixed, moved))
    for section, name in ((fixed, "fixed"), (moved, "moved")):
        path = tmp_path / f"{name}.h5ad"
        section.write_h5ad(path)
        back = ad.read_h5ad(path)
        np.testing.assert_array_equal(back.obsm["spatial_aligned"], section.obsm["spatial_aligned"])
        library = next(iter(section.uns["spatial_aligned"]))
        np.testing.assert_array_equal(
            back.uns["spatial_aligned"][library]["images"]["hires"],
            section.uns["spatial_aligned"][library]["images"]["hires"],
        )
    for key, value in moved.uns["alignment"].items():
        np.testing.assert_array_equal(back.uns["alignment"][key], value)
    aligned = read_slice(back, spatial_key="spatial_aligned")
    assert aligned.image is not None


def test_the_outcome_is_logged(fixed: AnnData, moved: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(align_module._logging, "info", lines.append)
    align(fixed, moved, matrix=truth(fixed, moved))
    assert lines[-2].startswith("moving on reference: rotated by -37.0°, fit 0.")
    assert lines[-1] == "added 'spatial_aligned' (obsm) and uns['alignment'] to reference, moving"


# ------------------------------------------------------------------ H&E

GREEN = np.array([0, 255, 0], dtype=np.uint8)


def marked(section: AnnData, spots: list[int], at: str = "spatial") -> AnnData:
    """The section with a green square of 5 pixels around each of some spots."""
    library = next(iter(section.uns[at].values()))
    picture = library["images"]["hires"].copy()
    for column, row in np.floor(section.obsm[at][spots] * library["scalefactors"]["tissue_hires_scalef"]).astype(int):
        picture[row - 2 : row + 3, column - 2 : column + 3] = GREEN
    library["images"] = {"hires": picture}
    return section


def green(section: AnnData, near: np.ndarray, reach: float, at: str) -> np.ndarray:
    """Centre of what is green around a point, in the unit of the frame."""
    library = next(iter(section.uns[at].values()))
    picture = library["images"]["hires"].astype(float)
    rows, columns = np.nonzero((picture[..., 1] - picture[..., [0, 2]].max(axis=-1)) > 100)
    points = (np.column_stack([columns, rows]) + 0.5) / library["scalefactors"]["tissue_hires_scalef"]
    return points[np.linalg.norm(points - near, axis=1) < reach].mean(axis=0)


@pytest.mark.parametrize(
    "extra",
    [np.eye(3), np.array([[1.3, 0.1, 50.0], [-0.05, 1.25, 20.0], [0, 0, 1]]), np.diag([0.5, 0.5, 1.0])],
    ids=["rigid", "affine", "scale"],
)
def test_a_marked_pixel_stays_under_its_spot(fixed: AnnData, moved: AnnData, extra: np.ndarray) -> None:
    matrix = extra @ truth(fixed, moved)
    spots = [60, 100, 170]
    marked(moved, spots)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the fit of a placement that is wrong on purpose
        align(fixed, moved, matrix=matrix, use="expression")
    library = next(iter(moved.uns["spatial_aligned"].values()))
    pixel = 1 / library["scalefactors"]["tissue_hires_scalef"]
    for spot in spots:
        here = moved.obsm["spatial_aligned"][spot]
        # The square was painted on whole pixels: half a pixel before, and interpolation after.
        assert np.linalg.norm(green(moved, here, 8 * pixel, "spatial_aligned") - here) < 1.2 * pixel


def test_the_moved_picture_shows_all_moved_tissue(fixed: AnnData, moved: AnnData) -> None:
    far = np.array([[1, 0, 700.0], [0, 1, 900.0], [0, 0, 1]]) @ truth(fixed, moved)
    with pytest.warns(UserWarning, match="poorly"):
        align(fixed, moved, matrix=far, use="expression")
    library = next(iter(moved.uns["spatial_aligned"].values()))
    height, width = library["images"]["hires"].shape[:2]
    furthest = moved.obsm["spatial_aligned"].max(axis=0) * library["scalefactors"]["tissue_hires_scalef"]
    assert (furthest < (width, height)).all()
    old = next(iter(moved.uns["spatial"].values()))["images"]["hires"]
    np.testing.assert_allclose(library["images"]["hires"][0, 0], background(old), atol=1)
    assert library["images"]["hires"].dtype == np.uint8


def test_tissue_moved_to_negative_coordinates_keeps_its_spots(fixed: AnnData, moved: AnnData) -> None:
    del fixed.uns["spatial"]
    away = np.array([[1, 0, -1e5], [0, 1, -1e5], [0, 0, 1.0]])
    with pytest.warns(UserWarning, match="poorly"):
        align(fixed, moved, matrix=away)
    assert (moved.obsm["spatial_aligned"] < 0).all()
    assert next(iter(moved.uns["spatial_aligned"].values()))["scalefactors"]["tissue_hires_scalef"] > 0


def test_background_is_the_glass_even_where_tissue_reaches_the_border() -> None:
    picture = np.full((50, 80, 3), (240, 230, 235), dtype=np.uint8)
    picture[:20, :35] = (120, 40, 110)
    np.testing.assert_array_equal(background(picture), [240, 230, 235])


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # squidpy's with matplotlib 3.11
def test_squidpy_draws_the_moved_picture(fixed: AnnData, moved: AnnData) -> None:
    align(fixed, moved, matrix=truth(fixed, moved))
    picture = next(iter(moved.uns["spatial_aligned"].values()))
    _, ax = plt.subplots()
    sq.pl.spatial_scatter(
        moved,
        spatial_key="spatial_aligned",
        img=picture["images"]["hires"],
        scale_factor=picture["scalefactors"]["tissue_hires_scalef"],
        ax=ax,
    )
    assert len(ax.images) == 1
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), picture["images"]["hires"])
    plt.close("all")


# ------------------------------------------------------------------ SpatialData


def as_spatialdata(section: AnnData) -> SpatialData:
    """Spots as circles in pixels of half a µm, with an image, and a coordinate system in µm."""
    table = section.copy()
    library = next(iter(table.uns.pop("spatial").values()))
    table.obs["region"] = "spots"
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["instance"] = np.arange(table.n_obs)
    half = Affine(np.diag([0.5, 0.5, 1]), input_axes=("x", "y"), output_axes=("x", "y"))
    micron = 1 / library["scalefactors"]["tissue_hires_scalef"]
    pixel = Affine(np.diag([micron, micron, 1]), input_axes=("x", "y"), output_axes=("x", "y"))
    return SpatialData(
        shapes={
            "spots": ShapesModel.parse(
                table.obsm["spatial"] * 2, geometry=0, radius=50.0, transformations={"global": half}
            )
        },
        images={
            "he": Image2DModel.parse(
                np.moveaxis(library["images"]["hires"], -1, 0),
                dims=("c", "y", "x"),
                transformations={"global": pixel, "elsewhere": pixel},
            )
        },
        tables={
            "table": TableModel.parse(table, region="spots", region_key="region", instance_key="instance"),
        },
    )


def test_spatialdata_gets_a_coordinate_system(fixed: AnnData, moved: AnnData) -> None:
    first, second = as_spatialdata(fixed), as_spatialdata(moved)
    before = get_transformation(second["he"], get_all=True)
    assert align(first, second) is None
    matrix = second.tables["table"].uns["alignment"]["matrix"]
    align(fixed, moved, matrix=matrix)
    assert error(moved, truth(fixed, moved)) < 0.2

    for sdata, section in ((first, fixed), (second, moved)):
        centroids = sd.get_centroids(sdata["spots"], coordinate_system="spatial_aligned").compute()
        np.testing.assert_allclose(centroids[["x", "y"]], section.obsm["spatial_aligned"], atol=0.5)
        grid = read_slice(sdata, coordinate_system="spatial_aligned")
        np.testing.assert_allclose(grid.xy, section.obsm["spatial_aligned"], atol=0.5)
    after = get_transformation(second["he"], get_all=True)
    old, new = (t.to_affine_matrix(("x", "y"), ("x", "y")) for t in (after["global"], after["spatial_aligned"]))
    np.testing.assert_allclose(new, matrix @ old)
    assert after["global"] == before["global"] and after["elsewhere"] == before["elsewhere"]
    assert first.tables["table"].uns["alignment"]["method"] == "reference"


def test_spatialdata_is_copied_and_mixed_with_anndata(fixed: AnnData, moved: AnnData) -> None:
    original = as_spatialdata(moved)
    pair = align(fixed, original, matrix=truth(fixed, moved), copy=True)
    assert pair is not None
    copy = pair[1]
    assert isinstance(copy, SpatialData)
    assert "spatial_aligned" in copy.coordinate_systems and "spatial_aligned" not in original.coordinate_systems
    assert "alignment" not in original.tables["table"].uns
    assert "spatial_aligned" in pair[0].obsm and "spatial_aligned" not in fixed.obsm


def test_spatialdata_refuses_what_it_cannot_do(fixed: AnnData, moved: AnnData) -> None:
    first, second = as_spatialdata(fixed), as_spatialdata(moved)
    with pytest.raises(ValueError, match="key_added='global' is coordinate_system"):
        align(first, second, key_added="global")
    del second.images["he"]
    with pytest.raises(ValueError, match="and moving has none"):
        align(first, second, use="histology")


# ------------------------------------------------------------------ series


@pytest.fixture
def three(still: Phantom) -> list[AnnData]:
    angles = (0.0, 60.0, 130.0)
    return [still.section(50.0 * i, angle=angle, image=False) for i, angle in enumerate(angles)]


def test_a_chain_is_the_composition_of_its_links(three: list[AnnData]) -> None:
    links = []
    for first, second in zip(three[:-1], three[1:], strict=True):
        pair = align(first, second, copy=True)
        assert pair is not None
        links.append(matrix_of(pair[1]))
    assert align_series(three) is None
    np.testing.assert_array_equal(matrix_of(three[1]), links[0])  # to the bit: nothing is random
    np.testing.assert_allclose(matrix_of(three[2]), links[0] @ links[1])
    np.testing.assert_array_equal(matrix_of(three[0]), np.eye(3))
    assert [s.uns["alignment"]["aligned_to"] for s in three[1:]] == ["slices[0]", "slices[1]"]
    assert all(s.uns["alignment"]["reference"] == "slices[0]" for s in three[1:])
    for section in three[1:]:
        assert error(section, truth(three[0], section)) < 0.3


@pytest.mark.parametrize("chain", [True, False])
def test_any_section_can_be_the_reference(three: list[AnnData], chain: bool) -> None:
    aligned = align_series(three, reference=-1, chain=chain, copy=True)
    assert aligned is not None and "spatial_aligned" not in three[0].obsm
    np.testing.assert_array_equal(aligned[2].obsm["spatial_aligned"], three[2].obsm["spatial"])
    assert aligned[0].uns["alignment"]["aligned_to"] == ("slices[1]" if chain else "slices[2]")
    for section in aligned[:2]:
        assert error(section, truth(three[2], section)) < 0.3


# ------------------------------------------------------------------ errors


def test_nothing_is_written_when_something_fails(
    fixed: AnnData, moved: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [contents(s) for s in (fixed, moved)]
    calls = []

    def breaks(*args: Any) -> Callable[[], None]:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("the image of the second section")
        return stage(*args)

    stage = align_module.stage
    monkeypatch.setattr(align_module, "stage", breaks)
    with pytest.raises(MemoryError):
        align(fixed, moved, matrix=truth(fixed, moved))
    for section, (obsm, uns, _) in zip((fixed, moved), before, strict=True):
        assert set(section.obsm) == obsm and set(section.uns) == uns


def test_without_simpleitk_a_matrix_can_be_given(
    fixed: AnnData, moved: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ImportError, match=r'pip install "c2sti\[registration\]"'):
        align(fixed, moved)
    matrix = truth(fixed, moved)
    align(fixed, moved, matrix=matrix[:2])
    np.testing.assert_array_equal(matrix_of(moved), matrix)
    assert moved.uns["alignment"]["method"] == "given"
    assert moved.uns["alignment"]["fit"] > 0.5


def test_sections_are_checked(fixed: AnnData, moved: AnnData) -> None:
    with pytest.raises(ValueError, match="one object is given as two sections"):
        align(fixed, fixed)
    with pytest.raises(KeyError, match=r"moving has no coordinates in obsm\['spatial'\]"):
        align(fixed, AnnData(np.ones((30, 2))))
    with pytest.raises(ValueError, match="2 or more are needed"):
        align_series([fixed])
    with pytest.raises(ValueError, match="reference = 5 must be a whole number from -2 to 1"):
        align_series([fixed, moved], reference=5)
    with pytest.raises(ValueError, match="share 2 of 2 and 2 genes; at least 3 are needed"):
        align(fixed[:, :2].copy(), moved[:, :2].copy())
    del moved.uns["spatial"]
    with pytest.raises(ValueError, match="needs an H&E image of both sections, and moving has none"):
        align(fixed, moved, use="histology")
    moved.var_names = "other_" + moved.var_names
    with pytest.raises(ValueError, match="no gene in common"):
        align(fixed, moved)


# ------------------------------------------------------------------ real sections


def by_hand(data: Path, reference: str, moving: str) -> np.ndarray:
    """The hand-made rigid move of one section onto another."""
    for case in json.loads((data / "cases.json").read_text()):
        if case["targets"] == [reference] and moving in case.get("moves", {}):
            dx, dy, angle, *centre = case["moves"][moving]
            matrix = np.eye(3)
            matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            matrix[:2, 2] = centre - matrix[:2, :2] @ centre + (dx, dy)
            return matrix
    raise KeyError((reference, moving))


@pytest.mark.parametrize(
    ("reference", "moving", "angle"),
    [("her2st/her2st_C2", "her2st/her2st_C3", -9), ("stahl_bc/BC2", "stahl_bc/BC3", -136)],
)
def test_real_sections_are_found(real: Path, reference: str, moving: str, angle: float) -> None:
    """C2 and C3 overlap by 17 % as they lie on their slides; the third layer of Ståhl et al. is turned by -136°."""
    fixed, moved = (ad.read_h5ad(real / f"{name}.h5ad") for name in (reference, moving))
    align(fixed, moved)
    there = apply(by_hand(real, reference, moving), moved.obsm["spatial"])
    distance = np.linalg.norm(moved.obsm["spatial_aligned"] - there, axis=1).mean()
    assert distance / read_slice(fixed).pitch < 0.7
    assert moved.uns["alignment"]["angle_deg"] == pytest.approx(angle, abs=4)
    assert moved.uns["alignment"]["fit"] > 0.5


def test_pictures_of_numbers_move_and_those_without_a_scale_stay_away() -> None:
    """An image of one pixel a unit, moved by one unit: every column comes from the one before, the first is glass."""
    pixels = np.full((4, 5), 0.75)
    pixels[1, 2] = 0.25
    content = {"images": {"hires": pixels, "lowres": pixels}, "scalefactors": {"tissue_hires_scalef": 1.0}}
    library, spots = Library("S1", "uns['spatial']['S1']", content), np.array([[1.0, 1.0]])
    moved = warped(library, spots, np.array([[1, 0, 1.0], [0, 1, 0], [0, 0, 1]]), np.array([6.0, 4.0]))
    assert list(moved["images"]) == ["hires"]
    assert moved["scalefactors"] == {"tissue_hires_scalef": 1.0}
    assert moved["images"]["hires"].dtype == np.float64
    np.testing.assert_allclose(moved["images"]["hires"], np.column_stack([np.full(4, 0.75), pixels]), atol=1e-6)
