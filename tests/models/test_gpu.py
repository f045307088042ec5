"""The same answers on a GPU as on a processor, to 1e-4; every test is skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData

import c2sti
from c2sti import benchmark
from c2sti.training import TrainConfig, make_examples, train
from tests.conftest import interpolate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SMALL = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=1)


def alike(here: AnnData, there: AnnData) -> None:
    assert list(here.layers) == list(there.layers)
    for name, values in here.layers.items():
        np.testing.assert_allclose(there.layers[name], values, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("model", ["lowrank", "gp", "rbi", "c2sti"])
def test_a_pair_is_interpolated_alike(pair: tuple[AnnData, AnnData], model: str) -> None:
    made = [interpolate(*pair, model=model, n_slices=2, std=True, device=d) for d in ("cpu", "cuda")]
    alike(*made)


def test_large_sections_are_interpolated_alike(pair: tuple[AnnData, AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("c2sti.field._field.MOST", 100)
    monkeypatch.setattr("c2sti.field._field.WINDOW", 60)
    monkeypatch.setattr("c2sti.models.block.PATCHES", 100)
    alike(*(interpolate(*pair, model="c2sti", std=True, device=d) for d in ("cpu", "cuda")))


def test_a_training_learns_alike() -> None:
    cases = benchmark.simulated_cases(1, size=(8, 11), n_genes=40)
    losses: dict[str, list[float]] = {"cpu": [], "cuda": []}
    torch.cuda.reset_peak_memory_stats()
    for device, found in losses.items():
        train(
            make_examples(cases, SMALL),
            config=SMALL,
            how=TrainConfig(steps=3, seed=0),
            device=device,
            progress=lambda step, loss, found=found: found.append(loss),
            show_progress_bar=False,
        )
    assert torch.cuda.max_memory_allocated() > 0  # after a training on the processor, too
    assert len(losses["cpu"]) == 3
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-3)
