"""Fill a whole series of sections: to an even spacing, or at given depths.

Every depth lies in one gap between two measured sections. These two are the pair, the sections around them are context,
and all depths of a gap are made at once. All sections come on one lattice, so that the stack is a volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from tqdm.auto import tqdm

from c2sti import _keys, _logging, _result, _validators, io
from c2sti._types import FloatArray, Interpolator, Lattice
from c2sti.models._registry import available, resolve, sees_context
from c2sti.models.components import Description, describe
from c2sti.models.gp import Describing
from c2sti.pair_check import OnMisfit, check_on_misfit
from c2sti.tl._describe import call_of, model_record, provenance
from c2sti.tl._gap import SHARES, check_key, check_level, insert, shares_of
from c2sti.tl._labels import note_carried, shared_labels
from c2sti.tl._stack import Part, Place, interpolated_parts, measured_part, stacked

if TYPE_CHECKING:
    from spatialdata import SpatialData


SAME = 1e-6  # of the series' thickness: nearer to a measured section, a depth is that section's
MOST_DEPTHS = 10_000  # more are a spacing in the wrong unit


def depths_of(grids: Sequence[io.SliceGrid], z: Sequence[float] | None) -> FloatArray:
    """(n_sections,) depths: those given, or those that the sections carry.

    Raises
    ------
    ValueError
        They are missing, not one a section, or do not increase.
    """
    if z is None:
        without = [g.name for g in grids if g.z is None]
        if without:
            raise ValueError(
                f"{', '.join(without)} carry no depth; give one a section with z=[…] in µm, or put it into obs['z_um']"
            )
        z = [g.z for g in grids if g.z is not None]
    depths = io.depth_of_each(z, len(grids))
    _check_increasing(depths, "the depths of the sections", "put slices (and z) in order, and leave out what is twice")
    return depths


def _check_increasing(depths: FloatArray, what: str, mend: str) -> None:
    if not np.isfinite(depths).all() or (np.diff(depths) <= 0).any():
        raise ValueError(f"{what}, {depths.tolist()}, must increase without repeats; {mend}")


def depths_wanted(depths: FloatArray, at_z: Sequence[float] | None, spacing: float | None) -> FloatArray:
    """(S,) depths of the sections wanted: those given, or even steps from the first on.

    Raises
    ------
    ValueError
        Neither or both are given, or they do not lie in the series in order.
    """
    top, bottom = depths[[0, -1]]
    if (at_z is None) == (spacing is None):
        gaps = np.diff(depths)
        raise ValueError(
            f"give either spacing= (the sections are {gaps.min():g} to {gaps.max():g} apart) or at_z= (depths from "
            f"{top:g} to {bottom:g})"
        )
    if spacing is not None:
        if not 0 < _validators.number(spacing, "spacing") <= bottom - top:
            raise ValueError(f"spacing = {spacing:g} must be positive and at most {bottom - top:g}, the whole series")
        if (bottom - top) / spacing > MOST_DEPTHS:
            raise ValueError(
                f"spacing = {spacing:g} makes {(bottom - top) / spacing:.0f} sections between {top:g} and {bottom:g}; "
                "is it in the unit of the depths?"
            )
        return top + spacing * np.arange(int((bottom - top) / spacing * (1 + SAME)) + 1)
    wanted = np.atleast_1d(_validators.reals(at_z, "at_z"))
    if wanted.ndim != 1 or len(wanted) == 0:
        raise ValueError(f"at_z has shape {wanted.shape}; a list of depths is needed")
    _check_increasing(wanted, "at_z", f"try {np.unique(wanted).tolist()}")
    slack = SAME * (bottom - top)
    outside = wanted[(wanted < top - slack) | (wanted > bottom + slack)]
    if len(outside):
        raise ValueError(
            f"at_z = {outside.tolist()} lie outside of the series, which runs from {top:g} to {bottom:g}; sections can "
            "be interpolated between measured ones only"
        )
    return wanted


MOST_SECTIONS = 12  # that are described together
MEASURED = "slice"  # that names of measured sections begin with


def interpolate_series(
    slices: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    library_key: str | None = None,
    z: Sequence[float] | None = None,
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
    """Fill a series of sections to an even spacing, or make it at given depths.

    A depth that is a measured section's gives that section as it was measured; any other is interpolated between its
    two measured neighbours, with the sections around these as context.

    Parameters
    ----------
    slices
        Two sections or more in order of z, in common coordinates (see :func:`c2sti.pp.align_series`); or one object
        that holds them, with `library_key`.
    library_key
        Column of `obs` that names the section of each row; measured sections keep these names in the result.
    z
        z of each section, increasing, µm; by default ``obs["z_um"]`` or ``obs["z"]`` of the sections.
    at_z
        Depths wanted, increasing, from that of the first section to that of the last.
    spacing
        Or their distance: depths from the first section on, as far as they lie within the series.
    n_context
        Sections on either side of a pair that are used as its context.
    model, layer, spatial_key, table_key, image_key, coordinate_system, window, device, seed, show_progress_bar
        As in :func:`interpolate`.
    pitch
        Side of a bin, in the unit of the frame; by default the mean of the sections' pitches.
    genes
        Names of the genes wanted; by default all that the sections share. The stack is dense: bins of all sections ×
        genes × 4 bytes, and twice that while it is made.
    obs_keys, obsm_keys
        Labels and numbers in `obs`, and tables in `obsm`, to carry along, as in :func:`interpolate`.
    std, interval
        Whether to say how uncertain interpolated values are, as in :func:`interpolate`.
    on_misfit
        What to do where two neighbours do not seem to belong together, as in :func:`interpolate`.
    key_added
        Prefix of the interpolated sections' names, and key of the provenance in `uns`.
    out
        Where to write the result instead of holding it in memory: a zarr store that is not there yet. It holds the
        spots of the measured sections and the factors of the others; returned is the store, opened, with lazy values.
    max_memory
        Bytes, or text such as ``"8GB"``: a larger result has lazy values, as one of more than 1 GB has by default.

    Returns
    -------
    AnnData of M rows × N genes, float32 log1p expression in ``X``, in the layout of :func:`to_slices`. Rows of a
    measured section are its spots, those of an interpolated one the bins of its tissue:

    - ``obs["section"]``: ``"slice_0"`` … for a measured section by its place in `slices`, or its name by
      `library_key`; ``"c2sti_1"`` … for an interpolated one, in order of z; ``obs["inserted"]``; ``obs["z"]``; where
      counts were given, ``obs["library_size"]`` of the measured spots; ``obs["array_row"]``, ``obs["array_col"]``: the
      bin of the common lattice that holds the row, -1 where none does. Rows of spots have the names and the columns of
      `obs` that the spots have, behind the section's name where two sections call spots alike.
    - ``obs["support"]``: which of its two neighbours cover the bin (``"a"`` is the upper one), ``"measured"`` if its
      section was.
    - ``obsm["spatial"]`` (M, 2) and ``obsm["spatial_3d"]`` (M, 3), unit of the frame and of the depths.
    - with `std`: ``layers["std"]``, ``obs["confidence"]``; with `interval`: ``layers["lower"]``, ``layers["upper"]``.
      NaN where measured.
    - annotations of `obs_keys` under their own names: `obs`, and of labels also ``obsm`` and ``uns["<key>_colors"]``.
    - ``uns["c2sti"]``: names and depths of the sections, ``"neighbours"`` (of each interpolated section the places of
      its neighbours in `slices`, and its position between them), ``"pair_check"`` (of each pair of neighbours between
      which something was interpolated, as in :func:`interpolate`), model, parameters, versions, fingerprints of the
      inputs, ``synthetic: True``. ``uns["spatial"]``: an image a section: the own one of a measured section, the
      virtual H&E of an interpolated one whose neighbours both have H&E, else blank. Gene graphs are not made: see
      :func:`coexpression`.

    Raises
    ------
    KeyError, ValueError
        A section cannot be used, or depths are missing, out of order or outside of the series; the message says what
        was found and what to do.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 100.0, 250.0])
    >>> stack = c2sti.tl.interpolate_series(series, spacing=50.0, model="linear", show_progress_bar=False)
    >>> list(stack.obs["section"].cat.categories)
    ['slice_0', 'c2sti_1', 'slice_1', 'c2sti_2', 'c2sti_3', 'slice_2']
    >>> stack.uns["c2sti"]["z"].tolist()
    [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]
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
    told = model_record(model, method)
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
        # Claimed before any work is done: a place that cannot be written to is better known now.
        store = None if out is None else held.enter_context(io.new_store(out))
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
        grids = [replace(g, z=depth) for g, depth in zip(grids, depths.tolist(), strict=True)]
        wanted = depths_wanted(depths, at_z, spacing)
        places = list(_places(depths, wanted, own, key_added))
        lattice = io.common_lattice(*grids, pitch=pitch)
        labels, var = shared_labels(grids), io.shared_var(grids)
        if genes is not None:
            var = var.loc[_result.genes_of(genes, var.index, var, "all sections")]
        if not sees_context(method):
            n_context = 0
        parts = {
            place.name: measured_part(grids[place.first], place.name, lattice, var, labels)
            for place in places
            if not place.inserted
        }
        how = {
            "method": method,
            "model": told,
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
        n_interpolated = sum(place.inserted for place in places)
        made, fits = _interpolated(grids, places, depths, n_context, own, show_progress_bar, how)
        parts |= made
        parameters = {**found[0].told(), "n_context": n_context, "spacing": spacing}
        parameters["interval"] = interval
        record = {_keys.PAIR_CHECK: pd.DataFrame.from_dict(fits, orient="index")}
        record |= provenance(grids, told, lattice, seed, parameters, call)
        stack = stacked(parts, places, own, lattice, key_added, record)
        note_carried(stack, grids, labels, key_added)
        blocks = [parts[place.name].block for place in places]
        _logging.info(
            f"inserted {n_interpolated} section(s) beside {len(places) - n_interpolated} measured ({stack.n_obs} rows)"
        )
        if store is not None:
            io.write_stack(store, stack, blocks, key_added)
            del stack, blocks, parts, made  # they may be large, and are about to be read again
        else:
            kinds = [_keys.STD] * std + [_keys.LOWER, _keys.UPPER] * (interval is not None)
            size = 4 * stack.n_obs * stack.n_vars * (1 + len(kinds))
            dense = size <= (io.DENSE if limit is None else limit)
            io.add_values(stack, blocks, kinds, dense=dense, n_threads=torch.get_num_threads())
    return stack if out is None else io.read_zarr(out, key=key_added)


# ---- which depths, and where they lie


def _own_names(found: Sequence[io.Source], key_added: str) -> list[str]:
    """What the result calls the measured sections: the names of `library_key`, "|" for "/", or their places."""
    names = [
        _keys.label_column(source.name) if source.keys.library else _keys.measured(i) for i, source in enumerate(found)
    ]
    for name in names:
        if name.startswith(f"{key_added}_"):
            raise ValueError(
                f"the section {name!r} is called like an interpolated one; choose another prefix for those: key_added="
            )
    return names


def _places(depths: FloatArray, wanted: FloatArray, own: Sequence[str], key_added: str) -> Iterator[Place]:
    n = 0
    for depth in wanted.tolist():
        nearest = int(np.abs(depths - depth).argmin())
        if abs(depths[nearest] - depth) <= SAME * np.ptp(depths):
            yield Place(own[nearest], float(depths[nearest]), nearest, 0.0)
            continue
        n += 1
        first = int(np.searchsorted(depths, depth)) - 1
        position = (depth - depths[first]) / (depths[first + 1] - depths[first])
        yield Place(_keys.inserted(key_added, n)[-1], depth, first, float(position))


def _context(
    grids: Sequence[io.SliceGrid], depths: FloatArray, first: int, n_context: int
) -> dict[float, io.SliceGrid]:
    """Sections around the pair that starts at `first`, by their position on its scale."""
    scale = (depths - depths[first]) / (depths[first + 1] - depths[first])
    around = range(max(first - n_context, 0), min(first + 2 + n_context, len(grids)))
    return {float(scale[i]): grids[i] for i in around if i not in (first, first + 1)}


@dataclass(frozen=True)
class Together:
    """Gaps between sections that are read from one description, by their first section; and its sections."""

    gaps: tuple[int, ...]
    sections: range


def described_together(gaps: Sequence[int], n_sections: int, n_context: int) -> Iterator[Together]:
    """Windows along z: all gaps at once where there are few sections, else as many as `MOST_SECTIONS` allow.

    Every gap is read from a description that holds `n_context` sections on either side of its pair.
    """
    left = list(gaps)
    while left:
        start = max(left[0] - n_context, 0)
        room = max(MOST_SECTIONS, left[0] + 2 + n_context - start) if n_context else 2
        stop = min(start + room, n_sections)
        own = [gap for gap in left if min(gap + 2 + n_context, n_sections) <= stop]
        yield Together(tuple(own), range(start, min(own[-1] + 2 + n_context, n_sections)))
        left = left[len(own) :]


def _description(
    grids: Sequence[io.SliceGrid], together: Together, method: Interpolator, lattice: Lattice, device: str, seed: int
) -> Description | None:
    """What a method that starts from a description reads all gaps of a window from, on the scale of z."""
    if not isinstance(method, Describing):
        return None
    own = [grids[i] for i in together.sections]
    sections, spacing, keys = io.make_sections(own, lattice)
    return describe(sections, spacing, keys, method.settings, device=device, seed=seed).keeping()


def _interpolated(
    grids: Sequence[io.SliceGrid],
    places: Sequence[Place],
    depths: FloatArray,
    n_context: int,
    own: Sequence[str],
    show_progress_bar: bool,
    how: Mapping[str, Any],
) -> tuple[dict[str, Part], dict[str, dict[str, float]]]:
    """The interpolated sections by name, gap by gap, and the pair check of each gap.

    Parameters
    ----------
    grids, depths, own
        The measured sections, their z and names.
    places
        All sections of the answer.
    n_context
        Sections on either side of a pair that are its context.
    show_progress_bar
        Whether to show one.
    how
        Keywords of :func:`c2sti.tl._gap.insert` that are the same for all gaps.
    """
    gaps = sorted({place.first for place in places if place.inserted})
    parts: dict[str, Part] = {}
    fits: dict[str, dict[str, float]] = {}
    what = f"interpolating {sum(place.inserted for place in places)} section(s)"
    with tqdm(total=100 * len(gaps), desc=what, bar_format=SHARES, disable=not show_progress_bar) as bar:
        for together in described_together(gaps, len(grids), n_context):
            described = _description(grids, together, how["method"], how["lattice"], how["device"], how["seed"])
            for first in together.gaps:
                inside = [place for place in places if place.inserted and place.first == first]
                made = insert(
                    grids[first],
                    grids[first + 1],
                    np.array([place.position for place in inside]),
                    context=_context(grids, depths, first, n_context),
                    progress=shares_of(bar),
                    description=None if described is None else described.between(*depths[first : first + 2]),
                    stacklevel=5,
                    **how,
                )
                parts |= interpolated_parts(made, inside, how["key_added"])
                fits[f"{own[first]} to {own[first + 1]}"] = made.frame.uns[how["key_added"]][_keys.PAIR_CHECK]
    return parts, fits
