"""Every tutorial runs from top to bottom, and is kept without outputs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import DATA

TUTORIALS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))
CELL_SECONDS, NOTEBOOK_SECONDS = 300, 900  # about a minute is usual; shared machines are slow at times


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.timeout(NOTEBOOK_SECONDS)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    # Threads that wait for each other on busy cores cost more than they give at this size.
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", "C2STI_DATA": str(DATA)})


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_is_kept_without_outputs(path: Path) -> None:
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
