"""Odd sections: without variance, of one or two genes, out of order, damaged; and the same question in another form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti.cli import _files
from c2sti.field import Kernel, Observed, best_length, best_sharing
from c2sti.io import _read
from tests.conftest import square_array


def section(values: np.ndarray) -> AnnData:
    return AnnData(values.astype(np.float32), obsm={"spatial": square_array(6)})


# The default reads one count a gene and spot into this, and halves it: its answer strays by the noise of the halving.
@pytest.mark.parametrize("model", ["linear", "lowrank", "gp"])
def test_sections_without_any_variance_stay_what_they_are(model: str) -> None:
    flat = section(np.full((36, 10), 1.5))
    out = c2sti.tl.interpolate(flat, flat, model=model, on_misfit="ignore", show_progress_bar=False)
    np.testing.assert_allclose(out.layers["c2sti_1"], 1.5, rtol=1e-5)


@pytest.mark.parametrize("model", ["linear", "lowrank", "gp", "c2sti"])
def test_one_gene_alone_keeps_its_pattern(model: str) -> None:
    slope = 1.25 + square_array(6)[:, :1] / 4
    one = section(slope)
    out = c2sti.tl.interpolate(one, one, model=model, on_misfit="ignore", show_progress_bar=False)
    rows = out.obsm["spatial"][:, 0].round().astype(int)
    truth = 1.25 + rows / 4
    found = out.layers["c2sti_1"][:, 0]
    assert np.corrcoef(found, truth)[0, 1] > 0.98
    assert abs(found.mean() - truth.mean()) < 0.02


def unordered(values: np.ndarray, dtype: type) -> sp.csr_matrix:
    """The same values in CSR with the columns of each row back to front, and a zero that is stored."""
    rows, columns = np.indices(values.shape)[:, :, ::-1].reshape(2, -1)
    start = np.arange(len(values) + 1) * values.shape[1]
    return sp.csr_matrix((values[rows, columns].astype(dtype), columns, start), shape=values.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_sparse_input_out_of_order_stays_what_it_is(dtype: type) -> None:
    values = np.random.default_rng(0).poisson(3, (36, 10))
    plain, given_ = section(values), section(values)
    given_.X = unordered(values, dtype)
    found = c2sti.tl.interpolate(given_, given_, on_misfit="ignore", show_progress_bar=False)
    np.testing.assert_array_equal(given_.X.toarray(), values)
    wanted = c2sti.tl.interpolate(plain, plain, on_misfit="ignore", show_progress_bar=False)
    np.testing.assert_array_equal(found.layers["c2sti_1"], wanted.layers["c2sti_1"])
    marks = [out.uns["c2sti"]["inputs"]["slice_a"]["fingerprint"] for out in (found, wanted)]
    assert marks[0] == marks[1]


@pytest.mark.parametrize("by_blocks", [False, True])
def test_a_lazy_section_out_of_order_is_read_as_often_as_needed(
    by_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).poisson(3, (36, 10))
    lazy = section(values)
    lazy.X = da.from_array(sp.csr_array(unordered(values, np.int64)), chunks=(10, 10), asarray=False)
    if by_blocks:
        monkeypatch.setattr(_read, "LARGE", 0)
    at = square_array(6)
    out = c2sti.tl.interpolate(lazy, lazy, at=at, model="copy", on_misfit="ignore", show_progress_bar=False)
    wanted = np.log1p(values * 1e4 / values.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(out.layers["c2sti_1"], wanted, rtol=1e-5)


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("part", "value", "found"),
    [
        ("indices", 10**6, "it has an index of 1000000 among"),
        ("indices", -7, "it has an index of -7 among"),
        ("indptr", 10**6, "its indptr does not lead through its values"),
    ],
)
def test_indices_that_point_outside_are_refused_rather_than_believed(
    form: type, part: str, value: int, found: str
) -> None:
    broken = section(np.ones((36, 10)))
    broken.X = form(broken.X)
    getattr(broken.X, part)[5] = value
    name = form.__name__[:3].upper()
    with pytest.raises(ValueError, match=rf"X of slice_b is a damaged {name} matrix \({found}.*read or make it anew"):
        c2sti.tl.interpolate(section(np.ones((36, 10))), broken, show_progress_bar=False)


@pytest.mark.filterwarnings("ignore")
def test_sections_that_are_left_on_disk_whole_bring_depth_and_labels(tmp_path: Path) -> None:
    plain, lazy = [], []
    for i in range(2):
        one = section(np.random.default_rng(i).poisson(3, (36, 10)))
        one.obs["z_um"], one.obs["cells"] = 100.0 * i, np.arange(36.0)
        one.obs["domain"] = np.where(np.arange(36) < 18, "rim", "core")
        one.write_zarr(tmp_path / f"{i}.zarr")
        plain.append(one)
        lazy.append(ad.experimental.read_lazy(tmp_path / f"{i}.zarr"))
    how = {"model": "linear", "obs_keys": ["domain", "cells"], "on_misfit": "ignore", "show_progress_bar": False}
    wanted, found = c2sti.tl.interpolate(*plain, **how), c2sti.tl.interpolate(*lazy, **how)
    np.testing.assert_array_equal(found.uns["c2sti"]["z"], [0.0, 50.0, 100.0])
    np.testing.assert_array_equal(found.layers["c2sti_1"], wanted.layers["c2sti_1"])
    pd.testing.assert_frame_equal(found.obs, wanted.obs)


def test_errors_of_readers_without_a_public_name_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    section(np.ones((36, 3))).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["var"].attrs["encoding-type"] = ""
    with pytest.raises(ValueError, match=r"a\.h5ad cannot be read as a section: No read method registered"):
        _files.read(path)


@pytest.mark.parametrize(
    ("pitch", "text"),
    [
        (12, r"pitch = 12 gathers all 36 points of slice_a into one bin, .* about 1 apart: choose pitch= nearer"),
        (np.inf, "pitch = inf must be positive and finite"),
        (1e-200, r"pitch = 1e-200 makes 5\d+ x 5\d+ bins over \[5.0, 5.0\]; spots are about 1 apart"),
    ],
)
def test_bins_that_are_no_bins_are_refused(pitch: float, text: str) -> None:
    one = section(np.random.default_rng(0).poisson(3, (36, 10)))
    with pytest.raises(ValueError, match=text):
        c2sti.tl.interpolate(one, one, model="gp", pitch=pitch, show_progress_bar=False)


def test_bins_with_their_centres_off_the_tissue_are_refused() -> None:
    left = section(np.random.default_rng(0).poisson(3, (36, 10)))
    left.obsm["spatial"] = left.obsm["spatial"] + np.where(np.arange(36) % 6 < 3, -20.0, 20.0)[:, None] * [1.0, 0.0]
    with pytest.raises(
        ValueError, match=r"none of the \d bins of pitch = 30 has its centre in the tissue of slice_a or"
    ):
        c2sti.tl.interpolate(left, left, pitch=30.0, model="linear", on_misfit="ignore", show_progress_bar=False)


def test_spots_at_few_places_are_refused() -> None:
    one = section(np.random.default_rng(0).poisson(3, (36, 10)))
    one.obsm["spatial"] = np.column_stack([np.arange(36) % 3, np.zeros(36)])
    with pytest.raises(ValueError, match=r"the 36 spots of slice_a lie at 3 place\(s\); more than 6 are needed"):
        c2sti.tl.interpolate(one, one, show_progress_bar=False)


@pytest.mark.parametrize(
    ("part", "value", "text"),
    [
        ("sections", ["slice_a", "c", "slice_b"], r"'c2sti_1' was interpolated, and its sections are \['slice_a', 'c'"),
        ("positions", [0.0, 0.5], r"2 positions, and its sections are"),
    ],
)
def test_a_record_that_contradicts_itself_is_not_described(part: str, value: list[object], text: str) -> None:
    one = section(np.random.default_rng(0).poisson(3, (36, 10)))
    out = c2sti.tl.interpolate(one, one, model="linear", on_misfit="ignore", show_progress_bar=False)
    assert "1 section was computed" in c2sti.tl.describe(out)
    out.uns["c2sti"][part] = np.array(value)
    with pytest.raises(ValueError, match=rf"uns\['c2sti'\] contradicts itself: {text}"):
        c2sti.tl.describe(out)


@pytest.mark.parametrize("model", ["lowrank", "gp", "c2sti"])
def test_two_genes_keep_both_their_patterns(model: str) -> None:
    x, y = square_array(6).T
    two = section(
        np.column_stack([2 + np.sin(x), 2 + np.cos(y / 2)]) + np.random.default_rng(0).normal(0, 0.05, (36, 2))
    )
    at = square_array(6)
    out = c2sti.tl.interpolate(two, two, at=at, model=model, on_misfit="ignore", show_progress_bar=False)
    for gene, truth in enumerate((np.sin(x), np.cos(y / 2))):
        assert np.corrcoef(out.layers["c2sti_1"][:, gene], truth)[0, 1] > 0.97


@pytest.mark.parametrize("model", ["copy", "linear", "lowrank", "gp"])
@pytest.mark.parametrize("n_genes", [3, 10, 90])
def test_a_gene_that_is_zero_everywhere_changes_no_other(model: str, n_genes: int) -> None:
    values = np.random.default_rng(0).poisson(5 + 4 * np.sin(square_array(6) @ np.ones((2, n_genes))))
    how = {"model": model, "on_misfit": "ignore", "show_progress_bar": False}
    one, more = section(values), section(np.insert(values, 1, 0, axis=1))
    wanted = c2sti.tl.interpolate(one, one, **how).layers["c2sti_1"]
    found = c2sti.tl.interpolate(more, more, **how).layers["c2sti_1"]
    np.testing.assert_allclose(np.delete(found, 1, axis=1), wanted, atol=1e-5 * wanted.max())
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-6)


def test_maps_of_nothing_do_not_choose_the_covariance() -> None:
    xy = square_array(12)
    waves = np.column_stack([np.sin(xy[:, 0]), np.cos(xy[:, 1])])
    x, z = np.concatenate([xy, xy]), np.repeat([0.0, 1.0], 144)

    def learnt(values: np.ndarray) -> Kernel:
        seen = Observed.of(x, z, np.concatenate([values, values]), np.ones(288), "cpu")
        return best_sharing(best_length([seen], gaussian=True), [seen])

    assert learnt(np.column_stack([waves, np.zeros((144, 6))])) == learnt(waves)


def test_no_gene_asked_for() -> None:
    one = section(np.full((36, 3), 1.5))
    with pytest.raises(ValueError, match="genes= is empty; name one gene or more, or leave it out"):
        c2sti.tl.interpolate(one, one, genes=[], show_progress_bar=False)


def moved(one: AnnData, move: Callable[[np.ndarray], np.ndarray]) -> AnnData:
    other = one.copy()
    other.obsm["spatial"] = move(np.asarray(one.obsm["spatial"], dtype=float))
    return other


def quadrupled(xy: np.ndarray) -> np.ndarray:
    return xy * 4


def rotated(xy: np.ndarray) -> np.ndarray:
    return xy @ np.array([[0.8, 0.6], [-0.6, 0.8]])


Change = tuple[
    Callable[[AnnData], AnnData], Callable[[np.ndarray], np.ndarray]
]  # of a section, and of points asked for
CHANGES: dict[str, Change] = {
    "another unit": (lambda s: moved(s, quadrupled), quadrupled),
    "rotated": (lambda s: moved(s, rotated), rotated),
    "spots in another order": (lambda s: s[np.random.default_rng(0).permutation(s.n_obs)].copy(), lambda xy: xy),
    "genes in another order": (lambda s: s[:, ::-1].copy(), lambda xy: xy),
    "as many counts again": (lambda s: AnnData(s.X * 2, s.obs, s.var, obsm=dict(s.obsm)), lambda xy: xy),
    "dense": (lambda s: AnnData(s.X.toarray(), s.obs, s.var, obsm=dict(s.obsm)), lambda xy: xy),
}


@pytest.mark.parametrize("model", ["linear", "gp"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_same_question_in_another_form_has_the_same_result(change: str, model: str) -> None:
    pair = c2sti.datasets.phantom(seed=0, size=8, n_genes=20).series([0.0, 200.0], image=False)
    of_section, of_points = CHANGES[change]
    points = np.asarray(pair[0].obsm["spatial"], dtype=float)[::4] + 20.0
    how = {"model": model, "on_misfit": "ignore", "show_progress_bar": False}
    wanted = c2sti.tl.interpolate(*pair, at=points, **how)
    found = c2sti.tl.interpolate(*map(of_section, pair), at=of_points(points), **how)[:, wanted.var_names]
    # Sums in another order stop optimisers a little elsewhere, and of equally far spots others are the nearest 25.
    tolerance = 0.02 * float(wanted.layers["c2sti_1"].max())
    np.testing.assert_allclose(found.layers["c2sti_1"], wanted.layers["c2sti_1"], rtol=0, atol=tolerance)
