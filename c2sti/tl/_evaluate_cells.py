"""Held-out sections of single cells, interpolated as cells and compared with what was measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from c2sti import _validators, io, ops
from c2sti._backed import in_memory
from c2sti._types import Interpolator
from c2sti.benchmark._cells import Cells, cell_scores, mixture
from c2sti.benchmark._leave_out import DETECTED, Window, check_neighbours, check_unseen, depths, windows
from c2sti.pair_check import OnMisfit
from c2sti.tl._interpolate_cells import Gap, types_of
from c2sti.tl._labels import shared_labels


def leave_cells_out(
    slices: Sequence[io.SliceGrid],
    *,
    labels: str | None,
    methods: Mapping[str, Interpolator],
    n_slices: int,
    z: Sequence[float] | None,
    context: bool,
    n_genes: int,
    on_misfit: OnMisfit,
    device: str,
    seed: int,
    show_progress_bar: bool,
) -> pd.DataFrame:
    """Score cells of every method on every run of held-out sections; columns as in docs/guide/result.md."""
    n_slices, n_genes = _validators.whole(n_slices, "n_slices"), _validators.whole(n_genes, "n_genes")
    todo = list(windows(depths(slices, z), n_slices))
    slices = io.on_shared_genes(slices, stacklevel=4)
    check_neighbours(slices, on_misfit)
    codes = _codes(slices, labels)
    rows = []
    for window in tqdm(todo, desc="held-out sections", disable=not show_progress_bar):
        check_unseen(slices, window)
        gaps = _gaps(slices, window, labels, methods, context, device, seed)
        genes = _scored_genes(gaps[next(iter(methods))], n_genes)
        a, b = (_cells(slices[i], codes[i], genes) for i in (window.a, window.b))
        for i, position in zip(window.held_out, window.positions, strict=True):
            measured = _cells(slices[i], codes[i], genes)
            for name, found, against, seconds in _predicted(gaps, a, b, measured, position, genes, seed):
                row = {"section": i, "name": slices[i].name, "position": position, "method": name}
                scores = cell_scores(found, against, seed)
                rows.append(row | scores | {"n_genes": len(genes), "seconds": seconds})
    return pd.DataFrame(rows)


def _codes(slices: Sequence[io.SliceGrid], labels: str | None) -> list[NDArray[np.intp] | None]:
    """(n,) number of the type of each cell of each section, by which cells are scored."""
    if labels is None:
        return [None] * len(slices)
    for one, other in zip(slices, [*slices[1:], slices[0]], strict=True):
        types_of(one, other, labels)  # refuses sections without types
    kind: Any = shared_labels(slices)[labels]
    return [pd.Categorical(g.annotations.labels(labels), dtype=kind).codes.astype(np.intp) for g in slices]


def _gaps(
    slices: Sequence[io.SliceGrid],
    window: Window,
    labels: str | None,
    methods: Mapping[str, Interpolator],
    context: bool,
    device: str,
    seed: int,
) -> dict[str, Gap]:
    """The two sections around a window, as each method describes them."""
    a, b = slices[window.a], slices[window.b]
    around = {q: slices[i] for q, i in window.beyond.items()} if context else {}
    types = types_of(a, b, labels)
    how: dict[str, Any] = {"context": around, "on_misfit": "ignore", "device": device, "seed": seed}
    return {name: Gap.of(a, b, types, method=method, **how) for name, method in methods.items()}


def _scored_genes(gap: Gap, n_genes: int) -> pd.Index:
    """The most variable genes of the two sections around; the held-out one has no part in it."""
    chosen = ops.most_variable([gap.pair.a.moments, gap.pair.b.moments], n_genes, DETECTED)
    if len(chosen) == 0:
        raise ValueError(f"no gene is detected in {DETECTED:.0%} of the tissue of both {gap.a.name} and {gap.b.name}")
    return gap.genes[chosen]


def _cells(g: io.SliceGrid, codes: NDArray[np.intp] | None, genes: pd.Index) -> Cells:
    values = in_memory(io.values_of(g, genes))
    values = in_memory(io.log_normalise(values, g.library)) if g.counts else values
    return Cells(g.xy, codes, values.toarray())


def _predicted(
    gaps: Mapping[str, Gap], a: Cells, b: Cells, measured: Cells, position: float, genes: pd.Index, seed: int
) -> Iterator[tuple[str, Cells, Cells, float]]:
    """Name, cells, what they are compared with, and seconds: of every method, of what it has to beat, of the limit."""
    rng = np.random.default_rng(seed)
    yield "copy", a if position <= 0.5 else b, measured, 0.0
    yield "mixture", mixture(a, b, position, rng), measured, 0.0
    types = None if a.types is None or b.types is None else np.concatenate([a.types, b.types])
    for name, gap in gaps.items():
        start = time.perf_counter()
        found = gap.section(position, genes=genes)
        seconds = time.perf_counter() - start
        own = None if types is None else types[found.cells]
        yield name, Cells(found.xy, own, found.values.toarray()), measured, seconds
    first = rng.random(len(measured.xy)) < 0.5
    yield "half", measured.part(first), measured.part(~first), 0.0
