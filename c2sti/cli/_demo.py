"""``c2sti demo``: the main job on a simulated tissue, whose truth is known."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from anndata import AnnData

from c2sti import _keys, metrics, pl, tl
from c2sti.cli._files import check_free, replaced, write
from c2sti.cli._options import add_force, give, give_table, say
from c2sti.datasets import Phantom, phantom
from c2sti.models._registry import METHODS

Z = (0.0, 100.0, 200.0, 300.0, 400.0)  # µm; only the first and the last are measured
DEFAULT = "c2sti"


def demo_options(parser: argparse.ArgumentParser) -> None:
    """Options of `demo`."""
    add = parser.add_argument
    text = "folder to write into (default: %(default)s)"
    add("-o", "--output", type=Path, default=Path("demo"), metavar="DIR", help=text)
    add("--size", type=int, default=28, metavar="N", help="spots along a side of the tissue (default: %(default)s)")
    add("--genes", type=int, default=300, metavar="N", help="genes (default: %(default)s)")
    add_force(parser)


def demo(chosen: argparse.Namespace) -> None:
    """Hold out three sections of a simulated tissue, interpolate them from their neighbours, compare with the truth.

    Needs no data and no network, and takes about a minute. Writes sections.h5ad, sections.zarr (the same result) and
    sections.png into DIR.

    stdout: the correlation of every method with the held-out truth, mean over genes, at each z; then the paths written.

    Examples
    --------
      c2sti demo
      c2sti demo -o somewhere --size 20 --genes 100
    """
    h5ad, zarr, png = (chosen.output / f"sections.{kind}" for kind in ("h5ad", "zarr", "png"))
    check_free([h5ad, zarr, png], [], force=chosen.force)
    tissue = phantom(seed=0, size=chosen.size, n_genes=chosen.genes)
    first, last = tissue.series([Z[0], Z[-1]])
    say(chosen, f"measured: {first.n_obs} and {last.n_obs} spots, {first.n_vars} genes, {Z[-1]:.0f} µm apart")
    results = {}
    for method in (*METHODS, DEFAULT):
        say(chosen, f"interpolating three sections by {method}{', the default' if method == DEFAULT else ''}")
        results[method] = tl.interpolate(first, last, n_slices=3, model=method, show_progress_bar=not chosen.quiet)
    columns = ["method", *(f"{z:.0f}_um" for z in Z[1:-1])]
    give_table(columns, ([method, *_scores(result, tissue)] for method, result in results.items()))
    write(results[DEFAULT], h5ad)
    write(results[DEFAULT], zarr)
    _draw(results[DEFAULT], tissue, png)
    say(
        chosen,
        "where a gene is rare an interpolated section is darker than the truth: the mean of noisy logarithms lies "
        "below the logarithm of the mean. Correlations are blind to it",
    )
    for path in (h5ad, zarr, png):
        give(path)


def _scores(out: AnnData, tissue: Phantom) -> list[float]:
    """Mean correlation over genes of each interpolated section with the noise-free truth."""
    xy, names = out.obsm[_keys.SPATIAL], out.uns[_keys.RESULT]["inserted"]
    return [
        round(metrics.pcc(out.layers[name], tissue.expression(xy, z), mask=tissue.inside(xy, z)), 3)
        for name, z in zip(names, Z[1:-1], strict=True)
    ]


def _draw(out: AnnData, tissue: Phantom, path: Path) -> None:
    """Measured and interpolated sections above, the truth below."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - seconds that --help should not cost

    gene = str(tissue.programmes["tumour"].idxmax())
    truth = out.copy()
    names = list(out.uns[_keys.RESULT]["sections"])
    for name, z in zip(names, Z, strict=True):
        truth.layers[name] = tissue.expression(out.obsm[_keys.SPATIAL], z)
        truth.obs[_keys.tissue(name)] = tissue.inside(out.obsm[_keys.SPATIAL], z)
    top = float(np.quantile(truth.layers[names[2]][:, truth.var_names == gene], 0.99))
    with plt.ioff(), replaced(path) as part:
        figure, axs = plt.subplots(2, len(Z), figsize=(13, 6), layout="constrained")
        pl.sections(out, gene, ax=axs[0], vmax=top)
        pl.sections(truth, gene, ax=axs[1], vmax=top)
        for ax, z in zip(axs[1], Z, strict=True):
            ax.set_title(f"truth without noise\nz = {z:.0f}", fontsize=9, color="#333333")
            for spine in ax.spines.values():
                spine.set(edgecolor="0.7", linestyle="-")
        figure.suptitle(f"{gene}: two measured sections, three interpolated, and the truth")
        figure.savefig(part, dpi=110)
        plt.close(figure)
