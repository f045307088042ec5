"""Fill a whole series of sections: so many in each gap, to a spacing, or at given z.

Every z lies in one gap between two measured sections. These two are the pair, the sections around them are context, and
all sections of a gap are interpolated at once, on one lattice for the series.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from tqdm.auto import tqdm

from c2sti import _keys, _logging, _result, _validators, io, ops
from c2sti._types import FloatArray, Interpolator, Lattice
from c2sti.models._registry import available, resolve, sees_context
from c2sti.models.components import describe
from c2sti.models.gp import Describing
from c2sti.pair_check import OnMisfit, check_on_misfit
from c2sti.tl._describe import call_of, model_record, provenance
from c2sti.tl._gap import SHARES, check_key, check_level, insert, shares_of
from c2sti.tl._labels import Kind, carry_measured, note_carried, shared_labels
from c2sti.tl._to_slices import frame_of_stack

if TYPE_CHECKING:
    from spatialdata import SpatialData

SAME = 1e-6  # of the series' thickness: nearer to a measured section, a z is that section's
MOST_DEPTHS = 10_000  # more are a spacing in the wrong unit
MOST_SECTIONS = 12  # that are described together
MEASURED = "slice"  # that names of measured sections begin with
SUPPORTS = ["measured", "both", "a", "b", "none"]


# ---- z of sections


def depths_of(grids: Sequence[io.SliceGrid], z: Sequence[float] | None) -> FloatArray:
    """(n_sections,) increasing z: those given, or those that the sections carry."""
    if z is None:
        without = [g.name for g in grids if g.z is None]
        if without:
            raise ValueError(
                f"{', '.join(without)} carry no depth; give one a section with z=[…] in µm, or put it into obs['z_um']"
            )
        z = [g.z for g in grids if g.z is not None]
        _warn_of_unit(grids)
    depths = io.depth_of_each(z, len(grids))
    _check_increasing(depths, "the depths of the sections", "put slices (and z) in order, and leave out what is twice")
    return depths


def _warn_of_unit(grids: Sequence[io.SliceGrid]) -> None:
    """Warn where z is a column that names no unit: a stack lays it beside x and y."""
    unnamed = [g.name for g in grids if g.obs is not None and _keys.Z_UM not in g.obs and _keys.Z in g.obs]
    if unnamed:
        _logging.warning(
            f"obs['z'] of {', '.join(unnamed)} names no unit, and obsm['spatial_3d'] has it beside x and y as it is. "
            "Put z in the unit of x and y into obs['z_um'], or give it: z=[…]"
        )


def _check_increasing(depths: FloatArray, what: str, fix: str) -> None:
    if not np.isfinite(depths).all() or (np.diff(depths) <= 0).any():
        raise ValueError(f"{what}, {depths.tolist()}, must increase without repeats; {fix}")


def depths_wanted(
    depths: FloatArray,
    at_z: Sequence[float] | None = None,
    spacing: float | None = None,
    n_slices: int | Sequence[int] | None = None,
) -> FloatArray:
    """(S,) z of the sections wanted: those given, or all that were measured and even steps in each gap between them."""
    top, bottom = depths[[0, -1]]
    gaps = np.diff(depths)
    if sum(given is not None for given in (at_z, spacing, n_slices)) != 1:
        raise ValueError(
            f"give one of n_slices= (sections in each gap), spacing= (the sections are {gaps.min():g} to "
            f"{gaps.max():g} apart) and at_z= (depths from {top:g} to {bottom:g})"
        )
    if at_z is not None:
        return _depths_given(depths, at_z)
    n_steps = 1 + _numbers_given(n_slices, len(gaps)) if spacing is None else _steps(gaps, spacing)
    if n_steps.sum() > MOST_DEPTHS:
        asked = f"n_slices = {_validators.shown(n_slices)}" if spacing is None else f"spacing = {spacing:g}"
        raise ValueError(
            f"{asked} makes {n_steps.sum():.0f} sections between {top:g} and {bottom:g}; "
            + ("choose fewer" if spacing is None else "is it in the unit of the depths?")
        )
    inner = [
        np.linspace(above, below, int(n) + 1)[:-1]
        for above, below, n in zip(depths[:-1], depths[1:], n_steps, strict=True)
    ]
    return np.append(np.concatenate(inner), bottom)


def _steps(gaps: FloatArray, spacing: float) -> FloatArray:
    """(G,) how many even steps each gap has: where there are several, each is 2/3 to 5/4 of the spacing."""
    if not 0 < _validators.number(spacing, "spacing") <= gaps.sum():
        raise ValueError(f"spacing = {spacing:g} must be positive and at most {gaps.sum():g}, the whole series")
    n_steps = np.floor(gaps / spacing + 0.5 + SAME)
    if n_steps.max() < 2:
        raise ValueError(
            f"spacing = {spacing:g} leaves no room for a section in any gap: the sections are {gaps.min():g} to "
            f"{gaps.max():g} apart; give spacing={gaps.max() / 2:g} or less, or n_slices=1"
        )
    return np.asarray(np.maximum(n_steps, 1))


def _numbers_given(n_slices: int | Sequence[int] | None, n_gaps: int) -> FloatArray:
    """(G,) how many sections are wanted in each gap."""
    if not isinstance(n_slices, Iterable):
        return np.full(n_gaps, _validators.whole(n_slices, "n_slices"))
    given = _validators.several(n_slices, "n_slices", "whole numbers, one for each gap")
    if len(given) != n_gaps:
        raise ValueError(f"n_slices holds {len(given)} number(s); one for each of the {n_gaps} gaps is needed")
    return np.array([_validators.whole(n, "n_slices", least=0) for n in given])


def _depths_given(depths: FloatArray, at_z: Sequence[float]) -> FloatArray:
    """(S,) `at_z`, which must increase within the series."""
    top, bottom = depths[[0, -1]]
    wanted = np.atleast_1d(_validators.reals(at_z, "at_z"))
    if wanted.ndim != 1 or len(wanted) == 0:
        raise ValueError(f"at_z has shape {wanted.shape}; a list of z is needed")
    _check_increasing(wanted, "at_z", f"try {np.unique(wanted).tolist()}")
    slack = SAME * (bottom - top)
    outside = wanted[(wanted < top - slack) | (wanted > bottom + slack)]
    if len(outside):
        raise ValueError(
            f"at_z = {outside.tolist()} lie outside of the series, which runs from {top:g} to {bottom:g}; sections can "
            "be interpolated between measured ones only"
        )
    return wanted


def places_of(depths: FloatArray, wanted: FloatArray, own: Sequence[str], key_added: str) -> pd.DataFrame:
    """By name of each section of the result: its z, the measured section before it, and its position from that.

    `position` is the fraction of the way to the next measured section, and 0 for a measured section itself.
    """
    nearest = np.abs(depths[:, None] - wanted).argmin(axis=0)
    measured = np.abs(depths[nearest] - wanted) <= SAME * np.ptp(depths)
    gap = np.clip(np.searchsorted(depths, wanted) - 1, 0, len(depths) - 2)
    position = np.where(measured, 0.0, (wanted - depths[gap]) / np.diff(depths)[gap])
    inserted = iter(_keys.inserted(key_added, int((~measured).sum())))
    names = [own[place] if known else next(inserted) for place, known in zip(nearest, measured, strict=True)]
    z, first = np.where(measured, depths[nearest], wanted), np.where(measured, nearest, gap)
    return pd.DataFrame({"z": z, "first": first, "position": position}, index=names)


def _own_names(found: Sequence[io.Source], key_added: str) -> list[str]:
    """Names of the measured sections in the result: those of `library_key`, "|" for "/", or their places."""
    names = [_keys.label_column(source.name) if source.library else _keys.measured(i) for i, source in enumerate(found)]
    for name in names:
        if name.startswith(f"{key_added}_"):
            raise ValueError(
                f"the section {name!r} is called like an interpolated one; choose another prefix for those: key_added="
            )
    return names


def read_series(
    found: Sequence[io.Source],
    z: Sequence[float] | None,
    *,
    window: io.Windows,
    obs_keys: str | Sequence[str],
    obsm_keys: str | Sequence[str],
    key_added: str,
) -> tuple[list[io.SliceGrid], list[str], FloatArray]:
    """The sections of a series on the genes that they share, their names in a result, and (n_sections,) z."""
    windows = io.window_for_each(window, [source.name for source in found])
    grids = io.on_shared_genes(
        [
            source.read(obs_keys=obs_keys, obsm_keys=obsm_keys, window=given, measured=True)
            for source, given in zip(found, windows, strict=True)
        ]
    )
    own = _own_names(found, key_added)
    depths = depths_of(grids, z)
    io.check_unit(depths, grids[0].pitch)
    return [replace(g, z=depth) for g, depth in zip(grids, depths.tolist(), strict=True)], own, depths


# ---- the series


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
    slices
        Two sections or more in order of z, in common coordinates (see :func:`c2sti.pp.align_series`); or one object
        that holds them, with `library_key`.
    library_key
        Column of `obs` that names the section of each row; measured sections keep these names in the result.
    z
        z of each section, increasing, µm; by default ``obs["z_um"]`` or ``obs["z"]`` of the sections.
    n_slices, spacing, at_z
        What is wanted, one of: the number of sections in each gap between measured ones, or a list of one number a gap;
        their distance, by which each gap is divided evenly, in the steps nearest to it (at least 2/3 of it, so that no
        interpolated section lies beside a measured one); or z of the sections, increasing. The first two keep all
        measured sections, `at_z` those whose z it names.
    n_context
        Sections on either side of a pair that are used as its context.
    pitch
        Side of a bin, in the unit of the frame; by default the mean of the sections' pitches.
    key_added
        Prefix of the interpolated sections' names, and key of the record in `uns`.
    out
        Zarr store to write the result to, not there yet: the spots of the measured sections and the factors of the
        others. It is returned opened, with lazy values.
    model, layer, spatial_key, table_key, image_key, coordinate_system, window, genes, device, seed, show_progress_bar
        As in :func:`interpolate`.
    obs_keys, obsm_keys, std, interval, on_misfit, max_memory
        As in :func:`interpolate`.

    Returns
    -------
    AnnData of M rows × N genes, float32 log1p expression in ``X``, in the layout of :func:`to_slices`. Rows of a
    measured section are its spots, those of an interpolated one the bins of its tissue:

    - ``obs["section"]``: ``"slice_0"`` … for a measured section, or its name by `library_key`; ``"c2sti_1"`` … for an
      interpolated one; ``obs["inserted"]``, ``obs["z"]``, ``obs["library_size"]``; ``obs["array_row"]``,
      ``obs["array_col"]``, the bin of the common lattice, -1 where none holds the row; ``obs["support"]``, ``"a"`` the
      upper neighbour. Rows of spots have the names and the columns of `obs` that the spots have.
    - ``obsm["spatial"]`` (M, 2) and ``obsm["spatial_3d"]`` (M, 3), unit of the frame and of z.
    - with `std`: ``layers["std"]``, ``obs["confidence"]``; with `interval`: ``layers["lower"]``, ``layers["upper"]``.
      NaN where measured.
    - annotations of `obs_keys` and `obsm_keys` under their own names.
    - ``uns["c2sti"]``: as in :func:`interpolate`, with ``"neighbours"`` (of each interpolated section the places of its
      neighbours in `slices`, and its position between them) and ``"pair_check"`` of each gap, without gene graphs.
      ``uns["spatial"]``: an image a section.

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
        grids, own, depths = read_series(
            found, z, window=window, obs_keys=obs_keys, obsm_keys=obsm_keys, key_added=key_added
        )
        places = places_of(depths, depths_wanted(depths, at_z, spacing, n_slices), own, key_added)
        lattice = io.common_lattice(*grids, pitch=pitch)
        labels, var = shared_labels(grids), io.shared_var(grids)
        if genes is not None:
            var = var.loc[_result.genes_of(genes, var.index, var, "all sections")]
        n_context = n_context if sees_context(method) else 0
        measured = places["first"][places["position"] == 0]
        parts = {name: _measured_part(grids[i], name, lattice, var, labels) for name, i in measured.items()}
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
        interpolated, fits = _interpolated(grids, places, depths, n_context, show_progress_bar, how)
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
    depths: FloatArray,
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
    for one, frame, layers in each_gap(grids, depths, wanted, n_context, show_progress_bar, how):
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
    depths: FloatArray,
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
                first, (above, below) = one.first, depths[one.first : one.first + 2]
                around = range(max(first - n_context, 0), min(first + 2 + n_context, len(grids)))
                beside = [i for i in around if i not in (first, first + 1)]
                frame, layers, *_ = insert(
                    grids[first],
                    grids[first + 1],
                    one.positions,
                    at=one.at,
                    context={float((depths[i] - above) / (below - above)): grids[i] for i in beside},
                    progress=shares_of(bar),
                    description=None if described is None else described.between(above, below),
                    stacklevel=6,
                    **{**how, "on_misfit": "ignore" if first in known else how["on_misfit"]},
                )
                known.add(first)
                yield one, frame, layers


# ---- sections as rows of a stack


@dataclass(frozen=True)
class Part:
    """One section of the stack: its rows without values, its values, and columns of `obs` of its spots."""

    rows: AnnData
    values: io.StackPart
    obs: pd.DataFrame | None = None


def _measured_part(g: io.SliceGrid, name: str, lattice: Lattice, var: pd.DataFrame, labels: Mapping[str, Kind]) -> Part:
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
    own: Sequence[str],
    lattice: Lattice,
    key: str,
    record: Mapping[str, Any],
) -> AnnData:
    """All sections in order of z, without their values."""
    names = list(places.index)
    lengths = [parts[name].rows.n_obs for name in names]
    if any(_keys.LIBRARY_SIZE in part.rows.obs for part in parts.values()):
        for part in parts.values():  # columns that only some sections have would be lost
            if _keys.LIBRARY_SIZE not in part.rows.obs:
                part.rows.obs[_keys.LIBRARY_SIZE] = np.nan
    stack = ad.concat({name: parts[name].rows for name in names}, index_unique="-", merge="same")
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
    called = np.where(stack.obs[_keys.INSERTED], of_bins, _names_of_spots(parts, names))
    stack.obs_names = pd.Index(called)
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
    tables = {name: table for name, table in of_each.items() if table is not None and len(table.columns)}
    nullable = {"b": "boolean", "i": "float64", "u": "float64"}  # kinds of columns that can be missing in some rows
    for column in dict.fromkeys(chain.from_iterable(table.columns for table in tables.values())):
        if column in stack.obs:
            continue
        having = {name: table[column] for name, table in tables.items() if column in table}
        kinds = [
            object if isinstance(x.dtype, pd.CategoricalDtype) else nullable.get(x.dtype.kind, x.dtype)
            for x in having.values()
        ]
        together = pd.concat(
            [x.astype(kind) for x, kind in zip(having.values(), kinds, strict=True)], ignore_index=True
        )
        together.index = stack.obs_names[section.isin(list(having))]
        stack.obs[column] = together.reindex(stack.obs_names)
        if any(isinstance(series.dtype, pd.CategoricalDtype) for series in having.values()):
            stack.obs[column] = stack.obs[column].astype("category")
