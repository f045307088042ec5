"""The main job on a made tissue: hide three sections, make them from their neighbours, compare with the truth.

Writes ``demo/sections.h5ad``, ``demo/sections.zarr`` and ``demo/sections.png``.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData

import c2sti
from c2sti.datasets import Phantom

OUT = Path("demo")
DEPTHS = (0.0, 100.0, 200.0, 300.0, 400.0)  # µm; only the first and the last are measured
METHODS = ("copy", "linear", "lowrank", "gp", "c2sti")


def closeness(out: AnnData, tissue: Phantom) -> list[float]:
    """Mean correlation over genes of each inserted section with the noise-free truth."""
    scores = []
    for name, z in zip(out.uns["c2sti"]["inserted"], DEPTHS[1:-1], strict=True):
        inside = tissue.inside(out.obsm["spatial"], z)
        truth = tissue.expression(out.obsm["spatial"], z)
        scores.append(c2sti.metrics.pcc(out.layers[name], truth, mask=inside))
    return scores


def picture(out: AnnData, tissue: Phantom, gene: str) -> None:
    """Measured and inserted sections above, the truth that the method never saw below."""
    figure, axs = plt.subplots(2, len(DEPTHS), figsize=(13, 6), layout="constrained")
    truth = out.copy()
    names = list(out.uns["c2sti"]["sections"])
    for name, z in zip(names, DEPTHS, strict=True):
        truth.layers[name] = tissue.expression(out.obsm["spatial"], z)
        truth.obs[f"{name}_tissue"] = tissue.inside(out.obsm["spatial"], z)
    top = float(np.quantile(truth.layers[names[2]][:, truth.var_names == gene], 0.99))
    c2sti.pl.sections(out, gene, axs=axs[0], vmax=top)
    c2sti.pl.sections(truth, gene, axs=axs[1], vmax=top)
    for ax, z in zip(axs[1], DEPTHS, strict=True):
        ax.set_title(f"truth without noise\nz = {z:.0f}", fontsize=9, color="#333333")
        for spine in ax.spines.values():
            spine.set(edgecolor="0.7", linestyle="-")
    figure.suptitle(f"{gene}: two measured sections, three inserted, and what was hidden")
    figure.savefig(OUT / "sections.png", dpi=110)


def main() -> None:
    """Run it."""
    warnings.filterwarnings("ignore", category=SyntaxWarning)  # one of squidpy's dependencies, when it is imported
    tissue = c2sti.datasets.phantom(seed=0, size=28, n_genes=300)
    first, last = tissue.series([DEPTHS[0], DEPTHS[-1]])
    print(f"measured: {first.n_obs} and {last.n_obs} spots, {first.n_vars} genes, {DEPTHS[-1]:.0f} µm apart")
    results = {m: c2sti.tl.interpolate(first, last, n_slices=3, model=m, show_progress_bar=False) for m in METHODS}

    print("\ncorrelation with the hidden truth, mean over genes:")
    print(f"{'':10}" + "".join(f"{z:>9.0f} µm" for z in DEPTHS[1:-1]))
    for method, result in results.items():
        note = "   <- default" if method == "c2sti" else ""
        print(f"{method:10}" + "".join(f"{r:12.3f}" for r in closeness(result, tissue)) + note)

    OUT.mkdir(exist_ok=True)
    out = results["c2sti"]
    out.write_h5ad(OUT / "sections.h5ad")
    shutil.rmtree(OUT / "sections.zarr", ignore_errors=True)
    with warnings.catch_warnings():
        # zarr and anndata, at every write: on formats and shards of theirs
        warnings.filterwarnings("ignore", message=".*autosharding|Consolidated metadata|Writing zarr v2")
        out.write_zarr(OUT / "sections.zarr")
    picture(out, tissue, gene=str(tissue.programmes["tumour"].idxmax()))
    print(
        "\nWhere a gene is rare an inserted section is darker than the truth: the mean of noisy logarithms lies below"
    )
    print("the logarithm of the mean. Correlations do not see it.")
    print(f"\nwritten: {', '.join(str(OUT / f'sections.{kind}') for kind in ('h5ad', 'zarr', 'png'))}")


if __name__ == "__main__":
    main()
