"""Two sections, mostly of one tissue, with something odd about them now and then; and how to insert between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

import c2sti
from scripts.fuzz.containers import stored

TINY = c2sti.C2STi(c2sti.C2STiConfig(channels=4, n_components=6, n_splits=0, panel=8))


def _moved(model: c2sti.C2STi) -> c2sti.C2STi:
    """The same network with something in all its weights: heads of zeros move nothing and hide what is wrong."""
    other, generator = c2sti.C2STi(model.config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return other


MOVING = _moved(TINY)
MODELS: dict[str, Any] = {
    "copy": "copy", "linear": "linear", "lowrank": "lowrank", "gp": "gp", "tiny": TINY, "moving": MOVING,
    "c2sti": "c2sti",
}  # fmt: skip
MODEL_ODDS = [0.15, 0.2, 0.2, 0.2, 0.1, 0.1, 0.05]
EXTENTS = [(5, 5), (6, 6), (5, 7), (3, 12), (12, 3), (20, 2), (1, 25)]
EXTENT_ODDS = [0.2, 0.3, 0.1, 0.15, 0.1, 0.1, 0.05]
LAYOUTS = {
    "square": 0.3, "hex": 0.15, "cells": 0.13, "jittered": 0.15, "holes": 0.1, "pieces": 0.08, "doubled": 0.06,
    "point": 0.01, "few": 0.02,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Two sections in memory, how to insert between them, and which model that is.

    Parameters
    ----------
    a, b
        Plain AnnData.
    given
        Arguments of `c2sti.tl.interpolate`.
    model
        Its name here.
    """

    a: ad.AnnData
    b: ad.AnnData
    given: dict[str, Any]
    model: str

    @property
    def network(self) -> bool:
        """Whether the answer comes from a network."""
        return self.model in ("tiny", "moving", "c2sti")

    @property
    def counts(self) -> bool:
        """Whether all values are whole numbers."""
        return all((values(s) == np.rint(values(s))).all() for s in (self.a, self.b))

    @property
    def halved(self) -> bool:
        """Whether counts are read in two halves, drawn entry by entry: in another order of spots or genes, others."""
        return self.model == "c2sti" and self.counts


def values(section: ad.AnnData) -> np.ndarray:
    """(n, N) its expression, dense."""
    x = section.X
    return x if isinstance(x, np.ndarray) else x.toarray()


def draw(rng: np.random.Generator) -> Case:
    """A pair and its options."""
    a, b, unit = _pair(rng)
    model = str(rng.choice(list(MODELS), p=MODEL_ODDS))
    return Case(a, b, {"model": MODELS[model], **_options(rng, a, unit)}, model)


# -- sections


def places(rng: np.random.Generator) -> np.ndarray:
    """(n, 2) spots in some layout, square or long, of unit pitch."""
    width, height = EXTENTS[int(rng.choice(len(EXTENTS), p=EXTENT_ODDS))]
    kind = rng.choice(list(LAYOUTS), p=list(LAYOUTS.values()))
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(width), np.arange(height)))
    match kind:
        case "hex":
            x, y = x + 0.5 * (y % 2), y * np.sqrt(3) / 2
        case "cells":
            x, y = rng.uniform(0, width, len(x)), rng.uniform(0, height, len(y))
        case "jittered":
            x, y = x + rng.normal(0, 0.05, len(x)), y + rng.normal(0, 0.05, len(y))
        case "pieces":
            x = np.where(x < width / 2, x, x + rng.choice([3.0, 8.0, 200.0]))
        case "point":
            x, y = np.zeros(25), np.zeros(25)
    xy = np.column_stack([x, y])
    if kind == "holes":
        xy = xy[rng.random(len(xy)) < 0.85]
    if kind == "doubled":
        xy = np.concatenate([xy, xy[:5]])
    return xy[: int(rng.integers(1, 22))] if kind == "few" else xy


def expression(xy: np.ndarray, n_genes: int, whole: bool, rng: np.random.Generator) -> np.ndarray:
    """(n, N) smooth patterns with noise: counts, or logarithms."""
    phase, tilt = rng.uniform(0, 6, n_genes), rng.normal(0, 0.6, (2, n_genes))
    mean = np.exp(1 + np.sin(xy @ tilt + phase)) * 10.0 ** rng.uniform(-1, 1.5)
    counts = rng.poisson(mean).astype(float)
    return counts if whole else np.log1p(counts + rng.random(counts.shape))


SPOILT = {
    "no": 0.68, "nan": 0.01, "inf": 0.01, "negative": 0.01, "empty gene": 0.05, "constant gene": 0.05,
    "empty spot": 0.05, "empty": 0.03, "flat": 0.04, "huge": 0.04, "one": 0.03,
}  # fmt: skip


def spoiled(values: np.ndarray, whole: bool, rng: np.random.Generator) -> np.ndarray:
    """The same with something odd in it, now and then."""
    i, j = (int(rng.integers(n)) for n in values.shape)
    one = 1.0 if whole else 1.3  # of logarithms, that neither they nor twice they are taken for counts
    match rng.choice(list(SPOILT), p=list(SPOILT.values())):
        case "nan":
            values[i, j] = np.nan
        case "inf":
            values[i, j] = np.inf
        case "negative":
            values[i, j] = -1
        case "empty gene":
            values[:, j] = 0
        case "constant gene":
            values[:, j] = 2 * one
        case "empty spot":
            values[i] = 0
        case "empty":
            values[:] = 0
        case "flat":
            values[:] = one
        case "huge":
            values = values * 1e6
        case "one":
            values[:] = 0
            values[i, j] = one
    return values


def _pair(rng: np.random.Generator) -> tuple[ad.AnnData, ad.AnnData, float]:
    """Two sections and the pitch of their spots."""
    xy, n_genes = places(rng), int(rng.choice([1, 2, 10, 12, 30], p=[0.05, 0.05, 0.5, 0.3, 0.1]))
    other = xy.copy() if rng.random() < 0.75 else places(rng)
    seed, whole = int(rng.integers(2**31)), rng.random() < 0.5
    unit, shift = 10.0 ** rng.choice([0, 0, 2, -3, -8, 8]), rng.choice([0, 0, 1e3, -1e6])
    turn = _turn(rng.uniform(0, 2 * np.pi)) if rng.random() < 0.2 else np.eye(2)
    depths = rng.random() < 0.1
    made = []
    for i, where in enumerate((xy, other)):
        found = spoiled(expression(where, n_genes, whole, np.random.default_rng(seed)), whole, rng)
        kept = rng.permutation(n_genes)[: max(n_genes - int(rng.random() < 0.1), 1)]
        var = pd.DataFrame(index=[f"g{j}" for j in kept])
        if rng.random() < 0.01:
            var.index = ["g0"] * len(kept)
        points = (where @ turn + shift) * unit
        points = points.astype("f4") if rng.random() < 0.1 else points
        section = ad.AnnData(stored(found[:, kept], rng), var=var, obsm={"spatial": points})
        section.obs["domain"] = pd.Categorical(rng.choice(["rim", "core"], section.n_obs))
        section.obs["depth"] = rng.normal(size=section.n_obs)
        if depths:
            section.obs["z_um"] = 40.0 + 100.0 * i
        made.append(section)
    return made[0], made[1], unit


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


# -- how to insert


def _options(rng: np.random.Generator, a: ad.AnnData, unit: float) -> dict[str, Any]:
    given: dict[str, Any] = {"on_misfit": "ignore", "show_progress_bar": False}
    if rng.random() < 0.15:
        fractions = rng.uniform(-0.02, 1.02, int(rng.integers(1, 3)))
        given["positions"] = (40 + 100 * fractions if "z_um" in a.obs else fractions).tolist()
    else:
        given["n_slices"] = int(rng.integers(0 if rng.random() < 0.03 else 1, 4))
    if rng.random() < 0.1:
        at = np.asarray(a.obsm["spatial"], dtype=float)
        given["at"] = at[: int(rng.integers(0, len(at) + 1))] + rng.choice([0, 0.3, 1e9]) * unit
    if rng.random() < 0.12:
        factors, odds = [0.5, 1.0, 2.0, 3.0, 50.0, 0.0, -1.0, 1e-12, np.nan, np.inf], [0.16] * 5 + [0.04] * 5
        given["pitch"] = unit * float(rng.choice(factors, p=odds))
    if rng.random() < 0.08:
        given["genes"] = list(rng.choice([*a.var_names, "unknown"], int(rng.integers(0, 3))))
    if rng.random() < 0.1:
        columns = rng.choice(["domain", "depth", "unknown"], int(rng.integers(1, 3)), p=[0.5, 0.45, 0.05])
        given["obs_keys"] = columns.tolist()
    if rng.random() < 0.1:
        beyond = a.copy()
        given["context"] = {float(rng.choice([-1.0, 2.0, -40.0, 0.5], p=[0.5, 0.35, 0.1, 0.05])): beyond}
    given["std"] = bool(rng.random() < 0.2)
    given["interval"] = float(rng.choice([0, 0.5, 0.9], p=[0.7, 0.1, 0.2])) or None
    return given
