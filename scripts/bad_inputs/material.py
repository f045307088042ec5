"""What is given to the functions: sections and results that are right, and sections that are broken."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import c2sti

SMALL = c2sti.C2STiConfig(channels=4, n_components=4, n_splits=0, panel=8)
QUIET: dict[str, Any] = {"show_progress_bar": False}


@cache
def _series() -> list[AnnData]:
    series = c2sti.datasets.phantom(seed=0, size=8, n_genes=12).series([0.0, 100.0, 200.0])
    for section in series:
        section.layers["counts"] = section.X.copy()
    return series


def series() -> list[AnnData]:
    """Three sections of one simulated tissue with H&E, 100 µm apart, fresh ones each time."""
    return [section.copy() for section in _series()]


def pair() -> tuple[AnnData, AnnData]:
    """The two outer ones."""
    first, _, last = series()
    return first, last


@cache
def _result() -> AnnData:
    return c2sti.tl.interpolate(*pair(), n_slices=2, model="linear", std=True, obs_keys="domain", **QUIET)


def result() -> AnnData:
    """Two sections interpolated between two."""
    return _result().copy()


@cache
def _stack() -> AnnData:
    return c2sti.tl.to_slices(_result())


def stack() -> AnnData:
    """The same, one row for each section and bin."""
    return _stack().copy()


def changed(of: AnnData, *steps: Callable[[AnnData], object]) -> AnnData:
    """After some steps that change it in place."""
    for step in steps:
        step(of)
    return of


def network() -> c2sti.C2STi:
    """An untrained network, small."""
    return c2sti.C2STi(SMALL)


def checkpoint(folder: Path) -> Path:
    """One that is right, in a folder."""
    network().save(folder / "model")
    return folder / "model"


def in_uns(*path: str, value: Any) -> Callable[[AnnData], object]:
    """What puts a value deep into `uns`, or takes away what is there, for a value of None."""

    def change(adata: AnnData) -> None:
        at: Any = adata.uns
        for key in path[:-1]:
            at[key] = dict(at[key])  # a copy of a result shares what lies deeper
            at = at[key]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


# ---- broken sections


def _x(values: Callable[[np.ndarray], Any]) -> Callable[[AnnData], AnnData]:
    def broken(adata: AnnData) -> AnnData:
        return AnnData(values(adata.X.toarray()), adata.obs, adata.var, obsm=dict(adata.obsm))

    return broken


def _put(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x = x.astype(float)
        x[row, 0] = value
        return x

    return change


def _xy(values: Callable[[np.ndarray], Any]) -> Callable[[AnnData], AnnData]:
    def broken(adata: AnnData) -> AnnData:
        adata.obsm["spatial"] = values(np.asarray(adata.obsm["spatial"], dtype=float))
        return adata

    return broken


def _do(change: Callable[[AnnData], object]) -> Callable[[AnnData], AnnData]:
    def broken(adata: AnnData) -> AnnData:
        change(adata)
        return adata

    return broken


def _picture(**parts: Any) -> Callable[[AnnData], AnnData]:
    """A library of one image, parts of which are other than they should be."""

    def broken(adata: AnnData) -> AnnData:
        (library,) = adata.uns["spatial"].values()
        images, factors = dict(library["images"]), dict(library["scalefactors"])
        if "pixels" in parts:
            images["hires"] = parts["pixels"](images["hires"])
        if "factor" in parts:
            factors["tissue_hires_scalef"] = parts["factor"]
        if parts.get("without"):
            del factors["tissue_hires_scalef"]
        adata.uns["spatial"] = {"tissue": {"images": images, "scalefactors": factors, **parts.get("library", {})}}
        return adata

    return broken


def _twice(adata: AnnData) -> None:
    (library,) = adata.uns["spatial"].values()
    adata.uns["spatial"] = {"one": library, "two": library}


def _renamed(names: Callable[[pd.Index], Any]) -> Callable[[AnnData], AnnData]:
    def broken(adata: AnnData) -> AnnData:
        adata.var_names = names(adata.var_names)
        return adata

    return broken


def _dated(column: str, depth: Callable[[int], Any]) -> Callable[[AnnData], AnnData]:
    def broken(adata: AnnData) -> AnnData:
        del adata.obs["z_um"]
        adata.obs[column] = depth(adata.n_obs)
        return adata

    return broken


# What is broken, how, and what the message has to say beside the name of the section.
BROKEN: dict[str, tuple[Callable[[AnnData], Any], str]] = {
    "None": (lambda a: None, "NoneType|is missing"),
    "its path": (lambda a: "a.h5ad", "str"),
    "a table": (lambda a: a.to_df(), "DataFrame"),
    "an array": (lambda a: a.X.toarray(), "ndarray"),
    "no coordinates": (_do(lambda a: a.obsm.clear()), r"obsm\['spatial'\]"),
    "one column of coordinates": (_xy(lambda xy: xy[:, :1]), "columns x and y"),
    "three axes of coordinates": (_xy(lambda xy: xy[:, :, None]), "columns x and y"),
    "a coordinate is NaN": (_xy(lambda xy: np.where(xy == xy[3], np.nan, xy)), r"not finite for \d+ of"),
    "a coordinate is infinite": (_xy(lambda xy: np.where(xy == xy[3], np.inf, xy)), r"not finite for \d+ of"),
    "coordinates are text": (_xy(lambda xy: xy.astype(str)), r"obsm\['spatial'\].*(<U|str)"),
    "coordinates are words": (_xy(lambda xy: np.full(xy.shape, "left")), r"obsm\['spatial'\].*(<U|str)"),
    "coordinates are objects": (_xy(lambda xy: np.where(xy == xy[3], None, xy)), r"not finite for \d+ of"),
    "coordinates are complex": (_xy(lambda xy: xy + 1j), r"obsm\['spatial'\].*complex"),
    "coordinates are sparse": (_xy(sp.csr_matrix), r"obsm\['spatial'\].*(sparse|csr)"),
    "coordinates are a table with names": (
        _do(lambda a: a.obsm.update(spatial=pd.DataFrame({"barcode": "x", "x": 1.0}, index=a.obs_names))),
        r"obsm\['spatial'\]",
    ),
    "no spots": (lambda a: a[:0].copy(), "0 spots"),
    "one spot": (lambda a: a[:1].copy(), "1 spots?"),
    "no genes": (lambda a: a[:, :0].copy(), "no genes"),
    "all spots at one place": (_xy(np.zeros_like), "place"),
    "no X": (lambda a: AnnData(obs=a.obs, var=a.var, obsm=dict(a.obsm)), "X of"),
    "X holds a negative value": (_x(_put(3, -1.0)), "negative"),
    "X holds NaN": (_x(_put(3, np.nan)), "NaN"),
    "X holds infinity": (_x(_put(3, np.inf)), "infinite"),
    "X holds more than a float32": (_x(_put(3, 1e300)), "infinite|float32|large"),
    "X is complex": (_x(lambda x: x + 1j), "X of.*complex"),
    "X is text": (_x(lambda x: x.astype(str)), "X of.*(<U|str)"),
    "X is words": (_x(lambda x: np.full(x.shape, "much")), "X of.*(<U|str)"),
    "X is objects": (_x(lambda x: np.where(x > 3, None, x)), "X of.*object"),
    "X is dates": (_x(lambda x: x.astype("datetime64[s]")), "X of.*datetime"),
    "X is zero": (_x(np.zeros_like), "X of.*zero"),
    "X is centred": (_x(lambda x: x - x.mean(axis=0)), "negative"),
    "a gene twice": (_renamed(lambda names: [names[0], *names[:-1]]), "make_unique"),
    "genes of another species": (_renamed(lambda names: [f"mt-{n}" for n in names]), "gene in common|share"),
    "two depths": (_dated("z_um", lambda n: np.arange(n) % 2), "2 values of z"),
    "depths are text": (_dated("z_um", lambda n: ["deep"] * n), r"obs\['z_um'\]"),
    "depths are text in z": (_dated("z", lambda n: pd.Categorical(["ten"] * n)), r"obs\['z'\]"),
    "two images": (_do(_twice), "image_key"),
}
# Images that cannot be used, which block nothing where they are not named.
BROKEN_IMAGES: dict[str, tuple[Callable[[AnnData], Any], str]] = {
    "uns['spatial'] is a list": (_do(lambda a: a.uns.update(spatial=[1])), r"uns\['spatial'\]"),
    "uns['spatial'] is an image": (_do(lambda a: a.uns.update(spatial=np.zeros((9, 9, 3)))), r"uns\['spatial'\]"),
    "images are no mapping": (_picture(library={"images": [1]}), "images"),
    "scale factors are no mapping": (_picture(library={"scalefactors": 0.5}), "scalefactors"),
    "an image without a scale factor": (_picture(without=True), "scalef"),
    "a scale factor of 0": (_picture(factor=0.0), "tissue_hires_scalef"),
    "a negative scale factor": (_picture(factor=-1.0), "tissue_hires_scalef"),
    "a scale factor that is NaN": (_picture(factor=float("nan")), "tissue_hires_scalef"),
    "a scale factor in words": (_picture(factor="half"), "tissue_hires_scalef"),
    "a scale factor of another image": (_picture(factor=1e4), "hires.*scale factor"),
    "a grey image": (_picture(pixels=lambda p: p[..., 0]), r"\(\d+, \d+\)"),
    "an image of two channels": (_picture(pixels=lambda p: p[..., :2]), r"\(\d+, \d+, 2\)"),
    "channels first": (_picture(pixels=lambda p: np.moveaxis(p, -1, 0)), r"\(3, \d+, \d+\)"),
    "an image of 16 bits": (_picture(pixels=lambda p: p.astype(np.uint16) * 257), "uint16"),
    "an image of floats up to 255": (_picture(pixels=lambda p: p.astype(np.float32)), r"\[0, 1\]"),
    "an image of text": (_picture(pixels=lambda p: p.astype(str)), "<U"),
    "an image with no pixels": (_picture(pixels=lambda p: p[:0]), r"\(0, "),
    "the path of an image": (_picture(pixels=lambda p: "tissue.png"), "shape"),
}
# Those that one function more is asked about, because all read sections by the same lines.
COMMON = (
    "None",
    "no coordinates",
    "a coordinate is NaN",
    "coordinates are text",
    "no spots",
    "one spot",
    "no genes",
    "no X",
    "X holds NaN",
    "X is text",
    "a gene twice",
    "genes of another species",
    "two depths",
    "two images",
)
