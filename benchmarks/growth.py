"""How time and memory of ``tl.interpolate`` grow with bins and with genes, on simulated sections.

Sections are square arrays of sparse counts: a smooth map a gene, Poisson noise, 1,000 counts a spot at most. Each size
runs in a process of its own, so that the peak of its memory is its own (imports, about 500 MB, included). Exponents are
slopes of log cost over log size; over the larger half of the sizes, where what does not grow has lost its weight.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from _record import arguments, exponent, peak_mb, timed, write
from anndata import AnnData

import c2sti

BINS = (1000, 3000, 10_000, 30_000, 100_000)
GENES = (100, 300, 1000, 3000, 10_000, 20_000)
FEW_GENES, FEW_BINS = 500, 1000  # of the other axis


def main(given: Sequence[str] | None = None) -> Path:
    """Measure, write."""
    sizes = {"nargs": "+", "type": int}
    options = arguments(
        __doc__,
        given,
        model={"default": "c2sti"},
        bins={**sizes, "default": list(BINS), "help": "1000000 is possible, and takes hours"},
        genes={**sizes, "default": list(GENES)},
        one={
            "nargs": 2,
            "type": int,
            "default": None,
            "help": "bins and genes, in this process; prints and writes nothing",
        },
    )
    if options.one is not None:
        print(json.dumps(one(*options.one, options.model, options.seed)))
        return Path()
    bins, genes = ([100, 200], [20]) if options.quick else (options.bins, options.genes)
    few = (20, 100) if options.quick else (FEW_GENES, FEW_BINS)
    over_bins = [apart(n, few[0], options) for n in bins]
    over_genes = [apart(few[1], n, options) for n in genes]
    fits = {}
    for name, rows in (("bins", over_bins), ("genes", over_genes)):
        large = rows[len(rows) // 2 - (len(rows) == 2) :]
        for cost in ("cpu_s", "peak_mb"):
            fits[f"{cost}_over_{name}"] = exponent([row[name] for row in large], [row[cost] for row in large])
    rows = [{"over": "bins", **row} for row in over_bins] + [{"over": "genes", **row} for row in over_genes]
    return write("growth", options, rows, model=options.model, exponents=fits)


def apart(bins: int, genes: int, options: argparse.Namespace) -> dict[str, float]:
    """One size in a process of its own."""
    command = [sys.executable, __file__, "--one", str(bins), str(genes)]
    command += ["--model", options.model, "--seed", str(options.seed)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout.strip().splitlines()[-1])


def one(bins: int, genes: int, model: str, seed: int) -> dict[str, float]:
    """Time and memory of one size."""
    pair = [section(bins, genes, seed + i) for i in range(2)]
    before = peak_mb()
    how = {"model": model, "seed": seed, "show_progress_bar": False, "on_misfit": "ignore", "device": "cpu"}
    took = timed(lambda: c2sti.tl.interpolate(*pair, **how), 1, warm=False)
    return {"bins": bins, "genes": genes, **took, "before_mb": before, "peak_mb": peak_mb()}


def section(bins: int, genes: int, seed: int) -> AnnData:
    """(bins, genes) sparse counts of a square array, a block of rows at a time."""
    rng, shapes = np.random.default_rng(seed), np.random.default_rng(0)
    side = int(round(bins**0.5))
    xy = np.indices((side, -(-bins // side))).reshape(2, -1).T[:bins].astype(float)
    waves, phase = shapes.uniform(-6, 6, (2, genes)), shapes.uniform(0, 6, genes)
    level = shapes.gamma(0.3, 1.0, genes)
    level *= min(1000, 2 * genes) / level.sum()
    blocks = []
    for first in range(0, bins, 2000):
        mean = level * (1 + 0.8 * np.sin(xy[first : first + 2000] / side @ waves + phase))
        blocks.append(sp.csr_matrix(rng.poisson(mean).astype(np.float32)))
    made = AnnData(sp.vstack(blocks, format="csr"))
    made.obsm["spatial"] = xy
    return made


if __name__ == "__main__":
    main()
