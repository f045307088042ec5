"""What ``tl.interpolate`` costs beside plain linear interpolation by scipy, from AnnData to three sections.

``scipy.interpolate.LinearNDInterpolator`` of both sections at the bins of the result, all genes at once, after scaling
and logarithm, blended at three positions: arrays come out, no layers, no graphs, no outline. Both are run once before
the clock starts. By default two sections of simulated tissue with counts; ``--pair a.h5ad b.h5ad`` takes two of yours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
from _record import arguments, peak_mb, timed, write
from scipy.interpolate import LinearNDInterpolator

import c2sti

GENES = (155, 1000, 5000, 15_000)
POSITIONS = (0.25, 0.5, 0.75)


def main(given: Sequence[str] | None = None) -> Path:
    """Measure, write."""
    pair = {"nargs": 2, "type": Path, "default": None, "help": "two sections instead of made ones"}
    models = {"nargs": "+", "default": ["c2sti", "gp", "lowrank", "linear"]}
    options = arguments(__doc__, given, pair=pair, models=models)
    counts = (30,) if options.quick else GENES
    if options.pair is None:
        size = 8 if options.quick else 19  # 361 spots, as in her2st
        a, b = c2sti.datasets.phantom(seed=options.seed, size=size, n_genes=max(counts)).series([0.0, 200.0])
    else:
        a, b = (ad.read_h5ad(path) for path in options.pair)
        shared = a.var_names.intersection(b.var_names)
        a, b = a[:, shared].copy(), b[:, shared].copy()
    rows = []
    for n in sorted({min(n, a.n_vars) for n in counts}):
        chosen = [section[:, :n].copy() for section in (a, b)]
        at = c2sti.tl.interpolate(*chosen, model="copy", **how(options.seed)).obsm["spatial"]
        plain = timed(lambda s=chosen, x=at: linear(s, x), options.repeats)
        rows.append({"model": "scipy", "genes": n, "bins": len(at), **plain})
        for model in options.models:
            took = timed(
                lambda s=chosen, m=model: c2sti.tl.interpolate(*s, n_slices=3, model=m, **how(options.seed)),
                options.repeats,
            )
            ratio = {"ratio_cpu": took["cpu_s"] / plain["cpu_s"], "ratio_wall": took["wall_s"] / plain["wall_s"]}
            rows.append({"model": model, "genes": n, "bins": len(at), **took, **ratio, "peak_mb": peak_mb()})
    names = None if options.pair is None else [path.name for path in options.pair]
    return write("end_to_end", options, rows, pair=names, spots=[a.n_obs, b.n_obs])


def how(seed: int) -> dict[str, object]:
    """Of every call."""
    return {"seed": seed, "show_progress_bar": False, "on_misfit": "ignore", "device": "cpu"}


def linear(sections: Sequence[ad.AnnData], at: np.ndarray) -> list[np.ndarray]:
    """The plain answer."""
    ends = []
    for section in sections:
        counts = section.X.toarray()
        scaled = counts * (1e4 / np.maximum(counts.sum(axis=1, keepdims=True), 1))
        ends.append(LinearNDInterpolator(section.obsm["spatial"], np.log1p(scaled))(at))
    return [(1 - p) * ends[0] + p * ends[1] for p in POSITIONS]


if __name__ == "__main__":
    main()
