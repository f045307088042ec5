from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from c2sti import metrics
from c2sti._types import Lattice, Section, SlicePair
from c2sti.models import block
from c2sti.models.gp import gp
from c2sti.models.naive import linear, lowrank
from tests.conftest import array_pair, square_array


def made_pair(side: int, n_genes: int = 30, noise: float = 1.0, context: tuple[float, ...] = ()) -> tuple:
    """A pair of noisy sections of a smooth tissue that changes with depth, and the truth at any depth."""
    xy = square_array(side)

    def truth(z: float) -> np.ndarray:
        maps = np.stack([np.sin(xy[:, 0] / 2 + z), np.cos(xy[:, 1] / 3 - z), np.sin((xy[:, 0] + xy[:, 1]) / 4)])
        loadings = np.random.default_rng(9).standard_normal((3, n_genes))
        return (maps.T @ loadings) + 5

    def section(z: float, seed: int) -> Section:
        values = truth(z) + noise * np.random.default_rng(seed).standard_normal((side**2, n_genes))
        return Section(xy, sp.csr_array(np.maximum(values, 0).astype(np.float32)), z)

    around = tuple(section(z, 10 + i) for i, z in enumerate(context))
    return SlicePair(section(0.0, 1), section(1.0, 2), 1.0, Lattice((0.0, 0.0), 1.0, (side, side)), around), truth


def score(answer: object, truth: np.ndarray) -> float:
    return metrics.pcc(answer.slices[0].expression(), truth)


def test_it_finds_smooth_tissue_under_noise_better_than_fixed_rank_and_width() -> None:
    pair, truth = made_pair(16)
    xy, expected = pair.a.xy, truth(0.5)
    found = {m.__name__: score(m(pair, xy, [0.5]), expected) for m in (gp, lowrank, linear)}
    assert found["gp"] > found["lowrank"] > found["linear"]
    assert found["gp"] > 0.9


def test_context_helps() -> None:
    alone, truth = made_pair(12, noise=2.0)
    joined, _ = made_pair(12, noise=2.0, context=(-1.0, 2.0))
    assert score(gp(joined, alone.a.xy, [0.5]), truth(0.5)) > score(gp(alone, alone.a.xy, [0.5]), truth(0.5))


def test_without_noise_the_ends_are_reached() -> None:
    pair, truth = made_pair(12, noise=0.0)
    for p, z in ((1e-6, 0.0), (1 - 1e-6, 1.0)):
        answer = gp(pair, pair.a.xy, [p]).slices[0].expression()
        assert metrics.pcc(answer, truth(z)) > 0.95


def test_axes_without_tissue_signal_vanish() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.random((144, 20)) for _ in range(2)]
    answer = gp(array_pair(*noise, 12), square_array(12), [0.5]).slices[0].expression()
    assert answer.std(axis=0).mean() < 0.25 * np.std(noise[0], axis=0).mean()


def test_tiles_agree_with_the_exact_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, _ = made_pair(30)
    exact = gp(pair, pair.a.xy, [0.4])
    monkeypatch.setattr("c2sti.field._field.MOST", 500)
    tiled = gp(pair, pair.a.xy, [0.4]).slices[0].expression()
    spread = exact.slices[0].expression().std()
    assert np.abs(tiled - exact.slices[0].expression()).max() < 0.05 * spread


def test_large_sections_learn_from_whole_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, truth = made_pair(30)
    exact = score(gp(pair, pair.a.xy, [0.5]), truth(0.5))
    monkeypatch.setattr("c2sti.field._field.MOST", 500)
    monkeypatch.setattr(block, "PATCHES", 500)
    monkeypatch.setattr(block, "WHOLE", 200)
    assert score(gp(pair, pair.a.xy, [0.5]), truth(0.5)) > exact - 0.02


def test_it_runs_where_it_is_told(device: str) -> None:
    pair, truth = made_pair(10)
    assert score(gp(pair, pair.a.xy, [0.5], device=device), truth(0.5)) > 0.8
