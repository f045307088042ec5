"""What is read from one section, with values that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from c2sti import io
from c2sti._backed import Stored
from c2sti.datasets import Phantom
from c2sti.io import is_counts, log_normalise
from c2sti.io._read import _entries, _expression
from tests.conftest import square_array
from tests.io.test_read_and_write import spots


def test_tissue_reaches_three_quarters_of_a_pitch_from_an_array() -> None:
    square = io.read_slice(spots(square_array(6, 2.0)))
    assert square.reach == 1.5
    assert square.covers(np.array([[-1.499, 0.0], [-1.501, 0.0]])).tolist() == [True, False]
    assert replace(square, layout="hex").reach == 1.5
    assert replace(square, layout="cells").reach == 2


def test_depths_that_are_not_known_are_none() -> None:
    adata = spots(square_array(6))
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.arange(36.0)])
    assert io.read_slice(adata).z is None  # a third coordinate that varies is no depth of a section
    np.testing.assert_array_equal(io.read_slice(adata).xy, square_array(6))
    adata.obs["z_um"] = np.nan
    assert io.read_slice(adata).z is None


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
        shape = (2**12 + more, 20 * 2**10)

        def compute(self) -> np.ndarray:
            return np.ones((2, 3))

    n = Lazy.shape[0]
    found = _expression(SimpleNamespace(X=Lazy(), n_obs=n), np.arange(n), "a", None)
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
    assert (read.scale, read.pixels.shape) == (2, (12, 12, 3))
    del both.uns["spatial"]["s"]["images"]["lowres"]
    with pytest.warns(UserWarning, match="an image 'hires', and no 'tissue_hires_scalef' in its scalefactors"):
        assert io.read_slice(both).image is None  # an image without a scale lies nowhere


def test_a_picture_is_chosen_by_its_library() -> None:
    adata = with_pictures(hires=(24, 4.0))
    adata.uns["spatial"]["t"] = with_pictures(lowres=(12, 2.0)).uns["spatial"]["s"]
    assert io.read_slice(adata, image_key="t").image.scale == 2
    with pytest.raises(KeyError, match=r"slice has no image 'u' in uns\['spatial'\]; it has \['s', 't'\]"):
        io.read_slice(adata, image_key="u")
    with pytest.raises(ValueError, match=r"slice has images of \['s', 't'\] .*; choose one with image_key="):
        io.read_slice(adata)
