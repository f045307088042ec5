"""`pl`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import c2sti
from scripts.bad_inputs import Bad, wrong_values
from scripts.bad_inputs.material import changed, in_uns, pair, result, stack
from scripts.bad_inputs.results import CUT, EDITED

NAN = float("nan")


def _closing(draw: Any) -> Any:
    def call(*given: Any, **named: Any) -> object:
        try:
            return draw(*given, **named)
        finally:
            plt.close("all")

    return call


def cases() -> Iterator[Bad]:
    """All of these."""
    pl = c2sti.pl
    tools = {
        "pl.sections": _closing(lambda adata=..., gene="gene_001", **given: pl.sections(_or(adata), gene, **given)),
        "pl.spread": _closing(lambda adata=..., gene="gene_001", **given: pl.spread(_or(adata), gene, **given)),
        "pl.displacement": _closing(lambda adata=..., **given: pl.displacement(_or(adata), **given)),
        "pl.coexpression": _closing(
            lambda adata=..., gene="gene_001", **given: pl.coexpression(_or(adata), gene, **given)
        ),
    }
    for of, call in tools.items():
        for value in (None, "sections.h5ad", np.zeros((3, 3))):
            yield Bad(
                of, f"adata is {type(value).__name__}", lambda _, c=call, v=value: c(v), ("adata", type(value).__name__)
            )
        for what, (step, says) in EDITED.items():
            if of == "pl.coexpression":  # without a record it is one section, whose graph is missing
                says = f"{says}|varp"
            yield Bad(of, f"a result {what}", lambda _, c=call, s=step: c(changed(result(), s)), (says,))
        says = r"uns\['c2sti'\]|varp"
        yield Bad(of, "a measured section", lambda _, c=call: c(pair()[0]), (says,))
        yield from wrong_values(of, call, "key", ["other", 3], r"uns\[|varp|key")
        if of != "pl.displacement":
            yield from wrong_values(of, call, "gene", ["nothing", 3, [], [3], ["gene_001", "nothing"]], "gene|color")
    for of in ("pl.sections", "pl.spread"):
        call = tools[of]
        for what in ("without a lattice", "a lattice without a pitch", "without a layer", "without coordinates"):
            step, says = CUT[what]
            name = "c2sti_1" if of == "pl.spread" else None
            given = {} if name is None else {"sections": name}
            yield Bad(
                of, f"a result {what}", lambda _, c=call, s=step, g=given: c(changed(result(), s), **g), (says,), False
            )
        yield from wrong_values(of, call, "cmap", ["ugly", 3], quick=False)
        yield from wrong_values(of, call, "vmin", [NAN, "low", "p101"], quick=False)
        yield from wrong_values(of, call, "vmax", [NAN, "high"], quick=False)
        yield Bad(of, "vmin above vmax", lambda _, c=call: c(vmin=2.0, vmax=1.0), ("vmin", "vmax"), False)
        yield Bad(of, "save into no folder", lambda f, c=call: c(save=f / "no" / "a.png"), ("save|no folder",), False)
        yield Bad(of, "save as nothing known", lambda f, c=call: c(save=f / "a.xyz"), ("save", "xyz"), False)
        yield Bad(of, "save=3", lambda f, c=call: c(save=3), ("save",), False)
    yield from wrong_values("pl.sections", tools["pl.sections"], "ax", [[], [None], plt, 3, [1, 2, 3, 4]], r"\bax\b")
    yield from wrong_values(
        "pl.spread", tools["pl.spread"], "sections", ["nothing", "slice_a", 3, []], "section|measured"
    )
    yield from wrong_values("pl.spread", tools["pl.spread"], "contours", [-1, 1.5, "many", None])
    yield from wrong_values("pl.spread", tools["pl.spread"], "ax", [3, "here"], r"\bax\b")
    yield Bad("pl.spread", "without std", lambda _: tools["pl.spread"](_unsure()), ("std",))
    yield Bad(
        "pl.spread",
        "a stack without std",
        lambda _: tools["pl.spread"](changed(stack(), lambda a: a.layers.clear())),
        ("std",),
    )
    yield from _displacement(tools["pl.displacement"])
    yield from _coexpression(tools["pl.coexpression"])
    yield from _evaluation()
    yield from _stack()
    yield from _alignment()
    yield from _genes()


def _or(adata: Any) -> Any:
    return result() if adata is ... else adata


def _unsure() -> Any:
    out = result()
    for name in [n for n in out.layers if str(n).endswith("_std")]:
        del out.layers[name]
    return out


def _moved() -> Any:
    """A result whose model moved tissue."""
    out = result()
    height, width = (int(n) for n in out.uns["c2sti"]["lattice"]["shape"])
    in_uns("c2sti", "notes", value={"displacement": np.ones((2, 2, height, width))})(out)
    return out


def _displacement(draw: Any) -> Iterator[Bad]:
    of = "pl.displacement"

    def moved(**given: Any) -> object:
        return draw(_moved(), **given)

    yield Bad(of, "by a model that moves nothing", lambda _: draw(), ("displacement", "linear"))
    yield from wrong_values(of, moved, "sections", ["nothing", "slice_a", 3, []], "section|measured")
    picture = np.zeros((9, 9, 3), np.uint8)
    yield from wrong_values(of, moved, "img", [picture, "tissue.png", 3, None])
    yield from wrong_values(
        of,
        lambda img: moved(img=img, scale_factor=1.0),
        "img",
        [picture[..., 0, None, None], np.zeros(3), picture.astype(str)],
    )
    yield from wrong_values(
        of, lambda scale_factor: moved(img=picture, scale_factor=scale_factor), "scale_factor", [0, -1.0, NAN, "small"]
    )
    yield from wrong_values(of, moved, "img_alpha", [-1.0, 2.0, NAN, "thin"])
    yield from wrong_values(of, moved, "scalebar_dx", [0, -1.0, NAN, "px"])
    yield from wrong_values(of, moved, "ax", [3], r"\bax\b")
    for what, field in (
        ("of another shape", np.ones((2, 2))),
        ("of one section", np.ones((1, 2, 4, 4))),
        ("of text", "far"),
    ):
        yield Bad(
            of,
            f"a displacement {what}",
            lambda _, v=field: draw(changed(_moved(), in_uns("c2sti", "notes", value={"displacement": v}))),
            ("displacement",),
        )


def _coexpression(draw: Any) -> Iterator[Bad]:
    of = "pl.coexpression"
    yield from wrong_values(of, draw, "sections", ["nothing", [], 3, [3]], "section")
    yield from wrong_values(of, draw, "kind", ["tree", None, 3])
    yield from wrong_values(of, draw, "n_genes", [0, -1, 1.5, "all", None])
    yield from wrong_values(of, draw, "cmap", ["ugly", 3])
    yield from wrong_values(of, draw, "ax", [[], [None], 3], r"\bax\b")
    yield Bad(of, "without measured layers", lambda _: draw(changed(result(), _ungraphed)), ("layers",))
    yield Bad(of, "a section with sections=", lambda _: draw(_graphed(), sections="slice_a"), ("sections",))


def _ungraphed(adata: Any) -> None:
    """A result that has neither its graphs nor what they are made from."""
    adata.uns["c2sti"].pop("coexpression")
    del adata.layers["slice_a"]


def _graphed() -> Any:
    section = pair()[0]
    c2sti.tl.coexpression(section)
    return section


def _evaluation() -> Iterator[Bad]:
    of = "pl.evaluation"
    table = pd.DataFrame({"section": [1, 1], "position": [0.5, 0.5], "method": ["copy", "gp"], "pcc": [0.1, 0.2]})

    def drawn(table: Any = table, **given: Any) -> object:
        return _closing(c2sti.pl.evaluation)(table, **given)

    yield from wrong_values(
        of,
        drawn,
        "table",
        [
            None,
            "scores.tsv",
            [1],
            {},
            table[:0],
            table.drop(columns="method"),
            table.assign(pcc="good"),
            table.assign(pcc=NAN),
        ],
        "table",
    )
    yield from wrong_values(of, drawn, "metric", ["beauty", None, 3, "method", ["pcc"]], "metric|column")
    yield from wrong_values(of, drawn, "ax", [3], r"\bax\b")
    yield Bad(of, "save as nothing known", lambda f: drawn(save=f / "a.xyz"), ("save", "xyz"), False)


def _stack() -> Iterator[Bad]:
    of = "pl.stack"

    def drawn(adata: Any = ..., color: Any = "gene_001", **given: Any) -> object:
        return _closing(c2sti.pl.stack)(_or(adata), color, **given)

    yield from wrong_values(of, drawn, "adata", [None, "sections.h5ad"])
    yield from wrong_values(of, drawn, "color", ["nothing", 3, None, []], "gene|color")
    yield from wrong_values(of, drawn, "sections", ["nothing", [], 3], "section")
    yield from wrong_values(of, drawn, "z_scale", [0, -1.0, NAN, "long"])
    yield from wrong_values(of, drawn, "elev", [NAN, "high"])
    yield from wrong_values(of, drawn, "azim", [NAN, "left"])
    yield from wrong_values(of, drawn, "ax", [3, [], [3]], r"\bax\b")


def _alignment() -> Iterator[Bad]:
    of = "pl.alignment"

    def drawn(first: Any = ..., second: Any = ..., **given: Any) -> object:
        reference, moving = pair()
        for section in (reference, moving):
            section.obsm["spatial_aligned"] = section.obsm["spatial"]
        first, second = (own if one is ... else one for one, own in ((first, reference), (second, moving)))
        return _closing(c2sti.pl.alignment)(first, second, **given)

    yield from wrong_values(of, drawn, "first", [None, "a.h5ad"], "reference")
    yield from wrong_values(of, drawn, "second", [None, 3], "moving")
    yield from wrong_values(of, drawn, "color", ["nothing", 3, [], [3]], "gene|color")
    yield from wrong_values(of, drawn, "layer", ["nothing"], "layer", quick=False)
    yield from wrong_values(of, drawn, "spatial_key", ["nothing", 3], "obsm")
    yield from wrong_values(of, drawn, "aligned_key", ["nothing", 3], "obsm")
    yield from wrong_values(of, drawn, "vmax", [NAN, "high"])
    yield from wrong_values(of, drawn, "figsize", [3, (1, 2, 3), (0, 1)])


def _genes() -> Iterator[Bad]:
    of = "pl.genes"
    table = pd.DataFrame({"pcc": [0.1, 0.2]}, index=["a", "b"])

    def drawn(table: Any = table, **given: Any) -> object:
        return _closing(c2sti.pl.genes)(table, **given)

    wrong = [None, "genes.tsv", {}, table[:0], table.assign(pcc="good"), table.assign(pcc=NAN)]
    yield from wrong_values(of, drawn, "table", wrong)
    yield from wrong_values(of, drawn, "gene", ["nothing", 3, [], [3]], "gene")
    yield from wrong_values(of, drawn, "metric", ["beauty", None, 3])
    yield from wrong_values(of, drawn, "n_genes", [0, -1, 1.5, "all"])
