"""Odd sections and damaged files, some of each, by `scripts/fuzz.py`; and what it found once, by itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

import c2sti
from c2sti import metrics
from tests.conftest import square_array

SCRIPT = Path(c2sti.__file__).parents[1] / "scripts" / "fuzz.py"
CASES = 30  # of each kind; by number and not by time, so that a busy machine tests as much


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_odd_sections_and_damaged_files(fuzz: ModuleType, tmp_path: Path) -> None:
    counts, wrong = fuzz.fuzz(float("inf"), seed=0, folder=tmp_path, cases=CASES)
    assert wrong == []
    assert counts["sections"]["correct"] >= CASES // 3
    assert [sum(found.values()) for found in counts.values()] == [CASES, CASES]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ZeroDivisionError("x"), "foreign"), (ValueError("of a library"), "foreign"), (None, "correct")],
)
def test_outcomes_are_told_apart(
    error: Exception | None, expected: str, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def case(rng: np.random.Generator, folder: Path) -> str:
        if error is not None:
            raise error
        return "correct"

    monkeypatch.setitem(fuzz.FAMILIES, "sections", case)
    assert fuzz.outcome("sections", 0, tmp_path)[0] == expected


def section(values: np.ndarray) -> AnnData:
    return AnnData(values.astype(np.float32), obsm={"spatial": square_array(6)})


# The default reads one count a gene and spot into this, and halves it: its answer strays by the noise of the halving.
@pytest.mark.parametrize("model", ["linear", "lowrank", "gp"])
def test_sections_without_any_variance_stay_what_they_are(model: str) -> None:
    flat = section(np.full((36, 10), 1.5))
    out = c2sti.tl.interpolate(flat, flat, model=model, on_misfit="ignore", show_progress_bar=False)
    np.testing.assert_allclose(out.layers["c2sti_1"], 1.5, rtol=1e-5)


@pytest.mark.parametrize("model", ["linear", "lowrank", "gp", "c2sti"])
def test_one_gene_alone_keeps_its_pattern(model: str) -> None:
    slope = 1.25 + square_array(6)[:, :1] / 4
    one = section(slope)
    out = c2sti.tl.interpolate(one, one, model=model, on_misfit="ignore", show_progress_bar=False)
    rows = out.obsm["spatial"][:, 0].round().astype(int)
    truth = 1.25 + rows / 4
    found = out.layers["c2sti_1"][:, 0]
    assert np.corrcoef(found, truth)[0, 1] > 0.98
    assert abs(found.mean() - truth.mean()) < 0.02


def test_no_gene_asked_for() -> None:
    one = section(np.full((36, 3), 1.5))
    with pytest.raises(ValueError, match="genes= is empty; name one gene or more, or leave it out"):
        c2sti.tl.interpolate(one, one, genes=[], show_progress_bar=False)


matrices = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((2, 9, 5)))


@settings(max_examples=25, deadline=None)
@given(matrices, st.floats(0.1, 100), st.floats(-10, 10))
def test_correlations_know_no_unit(pair: np.ndarray, scale: float, shift: float) -> None:
    predicted, measured = pair
    moved = scale * predicted + shift
    np.testing.assert_allclose(metrics.gene_pcc(moved, measured), metrics.gene_pcc(predicted, measured), atol=1e-9)
    np.testing.assert_allclose(metrics.rv(moved, measured), metrics.rv(predicted, measured), atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(matrices, st.randoms(use_true_random=False))
def test_scores_know_no_order(pair: np.ndarray, random: object) -> None:
    predicted, measured = pair
    rows, genes = list(range(9)), list(range(5))
    random.shuffle(rows)  # type: ignore[attr-defined]
    random.shuffle(genes)  # type: ignore[attr-defined]
    for score in (metrics.pcc, metrics.rmse, metrics.rv):
        once = score(predicted, measured)
        assert score(predicted[rows][:, genes], measured[rows][:, genes]) == pytest.approx(once, abs=1e-12)
        assert score(measured, predicted) == pytest.approx(once, abs=1e-12)
