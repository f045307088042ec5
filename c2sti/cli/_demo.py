"""``c2sti demo``: the main job on a simulated tissue, whose truth is known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from c2sti import _keys, metrics, pl, tl
from c2sti.cli._files import aside, check_free, write
from c2sti.cli._options import add_force, command, give, give_table, say
from c2sti.datasets import Phantom, phantom
from c2sti.models._registry import METHODS

DESCRIPTION = """\
The main job on a simulated tissue: hide three sections, make them from their neighbours, compare with the truth.

Needs no data and no network, and takes about a minute. Writes sections.h5ad, sections.zarr (the same result) and
sections.png into DIR.

stdout: the correlation of every method with the hidden truth, mean over genes, at each depth; then the paths written.
"""

EPILOG = """\
examples:
  c2sti demo
  c2sti demo -o somewhere --size 20 --genes 100
"""

DEPTHS = (0.0, 100.0, 200.0, 300.0, 400.0)  # µm; only the first and the last are measured
DEFAULT = "c2sti"


def add(commands: Any) -> None:
    """Add the command."""
    parser = command(commands, "demo", does="see it work on a simulated tissue", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder to write into (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, default=28, metavar="N", help="spots along a side of the tissue (default: %(default)s)"
    )
    parser.add_argument("--genes", type=int, default=300, metavar="N", help="genes (default: %(default)s)")
    add_force(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> None:
    """Do it."""
    h5ad, zarr, png = (chosen.output / f"sections.{kind}" for kind in ("h5ad", "zarr", "png"))
    check_free([h5ad, zarr, png], [], force=chosen.force)
    tissue = phantom(seed=0, size=chosen.size, n_genes=chosen.genes)
    first, last = tissue.series([DEPTHS[0], DEPTHS[-1]])
    say(chosen, f"measured: {first.n_obs} and {last.n_obs} spots, {first.n_vars} genes, {DEPTHS[-1]:.0f} µm apart")
    results = {}
    for method in (*METHODS, DEFAULT):
        say(chosen, f"inserting three sections by {method}{', the default' if method == DEFAULT else ''}")
        results[method] = tl.interpolate(first, last, n_slices=3, model=method, show_progress_bar=not chosen.quiet)
    columns = ["method", *(f"{z:.0f}_um" for z in DEPTHS[1:-1])]
    give_table(columns, ([method, *_closeness(result, tissue)] for method, result in results.items()))
    write(results[DEFAULT], h5ad)
    write(results[DEFAULT], zarr)
    _draw(results[DEFAULT], tissue, png)
    say(
        chosen,
        "where a gene is rare an interpolated section is darker than the truth: the mean of noisy logarithms lies "
        "below the logarithm of the mean. Correlations do not see it",
    )
    for path in (h5ad, zarr, png):
        give(path)


def _closeness(out: AnnData, tissue: Phantom) -> list[float]:
    """Mean correlation over genes of each interpolated section with the noise-free truth."""
    scores = []
    for name, z in zip(out.uns[_keys.RESULT]["inserted"], DEPTHS[1:-1], strict=True):
        inside = tissue.inside(out.obsm[_keys.SPATIAL], z)
        truth = tissue.expression(out.obsm[_keys.SPATIAL], z)
        scores.append(round(metrics.pcc(out.layers[name], truth, mask=inside), 3))
    return scores


def _draw(out: AnnData, tissue: Phantom, path: Path) -> None:
    """Measured and interpolated sections above, the truth that the method never saw below."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - seconds that --help should not cost

    gene = str(tissue.programmes["tumour"].idxmax())
    truth = out.copy()
    names = list(out.uns[_keys.RESULT]["sections"])
    for name, z in zip(names, DEPTHS, strict=True):
        truth.layers[name] = tissue.expression(out.obsm[_keys.SPATIAL], z)
        truth.obs[_keys.tissue(name)] = tissue.inside(out.obsm[_keys.SPATIAL], z)
    top = float(np.quantile(truth.layers[names[2]][:, truth.var_names == gene], 0.99))
    with plt.ioff():
        figure, axs = plt.subplots(2, len(DEPTHS), figsize=(13, 6), layout="constrained")
        pl.sections(out, gene, axs=axs[0], vmax=top)
        pl.sections(truth, gene, axs=axs[1], vmax=top)
        for ax, z in zip(axs[1], DEPTHS, strict=True):
            ax.set_title(f"truth without noise\nz = {z:.0f}", fontsize=9, color="#333333")
            for spine in ax.spines.values():
                spine.set(edgecolor="0.7", linestyle="-")
        figure.suptitle(f"{gene}: two measured sections, three interpolated, and what was hidden")
        with aside(path) as part:
            figure.savefig(part, dpi=110)
        plt.close(figure)
