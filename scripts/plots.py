"""The figures of docs/api/plotting.md, of simulated tissue: ``python -m scripts.plots docs/_static``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData

import c2sti
from c2sti.datasets import Phantom

GENE = "gene_125"
ENDS = ["slice_a", "c2sti_2", "slice_b"]
DPI = 100  # of a screen: the pages stay light


def main(folder: Path) -> None:
    """Draw all and save them."""
    tissue = c2sti.datasets.phantom(seed=0, size=28, n_genes=300)
    first, last = tissue.series([0.0, 400.0])
    quiet: dict[str, Any] = {"show_progress_bar": False}
    out = c2sti.tl.interpolate(first, last, n_slices=3, std=True, obs_keys="domain", **quiet)
    table = c2sti.tl.evaluate(tissue.series([0.0, 100.0, 200.0, 300.0, 400.0]), half_observed=True, **quiet)
    pl, rotated = c2sti.pl, (tissue.section(0.0), tissue.section(100.0, angle=120.0))
    c2sti.pp.align(*rotated)
    drawn = {
        "sections": pl.sections(out, [GENE, "domain", None]),
        "stack": pl.stack(out, [GENE, "domain"], z_scale=3.0),
        "spread": pl.spread(out, GENE, sections=["c2sti_1", "c2sti_3"]),
        "displacement": pl.displacement(moved(out), ["c2sti_1", "c2sti_3"], img=False, scalebar_dx=1.0),
        "coexpression": pl.coexpression(out, GENE, sections=ENDS),
        "alignment": pl.alignment(*rotated),
        "evaluation": [pl.evaluation(table)],
        "genes": [pl.genes(scores(out, tissue))],
    }
    for name, axes in drawn.items():
        axes[0].figure.savefig(folder / f"pl_{name}.png", bbox_inches="tight", dpi=DPI)
    plt.close("all")


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
