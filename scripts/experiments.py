"""Five tables of docs/experiments.md, computed again.

    python scripts/experiments.py motion                    simulated tissue of 10 µm pitch: is its displacement found?
    python scripts/experiments.py planes                    sections at an angle, against the truth
    python scripts/experiments.py histology --data DIR      what the H&E of the missing section adds
    python scripts/experiments.py cells --data DIR          interpolated cells of STARmap, and of simulated tissue
    python scripts/experiments.py trust --data DIR          std and intervals against errors; half-observed limit

`--seeds` sets the number of seeds, of simulated tissue and of what is random in an answer. Each table takes a core some
minutes a seed and is printed; `--out` keeps its cases as CSV.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from scipy.cluster.vq import kmeans2
from scipy.spatial import KDTree
from scipy.stats import spearmanr

import c2sti
from c2sti import io
from c2sti._backed import in_memory, moments
from c2sti._result import lattice_of
from c2sti._types import Lattice
from c2sti.benchmark._leave_out import DETECTED, Half, depths, pair_of, windows
from c2sti.benchmark._series import find_series, read_series
from c2sti.models._registry import bundled
from c2sti.models.gp import Descriptions
from c2sti.ops import most_variable
from c2sti.uncertainty import ask

QUIET = {"show_progress_bar": False}
Row = dict[str, Any]


def scores(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """PCC, RMSE and RV."""
    return {name: float(getattr(c2sti.metrics, name)(predicted, measured)) for name in ("pcc", "rmse", "rv")}


# ---- displacement at a fine pitch


def motion(seeds: int, _: Path) -> Iterator[Row]:
    """The section halfway between two neighbours, a number of serial sections of 10 µm apart."""
    for moves in (0.0, 0.4, 1.0):
        for gap in (1, 2, 3, 5, 10):
            for seed in range(seeds):
                tissue = c2sti.datasets.phantom(seed=seed, size=40, n_genes=100, pitch=10.0, motion=moves)
                a, b = tissue.series([0.0, 10.0 * gap], image=False)
                middle = 5.0 * gap
                out = c2sti.tl.interpolate(a, b, seed=seed, **QUIET)
                rows = out.obs["c2sti_1_tissue"].to_numpy() & tissue.inside(out.obsm["spatial"], middle)
                xy = out.obsm["spatial"][rows]
                true = [tissue.displacement(xy, middle, z) for z in (0.0, 10.0 * gap)]
                record = out.uns["c2sti"]
                found = io.source_places(xy, record["notes"]["displacement"][0], lattice_of(record, "c2sti"), 0.5)
                error = np.mean([np.linalg.norm(at - xy - t, axis=1).mean() for at, t in zip(found, true, strict=True)])
                truth = tissue.expression(xy, middle)
                yield {
                    "motion": moves,
                    "gap": gap,
                    "seed": seed,
                    "at rest": np.mean([np.linalg.norm(t, axis=1).mean() for t in true]) / tissue.pitch,
                    "error": error / tissue.pitch,
                    "reliability": record["notes"]["displacement_reliability"],
                    **{
                        model: c2sti.metrics.pcc(_layer(a, b, model, at=xy, seed=seed), truth)
                        for model in ("linear", "gp", "c2sti")
                    },
                }


def _layer(a: AnnData, b: AnnData, model: str, **how: Any) -> np.ndarray:
    return np.asarray(c2sti.tl.interpolate(a, b, model=model, **how, **QUIET).layers["c2sti_1"])


# ---- planes at an angle


def planes(seeds: int, _: Path) -> Iterator[Row]:
    """Bins of a plane that lie in no measured section; the truth is that of the tissue there."""
    for moves in (0.4, 1.0):
        for angle in (90, 60, 30):
            for seed in range(seeds):
                tissue = c2sti.datasets.phantom(seed=seed, size=20, n_genes=100, pitch=20.0, motion=moves)
                series = tissue.series(np.arange(6) * 40.0, image=False)
                middle = tissue.side / 2
                normal = (np.sin(np.radians(angle)), 0.0, np.cos(np.radians(angle)))
                for model in ("copy", "linear", "lowrank", "gp", "c2sti"):
                    cut = c2sti.tl.slice_series(
                        series, plane=((middle, middle, 100.0), normal), model=model, pitch=10.0, seed=seed, **QUIET
                    )
                    x, y, z = np.asarray(cut.obsm["spatial_3d"]).T
                    between = np.abs(z - 40 * np.round(z / 40)) > 1e-3
                    truth, there = np.zeros(cut.shape), np.zeros(cut.n_obs, dtype=bool)
                    for one in np.unique(z[between]):
                        own = np.flatnonzero(z == one)
                        xy = np.column_stack([x, y])[own]
                        there[own], truth[own] = tissue.inside(xy, one), tissue.expression(xy, one)
                    found = scores(np.asarray(cut.X)[there], truth[there])
                    yield {"motion": moves, "angle": angle, "method": model, "seed": seed, "bins": there.sum(), **found}


# ---- H&E of the missing section


def histology(seeds: int, data: Path) -> Iterator[Row]:
    """Held-out sections by their neighbours: without their H&E, with it, and with it shuffled among its places."""
    for name, (a, target, b) in _stained(data, seeds):
        library = next(iter(target.uns["spatial"].values()))
        xy, measured = target.obsm["spatial"], target.X.toarray()
        for model in ("c2sti", "gp"):
            for kind, image in {"without": None, "with": library, "shuffled": _shuffled(library, target)}.items():
                how = {} if image is None else {"target_images": [image]}
                found = _layer(a, b, model, at=xy, positions=[0.5], **how)
                yield {"case": name, "model": model, "image": kind, **scores(found, measured)}


def _stained(data: Path, seeds: int) -> Iterator[tuple[str, list[AnnData]]]:
    """Three sections each, with the thousand genes that vary most in the outer two."""
    triples = {f"her2st C{i}": [f"her2st/her2st_C{j}" for j in (i - 1, i, i + 1)] for i in (3, 4, 5)}
    triples["dlpfc 151674"] = [f"dlpfc/{name}" for name in ("151673", "151674", "151675")]
    for name, files in triples.items():
        if all((data / f"{file}.h5ad").is_file() for file in files):
            sections = [ad.read_h5ad(data / f"{file}.h5ad") for file in files]
            c2sti.pp.align_series(sections)
            for section in sections:
                _take_aligned(section)
            yield name, _on_variable(sections)
    for seed in range(seeds):
        for layout in ("hex", "square"):
            tissue = c2sti.datasets.phantom(seed=seed, size=24, n_genes=400)
            how = {"layout": layout, "um_per_px": 2.5 if layout == "hex" else None}
            yield f"simulated {seed}, {layout}", _on_variable(tissue.series([0.0, 200.0, 400.0], **how))


def _take_aligned(section: AnnData) -> None:
    """Aligned coordinates and H&E in place of those of the slide."""
    section.obsm["spatial"] = section.obsm.pop("spatial_aligned")
    section.uns["spatial"] = section.uns.pop("spatial_aligned")


def _on_variable(sections: Sequence[AnnData]) -> list[AnnData]:
    shared = sorted(set.intersection(*(set(s.var_names) for s in sections)))
    found = [s[:, shared].copy() for s in sections]
    for section in found:
        sc.pp.normalize_total(section, target_sum=1e4)
        sc.pp.log1p(section)
    genes = np.sort(most_variable([moments(sp.csr_array(found[i].X)) for i in (0, 2)], 1000, DETECTED))
    return [s[:, genes].copy() for s in found]


def _shuffled(library: dict[str, Any], target: AnnData) -> dict[str, Any]:
    """The image with the surroundings of spots permuted among the spots."""
    key = "hires" if "hires" in library["images"] else "lowres"
    image = np.asarray(library["images"][key])
    at = np.asarray(target.obsm["spatial"]) * library["scalefactors"][f"tissue_{key}_scalef"]
    half = int(np.median(KDTree(at).query(at, k=2)[0][:, 1]) // 2)
    found, order = image.copy(), np.random.default_rng(0).permutation(len(at))
    for to, source in zip(np.round(at).astype(int), np.round(at[order]).astype(int), strict=True):
        patches = [tuple(slice(max(c - half, 0), c + half) for c in place[::-1]) for place in (to, source)]
        if found[patches[0]].shape == image[patches[1]].shape:
            found[patches[0]] = image[patches[1]]
    return {**library, "images": {key: found}}


# ---- cells


def cells(seeds: int, data: Path) -> Iterator[Row]:
    """Held-out sections of single cells, by the measures of ``tl.evaluate(output="cells")``."""
    blocks: dict[str, Callable[[int], tuple[list[AnnData], str]]] = {"simulated": _simulated_cells}
    if (data / "starmap").is_dir():
        slabs = [ad.read_h5ad(file) for file in sorted((data / "starmap").glob("*.h5ad"))]
        blocks["STARmap"] = lambda _: (slabs, "cell_class")
    for name, block in blocks.items():
        for seed in range(seeds):
            series, labels = block(seed)
            table = c2sti.tl.evaluate(series, output="cells", labels=labels, context=False, seed=seed, **QUIET)
            yield from table.assign(tissue=name, seed=seed).to_dict("records")


def _simulated_cells(seed: int) -> tuple[list[AnnData], str]:
    tissue = c2sti.datasets.phantom(seed=seed, size=20, n_genes=155)
    return tissue.series(np.arange(8) * 100.0, layout="cells", image=False), "domain"


# ---- how far a result can be trusted


def trust(seeds: int, data: Path) -> Iterator[Row]:
    """Every interior section of every measured series by its two neighbours, as `tl.evaluate` has them."""
    for series in find_series(data):
        grids = read_series(series, data)
        for window in windows(depths(grids, None), 1):
            own, position = grids[window.held_out[0]], window.positions[0]
            pair, genes = pair_of(grids, window, 1000, context=False)
            measured = io.section_of(replace(own, image=None), position, pair.lattice, genes)
            for seed in range(seeds):
                known, model = Descriptions(pair, device="cpu", seed=seed), bundled()
                told, halves = {}, Half.of(known, measured)
                answer, spread = ask(
                    known.bound(model), pair, measured.xy, [position], device="cpu", seed=seed, std=True, intervals=True
                )
                assert spread is not None and spread.calibration is not None
                predicted, truth = answer.slices[0].expression(), measured.expression.toarray()
                for level in (0.5, 0.9):
                    lower, upper = spread.calibration.intervals(level).bounds(predicted)
                    told[f"coverage {level}"] = ((lower <= truth) & (truth <= upper)).mean()
                if own.counts:
                    told |= _errors_told(predicted, spread.std(0), own, pair.lattice, genes, seed)
                without, given = (float(np.mean(pcc)) for pcc in halves.gene_scores(model))
                about = {"series": series.name, "section": own.name, "seed": seed}
                yield {**about, "pcc": without, "half observed": given, "share": without / given, **told}


def _errors_told(
    predicted: np.ndarray, std: np.ndarray, own: io.SliceGrid, lattice: Lattice, genes: pd.Index, seed: int
) -> Row:
    """Rank correlation of std² with the squared error of the expectation, and how large the error is beside it.

    The held-out counts are split into halves, whose errors multiplied are free of count noise; eight splits.
    """
    xy, stored, library = io.profiles(own, lattice, genes)
    counts = np.column_stack([in_memory(stored).toarray(), library]).round().astype(int)
    counts[:, -1] -= counts[:, :-1].sum(axis=1)  # all other genes
    rng, error = np.random.default_rng(seed), np.zeros_like(predicted, dtype=float)
    whole = _logarithms(counts).mean(axis=0)
    for _ in range(8):
        half = rng.binomial(counts, 0.5)
        found = [_logarithms(part) for part in (half, counts - half)]
        first, second = (predicted - part * whole / np.maximum(part.mean(axis=0), 1e-9) for part in found)
        error += first * second / 8
    variance = np.square(std)
    place = kmeans2(xy, 12, minit="++", seed=seed)[1]
    ranks = np.empty(len(genes), dtype=int)
    ranks[np.argsort(predicted.mean(axis=0))] = np.arange(len(genes))
    group = place[:, None] * 20 + ranks * 20 // len(genes)
    size = np.bincount(group.ravel(), minlength=240)
    by_group = [np.bincount(group.ravel(), values.ravel(), 240)[size > 0] for values in (variance, error)]
    return {
        "groups": spearmanr(*(total / size[size > 0] for total in by_group)).statistic,
        "genes": spearmanr(variance.mean(axis=0), error.mean(axis=0)).statistic,
        "spots": spearmanr(variance.mean(axis=1), error.mean(axis=1)).statistic,
        "ratio": error.mean() / variance.mean(),
        "mean std": std.mean(),
    }


def _logarithms(counts: np.ndarray) -> np.ndarray:
    """Log expression of all columns but the last, which counts towards the library size only."""
    return io.log_normalise(sp.csr_array(counts[:, :-1]), counts.sum(axis=1)).toarray()


# ---- the command

TABLES: dict[str, tuple[Callable[[int, Path], Iterator[Row]], list[str]]] = {
    "motion": (motion, ["motion", "gap"]),
    "planes": (planes, ["motion", "angle", "method"]),
    "histology": (histology, ["case", "model", "image"]),
    "cells": (cells, ["tissue", "method"]),
    "trust": (trust, ["series"]),
}


def main() -> None:
    """Read the command line, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("C2STI_DATA", "data")))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="CSV of all cases")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    compute, by = TABLES[given.table]
    table = pd.DataFrame(compute(given.seeds, given.data))
    if given.out is not None:
        table.to_csv(given.out, index=False)
    means = table.groupby(by, sort=False).mean(numeric_only=True).drop(columns="seed", errors="ignore")
    print(means.round(4).to_string())


if __name__ == "__main__":
    main()
