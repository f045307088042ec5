"""The rules of the house, read from the source: imports point down, faces are complete, calls take keywords."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import c2sti

PACKAGE = Path(c2sti.__file__).parent
LEVEL = {
    "_docs": 0,
    "_logging": 0,
    "_validators": 0,
    "_backed": 0,
    "_tasks": 0,
    "thinning": 0,
    "_keys": 1,
    "_types": 1,
    "_atomic": 1,
    "_result": 2,
    "ops": 2,  # speaks in the arrays of _types, as these do
    "metrics": 2,
    "field": 2,
    "factors": 2,
    "counts": 2,
    "nn": 3,
    "uncertainty": 3,
    "pair_check": 3,
    "io": 4,
    "models": 4,
    "datasets": 5,
    "training": 5,
    "pp": 5,
    "pl": 5,
    "benchmark": 6,  # brings the series that it reads into one coordinate system, and draws what it finds
    "tl": 7,
    "__init__": 8,
    "cli": 8,
    "__main__": 9,
}
STRANGERS = {"pp", "tl", "pl"}  # whatever their levels: what one of them needs of another lies below both
FACES = [c2sti.pp, c2sti.tl, c2sti.pl, c2sti.datasets, c2sti.metrics]


def imports(path: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Modules of ours that a file imports, as (first name below c2sti, statement, whether it is outside functions)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module == "c2sti":
            names = [f"c2sti.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("c2sti."):
                yield name.split(".")[1], node, id(node) not in inside


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_and_stand_at_the_top(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for imported, node, at_top in imports(path):
        if imported == room:
            continue  # files of one package know each other
        assert LEVEL[imported] < LEVEL[room], f"{path.name}:{node.lineno} imports {imported} from below or beside"
        assert not {imported, room} <= STRANGERS, f"{path.name}:{node.lineno}: {room} and {imported} are strangers"
        assert at_top, f"{path.name}:{node.lineno} hides an import of our own inside a function"


def test_the_rule_would_catch_a_wrong_arrow(tmp_path: Path) -> None:
    wrong = tmp_path / "ops.py"
    wrong.write_text("def f():\n    from c2sti.io import read_slice\n")
    ((imported, _, at_top),) = imports(wrong)
    assert LEVEL[imported] > LEVEL["ops"]
    assert not at_top


def public_functions() -> Iterator[tuple[str, object]]:
    for face in FACES:
        for name, value in vars(face).items():
            if inspect.isfunction(value) and not name.startswith("_") and value.__module__.startswith(face.__name__):
                yield f"{face.__name__}.{name}", value


PUBLIC = dict(public_functions())


def test_there_is_a_face() -> None:
    assert {"c2sti.tl.interpolate", "c2sti.tl.evaluate", "c2sti.pl.sections", "c2sti.metrics.pcc"} <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_take_two_positional_arguments_at_most(name: str) -> None:
    kinds = [p.kind for p in inspect.signature(PUBLIC[name]).parameters.values()]
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 2
    assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_documented_and_annotated(name: str) -> None:
    function = PUBLIC[name]
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    for part in ("Parameters\n---", "Returns\n---", "Examples\n---"):
        assert part in text, f"{name} lacks {part.split()[0]}"
    assert not re.search(r"%\(\w+\)s", text), f"the docstring of {name} holds a placeholder"
    headings = re.findall(r"^(\w+(?:, \w+)*)\n    ", text.split("Parameters\n---")[1].split("Returns\n---")[0], re.M)
    described = [parameter for heading in headings for parameter in heading.split(", ")]
    assert sorted(described) == sorted(signature.parameters), f"{name} describes other parameters than it has"
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_of_public_functions_fit_on_a_screen(name: str) -> None:
    function = inspect.unwrap(PUBLIC[name])
    ((node, text),) = [
        (node, ast.get_docstring(node) or "")
        for node in ast.parse(Path(inspect.getsourcefile(function)).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__
    ]
    assert text.count("\n") < 70, f"line {node.lineno}: results have a page of their own, docs/guide/result.md"


def test_all_names_exist() -> None:
    for module in [c2sti, c2sti.io, c2sti.datasets, *FACES]:
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name)
    assert set(c2sti.__all__) >= {"pp", "tl", "pl", "datasets", "metrics"}


def run(code: str) -> str:
    """What a fresh interpreter prints that runs this."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_nothing_global() -> None:
    """No filters, seeds, threads, print options, styles or handlers; what others set when imported was there before."""
    run("""
import logging, random, sys, warnings
import anndata, matplotlib, matplotlib.pyplot, numpy, pandas, scanpy, spatialdata, torch

def state():
    yield list(warnings.filters)
    yield random.getstate()
    yield numpy.random.get_state()[1].tolist()
    yield torch.initial_seed()
    yield torch.get_num_threads()
    yield torch.get_default_dtype()
    yield torch.is_grad_enabled()
    yield numpy.get_printoptions()
    yield numpy.geterr()
    yield pandas.get_option("display.max_rows")
    yield dict(matplotlib.rcParams)
    yield matplotlib.get_backend()
    yield scanpy.settings.verbosity
    yield [(logger, list(logging.getLogger(logger).handlers)) for logger in (None, "scanpy", "anndata", "c2sti")]

before = list(state())
import c2sti
for i, (was, is_now) in enumerate(zip(before, state(), strict=True)):
    assert was == is_now, (i, was, is_now)
""")


LATER = [
    "accelerate",
    "kornia",
    "matplotlib",
    "monai",
    "ome_zarr",
    "scanpy",
    "scipy.stats",
    "SimpleITK",
    "skimage",
    "spatialdata",
    "spatialdata_io",
    "spatialdata_plot",
    "squidpy",
    "torchmetrics",
]


def test_importing_is_quick() -> None:
    """Seconds depend on the machine; the libraries that would cost them do not. Import these where they are used."""
    loaded, late = run("""
import sys, c2sti
print(*sys.modules)
print('pl' in dir(c2sti), c2sti.pl.sections.__name__)
""").splitlines()
    assert "torch" in loaded.split()
    assert not set(LATER) & set(loaded.split())
    assert late == "True sections"  # what is imported late is found all the same


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_a_page(name: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (PACKAGE.parent / "docs" / "api").glob("*.md"))
    _, room, function = name.split(".")
    assert f"{room}.{function}\n" in pages, f"{name} is on no page of docs/api"


CLASSES = {"C2STi": c2sti.C2STi, "C2STiConfig": c2sti.C2STiConfig, "TrainConfig": c2sti.TrainConfig} | {
    "datasets.Phantom": c2sti.datasets.Phantom
}


CONTRACT = {"InterpolatedSection", "Interpolator", "Lattice", "Noise", "Prediction", "Section", "SlicePair"}


def test_the_contract_of_methods_has_a_page_whose_example_runs() -> None:
    page = (PACKAGE.parent / "docs" / "method.md").read_text(encoding="utf-8")
    assert all(f"   {name}\n" in page for name in CONTRACT)
    names: dict[str, Any] = {}
    exec(page.split("```python")[1].split("```")[0], names)
    assert names["out"].n_obs > 0
    assert len(names["table"]) > 0


def test_no_public_class_is_forgotten() -> None:
    public = {name for name in c2sti.__all__ if inspect.isclass(getattr(c2sti, name))} - CONTRACT
    public |= {f"datasets.{name}" for name in c2sti.datasets.__all__ if inspect.isclass(getattr(c2sti.datasets, name))}
    assert public == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_have_an_example_and_a_page(name: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (PACKAGE.parent / "docs" / "api").glob("*.md"))
    assert "Examples\n---" in (inspect.getdoc(CLASSES[name]) or "")
    assert f"   {name}\n" in pages, f"{name} is on no page of docs/api"
