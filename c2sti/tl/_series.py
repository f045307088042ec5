"""Fill a whole series of sections: to an even spacing, or at given depths.

Every depth lies in one gap between two measured sections. These two are the pair, the sections around them are context,
and all depths of a gap are made at once. All sections come on one lattice, so that the stack is a volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm.auto import tqdm

from c2sti import _check, _keys, _log, _result, grid, ops
from c2sti._types import FloatArray, Interpolator, Lattice
from c2sti.model.baseline import Describing
from c2sti.model.components import Description, describe
from c2sti.pair_check import OnMisfit, check_on_misfit
from c2sti.tl._depths import SAME, depths_of, depths_wanted
from c2sti.tl._insert import SHARES, check_key, check_level, insert, shares_of
from c2sti.tl._kinds import Kind, shared_labels
from c2sti.tl._labels import carry_measured, note_carried
from c2sti.tl._models import available, resolve, sees_context
from c2sti.tl._provenance import call_of, model_record, provenance
from c2sti.tl._to_slices import stack_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

MOST_SECTIONS = 12  # that are described together
MEASURED = "slice"  # that names of measured sections begin with
SUPPORTS = ["measured", "both", "a", "b", "none"]


def interpolate_series(
    slices: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    library_key: str | None = None,
    z: Sequence[float] | None = None,
    at_z: Sequence[float] | None = None,
    spacing: float | None = None,
    n_context: int = 2,
    model: str | Path | Interpolator = "c2sti",
    layer: grid.Key = None,
    spatial_key: str | None = None,
    table_key: grid.Key = None,
    image_key: grid.Key = None,
    coordinate_system: grid.Key = None,
    window: grid.Windows = None,
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
) -> AnnData:
    """Fill a series of sections to an even spacing, or make it at given depths.

    A depth that is a measured section's gives that section as it was measured; any other is inserted between its two
    measured neighbours, with the sections around these as context.

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
        Whether to say how sure inserted values are, as in :func:`interpolate`.
    on_misfit
        What to do where two neighbours do not seem to belong together, as in :func:`interpolate`.
    key_added
        Prefix of the inserted sections' names, and key of the provenance in `uns`.

    Returns
    -------
    AnnData of M rows × N genes, one row per section and bin of its tissue, float32 log1p expression in ``X``, in the
    layout of :func:`to_slices`:

    - ``obs["section"]``: ``"slice_0"`` … for a measured section by its place in `slices`, or its name by
      `library_key`; ``"c2sti_1"`` … for an interpolated one, in order of z; ``obs["inserted"]``; ``obs["z"]``; where
      counts were given, ``obs["library_size"]`` of the measured spots; ``obs["array_row"]``, ``obs["array_col"]``: the
      bin of the common lattice.
    - ``obs["support"]``: which of its two neighbours cover the bin (``"a"`` is the upper one), ``"measured"`` if its
      section was.
    - ``obsm["spatial"]`` (M, 2) and ``obsm["spatial_3d"]`` (M, 3), unit of the frame and of the depths.
    - with `std`: ``layers["std"]``, ``obs["confidence"]``; with `interval`: ``layers["lower"]``, ``layers["upper"]``.
      NaN where measured.
    - annotations of `obs_keys` under their own names: `obs`, and of labels also ``obsm`` and ``uns["<key>_colors"]``.
    - ``uns["c2sti"]``: names and depths of the sections, ``"neighbours"`` (of each inserted section the places of its
      neighbours in `slices`, and its position between them), ``"pair_check"`` (of each pair of neighbours between which
      something was inserted, as in :func:`interpolate`), model, parameters, versions, fingerprints of the inputs,
      ``synthetic: True``. ``uns["spatial"]``: a picture a section: the own
      one of a measured section, the virtual H&E of an inserted one whose neighbours both have H&E, else blank. Gene
      graphs are not made: see :func:`coexpression`.

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
    _check.seed(seed)
    n_context, device = _check.whole(n_context, "n_context", least=0), available(device)
    method = resolve(model)
    told = model_record(model, method)
    found = grid.sources(
        slices,
        least=2,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    windows = grid.window_for_each(window, [source.name for source in found])
    grids = grid.on_shared_genes(
        [
            source.read(obs_keys=obs_keys, obsm_keys=obsm_keys, window=given, measured=True)
            for source, given in zip(found, windows, strict=True)
        ]
    )
    own = _own_names(found, key_added)
    depths = depths_of(grids, z)
    grid.check_unit(depths, grids[0].pitch)
    grids = [replace(g, z=depth) for g, depth in zip(grids, depths.tolist(), strict=True)]
    wanted = depths_wanted(depths, at_z, spacing)
    places = list(_places(depths, wanted, own, key_added))
    lattice = grid.common_lattice(*grids, pitch=pitch)
    labels, var = shared_labels(grids), grid.shared_var(grids)
    if genes is not None:
        var = var.loc[_result.genes_of(genes, var.index, var, "all sections")]
    if not sees_context(method):
        n_context = 0
    gaps = sorted({place.first for place in places if place.inserted})
    parts = {
        place.name: _measured_part(grids[place.first], place.name, lattice, var, labels)
        for place in places
        if not place.inserted
    }
    fits: dict[str, dict[str, float]] = {}
    n_inserted = sum(place.inserted for place in places)
    what = f"interpolating {n_inserted} section(s)"
    with tqdm(total=100 * len(gaps), desc=what, bar_format=SHARES, disable=not show_progress_bar) as bar:
        for together in described_together(gaps, len(grids), n_context):
            description = _description(grids, together, method, lattice, device, seed)
            for first in together.gaps:
                inside = [place for place in places if place.inserted and place.first == first]
                out = insert(
                    grids[first],
                    grids[first + 1],
                    np.array([place.position for place in inside]),
                    context=_context(grids, depths, first, n_context),
                    method=method,
                    model=told,
                    lattice=lattice,
                    genes=var.index,
                    device=device,
                    seed=seed,
                    key_added=key_added,
                    labels=labels,
                    with_graphs=False,
                    std=std,
                    interval=interval,
                    on_misfit=on_misfit,
                    progress=shares_of(bar),
                    description=None if description is None else description.between(*depths[first : first + 2]),
                )
                parts |= _inserted_parts(out, inside, key_added)
                fits[f"{own[first]} to {own[first + 1]}"] = out.uns[key_added][_keys.PAIR_CHECK]
    _leave_blank(parts, std, interval)
    parameters = {**found[0].told(), "n_context": n_context, "spacing": spacing}
    parameters["interval"] = interval
    record = {_keys.PAIR_CHECK: pd.DataFrame.from_dict(fits, orient="index")}
    record |= provenance(grids, told, lattice, seed, parameters, call)
    stack = _stack(parts, places, own, lattice, key_added, record)
    note_carried(stack, grids, labels, key_added)
    _log.info(f"inserted {n_inserted} section(s) beside {len(places) - n_inserted} measured ({stack.n_obs} bins)")
    return stack


# ---- which depths, and where they lie


def _own_names(found: Sequence[grid.Source], key_added: str) -> list[str]:
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


@dataclass(frozen=True)
class Place:
    """Where one section of the answer lies: `position` of the way from the measured section `first` to the next."""

    name: str
    z: float
    first: int
    position: float

    @property
    def inserted(self) -> bool:
        """Whether the section has to be made."""
        return self.position > 0


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
    grids: Sequence[grid.SliceGrid], depths: FloatArray, first: int, n_context: int
) -> dict[float, grid.SliceGrid]:
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
    grids: Sequence[grid.SliceGrid], together: Together, method: Interpolator, lattice: Lattice, device: str, seed: int
) -> Description | None:
    """What a method that starts from a description reads all gaps of a window from, on the scale of z."""
    if not isinstance(method, Describing):
        return None
    own = [grids[i] for i in together.sections]
    sections, spacing, keys = grid.make_sections(own, lattice)
    return describe(sections, spacing, keys, method.settings, device=device, seed=seed)


# ---- the sections, and the stack of them


def _measured_part(
    g: grid.SliceGrid, name: str, lattice: Lattice, var: pd.DataFrame, labels: Mapping[str, Kind]
) -> AnnData:
    """A measured section on the bins of its tissue: each holds its nearest spot, noise included."""
    xy, values, library = grid.profiles(g, lattice, var.index)
    expression = grid.log_normalise(values, library) if g.counts else values
    points = lattice.centres[g.covers(lattice.centres)]
    part = AnnData(
        X=expression[ops.nearest(xy, points)].toarray().astype(np.float32),
        obs=pd.DataFrame({_keys.SUPPORT: "measured"}, index=pd.RangeIndex(len(points)).astype(str)),
        var=var.copy(),
        obsm={_keys.SPATIAL: points},
    )
    if g.counts:
        part.obs[_keys.LIBRARY_SIZE] = grid.library_sizes(g, lattice, points)
    carry_measured(part, g, labels)
    picture = grid.section_picture(g.image, lattice)
    part.uns[_keys.SPATIAL] = grid.library_of_section(picture, lattice.pitch, lattice.centres, name)
    return part


def _inserted_parts(out: AnnData, places: Sequence[Place], key: str) -> dict[str, AnnData]:
    """The inserted sections of one gap, each by its name in the whole series."""
    sections = stack_of(out, key)
    parts = {}
    for name, place in zip(_keys.inserted(key, len(places)), places, strict=True):
        part = sections[(sections.obs[_keys.SECTION] == name).to_numpy()].copy()
        part.obs = part.obs.drop(columns=[_keys.SECTION, _keys.INSERTED, _keys.Z]).astype({_keys.SUPPORT: str})
        painted = name in out.uns[key][_keys.VIRTUAL_HISTOLOGY]
        part.uns = {_keys.SPATIAL: part.uns[_keys.SPATIAL][name], _keys.VIRTUAL_HISTOLOGY: painted}
        del part.obsm[_keys.SPATIAL_3D]
        parts[place.name] = part
    return parts


def _leave_blank(parts: Mapping[str, AnnData], std: bool, interval: float | None) -> None:
    """What says how sure an inserted section is, NaN in the measured ones, so that it can be stacked."""
    kinds = [_keys.STD] * std + [_keys.LOWER, _keys.UPPER] * (interval is not None)
    for part in parts.values():
        for kind in kinds:
            if kind not in part.layers:
                part.layers[kind] = np.full(part.shape, np.nan, dtype=np.float32)
        if std and _keys.CONFIDENCE not in part.obs:
            part.obs[_keys.CONFIDENCE] = np.nan


def _stack(
    parts: Mapping[str, AnnData],
    places: Sequence[Place],
    own: Sequence[str],
    lattice: Lattice,
    key: str,
    record: Mapping[str, Any],
) -> AnnData:
    """All sections in order of z, one row per section and bin."""
    names = [place.name for place in places]
    lengths = [parts[name].n_obs for name in names]
    stack = ad.concat({name: parts[name] for name in names}, index_unique="-", merge="same")
    xy, z = np.asarray(stack.obsm[_keys.SPATIAL]), np.repeat([place.z for place in places], lengths)
    row, column = np.divmod(lattice.bins(xy), lattice.shape[1])
    front = pd.DataFrame(
        {
            _keys.SECTION: pd.Categorical(np.repeat(names, lengths), categories=names, ordered=True),
            _keys.INSERTED: np.repeat([place.inserted for place in places], lengths),
            _keys.Z: z,
            "array_row": row,
            "array_col": column,
            _keys.SUPPORT: pd.Categorical(stack.obs[_keys.SUPPORT], categories=SUPPORTS),
        },
        index=stack.obs_names,
    )
    stack.obs = front.join(stack.obs.drop(columns=_keys.SUPPORT))
    stack.obs_names = [f"{name}_{r}_{c}" for name, r, c in zip(stack.obs[_keys.SECTION], row, column, strict=True)]
    stack.obsm[_keys.SPATIAL_3D] = np.column_stack([xy, z])
    inserted = [place for place in places if place.inserted]
    scale = _result.log1p_of(record)
    if scale is not None:
        stack.uns[_keys.LOG1P] = scale
    stack.uns[_keys.SPATIAL] = {name: parts[name].uns[_keys.SPATIAL] for name in names}
    stack.uns[key] = {
        "synthetic": bool(inserted),
        "sections": names,
        "inserted": [place.name for place in inserted],
        "z": np.array([place.z for place in places]),
        "slices": np.array(own),
        "neighbours": pd.DataFrame(
            {
                "a": [place.first for place in inserted],
                "b": [place.first + 1 for place in inserted],
                "position": [place.position for place in inserted],
            },
            index=[place.name for place in inserted],
        ),
        "genes": stack.var_names.to_numpy(dtype=str),
        "lattice": grid.lattice_as_dict(lattice),
        _keys.VIRTUAL_HISTOLOGY: np.array(
            [place.name for place in inserted if parts[place.name].uns[_keys.VIRTUAL_HISTOLOGY]], dtype=str
        ),
        **{k: v for k, v in record.items() if k != _keys.LOG1P},
    }
    return stack
