"""One gap between two sections that have been read: what :func:`interpolate` and a whole series have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from tqdm.auto import tqdm

from c2sti import _keys, _result, _validators, io, pair_check
from c2sti._types import FloatArray, ImageEncoder, Interpolator, Lattice, SlicePair
from c2sti.models._registry import memory_of, reads_blocks
from c2sti.models.description import Description
from c2sti.models.gp import Describing, with_description
from c2sti.tl._expected import expected_pcc, gives_means
from c2sti.tl._labels import Kind, carry
from c2sti.uncertainty import ask

PAIR = (_keys.SLICE_A, _keys.SLICE_B)
SHARES = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # of a progress bar in shares, which are rounded


def insert(
    a: io.SliceGrid,
    b: io.SliceGrid,
    fractions: FloatArray,
    *,
    context: Mapping[float, io.SliceGrid],
    labels: Mapping[str, Kind],
    method: Interpolator,
    lattice: Lattice,
    device: str,
    at: FloatArray | None = None,
    genes: Sequence[str] | pd.Index | None = None,
    encoder: ImageEncoder | None = None,
    targets: Mapping[float, io.HEImage] | None = None,
    record: Mapping[str, Any] | None = None,
    seed: int = 0,
    key_added: str = _keys.RESULT,
    whole: bool = True,
    std: bool = False,
    interval: float | None = None,
    on_misfit: pair_check.OnMisfit = "warn",
    progress: Callable[[float], object] = lambda share: None,
    stored: bool = False,
    max_memory: int | None = None,
    description: Description | None = None,
    stacklevel: int = 4,
) -> tuple[AnnData, io.Layers, SlicePair, int]:
    """Interpolate sections between two, at (S,) increasing `fractions` of the way.

    `record` is the provenance of a result that the user gets as it is, with gene graphs; `whole` says that these are
    sections, with H&E and expected PCC, and not rows of an oblique one; `description` is that of the series on the
    scale of the pair; `stacklevel` leads from here to the user's call, for warnings. The rest is as in
    :func:`interpolate`.

    Returns the result without the values of its sections; what these are computed from; the measured sections; and how
    many blocks are to be computed side by side.
    """
    # Genes that are not wanted inform the model all the same: they are left out after it, not before.
    var = io.shared_var((a, b, *context.values()))
    var = var.drop(columns=_keys.EXPECTED_PCC, errors="ignore")  # of another result
    wanted = None if genes is None else _result.genes_of(genes, var.index, var, "all sections")
    pair, kept = io.make_pair(a, b, context=context, lattice=lattice, encoder=encoder, targets=targets, judged=True)
    level, scales = io.level(a, b)
    fits = pair_check.measure(pair.a, pair.b, pair.spacing, io.overlap(a, b), level)
    pair_check.complain(fits, a.name, b.name, on_misfit, scales=scales, stacklevel=stacklevel)
    for section in () if "level" in pair_check.misfits(fits) else context.values():
        level, scales = io.level(a, section)
        pair_check.complain({"level": level}, a.name, section.name, on_misfit, scales=scales, stacklevel=stacklevel)
    pair = pair if reads_blocks(method) else pair.in_memory()
    rows = io.rows_of(a, b, lattice, at)
    n_threads = io.n_tasks(
        (len(rows.points), pair.n_genes if wanted is None else len(wanted)),
        len(fractions),
        n_values=sum(getattr(s.expression, "nnz", 0) for s in pair.sections),
        working=memory_of(method, pair, len(rows.points), len(fractions)),
        std=std,
        interval=interval is not None,
        limit=max_memory,
        stored=stored,
        most=torch.get_num_threads(),
    )
    prediction, found = ask(
        with_description(method, description) if description and isinstance(method, Describing) else method,
        pair,
        rows.points,
        fractions.tolist(),
        device=device,
        seed=seed,
        progress=progress,
        std=std,
        intervals=interval is not None,
        covered=np.stack([rows.inside(0.0), rows.inside(1.0)]),
        blind=rows.blind,
        seen=(rows.sees(1, pair.a.xy), rows.sees(0, pair.b.xy)),
    )
    var = var.loc[kept]
    if whole and gives_means(method):
        inside = [rows.inside(p) for p in fractions.tolist()]
        expected = expected_pcc(prediction.slices, fractions.tolist(), inside, pair, seed)
        var = var.assign(**{_keys.EXPECTED_PCC: expected})
    if wanted is not None:
        place = kept.get_indexer(wanted)
        pair, prediction, kept = pair.subset(place), prediction.subset(place), wanted
        found = None if found is None else found.subset(place)
    field = prediction.notes.get("displacement")
    folds = {"folded_bins": pair_check.folded_bins(field, pair.lattice, fractions.tolist())}
    pair_check.complain(folds, a.name, b.name, on_misfit, stacklevel=stacklevel)
    images = None
    if whole:
        images = io.section_images(a.image, b.image, lattice, fractions, displacement=field, targets=targets)
    inserted, depths = _keys.inserted(key_added, len(fractions)), np.array([0.0, *fractions, 1.0])
    names_of_all = [PAIR[0], *inserted, PAIR[1]]
    out = io.frame_slices(
        pair,
        rows,
        var=var.loc[kept],
        positions=fractions,
        graphs=io.graphs_of(pair, dict(zip(names_of_all, depths, strict=True)), kept) if record is not None else None,
        notes=prediction.notes,
        provenance={
            **(record or {}),
            **({} if a.z is None or b.z is None else {"z": a.z + depths * (b.z - a.z)}),
            _keys.PAIR_CHECK: {**fits, **folds},
        },
        images=images,
        stained=targets or (),
        columns=_measured_columns(a, b, rows, lattice),
        key_added=key_added,
    )
    calibration = None if found is None else found.calibration
    layers = io.Layers(
        inserted,
        prediction.slices,
        found if std else None,
        None if calibration is None or interval is None else calibration.intervals(interval),
    )
    carry(out, a, b, labels, displacement=field, pair=pair, key_added=key_added)
    return out, layers, pair, n_threads


def _measured_columns(a: io.SliceGrid, b: io.SliceGrid, rows: io.Rows, lattice: Lattice) -> dict[str, Any]:
    """Columns about the measured spot behind each row: its name and counts, missing outside of its section's tissue.

    And whether the row lies in the capture window of a section, where that is known.
    """
    spots, sizes, seen = {}, {}, {}
    for i, (name, g) in enumerate(zip(PAIR, (a, b), strict=True)):
        inside = rows.inside(float(i))
        spots[_keys.spot(name)] = pd.Categorical(pd.Series(io.spots_at(g, lattice, rows.points)).where(inside))
        if a.counts:
            sizes[_keys.library_size(name)] = np.where(inside, io.library_sizes(g, lattice, rows.points), np.nan)
        if g.window is not None:
            seen[_keys.seen(name)] = rows.seen_at(i)
    return spots | sizes | seen


def check_settings(key_added: str, on_misfit: pair_check.OnMisfit, seed: int, interval: float | None = None) -> None:
    """Refuse what every tool that interpolates refuses, before a section is read."""
    pair_check.check_on_misfit(on_misfit)
    if _validators.key(key_added) in (_keys.SPATIAL, _keys.LOG1P):
        raise ValueError(f"key_added={key_added!r} has a meaning of its own in uns; choose another name")
    _validators.seed(seed)
    if interval is not None and not 0 < _validators.number(interval, "interval") < 1:
        raise ValueError(f"interval = {interval} must lie between 0 and 1; 0.9 holds nine of ten measured values")


def shares_of(bar: tqdm[Any]) -> Callable[[float], object]:
    """A function that moves a bar by each share of 100 steps; rounding must not take it past its end."""
    return lambda share: bar.update(min(100 * share, (bar.total or 0) - bar.n))
