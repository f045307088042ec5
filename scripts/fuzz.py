"""Give c2sti odd sections and damaged files for some minutes, and count what comes of it.

    python scripts/fuzz.py --minutes 2 --seed 0                 a table on stdout, what is wrong on stderr
    python scripts/fuzz.py --case sections 1234                 one case again, with its traceback

Each case is drawn from its number alone. Outcomes: *correct*: a result that keeps its promises (finite, not negative,
the right shape, and the same where the input is the same up to order, unit, direction or a turn); *named*: an error of
our own that says what was found; *undamaged* and *altered*: a damaged file that reads as before, or as other data that
are well formed (HDF5 keeps no checksums, so an altered count is a count). These are right. Wrong are *foreign*: an
error from inside another library; *nonsense*: a promise broken; *crash*: the process died or hung. Then the tool ends
with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import zarr  # noqa: F401 - here, so that a fork has it

import c2sti
from c2sti.cli import _files

PACKAGE = str(Path(c2sti.__file__).parent)
NAMED = (ValueError, KeyError, TypeError, OSError)
TINY = c2sti.C2STi(c2sti.C2STiConfig(channels=4, n_programmes=6, n_splits=0, panel=8))
MODELS: list[Any] = ["copy", "linear", "lowrank", "gp", TINY]
WRONG = ("foreign", "nonsense", "crash")
OUTCOMES = ("correct", "named", "undamaged", "altered", *WRONG)
PATIENCE = 60  # seconds that one damaged file may take


class Nonsense(Exception):
    """A result that breaks a promise."""


# -- sections


def places(rng: np.random.Generator) -> np.ndarray:
    """(n, 2) spots in some layout, of unit pitch."""
    side = int(rng.integers(5, 7))
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(side), np.arange(side)))
    kind = rng.choice(["square", "hex", "cells", "jittered", "holes", "line", "doubled", "point", "few"], p=ODDS)
    if kind == "hex":
        x, y = x + 0.5 * (y % 2), y * np.sqrt(3) / 2
    if kind == "cells":
        x, y = rng.uniform(0, side, (2, side * side))
    if kind == "jittered":
        x, y = x + rng.normal(0, 0.05, len(x)), y + rng.normal(0, 0.05, len(y))
    xy = np.column_stack([x, y])
    if kind == "holes":
        xy = xy[rng.random(len(xy)) < 0.85]
    if kind == "line":
        xy = np.column_stack([np.arange(25.0), np.zeros(25)])
    if kind == "doubled":
        xy = np.concatenate([xy, xy[:5]])
    if kind == "point":
        xy = np.zeros((25, 2))
    return xy[: int(rng.integers(1, 22))] if kind == "few" else xy


ODDS = [0.3, 0.15, 0.15, 0.15, 0.1, 0.05, 0.06, 0.02, 0.02]


def expression(xy: np.ndarray, n_genes: int, whole: bool, rng: np.random.Generator) -> np.ndarray:
    """(n, N) smooth patterns with noise: counts, or logarithms."""
    phase, tilt = rng.uniform(0, 6, n_genes), rng.normal(0, 0.6, (2, n_genes))
    mean = np.exp(1 + np.sin(xy @ tilt + phase)) * 10.0 ** rng.uniform(-1, 1.5)
    counts = rng.poisson(mean).astype(float)
    return counts if whole else np.log1p(counts + rng.random(counts.shape))


def spoiled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same with something odd in it, now and then."""
    i, j = (int(rng.integers(n)) for n in values.shape)
    match rng.choice(["no", "nan", "inf", "negative", "empty gene", "empty spot", "empty", "flat", "huge"], p=SPOILT):
        case "nan":
            values[i, j] = np.nan
        case "inf":
            values[i, j] = np.inf
        case "negative":
            values[i, j] = -1
        case "empty gene":
            values[:, j] = 0
        case "empty spot":
            values[i] = 0
        case "empty":
            values[:] = 0
        case "flat":
            values[:] = 1
        case "huge":
            values = np.rint(values * 1e6)
    return values


SPOILT = [0.72, 0.01, 0.01, 0.01, 0.05, 0.05, 0.05, 0.05, 0.05]
FORMS: list[Callable[[np.ndarray], Any]] = [
    np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array,
]  # fmt: skip


def stored(values: np.ndarray, rng: np.random.Generator) -> Any:
    """The values in some container and number format that holds them."""
    whole = np.isfinite(values).all() and (values == np.rint(values)).all() and values.min(initial=0) >= 0
    kinds = ["f4", "f8", "i4", "i8", "u4"] if whole else ["f4", "f8"]
    return FORMS[int(rng.integers(len(FORMS)))](values.astype(rng.choice(kinds)))


def pair(rng: np.random.Generator) -> tuple[ad.AnnData, ad.AnnData]:
    """Two sections, mostly of one tissue."""
    xy, n_genes = places(rng), int(rng.choice([1, 2, 10, 12], p=[0.05, 0.05, 0.6, 0.3]))
    other = xy.copy() if rng.random() < 0.7 else places(rng)
    seed = int(rng.integers(2**31))
    unit, shift = 10.0 ** rng.choice([0, 0, 2, -3, -8, 8]), rng.choice([0, 0, 1e3, -1e6])
    names = [f"g{i}" for i in range(n_genes)]
    made, whole = [], rng.random() < 0.5
    for where in (xy, other):
        values = spoiled(expression(where, n_genes, whole, np.random.default_rng(seed)), rng)
        order = rng.permutation(n_genes)
        var = pd.DataFrame(index=[names[i] for i in order])
        if rng.random() < 0.03:
            var.index = ["g0"] * n_genes
        points = (where + shift) * unit
        points = points.astype("f4") if rng.random() < 0.2 else points
        made.append(ad.AnnData(stored(values[:, order], rng), var=var, obsm={"spatial": points}))
    return made[0], made[1]


def options(rng: np.random.Generator, a: ad.AnnData) -> dict[str, Any]:
    """How to insert."""
    given: dict[str, Any] = {"model": MODELS[int(rng.integers(len(MODELS)))], "on_misfit": "ignore"}
    if rng.random() < 0.2:
        given["positions"] = rng.uniform(-0.05, 1.05, int(rng.integers(1, 3))).tolist()
    else:
        given["n_slices"] = int(rng.integers(0 if rng.random() < 0.1 else 1, 4))
    if rng.random() < 0.15:
        at = np.asarray(a.obsm["spatial"], dtype=float)
        given["at"] = at[: int(rng.integers(0, len(at)))] + rng.choice([0, 1e9])
    if rng.random() < 0.15:
        given["pitch"] = float(rng.choice([0.5, 1.0, 2.0, 3.0, 0.0, -1.0, 1e-12, np.nan, np.inf]))
    if rng.random() < 0.15:
        given["genes"] = list(rng.choice([*a.var_names, "unknown"], int(rng.integers(0, 3))))
    given["std"], given["interval"] = bool(rng.random() < 0.2), float(rng.choice([0, 0.5, 0.9])) or None
    return given


def sections(rng: np.random.Generator, folder: Path) -> str:
    """An odd pair: a result that keeps its promises, or an error of ours."""
    a, b = pair(rng)
    given = options(rng, a)
    out = c2sti.tl.interpolate(a, b, **given, show_progress_bar=False)
    check(out, given)
    if "at" not in given and "pitch" not in given and "genes" not in given:
        relate(out, a, b, given, rng)
    return "correct"


def check(out: ad.AnnData, given: dict[str, Any]) -> None:
    """What every result promises."""
    wanted = len(given["positions"]) if "positions" in given else given["n_slices"]
    record = out.uns["c2sti"]
    if not record["synthetic"] or len(record["inserted"]) != wanted or out.n_obs == 0:
        raise Nonsense(f"{len(record['inserted'])} sections of {wanted}, {out.n_obs} rows")
    for name in record["inserted"]:
        kinds = [str(name), *(f"{name}_{k}" for k in ("std", "lower", "upper") if f"{name}_{k}" in out.layers)]
        for kind in kinds:
            values = out.layers[kind]
            if values.shape != out.shape or values.dtype != np.float32:
                raise Nonsense(f"{kind} has shape {values.shape} and {values.dtype}")
            if not np.isfinite(values).all() or values.min(initial=0) < 0:
                raise Nonsense(f"{kind} is not finite or negative")


def relate(out: ad.AnnData, a: ad.AnnData, b: ad.AnnData, given: dict[str, Any], rng: np.random.Generator) -> None:
    """What must not make a difference: order of genes and spots, unit, a turn by 90°, which section comes first."""
    given = given | {"std": False, "interval": None}
    names = [str(n) for n in out.uns["c2sti"]["inserted"]]
    # Half-way, and between two spots as near, copying takes the first.
    kind = str(
        rng.choice(["genes", "unit"] if given["model"] == "copy" else ["genes", "spots", "unit", "turn", "swap"])
    )
    a, b = a.copy(), b.copy()
    xy = np.asarray(out.obsm["spatial"])
    match kind:
        case "genes":
            a, b = (s[:, rng.permutation(s.n_vars)].copy() for s in (a, b))
        case "spots":
            a, b = (s[rng.permutation(s.n_obs)].copy() for s in (a, b))
        case "unit":
            for s in (a, b):
                s.obsm["spatial"] = s.obsm["spatial"] * 4  # a power of two: rounding stays the same
            xy = xy * 4
        case "turn":
            for s in (a, b):
                s.obsm["spatial"] = np.column_stack([-s.obsm["spatial"][:, 1], s.obsm["spatial"][:, 0]])
            xy = np.column_stack([-xy[:, 1], xy[:, 0]])
        case "swap":
            a, b = b, a
            if "positions" in given:
                given["positions"] = [1 - p for p in given["positions"]][::-1]
            names = names[::-1]
    new = c2sti.tl.interpolate(a, b, **given, show_progress_bar=False)
    pitch = float(out.uns["c2sti"]["lattice"]["pitch"])
    distance, row = _matched(np.asarray(new.obsm["spatial"]), xy)
    if len(new) != len(out) or distance.max() > 1e-3 * pitch:
        if kind == "turn":  # irregular points leave more than one lattice to be chosen
            return
        raise Nonsense(f"{kind}: {len(new)} rows instead of {len(out)}, {distance.max() / pitch:.2g} bins apart")
    for was, now in zip(names, [str(n) for n in new.uns["c2sti"]["inserted"]], strict=True):
        column = new.var_names.get_indexer(out.var_names)
        one, other = out.layers[was], new.layers[now][row][:, column]
        apart = float(np.abs(one - other).max(initial=0)) / max(float(np.abs(one).max(initial=0)), 1e-6)
        if apart > CLOSE:
            raise Nonsense(f"{kind}: {was} differs by {apart:.2g} of its largest value")


CLOSE = 0.02  # of the largest value; optimisers stop a little elsewhere when sums come in another order


def _matched(points: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wanted point, how far the nearest is and which."""
    distance = np.sqrt(np.square(wanted[:, None] - points[None]).sum(axis=-1))
    row = distance.argmin(axis=1)
    return distance[np.arange(len(wanted)), row], row


# -- files


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


def _whole(folder: Path) -> Path:
    """Sections and a checkpoint, written once."""
    whole = folder / "whole"
    if not whole.exists():
        whole.mkdir()
        (section,) = c2sti.datasets.phantom(seed=0, size=6, n_genes=12).series([0.0])
        section.write_h5ad(whole / "a.h5ad")
        section.write_zarr(whole / "a.zarr")
        TINY.save(whole / "model")
    return whole


def files(rng: np.random.Generator, folder: Path) -> str:
    """A damaged section file, read and used, or a damaged checkpoint, loaded; in another process."""
    whole, work = _whole(folder), Path(tempfile.mkdtemp(dir=folder))
    kind = str(rng.choice(["a.h5ad", "a.zarr", "model"]))
    every = [whole / kind] if kind == "a.h5ad" else sorted(p for p in (whole / kind).rglob("*") if p.is_file())
    chosen = every[int(rng.integers(len(every)))]
    for path in every:
        target = work / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(damaged(path.read_bytes(), rng) if path == chosen else path.read_bytes())
    return read(work / kind, whole / kind)


def read(path: Path, whole: Path) -> str:
    """What comes of reading a file that may be damaged."""
    if path.name == "model":
        found = c2sti.C2STi.load(path)
        if found.config != TINY.config or found.fingerprint() != TINY.fingerprint():
            raise Nonsense("another model was loaded without a word")
        return "undamaged"
    section, original = _files.read(path), _files.read(whole)
    given = {"model": "linear", "on_misfit": "ignore", "show_progress_bar": False}
    out = c2sti.tl.interpolate(section, original, **given)
    check(out, {"n_slices": 1})
    same = (section.X != original.X).nnz == 0 and (section.obsm["spatial"] == original.obsm["spatial"]).all()
    return "undamaged" if same and list(section.var_names) == list(original.var_names) else "altered"


# -- the driver

FAMILIES = {"sections": sections, "files": files}


def outcome(family: str, number: int, folder: Path) -> tuple[str, str]:
    """What comes of one case, and in words."""
    rng = np.random.default_rng([list(FAMILIES).index(family), number])
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = FAMILIES[family](rng, folder)
        numeric = [str(w.message) for w in said if issubclass(w.category, RuntimeWarning)]
        return ("nonsense", f"with a warning: {numeric[0]}") if numeric else (result, "")
    except Nonsense as broken:
        return "nonsense", str(broken)
    except Exception as error:  # noqa: BLE001 - sorting them is what this is for
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = last.filename.startswith(PACKAGE) and str(last.line).startswith("raise") and isinstance(error, NAMED)
        text = f"{type(error).__name__}: {str(error)[:200]} ({last.filename.rpartition('/')[2]}:{last.lineno})"
        return "named" if ours else "foreign", text


def guarded(family: str, number: int, folder: Path) -> tuple[str, str]:
    """The same in another process, which may die or hang."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        os.write(outlet, "\0".join(outcome(family, number, folder)).encode()[:4000])
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    kind, _, text = told.partition("\0")
    return (kind, text) if told else ("crash", f"the process ended with {status}")


def fuzz(
    seconds: float, seed: int, folder: Path, cases: float = float("inf")
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Run cases for some seconds, at most so many of a family; counts by outcome, and all that is wrong."""
    counts: dict[str, Counter[str]] = {family: Counter() for family in FAMILIES}
    wrong: list[str] = []
    first = number = seed * 1_000_000
    end = time.monotonic() + seconds
    _whole(folder)
    while time.monotonic() < end and number - first < cases:
        for family in FAMILIES:
            run = guarded if family == "files" else outcome
            kind, text = run(family, number, folder)
            counts[family][kind] += 1
            if kind in WRONG:
                wrong.append(f"--case {family} {number}: {kind}: {text}")
        number += 1
    return counts, wrong


def main() -> int:
    """Read the command line, run, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", nargs=2, metavar=("FAMILY", "NUMBER"), help="one case again")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder:
        if given.case:
            family, number = given.case[0], int(given.case[1])
            rng = np.random.default_rng([list(FAMILIES).index(family), number])
            print(FAMILIES[family](rng, Path(folder)))
            return 0
        counts, wrong = fuzz(60 * given.minutes, given.seed, Path(folder))
    print("| cases | " + " | ".join(OUTCOMES) + " |\n|" + " --- |" * (len(OUTCOMES) + 1))
    for family, found in counts.items():
        print(f"| {family} | " + " | ".join(str(found[kind]) for kind in OUTCOMES) + " |")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
