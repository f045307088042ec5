"""The command of the benchmark, on simulated tissue with networks of one step."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from c2sti import benchmark, metrics
from c2sti.benchmark import _leave_out, _networks, _scores, _series
from c2sti.benchmark.__main__ import main
from c2sti.benchmark._networks import DEFAULT, FULL, QUICK, ROWS, SAVE_EVERY
from c2sti.models._registry import METHODS, NETWORKS
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.models.compared import FrameInterpolator, fresh
from c2sti.training import TrainConfig

METHODS_RUN = ["copy", "lowrank", "unet", "c2sti"]


def command(out: Path, *words: str, methods: list[str] = METHODS_RUN) -> list[str]:
    given = ["--table", "1", "--quick", "--seeds", "1", "--steps", "1", "--device", "cpu", "--out", str(out)]
    return [*given, "--methods", *methods, *words]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change something take a copy."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    assert main(command(out)) == 0
    return out


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "out"))


def cases(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "table1_cases.csv", keep_default_na=False)


def test_what_a_run_leaves(run: Path) -> None:
    table = cases(run)
    # Two blocks of four sections, two hidden in each; every method once, networks only on the patient they left out.
    assert len(table) == 4 * len(METHODS_RUN)
    trained = table[table["fold"] != ""]
    assert set(trained["method"]) == {"unet", "c2sti"}
    assert (trained["block"] == "made " + trained["fold"]).all()
    np.testing.assert_allclose(table["psnr"], 20 * np.log10(np.log1p(1e4) / table["rmse"]))
    np.testing.assert_allclose(table["fraction"], table["pcc"] / table["ceiling"])
    assert table["ssim"].between(-1, 1).all()
    assert list(pd.read_csv(run / "table1.csv")["method"]) == METHODS_RUN
    assert (run / "table1.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "table1.md").read_text().startswith("## Table 1: one section held out\n")
    found = {str(path.parent.relative_to(run)) for path in (run / "networks").rglob("config.json")}
    assert found == {f"networks/{m}/{fold}/0" for m in ("unet", "c2sti") for fold in "AB"}
    card = C2STi.load(run / "networks/c2sti/A/0").card
    assert (card["series"], card["without"]) == (["made", benchmark.MADE], ["A"])
    assert sorted(card["sections"]) == ["made_B1", "made_B2", "made_B3", "made_B4"]


def test_scores_are_those_of_the_method_alone(run: Path) -> None:
    """What networks share on a case changes nothing, and the pair is that of `leave_sections_out`."""
    source = _series.made()
    (block, _) = source.series
    slices = source.read(block)
    methods = {"lowrank": METHODS["lowrank"], "c2sti": C2STi.load(run / "networks/c2sti/A/0")}
    alone = benchmark.leave_sections_out(slices, methods=methods, context=False, show_progress_bar=False).table
    table = cases(run).query("block == 'made A'")
    for name in methods:
        for score in ("pcc", "rmse", "rv", "ceiling"):
            kept = table.loc[table["method"] == name, score].to_numpy()
            np.testing.assert_allclose(kept, alone.loc[alone["method"] == name, score].to_numpy(), rtol=1e-4)


def test_a_run_that_was_stopped_goes_on_to_the_same_table(out: Path) -> None:
    before = cases(out).drop(columns="seconds")
    weights = json.loads((out / "networks/unet/B/0/config.json").read_text())["weights"]
    files = sorted((out / "scores").rglob("*.json"))
    for path in files[::2]:
        path.unlink()
    left = {path: path.stat().st_mtime_ns for path in files[1::2]}
    (out / "networks/unet/B/0/config.json").unlink()
    assert main(command(out)) == 0
    pd.testing.assert_frame_equal(cases(out).drop(columns="seconds"), before)
    assert json.loads((out / "networks/unet/B/0/config.json").read_text())["weights"] == weights
    assert {path: path.stat().st_mtime_ns for path in left} == left  # nothing was computed twice
    assert not [path for path in out.rglob("*") if path.suffix == ".part"]


def test_scores_of_other_weights_are_not_believed(out: Path) -> None:
    (file,) = (out / "scores/pair/unet/A/0").glob("made_A1*.json")
    kept = json.loads(file.read_text())
    right = kept["rows"][0]["pcc"]
    file.write_text(json.dumps({"weights": "others", "rows": [kept["rows"][0] | {"pcc": 0.9}]}))
    assert main(command(out)) == 0
    assert json.loads(file.read_text())["rows"][0]["pcc"] == pytest.approx(right)


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.strip().splitlines()[-1]


def test_what_is_refused(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, command(out, methods=["rief"]))
    assert "there is no method 'rief'; those that exist are copy, linear, lowrank, gp, rbi, unet, rife" in said
    said = refusal(capsys, ["--table", "1", "--data", str(tmp_path), "--out", str(tmp_path / "new")])
    assert f"{tmp_path} holds no measured series; looked for her2st/her2st_A1.h5ad" in said
    assert not (tmp_path / "new").exists()
    said = refusal(capsys, command(out, "--seeds", "0"))
    assert "--seeds 0 must be at least 1" in said
    said = refusal(capsys, command(out, "--steps", "2"))
    assert "was trained by another recipe (training: steps 1 instead of 2); name another --out, or train" in said
    assert str(out / "networks/unet/A/0") in said
    said = refusal(capsys, command(out, "--rival-steps", "3"))
    assert str(out / "networks/unet/A/0") in said and "steps 1 instead of 3" in said
    assert "--rival-steps 0 must be at least 1" in refusal(capsys, command(out, "--rival-steps", "0"))
    said = refusal(capsys, command(out, "--n-genes", "30"))
    assert f"{out} holds a run of other settings (n_genes 1000 instead of 30); name another --out, or" in said


def test_another_version_is_refused_and_done_anew_by_force(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = out / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": "0.0.1"}))
    (score,) = (out / "scores/pair/copy").glob("made_A1*.json")
    score.write_text(json.dumps({"weights": "", "rows": []}))
    said = refusal(capsys, command(out, methods=["copy"]))
    assert "version '0.0.1' instead of" in said
    assert main(command(out, "--force", methods=["copy"])) == 0
    assert len(json.loads(score.read_text())["rows"]) == 1
    assert main(command(out, methods=["copy"])) == 0  # and now it agrees


def test_a_finished_network_of_another_recipe_is_trained_anew_by_force(out: Path) -> None:
    assert main(command(out, "--steps", "2", "--force", methods=["unet"])) == 0
    cards = [json.loads(file.read_text())["card"] for file in (out / "networks/unet").rglob("config.json")]
    assert [card["training"]["steps"] for card in cards] == [2, 2]
    assert C2STi.load(out / "networks/c2sti/A/0").card["training"]["steps"] == 1  # others stay


def test_the_checkpoint_of_another_method_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = out / "networks/c2sti/B/0"
    FrameInterpolator(fresh(NETWORKS["unet"])).save(folder, overwrite=True)
    said = refusal(capsys, command(out))
    assert f"{folder} holds a checkpoint of 'unet', where one of 'c2sti' belongs; move it away" in said


def test_a_network_of_another_recipe_is_told_apart() -> None:
    source = _series.made()
    network = _networks.Network(ROWS["c2sti"], "A", 2, Path("nowhere"))
    how = network.method.schedule(300, 2)
    assert isinstance(how, TrainConfig)
    recipe = _networks.recipe_of(network, source, _networks.NETWORK, how)
    training = {"steps": 300, "seed": 2, "save_every": SAVE_EVERY + 1}
    card = {**recipe, "training": json.loads(json.dumps(vars(how) | training))}

    def difference(card: dict, config: C2STiConfig | None = None) -> str:
        return _networks.difference(C2STi(config, card=card), recipe)

    assert difference(card) == ""
    assert difference(card | {"without": ["B"]}) == "without: ['B'] instead of ['A']"
    assert difference(card | {"sections": {}}).startswith("sections: made_B1 None instead of")
    assert difference(card, C2STiConfig(graph=False)) == "config: graph False instead of True"


def test_similarity_of_maps_is_that_of_spots() -> None:
    source = _series.made()
    slices = source.read(source.series[0])
    pair, genes = _leave_out.pair_of(slices, next(_leave_out.windows(np.arange(3.0), 1)), 20, context=False)
    xy, measured, _ = _leave_out.target_of(slices[1], pair, genes)
    assert _scores._ssim(measured, measured, xy, pair.lattice) == pytest.approx(1.0)
    assert _scores._ssim(np.full_like(measured, measured.mean()), measured, xy, pair.lattice) < 0.5
    assert np.isnan(_scores._ssim(measured, measured, xy, pair.lattice.coarsened(6)))
    assert _scores.DATA_RANGE == pytest.approx(np.log(10001))
    assert metrics.psnr(np.zeros((2, 2)), np.ones((2, 2)), data_range=_scores.DATA_RANGE) == pytest.approx(
        19.2856, abs=1e-3
    )


def test_measured_series_are_scored_by_all_folds_or_by_their_own() -> None:
    names = [("her2st A", "A"), ("her2st B", "B"), ("heart", "")]
    series = tuple(_series.Series(name, tuple(f"{name}{i}" for i in range(5))) for name, _ in names)
    source = _series.Source("measured", series, lambda one: [], {}, ["A", "B"])
    networks = [_networks.Network(ROWS["rife"], fold, s, Path(fold)) for fold in source.folds for s in (0, 1)]
    jobs = _scores.jobs(source, [ROWS["gp"], ROWS["rife"]], networks, [1, 3, 4], Path("scores"), context=True)
    assert source.taught == "her2st"
    one = _series.Source("measured", series, lambda one: [], {}, ["B"])
    assert [s.name for s in one.scored] == ["her2st B", "heart"]
    assert one.simulated
    assert [s.name for s in one.lessons("B")] == ["her2st A"]
    seen = {(j.series.name, j.network.fold) for j in jobs if j.network}
    assert seen == {("her2st A", "A"), ("her2st B", "B"), ("heart", "A"), ("heart", "B")}
    heart = [j for j in jobs if j.series.name == "heart" and j.n_slices == 1]
    assert [j.case for j in heart if j.network is None] == ["heart0..heart2", "heart1..heart3", "heart2..heart4"]
    assert len(heart) == 3 * (1 + 4)
    assert not [j for j in jobs if j.n_slices == 4]  # five sections do not hide four between two
    assert heart[1].file == Path("scores/context/rife/A/0/heart0..heart2.json")
    assert [s.name for s in source.lessons("A")] == ["her2st B"]


def test_a_run_that_is_stopped_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("c2sti.benchmark._run.Run.table", stopped)
    assert main(command(tmp_path / "out", methods=["copy"])) == 130
    assert capsys.readouterr().err.endswith("c2sti.benchmark: stopped; give the same command to continue\n")


def test_one_patient_is_too_few_to_train_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _series.made()
    monkeypatch.setattr(
        "c2sti.benchmark._run.measured",
        lambda data, folds: _series.Source("made", source.series[:1], source.read, {}, "A"),
    )
    said = refusal(capsys, ["--table", "1", "--data", "there", "--out", str(tmp_path), "--methods", "unet"])
    assert "there holds whole series of 1 patients of her2st; to train without one, two or more are needed" in said


def test_the_ablation_without_motion_moves_nothing() -> None:
    row = ROWS["no_displacement"]
    assert (row.trained, row.naive, row.config(QUICK)) == (False, None, replace(QUICK[DEFAULT], displacement=False))


# ---- the paper's protocol


def test_the_protocol_of_the_paper_on_a_simulated_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, methods = tmp_path / "out", ["gp", "rife", "paper", "paper_graph_shuffled"]
    words = f"--protocol paper --table 1 --quick --seeds 1 --device cpu --out {out} --methods".split() + methods
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "Simulated open-st, split by section; 1 seed, up to 2 steps." in text
    assert "Scores are against the truth without noise." in text
    table = pd.read_csv(out / "table1.csv")
    assert list(table["method"]) == methods
    assert table["n_cases"].nunique() == 1
    scores = table.set_index("method")["pcc"]
    assert scores["gp"] > 0.3 > abs(scores["paper"])  # two steps from zero are no training
    card = C2STi.load(out / "networks/paper/test/0").card
    assert len(card["history"]["validation"]) == 1
    assert card["series"] == ["open-st"]
    tested = set(cases(out)["section"])
    trained = set(card["sections"])
    assert {name[:3] for name in tested}.isdisjoint(name[:3] for name in trained)  # no section is in two parts


def test_full_is_the_network_and_training_of_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row, printed = ROWS["paper"], TrainConfig.paper()
    config, how = row.config(FULL), row.schedule(440, 0, watched=True, full=True)
    assert config == replace(C2STiConfig.paper(), panel=128, resnet=False, n_splits=0)
    for name in ("batch", "learning_rate", "final_learning_rate", "weight_decay", "validate_every", "objective"):
        assert getattr(how, name) == getattr(printed, name)
    assert "one of them" in refusal(capsys, command(tmp_path / "out", "--full"))


def test_patches_may_be_split_as_in_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict] = []
    tissue = SimpleNamespace(series=lambda z, **how: [], pitch=100.0, side=500.0)
    monkeypatch.setattr("c2sti.datasets.phantom", lambda **how: tissue)
    monkeypatch.setattr("c2sti.datasets.patches", lambda sections, **how: seen.append(how) or {})
    assert _series.open_st(None, split="patch", quick=True).name == "simulated open-st, split by patch"
    assert (seen[0]["split"], seen[0]["shares"]) == ("patch", (852, 100, 264))
