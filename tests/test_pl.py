from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import c2sti


@pytest.fixture
def out(pair: tuple[AnnData, AnnData]) -> AnnData:
    return c2sti.tl.interpolate(*pair, n_slices=2, model="linear", show_progress_bar=False)


@pytest.fixture(autouse=True)
def _close_figures():
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
        assert ("inserted" in ax.get_title()) == name.startswith("c2sti")
        assert ("measured" in ax.get_title()) == name.startswith("slice")
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 is the top
        assert ax.get_xlim() == axes[0].get_xlim()
    assert "z = 100" in axes[1].get_title()


def test_sections_draws_the_values_of_the_layer(out: AnnData) -> None:
    gene = out.var_names[5]
    ax = c2sti.pl.sections(out, gene)[1]
    shown = np.sort(np.asarray(ax.collections[0].get_array()))
    inside = out.obs["c2sti_1_tissue"].to_numpy()
    np.testing.assert_allclose(shown, np.sort(out.layers["c2sti_1"][inside, 5]), rtol=1e-5)


def test_sections_into_given_axes_and_its_errors(out: AnnData, pair: tuple[AnnData, AnnData]) -> None:
    figure, axs = plt.subplots(1, 4)
    assert c2sti.pl.sections(out, out.var_names[0], axs=axs, vmin=0, vmax=2)[0].figure is figure
    assert axs[0].collections[0].get_clim() == (0, 2)
    with pytest.raises(ValueError, match="axs holds 3 axes; one for each of slice_a, c2sti_1"):
        c2sti.pl.sections(out, out.var_names[0], axs=axs[:3])
    with pytest.raises(KeyError, match="no gene 'xyz'; var_names has 60"):
        c2sti.pl.sections(out, "xyz")
    with pytest.raises(KeyError, match="does not hold the result of c2sti.tl.interpolate"):
        c2sti.pl.sections(pair[0], "gene_001")


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
    with pytest.raises(KeyError, match="no column 'psnr'"):
        c2sti.pl.evaluation(table, metric="psnr")
