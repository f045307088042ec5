"""What data, checkpoints and downloads may not do: run code, leave their folder, call somebody, change unnoticed."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

import c2sti
from c2sti.datasets import _published

PACKAGE = Path(c2sti.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
RUNS_CODE = {"eval", "exec", "compile", "__import__"}  # as bare names: model.eval() is another thing
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "subprocess", "ctypes"}
ARCHIVES = {"zipfile", "tarfile"}  # a name in one may lead out of its folder: nothing of ours unpacks any


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls, by their dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def dangers(source: str) -> list[str]:
    """What in a source could run code that a file brings, or unpack it somewhere."""
    tree, found = ast.parse(source), []
    for name, call in calls(tree):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if name in RUNS_CODE or first in MODULES - {"pickle"} or name in ("pickle.load", "pickle.loads", "os.system"):
            found.append(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            found.append("np.load without allow_pickle=False")
        if last in ("unpack_archive", "extractall", "read_pickle", "to_pickle") or name == "torch.save":
            found.append(name)
        if given.get("allow_pickle") == "True":
            found.append(f"{name} with allow_pickle=True")
    for node in ast.walk(tree):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found += [m for m in modules if m.partition(".")[0] in (MODULES | ARCHIVES) - {"pickle"}]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_runs_code_that_a_file_brings(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)",
        "pickle.loads(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "import yaml\nyaml.load(x)",
        "from tarfile import open",
        "shutil.unpack_archive(f, d)",
        "os.system(x)",
        "pd.read_pickle(f)",
    ],
)
def test_the_rule_would_catch_it(source: str) -> None:
    assert dangers(source)


def test_pickle_is_named_for_its_error_alone() -> None:
    """``torch.load(weights_only=True)`` of somebody's ResNet-50 raises it; it is the one reading of a pickle."""
    users = [p for p in SOURCES if "pickle" in p.read_text(encoding="utf-8")]
    assert [p.name for p in users] == ["resnet.py"]
    tree = ast.parse(users[0].read_text(encoding="utf-8"))
    names = {
        ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "pickle"
    }
    assert names == {"pickle.UnpicklingError"}


# -- downloads stay in their folder


def test_published_files_lie_below_their_folder() -> None:
    for path, source in _published.published().items():
        for part in (path, source.repository, source.commit):
            pure = PurePosixPath(part)
            assert not pure.is_absolute()
            assert ".." not in pure.parts
        target = _published.CACHE / source.repository / source.commit / path
        assert target.resolve().is_relative_to(_published.CACHE.resolve())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C3/../../x"])
def test_names_of_sections_cannot_lead_anywhere(name: str, tmp_path: Path) -> None:
    known = c2sti.datasets
    for series in (known.her2st, known.stahl, known.developing_heart, known.dlpfc, known.starmap):
        with pytest.raises(ValueError, match="has no section"):
            series(name, data_dir=tmp_path)
    with pytest.raises(KeyError):
        _published.fetch(name)


# -- nobody is called

CODE = """
import socket, warnings
import sys
called = []
def refuse(*given, **named):
    called.append(given)
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
warnings.simplefilter("ignore")
import c2sti
series = c2sti.datasets.phantom(seed=0, size=8, n_genes=30).series([0.0, 150.0, 300.0])
out = c2sti.tl.interpolate(series[0], series[2], show_progress_bar=False)
c2sti.tl.evaluate(series, methods=["c2sti", "linear"], show_progress_bar=False)
c2sti.tl.to_slices(out)
c2sti.pp.align(series[0], series[1], copy=True)
out.write_h5ad(sys.argv[1])
print(len(called))
"""


def test_nothing_calls_anybody(tmp_path: Path) -> None:
    """Importing, inserting, judging, aligning, writing: without a network, and without asking for one."""
    given = [sys.executable, "-c", CODE, str(tmp_path / "out.h5ad")]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "0"


def test_the_block_would_be_felt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(_published, "CACHE", tmp_path)
    with pytest.raises(OSError, match="could not be had from https://raw"):
        c2sti.datasets.stahl(1)


# -- checkpoints change noticed or not at all

CONFIG = c2sti.C2STiConfig(channels=4, n_components=8, n_splits=0)


def flips(content: bytes, n: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for place in rng.choice(len(content), n, replace=False):
        broken = bytearray(content)
        broken[place] ^= 1 << int(rng.integers(8))
        yield bytes(broken)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_every_flipped_byte_of_a_checkpoint_is_found(name: str, tmp_path: Path) -> None:
    model = c2sti.C2STi(CONFIG, card={"series": ["made"], "steps": 300})
    model.save(tmp_path, overwrite=True)
    file, unnoticed = tmp_path / name, 0
    whole = file.read_bytes()
    for broken in flips(whole, 80):
        file.write_bytes(broken)
        try:
            found = c2sti.C2STi.load(tmp_path)
        except ValueError as error:
            assert str(tmp_path) in str(error)
        else:  # it makes no difference: an indent that became another kind of blank, say
            unnoticed += 1
            assert (found.config, found.card, found.fingerprint()) == (CONFIG, model.card, model.fingerprint())
    assert unnoticed <= 16


def test_a_checkpoint_of_before_hashes_is_read(tmp_path: Path) -> None:
    c2sti.C2STi(CONFIG).save(tmp_path, overwrite=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert len(settings.pop("sha256")) == 64
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert c2sti.C2STi.load(tmp_path).config == CONFIG


@pytest.mark.parametrize(("key", "value"), [("reach", 9.0), ("graph", False)])
def test_altered_settings_are_refused(key: str, value: object, tmp_path: Path) -> None:
    c2sti.C2STi(CONFIG).save(tmp_path, overwrite=True)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["config"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"config\.json was altered since it was written: its hash differs; copy the"):
        c2sti.C2STi.load(tmp_path)


def test_the_bundled_checkpoint_carries_its_hash() -> None:
    assert "sha256" in json.loads((PACKAGE / "weights" / "config.json").read_text())
    c2sti.C2STi.load(PACKAGE / "weights")
