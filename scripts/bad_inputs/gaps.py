"""Sections to tools that read them: `tl.interpolate` and its kin, `tl.slice_series`, `tl.evaluate`, `tl.train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

import c2sti
from scripts.bad_inputs import Bad, wrong_values
from scripts.bad_inputs.material import (
    BROKEN,
    BROKEN_IMAGES,
    COMMON,
    QUIET,
    changed,
    checkpoint,
    network,
    pair,
    result,
    series,
    stack,
)

INTERPOLATE, SERIES, EVALUATE, TRAIN = "tl.interpolate", "tl.interpolate_series", "tl.evaluate", "tl.train"
PLANE = "tl.slice_series"
CELLS = "tl.interpolate_cells"


def interpolate(**given: Any) -> object:
    """Between two sections that are right."""
    a, b = pair()
    return c2sti.tl.interpolate(a, b, **{"model": "linear", **QUIET, **given})


def call_of_labels(columns: tuple[Any, Any]) -> object:
    """Between two sections whose column `own` holds these values."""
    a, b = pair()
    for section, values in zip((a, b), columns, strict=True):
        section.obs["own"] = np.resize(np.array(values, dtype=object), section.n_obs)
    return c2sti.tl.interpolate(a, b, model="linear", obs_keys="own", **QUIET)


def _columns_of_labels() -> Iterator[tuple[str, tuple[Any, Any], str]]:
    """What they are, their values in both sections, and what the message has to say."""
    yield "missing everywhere", ([None], [None]), "nothing but NaN"
    yield "numbers in the other section", (["left", "right"], [0.5, 1.5]), "labels|numbers"
    yield "lists", ([(1, 2), (3,)], ["left", "right"]), "holds"


def in_series(**given: Any) -> object:
    """In a series that is right."""
    at = {} if {"at_z", "spacing", "n_slices"} & set(given) else {"spacing": 50.0}
    slices = given.pop("slices") if "slices" in given else series()
    return c2sti.tl.interpolate_series(slices, **{"model": "linear", **at, **QUIET, **given})


def in_plane(**given: Any) -> object:
    """Through a series that is right."""
    slices = given.pop("slices") if "slices" in given else series()
    plane = given.pop("plane") if "plane" in given else {"x": float(series()[0].obsm["spatial"][:, 0].mean())}
    return c2sti.tl.slice_series(slices, plane=plane, **{"model": "linear", **QUIET, **given})


def evaluate(**given: Any) -> object:
    """On a series that is right."""
    slices = given.pop("slices") if "slices" in given else series()
    return c2sti.tl.evaluate(slices, **{"methods": (), **QUIET, **given})


def train(**given: Any) -> object:
    """On a series that is right."""
    from scripts.bad_inputs.material import SMALL  # noqa: PLC0415

    sections = given.pop("series") if "series" in given else series()
    how = c2sti.TrainConfig(steps=1, batch=1)
    return c2sti.tl.train(sections, **{"model": None, "config": SMALL, "how": how, **QUIET, **given})


def cases() -> Iterator[Bad]:
    """All of these."""
    yield from _sections()
    yield from _interpolate()
    yield from _in_one_object()
    yield from _stores()
    yield from _cells()
    yield from _series()
    yield from _plane()
    yield from _evaluate()
    yield from _train()


def _sections() -> Iterator[Bad]:
    for what, (broken, says) in BROKEN.items():
        call = lambda _, broken=broken: c2sti.tl.interpolate(
            pair()[0], broken(pair()[1]), model="linear", on_misfit="ignore", **QUIET
        )
        yield Bad(INTERPOLATE, f"slice_b: {what}", call, (r"\bslice_b\b", says))
    for what, (broken, says) in BROKEN_IMAGES.items():
        call = lambda _, broken=broken: c2sti.tl.interpolate(
            pair()[0], broken(pair()[1]), model="linear", image_key={"slice_b": "tissue"}, **QUIET
        )
        yield Bad(INTERPOLATE, f"slice_b, named: {what}", call, (r"\bslice_b\b", f"{says}|no image 'tissue'"))
    for what in COMMON:
        broken, says = BROKEN[what]
        for of, call, name in (
            (SERIES, lambda s: in_series(slices=s), r"slices\[1\]"),
            (PLANE, lambda s: in_plane(slices=s), r"slices\[1\]"),
            (EVALUATE, lambda s: evaluate(slices=s), r"slices\[1\]"),
            (TRAIN, lambda s: train(series=s), r"series\[1\]"),
        ):
            yield Bad(of, f"a section: {what}", lambda _, b=broken, c=call: c(_second(b)), (name, says))


def _second(broken: Any) -> list[Any]:
    first, second, third = series()
    return [first, broken(second), third]


def _interpolate() -> Iterator[Bad]:
    of, call = INTERPOLATE, interpolate
    a, b = pair()
    yield from wrong_values(of, call, "n_slices", [0, -1, 1.5, float("nan"), float("inf"), "three", [1], True])
    yield from wrong_values(
        of,
        call,
        "positions",
        [
            [],
            [float("nan")],
            [0.0],
            [250.0],
            [-5.0],
            ["half"],
            "half",
            [0.5, 0.5],
            [0.7, 0.3],
            [[0.2], [0.4]],
            {"a": 0.5},
        ],
    )
    yield from wrong_values(
        of,
        call,
        "context",
        [{0.5: a}, {0.0: a}, {float("nan"): a}, {float("inf"): a}, {"before": a}, [a], a, {-1: None}, {-1: "a.h5ad"}],
    )
    yield from wrong_values(of, call, "model", ["nothing", "", 3, None, "unet", [], np.zeros(3), Path("nowhere")])
    yield from wrong_values(of, call, "layer", ["nothing", 3, ["counts"]])
    yield from wrong_values(of, call, "spatial_key", ["nothing", 3, ["spatial"]], r"spatial_key|obsm\[")
    yield from wrong_values(of, call, "image_key", ["nothing", 3], "image")
    yield from wrong_values(of, call, "pitch", [0, -1.0, float("nan"), float("inf"), 1e-9, 1e9, "wide", [100.0]])
    yield from wrong_values(
        of,
        call,
        "at",
        [[], [1.0, 2.0], np.zeros((3, 3)), [[np.nan, 0.0]], [["left", "up"]], "here", [[1j, 0]], np.zeros((0, 2))],
        r"\bat\b",
    )
    yield from wrong_values(of, call, "genes", [[], ["nothing"], "nothing", 3, [3], ["gene_001", "gene_001"], [None]])
    yield from wrong_values(of, call, "obs_keys", ["nothing", 3, ["section"], ["a/b"], [3], None], "obs_keys|columns")
    for what, columns, says in _columns_of_labels():
        yield Bad(of, f"labels that are {what}", lambda _, c=columns: call_of_labels(c), ("own", says))
    yield from wrong_values(of, call, "histology_encoder", ["resnet", 3])
    yield from wrong_values(
        of, call, "target_images", [[], [None, None], [{}], ["tissue.png"], 3, [{"images": {}, "scalefactors": {}}]]
    )
    for what, target, says in (
        ("that lies elsewhere", _stained(scale=30.0), "lies under"),
        ("with glass where the tissue is", _stained(scale=0.3), "shows tissue at"),
    ):
        yield Bad(
            of,
            f"an H&E of the missing section {what}",
            lambda _, t=target: interpolate(target_images=[t]),
            (r"target_images\[0\]", says, "scale factor"),
        )
    yield from wrong_values(of, call, "interval", [0, 1, -0.5, 90, float("nan"), "wide", [0.9], True])
    yield from wrong_values(of, call, "on_misfit", ["shout", None, 3, ["warn"]])
    yield from wrong_values(of, call, "device", ["gpu", "", 3, "cuda:99", "meta"])
    yield from wrong_values(of, call, "seed", [-1, 1.5, "zero", None, float("nan"), [0]])
    yield from wrong_values(of, call, "key_added", ["", "a/b", 3, None, "spatial"])
    yield from wrong_values(of, call, "max_memory", ["lots", 0, -1, float("nan"), [1], "", "1 parsec"])
    yield Bad(
        of, "both sections are one of another tissue far away", lambda _: _apart(), ("slice_a", "slice_b", "align")
    )
    yield Bad(of, "counts and logarithms", lambda _: _mixed(), ("slice_a: raw counts", "slice_b: normalised"))
    yield Bad(
        of,
        "strangers, on_misfit='raise'",
        lambda _: _strangers(),
        ("slice_a", "slice_b", "expression similarity|spatial concordance"),
    )
    yield Bad(
        of, "a result for a section", lambda _: c2sti.tl.interpolate(result(), b, **QUIET), ("slice_a", "inserted")
    )
    yield Bad(
        of, "a stack for a section", lambda _: c2sti.tl.interpolate(stack(), b, **QUIET), ("slice_a", "depths|one")
    )
    yield Bad(of, "a list of two", lambda _: c2sti.tl.interpolate([a, b], b, **QUIET), ("slice_a", "list"))
    yield Bad(of, "a file that was closed and removed", lambda folder: _closed(folder), ("slice_a", "gone"))
    for what, step, says in (
        ("empty", lambda f: [p.unlink() for p in f.iterdir()], "config.json"),
        ("without weights", lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        ("of settings that are no JSON", lambda f: (f / "config.json").write_text("{"), "config.json"),
        ("of altered settings", lambda f: _replaced(f / "config.json", b'"panel": 8', b'"panel": 9'), "altered"),
        ("of another format", lambda f: _replaced(f / "config.json", b'"format": 3', b'"format": 1'), "format 1"),
        ("of another model", lambda f: _replaced(f / "config.json", b'"c2sti"', b'"other"'), "other"),
        ("of truncated weights", lambda f: _cut(f / "model.safetensors"), "model.safetensors"),
    ):
        yield Bad(of, f"a checkpoint {what}", lambda folder, s=step: _tampered(folder, s), (says,))


def _stained(scale: float) -> dict[str, Any]:
    """An H&E that lies where the tissue is only if the factor by which its scale is wrong is 1."""
    library = next(iter(pair()[0].uns["spatial"].values()))
    return {**library, "scalefactors": {k: scale * v for k, v in library["scalefactors"].items()}}


def _apart() -> object:
    a, b = pair()
    b.obsm["spatial"] = b.obsm["spatial"] + 1e6
    del b.uns["spatial"]
    return c2sti.tl.interpolate(a, b, **QUIET)


def _mixed() -> object:
    a, b = pair()
    b.X = b.X.log1p()
    return c2sti.tl.interpolate(a, b, **QUIET)


def _strangers() -> object:
    tissues = [c2sti.datasets.phantom(seed=seed, size=14, n_genes=60) for seed in (3, 8)]
    a, b = (tissue.section(0.0, image=False) for tissue in tissues)
    b.var_names = b.var_names[::-1]
    return c2sti.tl.interpolate(a, b, model="linear", on_misfit="raise", **QUIET)


def _closed(folder: Path) -> object:
    a, b = pair()
    a.write_h5ad(folder / "a.h5ad")
    backed = ad.read_h5ad(folder / "a.h5ad", backed="r")
    backed.file.close()
    (folder / "a.h5ad").unlink()
    return c2sti.tl.interpolate(backed, b, model="linear", **QUIET)


def _replaced(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content, (path, old)
    path.write_bytes(content.replace(old, new))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _tampered(folder: Path, step: Any) -> object:
    model = checkpoint(folder)
    step(model)
    return interpolate(model=model)


def _stores() -> Iterator[Bad]:
    of = f"{INTERPOLATE}(out=…)"

    def there(folder: Path) -> Path:
        (folder / "there.zarr").mkdir()
        return folder / "there.zarr"

    def a_file(folder: Path) -> Path:
        (folder / "file").write_text("")
        return folder / "file" / "sections.zarr"

    for what, out, says in (
        ("is there", there, "exists"),
        ("in no folder", lambda folder: folder / "nowhere" / "sections.zarr", "no folder"),
        ("in a file", a_file, "no folder"),
        ("in a folder that is not written into", lambda _: Path("/proc/sections.zarr"), "cannot be written"),
        ("of another kind", lambda folder: folder / "sections.h5ad", ".zarr"),
        ("without an end", lambda folder: folder / "sections", ".zarr"),
        ("empty", lambda _: "", ".zarr"),
        ("a number", lambda _: 3, r"\bout\b"),
    ):
        yield Bad(of, f"out {what}", lambda folder, out=out: interpolate(out=out(folder)), (says,))
    for digits in (0, 9, 2.5, float("nan"), "three", [3]):
        yield Bad(
            of,
            f"digits={digits!r}",
            lambda f, d=digits: interpolate(out=f / "s.zarr", dense=True, digits=d),
            ("digits",),
        )
    yield Bad(of, "digits without out", lambda _: interpolate(digits=3), ("digits", "out="))
    yield Bad(
        of, "too little memory", lambda f: interpolate(out=f / "s.zarr", max_memory="1 MB"), ("max_memory", "at least")
    )


def _whole() -> ad.AnnData:
    """Three sections in one object."""
    return ad.concat({"s1": series()[0], "s2": series()[1], "s3": series()[2]}, label="sample", index_unique="-")


def _in_one_object() -> Iterator[Bad]:
    """Several sections in one object, keys of each section, and capture windows."""

    def call(**given: Any) -> object:
        return c2sti.tl.interpolate(_whole(), model="linear", **{"library_key": "sample", **QUIET, **given})

    def without(rows: slice) -> ad.AnnData:
        adata = _whole()
        adata.obs["sample"] = adata.obs["sample"].astype(object)
        adata.obs.iloc[rows, adata.obs.columns.get_loc("sample")] = None
        return adata

    of, one = INTERPOLATE, {"library_key": "sample", "model": "linear", **QUIET}
    yield Bad(of, "three sections in one object", lambda _: call(), ("library_key|sample", "3 sections", "s1, s2, s3"))
    yield Bad(of, "no column is named", lambda _: c2sti.tl.interpolate(_whole(), **QUIET), ("slice_b", "library_key="))
    yield from wrong_values(of, call, "library_key", ["nothing", "", 3, None, ["sample"]], "library_key")
    yield from wrong_values(of, call, "context", [{-1.0: "s9"}, {2.0: 3}, {0.5: "s3"}], "context")
    yield Bad(of, "rows of no section", lambda _: c2sti.tl.interpolate(without(slice(9)), **one), ("sample", "9 of"))
    yield from wrong_values(of, interpolate, "layer", [["counts"], {"a": "counts"}, [3, 3], ["x", "y", "z"]], "layer")
    yield from wrong_values(of, interpolate, "image_key", [["nothing", None], {"slice_c": "tissue"}], "image")
    yield from wrong_values(of, interpolate, "coordinate_system", [["global"], {"x": "global"}], "coordinate_system")
    yield from wrong_values(of, interpolate, "obsm_keys", ["nothing", 3, [3], ["a/b"]], "obsm")
    yield from wrong_values(
        of, interpolate, "window", [(0, 0, 1, 1), (0, 0, 0, 0), "all", 3, [None], {"a": None}, (0, 0, float("nan"), 1)]
    )
    yield Bad(of, "both n_slices and positions", lambda _: interpolate(n_slices=2, positions=[0.5]), ("n_slices",))
    yield Bad(SERIES, "one object", lambda _: in_series(slices=_whole()), ("slices", "library_key="))
    yield Bad(EVALUATE, "one object", lambda _: evaluate(slices=_whole()), ("slices", "library_key="))
    yield Bad(SERIES, "no such column", lambda _: in_series(slices=_whole(), library_key="x"), ("library_key", "'x'"))


def _cells() -> Iterator[Bad]:
    of, (a, b) = CELLS, _pair_of_cells()

    def call(**given: Any) -> object:
        given = {"slice_a": a, "slice_b": b, "model": "linear", "labels": "domain", **QUIET, **given}
        return c2sti.tl.interpolate_cells(given.pop("slice_a"), given.pop("slice_b"), **given)

    def typed(types: Any) -> ad.AnnData:
        adata = b.copy()
        adata.obs["domain"] = types
        return adata

    yield Bad(of, "spots", lambda _: call(slice_b=pair()[1]), ("slice_b", "square array of spots", "interpolate"))
    yield Bad(of, "49 cells", lambda _: call(slice_b=b[:49].copy()), ("slice_b", "49 cells", "50"))
    yield Bad(of, "no types", lambda _: call(slice_b=typed(np.nan)), ("slice_b", "domain", "labels=None"))
    yield Bad(of, "numbers for types", lambda _: call(slice_b=typed(0.5)), ("domain", "labels|numbers"))
    yield Bad(of, "no counts", lambda _: call(slice_a=_logged(a), slice_b=_logged(b), counts=True), ("counts=True",))
    yield from wrong_values(of, call, "labels", ["nothing", "", 3, ["domain"], "from_cell", "section"], "labels|domain")
    yield from wrong_values(of, call, "n_slices", [0, -1, 1.5, "three", [1]])
    yield from wrong_values(of, call, "positions", [[], [0.0], [float("nan")], "half", [0.7, 0.3]])
    yield from wrong_values(of, call, "genes", [[], ["nothing"], 3])
    yield from wrong_values(of, call, "model", ["nothing", 3])
    yield from wrong_values(of, call, "on_misfit", ["shout"])
    yield from wrong_values(of, call, "device", ["gpu"])
    yield from wrong_values(of, call, "seed", [-1, 1.5, None])
    yield from wrong_values(of, call, "key_added", ["", "a/b", "spatial"])


@cache
def _pair_of_cells() -> list[ad.AnnData]:
    tissue = c2sti.datasets.phantom(seed=0, size=6, n_genes=12)
    return tissue.series([0.0, 100.0], layout="cells", image=False)


def _logged(adata: ad.AnnData) -> ad.AnnData:
    adata = adata.copy()
    adata.X = adata.X.log1p()
    return adata


def _series() -> Iterator[Bad]:
    of, call = SERIES, in_series
    yield from _of_a_series(of, call)
    yield from wrong_values(
        of,
        call,
        "at_z",
        [[], [-1.0], [300.0], [50.0, 50.0], [60.0, 50.0], [float("nan")], ["half"], [[1.0], [2.0]], "half"],
    )
    yield from wrong_values(
        of, call, "spacing", [0, -1.0, float("nan"), float("inf"), 1e-9, 300.0, "wide", [50.0], None]
    )
    yield from wrong_values(of, call, "key_added", ["slice"])
    lists: list[Any] = [[], [1], [1, 1, 1], [1, -1], [1, 1.5], [1, None], [[1, 1]], ["one", "one"], {0: 1}]
    yield from wrong_values(
        of, call, "n_slices", [0, -1, 1.5, float("nan"), 10**9, True, "three", None, *lists], "n_slices|at_z"
    )
    yield Bad(of, "both spacing and at_z", lambda _: in_series(spacing=50.0, at_z=[50.0]), ("spacing", "at_z"))
    yield Bad(of, "both n_slices and spacing", lambda _: in_series(n_slices=1, spacing=50.0), ("n_slices", "spacing"))


def _plane() -> Iterator[Bad]:
    of, call = PLANE, in_plane
    yield from _of_a_series(of, call)
    origin, up, nan = (0, 0, 0), (0, 0, 1), float("nan")
    planes: list[Any] = [
        *([], [origin], [origin, up, up], [origin, origin], [origin, (0, 1)], [(0, 0, nan), up], [origin, (0, nan, 1)]),
        *([origin, "up"], ["here", up], [origin, None], [[origin], [up]], "x", 3000.0, None, up, origin),
        *({}, {"x": nan}, {"x": "middle"}, {"x": None}, {"t": 1.0}, {"x": 1.0, "z": 2.0}, {"x": 1e9}, {"z": -1.0}),
    ]
    yield from wrong_values(of, call, "plane", planes)


def _of_a_series(of: str, call: Callable[..., object]) -> Iterator[Bad]:
    """What all functions of a series take."""
    yield from wrong_values(of, call, "slices", [[], series()[:1], series()[0], None, 3, "series", ["a.h5ad"] * 3])
    yield from wrong_values(
        of,
        call,
        "z",
        [[], [0, 1], [0, 1, 1], [2, 1, 0], [0, 1, float("nan")], ["top", "middle", "end"], 3, "deep", [[0, 1, 2]]],
        "z has|z holds|z of the sections",
    )
    yield from wrong_values(of, call, "n_context", [-1, 1.5, "two", None])
    yield from wrong_values(of, call, "model", ["nothing", 3, None])
    yield from wrong_values(of, call, "layer", ["nothing"])
    yield from wrong_values(of, call, "pitch", [0, float("nan"), "wide"])
    yield from wrong_values(of, call, "genes", [[], ["nothing"], 3])
    yield from wrong_values(of, call, "obs_keys", ["nothing", 3], "obs_keys|columns")
    yield from wrong_values(of, call, "interval", [0, 90, "wide"])
    yield from wrong_values(of, call, "on_misfit", ["shout"])
    yield from wrong_values(of, call, "device", ["gpu"])
    yield from wrong_values(of, call, "seed", [-1, "zero"])
    yield from wrong_values(of, call, "key_added", ["", "a/b", 3])
    yield Bad(of, "no depths", lambda _: call(slices=[changed(s, _no_depth) for s in series()]), (r"slices\[0\]", "z="))


def _no_depth(section: ad.AnnData) -> None:
    del section.obs["z_um"]


def _evaluate() -> Iterator[Bad]:
    of, call = EVALUATE, evaluate
    yield from wrong_values(of, call, "slices", [[], series()[:2], series()[0], None, "series"], r"sections|slices")
    yield from wrong_values(of, call, "methods", [["nothing"], [3], 3, [None], "nothing"], "methods?")
    yield from wrong_values(of, call, "n_slices", [0, -1, 1.5, 2, "one", None])
    yield from wrong_values(
        of, call, "z", [[0, 1], [0, 1, 1], [0, 1, float("nan")], ["a", "b", "c"], 3], "z has|z holds|z of the sections"
    )
    yield from wrong_values(of, call, "n_genes", [0, -1, 1.5, "all", None])
    yield from wrong_values(of, call, "intervals", [[0], [1.5], ["wide"], 0.9, [float("nan")], "wide"])
    yield from wrong_values(of, call, "output", ["bins", "", None, 3])
    yield from wrong_values(of, call, "labels", ["domain", "nothing"])
    yield Bad(of, "cells of spots", lambda _: call(output="cells", methods=["linear"]), ("spots", "interpolate"))
    yield from wrong_values(of, call, "layer", ["nothing"])
    yield from wrong_values(of, call, "device", ["gpu"])
    yield from wrong_values(of, call, "seed", [-1, "zero"])


def _train() -> Iterator[Bad]:
    of, call = TRAIN, train
    yield from wrong_values(of, call, "series", [[], series()[:2], series()[0], None, "series"])
    yield from wrong_values(of, call, "model", ["nothing", 3, "linear", "unet"])
    yield from wrong_values(of, call, "config", [{"channels": 4}, "small", 3])
    yield from wrong_values(of, call, "how", [{"steps": 1}, "gently", 3])
    yield from wrong_values(of, call, "n_slices", [0, -1, 1.5, "one", None])
    yield from wrong_values(of, call, "z", [[0, 1], [0, 1, 1], ["a", "b", "c"]], "z has|z holds|z of the sections")
    yield from wrong_values(of, call, "n_genes", [0, -1, 1.5, "all", None])
    yield from wrong_values(of, call, "histology_encoder", ["resnet"])
    yield from wrong_values(of, call, "device", ["gpu"])
    yield from wrong_values(of, call, "seed", [-1, "zero"])
    yield Bad(of, "a folder that is a file", lambda folder: _train_into_a_file(folder), ("folder|file",))
    yield Bad(of, "settings beside a model", lambda _: train(model=network(), config=c2sti.C2STiConfig()), ("config",))


def _train_into_a_file(folder: Path) -> object:
    (folder / "state").write_text("")
    return train(folder=folder / "state")
