"""What a user waits for before anything is computed: the import, the first small call and those that follow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from _record import arguments, timed, write

import c2sti

MODELS = ("copy", "linear", "lowrank", "gp", "c2sti")


def main(given: Sequence[str] | None = None) -> Path:
    """Measure, write."""
    options = arguments(__doc__, given)
    rows = []
    # The same without us: what our import adds to that of what it stands on.
    stands_on = "import anndata, torch, scipy.spatial, scipy.sparse.linalg"
    for name, code in (("import c2sti", "import c2sti"), (stands_on, stands_on)):
        call = [sys.executable, "-c", code]
        took = timed(lambda c=call: subprocess.run(c, check=True), 1 if options.quick else options.repeats)
        rows.append({"what": name, "wall_s": took["wall_s"], "wall_s_most": took["wall_s_most"]})
    size, genes = (6, 20) if options.quick else (12, 50)
    pair = c2sti.datasets.phantom(seed=options.seed, size=size, n_genes=genes).series([0.0, 200.0])
    for model in MODELS:
        call = lambda m=model: c2sti.tl.interpolate(
            *pair, model=m, seed=options.seed, show_progress_bar=False, on_misfit="ignore", device="cpu"
        )
        first = timed(call, 1, warm=False)
        rows.append({"what": model, "first_wall_s": first["wall_s"], **timed(call, options.repeats, warm=False)})
    return write("latency", options, rows, spots=[s.n_obs for s in pair], genes=genes)


if __name__ == "__main__":
    main()
