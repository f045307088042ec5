"""Sections registered to each other without training, on simulated tissue whose displacement is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import c2sti
from c2sti import io, metrics
from c2sti._types import Lattice, SlicePair
from c2sti.datasets import Phantom, phantom
from c2sti.models.components import Settings, describe
from c2sti.models.gp import Baseline, gp
from c2sti.models.registration import Registration, register
from c2sti.ops import linear_at

GAP = 80.0
MODEL = Baseline(Settings(n_components=20))


def tissue(motion: float) -> Phantom:
    return phantom(seed=0, n_genes=60, size=28, pitch=20.0, motion=motion)


def pair_of(bent: Phantom, *order: float) -> SlicePair:
    a, b = (io.read_slice(bent.section(z, image=False)) for z in order or (0.0, GAP))
    return io.make_pair(a, b)[0]


@pytest.fixture(scope="module")
def bent() -> Phantom:
    return tissue(0.4)


@pytest.fixture(scope="module")
def pair(bent: Phantom) -> SlicePair:
    return pair_of(bent)


def points_of(bent: Phantom, pair: SlicePair, z: float) -> np.ndarray:
    return pair.a.xy[bent.inside(pair.a.xy, z)]


@pytest.mark.parametrize("t", [0.25, 0.5])
def test_bent_tissue_is_found_where_it_lies(bent: Phantom, pair: SlicePair, t: float) -> None:
    points, z = points_of(bent, pair, t * GAP), t * GAP
    prediction = MODEL(pair, points, [t])
    truth = bent.expression(points, z)
    score = metrics.pcc(prediction.slices[0].expression(), truth)
    assert score > 1.02 * metrics.pcc(gp(pair, points, [t]).slices[0].expression(), truth)
    field = prediction.notes["displacement"][0]
    d = linear_at(field, pair.lattice.coarsened(max(field.shape[1:])), points).T
    known = bent.displacement(points, z, 0.0), bent.displacement(points, z, GAP)
    errors = [np.linalg.norm(d / (2 * (1 - t)) - known[0], axis=1), np.linalg.norm(-d / (2 * t) - known[1], axis=1)]
    nothing = np.linalg.norm(np.concatenate(known), axis=1).mean()
    assert np.concatenate(errors).mean() < 0.7 * nothing


def test_tissue_that_has_not_moved_is_not_moved() -> None:
    still = pair_of(tissue(0.0))
    assert describe(still.sections, still.spacing, still.keys, MODEL.settings).registration is None


def test_swapping_the_sections_and_permuting_the_genes_change_nothing(bent: Phantom, pair: SlicePair) -> None:
    points = points_of(bent, pair, 0.5 * GAP)
    found = MODEL(pair, points, [0.3]).slices[0].expression()
    swapped = MODEL(pair_of(bent, GAP, 0.0), points, [0.7]).slices[0].expression()
    np.testing.assert_allclose(found, swapped, atol=1e-3)
    order = np.random.default_rng(0).permutation(pair.n_genes)
    permuted = MODEL(pair.subset(order), points, [0.3]).slices[0].expression()
    np.testing.assert_allclose(found[:, order], permuted, atol=1e-3)


def test_the_network_is_added_to_registered_sections(bent: Phantom, pair: SlicePair) -> None:
    points = points_of(bent, pair, 0.5 * GAP)
    config = c2sti.C2STiConfig(n_components=20, bins=64)
    untrained = c2sti.C2STi(config)(pair, points, [0.5])
    expected = MODEL(pair, points, [0.5])
    np.testing.assert_allclose(untrained.slices[0].expression(), expected.slices[0].expression(), atol=1e-5)
    still = c2sti.C2STi(dataclasses.replace(config, displacement=False))(pair, points, [0.5])
    assert not np.any(still.notes["displacement"])


def test_a_series_is_registered_from_section_to_section(bent: Phantom) -> None:
    zs = [0.0, 60.0, 120.0, 180.0]
    series = [bent.section(z, image=False) for z in zs]
    out = c2sti.tl.interpolate_series(series, at_z=[30.0, 90.0, 150.0], z=zs, model=MODEL, show_progress_bar=False)
    for z in (30.0, 90.0, 150.0):
        rows = np.isclose(out.obs["z"], z)
        truth = bent.expression(out.obsm["spatial"][rows], z)
        simple = gp(pair_of(bent, z - 30.0, z + 30.0), out.obsm["spatial"][rows], [0.5]).slices[0].expression()
        values = np.asarray(out[rows, bent.gene_names].X)
        assert metrics.pcc(values, truth) > metrics.pcc(simple, truth)


# ---- from frame to frame, by hand


def uniform(*shifts: float) -> Registration:
    """Sections at 0, 1, … between which everything moves along x by twice these shifts."""
    lattice = Lattice((0.0, 0.0), 1.0, (3, 4))
    fields = tuple(np.stack([np.full(lattice.shape, s), np.zeros(lattice.shape)]) for s in shifts)
    return Registration(np.arange(len(shifts) + 1.0), lattice, fields)


ORIGIN = np.zeros((1, 2))


def test_places_by_hand() -> None:
    one = uniform(0.5)
    np.testing.assert_allclose(one.halfway(ORIGIN, 0.0), [[0.5, 0.0]])
    np.testing.assert_allclose(one.halfway(ORIGIN, 0.25), [[0.25, 0.0]])
    np.testing.assert_allclose(one.at_section(ORIGIN, 0, 1.0), [[0.5, 0.0]])
    d = one.displacement(ORIGIN, 0.25)
    np.testing.assert_allclose(d / (2 * 0.75), [[-0.25, 0.0]])  # back to the first section
    np.testing.assert_allclose(-d / (2 * 0.25), [[0.75, 0.0]])  # and on to the second
    three = uniform(0.5, 1.0, 0.25)  # the frame is halfway between the second and the third section
    np.testing.assert_allclose(three.at_home(ORIGIN, 0.0), [[2.0, 0.0]])
    np.testing.assert_allclose(three.at_home(ORIGIN, 3.0), [[-1.5, 0.0]])
    np.testing.assert_allclose(three.at_section(ORIGIN, 1, 3.0), [[1.5, 0.0]])
    two = uniform(0.5, 1.0)  # the frame is that of the section in the middle
    np.testing.assert_allclose(two.at_home(ORIGIN, 0.0), [[1.0, 0.0]])
    np.testing.assert_allclose(two.at_home(ORIGIN, 1.0), ORIGIN)
    np.testing.assert_allclose(two.at_home(ORIGIN, 2.0), [[-2.0, 0.0]])


def test_places_come_back() -> None:
    rng = np.random.default_rng(0)
    lattice = Lattice((0.0, 0.0), 1.0, (9, 9))
    fields = tuple(0.3 * rng.standard_normal((2, 9, 9)).cumsum(axis=1).cumsum(axis=2) / 9 for _ in range(3))
    bent = Registration(np.arange(4.0), lattice, fields)
    points = rng.uniform(2, 6, (20, 2))
    for z in (0.0, 0.3, 1.0, 2.6, 3.0):
        gap = bent.gap(z)[0]
        np.testing.assert_allclose(bent.at_section(bent.halfway(points, z), gap, z), points, atol=1e-4)
        np.testing.assert_allclose(bent.across(bent.across(points, gap, 1), 1, gap), points, atol=1e-4)


# ---- how far it is believed, by hand


@pytest.mark.parametrize(("explained", "log_odds", "share"), [(1.0, 100, 1.0), (1.0, 0, 0.5), (0.725, 100, 0.5)])
def test_a_displacement_is_believed_by_what_it_explains_and_by_the_evidence(
    explained: float, log_odds: float, share: float
) -> None:
    assert believed(explained, log_odds) == pytest.approx(share * believed(1.0, 100), rel=1e-6)


@pytest.mark.parametrize(("explained", "log_odds"), [(0.6, 100), (1.0, -800)])
def test_a_displacement_that_explains_little_or_fits_worse_is_none(explained: float, log_odds: float) -> None:
    assert believed(explained, log_odds) == 0


def believed(explained: float, log_odds: float) -> float:
    """How far a spot moves, between two sections whose maps correlate by one half as they lie."""
    x = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    maps = np.column_stack([np.sin(x[:, 0] / 2), np.cos(x[:, 0] / 3)])
    moved = np.column_stack([np.sin((x[:, 0] - 1) / 2), np.cos((x[:, 0] - 1) / 3)])

    def sharing(scores: np.ndarray, spots: np.ndarray, one: Registration | None) -> tuple[float, float]:
        return (0.5, 0.0) if one is None else (0.5 + 0.5 * explained, log_odds)

    z = np.repeat([0.0, 1.0], len(x))
    found = register(np.concatenate([x, x]), z, [np.concatenate([maps, moved])], sharing)
    return 0.0 if found is None else float(np.abs(found.displacements[0]).max())
