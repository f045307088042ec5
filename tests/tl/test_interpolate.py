from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from anndata import AnnData
from scipy.spatial import KDTree

import c2sti
from c2sti import C2STiConfig, TrainConfig
from c2sti.datasets import Phantom, phantom
from c2sti.models._registry import METHODS, named


def interpolate(a: AnnData, b: AnnData, **keywords: object) -> AnnData:
    return c2sti.tl.interpolate(a, b, show_progress_bar=False, **keywords)


# ---- what comes out


def test_the_whole_result(pair: tuple[AnnData, AnnData]) -> None:
    out = interpolate(*pair, n_slices=3)
    names = ["slice_a", "c2sti_1", "c2sti_2", "c2sti_3", "slice_b"]
    assert [name for name in out.layers if name] == names  # newer anndata list X among them, as None
    assert all(out.layers[name].dtype == np.float32 for name in names)
    np.testing.assert_array_equal(out.X, out.layers["c2sti_2"])
    assert out.X is not out.layers["c2sti_2"]
    assert (out.X >= 0).all()
    assert set(out.obs["support"]) <= {"both", "a", "b"}
    record = out.uns["c2sti"]
    assert record["synthetic"] is True
    np.testing.assert_allclose(record["positions"], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(record["z"], [0, 75, 150, 225, 300])
    assert record["model"]["name"] == "c2sti"
    assert record["expression"] == "log1p of counts scaled to 1e4"
    assert record["inputs"]["slice_a"]["n_obs"] == pair[0].n_obs
    assert record["inputs"]["slice_a"]["fingerprint"] != record["inputs"]["slice_b"]["fingerprint"]
    assert not out.varp
    assert list(record["coexpression"]) == ["genes", *names]
    assert list(record["coexpression"]["genes"]) == list(out.var_names)
    graph = record["coexpression"]["c2sti_1"]
    assert graph.shape == (out.n_vars, out.n_vars)
    assert abs(graph - graph.T).max() == 0
    assert graph.diagonal().max() == 0


def test_measured_sections_are_passed_on_unchanged_and_nan_where_nothing_was_measured(
    pair: tuple[AnnData, AnnData],
) -> None:
    a, b = pair
    out = interpolate(a, b)
    index = KDTree(out.obsm["spatial"]).query(a.obsm["spatial"])[1]
    expected = a.copy()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    # the lattice lies on the array, so a bin is a spot
    np.testing.assert_allclose(out.obsm["spatial"][index], a.obsm["spatial"], atol=1e-6)
    np.testing.assert_allclose(out.layers["slice_a"][index], expected.X.toarray(), rtol=1e-4, atol=1e-5)
    outside = ~out.obs["slice_a_tissue"].to_numpy()
    assert outside.any()
    assert np.isnan(out.layers["slice_a"][outside]).all()
    assert not np.isnan(out.layers["slice_a"][~outside]).any()


def test_library_sizes_of_the_measured_spots_come_along(pair: tuple[AnnData, AnnData]) -> None:
    a, b = pair
    out = interpolate(a, b, model="copy", genes=a.var_names[:2])
    assert out.obs["inserted"].all()
    index = KDTree(out.obsm["spatial"]).query(a.obsm["spatial"])[1]
    np.testing.assert_array_equal(out.obs["slice_a_library_size"].to_numpy()[index], a.X.sum(axis=1).A1)
    assert np.isnan(out.obs["slice_a_library_size"][~out.obs["slice_a_tissue"]]).all()
    stack = c2sti.tl.to_slices(out)
    sizes = stack.obs.groupby("section", observed=True)["library_size"]
    assert sizes.count().to_dict() == {"slice_a": a.n_obs, "c2sti_1": 0, "slice_b": b.n_obs}
    np.testing.assert_array_equal(sizes.sum(), [a.X.sum(), 0, b.X.sum()])
    gathered = interpolate(a, b, model="copy", pitch=200.0)
    assert gathered.obs["slice_a_library_size"].sum() == pytest.approx(a.X.sum(), rel=0.1)
    assert gathered.obs["slice_a_library_size"].mean() > 3 * out.obs["slice_a_library_size"].mean()
    for section in pair:
        sc.pp.normalize_total(section)
        sc.pp.log1p(section)
    assert "slice_a_library_size" not in interpolate(a, b, model="copy").obs


def test_a_gene_is_the_same_whichever_others_are_wanted(pair: tuple[AnnData, AnnData]) -> None:
    every = interpolate(*pair, model="lowrank")
    genes = list(every.var_names[[7, 3]])
    two = interpolate(*pair, model="lowrank", genes=genes)
    assert list(two.var_names) == list(two.uns["c2sti"]["genes"]) == genes
    for layer in ("slice_a", "c2sti_1", "slice_b"):
        np.testing.assert_allclose(two.layers[layer], every[:, genes].layers[layer], rtol=1e-6)
    assert two.uns["c2sti"]["coexpression"]["c2sti_1"].shape == (2, 2)


def test_inputs_are_not_modified(pair: tuple[AnnData, AnnData]) -> None:
    before = [section.copy() for section in pair]
    interpolate(*pair, model="lowrank", n_slices=2)
    for section, old in zip(pair, before, strict=True):
        assert (section.X != old.X).nnz == 0
        np.testing.assert_array_equal(section.obsm["spatial"], old.obsm["spatial"])
        assert list(section.uns) == list(old.uns)
        assert list(section.layers) == list(old.layers)


def test_points_come_back_in_their_order(pair: tuple[AnnData, AnnData], series: list[AnnData]) -> None:
    at = series[1].obsm["spatial"][::-1]
    out = interpolate(*pair, at=at, model="linear")
    np.testing.assert_array_equal(out.obsm["spatial"], at)
    alone = interpolate(*pair, at=at[5:6], model="linear")
    np.testing.assert_allclose(alone.layers["c2sti_1"][0], out.layers["c2sti_1"][5], atol=1e-6)


def test_depths_and_fractions_are_the_same_positions(pair: tuple[AnnData, AnnData]) -> None:
    depths = interpolate(*pair, positions=[75.0, 225.0], model="linear")
    fractions = interpolate(*pair, positions=[0.25, 0.75], model="linear")
    np.testing.assert_array_equal(depths.layers["c2sti_2"], fractions.layers["c2sti_2"])


@pytest.mark.parametrize("model", METHODS)
def test_swapping_the_sections_mirrors_the_result(pair: tuple[AnnData, AnnData], model: str) -> None:
    a, b = pair
    there, back = interpolate(a, b, positions=[0.3], model=model), interpolate(b, a, positions=[0.7], model=model)
    np.testing.assert_allclose(there.obsm["spatial"], back.obsm["spatial"])
    np.testing.assert_allclose(there.X, back.X, atol=1e-5)
    np.testing.assert_array_equal(there.obs["c2sti_1_tissue"], back.obs["c2sti_1_tissue"])
    difference = there.uns["c2sti"]["coexpression"]["c2sti_1"] - back.uns["c2sti"]["coexpression"]["c2sti_1"]
    assert abs(difference).max() < 1e-5


def test_normalised_input_stays_on_its_scale(pair: tuple[AnnData, AnnData]) -> None:
    counts = interpolate(*pair, model="linear")
    for section in pair:
        sc.pp.normalize_total(section, target_sum=1e4)
        sc.pp.log1p(section)
    normalised = interpolate(*pair, model="linear")
    assert normalised.uns["c2sti"]["expression"] == "as given"
    np.testing.assert_allclose(normalised.X, counts.X, rtol=1e-4, atol=1e-5)


def test_context_is_used_by_the_models_that_can(series: list[AnnData]) -> None:
    a, b, context = series[0], series[2], {1.5: series[3]}
    assert np.abs(interpolate(a, b, context=context).X - interpolate(a, b).X).max() > 1e-3
    plain = interpolate(a, b, context=context, model="linear")
    np.testing.assert_array_equal(plain.X, interpolate(a, b, model="linear").X)


def test_a_model_may_be_any_callable(pair: tuple[AnnData, AnnData]) -> None:
    out = interpolate(*pair, model=METHODS["copy"])
    np.testing.assert_array_equal(out.X, interpolate(*pair, model="copy").X)
    assert out.uns["c2sti"]["model"]["name"] == "copy"


def test_it_beats_copying_the_neighbour(tissue: Phantom, pair: tuple[AnnData, AnnData]) -> None:
    scores = {}
    for model in METHODS:
        out = interpolate(*pair, model=model)
        inside = tissue.inside(out.obsm["spatial"], 150.0)
        scores[model] = c2sti.metrics.pcc(out.X, tissue.expression(out.obsm["spatial"], 150.0), mask=inside)
    assert scores["gp"] > scores["linear"] > scores["copy"]
    assert scores["lowrank"] > scores["linear"]


@pytest.mark.parametrize("layout", ["hex", "cells"])
def test_other_layouts(tissue: Phantom, layout: str) -> None:
    a, b = tissue.series([0.0, 200.0], layout=layout, image=False)
    out = interpolate(a, b, n_slices=2)
    assert (out.obs["support"] == "both").mean() > 0.7
    truth = tissue.expression(out.obsm["spatial"], 200 / 3)
    inside = tissue.inside(out.obsm["spatial"], 200 / 3)
    assert c2sti.metrics.pcc(out.layers["c2sti_1"], truth, mask=inside) > 0.35


def test_a_coarser_pitch_gathers_spots(pair: tuple[AnnData, AnnData]) -> None:
    fine, coarse = interpolate(*pair, model="linear"), interpolate(*pair, model="linear", pitch=200.0)
    assert coarse.n_obs < 0.4 * fine.n_obs
    assert coarse.uns["c2sti"]["lattice"]["pitch"] == 200.0


def test_it_survives_writing(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    out = interpolate(*pair, n_slices=2)
    out.write_zarr(tmp_path / "out.zarr")
    back = ad.read_zarr(tmp_path / "out.zarr")
    for name in out.uns["c2sti"]["sections"]:
        np.testing.assert_array_equal(back.layers[name], out.layers[name])
    record, old = back.uns["c2sti"], out.uns["c2sti"]
    assert bool(record["synthetic"]) is True
    assert list(record["sections"]) == old["sections"]
    assert (record["coexpression"]["c2sti_1"] != old["coexpression"]["c2sti_1"]).nnz == 0
    np.testing.assert_array_equal(record["positions"], old["positions"])
    assert dict(record["inputs"]["slice_a"]) == old["inputs"]["slice_a"]
    np.testing.assert_array_equal(back.obs["support"], out.obs["support"])
    stack = c2sti.tl.to_slices(back)
    assert list(stack.obs["section"].cat.categories) == old["sections"]


# ---- to_slices and coexpression


def test_to_slices_keeps_each_section_inside_its_tissue(pair: tuple[AnnData, AnnData]) -> None:
    out = interpolate(*pair, n_slices=2)
    stack = c2sti.tl.to_slices(out)
    for name in ("slice_a", "c2sti_1", "c2sti_2", "slice_b"):
        rows = (stack.obs["section"] == name).to_numpy()
        inside = out.obs[f"{name}_tissue"].to_numpy()
        np.testing.assert_array_equal(stack.X[rows], out.layers[name][inside])
        assert stack.obs["inserted"][rows].eq(name.startswith("c2sti")).all()
    assert not np.isnan(stack.X).any()
    assert stack.obs_names.is_unique
    np.testing.assert_allclose(np.unique(stack.obsm["spatial_3d"][:, 2]), [0, 100, 200, 300])
    np.testing.assert_allclose(np.unique(c2sti.tl.to_slices(out, gap=60.0).obs["z"]), [0, 20, 40, 60])
    assert set(stack.varp) == set(out.varp)
    with pytest.raises(KeyError, match="does not hold the result of c2sti.tl.interpolate"):
        c2sti.tl.to_slices(pair[0])


def test_coexpression_writes_the_graph_of_a_layer(pair: tuple[AnnData, AnnData]) -> None:
    out = interpolate(*pair)
    c2sti.tl.coexpression(out, layer="c2sti_1", n_edges=out.n_vars, key_added="own")
    expected = np.corrcoef(out.layers["c2sti_1"].T.astype(float)) - np.eye(out.n_vars)
    np.testing.assert_allclose(out.varp["own"].toarray(), expected, atol=1e-4)
    copied = c2sti.tl.coexpression(out, layer="slice_a", copy=True)  # rows outside of the tissue hold NaN
    assert copied is not None
    assert np.isfinite(copied.varp["coexpression_slice_a"].data).all()
    with pytest.raises(KeyError, match="adata has no layer 'other'; its layers are"):
        c2sti.tl.coexpression(out, layer="other")


def test_graphs_recover_the_programmes_of_the_tissue(tissue: Phantom, pair: tuple[AnnData, AnnData]) -> None:
    graph = interpolate(*pair).uns["c2sti"]["coexpression"]["c2sti_1"].tocoo()
    truth = tissue.coexpression((0.0, 300.0))
    strong = np.abs(graph.data) > np.quantile(np.abs(graph.data), 0.8)
    found = np.corrcoef(graph.data[strong], truth[graph.row[strong], graph.col[strong]])[0, 1]
    assert found > 0.8


# ---- what cannot be used is refused, by name


def spoil(change: Callable[[AnnData], object]) -> Callable[[AnnData, AnnData], dict]:
    def apply(a: AnnData, b: AnnData) -> dict:
        change(b)
        return {}

    return apply


def drop_coordinates(a: AnnData) -> None:
    del a.obsm["spatial"]


def nan_coordinates(a: AnnData) -> None:
    a.obsm["spatial"][3, 0] = np.nan


def one_column(a: AnnData) -> None:
    a.obsm["spatial"] = a.obsm["spatial"][:, :1]


def rename_genes(a: AnnData) -> None:
    a.var_names = [f"other_{i}" for i in range(a.n_vars)]


def duplicate_gene(a: AnnData) -> None:
    a.var_names = [a.var_names[1], *a.var_names[1:]]


def negative(a: AnnData) -> None:
    a.X = sp.csr_matrix(a.X.toarray() - 0.5)


def not_a_number(a: AnnData) -> None:
    a.X.data[7] = np.nan


def move_away(a: AnnData) -> None:
    del a.uns["spatial"]
    a.obsm["spatial"] += 1e5


def second_picture(a: AnnData) -> None:
    (library,) = a.uns["spatial"].values()
    a.uns["spatial"]["other"] = library


def normalise(a: AnnData) -> None:
    sc.pp.log1p(a)


BAD = {
    "no coordinates": (spoil(drop_coordinates), KeyError, r"slice_b has no coordinates in obsm\['spatial'\]"),
    "NaN coordinates": (spoil(nan_coordinates), ValueError, "of slice_b is not finite for 1 of .* drop them"),
    "one column": (spoil(one_column), ValueError, r"has shape \(\d+, 1\); columns x and y are needed"),
    "no common gene": (spoil(rename_genes), ValueError, "no gene in common.*slice_b has other_0.* var_names"),
    "duplicate genes": (spoil(duplicate_gene), ValueError, "gene names more than once .*var_names_make_unique"),
    "negative": (spoil(negative), ValueError, r"X of slice_b holds negative values \(least: -0.5\).*layer="),
    "NaN expression": (spoil(not_a_number), ValueError, "X of slice_b holds NaN"),
    "no overlap": (spoil(move_away), ValueError, "slice_a and slice_b do not overlap .*c2sti.pp.align"),
    "two images": (spoil(second_picture), ValueError, "has images of .*choose one with image_key="),
    "mixed scales": (spoil(normalise), ValueError, "not on one scale .*slice_a: raw counts, slice_b: normalised"),
    "no layer": (lambda a, b: {"layer": "x"}, KeyError, "slice_a has no layer 'x'; its layers are"),
    "no spatial key": (lambda a, b: {"spatial_key": "umap"}, KeyError, "name another one with spatial_key="),
    "no such model": (lambda a, b: {"model": "film"}, ValueError, "no model 'film'; those that exist are c2sti, copy"),
    "no such gene": (lambda a, b: {"genes": ["gene_001", "xyz"]}, KeyError, "1 of 2 genes= .*'xyz'"),
    "position 0": (lambda a, b: {"positions": [-0.5]}, ValueError, "strictly between the z"),
    "repeated position": (lambda a, b: {"positions": [0.5, 0.5]}, ValueError, "without repeats"),
    "n_slices 0": (lambda a, b: {"n_slices": 0}, ValueError, "n_slices = 0 must be a whole number of at least 1"),
    "n_slices 1.5": (lambda a, b: {"n_slices": 1.5}, ValueError, "n_slices = 1.5 must be"),
    "context inside": (lambda a, b: {"context": {0.5: a}}, ValueError, "at position 0.5; those lie beyond the pair"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:positions = .* are read as fractions")
def test_bad_input_is_named(pair: tuple[AnnData, AnnData], case: str) -> None:
    spoiled, error, message = BAD[case]
    a, b = pair
    keywords = spoiled(a, b)
    with pytest.raises(error, match=message):
        interpolate(a, b, **keywords)


def test_too_few_spots(pair: tuple[AnnData, AnnData]) -> None:
    with pytest.raises(ValueError, match="slice_a has 19 spots; at least 20 are needed"):
        interpolate(pair[0][:19], pair[1])


def test_not_a_section(pair: tuple[AnnData, AnnData]) -> None:
    with pytest.raises(TypeError, match="slice_b is a ndarray; an AnnData or SpatialData is needed"):
        interpolate(pair[0], np.zeros((30, 2)))


def test_little_overlap_warns_and_names_the_mend(pair: tuple[AnnData, AnnData]) -> None:
    a, b = pair
    del b.uns["spatial"]
    b.obsm["spatial"] += [900.0, 0.0]
    with pytest.warns(
        UserWarning, match=r"slice_a and slice_b do not .* overlap 0\.\d+, and at least 0.50 .*c2sti.pp.align"
    ):
        interpolate(a, b, model="linear")


def test_views_and_backed_sections_work(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    a, b = pair
    expected = interpolate(a, b, model="linear").X
    b.write_h5ad(tmp_path / "b.h5ad")
    backed = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    np.testing.assert_array_equal(interpolate(a[:, :], backed, model="linear").X, expected)
    backed.file.close()


# ---- real tissue


def test_a_real_pair_of_all_genes(real: Path) -> None:
    a, b = (c2sti.datasets.her2st(name, data_dir=real) for name in ("C4", "C5"))
    out = interpolate(a, b, model="lowrank", spatial_key="spatial")
    assert out.n_vars > 10_000
    assert np.isfinite(out.X).all()
    held = out.uns["c2sti"]["coexpression"]
    assert len(held["genes"]) == 2000 and (np.diff(held["c2sti_1"].indptr) > 0).all()  # the most variable genes
    c2sti.tl.coexpression(out, genes=["ERBB2", "CD3D"])  # and any other, when it is asked for
    among = out.varp["coexpression_c2sti_1"][out.var_names.get_indexer(["ERBB2", "CD3D"])]
    assert (np.diff(among.indptr) >= 30).all()
    assert "MIEN1" in set(out.var_names[among[[0]].indices])  # its neighbour on the chromosome


# ---- the network


def test_a_model_of_ones_own_is_trained_kept_and_used(series: list[AnnData], tmp_path: Path) -> None:
    config = c2sti.C2STiConfig(channels=4, panel=12, n_components=8, n_splits=0)
    how = c2sti.TrainConfig(steps=3, genes=20, panel=8)
    model = c2sti.tl.train(series, model=None, config=config, how=how, n_slices=1, show_progress_bar=False)
    assert model.card["examples"] == 4  # two held-out sections, with and without the section beyond
    model.save(tmp_path / "mine")
    a, b = series[0], series[2]
    out = interpolate(a, b, model=model)
    again = interpolate(a, b, model=tmp_path / "mine")
    np.testing.assert_array_equal(out.X, again.X)
    assert out.uns["c2sti"]["notes"]["weights"] == model.fingerprint()
    out.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    displacement = out.uns["c2sti"]["notes"]["displacement"]
    np.testing.assert_array_equal(back.uns["c2sti"]["notes"]["displacement"], displacement)
    assert displacement.shape == (1, 2, *out.uns["c2sti"]["lattice"]["shape"])


def test_training_needs_three_sections_and_something_to_train(series: list[AnnData]) -> None:
    with pytest.raises(ValueError, match="series holds 2 section"):
        c2sti.tl.train(series[:2])
    with pytest.raises(ValueError, match="'gp' has nothing to train"):
        c2sti.tl.train(series, model="gp")


# ---- images


class Describes(torch.nn.Module):
    """An encoder of two channels: how dark a bin is, and how much darker its darkest pixel."""

    def forward(self, picture: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        dark = (1 - picture.nan_to_num(1.0)).mean(dim=0, keepdim=True)
        mean = torch.nn.functional.adaptive_avg_pool2d(dark, shape)
        return torch.cat([mean, torch.nn.functional.adaptive_max_pool2d(dark, shape) - mean])


def test_a_network_may_see_pictures_through_an_encoder_of_ones_own() -> None:
    series = phantom(seed=0, size=8, n_genes=30).series([0.0, 150.0, 300.0])
    settings = C2STiConfig(channels=4, n_components=6, n_splits=0, panel=12, image_channels=2)
    how = TrainConfig(steps=3, panel=12, learning_rate=5e-2)
    quiet = {"show_progress_bar": False, "histology_encoder": Describes()}
    model = c2sti.tl.train(series, model=None, config=settings, how=how, **quiet)
    with_image = c2sti.tl.interpolate(series[0], series[2], model=model, **quiet)
    blind = [s.copy() for s in (series[0], series[2])]
    for section in blind:
        del section.uns["spatial"]
    without = c2sti.tl.interpolate(*blind, model=model, **quiet)
    assert np.abs(with_image.layers["c2sti_1"] - without.layers["c2sti_1"]).max() > 0
    with pytest.raises(ValueError, match="histology_encoder="):
        c2sti.tl.interpolate(series[0], series[2], model=model, show_progress_bar=False)


def test_the_picture_of_the_missing_section_says_which_neighbour_is_nearer() -> None:
    a, hidden, b = phantom(seed=0, size=8, n_genes=30).series([0.0, 150.0, 300.0])
    settings = C2STiConfig(channels=4, n_components=6, n_splits=0, panel=12)
    how = TrainConfig(steps=20, panel=12, learning_rate=5e-2, motion=1.0)
    quiet = {"show_progress_bar": False}
    model = c2sti.tl.train([a, hidden, b], model=None, config=settings, how=how, **quiet)
    picture = next(iter(hidden.uns["spatial"].values()))
    plain = c2sti.tl.interpolate(a, b, model=model, **quiet)
    seen = c2sti.tl.interpolate(a, b, model=model, target_images=[picture], **quiet)
    assert np.abs(plain.layers["c2sti_1"] - seen.layers["c2sti_1"]).max() > 0
    with pytest.raises(ValueError, match="target_images holds 1"):
        c2sti.tl.interpolate(a, b, n_slices=2, model=model, target_images=[picture], **quiet)
    with pytest.raises(ValueError, match="is no H&E image"):
        c2sti.tl.interpolate(a, b, model=model, target_images=[{"images": {}}], **quiet)


def test_two_models_of_one_name_are_both_judged() -> None:
    one, other = c2sti.C2STi(), c2sti.C2STi(c2sti.C2STiConfig(n_splits=0))
    assert list(named(["copy", one, "copy", other])) == ["copy", "C2STi", "C2STi 2"]
    assert named([one, other])["C2STi 2"] is other


def test_an_encoder_of_other_channels_is_refused() -> None:
    a, b = phantom(seed=0, size=8, n_genes=30).series([0.0, 150.0])
    model = c2sti.C2STi(C2STiConfig(channels=4, n_components=6, n_splits=0, panel=12, image_channels=5))
    with pytest.raises(ValueError, match="trained on images described in 5 channels; histology_encoder gives 2"):
        c2sti.tl.interpolate(a, b, model=model, histology_encoder=Describes(), show_progress_bar=False)
