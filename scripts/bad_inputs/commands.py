"""The command line: `c2sti` and `python -m c2sti.benchmark`; refused by one line, with an exit code that is not 0."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from c2sti import cli
from c2sti.benchmark import __main__ as benchmark
from scripts.bad_inputs import Bad, Refused
from scripts.bad_inputs.material import BROKEN, pair, result, series

USAGE = 2
Words = Callable[[Path], list[Any]]


class _Listening(io.StringIO):
    """What is said, and the error that was being handled when it was."""

    error: BaseException | None = None

    def write(self, text: str) -> int:
        self.error = sys.exception() or self.error
        return super().write(text)


def run(main: Callable[[list[str]], int], words: list[Any]) -> object:
    """Run a command as a user does; raises the error that it told of by one line."""
    with contextlib.redirect_stderr(_Listening()) as said, contextlib.redirect_stdout(io.StringIO()) as told:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(str(stop.code or 0))
    lines = said.getvalue().splitlines()
    if code == 0:
        return told.getvalue() or "exit code 0"
    if code == USAGE:
        raise Refused(lines[-1])
    lines = [line for line in lines if line.startswith("c2sti") or line[:1].islower()]
    if "Traceback" in said.getvalue() or len(lines) != 1 or said.error is None:
        raise RuntimeError(f"exit code {code} and not one line: {said.getvalue()}")
    raise said.error


def cases() -> Iterator[Bad]:
    """All of these."""
    for of, main, table in (("c2sti", cli.main, _c2sti()), ("python -m c2sti.benchmark", benchmark.main, _benchmark())):
        for what, words, says in table:
            yield Bad(of, what, lambda f, m=main, w=words: run(m, w(f)), (says,))


@cache
def _content(of: Callable[[], Any]) -> bytes:
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        of().write_h5ad(Path(folder) / "a.h5ad")
        return (Path(folder) / "a.h5ad").read_bytes()


def _first() -> Any:
    return pair()[0]


def _last() -> Any:
    return pair()[1]


def _middle() -> Any:
    return series()[1]


def _files(folder: Path, n: int = 2) -> list[Path]:
    made = {1: {"a.h5ad": _first}, 2: {"a.h5ad": _first, "b.h5ad": _last}}
    wanted = made.get(n, {"a.h5ad": _first, "b.h5ad": _middle, "c.h5ad": _last})
    for name, of in wanted.items():
        (folder / name).write_bytes(_content(of))
    return [folder / name for name in wanted]


def _written(folder: Path, broken: str, name: str = "broken.h5ad") -> Path:
    BROKEN[broken][0](pair()[1]).write_h5ad(folder / name)
    return folder / name


def _touched(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _result(folder: Path) -> Path:
    (folder / "r.h5ad").write_bytes(_content(result))
    return folder / "r.h5ad"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _c2sti() -> Iterator[tuple[str, Words, str]]:
    yield "nothing", lambda f: [], "command"
    yield "a command that is not there", lambda f: ["guess"], "guess"
    yield "an option that is not there", lambda f: ["demo", "--guess"], "--guess"
    yield from _interpolate()
    yield from _series()
    yield from _others()


def _interpolate() -> Iterator[tuple[str, Words, str]]:
    def words(f: Path, *more: Any, out: str = "o.h5ad") -> list[Any]:
        return ["interpolate", *_files(f), "-o", f / out, "--model", "linear", "-q", *more]

    yield "interpolate without -o", lambda f: ["interpolate", *_files(f)], "--output"
    yield "interpolate one section", lambda f: ["interpolate", _files(f)[0], "-o", f / "o.h5ad"], "slice_b"
    for name, says in (("nowhere.h5ad", "there is no"), ("a.csv", "a.csv"), ("", "there is no|ends neither")):
        yield (
            f"interpolate {name or 'a folder'}",
            lambda f, n=name: [
                "interpolate",
                _touched(f / "x" / n) if n == "a.csv" else f / n,
                _files(f)[0],
                "-o",
                f / "o.h5ad",
            ],
            says,
        )
    yield (
        "a file that is no h5ad",
        lambda f: ["interpolate", _touched(f / "z.h5ad", b"no"), *_files(f, 1), "-o", f / "o.h5ad"],
        "z.h5ad",
    )
    yield (
        "a truncated h5ad",
        lambda f: ["interpolate", _touched(f / "z.h5ad", _content(_first)[:9000]), *_files(f, 1), "-o", f / "o.h5ad"],
        "z.h5ad",
    )
    yield (
        "a zarr that is a file",
        lambda f: ["interpolate", _touched(f / "z.zarr"), *_files(f, 1), "-o", f / "o.h5ad"],
        "z.zarr",
    )
    yield (
        "a zarr that is an empty folder",
        lambda f: ["interpolate", _folder(f / "z.zarr"), *_files(f, 1), "-o", f / "o.h5ad"],
        "z.zarr",
    )
    for broken in ("no coordinates", "a coordinate is NaN", "X holds NaN", "no spots", "two images", "two depths"):
        yield (
            f"a section: {broken}",
            lambda f, b=broken: ["interpolate", *_files(f, 1), _written(f, b), "-o", f / "o.h5ad", "-q"],
            BROKEN[broken][1],
        )
    yield "another kind of output", lambda f: words(f, out="o.csv"), ".h5ad or .zarr"
    yield "an output that is there", lambda f: [*words(f), "-o", _touched(f / "there.h5ad")], "--force"
    yield "an output that is an input", lambda f: [*words(f, "--force"), "-o", f / "a.h5ad"], "overwritten"
    yield "an output below a file", lambda f: [*words(f), "-o", _touched(f / "file") / "o.h5ad"], "file"
    yield "an output in a folder not written into", lambda f: [*words(f), "-o", "/proc/o.h5ad"], "/proc/o.h5ad"
    for option, value, says in (
        ("-n", "0", "n_slices|-n"),
        ("-n", "one", "-n"),
        ("-n", "-2", "n_slices|-n"),
        ("--positions", "300", "positions"),
        ("--positions", "half", "--positions"),
        ("--context", "s1.h5ad", "FILE@POSITION"),
        ("--context", "none.h5ad@-1", "none.h5ad"),
        ("--model", "nothing", "nothing"),
        ("--genes", "nothing", "genes"),
        ("--obs-keys", "nothing", "obs_keys"),
        ("--interval", "90", "interval"),
        ("--on-misfit", "shout", "--on-misfit"),
        ("--pitch", "0", "pitch"),
        ("--pitch", "nan", "pitch"),
        ("--key-added", "a/b", "key_added"),
        ("--device", "gpu", "device"),
        ("--seed", "-1", "seed"),
        ("--seed", "one", "--seed"),
        ("--digits", "3", "--stream"),
        ("--max-memory", "lots", "max_memory"),
        ("--layer", "nothing", "layer"),
        ("--spatial-key", "nothing", "spatial_key"),
        ("--image-key", "nothing", "image"),
    ):
        yield f"interpolate {option} {value}", lambda f, o=option, v=value: words(f, o, v), says
    yield "--stream into an h5ad", lambda f: words(f, "--stream"), ".zarr"
    yield "--stream --digits 9", lambda f: words(f, "--stream", "--digits", "9", out="o.zarr"), "digits"
    yield "--stream below a file", lambda f: [*words(f, "--stream"), "-o", _touched(f / "file") / "o.zarr"], "file"
    yield "-n and --positions", lambda f: words(f, "-n", "2", "--positions", "0.5"), "not allowed with"


def _series() -> Iterator[tuple[str, Words, str]]:
    yield "align one section", lambda f: ["align", "-q", *_files(f, 1), "-o", f / "o"], "at least two|1 section"
    yield "align into the folder of the sections", lambda f: ["align", "-q", *_files(f), "-o", f], "overwritten"
    yield "align two files of one name", lambda f: ["align", f / "a.h5ad", *_files(f), "-o", f / "o"], "same file name"
    yield "align into a file", lambda f: ["align", "-q", *_files(f), "-o", _touched(f / "file")], "file"
    yield "align --reference 7", lambda f: ["align", "-q", *_files(f), "-o", f / "o", "--reference", "7"], "reference"
    yield "align --method bent", lambda f: ["align", "-q", *_files(f), "-o", f / "o", "--method", "bent"], "--method"
    yield "align a file that is not there", lambda f: ["align", *_files(f), f / "x.h5ad", "-o", f / "o"], "x.h5ad"
    yield "evaluate two sections", lambda f: ["evaluate", *_files(f), "-q"], "too few"
    for option, value, says in (
        ("-n", "0", "n_slices"),
        ("--methods", "nothing", "nothing"),
        ("--n-genes", "0", "n_genes"),
        ("--z", "1", "z holds"),
        ("--device", "gpu", "device"),
        ("--seed", "-1", "seed"),
    ):
        yield (
            f"evaluate {option} {value}",
            lambda f, o=option, v=value: [
                "evaluate",
                *_files(f, 3),
                "-q",
                "--z",
                "1",
                "3",
                "2" if o == "--z" else "5",
                o,
                *([v] if o != "--z" else ["1", "1", "1"]),
            ],
            says,
        )
    yield (
        "evaluate --plot that is there",
        lambda f: ["evaluate", *_files(f, 3), "--plot", _touched(f / "p.png")],
        "--force",
    )
    yield (
        "evaluate --plot of no known kind",
        lambda f: ["evaluate", *_files(f, 3), "--methods", "copy", "-q", "--plot", f / "p.xyz"],
        "xyz",
    )
    yield "train two sections", lambda f: ["train", *_files(f), "-o", f / "o", "-q"], "3 or more"
    yield (
        "train into a folder that holds other files",
        lambda f: ["train", *_files(f, 3), "-o", f, "--force"],
        "no part of a model",
    )
    yield "train into a file", lambda f: ["train", *_files(f, 3), "-o", _touched(f / "file")], "is a file"
    for option, value, says in (
        ("--model", "linear", "nothing to train"),
        ("--model", "nothing", "nothing"),
        ("--steps", "0", "steps"),
        ("--n-genes", "0", "n_genes"),
        ("-n", "0", "n_slices"),
        ("--device", "gpu", "device"),
        ("--seed", "-1", "seed"),
    ):
        yield (
            f"train {option} {value}",
            lambda f, o=option, v=value: ["train", *_files(f, 3), "-o", f / "o", "-q", o, v],
            says,
        )


def _others() -> Iterator[tuple[str, Words, str]]:
    yield "describe a file that is not there", lambda f: ["describe", f / "x.h5ad"], "there is no"
    yield "describe a measured section", lambda f: ["describe", *_files(f, 1)], r"uns\['c2sti'\]"
    yield "describe --key other", lambda f: ["describe", _result(f), "--key", "other"], r"uns\['other'\]"
    yield (
        "sample-counts of a measured section",
        lambda f: ["sample-counts", *_files(f, 1), "-o", f / "o.h5ad"],
        r"uns\['c2sti'\]",
    )
    yield (
        "sample-counts into its input",
        lambda f: ["sample-counts", _result(f), "-o", f / "r.h5ad", "--force"],
        "overwritten",
    )
    for option, value, says in (
        ("--sections", "slice_a", "slice_a"),
        ("--genes", "nothing", "genes"),
        ("--key", "other", "other"),
        ("--seed", "-1", "seed"),
    ):
        yield (
            f"sample-counts {option} {value}",
            lambda f, o=option, v=value: ["sample-counts", _result(f), "-o", f / "o.h5ad", o, v],
            says,
        )
    yield "demo --size 1", lambda f: ["demo", "-o", f / "o", "--size", "1"], "size"
    yield "demo --genes 0", lambda f: ["demo", "-o", f / "o", "--genes", "0"], "genes"
    yield "demo into a file", lambda f: ["demo", "-o", _touched(f / "file"), "--size", "8", "--genes", "5"], "file"


def _benchmark() -> Iterator[tuple[str, Words, str]]:
    yield "nothing", lambda f: [], "--table"
    yield "--table 9", lambda f: ["--table", "9", "--out", f / "o"], "--table"
    yield "no data", lambda f: ["--table", "1", "--out", f / "o", "--data", f], "no measured series"
    yield "data that are not there", lambda f: ["--table", "1", "--out", f / "o", "--data", f / "x"], "x"
    yield "data that are a file", lambda f: ["--table", "1", "--out", f / "o", "--data", _touched(f / "x")], "x"
    for option, value, says in (
        ("--methods", "nothing", "nothing"),
        ("--seeds", "0", "seeds"),
        ("--slices", "0", "slices"),
        ("--n-genes", "0", "n-genes"),
        ("--steps", "0", "steps"),
        ("--slices", "9", "slices|hide"),
        ("--seeds", "three", "--seeds"),
        ("--device", "gpu", "device"),
        ("--folds", "section", "--folds"),
    ):
        yield (
            f"--quick {option} {value}",
            lambda f, o=option, v=value: [
                "--table",
                "1",
                "--quick",
                "--out",
                f / "o",
                *([] if o == "--methods" else ["--methods", "copy"]),
                o,
                v,
            ],
            says,
        )
    yield (
        "--out that is a file",
        lambda f: ["--table", "1", "--quick", "--methods", "copy", "--out", _touched(f / "file")],
        "file",
    )
    yield (
        "--out below a file",
        lambda f: ["--table", "1", "--quick", "--methods", "copy", "--out", _touched(f / "file") / "o"],
        "file",
    )
    yield (
        "--out in a folder not written into",
        lambda f: ["--table", "1", "--quick", "--methods", "copy", "--out", "/proc/o"],
        "/proc/o",
    )
