from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.tri import TriContourSet

import c2sti
from c2sti.datasets import Phantom


@pytest.fixture(scope="module")
def made(tissue: Phantom) -> AnnData:
    """A result with two interpolated sections: the first moved right by a quarter of a bin, the second still."""
    first, last = tissue.series([0.0, 300.0])
    out = c2sti.tl.interpolate(first, last, n_slices=2, model="linear", show_progress_bar=False)
    lattice = out.uns["c2sti"]["lattice"]
    field = np.zeros((2, 2, *lattice["shape"]), dtype=np.float32)
    field[0, 0] = -0.25 * lattice["pitch"]  # material comes from the left
    out.uns["c2sti"]["notes"]["displacement"] = field
    return out


@pytest.fixture
def out(made: AnnData) -> Iterator[AnnData]:
    """The same, which no plot may change."""
    used = made.copy()
    yield used
    pd.testing.assert_frame_equal(used.obs, made.obs)
    for name in dict.fromkeys([None, *made.layers]):
        np.testing.assert_array_equal(used.to_df(layer=name), made.to_df(layer=name))
    assert repr(used) == repr(made)
    assert used.uns.keys() == made.uns.keys()
    assert used.uns["c2sti"].keys() == made.uns["c2sti"].keys()


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_sections_draws_every_section_inside_its_tissue_on_one_scale(out: AnnData, tmp_path: Path) -> None:
    axes = c2sti.pl.sections(out, out.var_names[0], save=tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 5_000
    assert len(axes) == 4
    for ax, name in zip(axes, ["slice_a", "c2sti_1", "c2sti_2", "slice_b"], strict=True):
        (bins,) = ax.collections
        assert len(bins.get_paths()) == out.obs[f"{name}_tissue"].sum()
        assert bins.get_clim() == axes[0].collections[0].get_clim()
        assert ("interpolated" in ax.get_title()) == name.startswith("c2sti")
        assert ("measured" in ax.get_title()) == name.startswith("slice")
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 is the top
        assert ax.get_xlim() == axes[0].get_xlim()
    assert "z = 100" in axes[1].get_title()


def test_sections_draws_the_values_of_the_layer_where_they_are(out: AnnData) -> None:
    bins = c2sti.pl.sections(out, out.var_names[5])[1].collections[0]
    inside = out.obs["c2sti_1_tissue"].to_numpy()
    np.testing.assert_allclose(np.asarray(bins.get_array()), out.layers["c2sti_1"][inside, 5], rtol=1e-5)
    centres = [path.get_extents().get_points().mean(axis=0) for path in bins.get_paths()]
    np.testing.assert_allclose(centres, out.obsm["spatial"][inside])


def test_sections_into_given_axes_and_its_errors(out: AnnData, pair: tuple[AnnData, AnnData]) -> None:
    figure, axs = plt.subplots(1, 4)
    assert c2sti.pl.sections(out, out.var_names[0], ax=axs, vmin=0, vmax=2)[0].figure is figure
    assert axs[0].collections[0].get_clim() == (0, 2)
    with pytest.raises(ValueError, match="ax holds 3 axes; one for each of 4 panels is needed"):
        c2sti.pl.sections(out, out.var_names[0], ax=axs[:3])
    with pytest.raises(KeyError, match="no gene 'xyz'; var_names has 60"):
        c2sti.pl.sections(out, "xyz")
    with pytest.raises(KeyError, match="does not hold the result of c2sti.tl.interpolate"):
        c2sti.pl.sections(pair[0], "gene_001")


def test_sections_of_a_stack_are_those_of_the_result(out: AnnData) -> None:
    gene = out.var_names[5]
    stack = c2sti.tl.to_slices(out)
    for from_layers, from_rows in zip(c2sti.pl.sections(out, gene), c2sti.pl.sections(stack, gene), strict=True):
        assert from_rows.get_title() == from_layers.get_title()
        one, other = (np.asarray(ax.collections[0].get_array()) for ax in (from_layers, from_rows))
        np.testing.assert_array_equal(one, other)
    assert arrows(c2sti.pl.displacement(stack)[0]).U.size == arrows(c2sti.pl.displacement(out)[0]).U.size


def test_sections_of_a_long_series_stand_in_several_rows(series: list[AnnData]) -> None:
    stack = c2sti.tl.interpolate_series(series, spacing=50.0, model="copy", show_progress_bar=False)
    axes = c2sti.pl.sections(stack, "gene_001")
    assert len(axes) == 10
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0] * 5 + [1] * 5
    assert [ax.get_title().startswith("slice") for ax in axes] == [True, False, False] * 3 + [True]
    axes = c2sti.pl.sections(stack, "gene_001", sections=stack.uns["c2sti"]["sections"][:9])
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0] * 5 + [1] * 4
    assert len(axes[0].figure.axes) == 9 + 1  # the tenth place is empty, and there is the colour bar
    with pytest.raises(
        KeyError, match=r"adata\[adata.obs\['section'\] == 'slice_0'\].copy\(\), key_added=.* makes one"
    ):
        c2sti.pl.coexpression(stack, "gene_001")


def arrows(ax: plt.Axes) -> plt.Quiver:
    return next(drawn for drawn in ax.collections if hasattr(drawn, "U"))


def test_displacement_points_from_slice_a_to_slice_b_and_says_how_far(out: AnnData, tmp_path: Path) -> None:
    pitch = out.uns["c2sti"]["lattice"]["pitch"]
    (ax,) = c2sti.pl.displacement(out, scalebar_dx=2.0, img=False, save=tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 5_000
    assert ax.get_title() == "c2sti_1\ninterpolated, z = 100"
    drawn = arrows(ax)
    np.testing.assert_allclose(drawn.U, 0.25 * pitch)
    np.testing.assert_allclose(drawn.V, 0, atol=1e-9)
    rows = {tuple(xy) for xy in out.obsm["spatial"][out.obs["c2sti_1_tissue"]].round(3)}
    assert {tuple(xy) for xy in drawn.XY.round(3)} <= rows
    label = ax.texts[-1].get_text()
    assert label == "50 µm (arrows 5 ×)"  # 0.25 bins of 100 units, 2 µm each, magnified to reach over a bin
    assert drawn.scale == pytest.approx(1 / 5)
    (bins,) = (drawn for drawn in ax.collections if not hasattr(drawn, "U"))
    np.testing.assert_allclose(np.asarray(bins.get_array()), 0.25 * pitch * 2)


def test_displacement_over_a_picture(out: AnnData) -> None:
    width, height = out.obsm["spatial"].max(axis=0)
    picture = np.random.default_rng(0).random((40, 30, 3))
    (ax,) = c2sti.pl.displacement(out, "c2sti_1", img=picture, scale_factor=0.5)
    assert ax.images[0].get_extent() == [0, 60, 80, 0]
    assert ax.texts[-1].get_text().startswith("20 units")
    assert ax.get_xlim()[1] > width > ax.get_xlim()[0]
    stained = out.copy()
    stained.uns["spatial"]["c2sti"] = {
        "images": {"hires": picture},
        "scalefactors": {"tissue_hires_scalef": 2.0, "spot_diameter_fullres": 1.0},
    }
    assert c2sti.pl.displacement(stained, "c2sti_1")[0].images[0].get_extent() == [0, 15, 20, 0]
    assert not c2sti.pl.displacement(stained, "c2sti_1", img=False)[0].images
    shown = c2sti.pl.displacement(out, "c2sti_2")[0].images[0].get_array()
    np.testing.assert_array_equal(shown, out.uns["spatial"]["c2sti"]["images"]["c2sti_2"])  # the section's own
    stained.uns["spatial"]["c2sti"]["images"]["hires"] = np.full((40, 30, 3), 255, dtype=np.uint8)
    assert not c2sti.pl.displacement(stained, "c2sti_1")[0].images  # a blank is no image
    with pytest.raises(ValueError, match="img is an image; say with scale_factor="):
        c2sti.pl.displacement(out, img=picture)


def test_displacement_on_a_coarser_lattice_is_drawn_where_it_was_found(out: AnnData) -> None:
    coarse = out.copy()
    record = coarse.uns["c2sti"]
    height, width = -(-record["lattice"]["shape"] // 3)
    record["notes"]["displacement"] = np.ones((2, 2, height, width))
    xy = arrows(c2sti.pl.displacement(coarse)[0]).XY
    steps = (xy - record["lattice"]["origin"]) / record["lattice"]["pitch"]
    np.testing.assert_allclose(steps % 3, 1)  # the middle one of three bins


def test_displacement_that_is_zero_is_drawn_as_zero(out: AnnData) -> None:
    (ax,) = c2sti.pl.displacement(out, "c2sti_2")
    assert ax.texts[-1].get_text() == "nothing was moved"
    assert not any(hasattr(drawn, "U") for drawn in ax.collections)


def test_displacement_names_what_is_missing(out: AnnData) -> None:
    with pytest.raises(
        ValueError, match="slice_a was measured and has no displacement; the interpolated sections are c2sti_1, c2"
    ):
        c2sti.pl.displacement(out, "slice_a")
    with pytest.raises(KeyError, match=r"no section 'c2sti_9'; uns\['c2sti'\] has slice_a, c2sti_1"):
        c2sti.pl.displacement(out, "c2sti_9")
    still = out.copy()
    del still.uns["c2sti"]["notes"]["displacement"]
    with pytest.raises(KeyError, match="no displacement: the model 'linear' moves nothing"):
        c2sti.pl.displacement(still)


def test_a_network_that_moves_tissue_is_drawn(pair: tuple[AnnData, AnnData]) -> None:
    model = c2sti.C2STi(c2sti.C2STiConfig(channels=4, panel=16, n_components=6, n_splits=0))
    for name, parameter in model.network.named_parameters():
        if "estimators.offset" in name:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    out = c2sti.tl.interpolate(*pair, model=model, show_progress_bar=False)
    drawn = arrows(c2sti.pl.displacement(out, scalebar_dx=1.0)[0])
    assert np.hypot(drawn.U, drawn.V).max() > 1e-3 * out.uns["c2sti"]["lattice"]["pitch"]


@pytest.fixture
def known(out: AnnData) -> AnnData:
    """A graph of four genes around gene 0, in slice_a; weaker by half in slice_b."""
    known = out.copy()
    edges = {(0, 3): 0.8, (0, 7): -0.6, (0, 9): 0.2, (3, 7): -0.5}
    held = known.uns["c2sti"]["coexpression"]
    assert list(held["genes"]) == list(out.var_names)
    for name, factor in {"slice_a": 1.0, "slice_b": 0.5}.items():
        matrix = np.zeros((out.n_vars, out.n_vars))
        for (i, j), r in edges.items():
            matrix[i, j] = matrix[j, i] = factor * r
        held[name] = sp.csr_matrix(matrix)
    return known


def test_coexpression_network_has_the_edges_of_the_graph(known: AnnData, tmp_path: Path) -> None:
    gene = known.var_names[0]
    left, right = c2sti.pl.coexpression(
        known, gene, sections=["slice_a", "slice_b"], n_genes=2, save=tmp_path / "n.png"
    )
    assert (tmp_path / "n.png").stat().st_size > 5_000
    assert {t.get_text() for t in left.texts} == {gene, known.var_names[3], known.var_names[7]}
    lines = [c for c in left.collections if hasattr(c, "get_segments")]
    assert len(lines) == 3  # gene 0 to either neighbour, and one neighbour to the other
    assert [t.get_position() for t in left.texts] == [t.get_position() for t in right.texts]
    widest = max(lines, key=lambda line: line.get_linewidth()[0])
    red, _, blue, _ = widest.get_color()[0]
    assert red > blue  # the strongest of them is positive
    width = {
        ax: max(c.get_linewidth()[0] for c in ax.collections if hasattr(c, "get_segments")) for ax in (left, right)
    }
    assert width[right] < width[left]


def test_coexpression_heatmap_shows_values_and_leaves_the_unknown_blank(known: AnnData) -> None:
    (ax,) = c2sti.pl.coexpression(known, known.var_names[0], sections="slice_a", kind="heatmap")
    names = [t.get_text() for t in ax.get_yticklabels()]
    shown = pd.DataFrame(np.ma.filled(ax.images[0].get_array(), np.nan), names, names)
    gene, a, b, c = known.var_names[[0, 3, 7, 9]]
    assert names[0] == gene
    assert set(names) == {gene, a, b, c}
    assert shown.loc[gene, a] == shown.loc[a, gene] == pytest.approx(0.8)
    assert shown.loc[a, b] == pytest.approx(-0.5)
    assert np.isnan(shown.loc[b, c])
    assert ax.images[0].get_clim() == (-0.8, 0.8)


def test_coexpression_of_a_result_and_of_a_section(out: AnnData, pair: tuple[AnnData, AnnData]) -> None:
    axes = c2sti.pl.coexpression(out, "gene_001", n_genes=5)
    assert ["interpolated" in ax.get_title() for ax in axes] == [False, True, True, False]
    section = pair[0]
    with pytest.raises(KeyError, match=r"varp has no 'coexpression' \(it has \[\]\); c2sti.tl.coexpression"):
        c2sti.pl.coexpression(section, "gene_001")
    c2sti.tl.coexpression(section)
    assert len(c2sti.pl.coexpression(section, "gene_001", n_genes=5)) == 1
    with pytest.raises(KeyError, match="adata is one section"):
        c2sti.pl.coexpression(section, "gene_001", sections="slice_a")


def test_coexpression_names_what_is_missing(known: AnnData) -> None:
    with pytest.raises(KeyError, match="no gene 'xyz'"):
        c2sti.pl.coexpression(known, "xyz")
    with pytest.raises(KeyError, match="no section 'c2sti_9'"):
        c2sti.pl.coexpression(known, "gene_001", sections="c2sti_9")
    with pytest.raises(ValueError, match="kind = 'tree' must be"):
        c2sti.pl.coexpression(known, "gene_001", kind="tree")
    with pytest.raises(ValueError, match="n_genes = 0 must be a whole number of at least 1"):
        c2sti.pl.coexpression(known, "gene_001", n_genes=0)


def test_coexpression_of_a_gene_without_an_edge_is_that_of_the_measured_spots(known: AnnData) -> None:
    gene = known.var_names[20]
    (ax,) = c2sti.pl.coexpression(known, gene, sections="slice_a", kind="heatmap", n_genes=4)
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names[0] == gene and len(names) == 5
    shown = pd.DataFrame(np.ma.filled(ax.images[0].get_array(), np.nan), names, names)
    c2sti.tl.coexpression(known, genes=gene, n_edges=4)
    edges = pd.Series(known.varp["coexpression_slice_a"][[20]].toarray()[0], known.var_names)
    pd.testing.assert_series_equal(shown.loc[gene, names[1:]], edges[names[1:]], check_dtype=False, check_names=False)
    assert set(names[1:]) == set(edges.index[edges != 0])
    del known.varp["coexpression_slice_a"]
    known.layers["slice_a"][:, 20] = known.layers["slice_b"][:, 20] = 1.0
    with pytest.raises(ValueError, match=f"{gene} has no edge in the graphs of slice_a"):
        c2sti.pl.coexpression(known, gene, sections="slice_a")


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        {"section": s, "position": 0.5, "method": m, "pcc": 0.1 * (s + i), "rmse": 1.0, "rv": 0.5, "ceiling": 0.6}
        for s in (1, 2)
        for i, m in enumerate(["copy", "gp"])
    ]
    return pd.DataFrame(rows)


def test_evaluation_shows_sections_means_and_ceiling(table: pd.DataFrame, tmp_path: Path) -> None:
    ax = c2sti.pl.evaluation(table, save=tmp_path / "e.png")
    assert (tmp_path / "e.png").exists()
    texts = [t.get_text() for t in ax.texts]
    assert texts == ["0.150", "0.250"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["copy", "gp"]
    assert any(np.allclose(line.get_ydata(), 0.6) for line in ax.lines)
    assert not any(np.allclose(line.get_ydata(), 0.6) for line in c2sti.pl.evaluation(table, metric="rmse").lines)
    reached = c2sti.pl.evaluation(table.assign(half_observed=[np.nan, 0.5] * 2)).collections[0]
    np.testing.assert_allclose(reached.get_segments(), [[[1 - 0.32, 0.5], [1 + 0.32, 0.5]]])
    assert not ax.containers  # two sections say nothing of the spread
    with pytest.raises(KeyError, match="no column 'psnr'"):
        c2sti.pl.evaluation(table, metric="psnr")


def test_evaluation_leaves_out_methods_without_a_score(table: pd.DataFrame) -> None:
    only = table.assign(share=np.where(table["method"] == "gp", 0.9, np.nan))
    assert [text.get_text() for text in c2sti.pl.evaluation(only, metric="share").get_xticklabels()] == ["gp"]


def test_evaluation_intervals_compare_methods_within_sections() -> None:
    """What all methods share of a section's level has no part; what they do differently has."""
    level, gain = np.array([0.1, 0.3, 0.5, 0.7]), np.array([0.04, 0.06, 0.04, 0.06])
    rows = [
        {"section": i, "position": 0.5, "method": m, "rv": level[i] + (gain[i] if m == "mine" else 0)}
        for i in range(4)
        for m in ("mine", "linear")
    ]
    ax = c2sti.pl.evaluation(pd.DataFrame(rows), metric="rv")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["linear", "mine"]  # naive ones first
    half = [np.ptp(c.lines[2][0].get_segments()[0][:, 1]) / 2 for c in ax.containers]
    # For two methods it is the paired interval of their difference over √2.
    paired = 3.182446 * gain.std(ddof=1) / np.sqrt(4)
    np.testing.assert_allclose(half, paired / np.sqrt(2), rtol=1e-5)


# ---- how uncertain


def test_spread_draws_std_as_colour_and_the_value_as_lines(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    out = c2sti.tl.interpolate(*pair, n_slices=2, model="linear", std=True, show_progress_bar=False)
    gene = out.var_names[out.layers["c2sti_2"].std(axis=0).argmax()]
    (ax,) = c2sti.pl.spread(out, gene, sections="c2sti_2", save=tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 5000
    bins = next(drawn for drawn in ax.collections if isinstance(drawn, PatchCollection))
    inside = out.obs["c2sti_2_tissue"].to_numpy()
    np.testing.assert_allclose(bins.get_array(), out[inside].obs_vector(gene, layer="c2sti_2_std"))
    assert bins.get_clim() == pytest.approx(tuple(np.percentile(np.asarray(bins.get_array()), [1, 99])))
    (lines,) = (drawn for drawn in ax.collections if isinstance(drawn, TriContourSet))
    value = out[inside].obs_vector(gene, layer="c2sti_2")
    np.testing.assert_allclose(lines.levels, np.quantile(value, [0.25, 0.5, 0.75]), rtol=1e-5)
    assert ax.get_title() == "c2sti_2\ninterpolated, z = 200"
    _, given = plt.subplots()
    stack = c2sti.tl.to_slices(out)
    assert c2sti.pl.spread(stack, gene, sections="c2sti_2", contours=0, vmin=0.1, vmax=2, ax=given) == [given]
    (alone,) = given.collections
    assert alone.get_clim() == (0.1, 2)
    np.testing.assert_allclose(alone.get_array(), bins.get_array())


def test_spread_names_what_is_missing(out: AnnData) -> None:
    with pytest.raises(
        KeyError, match=r"there is no layer 'c2sti_1_std'; c2sti.tl.interpolate\(…, std=True\) writes it"
    ):
        c2sti.pl.spread(out, out.var_names[0])
    with pytest.raises(
        ValueError, match="slice_b was measured and has no standard deviation; the interpolated sections are c2sti_1, c"
    ):
        c2sti.pl.spread(out, out.var_names[0], sections="slice_b")
    with pytest.raises(KeyError, match="there is no gene 'xyz'"):
        c2sti.pl.spread(out, "xyz")


def test_a_gene_that_does_not_vary_has_no_lines(made: AnnData) -> None:
    flat = made.copy()
    gene = flat.var_names[0]
    flat.layers["c2sti_1_std"] = np.ones(flat.shape, dtype=np.float32)
    flat.layers["c2sti_1"] = np.full(flat.shape, 2.0, dtype=np.float32)
    (ax,) = c2sti.pl.spread(flat, gene, sections="c2sti_1")
    assert not [drawn for drawn in ax.collections if isinstance(drawn, TriContourSet)]


def test_sections_without_depth_are_called_by_their_position(pair: tuple[AnnData, AnnData]) -> None:
    for section in pair:
        del section.obs["z_um"]
    out = c2sti.tl.interpolate(*pair, positions=[0.25], model="copy", show_progress_bar=False)
    titles = [ax.get_title() for ax in c2sti.pl.sections(out, out.var_names[0])]
    assert titles == ["slice_a\nmeasured", "c2sti_1\ninterpolated, at 0.25", "slice_b\nmeasured"]


def test_training_history_shows_where_the_weights_are_from(tmp_path: Path) -> None:
    history = {"loss": np.linspace(2, 1, 100).tolist(), "validation": [[50, 1.4], [75, 1.2], [100, 1.3]]}
    ax = c2sti.pl.training_history(history, save=tmp_path / "h.png")
    assert (tmp_path / "h.png").is_file()
    loss, mean, validation, best = ax.lines
    np.testing.assert_allclose(loss.get_ydata(), history["loss"])
    np.testing.assert_allclose(mean.get_ydata()[-1], np.mean(history["loss"][-5:]))
    np.testing.assert_allclose(validation.get_xydata(), history["validation"])
    assert set(best.get_xdata()) == {75.0}
    model = c2sti.C2STi(card={"history": history})
    assert len(c2sti.pl.training_history(model).lines) == 4
    with pytest.raises(ValueError, match="has no training history"):
        c2sti.pl.training_history(c2sti.C2STi())


# ---- what all plots share


@pytest.fixture(scope="module")
def labelled(tissue: Phantom) -> AnnData:
    first, last = tissue.series([0.0, 300.0])
    return c2sti.tl.interpolate(
        first, last, n_slices=2, model="linear", obs_keys="domain", std=True, show_progress_bar=False
    )


def bins_of(ax: plt.Axes) -> PatchCollection:
    return next(drawn for drawn in ax.collections if isinstance(drawn, PatchCollection))


def test_sections_draws_genes_labels_numbers_and_images(labelled: AnnData) -> None:
    gene = labelled.var_names[0]
    axes = c2sti.pl.sections(labelled, [gene, "domain", "confidence", None], vmax="p90")
    assert [ax.get_ylabel() for ax in axes if ax.get_ylabel()] == [gene, "domain", "confidence", "H&E"]
    assert len(axes) == 4 + 4 + 2 + 4  # measured sections have no confidence, and no empty panel
    values = np.concatenate([np.asarray(bins_of(ax).get_array()) for ax in axes[:4]])
    assert bins_of(axes[0]).get_clim() == pytest.approx(tuple(np.percentile(values, [1, 90])))
    names = {text.get_text() for ax in axes[0].figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()}
    assert names == set(labelled.obs["slice_a_domain"].dropna()) | set(labelled.obs["c2sti_1_domain"].dropna())
    assert [ax.get_title().split("\n")[1].split(",")[0] for ax in axes[-4:]] == [
        "measured",
        *2 * ["virtual"],
        "measured",
    ]
    assert all(ax.images for ax in axes[-4:])
    same = c2sti.pl.sections(c2sti.tl.to_slices(labelled), "domain")
    for from_rows, from_columns in zip(same, axes[4:8], strict=True):
        one, other = (bins_of(ax) for ax in (from_rows, from_columns))
        np.testing.assert_array_equal(one.get_facecolor(), other.get_facecolor())


def test_a_part_of_a_result_has_no_empty_panels(labelled: AnnData) -> None:
    stack = c2sti.tl.to_slices(labelled)
    part = stack[stack.obs["section"].isin(["slice_a", "c2sti_2"])].copy()
    axes = c2sti.pl.sections(part, "gene_001")
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["slice_a", "c2sti_2"]
    (ax,) = c2sti.pl.sections(labelled, "gene_001", sections="c2sti_1", title="mine", figsize=(3, 2))
    assert ax.get_title() == "mine"
    assert ax.figure.get_size_inches().tolist() == [3, 2]
    with pytest.raises(ValueError, match="adata has no row inside the tissue of slice_b"):
        c2sti.pl.sections(part, "gene_001", sections="slice_b")


def test_panels_stand_in_rows_of_ncols(labelled: AnnData) -> None:
    axes = c2sti.pl.sections(labelled, ["gene_001", "gene_002"], ncols=3)
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0, 0, 0, 1, 2, 2, 2, 3]
    assert axes[0].figure.get_figwidth() <= 7.2


def test_what_plots_share_is_in_their_signatures_and_refused_by_name(out: AnnData, monkeypatch) -> None:
    for draw in (c2sti.pl.sections, c2sti.pl.spread, c2sti.pl.coexpression, c2sti.pl.displacement, c2sti.pl.stack):
        assert set(inspect.signature(draw).parameters) >= {"ax", "figsize", "title", "cmap", "vmin", "ncols", "show"}
    for draw in (c2sti.pl.evaluation, c2sti.pl.genes, c2sti.pl.training_history, c2sti.pl.alignment):
        assert set(inspect.signature(draw).parameters) >= {"ax", "figsize", "title", "save", "show"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        c2sti.pl.sections(out, "gene_001", colour="red")
    with pytest.raises(ValueError, match="vmax = 'q99' is no percentile from 'p0' to 'p100'"):
        c2sti.pl.sections(out, "gene_001", vmax="q99")
    with pytest.raises(ValueError, match="title holds 2 texts; one for each of 4 panels"):
        c2sti.pl.sections(out, "gene_001", title=["a", "b"])
    seen = []
    monkeypatch.setattr(plt, "show", lambda: seen.append(True))
    c2sti.pl.sections(out, "gene_001", show=True)
    assert seen == [True]


def test_marks_are_light_on_a_dark_background(out: AnnData, table: pd.DataFrame) -> None:
    with plt.style.context("dark_background"):
        measured, interpolated, *_ = c2sti.pl.sections(out, "gene_001")
        ceiling = c2sti.pl.evaluation(table).lines[-1]
    colours = [measured.title.get_color(), interpolated.title.get_color(), ceiling.get_color()]
    assert all(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) > 0.5 for colour in colours)


# ---- stack, alignment, genes


def test_stack_stands_in_true_proportions(labelled: AnnData) -> None:
    gene, label = c2sti.pl.stack(labelled, ["gene_001", "domain"])
    assert [ax.get_title() for ax in (gene, label)] == ["gene_001", "domain"]
    lengths = [float(np.ptp(limits)) for limits in (gene.get_xlim(), gene.get_ylim(), gene.get_zlim())]
    np.testing.assert_allclose(gene._box_aspect / lengths, (gene._box_aspect / lengths)[0])
    assert [len(c.get_facecolor()) for c in label.collections] == [
        labelled.obs[f"{name}_tissue"].sum() for name in labelled.uns["c2sti"]["sections"]
    ]
    (long,) = c2sti.pl.stack(labelled, "gene_001", z_scale=4.0, sections=["slice_a", "slice_b"])
    assert long.get_title() == "gene_001\nz drawn 4 × as long"
    assert [text.get_text() for text in long.get_zticklabels()] == ["slice_a, 0", "slice_b, 300"]
    with pytest.raises(TypeError, match="projection='3d'"):
        c2sti.pl.stack(labelled, "gene_001", ax=plt.subplots()[1])
    flat = labelled.copy()
    del flat.uns["c2sti"]["z"]
    with pytest.raises(KeyError, match="has no z of the sections"):
        c2sti.pl.stack(flat, "gene_001")


def test_alignment_lays_sections_on_each_other(tmp_path: Path) -> None:
    tissue = c2sti.datasets.phantom(seed=1, size=8, n_genes=30)
    first, second = tissue.section(0.0), tissue.section(100.0, angle=90.0)
    with pytest.raises(KeyError, match=r"reference has no obsm\['spatial_aligned'\].*c2sti.pp.align\("):
        c2sti.pl.alignment(first, second)
    c2sti.pp.align(first, second)
    axes = c2sti.pl.alignment(first, second, color=["gene_001", None], save=tmp_path / "a.png")
    assert [ax.get_title().split(":")[0] for ax in axes] == 2 * ["before", "after"]
    assert "fit" in axes[1].get_title()
    for ax, key in zip(axes[:2], ("spatial", "spatial_aligned"), strict=True):
        for drawn, section in zip(ax.collections, (first, second), strict=True):
            np.testing.assert_allclose(drawn.get_offsets(), section.obsm[key])
    assert [len(ax.images) for ax in axes] == [0, 0, 2, 2]
    del second.uns["spatial"]
    assert c2sti.pl.alignment(first, second)[0].get_ylabel() == "spots"
    with pytest.raises(ValueError, match=r"obs\['domain'\] of reference holds no numbers"):
        c2sti.pl.alignment(first, second, color="domain")


def test_genes_shows_the_best_and_the_worst_or_those_named() -> None:
    table = pd.DataFrame({"pcc": np.linspace(-0.1, 0.9, 50)}, index=[f"g{i}" for i in range(50)])
    ax = c2sti.pl.genes(table, n_genes=4)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["g49", "g48", "g1", "g0"]
    ax = c2sti.pl.genes(table, ["g3", "g40"])
    np.testing.assert_allclose(ax.lines[1].get_xdata(), table.loc[["g3", "g40"], "pcc"])
    cases = pd.concat([table.assign(section=s, method=m, pcc=table.pcc + s) for s in (0, 1) for m in ("gp", "c2sti")])
    ax = c2sti.pl.genes(cases.rename_axis("gene").reset_index(), "g3")
    np.testing.assert_allclose([line.get_xdata()[0] for line in ax.lines[1:3]], table.loc["g3", "pcc"] + 0.5)
    with pytest.raises(KeyError, match="1 of 1 genes= are not in the table"):
        c2sti.pl.genes(table, "xyz")
    cases["ceiling"], cases["half_observed"] = 0.95, np.where(cases["method"] == "c2sti", 0.8, 0.7)
    ax = c2sti.pl.genes(cases.rename_axis("gene").reset_index(), ["g3", "g4"])
    assert ax.lines[1].get_label() == "c2sti"  # naive methods come after it, in grey
    ends = [[segment[0, 0] for segment in bars.get_segments()] for bars in ax.collections]
    np.testing.assert_allclose(ends, [[0.95, 0.95], [0.8, 0.8]])
    assert not c2sti.pl.genes(cases.assign(rmse=1.0).reset_index(names="gene"), metric="rmse").collections
    with pytest.raises(KeyError, match=r"no column 'rmse' \(metric=\); it has \['pcc'\]"):
        c2sti.pl.genes(table, metric="rmse")
