"""Two simulated sections of any size, three interpolated between them into a zarr store: time and peak memory.

    python benchmarks/whole_slide.py --bins 500000 --genes 20000 --density 0.05 --work DIR --json whole_slide.json

DIR receives the two sections (made once, kept) and the result, which is removed unless --keep. Peak memory is that of
the interpolating process alone, as the operating system saw it: a process of its own does that part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

N_PROGRAMMES = 12
ROWS = 4000  # made at a time


def make(path: Path, bins: int, genes: int, density: float, depth: float) -> None:
    """One section: spots on a square lattice, each a mixture of programmes that vary over the tissue, moved by `depth`.

    Every molecule chooses a programme by the spot's mixture, and a gene by the programme.
    """
    side = round(bins**0.5)
    shared, own = np.random.default_rng(0), np.random.default_rng([1, int(100 * depth)])
    share = shared.gamma(0.35, size=(N_PROGRAMMES, genes)) + 0.02
    cumulated = np.cumsum(share / share.sum(axis=1, keepdims=True), axis=1)
    wave, phase = shared.uniform(1, 7, (N_PROGRAMMES, 2)), shared.uniform(0, 2 * np.pi, N_PROGRAMMES)
    n_molecules = density * genes * 1.35  # some genes are met twice
    y, x = np.divmod(np.arange(side * side), side)
    blocks = []
    for first in range(0, side * side, ROWS):
        xy = np.column_stack([x, y])[first : first + ROWS] / side
        mixture = np.exp(1.5 * np.sin(2 * np.pi * xy @ wave.T + phase + 0.4 * depth))
        size = own.poisson(n_molecules * own.lognormal(0, 0.25, len(xy)))
        parts = own.multinomial(size, mixture / mixture.sum(axis=1, keepdims=True))
        spots, columns = [], []
        for programme in range(N_PROGRAMMES):
            n = parts[:, programme]
            found = np.searchsorted(cumulated[programme], own.random(n.sum(), dtype=np.float32))
            spots.append(np.repeat(np.arange(len(xy), dtype=np.int32), n))
            columns.append(np.minimum(found, genes - 1).astype(np.int32))
        index = (np.concatenate(spots), np.concatenate(columns))
        counts = sp.coo_matrix((np.ones(len(index[0]), dtype=np.uint16), index), shape=(len(xy), genes))
        blocks.append(counts.tocsr())
    section = ad.AnnData(
        X=sp.vstack(blocks, format="csr"),
        var=pd.DataFrame(index=[f"gene_{i}" for i in range(genes)]),
        obsm={"spatial": np.column_stack([x, y]) * 10.0},
    )
    temporary = path.with_suffix(".part")
    section.write_h5ad(temporary)
    temporary.replace(path)


def interpolate(a: Path, b: Path, out: Path, slices: int, dense: bool, max_memory: str | None) -> dict:
    """Interpolate sections into a store; what it took, and what reading both files once and one gene later take."""
    import c2sti  # noqa: PLC0415 - only the process that is measured loads it

    sections = [ad.read_h5ad(path, backed="r") for path in (a, b)]
    start, cpu = time.perf_counter(), time.process_time()
    made = c2sti.tl.interpolate(*sections, n_slices=slices, out=out, dense=dense, max_memory=max_memory)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    once = time.process_time()
    for section in sections:
        for first in range(0, section.n_obs, ROWS):
            section.X[first : first + ROWS]
    read, once = time.process_time() - once, time.perf_counter()
    made.obs_vector(made.var_names[made.n_vars // 2], layer="c2sti_1")
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_gb": peak,
        "reading_once_cpu_seconds": read,
        "one_gene_seconds": time.perf_counter() - once,
        "shape": list(made.shape),
        "stored_gb": _size(out),
        "measured_gb": _size(out / "layers" / "slice_a") + _size(out / "layers" / "slice_b"),
    }


def _size(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**30


def main() -> None:
    """Make what is missing, measure in a process of its own, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--dense", action="store_true", help="write layers, and not their factors")
    parser.add_argument("--max-memory")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the result in DIR")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    stem = f"{args.bins}_{args.genes}_{args.density:g}"
    a, b = (args.work / f"made_{stem}_{name}.h5ad" for name in "ab")
    out = args.work / f"inserted_{stem}.zarr"
    if args.child:
        sys.stdout.write(json.dumps(interpolate(a, b, out, args.slices, args.dense, args.max_memory)))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    for path, depth in ((a, 0.0), (b, 1.0)):
        if not path.is_file():
            make(path, args.bins, args.genes, args.density, depth)
    shutil.rmtree(out, ignore_errors=True)
    child = subprocess.run([sys.executable, *sys.argv, "--child"], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(child.stdout.splitlines()[-1])
    settings = {k: getattr(args, k) for k in ("bins", "genes", "density", "slices", "dense", "max_memory")}
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    text = json.dumps({**settings, **found, "machine": machine, "date": time.strftime("%Y-%m-%d")}, indent=1)
    sys.stdout.write(text + "\n")
    if args.json:
        args.json.write_text(text + "\n")
    if not args.keep:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
