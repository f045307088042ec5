"""The command line, in this process where that will do: each new one pays seconds of imports."""

from __future__ import annotations

import argparse
import inspect
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import get_args

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import zarr
from anndata import AnnData

import c2sti
from c2sti.cli import COMMANDS, _commands, _files, main, parser
from c2sti.datasets import Phantom, phantom
from c2sti.models.c2sti import C2STi, C2STiConfig
from c2sti.pp._estimate import Method
from c2sti.pp._maps import Use
from c2sti.training import TrainConfig


@pytest.fixture(scope="module")
def tissue() -> Phantom:
    return phantom(seed=1, size=11, n_genes=30)


@pytest.fixture(scope="module")
def folder(tissue: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sections of one tissue, one of them as zarr, and something that is no section."""
    folder = tmp_path_factory.mktemp("sections")
    for i, section in enumerate(tissue.series([0.0, 150.0, 300.0, 450.0])):
        _files.write(section, folder / f"s{i}.{'zarr' if i == 3 else 'h5ad'}")
    (folder / "broken.h5ad").write_text("not an AnnData")
    return folder


Files = Callable[..., list[str]]


@pytest.fixture
def s(folder: Path) -> Files:
    """Paths of the sections, by number."""
    paths = sorted(path for path in folder.iterdir() if path.stem.startswith("s"))
    return lambda *numbers: [str(paths[i]) for i in numbers]


def command(name: str) -> argparse.ArgumentParser:
    (choices,) = [a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return choices[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_by_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    examples = [line for line in shown.splitlines() if line.startswith("  c2sti ")]
    assert any(line.split()[1] == name for line in examples)
    for line in examples:
        words = shlex.split(line.split(">")[0])
        assert callable(parser().parse_args(words[1:]).run)
    assert "stdout:" in shown
    for action in command(name)._actions:
        assert action.help, f"{name} {action.option_strings or action.dest} says nothing of itself"


def test_every_command_in_the_guide_parses() -> None:
    page = Path(c2sti.__file__).parents[1] / "docs" / "cli.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("c2sti ")]
    assert {line.split()[1] for line in lines} >= set(COMMANDS) - {"describe"}
    for line in lines:
        assert callable(parser().parse_args(shlex.split(line.split("#")[0].split(">")[0])[1:]).run)


TOOLS = {
    "series": c2sti.tl.interpolate_series,
    "to-spatialdata": c2sti.tl.to_spatialdata,
    "to-volume": c2sti.tl.to_volume,
}
OWN = {"slices", "adata", "show_progress_bar", "path", "out", "overwrite", "window"}  # files, -q, and objects of Python


@pytest.mark.parametrize("name", TOOLS)
def test_options_have_the_names_of_the_tool(name: str) -> None:
    options = {action.dest for action in command(name)._actions}
    assert set(inspect.signature(TOOLS[name]).parameters) - OWN <= options


def test_help_of_the_whole_shows_every_command_and_the_exit_codes() -> None:
    shown = parser().format_help()
    assert all(name in shown for name in COMMANDS)
    assert "exit codes: 0 done; 1 refused" in shown


def test_choices_are_those_of_the_tool() -> None:
    actions = {action.dest: action.choices for action in command("align")._actions}
    assert set(actions["method"]) == set(get_args(Method))
    assert set(actions["use"]) == set(get_args(Use))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: command"),
        (["interpolate", "a.h5ad", "b.h5ad", "-o", "out.csv"], "out.csv must end in .h5ad or .zarr"),
        (["interpolate", "a.h5ad", "b.h5ad", "-o", "o.h5ad", "--context", "s1.h5ad"], "must be FILE@POSITION"),
        (["interpolate", "a.h5ad", "b.h5ad", "-o", "o.h5ad", "-n", "2", "--positions", "0.5"], "not allowed with"),
        (
            ["series", "a.h5ad", "b.h5ad", "-o", "o.h5ad"],
            "one of the arguments -n/--n-slices --spacing --at-z is required",
        ),
        (["to-volume", "o.h5ad", "-o", "v.tif", "--genes", "g"], "v.tif must end in .zarr"),
        (["to-spatialdata", "o.h5ad", "-o", "v.zarr", "--originals", "a.h5ad"], "must be NAME=FILE"),
        (["align", "a.h5ad", "b.h5ad", "-o", "d", "--method", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_wrong_usage_is_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out


def test_interpolate_end_to_end_by_python_m(s: Files, tmp_path: Path) -> None:
    out = tmp_path / "new" / "sections.zarr"
    words = [sys.executable, "-m", "c2sti", "interpolate", *s(0, 2), "-n", "3", "--model", "linear", "-o", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"  # data only
    assert "interpolating 3 section(s)" in done.stderr  # with a bar
    assert "100%" in done.stderr
    assert "Warning" not in done.stderr
    assert list(ad.read_zarr(out).uns["c2sti"]["inserted"]) == ["c2sti_1", "c2sti_2", "c2sti_3"]
    assert [path.name for path in out.parent.iterdir()] == ["sections.zarr"]


def test_interpolate_gives_what_the_tool_gives(s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sections.h5ad"
    context = [f"{s(0)[0]}@-1", f"{s(3)[0]}@2"]
    options = ["--positions", "200", "--model", "gp", "--genes", "gene_001", "gene_002", "--key-added", "made", "-q"]
    more = ["--obs-keys", "domain", "--std", "--interval", "0.8"]
    assert main(["interpolate", *s(1, 2), "-o", str(out), "--context", *context, *options, *more]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    a, b, before, after = (_files.read(Path(path)) for path in s(1, 2, 0, 3))
    wanted = c2sti.tl.interpolate(
        a, b, positions=[200.0], model="gp", genes=["gene_001", "gene_002"], context={-1.0: before, 2.0: after},
        obs_keys=["domain"], std=True, interval=0.8, key_added="made", show_progress_bar=False,
    )  # fmt: skip
    found = ad.read_h5ad(out)
    for layer in ("made_1", "made_1_std", "made_1_lower", "made_1_upper"):
        np.testing.assert_array_equal(found.layers[layer], wanted.layers[layer])
    assert found.obs["made_1_domain"].tolist() == wanted.obs["made_1_domain"].tolist()
    assert found.uns["made"]["inputs"].keys() == wanted.uns["made"]["inputs"].keys()


def test_interpolate_streams_when_it_is_told_to(s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "large.zarr"
    words = ["interpolate", *s(0, 2), "--model", "copy", "-q", "-o", str(out)]
    assert main([*words, "--digits", "3"]) == 1
    assert "--digits is for results that are written block by block; add --stream" in capsys.readouterr().err
    assert main([*words[:-1], "o.h5ad", "--stream"]) == 1
    assert "o.h5ad cannot be written block by block; end it in .zarr" in capsys.readouterr().err
    assert main([*words, "--dense"]) == 1
    assert "--dense is for results that are written block by block; add --stream" in capsys.readouterr().err
    words = [*words, "--stream", "--dense", "--digits", "3", "--max-memory", "8GB"]
    for more in ([], ["--force"]):
        assert main([*words, *more]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        found = ad.read_zarr(out)
        assert found.X is None
        assert found.layers["slice_a"].format == "csr"
        assert found.uns["c2sti"]["parameters"]["digits"] == 3
        assert [path.name for path in out.parent.iterdir()] == ["large.zarr"]
    factors = out.parent / "factors.zarr"
    assert main(["interpolate", *s(0, 2), "--model", "copy", "-q", "-o", str(factors), "--stream"]) == 0
    assert capsys.readouterr().out == f"{factors}\n"
    assert list(ad.read_zarr(factors).layers) == ["slice_a", "slice_b"]
    rounded = c2sti.read_zarr(out).X.compute()
    np.testing.assert_allclose(c2sti.tl.materialize(c2sti.read_zarr(factors)).X, rounded, rtol=1e-3)
    assert main(words) == 1
    assert "large.zarr is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.h5ad", "there is no"),
        ("broken.h5ad", "broken.h5ad cannot be read as a section"),
        ("", "ends neither in"),
    ],
)
def test_refusals_are_code_1_and_have_no_traceback(
    name: str, said: str, s: Files, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["interpolate", *s(0), str(folder / name), "-o", str(tmp_path / "out.h5ad")]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert not shown.out
    assert not list(tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=said):
        main([*words, "--traceback"])


def test_a_message_in_a_key_error_is_shown_as_it_was_written(
    s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interpolate", *s(0, 2), "-o", str(tmp_path / "out.h5ad"), "--layer", "raw"]) == 1
    assert "c2sti: slice_a has no layer 'raw'; its layers are []\n" in capsys.readouterr().err


def test_what_is_there_is_not_overwritten_without_force(
    s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sections.zarr"
    words = ["interpolate", *s(0, 2), "-o", str(out), "--model", "copy", "-q"]
    assert main(words) == 0
    (out / "mark").touch()
    assert main(words) == 1
    assert f"{out} is there already; write elsewhere, or replace it with --force" in capsys.readouterr().err
    assert (out / "mark").exists()
    assert main([*words, "--force"]) == 0
    assert not (out / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["sections.zarr"]


def test_inputs_and_strange_folders_are_never_overwritten(
    s: Files, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(s(0)[0]).read_bytes()
    assert main(["align", *s(0, 2), "-o", str(folder), "--force"]) == 1
    assert "is read by this command and would be overwritten" in capsys.readouterr().err
    assert Path(s(0)[0]).read_bytes() == before
    holiday = tmp_path / "photographs.zarr"
    holiday.mkdir()
    (holiday / "beach.jpg").touch()
    assert main(["interpolate", *s(0, 2), "-o", str(holiday), "--force"]) == 1
    assert "is a folder and no zarr" in capsys.readouterr().err
    assert main(["train", *s(0, 1, 2), "-o", str(holiday), "--force"]) == 1
    assert "holds 'beach.jpg', which is no part of a model" in capsys.readouterr().err
    assert (holiday / "beach.jpg").exists()


@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_a_write_that_fails_leaves_what_was_there(name: str, tissue: Phantom, tmp_path: Path) -> None:
    out = tmp_path / name
    section = tissue.section(0.0)
    _files.write(section, out)
    good = _files.read(out)
    section.uns["bad"] = {"a tuple": object()}
    with pytest.raises(Exception, match="(?i)no method|object"):
        _files.write(section, out)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(_files.read(out).obsm["spatial"], good.obsm["spatial"])


def test_stopping_a_command_is_no_traceback(
    s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(section: AnnData, path: Path) -> None:
        path.write_text("half of a")
        raise KeyboardInterrupt

    monkeypatch.setattr(_files, "write_compact", stopped)
    assert main(["interpolate", *s(0, 2), "-o", str(tmp_path / "out.h5ad"), "--model", "copy", "-q"]) == 130
    assert "c2sti: stopped; nothing was written by halves" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_align_then_interpolate_reads_the_common_frame(
    tissue: Phantom, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, section in {"a": tissue.section(0.0), "b": tissue.section(100.0, angle=90.0)}.items():
        section.write_h5ad(tmp_path / f"{name}.h5ad", compression="gzip")
    aligned = tmp_path / "aligned"
    assert main(["align", str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad"), "-o", str(aligned)]) == 0
    shown = capsys.readouterr()
    table = pd.read_csv(StringIO(shown.out), sep="\t")
    assert table["file"].tolist() == [str(aligned / "a.h5ad"), str(aligned / "b.h5ad")]
    assert table["angle_deg"].tolist() == pytest.approx([0, -90], abs=5)
    assert "spatial_aligned" not in ad.read_h5ad(tmp_path / "b.h5ad").obsm
    for name, most in (("a", 1.3), ("b", 2.2)):  # beyond the H&E that moved with its tissue
        sizes = [(place / f"{name}.h5ad").stat().st_size for place in (aligned, tmp_path)]
        assert sizes[0] < most * sizes[1]
    out = tmp_path / "out.h5ad"
    words = [str(aligned / "a.h5ad"), str(aligned / "b.h5ad"), "-o", str(out), "--model", "linear"]
    assert main(["interpolate", *words]) == 0
    assert ad.read_h5ad(out).uns["c2sti"]["parameters"]["spatial_key"] == "spatial_aligned"


def test_spatialdata_goes_in(tissue: Phantom, tmp_path: Path) -> None:
    for name, section in zip("ab", tissue.series([0.0, 150.0]), strict=True):
        _files.write(as_spatialdata(section), tmp_path / f"{name}.zarr")
    paths = [str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")]
    assert main(["align", *paths, "-o", str(tmp_path / "aligned"), "-q"]) == 0
    moved = sd.read_zarr(tmp_path / "aligned" / "b.zarr")
    assert "spatial_aligned" in moved.coordinate_systems
    paths = [str(tmp_path / "aligned" / f"{name}.zarr") for name in "ab"]
    assert main(["interpolate", *paths, "-o", str(tmp_path / "out.h5ad"), "--model", "linear", "-q"]) == 0
    assert ad.read_h5ad(tmp_path / "out.h5ad").n_vars == 30


def as_spatialdata(section: AnnData) -> sd.SpatialData:
    """Spots as circles, annotated by the table."""
    circles = sd.models.ShapesModel.parse(section.obsm["spatial"], geometry=0, radius=50.0, index=section.obs_names)
    section.obs["region"] = pd.Categorical(["spots"] * section.n_obs)
    section.obs["spot"] = section.obs_names.to_numpy()
    section.uns.clear()
    table = sd.models.TableModel.parse(section, region="spots", region_key="region", instance_key="spot")
    return sd.SpatialData(shapes={"spots": circles}, tables={"table": table})


def test_evaluate_prints_a_table_and_draws_it(s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "scores.png"
    assert main(["evaluate", *s(0, 1, 2, 3), "--methods", "gp", "--no-context", "--plot", str(picture)]) == 0
    shown = capsys.readouterr()
    table = pd.read_csv(StringIO(shown.out), sep="\t")
    assert "share" not in table
    assert sorted(table["method"].unique()) == ["copy", "gp", "linear", "lowrank"]
    assert table.groupby("method")["section"].apply(list).tolist() == [[1, 2]] * 4
    series = [_files.read(Path(path)) for path in s(0, 1, 2, 3)]
    wanted = c2sti.tl.evaluate(series, methods=["gp"], context=False, show_progress_bar=False)
    np.testing.assert_allclose(table["pcc"], wanted["pcc"], rtol=1e-5)
    assert "means over 2 held-out sections" in shown.err
    assert picture.stat().st_size > 5_000
    assert not plt.get_fignums()
    run("evaluate", *s(0, 1, 2), "--methods", "gp", "--half-observed")
    assert "share" in pd.read_csv(StringIO(capsys.readouterr().out), sep="\t")
    assert main(["evaluate", *s(0, 1), "-q"]) == 1
    assert "2 sections are too few to hold out 1 between two others" in capsys.readouterr().err


def test_train_writes_a_model_that_interpolate_takes(
    s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    small = tmp_path / "small"
    C2STi(C2STiConfig(channels=4, panel=16, n_components=6, n_splits=0, counts=False, matern=False)).save(small)
    model = tmp_path / "model"
    C2STi(C2STiConfig(channels=8)).save(model)  # an older one
    words = ["train", *s(0, 1, 2), "-o", str(model), "--model", str(small), "--steps", "2", "-q"]
    assert main(words) == 1
    assert f"{model} is there already" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert capsys.readouterr().out == f"{model}\n"
    assert C2STi.load(model).config == C2STi.load(small).config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "small"]
    assert main(["interpolate", *s(0, 2), "-o", str(tmp_path / "o.h5ad"), "--model", str(model), "-q"]) == 0
    assert main(["train", *s(0, 1, 2), "-o", str(tmp_path / "n"), "--model", "gp"]) == 1
    assert "model = 'gp' has nothing to train" in capsys.readouterr().err


def test_demo_compares_with_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-o", str(tmp_path / "demo"), "--size", "10", "--genes", "30", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = pd.read_csv(StringIO("\n".join(lines[:6])), sep="\t", index_col="method")
    assert list(table.columns) == ["100_um", "200_um", "300_um"]
    assert table.loc["c2sti"].mean() > table.loc["linear"].mean() > table.loc["copy"].mean()
    assert lines[6:] == [str(tmp_path / "demo" / f"sections.{kind}") for kind in ("h5ad", "zarr", "png")]
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["sections.h5ad", "sections.png", "sections.zarr"]
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 1


def test_our_warnings_are_said_in_a_line(tissue: Phantom, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Depths below 20 µm apart that could be fractions."""
    for name, z in {"a": 0.0, "b": 10.0}.items():
        section = tissue.section(0.0)
        section.obs["z_um"] = z
        section.write_h5ad(tmp_path / f"{name}.h5ad")
    paths = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
    assert (
        main(["interpolate", *paths, "-o", str(tmp_path / "o.h5ad"), "--positions", "0.5", "--model", "copy", "-q"])
        == 0
    )
    assert "c2sti: warning: positions = [0.5] are read as fractions" in capsys.readouterr().err


def test_what_a_command_cannot_take_is_named(
    s: Files, tissue: Phantom, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    twin = shutil.copy(s(0)[0], tmp_path / "elsewhere")
    assert main(["align", *s(0), str(twin), "-o", str(tmp_path / "o")]) == 1
    assert "two of the sections have the same file name; each is written under its own" in capsys.readouterr().err
    array = tmp_path / "array.zarr"
    zarr.open_group(array, mode="w").create_array("x", data=np.zeros(3))
    assert main(["interpolate", *s(0), str(array), "-o", str(tmp_path / "o.h5ad")]) == 1
    assert "array.zarr cannot be read as a section: it is a zarr, but neither an AnnData nor" in capsys.readouterr().err
    assert main(["train", *s(0, 1, 2), "-o", str(twin)]) == 1
    assert "s0.h5ad is a file; name a folder" in capsys.readouterr().err
    _files.write(as_spatialdata(tissue.section(0.0)), tmp_path / "sdata.zarr")
    assert main(["sample-counts", str(tmp_path / "sdata.zarr"), "-o", str(tmp_path / "o.h5ad")]) == 1
    assert (
        "sdata.zarr is a SpatialData; give the AnnData that `c2sti interpolate` or `series` wrote"
        in capsys.readouterr().err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["array.zarr", "elsewhere", "sdata.zarr"]


def test_a_number_of_steps_keeps_the_rest_of_the_settings() -> None:
    words = ["train", "a", "b", "c", "-o", "d", "--seed", "5"]
    assert _commands._how(parser().parse_args(words), anew=False) is None
    given = parser().parse_args([*words, "--steps", "7"])
    assert _commands._how(given, anew=True) == TrainConfig(steps=7, seed=5)
    assert _commands._how(given, anew=False) == TrainConfig(steps=7, seed=5, learning_rate=5e-4)


def run(*words: object) -> None:
    assert main([*map(str, words), "-q"]) == 0


def test_a_whole_study_without_python(s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From sections in common coordinates to a filled series, figures, a volume and SpatialData."""
    stack = tmp_path / "stack.h5ad"
    run("series", *s(0, 1, 2), "--n-slices", 1, "--model", "linear", "-o", stack)
    found = ad.read_h5ad(stack)
    assert found.uns["c2sti"]["z"].tolist() == [0, 75, 150, 225, 300]
    gene = found.var_names[3]
    run("plot", stack, gene, "-o", tmp_path / "gene.png", "--vmax", 3)
    assert not plt.get_fignums()
    words = ["--kind", "stack", "--sections", "slice_0", "c2sti_1", "-o", tmp_path / "3d.pdf"]
    run("plot", stack, gene, found.var_names[4], *words)
    assert (tmp_path / "3d.pdf").stat().st_size > 5_000
    run("to-volume", stack, "--genes", gene, "-o", tmp_path / "gene.zarr")
    run("to-spatialdata", stack, "-o", tmp_path / "sdata.zarr")
    written = [tmp_path / name for name in ("stack.h5ad", "gene.png", "gene.zarr", "sdata.zarr")]
    assert set(map(str, written)) <= set(capsys.readouterr().out.splitlines())
    assert written[1].stat().st_size > 5_000
    assert zarr.open_group(written[2], mode="r").attrs["c2sti"]["inserted"] == [False, True, False, True, False]
    assert set(sd.read_zarr(written[3])["c2sti_stack"].compute()["z"]) == {0, 75, 150, 225, 300}


def test_series_streams_and_takes_a_number_for_each_gap(s: Files, tmp_path: Path) -> None:
    out = tmp_path / "stack.zarr"
    words = ["series", *s(0, 1, 2), "-n", 2, 1, "--model", "linear", "--genes", "gene_001", "-o", out]
    run(*words, "--stream")
    run(*words, "--stream", "--force")
    series = [_files.read(Path(path)) for path in s(0, 1, 2)]
    wanted = c2sti.tl.interpolate_series(
        series, n_slices=[2, 1], model="linear", genes=["gene_001"], show_progress_bar=False
    )
    found = c2sti.read_zarr(out)
    np.testing.assert_allclose(found.X.compute(), wanted.X, atol=1e-3)
    assert found.obs["section"].tolist() == wanted.obs["section"].tolist()
    assert main(list(map(str, [*words[:-1], "o.h5ad", "--stream"]))) == 1


def test_genes_of_a_pair_and_of_a_series(s: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair, stack = tmp_path / "pair.h5ad", tmp_path / "stack.h5ad"
    run("interpolate", *s(0, 1), "--model", "linear", "-o", pair)
    run("series", *s(0, 1), "--n-slices", 1, "--model", "linear", "-o", stack)
    capsys.readouterr()
    for path in (pair, stack):
        run("genes", path, "--sort-by", "std", "--n-genes", 5)
        table = pd.read_csv(StringIO(capsys.readouterr().out), sep="\t", index_col="gene")
        assert len(table) == 5
        assert table["std"].is_monotonic_decreasing
    found = ad.read_h5ad(stack)
    values = found[~found.obs["inserted"].to_numpy(bool), table.index].X
    np.testing.assert_allclose(table["mean"], values.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(table["detected"], (values > 0).mean(axis=0), rtol=1e-4)
    assert main(["genes", str(stack), "nothing"]) == 1
    assert "'nothing'" in capsys.readouterr().err


def test_files_are_small_and_hold_all(tissue: Phantom, tmp_path: Path) -> None:
    section = tissue.section(0.0)
    section.raw = section[:, :5].copy()
    section.uns["spatial_aligned"] = {name: dict(one) for name, one in section.uns["spatial"].items()}
    section.layers["counts"] = section.X
    section.X = section.X.toarray()
    section.layers["again"] = section.X.copy()
    _files.write(section, tmp_path / "a.h5ad")
    section.write_h5ad(tmp_path / "plain.h5ad", compression="gzip")
    assert (tmp_path / "a.h5ad").stat().st_size < 0.7 * (tmp_path / "plain.h5ad").stat().st_size
    assert section.layers.keys() == {"counts", "again"}  # as it was
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.X, section.X)
    np.testing.assert_array_equal(found.layers["again"], section.X)
    np.testing.assert_array_equal(found.raw.X.toarray(), section.raw.X.toarray())
    for (name, library), (_, moved) in zip(
        section.uns["spatial"].items(), found.uns["spatial_aligned"].items(), strict=True
    ):
        np.testing.assert_array_equal(library["images"]["hires"], moved["images"]["hires"])
        np.testing.assert_array_equal(library["images"]["hires"], found.uns["spatial"][name]["images"]["hires"])
