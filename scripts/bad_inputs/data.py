"""`datasets` and `metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from c2sti import datasets, metrics
from scripts.bad_inputs import Bad, wrong_values
from scripts.bad_inputs.material import series

NAN, INF = float("nan"), float("inf")


def cases() -> Iterator[Bad]:
    """All of these."""
    yield from _made()
    yield from _real()
    yield from _openst()
    yield from _patches()
    yield from _metrics()


def _made() -> Iterator[Bad]:
    of, call = "datasets.phantom", datasets.phantom
    yield from wrong_values(of, call, "seed", [-1, 0.5, "zero", None])
    yield from wrong_values(of, call, "n_genes", [1, 10.5, "many", None])
    yield from wrong_values(of, call, "size", [3, 8.5, "large", None])
    yield from wrong_values(of, call, "pitch", [0, -1.0, NAN, INF, "wide", None])
    yield from wrong_values(of, call, "motion", [-1.0, NAN, INF, "fast"])
    yield from wrong_values(of, call, "change", [-1.0, NAN, "much"])
    yield from wrong_values(of, call, "overdispersion", [-1.0, NAN, "much"])
    of = "Phantom.section"

    def section(**given: Any) -> object:
        return datasets.phantom(seed=0, size=8, n_genes=12).section(**{"z": 0.0, **given})

    yield from wrong_values(of, section, "z", [NAN, INF, "deep", None, [0.0]])
    yield from wrong_values(of, section, "layout", ["round", None, 3])
    yield from wrong_values(of, section, "library_size", [0, -1.0, NAN, INF, "large"])
    yield from wrong_values(of, section, "um_per_px", [0, -1.0, NAN, INF, "fine"])
    yield from wrong_values(of, section, "angle", [NAN, "left", None])
    yield from wrong_values(of, section, "shift", [(1e9, 0.0), (NAN, 0.0), 3, (1.0,), "left", (1.0, 2.0, 3.0)])
    yield from wrong_values(of, section, "seed", [-1, 0.5, "zero"])
    yield Bad(of, "series of no depths", lambda _: datasets.phantom(seed=0, size=8).series(3), ("zs",))
    yield Bad(of, "series of words", lambda _: datasets.phantom(seed=0, size=8).series(["top"]), (r"\bz\b",))


_REAL: dict[str, tuple[str | int, str]] = {  # a section of each series, and its file
    "her2st": ("A1", "her2st/her2st_A1.h5ad"),
    "stahl": (1, "stahl_bc/BC1.h5ad"),
    "developing_heart": (2, "dev_heart/heart6.5_2.h5ad"),
    "dlpfc": (151673, "dlpfc/151673.h5ad"),
    "starmap": (1, "starmap/starmap_1.h5ad"),
}


def _real() -> Iterator[Bad]:
    yield from wrong_values(
        "datasets.sections",
        lambda series: datasets.sections(series),
        "series",
        ["nothing", "", 3, None, ["stahl"]],
        "series",
    )
    for name, (section, file) in _REAL.items():
        load = getattr(datasets, name)
        wrong = ["Z9", 99, "", None, ["A1"]]
        yield from wrong_values(f"datasets.{name}", lambda section, l=load: l(section), "section", wrong, "no section")
        given = {} if name in ("developing_heart", "starmap") else {"download": False}
        for what, folder in (
            ("empty", lambda f: f),
            ("that is not there", lambda f: f / "nowhere"),
            ("a number", lambda f: 3),
        ):
            call = lambda f, l=load, s=section, d=folder, g=given: l(s, data_dir=d(f), **g)
            yield Bad(f"datasets.{name}", f"data_dir {what}", call, ("data_dir",))
        yield Bad(
            f"datasets.{name}",
            "a file that is no h5ad",
            lambda f, l=load, s=section, g=given, b=file: l(s, data_dir=_broken(f, b), **g),
            (Path(file).name,),
        )


def _broken(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir()
    (folder / name).write_bytes(b"nothing")
    return folder


def _openst() -> Iterator[Bad]:
    of = "datasets.openst"

    def written(folder: Path, name: str = "tissue_S2.h5ad") -> Path:
        section = series()[0]
        section.write_h5ad(folder / name)
        return folder

    def bare(folder: Path) -> Path:
        section = series()[0]
        section.obsm.clear()
        section.write_h5ad(folder / "tissue_S2.h5ad")
        return folder

    for what, where, says in (
        ("is not there", lambda f: f / "nowhere", "nowhere"),
        ("is empty", lambda f: f, "no section in"),
        ("a number", lambda f: 3, "path"),
        ("None", lambda f: None, "path"),
        ("of files without numbers", lambda f: written(f, "tissue.h5ad"), "does not end in the number"),
        ("of a section without coordinates", bare, "no spatial coordinates"),
        ("of a file that is no h5ad", lambda f: _garbage(f), "tissue_S2.h5ad"),
    ):
        yield Bad(of, f"a path that {what}", lambda f, w=where: datasets.openst(w(f)), (says,))
    values: dict[str, list[Any]] = {
        "sections": [[7], ["two"], 3, "S2"],
        "pitch": [0, -1.0, NAN, INF, "wide"],
        "genes": [["nothing"], 3, []],
        "spatial_key": ["nothing", 3],
        "um_per_px": [0, NAN, INF, "fine", None],
        "thickness_um": [0, NAN, "thin", None],
        "image_px": [0, -1, 1.5, "many", None],
        "pattern": [3, ""],
    }
    says = {"sections": "section", "spatial_key": "obsm|spatial_key"}
    for name, wrong in values.items():
        for value in wrong:
            call = lambda f, n=name, v=value: datasets.openst(written(f), **{"spatial_key": "spatial", n: v})
            yield Bad(of, f"{name}={value!r}", call, (says.get(name, rf"\b{name}\b"),))


def _garbage(folder: Path) -> Path:
    (folder / "tissue_S2.h5ad").write_bytes(b"nothing")
    return folder


def _patches() -> Iterator[Bad]:
    of = "datasets.patches"

    def cut(**given: Any) -> object:
        slices = given.pop("slices") if "slices" in given else series()
        return datasets.patches(slices, **{"pixel_um": 2.0, "shares": (1, 0, 0), "size": 64, **given})

    yield from wrong_values(
        of, cut, "slices", [[], series()[:2], series()[0], None, series()[::-1][1:] + series()[:2]], "sections|slices"
    )
    yield from wrong_values(of, cut, "size", [0, -1, 1.5, "large", None, 10**6])
    yield from wrong_values(of, cut, "pixel_um", [0, -1.0, NAN, INF, "fine"])
    yield from wrong_values(of, cut, "window", [2, 9, 3.5, "wide", None], "windows?")
    yield from wrong_values(of, cut, "split", ["patient", None])
    yield from wrong_values(
        of,
        cut,
        "shares",
        [(1, 1), (-1, 1, 1), (0, 0, 0), (NAN, 1, 1), "all", 3, ("a", "b", "c"), (1, 1, 1)],
        "shares|too few",
    )
    yield from wrong_values(of, cut, "least", [-0.1, 1.1, NAN, "half", None])
    yield from wrong_values(of, cut, "spatial_key", ["nothing", 3], r"spatial_key|obsm\[")
    yield from wrong_values(of, cut, "seed", [-1, 0.5, "zero"])


def _metrics() -> Iterator[Bad]:
    good = np.arange(12.0).reshape(4, 3)
    matrices: dict[str, tuple[Any, str]] = {
        "another shape": (good[:, :2], r"shape \(4, 2\)"),
        "one axis": (good[:, 0], "shape"),
        "no rows": (good[:0], "shape"),
        "NaN": (np.where(good == 3, NAN, good), "NaN"),
        "infinity": (np.where(good == 3, INF, good), "infinite"),
        "text": (good.astype(str), "<U"),
        "words": (np.full(good.shape, "much"), "<U"),
        "complex numbers": (good + 1j, "complex"),
        "None": (None, "NoneType"),
        "a section": (series()[0], "AnnData"),
    }
    for name in ("gene_pcc", "pcc", "rmse", "rv", "psnr"):
        score, given = getattr(metrics, name), {"data_range": 10.0} if name == "psnr" else {}
        of = f"metrics.{name}"
        for what, (wrong, says) in matrices.items():
            yield Bad(
                of, f"predicted of {what}", lambda _, s=score, w=wrong, g=given: s(w, good, **g), ("predicted", says)
            )
        yield Bad(of, "measured of NaN", lambda _, s=score, g=given: s(good, good * NAN, **g), ("measured", "NaN"))
        yield Bad(
            of, "both without rows", lambda _, s=score, g=given: s(good[:0], good[:0], **g), ("predicted", "shape")
        )
        for what, mask in (
            ("of another length", np.ones(3, bool)),
            ("of nothing", np.zeros(4, bool)),
            ("of numbers", np.arange(4)),
            ("of text", "all"),
        ):
            yield Bad(of, f"a mask {what}", lambda _, s=score, m=mask, g=given: s(good, good, mask=m, **g), ("mask",))
    maps = np.random.default_rng(0).random((2, 9, 9))
    for of, call in (
        ("metrics.psnr", lambda data_range: metrics.psnr(good, good + 1, data_range=data_range)),
        ("metrics.ssim", lambda data_range: metrics.ssim(maps, maps, data_range=data_range)),
    ):
        yield from wrong_values(of, call, "data_range", [0, -1.0, NAN, INF, "wide", None])
    of = "metrics.ssim"
    for what, wrong, says in (
        ("another shape", maps[:1], "shape"),
        ("two axes", maps[0], "shape"),
        ("small", maps[:, :5, :5], "shape"),
        ("NaN", np.where(maps > 0.9, NAN, maps), "NaN"),
        ("text", maps.astype(str), "<U"),
        ("no genes", maps[:0], "shape"),
    ):
        other = wrong if what in ("two axes", "small", "no genes") else maps
        yield Bad(
            of,
            f"predicted of {what}",
            lambda _, w=wrong, o=other: metrics.ssim(w, o, data_range=1.0),
            ("predicted", says),
        )
    for what, mask in (
        ("of another shape", np.ones((3, 3), bool)),
        ("of nothing", np.zeros((9, 9), bool)),
        ("of numbers", np.ones((9, 9))),
    ):
        yield Bad(of, f"a mask {what}", lambda _, m=mask: metrics.ssim(maps, maps, data_range=1.0, mask=m), ("mask",))
    of = "metrics.ceiling"
    for what, wrong, says in (
        ("one axis", np.arange(4), "shape"),
        ("no rows", np.zeros((0, 3)), "shape"),
        ("NaN", good * NAN, "NaN"),
        ("negative", -good - 1, "negative"),
        ("logarithms", np.log1p(good), "whole"),
        ("text", good.astype(str), "<U"),
        ("None", None, "counts"),
    ):
        yield Bad(of, f"counts {what}", lambda _, w=wrong: metrics.ceiling(w), ("counts", says))
    yield from wrong_values(
        of, lambda genes: metrics.ceiling(good, genes=genes), "genes", [[7], [], "all", np.array([0.5])]
    )
    yield from wrong_values(of, lambda seed: metrics.ceiling(good, seed=seed), "seed", [-1, 0.5, "zero"])
