"""The family of damaged files: sections, streamed results, checkpoints and the state of a training."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

import c2sti
from c2sti.cli import _files
from c2sti.training import TrainingState
from scripts.fuzz.pairs import TINY
from scripts.fuzz.promises import Nonsense, check

KINDS = {"a.h5ad": 0.3, "a.zarr": 0.25, "made.zarr": 0.15, "model": 0.2, "state": 0.1}
SETTINGS = {"seed": 0, "steps": 2}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with some bytes flipped, zeroed, missing or at the end too many."""
    broken = bytearray(content)
    match rng.choice(["flip", "flips", "cut", "zeros", "more", "gone"]):
        case "flip":
            broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
        case "flips":
            for place in rng.integers(len(broken), size=20):
                broken[place] = int(rng.integers(256))
        case "cut":
            del broken[int(rng.integers(len(broken))) :]
        case "zeros":
            first = int(rng.integers(len(broken)))
            broken[first : first + 64] = bytes(len(broken[first : first + 64]))
        case "more":
            broken += rng.bytes(int(rng.integers(1, 100)))
        case "gone":
            broken = bytearray()
    return bytes(broken)


def whole(folder: Path) -> Path:
    """One of each kind, written once."""
    path = folder / "whole"
    if not path.exists():
        path.mkdir()
        a, b = c2sti.datasets.phantom(seed=0, size=6, n_genes=12).series([0.0, 100.0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries to their developers, at every write
            a.write_h5ad(path / "a.h5ad")
            a.write_zarr(path / "a.zarr")
            quiet = {"on_misfit": "ignore", "show_progress_bar": False}
            c2sti.tl.interpolate(a, b, model="linear", out=path / "made.zarr", **quiet)
        TINY.save(path / "model")
        network, optimiser = _learning()
        TrainingState(path / "state", SETTINGS).save(network, optimiser, 1)
    return path


def _learning() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A small network after one step, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Linear(5, 3)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network(torch.ones(1, 5)).square().sum().backward()
    optimiser.step()
    return network, optimiser


def files(rng: np.random.Generator, folder: Path) -> str:
    """One file of one of them damaged, read and used."""
    kept, work = whole(folder), Path(tempfile.mkdtemp(dir=folder))
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    every = [kept / kind] if kind == "a.h5ad" else sorted(p for p in (kept / kind).rglob("*") if p.is_file())
    chosen = every[int(rng.integers(len(every)))]
    for path in every:
        target = work / path.relative_to(kept)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(damaged(path.read_bytes(), rng) if path == chosen else path.read_bytes())
    try:
        return READERS[kind](work / kind, kept / kind)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _section(path: Path, kept: Path) -> str:
    section, original = _files.read(path), _files.read(kept)
    given = {"model": "linear", "on_misfit": "ignore", "show_progress_bar": False}
    check(c2sti.tl.interpolate(section, original, **given), {"n_slices": 1})
    same = (section.X != original.X).nnz == 0 and (section.obsm["spatial"] == original.obsm["spatial"]).all()
    return "undamaged" if same and list(section.var_names) == list(original.var_names) else "altered"


def _result(path: Path, kept: Path) -> str:
    found, original = _files.read(path), _files.read(kept)
    text = c2sti.tl.describe(found)
    same = np.array_equal(found.layers["c2sti_1"], original.layers["c2sti_1"])
    return "undamaged" if same and text == c2sti.tl.describe(original) else "altered"


def _model(path: Path, kept: Path) -> str:
    found = c2sti.C2STi.load(path)
    if found.config != TINY.config or found.fingerprint() != TINY.fingerprint():
        raise Nonsense("another model was loaded without a word")
    return "undamaged"


def _state(path: Path, kept: Path) -> str:
    network, (wanted, _) = torch.nn.Linear(5, 3), _learning()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    step = TrainingState(path, SETTINGS).restore(network, optimiser)
    if step != 1 or not all(map(torch.equal, network.parameters(), wanted.parameters())):
        raise Nonsense("another state was taken up without a word")
    return "undamaged"


READERS = {"a.h5ad": _section, "a.zarr": _section, "made.zarr": _result, "model": _model, "state": _state}
