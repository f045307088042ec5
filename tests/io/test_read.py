"""What is read from one section, with values that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import dask.array as da
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
from c2sti._backed import Stored
from c2sti.datasets import Phantom
from c2sti.io import is_counts, log_normalise
from c2sti.io._read import _entries, _expression
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


def test_tissue_reaches_three_quarters_of_a_pitch_from_an_array() -> None:
    square = io.read_slice(spots(square_array(6, 2.0)))
    points = np.array([[-1.499, 0.0], [-1.501, 0.0], [-1.999, 0.0], [-2.001, 0.0]])
    for layout, covered in (("square", 1), ("hex", 1), ("cells", 3)):
        assert replace(square, layout=layout).covers(points).tolist() == [i < covered for i in range(4)]


def test_z_comes_from_obs_or_from_a_third_coordinate_that_is_the_same_for_all() -> None:
    adata = spots(square_array(6))
    assert io.read_slice(adata).z is None
    adata.obsm["spatial"] = np.column_stack([square_array(6), np.arange(36.0)])
    assert io.read_slice(adata).z is None
    np.testing.assert_array_equal(io.read_slice(adata).xy, square_array(6))
    adata.obsm["spatial"][:, 2] = 7.0
    assert io.read_slice(adata).z == 7.0
    adata.obs["z_um"] = 12.0
    assert io.read_slice(adata).z == 12.0
    adata.obs["z_um"] = np.nan
    assert io.read_slice(adata).z is None
    adata.obs["z_um"] = np.arange(36.0) > 20
    with pytest.raises(ValueError, match="holds 2 values of z .*; a section has one"):
        io.read_slice(adata)


def test_the_least_that_is_a_section() -> None:
    assert len(io.read_slice(spots(square_array(5)[:20])).xy) == 20
    with pytest.raises(ValueError, match="slice has 19 spots; at least 20 are needed"):
        io.read_slice(spots(square_array(5)[:19]))
    xy = np.random.default_rng(0).uniform(0, 100, (1000, 2))
    assert io.read_slice(spots(xy)).layout == "cells"
    assert io.read_slice(spots(xy[1:])).layout == "scattered"


def test_log_normalise_by_hand() -> None:
    counts = sp.csr_array(np.array([[1.0, 3.0], [0, 0], [0, 1]], dtype=np.float32))
    found = log_normalise(counts, np.array([4.0, 0.0, 1.0])).toarray()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.log1p([[2500, 7500], [0, 0], [0, 1e4]]), rtol=1e-6)


def test_counts_are_whole_numbers_to_the_last() -> None:
    values = np.ones((30, 1000), dtype=np.float32)
    assert is_counts(sp.csr_array(values))
    values[-1, -1] = 1.5  # far behind the first ten thousand, which are looked at first
    assert not is_counts(sp.csr_array(values))


def test_library_sizes_of_counts_and_of_what_is_normalised() -> None:
    adata = spots(square_array(6))
    np.testing.assert_array_equal(io.read_slice(adata).library, np.asarray(adata.X.sum(axis=1)).ravel())
    adata.X = adata.X.log1p()
    np.testing.assert_array_equal(io.read_slice(adata).library, 1)
    adata.X.data[3] = 0  # stored, but nothing
    assert io.read_slice(adata).values.toarray().min() == 0
    adata.X.data[3] = -1e-3
    with pytest.raises(ValueError, match="X of slice holds negative values"):
        io.read_slice(adata)


def test_one_coordinate_that_is_not_finite_is_enough() -> None:
    xy = square_array(6)
    xy[3, 1] = np.nan
    with pytest.raises(ValueError, match="is not finite for 1 of 36 spots .first: 's3'.; drop them: adata"):
        io.read_slice(spots(xy))


def test_a_picture_lies_under_coordinates_with_a_depth_too(tissue: Phantom) -> None:
    section = tissue.section(0.0)
    section.obsm["spatial"] = np.column_stack([section.obsm["spatial"], np.full(section.n_obs, 7.0)])
    assert io.read_slice(section).image is not None


def test_layers_are_listed_where_one_is_missing() -> None:
    adata = spots(square_array(6))
    adata.layers["raw"] = adata.layers["counts"] = adata.X
    with pytest.raises(KeyError, match=r"no layer 'count'; its layers are \['counts', 'raw'\]"):
        io.read_slice(adata, layer="count")


def test_the_pitch_is_the_median_over_the_four_nearest() -> None:
    """20 × 20 spots, 1 apart along x and 1.1 along y: 760 distances of each, and 80 at the border that are longer."""
    section = io.read_slice(spots(square_array(20) * [1.0, 1.1]))
    assert section.layout == "square"
    assert section.pitch == pytest.approx(1.1)


def test_a_twentieth_of_a_matrix_that_does_not_tell_is_taken_for_its_entries() -> None:
    assert _entries(np.zeros((40, 100))) == 200


def test_an_array_is_told_by_the_nearest_spot() -> None:
    """Every other row of 12 × 12 spots, 10 apart, is doubled 1 to the right.

    The nearest spot is 1 away from 144 and 10 from 72, however alike the second nearest of all of them are.
    """
    xy = square_array(12, 10.0)
    doubled = xy[xy[:, 1] % 20 == 0] + [1.0, 0.0]
    assert len(doubled) == 72
    assert io.read_slice(spots(np.vstack([xy, doubled]))).layout == "scattered"


@pytest.mark.parametrize("more", [0, 1])
def test_what_is_stored_is_read_in_blocks_beyond_four_million_entries(more: int) -> None:
    """A matrix that does not tell has a twentieth of its places filled: 2²² of them, or 2¹⁰ more."""

    class Lazy:
        shape, dtype = (2**12 + more, 20 * 2**10), np.dtype(float)

        def compute(self) -> np.ndarray:
            return np.ones((2, 3))

    n = Lazy.shape[0]
    found = _expression(SimpleNamespace(X=Lazy(), n_obs=n, isbacked=False), np.arange(n), "a", None)
    assert isinstance(found, Stored) == bool(more)
    assert found.shape == (Lazy.shape if more else (2, 3))


def test_spots_that_coincide_do_not_make_the_pitch_zero() -> None:
    section = io.read_slice(spots(np.tile(square_array(6, 2.0), (5, 1))))
    assert (section.layout, section.pitch) == ("square", 2.0)


def test_coordinates_have_two_columns() -> None:
    adata = spots(square_array(6))
    adata.obsm["spatial"] = adata.obsm["spatial"][:, :1]
    with pytest.raises(ValueError, match=r"has shape \(36, 1\); columns x and y are needed"):
        io.read_slice(adata)


def test_a_lazy_matrix_that_is_small_is_read_at_once() -> None:
    adata = spots(square_array(6))
    wanted = adata.X.toarray()
    adata.X = da.from_array(wanted, chunks=(10, 4))
    values = io.read_slice(adata).values
    assert sp.issparse(values)
    np.testing.assert_array_equal(values.toarray(), wanted)


def test_expression_that_is_not_there_is_named() -> None:
    adata = spots(square_array(6))
    adata.X = None
    with pytest.raises(ValueError, match="X of slice is empty; put expression there, or name a layer with layer="):
        io.read_slice(adata)


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
    with pytest.raises(KeyError, match="'slide'. and not in 'mars'"):
        io.read_slice(sdata, coordinate_system="mars")
    with pytest.raises(KeyError, match="no table 'cells'; its tables are"):
        io.read_slice(sdata, table_key="cells")


# ---- which image is taken


def with_pictures(**images: tuple[int, float]) -> AnnData:
    """Six by six spots, 1 apart, and grey images: pixels a side, and pixels a unit, by resolution."""
    adata = spots(square_array(6))
    adata.uns["spatial"] = {
        "s": {
            "images": {name: np.full((side, side, 3), 100, dtype=np.uint8) for name, (side, _) in images.items()},
            "scalefactors": {f"tissue_{name}_scalef": scale for name, (_, scale) in images.items()},
        }
    }
    return adata


def test_the_finest_picture_that_has_a_scale_is_taken() -> None:
    both = with_pictures(hires=(24, 4.0), lowres=(12, 2.0))
    assert io.read_slice(both).image.scale == 4
    del both.uns["spatial"]["s"]["scalefactors"]["tissue_hires_scalef"]
    read = io.read_slice(both).image
    assert (read.scale, read.levels[0].shape) == (2, (12, 12, 3))
    del both.uns["spatial"]["s"]["images"]["lowres"]
    with pytest.warns(UserWarning, match=r"\['tissue_hires_scalef'\] is None and no positive number"):
        assert io.read_slice(both).image is None  # an image without a scale lies nowhere


def test_a_picture_is_chosen_by_its_library() -> None:
    adata = with_pictures(hires=(24, 4.0))
    adata.uns["spatial"]["t"] = with_pictures(lowres=(12, 2.0)).uns["spatial"]["s"]
    assert io.read_slice(adata, image_key="t").image.scale == 2
    with pytest.raises(KeyError, match=r"slice has no image 'u' in uns\['spatial'\]; it has \['s', 't'\]"):
        io.read_slice(adata, image_key="u")
    with pytest.raises(ValueError, match=r"slice has images of \['s', 't'\] .*; choose one with image_key="):
        io.read_slice(adata)
