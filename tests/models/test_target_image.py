from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import c2sti
from c2sti import metrics
from c2sti._types import FloatArray, Lattice, PointFeatures, Section, SlicePair
from c2sti.datasets import phantom
from c2sti.models.gp import gp
from c2sti.models.target_image import _beyond, _hexagon, _learnt
from tests.conftest import square_array

SIDE, N_GENES = 14, 40
QUIET = {"show_progress_bar": False}
HOW = {"device": "cpu", "seed": 0, "progress": lambda share: None}


def texture(seed: int) -> PointFeatures:
    """Features of an image whose second one varies from spot to spot, and differently in every section."""
    rng = np.random.default_rng(seed)
    waves, phases = rng.normal(0, 2.5, (2, 40)), rng.uniform(0, 2 * np.pi, 40)

    def looks(points: FloatArray) -> FloatArray:
        fine = np.cos(points @ waves + phases).sum(axis=1) / np.sqrt(20)
        return np.column_stack([np.full(len(points), 0.5), fine, np.sin(points[:, 0])])

    return looks


def stained_pair(effect: float) -> tuple[SlicePair, FloatArray]:
    """A pair of sections with H&E, by which some genes follow the H&E; and the truth of the one between them."""
    xy = square_array(SIDE)
    smooth = np.sin(xy[:, 0] / 3)[:, None] * np.linspace(-1, 1, N_GENES)
    loadings = np.random.default_rng(9).standard_normal(N_GENES)

    def truth(looks: PointFeatures) -> FloatArray:
        return 5 + smooth + effect * looks(xy)[:, 1:2] * loadings

    def section(position: float, seed: int) -> Section:
        looks = texture(seed)
        values = truth(looks) + 0.5 * np.random.default_rng(seed + 50).standard_normal((len(xy), N_GENES))
        expression = sp.csr_array(np.maximum(values, 0).astype(np.float32))
        return Section(xy, expression, position, image_features=looks)

    lattice = Lattice((0.0, 0.0), 1.0, (SIDE, SIDE))
    target = texture(3)
    pair = SlicePair(section(0.0, 1), section(1.0, 2), 1.0, lattice, target_features={0.5: target})
    return pair, truth(target)


def predict(pair: SlicePair, at: FloatArray | None = None) -> FloatArray:
    return gp(pair, square_array(SIDE) if at is None else at, [0.5], **HOW).slices[0].expression()


def without(pair: SlicePair) -> SlicePair:
    return replace(pair, target_features={})


def score(predicted: FloatArray, truth: FloatArray) -> float:
    return float(metrics.pcc(predicted, truth))


def test_h_and_e_says_what_neighbours_cannot() -> None:
    pair, truth = stained_pair(effect=1.0)
    base, seen = score(predict(without(pair)), truth), score(predict(pair), truth)
    assert seen > base + 0.3
    another = replace(pair, target_features={0.5: texture(4)})
    assert score(predict(another), truth) < base


def test_where_it_does_not_predict_across_sections_nothing_changes_at_all() -> None:
    pair, _ = stained_pair(effect=0.0)
    prediction = gp(pair, square_array(SIDE), [0.5], **HOW)
    assert not prediction.notes["image_share"].any()
    np.testing.assert_array_equal(prediction.slices[0].expression(), predict(without(pair)))


def test_what_holds_in_one_section_only_is_not_believed() -> None:
    pair, _ = stained_pair(effect=1.0)
    strange = replace(pair, b=replace(pair.b, image_features=texture(7)))
    np.testing.assert_array_equal(predict(strange), predict(without(pair)))


def test_one_neighbour_with_an_image_is_not_enough() -> None:
    pair, _ = stained_pair(effect=1.0)
    alone = replace(pair, b=replace(pair.b, image_features=None))
    np.testing.assert_array_equal(predict(alone), predict(without(pair)))


def test_sections_without_an_image_of_their_own_stay_as_they_are() -> None:
    pair, _ = stained_pair(effect=1.0)
    at = square_array(SIDE)
    plain = gp(without(pair), at, [0.25, 0.5], **HOW)
    seen = gp(pair, at, [0.25, 0.5], **HOW)
    np.testing.assert_allclose(seen.slices[0].expression(), plain.slices[0].expression(), atol=1e-5)
    assert np.abs(seen.slices[1].expression() - plain.slices[1].expression()).max() > 0.5
    assert seen.slices[0].basis is seen.slices[1].basis


def test_a_point_is_predicted_alike_whatever_other_points_are_asked_for() -> None:
    pair, _ = stained_pair(effect=1.0)
    at = square_array(SIDE) + 0.3
    np.testing.assert_allclose(predict(pair, at[[17]]), predict(pair, at)[[17]], atol=1e-4)


def test_points_off_the_image_or_on_glass_are_left_alone() -> None:
    pair, _ = stained_pair(effect=1.0)
    looks = texture(3)

    def half(points: FloatArray) -> FloatArray:
        found = looks(points)
        found[points[:, 0] > 6.5] = np.nan
        found[points[:, 0] < 2.5, 0] = 0.0
        return found

    seen, plain = predict(replace(pair, target_features={0.5: half})), predict(without(pair))
    x = square_array(SIDE)[:, 0]
    beside = (x > 6.5) | (x < 2.5)
    np.testing.assert_allclose(seen[beside], plain[beside], atol=1e-5)
    assert np.abs(seen[~beside] - plain[~beside]).max() > 0.5
    nowhere = replace(pair, target_features={0.5: lambda points: np.full((len(points), 3), np.nan)})
    np.testing.assert_allclose(predict(nowhere), plain, atol=1e-5)


def test_surroundings_are_the_nineteen_nearest() -> None:
    places = _hexagon()
    assert places.shape == (19, 2)
    np.testing.assert_array_equal(places[0], 0)
    constant = _beyond(square_array(SIDE)) @ np.ones((SIDE**2, 1))
    np.testing.assert_allclose(constant, 0, atol=1e-12)
    assert _beyond(square_array(2)).shape == (4, 4)


def test_a_link_is_that_of_a_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((5, 2))
    features = [rng.standard_normal((300, 5)) for _ in range(3)]
    values = [np.column_stack([x @ weights, rng.standard_normal(300)]) for x in features]
    found, explained = _learnt(features, values)
    assert (explained > 0).tolist() == [True, True, False]
    np.testing.assert_allclose(found, weights, atol=0.02)
    assert (explained[:2] > 0.99).all()


@pytest.fixture(scope="module")
def stained() -> list[AnnData]:
    return phantom(seed=1, size=16, n_genes=80).series([0.0, 200.0, 400.0], layout="hex", um_per_px=4.0)


@pytest.mark.parametrize("model", ["gp", "c2sti"])
def test_the_h_and_e_of_a_simulated_section_predicts_its_expression(stained: list[AnnData], model: str) -> None:
    a, missing, b = stained
    truth = phantom(seed=1, size=16, n_genes=80).expression(missing.obsm["spatial"], 200.0)
    how = {"model": model, "at": missing.obsm["spatial"], **QUIET}
    picture = next(iter(missing.uns["spatial"].values()))
    plain = c2sti.tl.interpolate(a, b, **how)
    seen = c2sti.tl.interpolate(a, b, target_images=[picture], **how)
    base = score(plain.layers["c2sti_1"], truth)
    assert score(seen.layers["c2sti_1"], truth) > 1.02 * base
    assert seen.layers["c2sti_1"].dtype == np.float32
    assert seen.uns["c2sti"]["notes"]["image_share"].max() > 0.1
    assert "image_share" not in plain.uns["c2sti"]["notes"]


def test_no_image_of_the_missing_section_changes_nothing(stained: list[AnnData]) -> None:
    a, _, b = stained
    plain = c2sti.tl.interpolate(a, b, model="gp", **QUIET)
    none = c2sti.tl.interpolate(a, b, model="gp", target_images=[None], **QUIET)
    np.testing.assert_array_equal(plain.layers["c2sti_1"], none.layers["c2sti_1"])
