"""Kill c2sti at random moments, and look at what it leaves behind.

    python scripts/kill_test.py                              15 kills of every target, a Markdown table on stdout
    python scripts/kill_test.py --kills 50 --seed 1 --targets train "interpolate .zarr"

Every target works in a folder of its own and is killed by SIGKILL, which nothing can catch. A third of the kills fall
anywhere in the run, a third where it writes, a third right before a file is opened, renamed or removed, where the gap
between two steps is. Then the folder is looked at: the result is there and is that of an undisturbed run, byte for
byte, or it is not there, or what it replaces still is. At last the same command is given again, and has to come to the
same bytes. Anything else counts as wrong, and the tool ends with exit code 1.

All runs are forks of one process that has imported everything, since imports take longer than the work.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import accelerate  # noqa: F401 - here, so that a fork has it
import anndata as ad
import kornia.filters  # noqa: F401
import numpy as np
import scanpy  # noqa: F401
import skimage.metrics  # noqa: F401
import spatialdata  # noqa: F401
import torch
import zarr  # noqa: F401

import c2sti
from c2sti import cli
from c2sti.benchmark.__main__ import main as benchmark
from c2sti.datasets import _published

TOUCHING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "shutil.move")  # and open, for writing
SMALL = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=0)
SHORT = c2sti.TrainConfig(steps=10, save_every=2, panel=8)
LAST = 8  # events
ODD = 250_007  # bytes of the file that is downloaded: no whole number of blocks


@dataclass(frozen=True)
class Target:
    """What is killed.

    Parameters
    ----------
    name
        In the table.
    run
        Works in a folder; called again there, it has to finish what was begun.
    result
        Bytes of what it makes in the folder, by path and without what may differ (seconds); empty where it is absent.
        Raises where something is there that cannot be read.
    prepare
        Puts into the folder what is there before.
    """

    name: str
    run: Callable[[Path], None]
    result: Callable[[Path], dict[str, str]]
    prepare: Callable[[Path], None] = lambda folder: None


class Wrong(Exception):
    """What must not be found after a kill."""


# -- what is killed


def _train(folder: Path, sections: list[ad.AnnData]) -> None:
    model = c2sti.tl.train(
        sections, model=None, config=SMALL, how=SHORT, folder=folder / "state", show_progress_bar=False
    )
    model.save(folder / "model")


def _model(folder: Path) -> dict[str, str]:
    path = folder / "model"
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        return {}  # no checkpoint for anything that reads one
    return {"weights": c2sti.C2STi.load(path).fingerprint()}


def _interpolate(folder: Path, given: Path, kind: str, *more: str) -> None:
    words = [str(given / "a.h5ad"), str(given / "b.h5ad"), "--model", "linear", "-n", "2", "--force", "--quiet", *more]
    _must(cli.main(["interpolate", *words, "-o", str(folder / f"out{kind}")]))


def _streamed(folder: Path, given: Path) -> None:
    _interpolate(folder, given, ".zarr", "--stream")


def _align(folder: Path, given: Path) -> None:
    _must(cli.main(["align", str(given / "a.h5ad"), str(given / "b.h5ad"), "--force", "-q", "-o", str(folder)]))


def _stored(folder: Path, *names: str) -> dict[str, str]:
    """Hashes of results, each of which must open."""
    found = {}
    for path in (folder / name for name in names):
        if path.exists():
            read = ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)
            assert read.n_obs
            found |= _hashes(path, folder)
    return found


def _benchmark(folder: Path) -> None:
    words = ["--table", "1", "--quick", "--seeds", "1", "--methods", "linear", "unet", "ifrnet", "--steps", "12"]
    _must(benchmark([*words, "--out", str(folder / "out")]))


def _tables(folder: Path) -> dict[str, str]:
    out, found = folder / "out", {}
    for name in ("table1.csv", "table1_cases.csv"):
        if (out / name).is_file():
            lines = [line.split(",") for line in (out / name).read_text().splitlines()]
            kept = [i for i, column in enumerate(lines[0]) if "seconds" not in column]
            found[name] = json.dumps([[line[i] for i in kept] for line in lines])
    if len(found) < 2 or not (out / "table1.md").is_file():
        return {}  # the run was not done
    for path in sorted(out.glob("networks/*/*/*/model.safetensors")):
        found |= _hashes(path, out)
    return found


def _fetch(folder: Path, content: bytes, port: int) -> None:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    source = _published.Source("r", "c", "made.bin", str(ODD), blob, hashlib.sha256(content).hexdigest())
    # There is no public way to name another server: the table of files is part of the package.
    _published.BASE_URL, _published.CACHE = f"http://127.0.0.1:{port}", folder
    _published.published = lambda: {"made.bin": source}
    assert _published.fetch("made.bin").read_bytes() == content


def _must(code: int) -> None:
    if code:
        raise Wrong(f"the command ended with {code}")


def _hashes(path: Path, folder: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class _Slow(http.server.BaseHTTPRequestHandler):
    """Serves one file in drops, so that a kill can fall between two."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may be dead
            for first in range(0, len(self.content), 4096):
                self.wfile.write(self.content[first : first + 4096])
                time.sleep(0.002)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _server(content: bytes) -> Iterator[int]:
    _Slow.content = content
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def targets(given: Path, port: int, content: bytes) -> list[Target]:
    """All targets; a new one is a line here."""
    sections = c2sti.datasets.phantom(seed=0, size=7, n_genes=24).series([0.0, 150.0, 300.0])
    made = []
    for kind in (".h5ad", ".zarr"):
        run = functools.partial(_interpolate, given=given, kind=kind)
        result = _results_of(f"out{kind}")
        made.append(Target(f"interpolate {kind}", run, result))
        made.append(Target(f"interpolate {kind}, replacing", run, result, _older(given, kind)))
    streamed = functools.partial(_streamed, given=given)
    return [
        *made,
        Target("interpolate streamed", streamed, _results_of("out.zarr")),
        Target("align", functools.partial(_align, given=given), _results_of("a.h5ad", "b.h5ad")),
        Target("train", functools.partial(_train, sections=sections), _model),
        Target("benchmark --quick", _benchmark, _tables),
        Target("download", functools.partial(_fetch, content=content, port=port), _downloaded),
    ]


def _downloaded(folder: Path) -> dict[str, str]:
    path = folder / "r" / "c" / "made.bin"
    return _hashes(path, folder) if path.exists() else {}


def _results_of(*names: str) -> Callable[[Path], dict[str, str]]:
    return lambda folder: _stored(folder, *names)


def _older(given: Path, kind: str) -> Callable[[Path], None]:
    """A result of before, which is replaced."""

    def prepare(folder: Path) -> None:
        section = ad.read_h5ad(given / "b.h5ad")
        (section.write_zarr if kind == ".zarr" else section.write_h5ad)(folder / f"out{kind}")

    return prepare


# -- how it is killed


def forked(work: Callable[[], object], log: Path) -> int:
    """Process id of a child that does the work, and ends with 0, or with 1 and a traceback in `log`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            warnings.simplefilter("ignore")
            work()
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is goes into the log
        with log.open("a") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(code)


def waited(child: int, log: Path) -> None:
    """Wait for a child that has to succeed."""
    if os.waitpid(child, 0)[1]:
        raise Wrong(log.read_text()[-2000:])


def count_events(what: Callable[[int], None]) -> None:
    """Call `what` before every event that touches a file, with its number; a hook stays until the process ends."""
    number = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in TOUCHING or writes:
            number += 1
            what(number)

    sys.addaudithook(hook)


@dataclass(frozen=True)
class Undisturbed:
    """What a run does that nobody kills."""

    seconds: float
    writing: float
    events: int
    result: dict[str, str]
    before: dict[str, str]


def undisturbed(target: Target, folder: Path) -> Undisturbed:
    """Run a target once, and measure it."""
    log, told, work = folder / "log", folder / "events", folder / "work"
    work.mkdir(parents=True)
    waited(forked(lambda: target.prepare(work), log), log)
    before = looked_at(target, work, log)

    def counted() -> None:
        last = 0

        def note(number: int) -> None:
            nonlocal last
            last = number

        count_events(note)
        target.run(work)
        with contextlib.suppress(OSError):
            told.write_text(str(last))

    there, start, first = names(work), time.perf_counter(), None
    child = forked(counted, log)
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if first is None and names(work) != there:
            first = time.perf_counter()
        time.sleep(0.001)
    end = time.perf_counter()
    if not told.is_file():
        raise Wrong(f"{target.name} fails by itself:\n{log.read_text()[-2000:]}")
    result = looked_at(target, work, log)
    return Undisturbed(end - start, end - (first or start), int(told.read_text()), result, before)


def names(folder: Path) -> set[str]:
    """What lies in a folder and one below."""
    found = set()
    for path in folder.iterdir():
        found |= {path.name} | ({f"{path.name}/{p}" for p in os.listdir(path)} if path.is_dir() else set())
    return found


def looked_at(target: Target, work: Path, log: Path) -> dict[str, str]:
    """The result in a folder, read by another process."""
    answer = log.with_name("answer")
    waited(forked(lambda: answer.write_text(json.dumps(target.result(work))), log), log)
    return json.loads(answer.read_text())


def kill(target: Target, work: Path, log: Path, how: str, calm: Undisturbed, rng: np.random.Generator) -> bool:
    """Run a target and kill it; whether it lived to be killed."""
    # Half of them among the last, where what was written aside is moved into place.
    event = int(rng.integers(max(1, calm.events - LAST) if rng.integers(2) else 1, calm.events + 1))
    after = float(rng.uniform(0, calm.seconds if how == "any time" else calm.writing))

    def run() -> None:
        if how == "at a file":
            count_events(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == event else None)
        target.run(work)

    there = names(work)
    child = forked(run, log)
    if how == "writing":
        while names(work) == there and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.001)
    if how != "at a file":
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    try:
        status = os.waitpid(child, 0)[1]
    except ChildProcessError:  # it was done, and has been waited for
        return False
    return os.WIFSIGNALED(status)


def outcome(target: Target, work: Path, log: Path, calm: Undisturbed) -> str:
    """What is found, in one word; the same command is given again and has to come to the same end."""
    found = looked_at(target, work, log)
    if found == calm.result:
        word = "whole"
    elif found == calm.before:
        word = "as before" if found else "absent"
    elif found and all(calm.result.get(k, calm.before.get(k)) == v for k, v in found.items()) and _apart(target):
        word = "some of them, each whole"
    else:
        raise Wrong(f"neither the result nor what was there before: {sorted(found)}")
    waited(forked(lambda: target.run(work), log), log)
    if looked_at(target, work, log) != calm.result:
        raise Wrong("the same command again came to another result")
    return word


def _apart(target: Target) -> bool:
    """Whether a target writes several files that are results each by itself."""
    return target.name == "align"


HOW = ("any time", "writing", "at a file")


def attack(target: Target, folder: Path, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Kill a target many times; counts of what was found, and what was wrong."""
    rng = np.random.default_rng([seed, *target.name.encode()])
    calm = undisturbed(target, folder / "calm")
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for i in range(kills):
        how, room = HOW[i % len(HOW)], folder / str(i)
        work, log = room / "work", room / "log"
        work.mkdir(parents=True)
        try:
            waited(forked(lambda work=work: target.prepare(work), log), log)  # type: ignore[misc]
            while not kill(target, work, log, how, calm, rng):
                shutil.rmtree(work)
                work.mkdir()
                waited(forked(lambda work=work: target.prepare(work), log), log)  # type: ignore[misc]
            counts["left"] += any(".part" in p.name or ".old" in p.name or "tmp" in p.name for p in work.rglob("*"))
            counts[outcome(target, work, log, calm)] += 1
        except Wrong as found:
            counts["wrong"] += 1
            wrong.append(f"{target.name}, kill {i} ({how}): {found}")
        shutil.rmtree(room)
        print(f"\r{target.name}: {i + 1} of {kills}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return counts, wrong


COLUMNS = ("whole", "absent", "as before", "some of them, each whole", "wrong", "left")
HEAD = ("killed", "kills", *COLUMNS[:-1], "remains beside it")


def main() -> int:
    """Read the command line, kill, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=15, help="of every target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="some only")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    content = np.random.default_rng(0).bytes(ODD)
    every: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kill_test.") as room, _server(content) as port:
        given = Path(room) / "given"
        given.mkdir()
        for name, section in zip(
            "ab", c2sti.datasets.phantom(seed=0, size=9, n_genes=40).series([0, 300]), strict=True
        ):
            section.write_h5ad(given / f"{name}.h5ad")
        print("| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
        for n, target in enumerate(targets(given, port, content)):
            if chosen.targets and target.name not in chosen.targets:
                continue
            counts, wrong = attack(target, Path(room) / str(n), chosen.kills, chosen.seed)
            every += wrong
            print(
                f"| {target.name} | {chosen.kills} | " + " | ".join(str(counts[c]) for c in COLUMNS) + " |", flush=True
            )
    for text in every:
        print(text, file=sys.stderr)
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
