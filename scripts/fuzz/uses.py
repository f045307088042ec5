"""What can be done with a result: every other public function takes it, and says the same of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import anndata as ad
import numpy as np
import zarr

import c2sti
from c2sti.io import _read
from scripts.fuzz.containers import CONTAINERS, handed
from scripts.fuzz.pairs import Case
from scripts.fuzz.promises import Nonsense, check, expected, inserted, whole
from scripts.fuzz.relations import CLOSE, EXACT

Use = Callable[[ad.AnnData, Case, np.random.Generator, Path], None]


def _same(what: str, one: np.ndarray, two: np.ndarray, tolerance: float = EXACT) -> None:
    """Two arrays, NaN in the same places."""
    if one.shape != two.shape:
        raise Nonsense(f"{what} has shape {two.shape} instead of {one.shape}")
    size = float(np.nanmax(np.abs(one), initial=0))
    if not np.allclose(one, two, rtol=tolerance, atol=tolerance * size, equal_nan=True):
        raise Nonsense(f"{what} differs by up to {np.nanmax(np.abs(one - two)):.2g}")


def stacked(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """`to_slices`: the rows of each section's tissue."""
    stack = c2sti.tl.to_slices(out)
    for name in out.uns["c2sti"]["sections"]:
        tissue = out.obs[f"{name}_tissue"].to_numpy()
        _same(f"to_slices: {name}", out.layers[name][tissue], np.asarray(stack[stack.obs["section"] == name].X))


def described(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """`describe`."""
    text = c2sti.tl.describe(out)
    if "computed, not measured" not in text or f"{out.n_obs} rows" not in text:
        raise Nonsense(f"describe: {text[:200]}")


def volume(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """`to_volume`: the values at the voxels of their bins."""
    if "at" in case.given or "positions" in case.given:
        return
    gap = None if "z_um" in case.a.obs else 100.0
    path = c2sti.tl.to_volume(out, folder / "genes.zarr", genes=[out.var_names[0]], gap=gap)
    written = zarr.open_group(str(path), mode="r")["s0" if (path / "s0").exists() else "0"][0]
    for i, name in enumerate(out.uns["c2sti"]["sections"]):
        values = out.layers[name][out.obs[f"{name}_tissue"].to_numpy(), 0]
        found = np.asarray(written[i])
        _same(f"to_volume: {name}", np.sort(values), np.sort(found[np.isfinite(found)]))


def evaluated(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """`evaluate`: a row a method, correlations within [-1, 1] or unknown."""
    series = [case.a.copy(), case.b.copy(), case.a.copy()]
    for i, section in enumerate(series):
        section.obs["z_um"] = 50.0 * i
    try:
        table = c2sti.tl.evaluate(series, methods=[case.given["model"]], show_progress_bar=False)
    except ValueError as error:
        if str(error).startswith("no gene is detected in"):  # nothing to score, which is no fault of sections
            return
        raise
    if not set(table["method"]) >= {"copy", "linear", "lowrank", "gp"} or (table["pcc"].abs() > 1 + 1e-6).any():
        raise Nonsense(f"evaluate: {table[['method', 'pcc']].to_dict('list')}")


def kept(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """Some rows and genes, written, read and described."""
    rows = np.sort(rng.permutation(out.n_obs)[: int(rng.integers(1, out.n_obs + 1))])
    genes = np.sort(rng.permutation(out.n_vars)[: int(rng.integers(1, out.n_vars + 1))])
    some = out[rows, genes].copy()
    path = folder / "some.h5ad"
    some.write_h5ad(path)
    found = ad.read_h5ad(path)
    for name in out.layers:
        if name is not None:
            _same(f"subset: {name}", out.layers[name][rows][:, genes], found.layers[name], 0.0)
    if f"{len(rows)} rows" not in c2sti.tl.describe(found):
        raise Nonsense(f"subset: {c2sti.tl.describe(found)[:200]}")


def converted(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """`to_spatialdata`: a table a section."""
    made = c2sti.tl.to_spatialdata(out)
    if sum(table.n_obs for table in made.tables.values()) != c2sti.tl.to_slices(out).n_obs:
        raise Nonsense(f"to_spatialdata: {made}")


def counted(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """`sample_counts`: whole numbers."""
    if not case.counts or case.model == "copy" or "at" in case.given:
        return
    try:
        drawn = c2sti.tl.sample_counts(out)
    except ValueError as error:
        if str(error).startswith("the measured neighbours cover"):  # too few rows to learn from
            return
        raise
    if drawn.X.data.min(initial=0) < 0 or (drawn.X.data != np.rint(drawn.X.data)).any():
        raise Nonsense("sample_counts: no counts")


def streamed(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """`out=`: the same in a store."""
    new = c2sti.tl.interpolate(case.a, case.b, **case.given, out=folder / "made.zarr")
    check(new, case.given)
    _same("out=: rows", np.asarray(out.obsm["spatial"]), np.asarray(new.obsm["spatial"]), 0.0)
    for name in [*out.uns["c2sti"]["sections"], *(f"{n}_{k}" for n in inserted(out) for k in expected(case.given))]:
        _same(f"out=: {name}", whole(out.layers[name]), whole(new.layers[name]), CLOSE if "er" in name[-3:] else EXACT)


def contained(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """The same sections in another container, read whole or block by block, give the same."""
    kind = str(rng.choice(CONTAINERS))
    a, b = (handed(s, kind, folder / name, rng) for s, name in ((case.a, "a"), (case.b, "b")))
    large = _read.LARGE if rng.random() < 0.5 else 0  # entries from which a matrix is left where it is
    with mock.patch.object(_read, "LARGE", large):
        new = c2sti.tl.interpolate(a, b, **case.given)
    tolerance = EXACT if case.model in ("copy", "linear") else CLOSE
    how = f"{kind}, {'whole' if large else 'by blocks'}"
    check(new, case.given)
    # A network describes what is left on disk by patches of tissue, which is another answer.
    described_alike = large or not case.network
    for name in out.uns["c2sti"]["sections"] if described_alike else ("slice_a", "slice_b"):
        _same(f"{how}: {name}", out.layers[name], whole(new.layers[name]), tolerance)
    if kind == "backed":
        for section in (a, b):
            section.file.close()


USES: dict[Use, float] = {
    stacked: 0.14, described: 0.05, volume: 0.14, evaluated: 0.1, kept: 0.15, converted: 0.08, counted: 0.1,
    streamed: 0.24,
}  # fmt: skip


def use(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """One of them."""
    chosen = list(USES)[int(rng.choice(len(USES), p=list(USES.values())))]
    _in_folder(chosen, out, case, rng, folder)


def contain(out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    """Another container."""
    _in_folder(contained, out, case, rng, folder)


def _in_folder(chosen: Use, out: ad.AnnData, case: Case, rng: np.random.Generator, folder: Path) -> None:
    work = Path(tempfile.mkdtemp(dir=folder))
    try:
        chosen(out, case, rng, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
