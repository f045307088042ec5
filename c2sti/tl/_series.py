"""Fill a whole series of sections.

Every z lies in one gap between two measured sections. These two are the pair, the sections around them are context, and
all sections of a gap are interpolated at once, on one lattice for the series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from tqdm.auto import tqdm

from c2sti import _keys, _logging, _result, _validators, io
from c2sti._docs import documented
from c2sti._types import FloatArray, Interpolator
from c2sti.models._registry import available, resolve, sees_context
from c2sti.models.components import describe
from c2sti.models.gp import Describing
from c2sti.pair_check import OnMisfit, check_on_misfit
from c2sti.tl._describe import call_of, model_record, provenance
from c2sti.tl._gap import SHARES, check_key, check_level, insert, shares_of
from c2sti.tl._labels import note_carried, shared_labels
from c2sti.tl._series_z import MEASURED, places_of, read_series, z_wanted
from c2sti.tl._stack import Part, measured_part, parts_of_gap, stacked

if TYPE_CHECKING:
    from spatialdata import SpatialData

MOST_SECTIONS = 12  # that are described together


@documented
def interpolate_series(
    slices: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    library_key: str | None = None,
    z: Sequence[float] | None = None,
    n_slices: int | Sequence[int] | None = None,
    at_z: Sequence[float] | None = None,
    spacing: float | None = None,
    n_context: int = 2,
    model: str | Path | Interpolator = "c2sti",
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    image_key: io.Key = None,
    coordinate_system: io.Key = None,
    window: io.Windows = None,
    pitch: float | None = None,
    genes: Sequence[str] | pd.Index | None = None,
    obs_keys: str | Sequence[str] = (),
    obsm_keys: str | Sequence[str] = (),
    std: bool = False,
    interval: float | None = None,
    on_misfit: OnMisfit = "warn",
    device: str | None = None,
    seed: int = 0,
    key_added: str = "c2sti",
    show_progress_bar: bool = True,
    out: str | Path | None = None,
    max_memory: int | str | None = None,
) -> AnnData:
    """Interpolate a series of sections: so many in each gap, to a spacing, or at given z.

    A z that is a measured section's gives that section as it was measured; any other section is interpolated between
    its two measured neighbours, with the sections around these as context.

    Parameters
    ----------
    n_slices
        Number of sections in each gap between measured ones, or a list of one number a gap. Give one of `n_slices`,
        `spacing` and `at_z`.
    at_z
        z of the sections, increasing. Of the measured ones those are kept whose z it names; without it all are.
    spacing
        Distance of the sections. Each gap is divided evenly, in the steps nearest to it, of at least 2/3 of it.
    %(shared)s

    Returns
    -------
    AnnData of M rows × N genes, float32 log1p expression in ``X``. Rows of a measured section are its spots, those of
    an interpolated one the bins of its tissue. :doc:`/guide/result` describes every field:

    - ``obs["section"]``: ``"slice_0"`` … for a measured section, or its name by `library_key`; ``"c2sti_1"`` … for an
      interpolated one; ``obs["inserted"]`` tells them apart. ``obs["z"]``, ``obs["support"]``, annotations.
    - ``obsm["spatial"]`` (M, 2), ``obsm["spatial_3d"]`` (M, 3); ``var["expected_pcc"]``.
    - with `std`: ``layers["std"]``, ``obs["confidence"]``; with `interval`: ``layers["lower"]``, ``layers["upper"]``.
    - ``uns["c2sti"]``: provenance, with ``"neighbours"`` of each interpolated section and ``"pair_check"`` of each gap.

    Raises
    ------
    KeyError, ValueError, OSError
        A section cannot be used; or z are missing, out of order or outside of the series; or `out` cannot be written.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 100.0, 250.0])
    >>> stack = c2sti.tl.interpolate_series(series, spacing=50.0, model="linear", show_progress_bar=False)
    >>> list(stack.obs["section"].cat.categories)
    ['slice_0', 'c2sti_1', 'slice_1', 'c2sti_2', 'c2sti_3', 'slice_2']
    >>> stack.uns["c2sti"]["z"].tolist()
    [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]
    >>> stack = c2sti.tl.interpolate_series(series, n_slices=[0, 1], model="linear", show_progress_bar=False)
    >>> stack.uns["c2sti"]["z"].tolist()
    [0.0, 100.0, 175.0, 250.0]
    """
    call = call_of(interpolate_series, locals())  # before there are other names than those of the arguments
    check_level(interval)
    check_on_misfit(on_misfit)
    check_key(key_added)
    if key_added == MEASURED:
        raise ValueError(f"key_added={key_added!r} is what measured sections are called; choose another name")
    _validators.seed(seed)
    limit = io.memory_of(max_memory)
    n_context, device = _validators.whole(n_context, "n_context", least=0), available(device)
    method = resolve(model)
    described_model = model_record(model, method)
    found = io.sources(
        slices,
        least=2,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    with ExitStack() as held:
        # Claimed before any work is done, so that a place that cannot be written to is refused at once.
        store = None if out is None else held.enter_context(io.new_store(out))
        grids, own, zs = read_series(
            found, z, window=window, obs_keys=obs_keys, obsm_keys=obsm_keys, key_added=key_added
        )
        places = places_of(zs, z_wanted(zs, at_z, spacing, n_slices), own, key_added)
        lattice = io.common_lattice(*grids, pitch=pitch)
        labels, var = shared_labels(grids), io.shared_var(grids)
        if genes is not None:
            var = var.loc[_result.genes_of(genes, var.index, var, "all sections")]
        n_context = n_context if sees_context(method) else 0
        measured = places["first"][places["position"] == 0]
        parts = {name: measured_part(grids[i], name, lattice, var, labels) for name, i in measured.items()}
        how = {
            "method": method,
            "model": described_model,
            "lattice": lattice,
            "genes": var.index,
            "device": device,
            "seed": seed,
            "key_added": key_added,
            "labels": labels,
            "with_graphs": False,
            "std": std,
            "interval": interval,
            "on_misfit": on_misfit,
        }
        interpolated, fits = _interpolated(grids, places, zs, n_context, show_progress_bar, how)
        parts |= interpolated
        checks = {f"{own[first]} to {own[first + 1]}": fit for first, fit in fits.items()}
        parameters = {**found[0].parameters(), "n_context": n_context, "spacing": spacing, "interval": interval}
        record = {_keys.PAIR_CHECK: pd.DataFrame.from_dict(checks, orient="index")}
        record |= provenance(grids, described_model, lattice, seed, parameters, call)
        stack = stacked(parts, places, own, lattice, key_added, record)
        note_carried(stack, grids, labels, key_added)
        values = [parts[name].values for name in places.index]
        _logging.info(
            f"interpolated {len(interpolated)} section(s) beside {len(measured)} measured ({stack.n_obs} rows)"
        )
        kinds = [_keys.STD] * std + [_keys.LOWER, _keys.UPPER] * (interval is not None)
        n_threads = torch.get_num_threads()
        if store is not None:
            io.write_stack(store, stack, values, kinds, key_added, n_threads)
            del stack, values, parts, interpolated  # they may be large, and are about to be read again
        else:
            dense = io.is_dense(stack.shape, 1 + len(kinds), limit)
            io.add_values(stack, values, kinds, dense=dense, n_threads=n_threads)
    return stack if out is None else io.read_zarr(out, key=key_added)


# ---- gap by gap


def described_together(gaps: Sequence[int], n_sections: int, n_context: int) -> Iterator[tuple[list[int], range]]:
    """Gaps that are read from one description, by their first section, and the up to `MOST_SECTIONS` that it describes.

    These hold `n_context` sections on either side of each pair.
    """
    left = list(gaps)
    while left:
        start = max(left[0] - n_context, 0)
        room = max(MOST_SECTIONS, left[0] + 2 + n_context - start) if n_context else 2
        stop = min(start + room, n_sections)
        own = [gap for gap in left if min(gap + 2 + n_context, n_sections) <= stop]
        yield own, range(start, min(own[-1] + 2 + n_context, n_sections))
        left = left[len(own) :]


def _interpolated(
    grids: Sequence[io.SliceGrid],
    places: pd.DataFrame,
    zs: FloatArray,
    n_context: int,
    show_progress_bar: bool,
    how: Mapping[str, Any],
) -> tuple[dict[str, Part], dict[int, dict[str, float]]]:
    """The interpolated sections by name, and the pair check of each gap by its first section.

    `how` has keywords of :func:`c2sti.tl._gap.insert` that are the same for all gaps.
    """
    inserted = places[places["position"] > 0]
    parts: dict[str, Part] = {}
    fits: dict[int, dict[str, float]] = {}
    gaps = {first: inserted[inserted["first"] == first] for first in np.unique(inserted["first"]).tolist()}
    wanted = [Wanted(first, list(inside.index), inside["position"].to_numpy()) for first, inside in gaps.items()]
    for one, frame, layers in each_gap(grids, zs, wanted, n_context, show_progress_bar, how):
        parts |= parts_of_gap(frame, layers, one.names, how["key_added"])
        fits[one.first] = frame.uns[how["key_added"]][_keys.PAIR_CHECK]
    return parts, fits


@dataclass(frozen=True)
class Wanted:
    """Sections wanted between two measured ones.

    Parameters
    ----------
    first
        Place of the upper neighbour in the series.
    names, positions
        Of the sections; positions are (S,), increasing.
    at
        (M, 2) points that are wanted; None for the bins of the tissue.
    """

    first: int
    names: list[str]
    positions: FloatArray
    at: FloatArray | None = None


def each_gap(
    grids: Sequence[io.SliceGrid],
    zs: FloatArray,
    wanted: Sequence[Wanted],
    n_context: int,
    show_progress_bar: bool,
    how: Mapping[str, Any],
) -> Iterator[tuple[Wanted, AnnData, io.Layers]]:
    """What is wanted in each gap, in order of `first`, and what :func:`c2sti.tl._gap.insert` gives for it.

    `how` has keywords of that function that are the same for all gaps. A gap that is wanted twice is warned of once.
    """
    gaps = list(dict.fromkeys(one.first for one in wanted))
    method, lattice = how["method"], how["lattice"]
    what = f"interpolating {sum(len(one.names) for one in wanted)} section(s)"
    with tqdm(total=100 * len(wanted), desc=what, bar_format=SHARES, disable=not show_progress_bar) as bar:
        for of_window, window in described_together(gaps, len(grids), n_context):
            described = None
            if isinstance(method, Describing):
                sections, spacing, keys = io.make_sections([grids[i] for i in window], lattice)
                described = describe(
                    sections, spacing, keys, method.settings, device=how["device"], seed=how["seed"]
                ).keeping()
            known: set[int] = set()
            for one in (one for one in wanted if one.first in of_window):
                first, (above, below) = one.first, zs[one.first : one.first + 2]
                around = range(max(first - n_context, 0), min(first + 2 + n_context, len(grids)))
                beside = [i for i in around if i not in (first, first + 1)]
                frame, layers, *_ = insert(
                    grids[first],
                    grids[first + 1],
                    one.positions,
                    at=one.at,
                    context={float((zs[i] - above) / (below - above)): grids[i] for i in beside},
                    progress=shares_of(bar),
                    description=None if described is None else described.between(above, below),
                    stacklevel=6,
                    **{**how, "on_misfit": "ignore" if first in known else how["on_misfit"]},
                )
                known.add(first)
                yield one, frame, layers
