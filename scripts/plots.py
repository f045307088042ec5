"""The figures of the documentation, each for a light and a dark page: ``python -m scripts.plots docs/_static [DATA]``.

Figures of simulated tissue are drawn always, those of measured tissue where DATA holds the series (`c2sti.datasets`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure
from PIL import Image

import c2sti
from c2sti.datasets import Phantom

STYLES = {"": "default", "_dark": "dark_background"}
DPI = 110  # of a screen: the pages stay light
GENE = "gene_125"  # of simulated tissue: high in the tumour
CORTEX = ["MOBP", "PCP4", "ENC1"]  # white matter, layer 5, layers 2 and 3
MYH7 = "ENSG00000092054"
QUIET: dict[str, Any] = {"show_progress_bar": False}
Drawings = dict[str, Callable[[], Figure]]


def main(folder: Path, data: Path | None = None) -> None:
    """Draw all and save them."""
    for name, draw in (simulated() | (measured(data) if data else {})).items():
        for suffix, style in STYLES.items():
            with plt.style.context(style):
                save(draw(), folder / f"{name}{suffix}.png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure whose background is the page's, in 256 colours."""
    figure.savefig(path, bbox_inches="tight", dpi=DPI, transparent=True)
    Image.open(path).quantize(256, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)
    plt.close("all")
    print(path)


def of(axes: Any) -> Figure:
    """The figure of the axes that a plot returns."""
    return (axes[0] if isinstance(axes, list) else axes).figure


# -- Simulated tissue


def simulated() -> Drawings:
    """Figures of a simulated tissue, whose truth is known."""
    tissue = c2sti.datasets.phantom(seed=0, size=20, n_genes=300)
    return of_result(tissue) | of_network() | cells() | evaluation()


def of_result(tissue: Phantom) -> Drawings:
    """Plots of one result, and of an alignment."""
    first, last = tissue.series([0.0, 400.0])
    out = c2sti.tl.interpolate(first, last, n_slices=3, std=True, obs_keys="domain", **QUIET)
    ends, pl = ["slice_a", "c2sti_2", "slice_b"], c2sti.pl
    rotated = (tissue.section(0.0), tissue.section(100.0, angle=120.0))
    c2sti.pp.align(*rotated)
    return {
        "sections": lambda: beside_truth(out, tissue, GENE),
        "guide_limits": lambda: lost(out, tissue),
        "guide_large": lambda: as_factors(out),
        "pl_sections": lambda: of(pl.sections(out, [GENE, "domain", None])),
        "pl_stack": lambda: of(pl.stack(out, [GENE, "domain"], z_scale=3.0)),
        "pl_spread": lambda: of(pl.spread(out, GENE, sections=["c2sti_1", "c2sti_3"])),
        "pl_displacement": lambda: of(pl.displacement(moved(out), ["c2sti_1", "c2sti_3"], img=False, scalebar_dx=1.0)),
        "pl_coexpression": lambda: of(pl.coexpression(out, GENE, sections=ends)),
        "pl_alignment": lambda: of(pl.alignment(*rotated)),
        "pl_genes": lambda: of(pl.genes(scores(out, tissue))),
    }


def of_network() -> Drawings:
    """The training of the bundled checkpoint."""
    settings = Path(c2sti.__file__).parent / "weights" / "config.json"
    history = json.loads(settings.read_text(encoding="utf-8"))["card"]["history"]
    return {"pl_training_history": lambda: of(c2sti.pl.training_history(history))}


def evaluation() -> Drawings:
    """Held-out sections of a small series."""
    series = c2sti.datasets.phantom(seed=0, size=12, n_genes=150).series([0.0, 100.0, 200.0, 300.0, 400.0])
    table = c2sti.tl.evaluate(series, half_observed=True, **QUIET)
    return {"pl_evaluation": lambda: of(c2sti.pl.evaluation(table))}


def beside_truth(out: AnnData, tissue: Phantom, gene: str) -> Figure:
    """Measured and interpolated sections of one gene above, the truth without noise below."""
    names, depths = list(out.uns["c2sti"]["sections"]), np.asarray(out.uns["c2sti"]["z"])
    truth, xy = out.copy(), out.obsm["spatial"]
    for name, z in zip(names, depths, strict=True):
        truth.layers[name] = tissue.expression(xy, z)
        truth.obs[f"{name}_tissue"] = tissue.inside(xy, z)
    top = float(np.quantile(truth[:, gene].layers["c2sti_2"], 0.99))
    figure, axs = plt.subplots(2, len(names), figsize=(10, 4.6), layout="constrained")
    c2sti.pl.sections(out, gene, ax=list(axs[0]), vmax=top)
    c2sti.pl.sections(truth, gene, ax=list(axs[1]), vmax=top)
    for ax, z in zip(axs[1], depths, strict=True):
        ax.set_title(f"truth without noise\nz = {z:.0f}", fontsize=9, color=plt.rcParams["text.color"])
        ax.spines[:].set(edgecolor="0.6", linestyle="-")
    return figure


def moved(out: AnnData) -> AnnData:
    """The result with a displacement that was made up, as a network that moves tissue would write it."""
    lattice = out.uns["c2sti"]["lattice"]
    rows, columns = np.indices(tuple(int(n) for n in lattice["shape"]))
    field = float(lattice["pitch"]) * np.stack([-np.sin(columns / 6), 0.5 * np.cos(rows / 5)])
    out = out.copy()
    out.uns["c2sti"]["notes"]["displacement"] = np.stack([0.5 * field, field, 0.5 * field]).astype(np.float32)
    return out


def scores(out: AnnData, tissue: Phantom) -> pd.DataFrame:
    """PCC of each gene with the simulated truth, in the middle section and in a copy of the first."""
    xy, inside = out.obsm["spatial"], (out.obs["c2sti_2_tissue"] & out.obs["slice_a_tissue"]).to_numpy()
    truth = tissue.expression(xy, 200.0)[inside]
    layers = {"c2sti": "c2sti_2", "copy": "slice_a"}
    found = {method: c2sti.metrics.gene_pcc(out.layers[layer][inside], truth) for method, layer in layers.items()}
    return pd.concat([pd.DataFrame({"method": m, "pcc": pcc}, index=out.var_names) for m, pcc in found.items()])


def lost(out: AnnData, tissue: Phantom) -> Figure:
    """Three genes in the middle of the gap: the truth, and what interpolation keeps of it."""
    genes = {kind: str(tissue.programmes[kind].idxmax()) for kind in ("tumour", "lymphoid", "plasma")}
    xy = out.obsm["spatial"]
    inside = tissue.inside(xy, 200.0) & out.obs["c2sti_2_tissue"].to_numpy()
    values = {"truth": tissue.expression(xy, 200.0), "interpolated": out.layers["c2sti_2"]}
    figure, axs = plt.subplots(2, len(genes), figsize=(8, 5.4), layout="constrained")
    for column, (kind, gene) in enumerate(genes.items()):
        at = out.var_names.get_loc(gene)
        ends = np.quantile(values["truth"][inside, at], [0.02, 0.995])
        for ax, (name, value) in zip(axs[:, column], values.items(), strict=True):
            dots = ax.scatter(*xy[inside].T, c=value[inside, at], s=36, marker="s", vmin=ends[0], vmax=ends[1])
            bare(ax, f"{kind}: {name}")
        figure.colorbar(dots, ax=axs[:, column], location="bottom", shrink=0.6, label="log1p expression")
    return figure


def as_factors(out: AnnData) -> Figure:
    """An interpolated section as the product of its weights and the shared loadings."""
    rows = out.obs["c2sti_2_tissue"].to_numpy()
    values = out.layers["c2sti_2"][rows]
    left, singular, right = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    order = np.argsort(right[0])
    pictures = {
        "expression\n(bins × genes)": values[:, order],
        "weights, obsm\n(bins × factors)": left[:, :12] * singular[:12],
        "loadings, varm\n(factors × genes)": right[:12][:, order],
    }
    figure, axs = plt.subplots(1, 3, figsize=(8, 3.2), layout="constrained", width_ratios=[3, 1, 3])
    for ax, (title, picture) in zip(axs, pictures.items(), strict=True):
        end = np.quantile(np.abs(picture), 0.98)
        signed = picture.min() < 0
        ax.imshow(picture, aspect="auto", cmap="RdBu_r" if signed else "viridis", vmin=-end if signed else 0, vmax=end)
        bare(ax, title)
    axs[2].set_box_aspect(0.25)
    for ax, sign in zip(axs[:2], "=×", strict=True):
        ax.text(1.08, 0.5, sign, transform=ax.transAxes, fontsize=16, ha="center", va="center")
    return figure


def cells() -> Drawings:
    """Cells of two simulated sections, and of the section between them."""
    tissue = c2sti.datasets.phantom(seed=0, size=14, n_genes=60)
    a, middle, b = tissue.series([0.0, 100.0, 200.0], layout="cells")
    out = c2sti.tl.interpolate_cells(a, b, labels="domain", **QUIET)
    shown = {"measured, z = 0": a, "interpolated, z = 100": out, "held out, z = 100": middle, "measured, z = 200": b}
    kinds = list(a.obs["domain"].cat.categories)

    def draw() -> Figure:
        figure, axs = plt.subplots(1, 4, figsize=(10, 3), layout="constrained", sharex=True, sharey=True)
        for ax, (title, section) in zip(axs, shown.items(), strict=True):
            codes = pd.Categorical(section.obs["domain"], categories=kinds).codes
            dots = ax.scatter(*section.obsm["spatial"].T, c=codes, s=1.5, cmap="tab10", vmin=0, vmax=9)
            bare(ax, title)
        axs[0].invert_yaxis()
        handles = [plt.Line2D([], [], marker="o", ls="", color=dots.cmap(dots.norm(i))) for i in range(len(kinds))]
        figure.legend(handles, kinds, loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=8)
        return figure

    return {"guide_cells": draw}


def bare(ax: Any, title: str) -> None:
    """No ticks; y downwards and equal units where places are shown."""
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    ax.spines[:].set_visible(False)
    if ax.collections:
        ax.set_aspect("equal")
        if not ax.yaxis_inverted():
            ax.invert_yaxis()


# -- Measured tissue


def measured(data: Path) -> Drawings:
    """Figures of measured series: cortex (DLPFC, Visium), breast cancer (her2st), developing heart."""
    return cortex(data) | breast(data) | heart(data)


def cortex(data: Path) -> Drawings:
    """DLPFC: one section held out, and two interpolated over a gap of 300 µm."""
    series = [c2sti.datasets.dlpfc(name, data_dir=data, download=False) for name in (151673, 151674, 151675)]
    c2sti.pp.align_series(series)
    before, held_out, after = series
    genes: dict[str, Any] = {"genes": CORTEX, **QUIET}
    out = c2sti.tl.interpolate(held_out, after, n_slices=2, obs_keys="layer", std=True, **genes)
    models = {
        model: c2sti.tl.interpolate(
            before, after, positions=[10.0], at=held_out.obsm["spatial_aligned"], model=model, **genes
        )
        for model in ("copy", "linear", "gp", "c2sti")
    }
    found = {"measured": logs(held_out)[:, CORTEX].to_df()}
    found |= {model: made.to_df("c2sti_1") for model, made in models.items()}
    xy = held_out.obsm["spatial_aligned"]
    return {
        "cortex": lambda: of(c2sti.pl.sections(out, CORTEX[:2], vmax="p99", figsize=(10, 5))),
        "guide_labels": lambda: of(c2sti.pl.sections(out, "layer", figsize=(10, 3))),
        "guide_trust": lambda: maps(xy, {k: found[k] for k in ("measured", "c2sti", "copy")}, CORTEX),
        "guide_models": lambda: maps(xy, found, CORTEX[1:2]),
        "guide_uncertainty": lambda: of(c2sti.pl.spread(out, CORTEX[1], figsize=(8, 3.6))),
    }


def logs(section: AnnData) -> AnnData:
    """Counts scaled to 10,000 a spot, log1p."""
    counts = np.asarray(section.X.sum(axis=1)).ravel()
    return AnnData(np.log1p(section.X.toarray() * (1e4 / counts)[:, None]), section.obs, section.var)


def maps(xy: np.ndarray, found: dict[str, pd.DataFrame], genes: list[str]) -> Figure:
    """Genes in rows, sections in columns; each panel on its own scale, since interpolated values vary less."""
    shape = (len(genes), len(found))
    figure, axs = plt.subplots(*shape, figsize=(2.6 * shape[1], 2.7 * shape[0]), layout="constrained", squeeze=False)
    truth = found["measured"]
    for gene, row in zip(genes, axs, strict=True):
        for (name, values), ax in zip(found.items(), row, strict=True):
            ends = np.quantile(values[gene], [0.02, 0.98])
            ax.scatter(*xy.T, c=values[gene], s=3, vmin=ends[0], vmax=ends[1])
            pcc = np.corrcoef(values[gene], truth[gene])[0, 1]
            bare(ax, f"{gene}, {name}" + ("" if name == "measured" else f"\nPCC {pcc:.2f}"))
    return figure


def breast(data: Path) -> Drawings:
    """her2st C: three layouts of inputs, alignment by H&E, and virtual beside stained H&E."""
    before, middle, after = (c2sti.datasets.her2st(name, data_dir=data, download=False) for name in ("C3", "C4", "C5"))
    c2sti.pp.align_series([before, middle, after])
    out = c2sti.tl.interpolate(before, after, genes=["ERBB2"], **QUIET)
    (stained,) = middle.uns["spatial_aligned"].values()
    return {
        "guide_inputs": lambda: layouts(before, c2sti.datasets.dlpfc(151674, data_dir=data, download=False)),
        "guide_alignment": lambda: of(c2sti.pl.alignment(before, middle, figsize=(8, 4))),
        "guide_histology": lambda: virtual(out, stained),
    }


def layouts(square: AnnData, hexagonal: AnnData) -> Figure:
    """A square array on its H&E, a hexagonal array, and single cells in square bins."""
    some = c2sti.datasets.phantom(seed=0, size=14, n_genes=20).section(0.0, layout="cells")
    figure, axs = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    (library,) = square.uns["spatial"].values()
    scale = library["scalefactors"]["tissue_hires_scalef"]
    axs[0].imshow(library["images"]["hires"])
    axs[0].scatter(*(square.obsm["spatial"] * scale).T, s=9, facecolors="none", edgecolors="k", lw=0.6)
    xy = hexagonal.obsm["spatial"]
    window = np.all(np.abs(xy - np.median(xy, axis=0)) < 0.12 * np.ptp(xy, axis=0), axis=1)
    axs[1].scatter(*xy[window].T, c=np.asarray(hexagonal[window].X.sum(axis=1)).ravel(), s=70)
    near = some.obsm["spatial"] - np.median(some.obsm["spatial"], axis=0)
    near = near[np.all(np.abs(near) < 200, axis=1)]
    axs[2].scatter(*near.T, s=9, color="tab:orange")
    axs[2].set(xlim=(-200, 200), ylim=(-200, 200))
    for at in np.arange(-200, 201, 400 / 9):
        axs[2].axhline(at, color="0.6", lw=0.5)
        axs[2].axvline(at, color="0.6", lw=0.5)
    titles = (
        "square array, with H&E:\nspot by spot",
        "hexagonal array (Visium):\nspot by spot",
        "cells: bins of about four",
    )
    for ax, title in zip(axs, titles, strict=True):
        bare(ax, title)
    axs[2].set_aspect("equal")
    return figure


def virtual(out: AnnData, stained: dict[str, Any]) -> Figure:
    """H&E of two neighbours, the virtual one between them, and that of the section itself."""
    figure, axs = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
    c2sti.pl.sections(out, None, ax=list(axs[:3]))
    factor = float(stained["scalefactors"]["tissue_hires_scalef"])
    image = stained["images"]["hires"]
    axs[3].imshow(image, extent=(0, image.shape[1] / factor, image.shape[0] / factor, 0))
    axs[3].set(xlim=axs[1].get_xlim(), ylim=axs[1].get_ylim(), xticks=[], yticks=[])
    axs[3].set_title("the section itself,\nstained and held out", fontsize=9)
    return figure


def heart(data: Path) -> Drawings:
    """The developing heart: a stack of measured and interpolated sections."""
    series = [c2sti.datasets.developing_heart(i, data_dir=data) for i in range(3, 9)]
    stack = c2sti.tl.interpolate_series(
        series, n_slices=1, spatial_key="spatial_3d", genes=[MYH7], obs_keys="region", **QUIET
    )
    return {"guide_series": lambda: of(c2sti.pl.stack(stack, [MYH7, "region"], z_scale=2.0, figsize=(10, 5)))}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
