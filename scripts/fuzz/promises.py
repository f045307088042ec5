"""What every result keeps, whatever it was made from."""

from __future__ import annotations

import pickle
from typing import Any

import anndata as ad
import numpy as np

NAMED = (ValueError, KeyError, TypeError, OSError)  # errors of ours are of these kinds


class Nonsense(Exception):
    """A result that breaks a promise."""


def inserted(out: ad.AnnData) -> list[str]:
    """Names of the interpolated sections."""
    return [str(name) for name in out.uns["c2sti"]["inserted"]]


def whole(layer: Any) -> np.ndarray:
    """A layer in memory, wherever it lies."""
    return np.asarray(layer.compute() if hasattr(layer, "compute") else layer)


def check(out: ad.AnnData, given: dict[str, Any]) -> None:
    """Shapes, number formats, finite values that are not negative, ordered ends of intervals."""
    wanted = len(given["positions"]) if "positions" in given else given["n_slices"]
    record, names = out.uns["c2sti"], inserted(out)
    if not record["synthetic"] or len(names) != wanted or out.n_obs == 0:
        raise Nonsense(f"{len(names)} sections of {wanted}, {out.n_obs} rows")
    if "at" in given and not np.array_equal(np.asarray(out.obsm["spatial"]), given["at"]):
        raise Nonsense("rows are not the points of at=")
    for name in names:
        kinds = [name, *(f"{name}_{kind}" for kind in expected(given))]
        for kind in kinds:
            values = whole(out.layers[kind])
            if values.shape != out.shape or values.dtype != np.float32:
                raise Nonsense(f"{kind} has shape {values.shape} and {values.dtype}")
            if not np.isfinite(values).all() or values.min(initial=0) < 0:
                raise Nonsense(f"{kind} is not finite or negative")
        if given.get("interval") and (whole(out.layers[f"{name}_lower"]) > whole(out.layers[f"{name}_upper"])).any():
            raise Nonsense(f"{name} has an interval whose lower end is the upper one")
    for name, side in (("slice_a", "b"), ("slice_b", "a")):
        known = np.isfinite(whole(out.layers[name])).all(axis=1)
        if "at" not in given and (known != (out.obs["support"] != side)).any():
            raise Nonsense(f"{name} is not known exactly where it has tissue")


def expected(given: dict[str, Any]) -> list[str]:
    """Further layers of each section that were asked for."""
    return ["std"] * bool(given.get("std")) + ["lower", "upper"] * bool(given.get("interval"))


def fingerprint(section: ad.AnnData) -> bytes:
    """All of a section that a call could have changed."""
    return pickle.dumps((section.X, dict(section.obsm), section.obs, section.var, sorted(section.uns)))
