"""Every tutorial runs from top to bottom, and is kept without outputs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

import c2sti
from c2sti.cli import main
from tests.conftest import DATA

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A notebook's interpreter in this process: a kernel would import everything once for each notebook."""
    made = InteractiveShell.instance()
    yield made
    made.reset()
    plt.close("all")
    InteractiveShell.clear_instance()


@pytest.mark.timeout(900)  # half a minute is usual; shared machines are slow at times
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: InteractiveShell) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("C2STI_DATA", str(DATA))
    monkeypatch.setenv("MPLBACKEND", "agg")
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_is_kept_without_outputs(path: Path) -> None:
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_the_commands_of_the_script_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one process: a shell would import everything once for each command."""
    monkeypatch.chdir(tmp_path)
    names = [f"s{i}.h5ad" for i in range(3)]
    sections = c2sti.datasets.phantom(seed=0, size=10, n_genes=30).series([0.0, 100.0, 200.0])
    for name, section in zip(names, sections, strict=True):
        section.write_h5ad(name)
    given = {'"$@"': " ".join(names), '"${sections[@]}"': " ".join(f"aligned/{name}" for name in names)}
    given |= {'"$gene"': "gene_001", '"$label"': "domain", '"$spacing"': "50"}
    script = (TUTORIALS[0].parent / "11_command_line.sh").read_text(encoding="utf-8")
    commands = [line for line in script.splitlines() if line.startswith("c2sti ")]
    for command in commands:
        for word, value in given.items():
            command = command.replace(word, value)
        words, _, target = command.partition(" > ")
        assert main([*shlex.split(words)[1:], "--quiet"]) == 0, capsys.readouterr().err
        text = capsys.readouterr().out
        if target:
            Path(target).write_text(text, encoding="utf-8")
    assert pd.read_csv("genes.tsv", sep="\t")["expected_pcc"].between(-1, 1).all()
    assert {"scores.png", "stack.png", "methods.txt", "counts.h5ad", "volume.zarr"} <= {
        p.name for p in Path().iterdir()
    }
