"""How sharp are the tests? Change the code in one place, and see whether a test notices. The table of docs/faults.md.

    python scripts/mutate.py --sample 40 --seed 0        the files and tests of TESTS, a few seconds of work a change
    python scripts/mutate.py --file c2sti/fit.py --tests tests/test_fit.py
    python scripts/mutate.py --file c2sti/ops.py --only 17 203       these again: after a test was added, say

A change is one of: < for <= and == for !=, + for - and * for /, a number one up or down, `and` for `or`, a condition
turned round, min for max, axis 0 for 1, and their like. Annotations, messages and decorators stay as they are, and so
does `strict=` of zip, which says what cannot be otherwise. A change that no test notices is printed as `survived`: it
is a gap in the tests, or makes no difference that a caller could see, which is for a reader to tell.

Every change runs in a process forked from this one, which has imported all that is not ours and nothing of c2sti, on a
copy of the package and its tests in a temporary folder. Unix only; no other change is tried at the same time.
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = {  # a module's own examples are tests too
    "c2sti/ops.py": ["tests/test_ops.py"],
    "c2sti/metrics.py": ["tests/test_metrics.py", "c2sti/metrics.py"],
    "c2sti/io/_rasterize.py": ["tests/io/test_rasterize.py"],
    "c2sti/io/_read.py": ["tests/io/test_read.py", "tests/test_backed.py"],
}
THIRD = "pytest pytest_timeout torch pandas skimage.metrics matplotlib.pyplot scanpy spatialdata kornia.filters".split()

QUIETLY = "-x -q -p no:cacheprovider -p pytest_timeout -W ignore::pytest.PytestAssertRewriteWarning".split()

COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARISONS |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
ARITHMETIC |= {ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr}
SIGNS = {ast.USub: ast.UAdd}
BOTH = {ast.And: ast.Or, ast.Or: ast.And}
CALLS = {"min": "max", "minimum": "maximum", "any": "all", "floor": "ceil"}
CALLS |= {b: a for a, b in CALLS.items()}
UNTOUCHED = {"annotation", "returns", "decorator_list"}


class Change(NamedTuple):
    """One way to change a module: where, what is shown of it, and what makes it in the tree."""

    line: int
    shown: ast.AST
    make: Callable[[], None]


def nodes(node: ast.AST, parent: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """All that may be changed, and what it stands in, in the order of the text."""
    said = isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("warnings.", "_log."))
    if said or isinstance(node, ast.Raise | ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg == "strict"):
        return
    yield node, parent
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in UNTOUCHED:
                yield from nodes(child, node)


def setter(node: ast.AST, name: str, value: object) -> Callable[[], None]:
    """A call that sets an attribute later."""
    return lambda: setattr(node, name, value)


def changes(tree: ast.AST) -> Iterator[Change]:
    """Every change of a module, in the order of its text."""
    axes = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg in {"axis", "dim"}}
    for node, parent in nodes(tree, tree):
        shown = parent if isinstance(node, ast.Constant) and not isinstance(parent, ast.arguments) else node
        for make in edits(node, id(node) in axes):
            yield Change(getattr(node, "lineno", getattr(parent, "lineno", 0)), shown, make)


def edits(node: ast.AST, axis: bool) -> Iterator[Callable[[], None]]:
    """What can be done to one node."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield setter(node, "ops", [*ops[:i], COMPARISONS[type(op)](), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) | ast.UnaryOp(op=op):
            if other := (ARITHMETIC | BOTH | SIGNS).get(type(op)):
                yield setter(node, "op", other())
            elif isinstance(op, ast.Not | ast.Invert):  # twice is none, but stays a truth value
                yield setter(node, "operand", ast.UnaryOp(type(op)(), node.operand))
        case ast.Constant(value=bool(value)):
            yield setter(node, "value", not value)
        case ast.Constant(value=int(value) | float(value)):
            for changed in [1 - value] if axis and value in {0, 1} else [value + 1, value - 1]:
                yield setter(node, "value", changed)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield setter(node, "test", ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[test, *rest]):
            yield setter(node, "ifs", [ast.UnaryOp(ast.Not(), test), *rest])
        case ast.Call(func=ast.Name(id=name) as called) if name in CALLS:
            yield setter(called, "id", CALLS[name])
        case ast.Call(func=ast.Attribute(attr=name) as called) if name in CALLS:
            yield setter(called, "attr", CALLS[name])


def changed(source: str, number: int) -> tuple[str, str]:
    """The module with one change made, and a line about it."""
    tree = ast.parse(source)
    change = list(changes(tree))[number]
    before = _first_line(change.shown)
    change.make()
    return ast.unparse(tree), f"{change.line}: {before}  →  {_first_line(change.shown)}"


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0].strip()[:90]


def warm_up() -> None:
    """Import what is not ours, and pay for what torch does at first use only, once for all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, _, torch, *_ = [import_module(name) for name in THIRD]
    maps = torch.rand(1, 1, 4, 4, requires_grad=True)
    torch.nn.functional.grid_sample(maps, torch.zeros(1, 4, 4, 2), align_corners=True).sum().backward()
    import_module("kornia.filters").sobel(maps)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # half a second a change
    assert "c2sti" not in sys.modules, "the copy could not be imported any more"
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy all that was imported


def noticed(copy: Path, tests: list[str], seconds: int, first: bool = False) -> bool:
    """Whether the tests, in a process of their own, fail or take more than so many seconds of a core.

    What waits instead of working is ended by pytest's own timeout. The first time, without a change, the tests show
    what they print and leave compiled files for the others.
    """
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = not first
        if not first:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
        code = import_module("pytest").main([*QUIETLY, *tests])
        sys.stdout.flush()
        os._exit(int(code))
    except BaseException:  # noqa: BLE001 - nothing may return into the caller's loop, in a second process
        traceback.print_exc()
        os._exit(1)


def try_file(copy: Path, file: str, tests: list[str], numbers: list[int], seconds: int) -> str:
    """Make changes of one file, one after the other; returns a row of the table."""
    place, source = copy / file, (copy / file).read_text()
    if noticed(copy, tests, seconds, first=True):
        sys.exit(f"{' '.join(tests)} fail, or take more than {seconds} s, without any change")
    Path(cache_from_source(str(place))).unlink(missing_ok=True)  # two changes in one second would look alike to it
    killed = 0
    for number in numbers:
        text, line = changed(source, number)
        place.write_text(text)
        found = noticed(copy, tests, seconds)
        killed += found
        print(f"{'killed  ' if found else 'survived'} {number:4d} {file}:{line}", flush=True)
    place.write_text(source)
    total = sum(1 for _ in changes(ast.parse(source)))
    return f"| `{file}` | {' '.join(tests)} | {total} | {len(numbers)} | {killed} | {len(numbers) - killed} |"


def main() -> None:
    """Read the arguments, try the changes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", nargs="*", default=list(TESTS), help="modules, from the root of the repository")
    parser.add_argument("--tests", nargs="*", help="tests to run; by default those of TESTS")
    parser.add_argument("--sample", type=int, default=40, help="changes to try of each file")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the choice, tried before")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of changes to try, instead of a choice")
    parser.add_argument("--timeout", type=int, default=60, help="seconds of a core that tests may take")
    given = parser.parse_args()
    start, rows = time.monotonic(), []
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        copy.mkdir()
        for name in ("c2sti", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for file in given.file:
            numbers = list(range(sum(1 for _ in changes(ast.parse((copy / file).read_text())))))
            random.Random(given.seed).shuffle(numbers)  # so that a larger sample holds the smaller one
            chosen = given.only or numbers[given.skip :][: given.sample]
            rows.append(try_file(copy, file, given.tests or TESTS[file], chosen, given.timeout))
    print("\n| module | tests | changes possible | tried | noticed | survived |", "| --- |" + " --- |" * 5, sep="\n")
    print(*rows, f"\nseed {given.seed}, {time.monotonic() - start:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
