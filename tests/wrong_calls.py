"""Wrong calls of all that is public, and what the error of each has to say; `test_faults.py` makes them.

One or two wrong values for each parameter: one of another type, one out of range. Sections, results, checkpoints and
files are broken in the ways that users meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData

import c2sti
from c2sti import datasets, metrics, pl, pp, tl

NAN, INF = float("nan"), float("inf")
QUIET: dict[str, Any] = {"show_progress_bar": False}
LINEAR: dict[str, Any] = {"model": "linear", **QUIET}
SMALL = c2sti.C2STiConfig(channels=4, n_components=4, n_splits=0, panel=8)
# Where a message names a parameter by other words.
SAYS = {
    "aligned_key": "obsm",
    "color": "gene|color",
    "gene": "gene|genes=",
    "image_key": "image",
    "key": r"uns\[|varp|key",
    "methods": "method",
    "metric": "metric|column",
    "n_slices": "n_slices|at_z",
    "obs_keys": "obs_keys|columns",
    "section": "section",
    "sections": "section|measured",
    "shares": "shares|too few",
    "slices": "slices|sections",
    "spatial_key": "spatial_key|obsm",
    "window": "windows?",
    "z": r"\bz\b",
}


class Wrong(NamedTuple):
    """A wrong call."""

    of: str  # the function
    what: str
    call: Callable[[Path], object]  # is given an empty folder
    says: tuple[str, ...]  # regular expressions, each of which the message matches


def values(of: str, call: Callable[..., object], **parameters: list[Any]) -> Iterator[Wrong]:
    """A call for each wrong value of each parameter, whose message names the parameter."""
    for name, wrong in parameters.items():
        for value in wrong:
            says = SAYS.get(name, rf"\b{name}\b")
            yield Wrong(of, f"{name}={value!r:.50}", lambda _, n=name, v=value: call(**{n: v}), (says,))


# -- what is given: sections and results that are right


@cache
def _simulated() -> list[AnnData]:
    return datasets.phantom(seed=0, size=8, n_genes=12).series([0.0, 100.0, 200.0])


def series() -> list[AnnData]:
    """Three sections of one simulated tissue with H&E, 100 µm apart, fresh ones each time."""
    return [section.copy() for section in _simulated()]


def pair() -> tuple[AnnData, AnnData]:
    """The two outer ones."""
    first, _, last = series()
    return first, last


@cache
def _interpolated() -> AnnData:
    return tl.interpolate(*pair(), n_slices=2, std=True, obs_keys="domain", **LINEAR)


def result() -> AnnData:
    """Two sections interpolated between two."""
    return _interpolated().copy()


@cache
def _stacked() -> AnnData:
    return tl.to_slices(_interpolated())


def changed(of: AnnData, step: Callable[[AnnData], object]) -> AnnData:
    """After a step that changes it in place."""
    step(of)
    return of


def record(*path: str, value: Any = None) -> Callable[[AnnData], object]:
    """What puts a value into the record of a result, or takes away what is there."""

    def change(adata: AnnData) -> None:
        at: Any = adata.uns
        for key in ("c2sti", *path)[:-1]:
            at[key] = dict(at[key])  # a copy of a result shares what lies deeper
            at = at[key]
        at[("c2sti", *path)[-1]] = value
        if value is None:
            del at[("c2sti", *path)[-1]]

    return change


def a_file(folder: Path, name: str = "file", content: bytes = b"") -> Path:
    """A file that is there."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


# -- broken sections


def _x(change: Callable[[np.ndarray], Any]) -> Callable[[AnnData], AnnData]:
    return lambda a: AnnData(change(a.X.toarray().astype(float)), a.obs, a.var, obsm=dict(a.obsm))


def _xy(change: Callable[[np.ndarray], Any]) -> Callable[[AnnData], AnnData]:
    return lambda a: changed(a, lambda a: a.obsm.update(spatial=change(np.asarray(a.obsm["spatial"], dtype=float))))


def _image(pixels: Callable[[np.ndarray], Any] = lambda p: p, **factors: Any) -> Callable[[AnnData], AnnData]:
    """An image, or its scale factor, is other than it should be."""

    def change(adata: AnnData) -> None:
        (library,) = adata.uns["spatial"].values()
        images = {"hires": pixels(library["images"]["hires"])}
        scale = library["scalefactors"] | factors
        adata.uns["spatial"] = {"tissue": {"images": images, "scalefactors": scale}}

    return lambda a: changed(a, change)


def _z(z: Callable[[int], Any]) -> Callable[[AnnData], AnnData]:
    return lambda a: changed(a, lambda a: setattr(a, "obs", a.obs.assign(z_um=z(a.n_obs))))


def _twice(adata: AnnData) -> None:
    (library,) = adata.uns["spatial"].values()
    adata.uns["spatial"] = {"one": library, "two": library}


# What is broken, how, and what the message says beside the name of the section.
BROKEN: dict[str, tuple[Callable[[AnnData], Any], str]] = {
    "None": (lambda a: None, "NoneType|is missing"),
    "its path": (lambda a: "a.h5ad", "str"),
    "a table": (lambda a: a.to_df(), "DataFrame"),
    "no coordinates": (lambda a: changed(a, lambda a: a.obsm.clear()), r"obsm\['spatial'\]"),
    "one column of coordinates": (_xy(lambda xy: xy[:, :1]), "columns x and y"),
    "a coordinate is NaN": (_xy(lambda xy: np.where(xy == xy[3], NAN, xy)), r"not finite for \d+ of"),
    "coordinates are text": (_xy(lambda xy: xy.astype(str)), r"obsm\['spatial'\].*(<U|str)"),
    "no spots": (lambda a: a[:0].copy(), "0 spots"),
    "one spot": (lambda a: a[:1].copy(), "1 spots?"),
    "no genes": (lambda a: a[:, :0].copy(), "no genes"),
    "all spots at one place": (_xy(np.zeros_like), "place"),
    "no X": (lambda a: AnnData(obs=a.obs, var=a.var, obsm=dict(a.obsm)), "X of"),
    "X is centred": (_x(lambda x: x - x.mean(axis=0)), "negative"),
    "X holds NaN": (_x(lambda x: np.where(x == x[3], NAN, x)), "NaN"),
    "X holds infinity": (_x(lambda x: np.where(x == x[3], INF, x)), "infinite"),
    "X is complex": (_x(lambda x: x + 1j), "X of.*complex"),
    "X is text": (_x(lambda x: x.astype(str)), "X of.*(<U|str)"),
    "X is zero": (_x(np.zeros_like), "X of.*zero"),
    "a gene twice": (
        lambda a: changed(a, lambda a: setattr(a, "var_names", [a.var_names[0], *a.var_names[:-1]])),
        "make_unique",
    ),
    "genes of another species": (
        lambda a: changed(a, lambda a: setattr(a, "var_names", "mt-" + a.var_names)),
        "gene in common|share",
    ),
    "two z": (_z(lambda n: np.arange(n) % 2), "2 values of z"),
    "z is text": (_z(lambda n: ["deep"] * n), r"obs\['z_um'\]"),
    "two images": (lambda a: changed(a, _twice), "image_key"),
}
# Images that cannot be used, which block nothing where they are not named.
BROKEN_IMAGES: dict[str, tuple[Callable[[AnnData], Any], str]] = {
    "uns['spatial'] is an image": (
        lambda a: changed(a, lambda a: a.uns.update(spatial=np.zeros((9, 9, 3)))),
        r"uns\['spatial'\]",
    ),
    "an image without a scale factor": (_image(tissue_hires_scalef=None), "scalef"),
    "a scale factor of 0": (_image(tissue_hires_scalef=0.0), "tissue_hires_scalef"),
    "a scale factor in words": (_image(tissue_hires_scalef="half"), "tissue_hires_scalef"),
    "a scale factor of another image": (_image(tissue_hires_scalef=1e4), "hires.*scale factor"),
    "a grey image": (_image(lambda p: p[..., 0]), r"\(\d+, \d+\)"),
    "channels first": (_image(lambda p: np.moveaxis(p, -1, 0)), r"\(3, \d+, \d+\)"),
    "an image of 16 bits": (_image(lambda p: p.astype(np.uint16) * 257), "uint16"),
    "an image of floats up to 255": (_image(lambda p: p.astype(np.float32)), r"\[0, 1\]"),
    "an image without pixels": (_image(lambda p: p[:0]), r"\(0, "),
    "the path of an image": (_image(lambda p: "tissue.png"), "shape"),
}
# All functions read sections by the same lines: of the others only whether they name the section is asked.
EVERYWHERE = ("None", "no coordinates", "X holds NaN")


def _sections() -> Iterator[Wrong]:
    for what, (broken, says) in BROKEN.items():
        call = lambda _, b=broken: tl.interpolate(pair()[0], b(pair()[1]), on_misfit="ignore", **LINEAR)
        yield Wrong("tl.interpolate", f"slice_b: {what}", call, (r"\bslice_b\b", says))
    for what, (broken, says) in BROKEN_IMAGES.items():
        call = lambda _, b=broken: tl.interpolate(pair()[0], b(pair()[1]), image_key={"slice_b": "tissue"}, **LINEAR)
        yield Wrong("tl.interpolate", f"slice_b: {what}", call, (r"\bslice_b\b", f"{says}|no image 'tissue'"))

    def in_series(broken: Callable[[AnnData], Any]) -> list[Any]:
        first, second, third = series()
        return [first, broken(second), third]

    others: dict[str, tuple[Callable[[Any], object], str]] = {
        "tl.interpolate_series": (lambda b: _between(slices=in_series(b)), r"slices\[1\]"),
        "tl.slice_series": (lambda b: _through(slices=in_series(b)), r"slices\[1\]"),
        "tl.evaluate": (lambda b: _evaluate(slices=in_series(b)), r"slices\[1\]"),
        "tl.train": (lambda b: _train(series=in_series(b)), r"series\[1\]"),
        "pp.align": (lambda b: pp.align(pair()[0], b(pair()[1])), "moving"),
        "pp.align_series": (lambda b: pp.align_series(in_series(b)), r"slices\[1\]"),
        "pp.check_pair": (lambda b: pp.check_pair(pair()[0], b(pair()[1])), "slice_b"),
    }
    for of, (call, name) in others.items():
        for what in EVERYWHERE:
            broken, says = BROKEN[what]
            yield Wrong(of, f"a section: {what}", lambda _, c=call, b=broken: c(b), (name, says))


# -- interpolation, training, scores


def _interpolate(**given: Any) -> object:
    return tl.interpolate(*pair(), **{**LINEAR, **given})


def _between(slices: Any = ..., **given: Any) -> object:
    at = {} if {"at_z", "n_slices", "spacing"} & set(given) else {"spacing": 50.0}
    return tl.interpolate_series(series() if slices is ... else slices, **{**LINEAR, **at, **given})


def _through(slices: Any = ..., **given: Any) -> object:
    plane = {"x": float(series()[0].obsm["spatial"][:, 0].mean())}
    return tl.slice_series(series() if slices is ... else slices, **{**LINEAR, "plane": plane, **given})


def _evaluate(slices: Any = ..., **given: Any) -> object:
    return tl.evaluate(series() if slices is ... else slices, **{"methods": (), **QUIET, **given})


def _train(**given: Any) -> object:
    how = c2sti.TrainConfig(steps=1, batch=1)
    sections = given.pop("series") if "series" in given else series()
    return tl.train(sections, **{"model": None, "config": SMALL, "how": how, **QUIET, **given})


def _whole(rows_of_none: int = 0) -> AnnData:
    """Three sections in one object, the first rows of which may belong to none."""
    adata = ad.concat({"s1": series()[0], "s2": series()[1], "s3": series()[2]}, label="sample", index_unique="-")
    adata.obs["sample"] = adata.obs["sample"].astype(object)
    adata.obs.iloc[:rows_of_none, adata.obs.columns.get_loc("sample")] = None
    return adata


def _pairs() -> Iterator[Wrong]:
    of, (a, b) = "tl.interpolate", pair()
    yield from values(
        of, _interpolate, n_slices=[0, 1.5, "three", True],
        positions=[[], [0.0], [250.0], "half", [0.7, 0.3], {"a": 0.5}],
        context=[{0.5: a}, {NAN: a}, [a], {-1: None}], model=["nothing", 3, None, "unet", Path("nowhere")],
        layer=["nothing", 3, {"a": "counts"}, ["x", "y", "z"]], spatial_key=["nothing", 3], image_key=["nothing", 3],
        coordinate_system=[["global"]], obsm_keys=["nothing", 3], window=[(0, 0, 1, 1), "all", 3],
        pitch=[0, NAN, 1e-9, 1e9, "wide"], at=[[], [1.0, 2.0], [[NAN, 0.0]], "here"],
        genes=[[], ["nothing"], 3, ["gene_001", "gene_001"]], obs_keys=["nothing", 3, None],
        histology_encoder=["resnet", 3], target_images=[[], [{}], ["tissue.png"], 3], interval=[0, 90, NAN, "wide"],
        on_misfit=["shout", None], device=["gpu", 3, "cuda:99"], seed=[-1, 1.5, "zero"],
        key_added=["", "a/b", 3, "spatial"], max_memory=["lots", 0, "1 parsec"],
    )  # fmt: skip

    def labelled(*columns: list[Any]) -> object:
        sections = pair()
        for section, column in zip(sections, columns, strict=True):
            section.obs["own"] = np.resize(np.array(column, dtype=object), section.n_obs)
        return tl.interpolate(*sections, obs_keys="own", **LINEAR)

    def stained(scale: float) -> object:
        (library,) = pair()[0].uns["spatial"].values()
        factors = {key: scale * value for key, value in library["scalefactors"].items()}
        return _interpolate(target_images=[{**library, "scalefactors": factors}])

    def closed(folder: Path) -> object:
        a.write_h5ad(folder / "a.h5ad")
        backed = ad.read_h5ad(folder / "a.h5ad", backed="r")
        backed.file.close()
        (folder / "a.h5ad").unlink()
        return tl.interpolate(backed, b, **LINEAR)

    def unrelated() -> object:
        sections = [datasets.phantom(seed=s, size=14, n_genes=60).section(0.0, image=False) for s in (3, 8)]
        sections[1].var_names = sections[1].var_names[::-1]
        return tl.interpolate(*sections, on_misfit="raise", **LINEAR)

    far, logged = _xy(lambda xy: xy + 1e6)(pair()[1]), changed(pair()[1], lambda s: setattr(s, "X", s.X.log1p()))
    del far.uns["spatial"]
    one = {"library_key": "sample", **LINEAR}
    for what, call, *says in (
        ("labels that are missing", lambda _: labelled([None], [None]), "own", "nothing but NaN"),
        ("labels here, numbers there", lambda _: labelled(["left", "right"], [0.5, 1.5]), "own", "labels|numbers"),
        ("an H&E that lies elsewhere", lambda _: stained(30.0), r"target_images\[0\]", "lies under"),
        ("an H&E with glass for tissue", lambda _: stained(0.3), r"target_images\[0\]", "shows tissue at"),
        ("sections that lie far apart", lambda _: tl.interpolate(a, far, **QUIET), "slice_a", "slice_b", "align"),
        ("counts and logarithms", lambda _: tl.interpolate(a, logged, **QUIET), "a: raw counts", "b: normalised"),
        ("unrelated sections", lambda _: unrelated(), "slice_a", "expression similarity|spatial concordance"),
        ("a result for a section", lambda _: tl.interpolate(result(), b, **QUIET), "slice_a", "inserted"),
        ("a stack for a section", lambda _: tl.interpolate(_stacked(), b, **QUIET), "slice_a", "depths|one"),
        ("a list of two", lambda _: tl.interpolate([a, b], b, **QUIET), "slice_a", "list"),
        ("a file that was removed", closed, "slice_a", "gone"),
        ("both n_slices and positions", lambda _: _interpolate(n_slices=2, positions=[0.5]), "n_slices"),
        ("three sections in one object", lambda _: tl.interpolate(_whole(), **one), "3 sections", "s1, s2, s3"),
        ("no column is named", lambda _: tl.interpolate(_whole(), **QUIET), "slice_b", "library_key="),
        ("no such column", lambda _: tl.interpolate(_whole(), **{**one, "library_key": "x"}), "library_key"),
        ("rows of no section", lambda _: tl.interpolate(_whole(9), **one), "sample", "9 of"),
        ("out exists", lambda f: _interpolate(out=a_file(f, "there.zarr")), "exists"),
        ("out in no folder", lambda f: _interpolate(out=f / "nowhere" / "s.zarr"), "no folder"),
        ("out in a file", lambda f: _interpolate(out=a_file(f) / "s.zarr"), "no folder"),
        ("out that is not written into", lambda f: _interpolate(out="/proc/s.zarr"), "cannot be written"),
        ("out of another kind", lambda f: _interpolate(out=f / "s.h5ad"), ".zarr"),
        ("digits=9", lambda f: _interpolate(out=f / "s.zarr", dense=True, digits=9), "digits"),
        ("digits without out", lambda _: _interpolate(digits=3), "digits", "out="),
        ("too little memory", lambda f: _interpolate(out=f / "s.zarr", max_memory="1 MB"), "max_memory", "at least"),
    ):
        yield Wrong(of, what, call, tuple(says))

    of = "tl.interpolate_cells"
    cells = datasets.phantom(seed=0, size=6, n_genes=12).series([0.0, 100.0], layout="cells", image=False)

    def of_cells(slice_b: AnnData = cells[1], **given: Any) -> object:
        return tl.interpolate_cells(cells[0], slice_b, **{**LINEAR, "labels": "domain", **given})

    yield Wrong(of, "spots", lambda _: of_cells(b), ("slice_b", "square array of spots", "interpolate"))
    yield Wrong(of, "49 cells", lambda _: of_cells(cells[1][:49].copy()), ("slice_b", "49 cells", "50"))
    yield from values(
        of, of_cells, n_slices=[0, "three"], positions=[[], [0.0]], genes=[[], ["nothing"]], model=["nothing"],
        on_misfit=["shout"], device=["gpu"], seed=[-1], key_added=["a/b"],
    )  # fmt: skip
    for labels in ("nothing", 3, "from_cell"):
        yield Wrong(of, f"labels={labels!r}", lambda _, wrong=labels: of_cells(labels=wrong), ("labels|domain",))


def _series() -> Iterator[Wrong]:
    common: dict[str, list[Any]] = {
        "slices": [[], series()[:1], series()[0], None, ["a.h5ad"] * 3],
        "z": [[0, 1], [0, 1, 1], [0, 1, NAN], "deep"],
        "n_context": [-1, "two"],
        "model": ["nothing", None],
        "layer": ["nothing"],
        "pitch": [0, "wide"],
        "genes": [[], ["nothing"]],
        "obs_keys": ["nothing"],
        "interval": [90],
        "on_misfit": ["shout"],
        "device": ["gpu"],
        "seed": [-1],
        "key_added": ["a/b", 3],
    }
    of = "tl.interpolate_series"
    yield from values(
        of, _between, **common, at_z=[[], [300.0], [50.0, 50.0], [NAN], "half"],
        spacing=[0, NAN, 1e-9, 300.0, "wide"], n_slices=[0, 1.5, 10**9, "three", [1], [1, -1]],
    )  # fmt: skip
    bare = lambda: [changed(section, lambda s: s.obs.pop("z_um")) for section in series()]
    yield Wrong(of, "no z", lambda _: _between(slices=bare()), (r"slices\[0\]", "z="))
    yield Wrong(of, "spacing and at_z", lambda _: _between(spacing=50.0, at_z=[50.0]), ("spacing", "at_z"))
    yield Wrong(of, "one object", lambda _: _between(slices=_whole()), ("slices", "library_key="))
    origin, up = (0, 0, 0), (0, 0, 1)
    planes: list[Any] = [[origin, origin], [origin, (0, NAN, 1)], "x", up, {"x": NAN}, {"t": 1.0}, {"x": 1e9}]
    yield from values("tl.slice_series", _through, **common, plane=planes)
    yield from values(
        "tl.evaluate", _evaluate, slices=[[], series()[:2], series()[0], None], methods=[["nothing"], 3],
        n_slices=[0, 2], z=[[0, 1], [0, 1, 1]], n_genes=[0, "all"], intervals=[[0], "wide"], output=["bins", None],
        labels=["nothing"], layer=["nothing"], device=["gpu"], seed=[-1],
    )  # fmt: skip
    cells = lambda _: _evaluate(output="cells", methods=["linear"])
    yield Wrong("tl.evaluate", "cells of spots", cells, ("spots", "interpolate"))
    of = "tl.train"
    yield from values(
        of, _train, series=[[], series()[:2], series()[0], None], model=["nothing", 3, "linear"],
        config=[{"channels": 4}], how=[{"steps": 1}], n_slices=[0, "one"], z=[[0, 1], [0, 1, 1]], n_genes=[0, "all"],
        histology_encoder=["resnet"], device=["gpu"], seed=[-1],
    )  # fmt: skip
    yield Wrong(of, "a folder that is a file", lambda f: _train(folder=a_file(f)), ("folder|file",))
    yield Wrong(
        of,
        "settings beside a model",
        lambda _: _train(model=c2sti.C2STi(SMALL), config=c2sti.C2STiConfig()),
        ("config",),
    )


# -- results

# A result that was edited, and what the message says.
EDITED: dict[str, tuple[Callable[[AnnData], object], str]] = {
    "without its record": (record(), r"uns\['c2sti'\]"),
    "its record is text": (record(value="mine"), r"uns\['c2sti'\]"),
    "without names of sections": (record("sections"), "sections"),
    "without names of interpolated sections": (record("inserted"), "inserted"),
}
# Those that matter where the values of sections are needed.
CUT: dict[str, tuple[Callable[[AnnData], object], str]] = {
    "without a lattice": (record("lattice"), "lattice"),
    "a lattice without a pitch": (record("lattice", value={"origin": [0, 0], "shape": [3, 3]}), "lattice|pitch"),
    "without positions": (lambda a: (record("positions")(a), record("z")(a)), "positions"),
    "without a layer": (lambda a: a.layers.pop("c2sti_1"), "c2sti_1"),
    "without a column of its tissue": (lambda a: a.obs.pop("c2sti_1_tissue"), "c2sti_1_tissue"),
    "a section named that is not there": (
        record("sections", value=["slice_a", "c2sti_7", "slice_b"]),
        "c2sti_7|positions",
    ),
    "without coordinates": (lambda a: a.obsm.pop("spatial"), r"obsm\['spatial'\]"),
}


def _results() -> Iterator[Wrong]:
    tools: dict[str, Callable[[Any, Path], object]] = {
        "tl.describe": lambda a, _: tl.describe(a),
        "tl.to_slices": lambda a, _: tl.to_slices(a),
        "tl.to_volume": lambda a, f: tl.to_volume(a, f / "v.zarr", genes="gene_001"),
        "tl.sample_counts": lambda a, _: tl.sample_counts(a),
        "tl.get_section": lambda a, _: tl.get_section(a, "c2sti_1"),
    }
    for of, call in tools.items():
        for what, (step, says) in {**EDITED, **({} if of == "tl.describe" else CUT)}.items():
            yield Wrong(of, f"a result {what}", lambda f, c=call, s=step: c(changed(result(), s), f), (says,))
        yield Wrong(of, "a measured section", lambda f, c=call: c(pair()[0], f), (r"uns\['c2sti'\]",))
        yield Wrong(of, "a path", lambda f, c=call: c("sections.h5ad", f), ("adata", "str"))
    yield from values("tl.describe", lambda key: tl.describe(result(), key=key), key=["other", 3])
    of = "tl.to_slices"
    yield Wrong(of, "a stack", lambda _: tl.to_slices(_stacked()), ("already",))
    yield from values(of, lambda **given: tl.to_slices(result(), **given), key=["other"], gap=[0, NAN, "wide"])
    of = "tl.get_section"
    for section in ("c2sti_9", 1, ["c2sti_1"]):
        yield from values(of, lambda section: tl.get_section(result(), section), section=[section])
        yield from values(of, lambda section: tl.get_section(_stacked(), section), section=[section])

    of = "tl.to_volume"

    def volume(folder: Path, adata: AnnData | None = None, path: Any = "volume.zarr", **given: Any) -> object:
        at = folder / path if isinstance(path, str) else path
        return tl.to_volume(result() if adata is None else adata, at, **{"genes": "gene_001", **given})

    for name, wrong in {
        "genes": [[], ["nothing"], 3],
        "key": ["other"],
        "gap": [0, "wide"],
        "um_per_unit": [0, NAN, "px"],
        "fill": ["none", INF],
        "path": [3, None],
    }.items():
        for value in wrong:
            call = lambda f, n=name, v=value: volume(f, **{n: v})
            yield Wrong(of, f"{name}={value!r}", call, (SAYS.get(name, rf"\b{name}\b"),))
    elsewhere = lambda: changed(result(), lambda a: a.obsm.update(spatial=np.asarray(a.obsm["spatial"]) + 13.0))
    some = lambda *names: _stacked()[_stacked().obs["section"].isin(names).to_numpy()].copy()
    for what, call, *says in (
        ("a path that is there", lambda f: volume(f, path=a_file(f, "there.zarr").name), "exists", "overwrite"),
        ("in no folder", lambda f: volume(f, path="a/b.zarr"), "no folder"),
        ("at points of one's own", lambda f: volume(f, elsewhere()), "at="),
        ("an uneven stack", lambda f: volume(f, some("slice_a", "c2sti_2", "slice_b")), "apart", "even"),
        ("one section", lambda f: volume(f, some("c2sti_1")), "one section"),
    ):
        yield Wrong(of, what, call, tuple(says))

    of, logged = "tl.sample_counts", record("expression", value="as given")
    yield from values(
        of, lambda **given: tl.sample_counts(result(), **given), sections=["slice_a", [], 3],
        genes=[[], "nothing", 3], key=["other"], seed=[-1, "zero"],
    )  # fmt: skip
    for what, drawn, *says in (
        ("drawn counts", lambda: tl.sample_counts(result()), "drawn"),
        ("of logarithms", lambda: changed(result(), logged), "counts"),
        (
            "without library sizes",
            lambda: changed(result(), lambda a: a.obs.pop("slice_b_library_size")),
            "slice_b_library_size",
        ),
        ("a stack without a neighbour", lambda: some("c2sti_1", "c2sti_2", "slice_b"), "slice_a", "stack"),
    ):
        yield Wrong(of, what, lambda _, d=drawn: tl.sample_counts(d()), tuple(says))

    of = "tl.coexpression"
    yield from values(
        of, lambda adata=None, **given: tl.coexpression(pair()[0] if adata is None else adata, **given),
        adata=["a.h5ad", np.zeros((30, 3))], layer=["nothing", 3], n_edges=[0, 1.5, "many"], key_added=[3, "a/b"],
    )  # fmt: skip
    for what in ("no X", "X is text", "X holds infinity", "no genes"):
        broken, says = BROKEN[what]
        yield Wrong(of, what, lambda _, b=broken: tl.coexpression(b(pair()[0])), (says.replace(" of", "").split()[-1],))


# -- figures


def _plots() -> Iterator[Wrong]:
    def closing(draw: Callable[..., object], *first: Any) -> Callable[..., object]:
        """A call with these before what is given by name, or others in their place; no figure is left open."""

        def call(*others: Any, **given: Any) -> object:
            try:
                return draw(*(others or first), **given)
            finally:
                plt.close("all")

        return call

    of_gene = (pl.sections, pl.spread, pl.coexpression)
    for draw in of_gene:
        of = f"pl.{draw.__name__}"
        for what, (step, says) in EDITED.items():
            call = lambda _, d=draw, s=step: closing(d)(changed(result(), s), "gene_001")
            yield Wrong(of, f"a result {what}", call, (f"{says}|varp",))
        yield Wrong(of, "a path", lambda _, d=draw: closing(d)("a.h5ad", "gene_001"), ("adata", "str"))
        for gene in ("nothing", 3, []):
            yield Wrong(of, f"gene={gene!r}", lambda _, d=draw, g=gene: closing(d)(result(), g), ("gene|color",))
        yield from values(of, closing(draw, result(), "gene_001"), key=["other", 3], ax=[[], 3])
    spread, graph = closing(pl.spread, result(), "gene_001"), closing(pl.coexpression, result(), "gene_001")
    yield from values("pl.spread", spread, sections=["nothing", "slice_a", 3], contours=[-1, "many"])
    yield from values("pl.coexpression", graph, sections=["nothing"], kind=["tree"], n_genes=[0, "all"], cmap=["ugly"])

    of, moved, image = "pl.displacement", result(), np.zeros((9, 9, 3), np.uint8)
    field = np.ones((2, 2, *map(int, moved.uns["c2sti"]["lattice"]["shape"])))
    record("notes", value={"displacement": field})(moved)
    still = lambda _: closing(pl.displacement)(result())
    yield Wrong(of, "a model that moves nothing", still, ("displacement", "linear"))
    yield from values(
        of, closing(pl.displacement, moved), sections=["nothing", "slice_a"], img=[image, "tissue.png"],
        img_alpha=[2.0, "thin"], scalebar_dx=[0, "px"], ax=[3],
    )  # fmt: skip

    table = pd.DataFrame({"section": [1, 1], "position": [0.5, 0.5], "method": ["copy", "gp"], "pcc": [0.1, 0.2]})
    tables: list[Any] = [None, "scores.tsv", table[:0], table.assign(pcc="good"), table.assign(pcc=NAN)]
    for draw in (pl.evaluation, pl.genes):
        for one in tables:
            call = lambda _, d=draw, t=one: closing(d)(t)
            yield Wrong(f"pl.{draw.__name__}", f"a table: {type(one).__name__}", call, ("table",))
    yield from values("pl.evaluation", closing(pl.evaluation, table), metric=["beauty", 3], ax=[3])
    yield from values("pl.genes", closing(pl.genes, table), gene=["nothing", []], metric=["beauty"], n_genes=[0, "all"])
    stack = closing(pl.stack, result(), "gene_001")
    yield from values("pl.stack", stack, sections=["nothing", 3], z_scale=[0, "long"], elev=[NAN, "high"], ax=[3])

    a, b = (changed(s, lambda s: s.obsm.update(spatial_aligned=s.obsm["spatial"])) for s in pair())
    yield Wrong("pl.alignment", "a path", lambda _: closing(pl.alignment)("a.h5ad", b), ("reference",))
    yield from values("pl.alignment", closing(pl.alignment, a, b), aligned_key=["nothing", 3], color=["nothing", 3])


# -- alignment


def _alignment() -> Iterator[Wrong]:
    of = "pp.align"
    yield from values(
        of, lambda **given: pp.align(*pair(), **given), method=["bent", 3], use=["smell", None],
        matrix=[np.eye(2), np.zeros((3, 3)), np.full((2, 3), NAN), "rotated", np.eye(3) * 2],
        scale=[0, NAN, "small"], layer=["nothing", 3], spatial_key=["nothing"], image_key=["nothing"],
        key_added=["spatial", 3, "a/b"],
    )  # fmt: skip
    one, (a, b) = pair()[0], pair()
    yield Wrong(of, "one object twice", lambda _: pp.align(one, one), ("one object", "copy"))
    del a.uns["spatial"]
    yield Wrong(of, "images that are not there", lambda _: pp.align(a, b, use="histology"), ("use=", "reference"))
    yield from values(
        "pp.align_series",
        lambda slices=None, **given: pp.align_series(series() if slices is None else slices, **given),
        slices=[[], series()[:1], series()[0], 3], reference=[3, 1.5, "first"], method=["bent"], use=["smell"],
        key_added=["spatial"],
    )  # fmt: skip
    check = lambda **given: pp.check_pair(*pair(), **given)
    yield from values("pp.check_pair", check, layer=["nothing", 3], spatial_key=["nothing"])


# -- models


def _models() -> Iterator[Wrong]:
    yield from values(
        "C2STiConfig", c2sti.C2STiConfig,
        **{name: [0, 1.5, "many"] for name in ("channels", "n_levels", "panel", "n_components", "image_channels")},
        kernel_size=[0, 2, "wide"], alpha=[-1.0, NAN, "far"], reach=[-1.0], n_splits=[-1, 0.5],
    )  # fmt: skip
    yield from values(
        "TrainConfig", c2sti.TrainConfig,
        **{name: [0, 1.5, "many"] for name in ("steps", "batch", "save_every", "genes", "panel")},
        learning_rate=[0, NAN, "fast"], clip=[0], seed=[-1], weight_decay=[-1.0], objective=["beauty", None],
        smooth=[NAN],
    )  # fmt: skip
    yield from values("C2STi", lambda **given: c2sti.C2STi(**given), config=[{"channels": 4}, "small"], card=["mine"])

    save = c2sti.C2STi(SMALL).save
    yield Wrong("C2STi.save", "below a file", lambda f: save(a_file(f) / "model"), ("file|folder",))
    yield Wrong("C2STi.save", "a folder not written into", lambda _: save("/proc/model"), ("/proc/model",))
    yield Wrong("C2STi.save", "a number", lambda _: save(3), ("folder",))


# -- data


def _datasets() -> Iterator[Wrong]:
    tissue = datasets.phantom(seed=0, size=8, n_genes=12)
    yield from values(
        "datasets.phantom", datasets.phantom, seed=[-1, "zero"], n_genes=[1, 10.5], size=[3, "large"],
        pitch=[0, INF, "wide"], motion=[-1.0, NAN], change=[-1.0], overdispersion=[-1.0],
    )  # fmt: skip
    yield from values(
        "Phantom.section", lambda z=0.0, **given: tissue.section(z, **given), z=[NAN, "deep", None],
        layout=["round", 3], library_size=[0, "large"], um_per_px=[0, "fine"], angle=[NAN, "left"],
        shift=[(1e9, 0.0), (NAN, 0.0), 3, (1.0,)], seed=[-1, "zero"],
    )  # fmt: skip
    yield from values("Phantom.series", lambda zs: tissue.series(zs), zs=[3])
    yield from values("datasets.sections", datasets.sections, series=["nothing", None, ["stahl"]])
    for name, section, file in (
        ("her2st", "A1", "her2st/her2st_A1.h5ad"),
        ("stahl", 1, "stahl_bc/BC1.h5ad"),
        ("developing_heart", 2, "dev_heart/heart6.5_2.h5ad"),
        ("dlpfc", 151673, "dlpfc/151673.h5ad"),
        ("starmap", 1, "starmap/starmap_1.h5ad"),
    ):
        of, load = f"datasets.{name}", getattr(datasets, name)
        yield from values(of, lambda section, load=load: load(section), section=["Z9", None])
        for folder in ("nowhere", 3):
            call = lambda _, load=load, s=section, d=folder: load(s, data_dir=d)
            yield Wrong(of, f"data_dir={folder!r}", call, ("data_dir",))
        call = lambda f, load=load, s=section, n=file: load(s, data_dir=a_file(f, n).parents[1])
        yield Wrong(of, "a file that is no h5ad", call, (Path(file).name,))

    of = "datasets.openst"

    def openst(folder: Path, **given: Any) -> object:
        series()[0].write_h5ad(folder / "tissue_S2.h5ad")
        return datasets.openst(folder, **{"spatial_key": "spatial", **given})

    yield Wrong(of, "an empty folder", lambda f: datasets.openst(f), ("no section in",))
    yield Wrong(of, "a number", lambda _: datasets.openst(3), ("path",))
    yield Wrong(of, "no h5ad", lambda f: datasets.openst(a_file(f, "tissue_S2.h5ad").parent), ("tissue_S2.h5ad",))
    for name, wrong in {
        "sections": [[7], "S2"],
        "pitch": [0, "wide"],
        "genes": [["nothing"], []],
        "spatial_key": ["nothing", 3],
        "um_per_px": [0, "fine"],
        "thickness_um": [0, None],
        "image_px": [0, "many"],
        "pattern": [3],
    }.items():
        for value in wrong:
            call = lambda f, n=name, v=value: openst(f, **{n: v})
            yield Wrong(of, f"{name}={value!r}", call, (SAYS.get(name, rf"\b{name}\b"),))

    def patches(slices: Any = None, **given: Any) -> object:
        how = {"pixel_um": 2.0, "shares": (1, 0, 0), "size": 64}
        return datasets.patches(series() if slices is None else slices, **{**how, **given})

    yield from values(
        "datasets.patches", patches, slices=[[], series()[:2], series()[0]], size=[0, "large", 10**6],
        pixel_um=[0, "fine"], window=[2, 9, "wide"], split=["patient"],
        shares=[(1, 1), (-1, 1, 1), "all", (1, 1, 1)], least=[1.1, "half"], spatial_key=["nothing"], seed=[-1],
    )  # fmt: skip


def _metrics() -> Iterator[Wrong]:
    good = np.arange(12.0).reshape(4, 3)
    matrices: dict[str, tuple[Any, str]] = {
        "another shape": (good[:, :2], r"shape \(4, 2\)"),
        "no rows": (good[:0], "shape"),
        "NaN": (np.where(good == 3, NAN, good), "NaN"),
        "infinity": (np.where(good == 3, INF, good), "infinite"),
        "text": (good.astype(str), "<U"),
        "complex numbers": (good + 1j, "complex"),
        "a section": (series()[0], "AnnData"),
    }
    for name in ("gene_pcc", "pcc", "rmse", "rv", "psnr"):
        of, score, given = f"metrics.{name}", getattr(metrics, name), {"data_range": 10.0} if name == "psnr" else {}
        for what, (wrong, says) in matrices.items():
            call = lambda _, s=score, w=wrong, g=given: s(w, good, **g)
            yield Wrong(of, f"predicted of {what}", call, ("predicted", says))
        yield Wrong(of, "measured of NaN", lambda _, s=score, g=given: s(good, good * NAN, **g), ("measured", "NaN"))
        masked = lambda mask, s=score, g=given: s(good, good, mask=mask, **g)
        yield from values(of, masked, mask=[np.ones(3, bool), np.zeros(4, bool), np.arange(4)])
    maps = np.random.default_rng(0).random((2, 9, 9))
    of = "metrics.ssim"
    yield from values(of, lambda data_range: metrics.ssim(maps, maps, data_range=data_range), data_range=[0, "wide"])
    masked = lambda mask: metrics.ssim(maps, maps, data_range=1.0, mask=mask)
    yield from values(of, masked, mask=[np.ones((3, 3), bool), np.zeros((9, 9), bool)])
    small = maps[:, :5, :5]
    yield Wrong(of, "small maps", lambda _: metrics.ssim(small, small, data_range=1.0), ("predicted", "shape"))
    of = "metrics.ceiling"
    yield from values(
        of, lambda counts=good, **given: metrics.ceiling(counts, **given),
        counts=[np.arange(4), good * NAN, -good - 1, np.log1p(good), good.astype(str)], genes=[[7], [], "all"],
        seed=[-1, "zero"],
    )  # fmt: skip


PARTS = (_sections, _pairs, _series, _results, _plots, _alignment, _models, _datasets, _metrics)
