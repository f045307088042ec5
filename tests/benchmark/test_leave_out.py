from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti import benchmark, io
from c2sti._types import Prediction, SlicePair
from c2sti.benchmark._leave_out import Window, pair_of, verdict, windows
from c2sti.datasets import Phantom
from c2sti.models._registry import METHODS


def evaluate(series: list[AnnData], **keywords: object):
    return c2sti.tl.evaluate(series, show_progress_bar=False, **keywords)


def test_the_table(series: list[AnnData]) -> None:
    table = evaluate(series)
    assert len(table) == 2 * (len(METHODS) + 1)
    assert set(table["method"]) == {"copy", "linear", "lowrank", "gp", "c2sti"}
    assert sorted(set(table["section"])) == [1, 2]
    np.testing.assert_allclose(table["position"], 0.5)
    assert table[["pcc", "rmse", "rv", "ceiling", "fraction"]].notna().all(axis=None)
    np.testing.assert_allclose(table["fraction"], table["pcc"] / table["ceiling"])
    assert "held-out sections (mean)" in table.attrs["verdict"]
    mean = table.groupby("method")["pcc"].mean()
    assert mean["gp"] > mean["linear"] > mean["copy"]


def test_several_hidden_in_a_row_and_uneven_depths(series: list[AnnData]) -> None:
    table = evaluate(series, n_slices=2, z=[0.0, 10.0, 40.0, 50.0], methods=["copy"])
    assert table.drop_duplicates("section")["position"].tolist() == [0.2, 0.8]


def test_windows_know_what_lies_beyond() -> None:
    found = list(windows(np.array([0.0, 1.0, 2.0, 4.0]), 1))
    assert [(w.a, w.held_out, w.b) for w in found] == [(0, (1,), 2), (1, (2,), 3)]
    assert found[0].beyond == {2.0: 3}
    assert found[1].beyond == pytest.approx({-1 / 3: 0})
    assert found[1].positions == pytest.approx((1 / 3,))


def test_the_hidden_section_touches_nothing(series: list[AnnData]) -> None:
    """Spoil the held-out section: what the methods are given and what they answer must not change."""
    seen: list[tuple[SlicePair, np.ndarray]] = []

    def spy(pair: SlicePair, at: np.ndarray, positions: list[float], **keywords: object) -> Prediction:
        answer = METHODS["lowrank"](pair, at, positions, **keywords)
        seen.append((pair, answer.slices[0].expression()))
        return answer

    def run(slices: list[AnnData]) -> None:
        grids = [c2sti.io.read_slice(s) for s in slices]
        how = {"context": False, "n_genes": 40, "on_misfit": "ignore", "show_progress_bar": False}
        benchmark.leave_sections_out(grids, methods={"spy": spy}, **how)

    run(series[:3])
    spoiled = series[1].copy()
    spoiled.X = spoiled.X[np.random.default_rng(0).permutation(spoiled.n_obs)][:, ::-1].tocsr()
    run([series[0], spoiled, series[2]])
    (pair, answer), (pair_spoiled, answer_spoiled) = seen
    assert (pair.a.expression != pair_spoiled.a.expression).nnz == 0
    assert (pair.b.expression != pair_spoiled.b.expression).nnz == 0
    np.testing.assert_array_equal(answer, answer_spoiled)


def test_a_copy_among_the_neighbours_is_noticed(series: list[AnnData]) -> None:
    copied = series[1].copy()
    copied.obs["z_um"] = 300.0
    copied.obsm["spatial"] += 30.0
    message = r"spots of slices\[1\] are found in slices\[2\] with the very same expression"
    with pytest.warns(UserWarning, match=message):
        evaluate([series[0], series[1], copied], methods=["copy"])


def test_published_copy_among_the_heart_sections(real: Path) -> None:
    grids = [c2sti.io.read_slice(c2sti.datasets.developing_heart(i, data_dir=real)) for i in (1, 2, 3)]
    assert c2sti.io.shared_profiles(grids[0], grids[1]) == 85
    assert c2sti.io.shared_profiles(grids[1], grids[2]) == 0


def test_scores_equal_those_computed_by_hand(series: list[AnnData]) -> None:
    a, hidden, b = series[:3]
    table = evaluate([a, hidden, b], n_genes=1000, methods=["linear"]).set_index("method")
    out = c2sti.tl.interpolate(a, b, at=hidden.obsm["spatial"], model="linear", show_progress_bar=False)
    counts = hidden.X.toarray()
    truth = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    detected = [(s.X > 0).toarray().mean(axis=0) >= 0.1 for s in (a, b)]
    genes = detected[0] & detected[1]
    assert table.loc["linear", "n_genes"] == genes.sum()
    assert table.loc["linear", "pcc"] == pytest.approx(c2sti.metrics.pcc(out.X[:, genes], truth[:, genes]), abs=1e-6)


def test_scores_of_each_gene_and_the_sections_they_come_from(series: list[AnnData]) -> None:
    names = ["z1", "z2", "z3", "z4"]
    for name, section in zip(names, series, strict=True):
        section.obs["sample"] = name
        section.obs_names = [f"{name}_{i}" for i in range(section.n_obs)]
    whole = ad.concat(series, merge="same")
    how = {"library_key": "sample", "z": [0, 1, 2, 3], "methods": ["linear"]}
    table, genes, sections = evaluate(whole, return_genes=True, return_sections=True, **how)
    assert sorted(set(genes["name"])) == ["z2", "z3"]
    assert len(genes) == table["n_genes"].sum()
    mean = genes.groupby(["name", "method"])[["pcc", "ceiling"]].mean()
    expected = table.set_index(["name", "method"])[["pcc", "ceiling"]]
    pd.testing.assert_frame_equal(mean.sort_index(), expected.sort_index())
    pooled = genes.groupby(["name", "method"])["rmse"].apply(lambda x: np.sqrt(np.mean(x**2)))
    np.testing.assert_allclose(pooled.sort_index(), table.set_index(["name", "method"])["rmse"].sort_index())
    for one, name in zip(sections, ["z2", "z3"], strict=True):
        assert one.uns["evaluation"]["name"] == name
        assert list(one.layers) == list(METHODS)
        own = genes[(genes["name"] == name) & (genes["method"] == "lowrank")].set_index("gene")
        np.testing.assert_allclose(
            c2sti.metrics.gene_pcc(one.layers["lowrank"], one.X), own.loc[one.var_names, "pcc"], atol=1e-6
        )
        assert list(one.obs_names) == [f"{name}_{i}" for i in range(one.n_obs)]
        np.testing.assert_array_equal(one.obsm["spatial"], whole[one.obs_names].obsm["spatial"])
    assert sections[0].uns["evaluation"]["synthetic_layers"] == list(METHODS)
    with pytest.raises(ValueError, match="return_genes= is for output='expression'"):
        evaluate(whole, output="cells", return_genes=True, **how)


def _table(**pcc: list[float]) -> pd.DataFrame:
    rows = [(i, 0.5, name, value) for name, values in pcc.items() for i, value in enumerate(values)]
    table = pd.DataFrame(rows, columns=["section", "position", "method", "pcc"])
    return table.assign(ceiling=0.5, fraction=table["pcc"] / 0.5)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (
            _table(gp=[0.2, 0.2, 0.3], ours=[0.22, 0.22, 0.32]),
            "'ours' has a PCC of 0.253 on 3 held-out sections (mean), 51% of what the noise of the counts allows, and "
            "is ahead of the simple method 'gp' (0.233) in 3 of 3.",
        ),
        (
            _table(gp=[0.24], copy=[0.1], ours=[0.2]),
            "The simple method 'gp' has a PCC of 0.240 on one held-out section, 48% of what the noise of the counts "
            "allows, and is ahead of 'ours' (0.200) in 1 of 1, which is too few to say which is better.",
        ),
        (
            _table(gp=[0.2, 0.2, 0.3], ours=[0.1, 0.3, 0.32]).drop(columns=["ceiling", "fraction"]).assign(
                ceiling=np.nan, fraction=np.nan, share=0.9
            ),
            "'ours' has a PCC of 0.240 on 3 held-out sections (mean), 90% of what it has if given half of the "
            "section's spots, and is ahead of the simple method 'gp' (0.233) in 2 of 3, which may be chance.",
        ),
        (
            _table(gp=[0.2], copy=[0.1]),
            "The simple method 'gp' has a PCC of 0.200 on one held-out section, 40% of what the noise of the counts "
            "allows.",
        ),
    ],
)  # fmt: skip
def test_the_verdict_is_one_plain_sentence(table: pd.DataFrame, text: str) -> None:
    assert verdict(table, METHODS) == text


def test_normalised_series_have_no_ceiling(series: list[AnnData]) -> None:
    for section in series:
        section.X = section.X.log1p()
    table = evaluate(series[:3], methods=["copy"])
    assert table["ceiling"].isna().all()
    assert table["pcc"].notna().all()


def test_single_cells_are_scored_on_bins(tissue: Phantom) -> None:
    table = evaluate(tissue.series([0.0, 150.0, 300.0], layout="cells", image=False), methods=["linear"])
    n_cells = tissue.section(150.0, layout="cells", image=False).n_obs
    assert (table["n_spots"] < n_cells / 3).all()
    assert (table.set_index("method").loc["gp", "pcc"] > table.set_index("method").loc["copy", "pcc"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {"slices": s[:2]},
            "2 sections are too few to hold out 1 between two others .n_slices.; give 3 or more",
        ),
        (lambda s: {"slices": s, "n_slices": 3}, "4 sections are too few to hold out 3"),
        (lambda s: {"slices": s, "n_slices": 0}, "n_slices = 0 must be a whole number of at least 1"),
        (lambda s: {"slices": s, "z": [0.0, 1.0]}, r"z has shape \(2,\); one number for each of the 4 sections"),
        (lambda s: {"slices": s, "z": [0.0, 2.0, 1.0, 3.0]}, "must run one way; put the slices in their order"),
        (lambda s: {"slices": s, "methods": ["rife"]}, "there is no model 'rife'"),
        (lambda s: {"slices": [s[2], s[0], s[1]]}, "must run one way"),
    ],
)
def test_bad_series_are_refused(series: list[AnnData], change, message: str) -> None:
    keywords = change(series)
    with pytest.raises(ValueError, match=message):
        evaluate(keywords.pop("slices"), **keywords)


def test_genes_that_nobody_has_leave_nothing_to_score(series: list[AnnData]) -> None:
    for section in series:
        section.X = sp.csr_matrix(([1.0], ([0], [0])), shape=section.shape, dtype=np.float32)  # one count in all
    a, b = (io.read_slice(s, name=n) for s, n in zip(series[:2], "ab", strict=True))
    with pytest.raises(ValueError, match="no gene is detected in 10% of the spots of both a and b"):
        pair_of([a, b], Window(0, 1, (), (), {}), 5, context=False)


def test_half_of_the_section_itself_is_the_better_neighbour(series: list[AnnData]) -> None:
    plain = evaluate(series[:3], methods=["gp"])
    table, genes = evaluate(series[:3], methods=["gp"], half_observed=True, return_genes=True)
    table, genes = table.set_index("method"), genes[genes["method"] == "gp"]
    assert genes["half_observed"].mean() == pytest.approx(table.loc["gp", "half_observed"])
    known = genes[genes["half_observed"] > 0]
    assert genes["share"].notna().sum() == len(known) > 0.8 * len(genes)
    assert (known["share"] * known["half_observed"]).mean() == pytest.approx(
        table.loc["gp", "share"] * table.loc["gp", "half_observed"] * len(genes) / len(known), rel=0.1
    )
    np.testing.assert_array_equal(table["pcc"], plain["pcc"])  # the section touches no other score
    assert table.loc[["copy", "linear", "lowrank"], ["half_observed", "share"]].isna().all(axis=None)
    told = table.loc[["gp"]]
    assert (told["half_observed"] > told["pcc"]).all()
    assert told["share"].between(0.5, 1).all()
    with pytest.raises(ValueError, match="half_observed= is for output='expression'"):
        evaluate(series[:3], output="cells", half_observed=True)
