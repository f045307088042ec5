"""Fill a whole series of sections.

Every z lies in one gap between two measured sections. These two are the pair, the sections around them are context, and
all sections of a gap are interpolated at once, on one lattice for the series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from tqdm.auto import tqdm

from c2sti import _keys, _logging, _result, _validators, io, ops
from c2sti._docs import documented
from c2sti._types import FloatArray, Interpolator, Lattice
from c2sti.models._registry import available, resolve, sees_context
from c2sti.models.components import describe
from c2sti.models.gp import Describing
from c2sti.pair_check import OnMisfit
from c2sti.tl._describe import call_of, model_record, provenance
from c2sti.tl._gap import SHARES, check_settings, insert, shares_of
from c2sti.tl._labels import Kind, carry_measured, note_carried, shared_labels
from c2sti.tl._series_z import MEASURED, places_of, read_series, z_wanted
from c2sti.tl._to_slices import frame_of_stack

if TYPE_CHECKING:
    from spatialdata import SpatialData

MOST_SECTIONS = 12  # that are described together
SUPPORTS = ["measured", "both", "a", "b", "none"]


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
    check_settings(key_added, on_misfit, seed, interval)
    if key_added == MEASURED:
        raise ValueError(f"key_added={key_added!r} is what measured sections are called; choose another name")
    limit = io.memory_of(max_memory)
    device, method = available(device), resolve(model)
    n_context = _validators.whole(n_context, "n_context", least=0)
    n_context = n_context if sees_context(method) else 0
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
        measured, inserted = places[places["position"] == 0], places[places["position"] > 0]
        parts = {name: measured_part(grids[i], name, lattice, var, labels) for name, i in measured["first"].items()}
        interpolated, checks = filled(
            grids,
            zs,
            [(of_gap, None, None) for _, of_gap in inserted.groupby("first")],
            n_context=n_context,
            show_progress_bar=show_progress_bar,
            method=method,
            lattice=lattice,
            genes=var.index,
            device=device,
            seed=seed,
            key_added=key_added,
            labels=labels,
            std=std,
            interval=interval,
            on_misfit=on_misfit,
        )
        parts |= interpolated
        parameters = {**found[0].parameters(), "n_context": n_context, "spacing": spacing, "interval": interval}
        record = provenance(grids, model_record(model, method), lattice, seed, parameters, call)
        stack = stacked(parts, places, checks, own, lattice, key_added, record)
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


def filled(
    grids: Sequence[io.SliceGrid],
    zs: FloatArray,
    wanted: Sequence[tuple[pd.DataFrame, FloatArray | None, NDArray[np.intp] | None]],
    *,
    n_context: int,
    show_progress_bar: bool,
    method: Interpolator,
    lattice: Lattice,
    device: str,
    seed: int,
    key_added: str,
    on_misfit: OnMisfit,
    **how: Any,
) -> tuple[dict[str, Part], dict[int, dict[str, float]]]:
    """What is wanted in each gap, by name, and the pair check of each gap by its first section.

    Parameters
    ----------
    grids, zs
        The series.
    wanted
        Rows of :func:`places_of` that lie in one gap and are interpolated together; the (M, 2) points of all of them,
        and which row each point is of, or None twice for the bins of the tissue. Of rows with points those are left
        out that have none in the tissue. A gap that is wanted twice is warned of once.
    n_context
        Sections on either side of a pair that are its context.
    method, lattice, device, seed, key_added, on_misfit, how
        As of :func:`c2sti.tl._gap.insert`, for all gaps.
    """
    parts: dict[str, Part] = {}
    checks: dict[int, dict[str, float]] = {}
    firsts = [int(places["first"].iloc[0]) for places, *_ in wanted]
    what = f"interpolating {sum(len(places) for places, *_ in wanted)} section(s)"
    with tqdm(total=100 * len(wanted), desc=what, bar_format=SHARES, disable=not show_progress_bar) as bar:
        for gaps, window in described_together(list(dict.fromkeys(firsts)), len(grids), n_context):
            described = None
            if isinstance(method, Describing):
                sections, spacing, keys = io.make_sections([grids[i] for i in window], lattice)
                described = describe(sections, spacing, keys, method.settings, device=device, seed=seed).keeping()
            for first, (places, at, place_of_each) in zip(firsts, wanted, strict=True):
                if first not in gaps:
                    continue
                above, below = zs[first : first + 2]
                around = [*range(max(first - n_context, 0), first), *range(first + 2, len(grids))[:n_context]]
                frame, layers, *_ = insert(
                    grids[first],
                    grids[first + 1],
                    places["position"].to_numpy(),
                    at=at,
                    context={float((zs[i] - above) / (below - above)): grids[i] for i in around},
                    method=method,
                    lattice=lattice,
                    device=device,
                    seed=seed,
                    key_added=key_added,
                    on_misfit="ignore" if first in checks else on_misfit,
                    progress=shares_of(bar),
                    description=None if described is None else described.between(above, below),
                    stacklevel=5,
                    **how,
                )
                checks.setdefault(first, frame.uns[key_added][_keys.PAIR_CHECK])
                if place_of_each is not None:
                    for i, name in enumerate(layers.names):
                        frame.obs[_keys.tissue(name)] &= place_of_each == i
                found = parts_of_gap(frame, layers, list(places.index), key_added)
                parts |= {name: part for name, part in found.items() if at is None or part.rows.n_obs}
    return parts, checks


# ---- sections as rows of a stack, in order of z


@dataclass(frozen=True)
class Part:
    """One section of the stack: its rows without values, its values, and columns of `obs` of its spots."""

    rows: AnnData
    values: io.StackPart
    obs: pd.DataFrame | None = None


def measured_part(g: io.SliceGrid, name: str, lattice: Lattice, var: pd.DataFrame, labels: Mapping[str, Kind]) -> Part:
    """A measured section: its own spots."""
    values = io.values_of(g, var.index)
    rows = AnnData(
        obs=pd.DataFrame({_keys.SUPPORT: "measured"}, index=g.names), var=var.copy(), obsm={_keys.SPATIAL: g.xy.copy()}
    )
    if g.counts:
        values = io.log_normalise(values, g.library)
        rows.obs[_keys.LIBRARY_SIZE] = g.library
    carry_measured(rows, g, labels)
    image = io.section_image(g.image, lattice)
    spot = ops.spacing(g.xy) if len(np.unique(g.xy, axis=0)) > 1 else lattice.pitch
    rows.uns[_keys.SPATIAL] = io.library_of_sections({name: image}, name, spot, lattice.centres)
    return Part(rows, values, g.obs)


def parts_of_gap(frame: AnnData, layers: io.Layers, names: Sequence[str], key: str) -> dict[str, Part]:
    """The interpolated sections of one gap, each by its name in the whole series."""
    sections = frame_of_stack(frame, key)
    painted = frame.uns[key][_keys.VIRTUAL_HISTOLOGY]
    parts = {}
    for i, (in_gap, name) in enumerate(zip(layers.names, names, strict=True)):
        rows = sections[(sections.obs[_keys.SECTION] == in_gap).to_numpy()].copy()
        rows.obs = rows.obs.drop(columns=[_keys.SECTION, _keys.INSERTED, _keys.Z]).astype({_keys.SUPPORT: str})
        rows.uns = {_keys.SPATIAL: rows.uns[_keys.SPATIAL][in_gap], _keys.VIRTUAL_HISTOLOGY: in_gap in painted}
        del rows.obsm[_keys.SPATIAL_3D]
        inside = np.flatnonzero(frame.obs[_keys.tissue(in_gap)].to_numpy())
        parts[name] = Part(rows, layers.section(i, inside, name))
    return parts


def stacked(
    parts: Mapping[str, Part],
    places: pd.DataFrame,
    checks: Mapping[int, Mapping[str, float]],
    own: Sequence[str],
    lattice: Lattice,
    key: str,
    record: Mapping[str, Any],
) -> AnnData:
    """All sections in order of z, without their values; `checks` are the pair checks of gaps by their first section."""
    names = list(places.index)
    lengths = [parts[name].rows.n_obs for name in names]
    stack = ad.concat({name: parts[name].rows for name in names}, index_unique="-", merge="same")
    expected = [part.rows.var[_keys.EXPECTED_PCC] for part in parts.values() if _keys.EXPECTED_PCC in part.rows.var]
    if expected:  # of each interpolated section: that of its gap
        stack.var[_keys.EXPECTED_PCC] = np.mean(expected, axis=0)
    xy, z = np.asarray(stack.obsm[_keys.SPATIAL]), np.repeat(places["z"].to_numpy(), lengths)
    bins = lattice.bins(xy)
    row, column = np.where(bins >= 0, np.divmod(bins, lattice.shape[1]), -1)
    front = pd.DataFrame(
        {
            _keys.SECTION: pd.Categorical(np.repeat(names, lengths), categories=names, ordered=True),
            _keys.INSERTED: np.repeat(places["position"].to_numpy() > 0, lengths),
            _keys.Z: z,
            "array_row": row,
            "array_col": column,
            _keys.SUPPORT: pd.Categorical(stack.obs[_keys.SUPPORT], categories=SUPPORTS),
        },
        index=stack.obs_names,
    )
    stack.obs = front.join(stack.obs.drop(columns=_keys.SUPPORT))
    _add_columns_of_spots(stack, {name: parts[name].obs for name in names})
    of_bins = [f"{name}_{r}_{c}" for name, r, c in zip(stack.obs[_keys.SECTION], row, column, strict=True)]
    stack.obs_names = pd.Index(np.where(stack.obs[_keys.INSERTED], of_bins, _names_of_spots(parts, names)))
    stack.obsm[_keys.SPATIAL_3D] = np.column_stack([xy, z])
    inserted = places[places["position"] > 0]
    scale = _result.log1p_of(record)
    if scale is not None:
        stack.uns[_keys.LOG1P] = scale
    stack.uns[_keys.SPATIAL] = {name: parts[name].rows.uns[_keys.SPATIAL] for name in names}
    painted = [name for name in inserted.index if parts[name].rows.uns[_keys.VIRTUAL_HISTOLOGY]]
    stack.uns[key] = {
        "synthetic": len(inserted) > 0,
        **({_keys.STATISTICS: _result.STATISTICS} if len(inserted) else {}),
        "sections": names,
        "inserted": list(inserted.index),
        "z": places["z"].to_numpy(),
        "slices": np.array(own),
        "neighbours": pd.DataFrame(
            {"a": inserted["first"], "b": inserted["first"] + 1, "position": inserted["position"]}
        ),
        "genes": stack.var_names.to_numpy(dtype=str),
        "lattice": io.lattice_as_dict(lattice),
        _keys.VIRTUAL_HISTOLOGY: np.array(painted, dtype=str),
        _keys.PAIR_CHECK: pd.DataFrame.from_dict(
            {f"{own[first]} to {own[first + 1]}": check for first, check in checks.items()}, orient="index"
        ),
        **{k: v for k, v in record.items() if k != _keys.LOG1P},
    }
    return stack


def _names_of_spots(parts: Mapping[str, Part], names: Sequence[str]) -> list[str]:
    """Names of all rows: of spots their own, behind that of the section where names occur in two sections."""
    own = [parts[name].rows.obs_names.astype(str) for name in names]
    spots = [called for name, called in zip(names, own, strict=True) if parts[name].obs is not None]
    alike = bool(spots) and not spots[0].append(spots[1:]).is_unique
    return [f"{name}_{one}" if alike else one for name, called in zip(names, own, strict=True) for one in called]


def _add_columns_of_spots(stack: AnnData, of_each: Mapping[str, pd.DataFrame | None]) -> None:
    """Add the columns that the measured sections have of their own; missing in the others."""
    section = stack.obs[_keys.SECTION].astype(str)
    tables = {name: table for name, table in of_each.items() if table is not None}
    kinds = {"b": "boolean", "i": "float64", "u": "float64"}  # by those that cannot be missing in some rows
    for column in dict.fromkeys(chain.from_iterable(tables.values())):
        if column in stack.obs:
            continue
        having = {name: table[column] for name, table in tables.items() if column in table}
        labels = [isinstance(values.dtype, pd.CategoricalDtype) for values in having.values()]
        together = pd.concat(
            [
                values.astype(object if is_label else kinds.get(values.dtype.kind, values.dtype))
                for values, is_label in zip(having.values(), labels, strict=True)
            ]
        )
        together.index = stack.obs_names[section.isin(list(having))]
        joined = together.reindex(stack.obs_names)
        stack.obs[column] = joined.astype("category") if any(labels) else joined
