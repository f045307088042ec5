"""Held-out sections of a series, interpolated and compared with what was measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from tqdm.auto import tqdm

from c2sti import _logging, _validators, benchmark, io, ops
from c2sti._backed import in_memory
from c2sti._docs import documented
from c2sti._types import Interpolator
from c2sti.benchmark._cells import Cells, cell_scores, mixture
from c2sti.benchmark._leave_out import DETECTED, check_neighbours, check_unseen, depths, verdict, windows
from c2sti.models._registry import METHODS, available, named
from c2sti.pair_check import OnMisfit, check_on_misfit
from c2sti.tl._interpolate_cells import Gap, types_of
from c2sti.tl._labels import shared_labels

if TYPE_CHECKING:
    from spatialdata import SpatialData


@documented
def evaluate(
    slices: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    library_key: str | None = None,
    methods: Sequence[str | Path | Interpolator] = ("c2sti",),
    n_slices: int = 1,
    z: Sequence[float] | None = None,
    context: bool = True,
    n_genes: int = 1000,
    intervals: Sequence[float] = (),
    half_observed: bool = False,
    return_genes: bool = False,
    return_sections: bool = False,
    output: Literal["expression", "cells"] = "expression",
    labels: str | None = None,
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    image_key: io.Key = None,
    coordinate_system: io.Key = None,
    on_misfit: OnMisfit = "warn",
    device: str | None = None,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> Any:  # a DataFrame, or with others in a tuple: overloads would hide the parameters from the reference
    """Hold out measured sections of a series, interpolate them, and compare.

    Every run of `n_slices` interior sections is held out in turn and interpolated from its two neighbours (and their
    neighbours, as context). Nothing depends on the held-out section: genes are chosen from the neighbours alone.

    Parameters
    ----------
    slices
        As of :func:`interpolate_series`, at least ``n_slices + 2``.
    methods
        Models to compare with ``"copy"``, ``"linear"``, ``"lowrank"`` and ``"gp"``: whatever :func:`interpolate` takes
        as `model`.
    n_slices
        Sections held out in a row.
    z
        z of the sections; by default ``obs["z_um"]`` or ``obs["z"]`` where all sections carry one, else even steps.
    context
        Whether models that can use them are given the sections beyond the pair.
    n_genes
        The most variable genes among those detected in at least 10 % of the spots of both neighbours are scored.
    intervals
        Levels of intervals to check, ``(0.5, 0.9)`` say: what :func:`interpolate` gives as `interval`.
    half_observed
        Whether each method that can is also given a random half of the held-out section's own spots, and scored on the
        other half: a nearer limit than the noise ceiling, which no method reaches. Takes as long again.
    return_genes, return_sections
        Whether to return the scores of each gene as well; and the held-out sections, with what each method predicts.
    output
        ``"cells"`` scores what :func:`interpolate_cells` gives instead, of the models in `methods` alone.
    labels
        Column of `obs` with the types of cells, for ``output="cells"``; scores of types are NaN without it.
    %(shared)s

    Returns
    -------
    DataFrame with one row per method and held-out section; its columns, ``pcc``, ``rmse`` and ``rv`` among them, are in
    :doc:`/guide/result`. ``table.attrs["verdict"]`` says which method leads, and how far it is from the limits.

    With `return_genes` and `return_sections` a tuple of that table and, in this order: a DataFrame with one row per
    method, held-out section and ``gene``; a list of AnnData, one per held-out section, with the measured values in
    ``X`` and the predictions in ``layers``.

    Raises
    ------
    ValueError
        Too few sections, or one that cannot be used.

    Warns
    -----
    UserWarning
        A neighbour holds spots of the held-out section, with the same expression: scores are too high there.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 200.0, 400.0])
    >>> table = c2sti.tl.evaluate(series, show_progress_bar=False)
    >>> sorted(table["method"])
    ['c2sti', 'copy', 'gp', 'linear', 'lowrank']
    """
    check_on_misfit(on_misfit)
    _validators.seed(seed)
    levels = _validators.reals(intervals, "intervals")
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"intervals = {levels.tolist()}; a list of levels between 0 and 1 is needed, such as [0.9]")
    judged = named([*METHODS, *_validators.several(methods, "methods", "models")], "methods")
    device = available(device)
    _validators.one_of(output, "output", ("expression", "cells"))
    of_expression = {
        "intervals": len(levels) > 0,
        "half_observed": half_observed,
        "return_genes": return_genes,
        "return_sections": return_sections,
    }
    other, given = ("expression", of_expression) if output == "cells" else ("cells", {"labels": labels is not None})
    wrong = ", ".join(f"{name}=" for name, is_given in given.items() if is_given)
    if wrong:
        raise ValueError(f"{wrong} is for output={other!r}; leave it out, or change output=")
    sources = io.sources(
        slices,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    how: dict[str, Any] = {
        "n_slices": n_slices,
        "z": z,
        "context": context,
        "n_genes": n_genes,
        "on_misfit": on_misfit,
        "device": device,
        "seed": seed,
        "show_progress_bar": show_progress_bar,
    }
    read = [source.read(obs_keys=() if labels is None else labels, measured=True) for source in sources]
    if output == "cells":
        return leave_cells_out(read, labels=labels, methods=named(methods, "methods"), **how)
    found = benchmark.leave_sections_out(
        read,
        methods=judged,
        intervals=intervals,
        half_observed=half_observed,
        keep_genes=return_genes,
        keep_sections=return_sections,
        **how,
    )
    found.table.attrs["verdict"] = verdict(found.table, METHODS)
    _logging.info(found.table.attrs["verdict"])
    more = [found.genes] * return_genes + [found.sections] * return_sections
    return (found.table, *more) if more else found.table


# ---- cells


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
    codes: list[NDArray[np.intp] | None] = [None] * len(slices)
    if labels is not None:
        for one, other in zip(slices, [*slices[1:], slices[0]], strict=True):
            types_of(one, other, labels)  # refuses sections without types
        kind: Any = shared_labels(slices)[labels]
        codes = [pd.Categorical(g.annotations.labels(labels), dtype=kind).codes.astype(np.intp) for g in slices]
    rows = []
    for window in tqdm(todo, desc="held-out sections", disable=not show_progress_bar):
        check_unseen(slices, window)
        a, b = slices[window.a], slices[window.b]
        around = {q: slices[i] for q, i in window.beyond.items()} if context else {}
        types = types_of(a, b, labels)
        given: dict[str, Any] = {"context": around, "on_misfit": "ignore", "device": device, "seed": seed}
        gaps = {name: Gap(a, b, types, method=method, **given) for name, method in methods.items()}
        genes = _scored_genes(next(iter(gaps.values())), n_genes)
        first, last = (_cells(slices[i], codes[i], genes) for i in (window.a, window.b))
        for i, position in zip(window.held_out, window.positions, strict=True):
            measured = _cells(slices[i], codes[i], genes)
            for name, found, against, seconds in _predicted(gaps, first, last, measured, position, genes, seed):
                row = {"section": i, "name": slices[i].name, "position": position, "method": name}
                scores = cell_scores(found, against, seed)
                rows.append(row | scores | {"n_genes": len(genes), "seconds": seconds})
    return pd.DataFrame(rows)


def _scored_genes(gap: Gap, n_genes: int) -> pd.Index:
    """The most variable genes of the two sections around; the held-out one has no part in it."""
    chosen = ops.most_variable([gap.pair.a.moments, gap.pair.b.moments], n_genes, DETECTED)
    if len(chosen) == 0:
        names = " and ".join(g.name for g in gap.grids)
        raise ValueError(f"no gene is detected in {DETECTED:.0%} of the tissue of both {names}")
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
        kept, xy, values = gap.section(position, genes=genes)
        seconds = time.perf_counter() - start
        yield name, Cells(xy, None if types is None else types[kept], values.toarray()), measured, seconds
    first = rng.random(len(measured.xy)) < 0.5
    yield "half", measured.part(first), measured.part(~first), 0.0
