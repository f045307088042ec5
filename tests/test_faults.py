"""What happens to software: wrong calls, killed processes, full disks, folders that may not be written into."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import resource
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData

import c2sti
from c2sti import _atomic
from c2sti.benchmark import _networks
from c2sti.benchmark.__main__ import main as benchmark
from c2sti.cli import _files, main
from c2sti.training import OtherRun, TrainingState
from tests.wrong_calls import PARTS, Wrong

CONFIG = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=0)
PACKAGE = Path(c2sti.__file__).parent


@pytest.fixture
def sections(pair: tuple[AnnData, AnnData], tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    for name, section in zip("ab", pair, strict=True):
        section.write_h5ad(folder / f"{name}.h5ad")
    return folder


def interpolate(sections: Path, out: Path) -> int:
    words = [str(sections / "a.h5ad"), str(sections / "b.h5ad"), "--model", "linear", "--quiet", "--force"]
    return main(["interpolate", *words, "-o", str(out)])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def full_disk(at: int) -> Iterator[None]:
    """No file grows beyond this many bytes, whoever writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- wrong calls


def fault(wrong: Wrong, folder: Path) -> str | None:
    """What is wrong with the error of a wrong call: it has to be one that c2sti raises, and to say what is asked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = wrong.call(folder)
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        said = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not (Path(last.filename).is_relative_to(PACKAGE) and str(last.line).startswith("raise")):
            return f"an error of a library: {said[:200]} ({last.filename}:{last.lineno})"
        missing = [word for word in wrong.says if not re.search(word, said)]
        return f"{said[:300]!r} lacks {missing}" if missing else None
    return f"accepted: {answer!r:.100}"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__.strip("_"))
def test_every_wrong_call_is_refused_by_name(part: Callable[[], Iterator[Wrong]], tmp_path: Path) -> None:
    faults = []
    for number, wrong in enumerate(part()):
        (folder := tmp_path / str(number)).mkdir()
        faults.append((wrong.of, wrong.what, fault(wrong, folder)))
    assert faults
    assert [found for found in faults if found[-1] is not None] == []


COMMANDS = [
    (main, "interpolate {a} {b} -o {out}.h5ad -n 0", "n_slices"),
    (main, "interpolate {a} {b} -o {out}.h5ad --model nothing", "nothing"),
    (main, "interpolate {a} -o {out}.h5ad", "--library-key"),
    (main, "interpolate {a} {b} -o {out}.h5ad --device gpu", "device"),
    (main, "interpolate {a} {b} -o /proc/o.h5ad", "/proc/o.h5ad"),
    (main, "align {a} -o {out}", "at least two|1 section"),
    (main, "evaluate {a} {b}", "too few"),
    (main, "train {a} {b} -o {out}", "3 or more"),
    (main, "describe {a}", r"uns\['c2sti'\]"),
    (main, "sample-counts {a} -o {out}.h5ad", r"uns\['c2sti'\]"),
    (main, "demo -o {out} --size 1", "size"),
    (benchmark, "--table 9 --out {out}", "--table"),
    (benchmark, "--table 1 --quick --out {out} --methods nothing", "nothing"),
    (benchmark, "--table 1 --quick --out {out} --methods copy --seeds 0", "seeds"),
    (benchmark, "--table 1 --quick --out {out} --methods copy --n-genes 0", "n-genes"),
    (benchmark, "--table 1 --quick --out {out} --methods copy --device gpu", "device"),
    (benchmark, "--table 1 --quick --out {a}/o --methods copy", "a.h5ad"),
]


def test_wrong_words_of_a_command_are_refused_by_name(
    sections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"a": sections / "a.h5ad", "b": sections / "b.h5ad", "out": tmp_path / "out"}
    faults = []
    for command, words, says in COMMANDS:
        try:
            code: object = command([word.format(**paths) for word in words.split()])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr().err
        if code not in (1, 2) or "Traceback" in said or not re.search(says, said.splitlines()[-1]):
            faults.append((words, code, said))
    assert faults == []


# -- full disks


def aside(work: Callable[[], int]) -> int:
    """What work gives back in another process: HDF5 may crash as one ends in which it could not write."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("kind", [".h5ad", ".zarr"])
def test_a_full_disk_is_named_and_leaves_what_was_there(
    kind: str, sections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / f"made{kind}"
    assert interpolate(sections, out) == 0
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    capsys.readouterr()
    line = f"c2sti: {out} could not be written (File too large); nothing of it was kept"

    def again() -> int:
        with full_disk(at=300):
            code = interpolate(sections, out)
        return code if line in capsys.readouterr().err else 98

    assert (aside(again) if kind == ".h5ad" else again()) == 1
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before


def test_the_exit_code_is_that_of_the_refusal_and_not_of_a_crash_of_hdf5(sections: Path, tmp_path: Path) -> None:
    words = [str(sections / "a.h5ad"), str(sections / "b.h5ad"), "--model", "linear", "--quiet"]
    ran = subprocess.run(
        [sys.executable, "-m", "c2sti", "interpolate", *words, "-o", str(tmp_path / "made.h5ad")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY)),
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith(
        "made.h5ad could not be written (File too large); nothing of it was kept"
    )
    assert left(tmp_path) == ["given"]


def test_room_is_looked_for_before_hdf5_writes(
    pair: tuple[AnnData, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, used, free = 10**9, 10**9 - 1000, 1000
    monkeypatch.setattr(_files.shutil, "disk_usage", lambda folder: _Usage(total, used, free))
    monkeypatch.setattr(_files, "write_compact", lambda *a: pytest.fail("it was written"))
    with pytest.raises(OSError, match=r"a\.h5ad could not be written \(it needs about \d MB, 0 MB are free\); nothing"):
        _files.write(pair[0], tmp_path / "a.h5ad")
    assert left(tmp_path) == []


@dataclasses.dataclass
class _Usage:
    total: int
    used: int
    free: int


def test_an_error_of_ours_is_not_taken_for_a_full_disk(pair: tuple[AnnData, AnnData], tmp_path: Path) -> None:
    pair[0].uns["x"] = object()
    with pytest.raises(Exception, match="No method registered for writing"):
        _files.write(pair[0], tmp_path / "a.h5ad")
    assert left(tmp_path) == []


def test_a_complaint_of_a_library_is_passed_on(
    pair: tuple[AnnData, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(section: AnnData, path: Path) -> None:
        raise RuntimeError("unable to create dataset (name already exists)")

    monkeypatch.setattr(_files, "write_compact", odd)
    with pytest.raises(RuntimeError, match="^unable to create dataset"):
        _files.write(pair[0], tmp_path / "a.h5ad")
    assert left(tmp_path) == []


def test_a_checkpoint_on_a_full_disk_leaves_the_one_that_was_there(tmp_path: Path) -> None:
    model = c2sti.C2STi(CONFIG)
    model.save(tmp_path, overwrite=True)
    with torch.no_grad():
        next(model.network.parameters()).add_(1)
    other = model.fingerprint()
    with full_disk(at=1000), pytest.raises(OSError, match="File too large"):
        model.save(tmp_path, overwrite=True)
    assert left(tmp_path) == ["config.json", "model.safetensors"]
    assert c2sti.C2STi.load(tmp_path).fingerprint() != other


def test_a_table_on_a_full_disk_is_the_one_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    _atomic.put(path, b"a\n1\n")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        _atomic.put(path, b"b\n2\n")
    assert path.read_text() == "a\n1\n"
    assert left(tmp_path) == ["table.csv"]


# -- folders that may not be written into


def test_a_folder_that_may_not_be_written_into(
    sections: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a made error: whoever runs the tests may be allowed everything."""

    def refuse(*given: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    out = tmp_path / "out.h5ad"
    monkeypatch.setattr(_files, "write_compact", refuse)
    assert interpolate(sections, out) == 1
    assert f"{out} could not be written (Permission denied); nothing of it was kept" in capsys.readouterr().err
    assert left(tmp_path) == ["given"]


def test_a_result_below_a_file(sections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert interpolate(sections, tmp_path / "file" / "out.h5ad") == 1
    assert "file is a file and no folder; name another place" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


# -- killed processes


def killed_before(event: str, number: int, work: Callable[[], object]) -> None:
    """Do the work in another process, which is killed right before the file event of that kind and number."""
    seen = 0

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if name == event:  # the kill is an event too
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)  # for as long as the process lives
        try:
            work()
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_checkpoint_killed_between_its_files_is_refused_by_name(tmp_path: Path) -> None:
    model = c2sti.C2STi(CONFIG)
    model.save(tmp_path, overwrite=True)
    with torch.no_grad():
        next(model.network.parameters()).add_(1)
    killed_before("os.rename", 1, lambda: model.save(tmp_path, overwrite=True))
    assert c2sti.C2STi.load(tmp_path).fingerprint() != model.fingerprint()  # the one of before
    killed_before("os.rename", 2, lambda: model.save(tmp_path, overwrite=True))
    with pytest.raises(ValueError, match=r"does not belong to its config\.json: the hashes differ"):
        c2sti.C2STi.load(tmp_path)
    model.save(tmp_path, overwrite=True)
    assert c2sti.C2STi.load(tmp_path).fingerprint() == model.fingerprint()


def test_a_new_checkpoint_killed_between_its_files_is_none(tmp_path: Path) -> None:
    killed_before("os.rename", 2, lambda: c2sti.C2STi(CONFIG).save(tmp_path, overwrite=True))
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        c2sti.C2STi.load(tmp_path)


# -- the state of a training


def state(folder: Path, **settings: object) -> tuple[TrainingState, torch.nn.Module, torch.optim.Optimizer]:
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    torch.random.set_rng_state(torch_state)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return TrainingState(folder, {"how": {"steps": 4}, **settings}), network, optimiser


def test_every_flipped_byte_of_a_state_is_found(tmp_path: Path) -> None:
    keep, network, optimiser = state(tmp_path)
    keep.save(network, optimiser, 3)
    path = tmp_path / "training.safetensors"
    whole = path.read_bytes()
    assert keep.restore(network, optimiser) == 3
    weights = [p.detach().clone() for p in network.parameters()]
    rng, found = np.random.default_rng(0), 0
    for place in rng.choice(len(whole), 40, replace=False):
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(7))
        path.write_bytes(broken)
        try:
            assert keep.restore(network, optimiser) == 3  # or it makes no difference: blanks of the header, say
        except ValueError as error:
            assert str(path) in str(error)
            found += 1
        assert all(torch.equal(p, w) for p, w in zip(network.parameters(), weights, strict=True))
    assert found >= 38


def test_a_truncated_state_is_refused_by_name(tmp_path: Path) -> None:
    keep, network, optimiser = state(tmp_path)
    keep.save(network, optimiser, 3)
    path = tmp_path / "training.safetensors"
    whole = path.read_bytes()
    for length in (0, 5, 9, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"training\.safetensors cannot be read .*; remove it to begin anew"):
            keep.restore(network, optimiser)


def test_a_state_of_other_sections_is_refused_and_an_old_one_believed(tmp_path: Path) -> None:
    keep, network, optimiser = state(tmp_path, data="a")
    keep.save(network, optimiser, 3)
    with pytest.raises(OtherRun, match=r"\(data differs\); train into another folder, or remove it"):
        state(tmp_path, data="b")[0].restore(network, optimiser)
    state(tmp_path)[0].save(network, optimiser, 2)  # as they were before data were marked
    assert keep.restore(network, optimiser) == 2


def test_training_on_other_sections_does_not_go_on(series: list[AnnData], tmp_path: Path) -> None:
    how = c2sti.TrainConfig(steps=2, save_every=1, genes=10, panel=8)

    def train(sections: list[AnnData]) -> c2sti.C2STi:
        given = {"model": None, "config": CONFIG, "how": how, "folder": tmp_path, "n_genes": 40}
        return c2sti.tl.train(sections, show_progress_bar=False, **given)

    train(series[:3])
    with pytest.raises(ValueError, match=r"data differs"):
        train(series[1:])


def test_the_benchmark_begins_anew_when_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was stopped in the middle of a training, then called with other settings."""
    words = ["--table", "1", "--quick", "--seeds", "1", "--methods", "unet", "--device", "cpu", "--out", str(tmp_path)]
    folders = [tmp_path / "networks" / "unet" / fold / "0" / _networks.STATE for fold in "AB"]
    for folder in folders:
        keep, network, optimiser = state(folder)
        keep.save(network, optimiser, 1)
    assert benchmark([*words, "--steps", "1"]) == 1
    said = capsys.readouterr().err
    assert "(how differs); train into another folder, or remove it to begin anew; --force does so" in said
    assert benchmark([*words, "--steps", "1", "--force"]) == 0
    assert not any(folder.exists() for folder in folders)


# -- no other process is disturbed


def test_two_processes_do_not_write_into_one_another(tmp_path: Path) -> None:
    """What is written aside has a name of its own: runs of the benchmark may share a folder."""
    path = tmp_path / "x"
    (tmp_path / ".x.1.part").write_bytes(b"of another process")
    _atomic.put(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert (tmp_path / ".x.1.part").read_bytes() == b"of another process"
    assert left(tmp_path) == [".x.1.part", "x"]


def test_what_a_killed_command_left_does_not_stop_the_next(sections: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5ad"
    killed_before("os.rename", 1, lambda: interpolate(sections, out))
    assert not out.exists()
    (remains,) = [name for name in left(tmp_path) if name != "given"]
    assert remains.startswith(".out.")
    assert interpolate(sections, out) == 0
    assert ad.read_h5ad(out).uns["c2sti"]["synthetic"]


def folder(path: Path, content: str) -> None:
    """A folder with a file."""
    with _atomic.atomic_write(path) as part:
        part.mkdir()
        (part / "file").write_text(content)


@pytest.mark.parametrize(("number", "between"), [(1, "old"), (2, None)])
def test_a_folder_whose_replacement_was_killed_comes_back(
    number: int, between: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right before the old one is moved away it is there; before the new one takes its place, put back later."""
    said: list[str] = []
    monkeypatch.setattr(_atomic._logging, "warning", said.append)
    path = tmp_path / "sections.zarr"
    folder(path, "old")
    killed_before("os.rename", number, lambda: folder(path, "new"))
    assert ((path / "file").read_text() if path.exists() else None) == between
    with pytest.raises(RuntimeError), _atomic.atomic_write(path):
        assert (path / "file").read_text() == "old"
        raise RuntimeError
    assert said == [f"put {path} back, which a run that was killed had moved out of the way"] * (number - 1)
    assert left(tmp_path) == ["sections.zarr"]
    folder(path, "new")
    assert (path / "file").read_text() == "new"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "sections.zarr"
    folder(path, "old")
    with pytest.raises(FileNotFoundError), _atomic.atomic_write(path):
        pass  # nothing was written
    assert (path / "file").read_text() == "old"
    assert left(tmp_path) == ["sections.zarr"]
