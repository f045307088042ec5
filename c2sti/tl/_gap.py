"""One gap between two sections that have been read: what :func:`interpolate` and a whole series have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from tqdm.auto import tqdm

from c2sti import _keys, _result, _validators, io, pair_check
from c2sti._types import FloatArray, ImageEncoder, Interpolator, Lattice, SlicePair
from c2sti.models._registry import memory_of, reads_blocks
from c2sti.models.components import Description
from c2sti.models.gp import Describing, with_description
from c2sti.tl._describe import provenance
from c2sti.tl._labels import Kind, carry
from c2sti.uncertainty import ask

SHARES = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # of a bar that is told shares, which round


@dataclass(frozen=True)
class Inserted:
    """Sections between two: a result but for its values, and what these are made from.

    Parameters
    ----------
    frame
        Rows, genes, and what is said of them.
    layers
        The interpolated sections.
    pair, rows
        The measured sections, and the M points.
    extent, n_threads
        How large it is, and how many blocks are made side by side.
    """

    frame: AnnData
    layers: io.Layers
    pair: SlicePair
    rows: io.Rows
    extent: io.Extent
    n_threads: int


@dataclass(frozen=True)
class Stream:
    """Where and how to write a result that is not to be held in memory.

    Parameters
    ----------
    store
        Folder of the store, which is not there yet.
    dense
        Whether layers are written, and not the factors that they are made from.
    digits
        Significant decimal digits of layers to keep, None for all.
    """

    store: Path
    dense: bool = False
    digits: int | None = None


def insert(
    a: io.SliceGrid,
    b: io.SliceGrid,
    fractions: FloatArray,
    *,
    context: Mapping[float, io.SliceGrid],
    labels: Mapping[str, Kind],
    method: Interpolator,
    model: Mapping[str, str],
    lattice: Lattice,
    device: str,
    at: FloatArray | None = None,
    genes: Sequence[str] | pd.Index | None = None,
    encoder: ImageEncoder | None = None,
    targets: Mapping[float, io.HEImage] | None = None,
    parameters: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    call: str | None = None,
    seed: int = 0,
    key_added: str = _keys.RESULT,
    with_graphs: bool = True,
    std: bool = False,
    interval: float | None = None,
    on_misfit: pair_check.OnMisfit = "warn",
    progress: Callable[[float], object] = lambda share: None,
    stored: bool = False,
    max_memory: int | None = None,
    description: Description | None = None,
    stacklevel: int = 4,
) -> Inserted:
    """Insert sections between two.

    Parameters
    ----------
    a, b
        Sections at positions 0 and 1.
    fractions
        (S,) positions in (0, 1), increasing.
    context
        Further sections by position, beyond the pair.
    labels
        Annotations that are carried, see :func:`c2sti.tl._labels.shared_labels`.
    method, model
        The interpolator, and what :func:`c2sti.tl._describe.model_record` says of it.
    lattice
        Its bins inside the union of both tissues are the rows, if `at` names no points.
    encoder, targets
        As in :func:`c2sti.io.make_pair`.
    parameters
        Of the caller, for the provenance; those that are None are left out.
    names
        Own names of the measured sections, by those that the result gives them.
    call
        The caller's call as text, where the result is given to the user as it is.
    with_graphs
        Whether to make the gene graph of each section.
    std, interval
        Whether to say how uncertain the interpolated values are, and the level of intervals for measured values.
    on_misfit
        What to do where the two do not seem to belong together.
    progress
        Is told each share of the work that has been done, 1 in all.
    stored
        Whether the result is going to be written and not held.
    max_memory
        Bytes to get by with, of the result and of what it is made from.
    description
        Of the series around the pair, on its scale, where it was made before; for a method that starts from one.
    stacklevel
        How far from here to the user's call, which warnings point at.
    """
    # Genes that nobody asked for tell of the tissue all the same: they are left out after the model, not before.
    grids = (a, b, *context.values())
    var = io.shared_var(grids)
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
    extent = io.Extent(
        len(rows.points),
        pair.n_genes if wanted is None else len(wanted),
        len(fractions),
        n_values=sum(getattr(s.expression, "nnz", 0) for s in pair.sections),
        working=memory_of(method, pair, len(rows.points), len(fractions)),
        std=std,
        interval=interval is not None,
    )
    io.check_work(extent, max_memory)
    n_threads = torch.get_num_threads()
    if stored:
        n_threads = io.n_tasks(extent, max_memory, n_threads)
        io.tell(extent, n_threads)
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
    if wanted is not None:
        place = kept.get_indexer(wanted)
        pair, prediction, kept = pair.subset(place), prediction.subset(place), wanted
        found = None if found is None else found.subset(place)
    field = prediction.notes.get("displacement")
    folds = {"folded_bins": pair_check.folded_bins(field, pair.lattice, fractions.tolist())}
    pair_check.complain(folds, a.name, b.name, on_misfit, stacklevel=stacklevel)
    pictures = io.section_images(a.image, b.image, lattice, fractions, displacement=field, targets=targets)
    record = provenance(grids, model, lattice, seed, parameters or {}, call)
    out = io.frame_slices(
        pair,
        rows,
        var=var.loc[kept],
        positions=fractions,
        graphs=io.graphs_of(pair, [0.0, *fractions, 1.0], kept) if with_graphs else None,
        notes=prediction.notes,
        provenance={
            **record,
            **_z_of_each(a, b, fractions),
            **({"names": dict(names)} if names else {}),
            _keys.PAIR_CHECK: {**fits, **folds},
        },
        pictures=pictures,
        stained=targets or (),
        columns=_spots(a, b, rows, lattice) | _library_sizes(a, b, rows, lattice) | _seen(a, b, rows),
        key_added=key_added,
    )
    calibration = None if found is None else found.calibration
    layers = io.Layers(
        _keys.inserted(key_added, len(fractions)),
        prediction.slices,
        found if std else None,
        None if calibration is None or interval is None else calibration.intervals(interval),
    )
    io.add_confidence(out, layers, fractions.tolist(), rows, n_threads)
    carry(
        out,
        a,
        b,
        labels,
        displacement=field,
        lattice=pair.lattice,
        spacing=pair.spacing,
        key_added=key_added,
    )
    return Inserted(out, layers, pair, rows, extent, n_threads)


def finished(
    made: Inserted,
    *,
    key_added: str,
    stream: Stream | None,
    max_memory: int | None,
    progress: Callable[[float], object] = lambda share: None,
) -> AnnData:
    """The result with its layers, dense or lazy; or written into a store, and without them.

    Parameters
    ----------
    made
        What :func:`insert` gave.
    stream
        Where to write it; None for memory.
    key_added, max_memory, progress
        As in :func:`insert`.
    """
    parts = (made.layers, made.pair, made.rows)
    if stream is None:
        dense = io.is_dense(made.extent, max_memory)
        io.add_layers(made.frame, *parts, dense=dense, key=key_added, n_threads=made.n_threads)
    else:
        io.write_store(
            stream.store,
            made.frame,
            *parts,
            key=key_added,
            dense=stream.dense,
            digits=stream.digits,
            n_threads=made.n_threads,
            progress=progress,
        )
    return made.frame


def _spots(a: io.SliceGrid, b: io.SliceGrid, rows: io.Rows, lattice: Lattice) -> dict[str, Any]:
    """Columns that name the measured spot behind each row, missing outside of its tissue."""
    found = {}
    for name, g, p in ((_keys.SLICE_A, a, 0.0), (_keys.SLICE_B, b, 1.0)):
        spots = pd.Series(io.spots_at(g, lattice, rows.points))
        found[_keys.spot(name)] = pd.Categorical(spots.where(rows.inside(p)))
    return found


def _library_sizes(a: io.SliceGrid, b: io.SliceGrid, rows: io.Rows, lattice: Lattice) -> dict[str, NDArray[Any]]:
    """Columns with the counts of the measured spots, NaN outside of their tissue; none where counts were not given."""
    if not a.counts:
        return {}
    return {
        _keys.library_size(name): np.where(rows.inside(p), io.library_sizes(g, lattice, rows.points), np.nan)
        for name, g, p in ((_keys.SLICE_A, a, 0.0), (_keys.SLICE_B, b, 1.0))
    }


def _seen(a: io.SliceGrid, b: io.SliceGrid, rows: io.Rows) -> dict[str, NDArray[Any]]:
    """Columns that say which rows lie in the capture window of a section, where that is known."""
    return {
        _keys.seen(name): rows.seen_at(i)
        for i, (name, g) in enumerate(((_keys.SLICE_A, a), (_keys.SLICE_B, b)))
        if g.window is not None
    }


def check_level(interval: float | None) -> None:
    """Refuse an interval of a level that is no probability."""
    if interval is not None and not 0 < _validators.number(interval, "interval") < 1:
        raise ValueError(f"interval = {interval} must lie between 0 and 1; 0.9 holds nine of ten measured values")


def check_key(key_added: str) -> None:
    """Refuse a key that cannot be written, or that is another's.

    Raises
    ------
    TypeError, ValueError
        It is no text; or is empty, holds a "/", or has another meaning in `uns`.
    """
    if _validators.key(key_added) in (_keys.SPATIAL, _keys.LOG1P):
        raise ValueError(f"key_added={key_added!r} has a meaning of its own in uns; choose another name")


def shares_of(bar: tqdm[Any]) -> Callable[[float], object]:
    """What tells a bar each share, of 100 steps, that has been done; rounding must not take it past its end."""
    return lambda share: bar.update(min(100 * share, (bar.total or 0) - bar.n))


def _z_of_each(a: io.SliceGrid, b: io.SliceGrid, fractions: FloatArray) -> dict[str, FloatArray]:
    if a.z is None or b.z is None:
        return {}
    return {"z": a.z + np.array([0.0, *fractions, 1.0]) * (b.z - a.z)}
