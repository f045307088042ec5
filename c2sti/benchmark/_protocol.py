"""The paper's protocol: Open-ST sections cut into patches, windows of consecutive patches, three parts.

Where there are no files of the Open-ST study, its place is taken by a simulated series of 19 sections: cells, H&E that
is drawn from the same cells, tissue that bends from section to section, and a truth without noise. By default each part
has sections of its own; the paper splits by patch (see :func:`c2sti.datasets.patches`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _keys, datasets, io, pp
from c2sti._types import FloatArray
from c2sti.benchmark._series import Series, Source

STUDY = "open-st"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
SHARES = (10, 3, 6)  # sections of the parts; the paper's 852 : 100 : 264 patches would leave 4 to test, and s up to 2
N_SECTIONS, SPACING = 19, 20.0  # of the simulated series, and µm from one section to the next
TISSUE = {"seed": 19, "n_genes": 100, "size": 12, "pitch": 100.0, "motion": 1.0}
SMALL = TISSUE | {"n_genes": 30, "size": 5}
PIXELS, QUICK_PIXELS = 512, 64  # a side of a patch


def open_st(data: Path | None, *, split: Literal["section", "patch"] = "section", quick: bool = False) -> Source:
    """Patches of Open-ST sections in three parts, or of simulated ones where there is no folder.

    Parameters
    ----------
    data
        Folder of the sections, see :func:`c2sti.datasets.openst`.
    split
        Whether parts differ by section, or by patch as in the paper.
    quick
        A small simulated series.
    """
    tissue = None
    if data is None:
        tissue = datasets.phantom(**(SMALL if quick else TISSUE))  # type: ignore[arg-type]
        n = N_SECTIONS if not quick else 12
        sections = tissue.series([SPACING * i for i in range(n)], layout="cells", um_per_px=tissue.pitch / 40)
        shares: Sequence[float] = SHARES if not quick else (4, 3, 5)
    else:
        sections, shares = datasets.openst(data), SHARES
        pp.align_series(sections)
        for section in sections:
            section.obsm[_keys.SPATIAL] = section.obsm[_keys.ALIGNED]
    size = QUICK_PIXELS if quick else PIXELS
    pixel_um = None if tissue is None else tissue.side / 2 / size  # two patches along a side
    how: dict[str, Any] = {"size": size, "pixel_um": pixel_um, "split": split}
    parts = datasets.patches(sections, shares=shares if split == "section" else (852, 100, 264), **how)
    runs = [(part, run) for part, found in parts.items() for run in _runs(found)]
    held = {Series(f"{STUDY} {part}", tuple(map(_name, run)), in_register=True): run for part, run in runs}

    @cache
    def read(series: Series) -> list[io.SliceGrid]:
        named = zip(held[series], series.names, strict=True)
        return io.on_shared_genes([io.read_slice(patch, name=name) for patch, name in named])

    def truth(series: Series, i: int, xy: FloatArray, genes: pd.Index) -> FloatArray:
        patch = held[series][i].uns["patch"]
        assert tissue is not None
        every = tissue.expression(xy + patch["origin"], SPACING * patch["section"])
        return every[:, pd.Index(tissue.gene_names).get_indexer(genes)]

    prints = {grid.name: grid.fingerprint()[:16] for series in held for grid in read(series)}
    name = f"{'simulated ' if tissue else ''}{STUDY}, split by {split}"
    return Source(
        name, tuple(held), read, prints, folds=[TEST], simulated=False, truth=None if tissue is None else truth
    )


def _runs(windows: Sequence[Sequence[AnnData]]) -> list[list[AnnData]]:
    """Patches of consecutive sections at one place, each in one run, from windows that overlap."""
    places: dict[tuple[int, int], dict[int, AnnData]] = {}
    for patch in (patch for window in windows for patch in window):
        about = patch.uns["patch"]
        places.setdefault((about["row"], about["column"]), {})[about["section"]] = patch
    runs = []
    for found in places.values():
        numbers = sorted(found)
        ends = [i for i, (a, b) in enumerate(pairwise(numbers), start=1) if b - a > 1]
        runs += [[found[int(k)] for k in run] for run in np.split(numbers, ends)]
    return [run for run in runs if len(run) > 2]


def _name(patch: AnnData) -> str:
    about = patch.uns["patch"]
    return f"s{about['section']:02d}_r{about['row']}c{about['column']}"
