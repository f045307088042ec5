from __future__ import annotations

import os
import shutil
import tracemalloc
import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import squidpy as sq
import zarr
from anndata import AnnData

import c2sti
from c2sti.io import _factors, _store
from tests.conftest import interpolate, simulated_layers, write_dense


def inside(adata: AnnData, section: str) -> np.ndarray:
    return adata.obs[f"{section}_tissue"].to_numpy()


# ---- what is written


def test_nothing_is_said_that_readers_can_do_nothing_about(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        interpolate(*pair, model="linear", std=True, out=tmp_path / "out.zarr")
    assert [str(w.message) for w in said if "zarr" in str(w.message).lower()] == []


@pytest.mark.parametrize(("model", "dense"), [("linear", False), ("linear", True), ("c2sti", False)])
def test_the_store_holds_what_the_result_in_memory_holds(
    pair: tuple[AnnData, AnnData], tmp_path: Path, small_chunks: None, model: str, dense: bool
) -> None:
    for section in pair:
        section.obs["half"] = pd.Categorical(np.where(section.obsm["spatial"][:, 0] > 700, "right", "left"))
    how = {"n_slices": 2, "std": True, "interval": 0.9, "obs_keys": "half", "model": model}
    wanted = interpolate(*pair, **how)
    out = interpolate(*pair, out=tmp_path / "out.zarr", dense=dense, **how)
    read = ad.read_zarr(tmp_path / "out.zarr")

    assert os.listdir(tmp_path) == ["out.zarr"]
    layers = list(wanted.layers)
    assert set(out.layers) == set(layers)
    assert set(read.layers) == set(layers if dense else ["slice_a", "slice_b"])
    assert list(out.layers)[:4] == ["slice_a", "c2sti_1", "c2sti_2", "slice_b"]
    np.testing.assert_allclose(np.asarray(out.X), wanted.X, rtol=1e-5, atol=1e-5)
    assert out.layers["c2sti_1"].chunksize == (50, 13)
    for name in layers:
        assert out.layers[name].dtype == np.float32
        # Ends are steep where two spots were predicted nearly alike: what is 1e-6 apart there becomes more.
        atol = 1e-3 if name.endswith(("lower", "upper")) else 1e-5
        np.testing.assert_allclose(np.asarray(out.layers[name]), wanted.layers[name], rtol=1e-5, atol=atol)
    for name in ("slice_a", "slice_b"):
        measured = read.layers[name]
        assert measured.format == "csr"
        np.testing.assert_array_equal(measured[inside(read, name)].toarray(), wanted.layers[name][inside(read, name)])
        assert measured[~inside(read, name)].nnz == 0
        assert (~inside(read, name)).any()
    assert read.X is None
    if not dense:  # the line of numpy in the docs
        values = read.obsm["c2sti_1_factors"] @ read.varm["c2sti_loadings"].T
        values = np.maximum(values.toarray() if sp.issparse(values) else values, 0)
        np.testing.assert_allclose(values, wanted.layers["c2sti_1"], rtol=1e-5, atol=1e-5)
    for made in (out, read):
        pd.testing.assert_frame_equal(made.obs[wanted.obs.columns], wanted.obs)
        pd.testing.assert_frame_equal(made.var, wanted.var)
        pd.testing.assert_frame_equal(made.obsm["c2sti_1_half"], wanted.obsm["c2sti_1_half"])
        np.testing.assert_array_equal(made.obsm["spatial"], wanted.obsm["spatial"])
        graph = made.uns["c2sti"]["coexpression"]["c2sti_1"]
        assert abs(graph - wanted.uns["c2sti"]["coexpression"]["c2sti_1"]).max() == 0
        assert set(made.uns) == set(wanted.uns)
        assert set(made.uns["c2sti"]) - {"factors"} == set(wanted.uns["c2sti"])
        assert made.uns["c2sti"]["synthetic"]
        assert list(made.uns["c2sti"]["sections"]) == list(wanted.uns["c2sti"]["sections"])


def test_genes_and_digits_that_were_asked_for_are_those_written(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    genes = list(pair[0].var_names[[7, 3]])
    out = interpolate(*pair, model="lowrank", genes=genes, out=tmp_path / "two.zarr", dense=True, digits=5)
    assert list(out.var_names) == genes
    assert out.uns["c2sti"]["parameters"]["digits"] == 5
    wanted = interpolate(*pair, model="lowrank", genes=genes)
    np.testing.assert_allclose(np.asarray(out.layers["c2sti_1"]), wanted.X, rtol=0.5e-5)


@pytest.fixture(scope="module")
def wanted(_series: list[AnnData]) -> AnnData:
    return interpolate(_series[0], _series[2], model="linear", std=True)


@pytest.fixture(scope="module")
def stored(_series: list[AnnData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "out.zarr"
    interpolate(_series[0], _series[2], model="linear", std=True, out=path, dense=True)
    return path


def test_squidpy_and_our_own_plots_draw_it(wanted: AnnData, stored: Path) -> None:
    out, in_memory = c2sti.read_zarr(stored), ad.read_zarr(stored)
    gene = out.var_names[5]
    for adata, layer in ((out, "c2sti_1"), (out, "slice_a"), (in_memory, "c2sti_1")):
        ax = sq.pl.spatial_scatter(adata, color=gene, layer=layer, shape="square", return_ax=True)
        shown = np.ma.filled(ax.collections[0].get_array(), np.nan)
        np.testing.assert_allclose(shown, wanted.obs_vector(gene, layer=layer), rtol=1e-6)
        plt.close(ax.figure)
    for adata in (out, in_memory):
        axes = c2sti.pl.sections(adata, gene)
        assert len(axes) == 3
        plt.close(axes[0].figure)


def test_the_one_liners_of_the_docs_take_a_few_genes_into_memory(stored: Path) -> None:
    out = c2sti.read_zarr(stored)
    genes = list(out.var_names[[5, 9]])
    few = out[:, genes].to_memory()
    assert isinstance(few.layers["c2sti_1"], np.ndarray)
    lazy = ad.experimental.read_lazy(stored)[:, genes].to_memory()
    np.testing.assert_array_equal(lazy.layers["c2sti_1"], few.layers["c2sti_1"])
    measured, tissue = lazy.layers["slice_a"], inside(few, "slice_a")
    np.testing.assert_array_equal(measured.toarray()[tissue], few.layers["slice_a"][tissue])


def test_other_tools_take_it(wanted: AnnData, stored: Path) -> None:
    same = c2sti.tl.to_slices(wanted)
    c2sti.tl.coexpression(wanted, layer="slice_a", key_added="again")
    for adata in (c2sti.read_zarr(stored), ad.read_zarr(stored)):
        stack = c2sti.tl.to_slices(adata)
        np.testing.assert_allclose(stack.X, same.X, rtol=1e-6)
        np.testing.assert_allclose(stack.layers["std"], same.layers["std"], rtol=1e-5)
        c2sti.tl.coexpression(adata, layer="slice_a", key_added="again")
        assert abs(adata.varp["again"] - wanted.varp["again"]).max() < 1e-5


def test_no_layer_is_ever_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_factors, "CHUNK_ROWS", 500)
    monkeypatch.setattr(_factors, "CHUNK_VALUES", 2**14)
    monkeypatch.setattr(_store, "SPARSE_CHUNK", 2**12)
    made = frame, layers, _ = simulated_layers(8_000, 200)
    frame.obs[["slice_a_tissue", "slice_b_tissue"]] = False  # no measured values: they are as large as they are
    layer = 4 * 8_000 * 200
    tracemalloc.start()
    write_dense(tmp_path / "s.zarr", made)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < layer / 2
    written = zarr.open_group(tmp_path / "s.zarr", mode="r")["layers/c2sti_1"]
    np.testing.assert_allclose(written[7_495:7_505], layers.slices[0].rows(slice(7_495, 7_505)).expression(), rtol=1e-5)


# ---- as factors


@pytest.fixture(scope="module")
def unsure(_series: list[AnnData]) -> AnnData:
    return interpolate(_series[0], _series[2], model="gp", std=True, interval=0.9)


@pytest.fixture(scope="module")
def factors(_series: list[AnnData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("factors") / "out.zarr"
    interpolate(_series[0], _series[2], model="gp", std=True, interval=0.9, out=path)
    return path


def check_same(found: AnnData, wanted: AnnData) -> None:
    assert set(found.layers) == set(wanted.layers)
    for name in wanted.layers:
        atol = 1e-3 if name.endswith(("lower", "upper")) else 1e-5
        np.testing.assert_allclose(np.asarray(found.layers[name]), wanted.layers[name], rtol=1e-5, atol=atol)
    np.testing.assert_allclose(np.asarray(found.X), wanted.X, rtol=1e-5, atol=1e-5)


def test_materialize_makes_what_is_made_in_memory(unsure: AnnData, factors: Path, tmp_path: Path) -> None:
    plain = ad.read_zarr(factors)
    plain.write_h5ad(tmp_path / "again.h5ad")
    for adata in (c2sti.read_zarr(factors), plain, ad.read_h5ad(tmp_path / "again.h5ad")):
        made = c2sti.tl.materialize(adata)
        assert isinstance(made.X, np.ndarray)
        check_same(made, unsure)
        assert list(made.obsm) == list(unsure.obsm) and not made.varm and "factors" not in made.uns["c2sti"]
        pd.testing.assert_frame_equal(made.obs, unsure.obs)
    made.write_h5ad(tmp_path / "dense.h5ad")
    check_same(ad.read_h5ad(tmp_path / "dense.h5ad"), unsure)
    check_same(c2sti.tl.materialize(unsure), unsure)  # what is in memory stays there


def test_what_needs_layers_says_how_to_make_them(factors: Path) -> None:
    with pytest.raises(KeyError, match="missing from the result, .*; c2sti.tl.materialize makes layers of the factors"):
        c2sti.tl.to_slices(ad.read_zarr(factors))


def test_factors_follow_rows_and_genes(unsure: AnnData, factors: Path) -> None:
    rows, genes = np.arange(5, 40, 3), [7, 2, 11]
    wanted = unsure[rows, genes].copy()
    for adata in (c2sti.read_zarr(factors), ad.read_zarr(factors)):
        check_same(c2sti.tl.materialize(adata[rows, genes].copy()), wanted)
        few = c2sti.tl.materialize(adata[rows].copy(), genes=list(unsure.var_names[genes]))
        check_same(few, wanted)
        renamed = adata[rows, genes].copy()
        renamed.var_names = ["x", "y", "z"]
        check_same(c2sti.tl.materialize(renamed), wanted)


def test_rows_of_two_results_are_not_expanded_by_one(
    factors: Path, tmp_path: Path, pair: tuple[AnnData, AnnData]
) -> None:
    one = ad.read_zarr(factors)
    other = interpolate(*pair, model="lowrank", out=tmp_path / "other.zarr")
    both = ad.concat([one, ad.read_zarr(tmp_path / "other.zarr")], merge="first", uns_merge="first", index_unique="-")
    with pytest.raises(ValueError, match=rf"{other.n_obs} of {both.n_obs} rows .* belong to the loadings of another"):
        c2sti.tl.materialize(both)
    parts = [one[:20], one[20:]]
    again = ad.concat(parts, merge="same", uns_merge="first")
    assert c2sti.tl.materialize(again).shape == one.shape
    lost = ad.concat(parts, uns_merge="first")
    with pytest.raises(KeyError, match=r"varm\['c2sti_loadings'\] is missing .*; anndata.concat keeps varm only with"):
        c2sti.tl.materialize(lost)


def test_a_store_that_is_cut_off_or_of_another_version_says_so(factors: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no zarr store"):
        c2sti.read_zarr(tmp_path / "nowhere.zarr")
    shutil.copytree(factors, tmp_path / "cut.zarr")
    shutil.rmtree(tmp_path / "cut.zarr" / "obs")
    with pytest.raises(ValueError, match="cut.zarr is no store that c2sti wrote, or it is cut off"):
        c2sti.read_zarr(tmp_path / "cut.zarr")
    later = ad.read_zarr(factors)
    later.uns["c2sti"]["factors"]["version"] = 2
    with pytest.raises(ValueError, match="are of version 2, and this c2sti reads 1"):
        c2sti.tl.materialize(later)
    lost = ad.read_zarr(factors)
    del lost.obsm["c2sti_1_factors"]
    with pytest.raises(KeyError, match=r"obsm\['c2sti_1_factors'\] is missing"):
        c2sti.tl.materialize(lost)


def test_what_does_not_fit_into_memory_is_refused(factors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100_000))
    with pytest.raises(MemoryError, match=r"6 layers of \d+ bins x \d+ genes take .* kB, and 100 kB .*: genes="):
        c2sti.tl.materialize(c2sti.read_zarr(factors))
    assert c2sti.tl.materialize(c2sti.read_zarr(factors), genes=["gene_001"]).n_vars == 1


# ---- every option, and every use of a result, from factors as from dense layers


AT = np.array([[700.0, 700.0], [650.0, 800.0], [500.0, 520.0]])
OPTIONS = {  # those that do not meet are tried together
    "uncertainty": {"std": True, "interval": 0.8, "obs_keys": "domain", "key_added": "mine"},
    "places": {"genes": ["gene_007", "gene_003"], "at": AT, "positions": [0.1, 0.9]},
    "context": {"pitch": 170.0},
}


@pytest.mark.parametrize("model", ["gp", "linear"])  # dense factors and sparse ones
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_the_same_from_factors(
    _series: list[AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, model: str
) -> None:
    a, between, b = _series[:3]
    how = {"model": model, **OPTIONS[option]}
    if option == "context":
        a, b, how["context"] = a, between, {2.0: b}
    key = str(how.get("key_added", "c2sti"))
    wanted = interpolate(a, b, **how)
    stored = interpolate(a, b, out=tmp_path / "out.zarr", **how)
    plain = ad.read_zarr(tmp_path / "out.zarr")
    plain.write_h5ad(tmp_path / "out.h5ad")
    monkeypatch.setattr("c2sti.io._memory.DENSE", 0)
    for found in (stored, ad.read_h5ad(tmp_path / "out.h5ad"), interpolate(a, b, **how)):
        made = c2sti.tl.materialize(found, key=key)
        check_same(made, wanted)
        pd.testing.assert_frame_equal(made.obs, wanted.obs)
        assert set(made.obsm) == set(wanted.obsm)


def test_every_use_is_the_same_from_factors(unsure: AnnData, factors: Path, tmp_path: Path) -> None:
    out, gene = c2sti.read_zarr(factors), unsure.var_names[5]
    for name, written in (("dense", unsure), ("lazy", out)):
        c2sti.tl.to_volume(written, tmp_path / f"{name}.zarr", genes=[gene])
    dense, lazy = (zarr.open_group(tmp_path / f"{name}.zarr", mode="r")["s0"][:] for name in ("dense", "lazy"))
    np.testing.assert_allclose(lazy, dense, atol=1e-5)
    tables = [c2sti.tl.to_spatialdata(one, um_per_unit=1.0).tables for one in (unsure, out)]
    assert set(tables[0]) == set(tables[1])
    for name, table in tables[0].items():
        np.testing.assert_allclose(np.asarray(tables[1][name].X), np.asarray(table.X), atol=1e-5)
    for draw in (lambda one: c2sti.pl.sections(one, gene)[1], lambda one: c2sti.pl.spread(one, gene)[0]):
        shown = [np.ma.filled(draw(one).collections[0].get_array(), np.nan) for one in (unsure, out)]
        np.testing.assert_allclose(shown[1], shown[0], rtol=1e-4, atol=1e-5)
    plt.close("all")
    drawn = [c2sti.tl.sample_counts(one).X.toarray() for one in (unsure, out)]
    assert (drawn[0] == drawn[1]).mean() > 0.999  # a draw may turn on the last digit
    assert c2sti.tl.describe(out).split("parameters")[0] == c2sti.tl.describe(unsure).split("parameters")[0]
