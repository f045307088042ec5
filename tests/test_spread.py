"""How sure an inserted value is."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti._types import InsertedSection, Prediction, SlicePair
from c2sti.baselines import METHODS
from c2sti.baselines.naive import gain
from c2sti.ops import local_noise
from c2sti.spread import ask, confidence
from tests.conftest import array_pair, square_array

SIDE = 6
AT = square_array(SIDE)


def told(name: str, pair: SlicePair, positions: list[float]) -> list[np.ndarray]:
    _, spread = ask(METHODS[name], pair, AT, positions, device="cpu", seed=0)
    return [spread.std(i) for i in range(len(positions))]


@pytest.mark.parametrize("name", ["copy", "linear"])
def test_two_even_sections_leave_only_what_they_disagree_on(name: str) -> None:
    pair = array_pair(np.full((SIDE**2, 2), 1.0), np.tile([1.0, 4.0], (SIDE**2, 1)), SIDE)
    middle, quarter = told(name, pair, [0.5, 0.25])
    np.testing.assert_allclose(middle, np.tile([0, 1.5], (SIDE**2, 1)), atol=5e-3)  # 3 · √(½ · ½)
    np.testing.assert_allclose(quarter, np.tile([0, 3 * 0.1875**0.5], (SIDE**2, 1)), atol=5e-3)


def test_noise_of_a_spot_is_what_it_does_not_share_with_the_next() -> None:
    xy = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0]])
    values = np.array([[1.0, 5], [3, 5], [7, 5], [7, 6]])
    for form in (values, sp.csr_array(values)):
        np.testing.assert_allclose(local_noise(xy, form), [(4 + 4) / 4 / 2, (1 + 1) / 4 / 2])


def test_a_mean_of_four_spots_keeps_a_quarter_of_their_noise() -> None:
    np.testing.assert_allclose(gain(sp.csr_array([[0.25] * 4, [1.0, 0, 0, 0]])), [0.25, 1.0])


@pytest.mark.parametrize("name", ["linear", "lowrank", "gp"])
def test_noise_comes_through_less_the_more_spots_speak(name: str) -> None:
    rng = np.random.default_rng(0)
    pair = array_pair(*(1 + rng.random((SIDE**2, 30)) for _ in range(2)), SIDE)
    copied, smooth = told("copy", pair, [0.5])[0], told(name, pair, [0.5])[0]
    assert 0 < smooth.mean() < 0.6 * copied.mean()


def test_beyond_the_spots_less_is_known() -> None:
    wave = np.sin(AT[:, :1] / 2) + 2 + np.zeros((1, 8))
    rng = np.random.default_rng(1)
    pair = array_pair(*(wave + 0.2 * rng.standard_normal(wave.shape) for _ in range(2)), SIDE)
    at = np.array([[2.5, 2.5], [-4.0, -4.0]])
    _, spread = ask(METHODS["gp"], pair, at, [0.5], device="cpu", seed=0)
    inside, outside = spread.std(0)
    assert (outside > 1.5 * inside).all()


def test_a_method_that_tells_no_noise_has_what_the_sides_disagree_on() -> None:
    def sides(pair: SlicePair, at: np.ndarray, positions: list[float], **_: object) -> Prediction:
        one = np.ones((len(at), 1))
        return Prediction(tuple(InsertedSection(p * one, np.ones((1, 3)), np.ones(3)) for p in positions))

    pair = array_pair(np.ones((SIDE**2, 3)), np.ones((SIDE**2, 3)), SIDE)
    _, spread = ask(sides, pair, AT, [0.5], device="cpu", seed=0)
    np.testing.assert_allclose(spread.std(0), 0.5 * 0.998, rtol=1e-5)
    np.testing.assert_allclose(spread.std(0, slice(0, 2)), 0.5 * 0.998, rtol=1e-5)
    assert spread.subset(np.array([2])).std(0).shape == (SIDE**2, 1)


def test_confidence_is_the_share_that_is_not_doubt() -> None:
    values = np.array([[0.0, 1], [2, 1], [9, 9]])  # variance over the first two bins: 1 + 0
    std = np.array([[0.0, 0], [1, 0], [3, 0]])
    inside = np.array([True, True, False])
    np.testing.assert_allclose(confidence(values, std, inside), [1, 0.5, 0.1])
    np.testing.assert_allclose(confidence(values, std, inside, n_genes=1), [1, 0.5, 0.1])
    assert (confidence(np.ones((3, 2)), std, inside) == 0).all()


def small() -> c2sti.C2STi:
    return c2sti.C2STi(c2sti.C2STiConfig(channels=4, n_programmes=10, n_splits=1))


@pytest.fixture(scope="module")
def results(_series: list[AnnData]) -> tuple[AnnData, AnnData]:
    """The same sections with and without their spread."""
    a, b = _series[0], _series[2]
    model = small()
    return tuple(
        c2sti.tl.interpolate(a, b, n_slices=2, model=model, std=std, show_progress_bar=False) for std in (True, False)
    )


def test_a_result_says_how_sure_it_is(results: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    sure, plain = results
    assert list(plain.layers) == ["slice_a", "c2sti_1", "c2sti_2", "slice_b"]
    assert [name for name in sure.layers if name not in plain.layers] == ["c2sti_1_std", "c2sti_2_std"]
    for name in ("c2sti_1", "c2sti_2"):
        np.testing.assert_allclose(sure.layers[name], plain.layers[name], atol=1e-5)
        std = sure.layers[f"{name}_std"]
        assert std.dtype == np.float32
        assert (std > 0).all()
        inside = sure.obs[f"{name}_tissue"].to_numpy()
        known, doubt = sure.layers[name][inside].var(axis=0).sum(), np.square(std).sum(axis=1)
        np.testing.assert_allclose(sure.obs[f"{name}_confidence"], known / (known + doubt), rtol=1e-4)
    # Notes that have an entry a section have not got more of them.
    assert [np.shape(r.uns["c2sti"]["notes"]["displacement"])[0] for r in results] == [2, 2]
    sure.write_h5ad(tmp_path / "sure.h5ad")
    again = ad.read_h5ad(tmp_path / "sure.h5ad")
    np.testing.assert_array_equal(again.layers["c2sti_2_std"], sure.layers["c2sti_2_std"])
    np.testing.assert_array_equal(again.obs["c2sti_1_confidence"], sure.obs["c2sti_1_confidence"])


def test_a_stack_keeps_it(results: tuple[AnnData, AnnData]) -> None:
    sure, plain = results
    stack = c2sti.tl.to_slices(sure)
    assert "std" not in c2sti.tl.to_slices(plain).layers
    for name in ("c2sti_1", "c2sti_2"):
        inside = sure.obs[f"{name}_tissue"].to_numpy()
        here = (stack.obs["section"] == name).to_numpy()
        np.testing.assert_array_equal(stack.layers["std"][here], sure.layers[f"{name}_std"][inside])
        np.testing.assert_array_equal(stack.obs["confidence"][here], sure.obs[f"{name}_confidence"][inside])
    measured = ~stack.obs["inserted"].to_numpy()
    assert np.isnan(stack.layers["std"][measured]).all()
    assert stack.obs["confidence"][measured].isna().all()


def test_a_gene_is_as_sure_whichever_others_are_asked_for(
    results: tuple[AnnData, AnnData], _series: list[AnnData]
) -> None:
    genes = list(results[0].var_names[[7, 3]])
    few = c2sti.tl.interpolate(
        _series[0], _series[2], n_slices=2, model=small(), std=True, genes=genes, show_progress_bar=False
    )
    np.testing.assert_allclose(few.layers["c2sti_1_std"], results[0][:, genes].layers["c2sti_1_std"], rtol=1e-4)
