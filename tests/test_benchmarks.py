"""The scripts of benchmarks/ run, at tiny sizes, and write what they promise."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse as sp

from c2sti._types import InterpolatedSection, SlicePair
from tests.conftest import array_pair

FOLDER = Path(__file__).parents[1] / "benchmarks"
ROWS = {"throughput": 3, "end_to_end": 5, "training_step": 1, "latency": 7, "gpu": 11, "published_tools": 5}


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["throughput", "end_to_end", "training_step", "gpu"])
def test_a_script_writes_its_figures_and_the_machine(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = script(name, monkeypatch).main(["--quick", "--repeats", "1", "--out", str(tmp_path)])
    assert path == tmp_path / f"{name}.json"
    found = json.loads(path.read_text())
    assert (found["benchmark"], found["seed"], found["quick"]) == (name, 0, True)
    assert {"cpu", "cores", "threads", "load", "versions", "date"} <= set(found["machine"])
    assert len(found["rows"]) == ROWS[name]
    assert str(path) in capsys.readouterr().out


def test_growth_of_one_size_and_its_exponent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    growth = script("growth", monkeypatch)
    growth.main(["--one", "90", "20", "--model", "linear"])
    found = json.loads(capsys.readouterr().out)
    assert (found["bins"], found["genes"]) == (90, 20)
    assert found["peak_mb"] >= found["before_mb"] > 50
    record = script("_record", monkeypatch)
    assert record.exponent([10, 100, 1000], [2, 20, 200]) == pytest.approx(1)
    assert record.exponent([10, 100], [3, 300]) == pytest.approx(2)
    assert np.isnan(record.exponent([10], [3]))


def test_latency_has_a_row_for_each_import_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latency = script("latency", monkeypatch)
    # An import in a process of its own takes seconds where processes share the cores.
    monkeypatch.setattr(latency.subprocess, "run", lambda *call, **how: None)
    found = json.loads(latency.main(["--quick", "--repeats", "1", "--out", str(tmp_path)]).read_text())
    assert [row["what"] for row in found["rows"]][2:] == ["copy", "linear", "lowrank", "gp", "c2sti"]
    assert len(found["rows"]) == ROWS["latency"]


def test_traffic_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    throughput = script("throughput", monkeypatch)
    nothing = np.zeros(5)
    dense = InterpolatedSection(np.ones((2, 3), np.float32), np.ones((3, 5), np.float32), nothing)
    # 6 + 15 values in and 10 out, 4 bytes each; 2 · 2 · 3 · 5 operations.
    assert throughput.traffic(dense, 2, 5) == (4 * 31, 60)
    weights, spots = sp.csr_array(np.eye(2, 3)), sp.csr_array(np.eye(3, 5))
    # 2 and 3 entries of 8 bytes in, 10 values out; 2 entries times 5 genes.
    assert throughput.traffic(InterpolatedSection(weights, spots, nothing), 2, 5) == (8 * 5 + 40, 20)


def test_published_tools_are_scored_beside_the_training_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = script("published_tools", monkeypatch)
    path = tools.main(["--quick", "--methods", "rbi", "--out", str(tmp_path)])
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == ROWS["published_tools"]
    assert {row["method"] for row in rows} == {"copy", "linear", "lowrank", "gp", "rbi"}
    assert all(np.isfinite([row["pcc"], row["rmse"], row["rv"]]).all() for row in rows)


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("ot", reason="POT, no dependency of c2sti, is not installed: pip install --no-deps pot")
    return script("published.transport", monkeypatch)


def random_pair(*, identical: bool = False) -> SlicePair:
    rng = np.random.default_rng(0)
    a, b = rng.gamma(1.0, size=(2, 36, 12))
    return array_pair(a, a if identical else b, 6)


@pytest.mark.parametrize(
    "how", [{}, {"regularization": 0}, {"regularization": 0, "mass": 0.8}, {"regularization": 0, "kind": "fused"}]
)
def test_transport_gives_a_convex_combination_of_measured_spots(transport: ModuleType, how: dict[str, object]) -> None:
    pair = random_pair()
    first, second = transport.Transport(**how)(pair, np.array([[0.3, 0.4], [9.0, 9.0]]), [0.25, 0.75]).slices
    for section, of_a in ((first, 0.75), (second, 0.25)):
        weights = section.weights.toarray()
        assert weights.min() >= 0
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(weights[:, :36].sum(axis=1), of_a, rtol=1e-5)
        np.testing.assert_array_equal(section.offset, 0)


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_transport_between_identical_sections_is_the_section(transport: ModuleType, kind: str) -> None:
    pair = random_pair(identical=True)
    method = transport.Transport(kind, alpha=0.1, regularization=0, width=0)
    for section in method(pair, pair.a.xy, [1e-6, 0.5]).slices:
        np.testing.assert_allclose(section.expression(), pair.a.expression.toarray(), atol=1e-4)


def test_transported_mass_lies_between_its_two_spots(transport: ModuleType) -> None:
    pair = array_pair(np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[5.0], [6.0], [7.0], [8.0]]), 2)
    coupling = np.array([[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    # The mass of the first spot goes from (0, 0) to (1, 1), that of the second from (1, 0) to (0, 1).
    (section,) = transport.displaced(pair, coupling, np.array([[0.2, 0.3], [0.9, 0.2]]), [0.25], 0.0).slices
    np.testing.assert_allclose(section.expression(), [[0.75 * 1 + 0.25 * 8], [0.75 * 2 + 0.25 * 7]])
