from __future__ import annotations

from pathlib import Path

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from shapely import Point
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Affine, set_transformation

from c2sti import io
from c2sti._types import Lattice
from c2sti.datasets import Phantom
from c2sti.io import HEImage, histology_on
from c2sti.io._rasterize import is_gathered, outline
from tests.conftest import square_array


def spots(xy: np.ndarray, n_genes: int = 4, seed: int = 0) -> AnnData:
    counts = np.random.default_rng(seed).poisson(3.0, (len(xy), n_genes)).astype(np.float32)
    adata = AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))
    adata.obs_names = [f"s{i}" for i in range(len(xy))]
    adata.obsm["spatial"] = xy.astype(float)
    return adata


def hexagonal(side: int, pitch: float) -> np.ndarray:
    row, column = np.indices((side, side)).reshape(2, -1)
    return np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2]) * pitch


# ---- reading


@pytest.mark.parametrize(
    ("xy", "layout", "pitch"),
    [
        (square_array(12, 200.0), "square", 200.0),
        (hexagonal(12, 100.0), "hex", 100.0),
        (square_array(12, 200.0) @ np.array([[0.8, 0.6], [-0.6, 0.8]]), "square", 200.0),
    ],
)
def test_layout_and_pitch_of_arrays(xy: np.ndarray, layout: str, pitch: float) -> None:
    section = io.read_slice(spots(xy))
    assert section.layout == layout
    assert section.pitch == pytest.approx(pitch)


def test_pitch_is_that_of_the_array_although_printed_spots_scatter() -> None:
    xy = square_array(20, 200.0) + np.random.default_rng(0).normal(0, 12, (400, 2))
    section = io.read_slice(spots(xy))
    assert section.layout == "square"
    assert section.pitch == pytest.approx(200, rel=0.02)


def test_cells_get_a_bin_that_holds_about_four() -> None:
    xy = np.random.default_rng(0).uniform(0, 100, (4000, 2))
    section = io.read_slice(spots(xy))
    assert section.layout == "cells"
    assert section.pitch**2 * 4000 / 100**2 == pytest.approx(4, rel=0.15)


def test_few_irregular_points_are_used_one_by_one() -> None:
    """Spots that were warped into an atlas: gathering four of them at a time would throw their detail away."""
    xy = np.random.default_rng(0).uniform(0, 100, (200, 2))
    section = io.read_slice(spots(xy))
    assert section.layout == "scattered"
    assert section.pitch**2 * 200 / 100**2 == pytest.approx(1, rel=0.3)
    assert not is_gathered(section, io.common_lattice(section, section))


@pytest.mark.parametrize("layout", ["square", "hex", "cells"])
def test_phantom_layouts_are_recognised(tissue: Phantom, layout: str) -> None:
    section = io.read_slice(tissue.section(0.0, layout=layout, image=False))
    assert section.layout == layout
    assert section.z == 0.0


def test_tissue_is_where_spots_are() -> None:
    section = io.read_slice(spots(square_array(10)))
    assert section.covers(np.array([[0.5, 0.5], [4.2, 4.9], [9.0, 9.5]])).all()
    assert not section.covers(np.array([[-1.0, 0.0], [9.0, 10.0], [50.0, 50.0]])).any()


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "float64", "view", "backed", "layer"])
def test_every_form_of_expression_reads_the_same(kind: str, tmp_path: Path) -> None:
    adata = spots(square_array(6))
    expected = adata.X.toarray()
    layer = None
    match kind:
        case "csc":
            adata.X = adata.X.tocsc()
        case "dense":
            adata.X = adata.X.toarray()
        case "float64":
            adata.X = adata.X.astype(np.float64)
        case "view":
            adata = spots(square_array(6))[:, :]
        case "backed":
            adata.write_h5ad(tmp_path / "a.h5ad")
            adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        case "layer":
            adata.layers["counts"], adata.X, layer = adata.X, None, "counts"
    section = io.read_slice(adata, layer=layer)
    assert section.counts
    np.testing.assert_array_equal(section.values.toarray(), expected)
    if kind == "backed":
        adata.file.close()


def test_normalised_expression_is_told_from_counts() -> None:
    adata = spots(square_array(6))
    adata.X = adata.X.log1p()
    assert not io.read_slice(adata).counts


def test_depth_comes_from_obs_or_from_a_third_coordinate() -> None:
    adata = spots(square_array(6))
    assert io.read_slice(adata).z is None
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.full(36, 7.0)])
    assert io.read_slice(adata).z == 7.0
    adata.obs["z_um"] = 12.0
    assert io.read_slice(adata).z == 12.0
    adata.obs["z_um"] = np.arange(36.0) > 20
    with pytest.raises(ValueError, match="holds 2 values of z .*; a section has one"):
        io.read_slice(adata)


def test_fingerprint_knows_expression_coordinates_and_genes() -> None:
    base = io.read_slice(spots(square_array(6))).fingerprint()
    assert io.read_slice(spots(square_array(6))).fingerprint() == base
    assert io.read_slice(spots(square_array(6), seed=1)).fingerprint() != base
    assert io.read_slice(spots(square_array(6) + 1)).fingerprint() != base
    renamed = spots(square_array(6))
    renamed.var_names = [f"h{i}" for i in range(4)]
    assert io.read_slice(renamed).fingerprint() != base


def as_spatialdata(adata: AnnData) -> SpatialData:
    circles = ShapesModel.parse(
        gpd.GeoDataFrame({"radius": 0.3}, geometry=[Point(*p) for p in adata.obsm["spatial"]], index=range(adata.n_obs))
    )
    table = adata.copy()
    del table.obsm["spatial"]
    table.obs["region"] = pd.Categorical(["spots"] * adata.n_obs)
    table.obs["instance"] = np.arange(adata.n_obs)
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="instance")
    return SpatialData(shapes={"spots": circles}, tables={"table": table})


def test_spatialdata_reads_like_its_table_in_any_coordinate_system() -> None:
    adata = spots(square_array(6))
    sdata = as_spatialdata(adata)
    section = io.read_slice(sdata)
    np.testing.assert_allclose(section.xy, adata.obsm["spatial"])
    np.testing.assert_array_equal(section.values.toarray(), adata.X.toarray())
    doubled = Affine(np.array([[2.0, 0, 5], [0, 2, 0], [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(sdata["spots"], doubled, to_coordinate_system="slide")
    np.testing.assert_allclose(
        io.read_slice(sdata, coordinate_system="slide").xy, adata.obsm["spatial"] * 2 + [5.0, 0.0]
    )
    with pytest.raises(KeyError, match="no coordinate system 'mars'.*slide"):
        io.read_slice(sdata, coordinate_system="mars")
    with pytest.raises(KeyError, match="no table 'cells'; its tables are"):
        io.read_slice(sdata, table_key="cells")


# ---- the lattice


def test_bins_and_centres_are_inverse_to_each_other() -> None:
    lattice = Lattice((3.0, -5.0), 2.0, (4, 7))
    np.testing.assert_array_equal(lattice.bins(lattice.centres), np.arange(28))
    np.testing.assert_allclose(lattice.centres[0], [3.0, -5.0])
    np.testing.assert_allclose(lattice.centres[1], [5.0, -5.0])  # x runs along a row
    assert lattice.bins(np.array([[1.9, -5.0], [3.0, 3.0], [100.0, 0.0]])).tolist() == [-1, -1, -1]


def test_indicator_sums_spots_into_bins() -> None:
    lattice = Lattice((0.0, 0.0), 2.0, (2, 2))
    xy = np.array([[0.1, 0.1], [-0.9, 0.9], [2.2, 0.0], [9.0, 9.0]])
    np.testing.assert_array_equal(lattice.indicator(xy) @ np.array([1.0, 2.0, 4.0, 8.0]), [3, 4, 0, 0])


def test_bin_centres_lie_exactly_on_the_spots_of_an_upright_array() -> None:
    a = io.read_slice(spots(square_array(9, 200.0) + [37.0, -512.0]))
    turned = square_array(9, 200.0) - 800
    b = io.read_slice(spots(turned @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + 800))
    for lattice in (io.common_lattice(a, b), io.common_lattice(b, a)):
        index = lattice.bins(a.xy)
        assert (index >= 0).all()
        np.testing.assert_allclose(lattice.centres[index], a.xy, atol=1e-6)


def test_the_lattice_does_not_depend_on_the_order_of_the_sections() -> None:
    a, b = (io.read_slice(spots(square_array(9) + shift)) for shift in ([0.0, 0.0], [0.3, 0.4]))
    assert io.common_lattice(a, b) == io.common_lattice(b, a)


def test_a_tiny_pitch_is_refused_before_memory_runs_out() -> None:
    a = io.read_slice(spots(square_array(9, 100.0)))
    with pytest.raises(ValueError, match="pitch = 0.01 makes 80001 x 80001 bins.*choose pitch= near that"):
        io.common_lattice(a, a, pitch=0.01)
    with pytest.raises(ValueError, match="must be positive"):
        io.common_lattice(a, a, pitch=-1.0)


def test_rows_are_the_union_of_both_tissues() -> None:
    a, b = (io.read_slice(spots(square_array(6) + [dx, 0.0])) for dx in (0, 2))
    rows = io.rows_of(a, b, io.common_lattice(a, b))
    assert len(rows.points) == 8 * 6
    assert rows.inside(0.0).sum() == rows.inside(1.0).sum() == 36


@pytest.mark.parametrize("at", [np.zeros((3, 3)), np.zeros(4), np.diag([1.0, np.nan]), np.zeros((0, 2))])
def test_unusable_points_are_refused(at: np.ndarray) -> None:
    a = io.read_slice(spots(square_array(6)))
    with pytest.raises(ValueError, match=r"at has shape .* \(M, 2\) are needed"):
        io.rows_of(a, a, io.common_lattice(a, a), at)


def test_the_outline_moves_evenly_and_is_exact_at_both_ends() -> None:
    a, b = np.zeros((61, 30), bool), np.zeros((61, 30), bool)
    a[:, :10] = b[:, :20] = True
    np.testing.assert_array_equal(outline(a, b, 0.0), a)
    np.testing.assert_array_equal(outline(a, b, 1.0), b)
    widths = [outline(a, b, p)[30].sum() for p in (0.2, 0.5, 0.8)]
    assert widths == [12, 15, 18]
    np.testing.assert_array_equal(outline(a, b, 0.3), outline(b, a, 0.7))


# ---- the pair


def test_counts_of_a_bin_are_summed_before_they_are_normalised() -> None:
    fine = spots(square_array(12))
    section = io.read_slice(fine)
    lattice = io.common_lattice(section, section, pitch=2.0)
    pair, _ = io.make_pair(section, section, lattice=lattice)
    index = lattice.bins(fine.obsm["spatial"])
    bins = np.unique(index)
    counts = np.stack([fine.X.toarray()[index == i].sum(axis=0) for i in bins])
    expected = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    order = lattice.bins(pair.a.xy).argsort()
    np.testing.assert_allclose(pair.a.expression.toarray()[order], expected, rtol=1e-5)
    np.testing.assert_allclose(pair.a.xy[order], lattice.centres[bins], atol=1e-9)
    assert pair.spacing == 2.0


def test_normalised_expression_of_a_bin_is_averaged() -> None:
    fine = spots(square_array(12))
    fine.X = fine.X.log1p()
    section = io.read_slice(fine)
    lattice = io.common_lattice(section, section, pitch=3.0)
    pair, _ = io.make_pair(section, section, lattice=lattice)
    index = lattice.bins(fine.obsm["spatial"])
    order = lattice.bins(pair.a.xy).argsort()
    expected = np.stack([fine.X.toarray()[index == i].mean(axis=0) for i in np.unique(index)])
    np.testing.assert_allclose(pair.a.expression.toarray()[order], expected, rtol=1e-5)


def test_spots_of_an_array_stay_as_they_are() -> None:
    section = io.read_slice(spots(square_array(8)))
    assert not is_gathered(section, io.common_lattice(section, section))
    assert is_gathered(section, io.common_lattice(section, section, pitch=2.0))


def test_genes_are_matched_by_name_whatever_their_order() -> None:
    a, b = spots(square_array(6), 5), spots(square_array(6), 5, seed=1)
    shuffled = b[:, ["g3", "g1", "g4", "g0"]].copy()
    shuffled.obs["n"] = 1
    pair, genes = io.make_pair(io.read_slice(a), io.read_slice(shuffled))
    assert genes.tolist() == ["g0", "g1", "g3", "g4"]
    # the library size counts all genes of a section, shared or not
    expected = np.log1p(a.X.toarray() / a.X.sum(axis=1) * 1e4)[:, [0, 1, 3, 4]]
    np.testing.assert_allclose(pair.a.expression.toarray(), expected, rtol=1e-5)
    chosen, names = io.make_pair(io.read_slice(a), io.read_slice(b), genes=["g4", "g2"])
    assert names.tolist() == ["g4", "g2"]
    assert chosen.n_genes == 2


def test_histology_is_an_area_mean_with_exact_edges() -> None:
    pixels = np.zeros((8, 12, 3), dtype=np.uint8)
    pixels[:, :6] = 255  # left half white
    lattice = Lattice((1.0, 1.0), 2.0, (2, 3))  # bins of 4 x 4 pixels at 2 pixels a unit
    colour = histology_on(HEImage(pixels, 2.0), lattice)
    assert colour.shape == (3, 2, 3)
    np.testing.assert_allclose(colour[0], [[1, 0.5, 0], [1, 0.5, 0]], atol=1e-6)


def test_histology_splits_pixels_between_bins_and_is_nan_off_the_picture() -> None:
    pixels = np.arange(4, dtype=np.float32)[None, :, None].repeat(4, axis=0).repeat(3, axis=2) / 4
    colour = histology_on(HEImage(pixels, 1.0), Lattice((0.75, 0.75), 1.5, (2, 4)))
    # bins along x: [0, 1.5) covers pixel 0 and half of pixel 1
    np.testing.assert_allclose(colour[0, 0, :2], [(0 + 0.5 * 0.25) / 1.5, (0.5 * 0.25 + 0.5) / 1.5], atol=1e-6)
    assert np.isnan(colour[:, :, 3]).all()


def test_histology_of_a_phantom_follows_its_cells(tissue: Phantom) -> None:
    section = io.read_slice(tissue.section(0.0))
    assert section.image is not None
    lattice = io.common_lattice(section, section)
    brightness = histology_on(section.image, lattice).mean(axis=0).ravel()
    covered = section.covers(lattice.centres)
    assert np.nanmean(brightness[covered]) < np.nanmean(brightness[~covered]) - 0.1


# ---- positions


def test_positions_are_fractions_or_depths() -> None:
    np.testing.assert_allclose(io.position_of([0.2, 0.7], None, None), [0.2, 0.7])
    np.testing.assert_allclose(io.position_of([110.0, 130.0], 100.0, 140.0), [0.25, 0.75])
    np.testing.assert_allclose(io.position_of([130.0, 110.0], 140.0, 100.0), [0.25, 0.75])
    np.testing.assert_allclose(io.position_of([0.5], 100.0, 140.0), [0.5])


def test_an_ambiguous_position_is_read_as_a_fraction_and_said_so() -> None:
    with pytest.warns(UserWarning, match="read as fractions, not as depths between 0 and 10"):
        np.testing.assert_allclose(io.position_of([0.5], 0.0, 10.0), [0.5])


@pytest.mark.parametrize(
    ("positions", "z", "message"),
    [
        ([0.0], (None, None), "strictly between 0 .slice_a. and 1"),
        ([1.0], (None, None), "depths are understood when both sections carry"),
        ([0.5, 0.5], (None, None), r"without repeats; try \[0.5\]"),
        ([0.7, 0.2], (None, None), r"must increase .* try \[0.2, 0.7\]"),
        ([110.0, 130.0], (140.0, 100.0), r"must increase from slice_a to slice_b .* try \[130.0, 110.0\]"),
        ([99.0], (100.0, 140.0), r"the depths of the two sections \(100 and 140\)"),
        ([float("nan")], (None, None), "list of at least one number"),
        ([], (None, None), "list of at least one number"),
    ],
)
def test_unusable_positions_are_refused(positions: list[float], z: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        io.position_of(positions, *z)
