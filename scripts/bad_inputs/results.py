"""Results to tools that take them apart: `tl.describe`, `tl.to_slices`, `tl.to_spatialdata`, `tl.to_volume`, …"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

import c2sti
from scripts.bad_inputs import Bad, wrong_values
from scripts.bad_inputs.material import changed, in_uns, pair, result, stack

Step = Callable[[AnnData], object]


def _without_layer(name: str) -> Step:
    return lambda a: a.layers.pop(name)


def _without_values() -> AnnData:
    out = stack()
    out.X = None
    return out


def _without_column(name: str) -> Step:
    return lambda a: a.obs.drop(columns=name, inplace=True)


# A result that was edited, and what the message has to say.
EDITED: dict[str, tuple[Step, str]] = {
    "without its record": (in_uns("c2sti", value=None), r"uns\['c2sti'\]"),
    "its record is text": (in_uns("c2sti", value="made by me"), r"uns\['c2sti'\]"),
    "its record is empty": (in_uns("c2sti", value={}), r"uns\['c2sti'\]"),
    "its record is a list": (in_uns("c2sti", value=["sections"]), r"uns\['c2sti'\]"),
    "without names of sections": (in_uns("c2sti", "sections", value=None), "sections"),
    "without names of interpolated sections": (in_uns("c2sti", "inserted", value=None), "inserted"),
}
# Those that matter only to tools that need the section's values.
CUT: dict[str, tuple[Step, str]] = {
    "without a lattice": (in_uns("c2sti", "lattice", value=None), "lattice"),
    "a lattice without a pitch": (
        in_uns("c2sti", "lattice", value={"origin": [0, 0], "shape": [3, 3]}),
        "lattice|pitch",
    ),
    "without positions and depths": (
        lambda a: (in_uns("c2sti", "positions", value=None)(a), in_uns("c2sti", "z", value=None)(a)),
        "positions",
    ),
    "without a layer": (_without_layer("c2sti_1"), "c2sti_1"),
    "without a column of its tissue": (_without_column("c2sti_1_tissue"), "c2sti_1_tissue"),
    "without a column of its support": (_without_column("support"), "support"),
    "a section named that is not there": (
        in_uns("c2sti", "sections", value=["slice_a", "c2sti_7", "slice_b"]),
        "c2sti_7|positions",
    ),
    "without coordinates": (lambda a: a.obsm.pop("spatial"), r"obsm\['spatial'\]"),
}


def cases() -> Iterator[Bad]:
    """All of these."""
    for of, call in TOOLS.items():
        for what, (step, says) in EDITED.items():
            yield Bad(of, f"a result {what}", lambda f, c=call, s=step: c(changed(result(), s), f), (says,))
        yield Bad(of, "a measured section", lambda f, c=call: c(pair()[0], f), (r"uns\['c2sti'\]",))
        for what, thing in (
            ("None", None),
            ("a path", "sections.h5ad"),
            ("a list", [1]),
            ("an array", np.zeros((3, 3))),
        ):
            yield Bad(of, what, lambda f, c=call, t=thing: c(t, f), ("adata", type(thing).__name__))
    for of in ("tl.to_slices", "tl.to_spatialdata", "tl.to_volume", "tl.sample_counts", "tl.get_section"):
        call = TOOLS[of]
        for what, (step, says) in CUT.items():
            if of == "tl.sample_counts" and what == "without a column of its support":
                pass
            quick = of != "tl.to_spatialdata"
            yield Bad(of, f"a result {what}", lambda f, c=call, s=step: c(changed(result(), s), f), (says,), quick)
    yield from _slices()
    yield from _volume()
    yield from _spatialdata()
    yield from _counts()
    yield from _coexpression()
    for name, call in (("a result", result), ("a stack", stack)):
        for wrong in ("c2sti_9", "", "SLICE_A", 1, None, ["c2sti_1"]):
            yield Bad(
                "tl.get_section",
                f"section={wrong!r} of {name}",
                lambda _, c=call, w=wrong: c2sti.tl.get_section(c(), w),
                ("section",),
            )
    yield from wrong_values(
        "tl.get_section",
        lambda key: c2sti.tl.get_section(result(), "c2sti_1", key=key),
        "key",
        ["other", 3, None],
        "uns|key",
    )
    call = lambda _: c2sti.tl.get_section(_without_values(), "c2sti_1")
    yield Bad("tl.get_section", "a stack without X", call, ("X",))
    yield from wrong_values(
        "tl.describe", lambda key: c2sti.tl.describe(result(), key=key), "key", ["other", 3, None], "uns|key"
    )


TOOLS: dict[str, Callable[[Any, Path], object]] = {
    "tl.describe": lambda a, _: c2sti.tl.describe(a),
    "tl.to_slices": lambda a, _: c2sti.tl.to_slices(a),
    "tl.to_spatialdata": lambda a, _: c2sti.tl.to_spatialdata(a),
    "tl.to_volume": lambda a, f: c2sti.tl.to_volume(a, f / "v.zarr", genes="gene_001"),
    "tl.sample_counts": lambda a, _: c2sti.tl.sample_counts(a),
    "tl.get_section": lambda a, _: c2sti.tl.get_section(a, "c2sti_1"),
}


def _slices() -> Iterator[Bad]:
    of = "tl.to_slices"
    yield Bad(of, "a stack", lambda _: c2sti.tl.to_slices(stack()), ("already",))
    yield from wrong_values(of, lambda key: c2sti.tl.to_slices(result(), key=key), "key", ["other", 3, None], "uns|key")
    yield from wrong_values(
        of,
        lambda gap: c2sti.tl.to_slices(result(), gap=gap),
        "gap",
        [0, -5.0, float("nan"), float("inf"), "wide", [1.0]],
    )


def _volume() -> Iterator[Bad]:
    of = "tl.to_volume"

    def volume(folder: Path, adata: AnnData | None = None, **given: Any) -> object:
        path = given.pop("path", folder / "volume.zarr")
        return c2sti.tl.to_volume(result() if adata is None else adata, path, **{"genes": "gene_001", **given})

    def there(folder: Path) -> Path:
        (folder / "there.zarr").mkdir()
        return folder / "there.zarr"

    values: dict[str, list[Any]] = {
        "genes": [[], ["nothing"], "nothing", 3, [3], None],
        "key": ["other", 3],
        "gap": [0, -5.0, float("nan"), "wide"],
        "um_per_unit": [0, -1.0, float("nan"), float("inf"), "px", None],
        "fill": ["none", None, float("inf")],
        "path": [3, None],
    }
    for name, wrong in values.items():
        says = r"uns|key" if name == "key" else rf"\b{name}\b"
        for value in wrong:
            yield Bad(of, f"{name}={value!r}", lambda f, n=name, v=value: volume(f, **{n: v}), (says,))
    yield Bad(of, "a path that is there", lambda f: volume(f, path=there(f)), ("exists", "overwrite"))
    yield Bad(
        of, "a folder that is no zarr, overwrite", lambda f: volume(f, path=there(f), overwrite=True), ("no zarr",)
    )
    yield Bad(of, "in no folder", lambda f: volume(f, path=f / "a" / "b.zarr"), ("no folder",))
    yield Bad(
        of, "in a folder that is not written into", lambda f: volume(f, path="/proc/b.zarr"), ("/proc", "written")
    )
    yield Bad(of, "at points of one's own", lambda f: volume(f, _shaken()), ("at=",))
    yield Bad(of, "an uneven stack", lambda f: volume(f, _uneven()), ("apart", "even"))
    yield Bad(
        of, "one section", lambda f: volume(f, stack()[stack().obs["section"] == "c2sti_1"].copy()), ("one section",)
    )
    for column, says in (("z", "z"), ("section", "slice_a")):
        yield Bad(
            of,
            f"a stack without {column}",
            lambda f, c=column: volume(f, changed(stack(), _without_column(c))),
            (says,),
        )


def _shaken() -> AnnData:
    out = result()
    out.obsm["spatial"] = np.asarray(out.obsm["spatial"]) + 13.0
    return out


def _uneven() -> AnnData:
    out = stack()
    return out[(out.obs["section"] != "c2sti_1").to_numpy()].copy()


def _spatialdata() -> Iterator[Bad]:
    of = "tl.to_spatialdata"

    def made(adata: AnnData | None = None, **given: Any) -> object:
        return c2sti.tl.to_spatialdata(result() if adata is None else adata, **given)

    yield from wrong_values(of, made, "key", ["other", 3], "uns|key")
    yield from wrong_values(of, made, "um_per_unit", [0, -1.0, float("nan"), float("inf"), "px", None])
    yield from wrong_values(
        of,
        made,
        "originals",
        [
            {"a/b": pair()[0]},
            {"": pair()[0]},
            {3: pair()[0]},
            {"a": None},
            {"a": "a.h5ad"},
            pair()[0],
            [pair()[0]],
            {"a": 3},
        ],
        r"originals|cannot be the name",
    )
    yield Bad(
        of, "an original called like a section", lambda _: made(originals={"slice_a": _named()}), ("originals", "name")
    )
    yield Bad(of, "an original without coordinates", lambda _: made(originals={"a": _bare()}), ("originals", "obsm"))
    yield Bad(
        of, "spatial_key of no original", lambda _: made(originals={"a": pair()[0]}, spatial_key="x"), ("spatial_key",)
    )


def _named() -> AnnData:
    return pair()[0]


def _bare() -> AnnData:
    return changed(pair()[0], lambda a: a.obsm.clear())


def _counts() -> Iterator[Bad]:
    of = "tl.sample_counts"

    def drawn(adata: AnnData | None = None, **given: Any) -> object:
        return c2sti.tl.sample_counts(result() if adata is None else adata, **given)

    yield from wrong_values(
        of, drawn, "sections", ["slice_a", "nothing", [], 3, [3], ["c2sti_1", "c2sti_9"]], "section"
    )
    yield from wrong_values(of, drawn, "genes", [[], ["nothing"], "nothing", 3, [3], ["gene_001", "gene_001"]])
    yield from wrong_values(of, drawn, "key", ["other", 3], "uns|key")
    yield from wrong_values(of, drawn, "seed", [-1, 1.5, "zero", None])
    yield Bad(of, "drawn counts", lambda _: drawn(c2sti.tl.sample_counts(result())), ("drawn",))
    yield Bad(
        of,
        "of logarithms",
        lambda _: drawn(changed(result(), in_uns("c2sti", "expression", value="as given"))),
        ("counts",),
    )
    yield Bad(of, "without library sizes", lambda _: drawn(changed(result(), _no_sizes)), ("library_size",))
    yield Bad(
        of,
        "one neighbour's library sizes",
        lambda _: drawn(changed(result(), _without_column("slice_b_library_size"))),
        ("slice_b_library_size",),
    )
    yield Bad(
        of,
        "a stack without a neighbour",
        lambda _: drawn(stack()[stack().obs["section"] != "slice_a"].copy()),
        ("slice_a", "stack"),
    )


def _no_sizes(adata: AnnData) -> None:
    adata.obs.drop(columns=[c for c in adata.obs if c.endswith("library_size")], inplace=True)


def _coexpression() -> Iterator[Bad]:
    of = "tl.coexpression"

    def graph(adata: Any = ..., **given: Any) -> object:
        return c2sti.tl.coexpression(pair()[0] if adata is ... else adata, **given)

    for value in (None, "a.h5ad", np.zeros((30, 3))):
        yield Bad(of, type(value).__name__, lambda _, v=value: graph(v), ("adata", type(value).__name__))
    yield from wrong_values(of, graph, "layer", ["nothing", 3, ["counts"]])
    yield from wrong_values(of, graph, "n_edges", [0, -1, 1.5, "many", None])
    yield from wrong_values(of, graph, "key_added", [3, "a/b"])
    for what, step, says in (
        ("no X", lambda a: setattr(a, "X", None), "X"),
        ("X is text", lambda a: setattr(a, "X", a.X.toarray().astype(str)), "X.*(<U|str)"),
        ("X is complex", lambda a: setattr(a, "X", a.X.toarray() + 1j), "X.*complex"),
        ("X holds infinity", lambda a: setattr(a, "X", np.where(a.X.toarray() > 3, np.inf, 0)), "X.*infinite"),
        ("X is NaN in every row", lambda a: setattr(a, "X", np.full(a.shape, np.nan)), "NaN"),
    ):
        yield Bad(of, what, lambda _, s=step: graph(changed(pair()[0], s)), (says,))
    yield Bad(of, "no spots", lambda _: graph(pair()[0][:0].copy()), ("0 |spots|rows",))
    yield Bad(of, "one spot", lambda _: graph(pair()[0][:1].copy()), ("1 |spots|rows",))
    yield Bad(of, "no genes", lambda _: graph(pair()[0][:, :0].copy()), ("gene",))
