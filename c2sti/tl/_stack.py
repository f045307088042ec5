"""Sections of a series as rows: the spots of the measured ones, the bins of the others, and the stack of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _keys, _result, io, ops
from c2sti._types import Lattice
from c2sti.tl._gap import Inserted
from c2sti.tl._labels import Kind, carry_measured
from c2sti.tl._to_slices import frame_of_stack

SUPPORTS = ["measured", "both", "a", "b", "none"]


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


@dataclass(frozen=True)
class Part:
    """One section of the stack: its rows without values, what the values are, and what its container says of spots."""

    rows: AnnData
    block: io.Block
    said: pd.DataFrame | None = None


def measured_part(g: io.SliceGrid, name: str, lattice: Lattice, var: pd.DataFrame, labels: Mapping[str, Kind]) -> Part:
    """A measured section: its own spots."""
    values = io.values_of(g, var.index)
    expression = io.log_normalise(values, g.library) if g.counts else values
    rows = AnnData(
        obs=pd.DataFrame({_keys.SUPPORT: "measured"}, index=g.names), var=var.copy(), obsm={_keys.SPATIAL: g.xy.copy()}
    )
    if g.counts:
        rows.obs[_keys.LIBRARY_SIZE] = g.library
    carry_measured(rows, g, labels)
    picture = io.section_image(g.image, lattice)
    spot = ops.spacing(g.xy) if len(np.unique(g.xy, axis=0)) > 1 else lattice.pitch
    rows.uns[_keys.SPATIAL] = io.library_of_section(picture, spot, lattice.centres, name)
    return Part(rows, io.Block(len(g.xy), measured=expression), g.obs)


def interpolated_parts(made: Inserted, places: Sequence[Place], key: str) -> dict[str, Part]:
    """The interpolated sections of one gap, each by its name in the whole series."""
    sections = frame_of_stack(made.frame, key)
    painted = made.frame.uns[key][_keys.VIRTUAL_HISTOLOGY]
    parts = {}
    for i, (name, place) in enumerate(zip(_keys.inserted(key, len(places)), places, strict=True)):
        rows = sections[(sections.obs[_keys.SECTION] == name).to_numpy()].copy()
        rows.obs = rows.obs.drop(columns=[_keys.SECTION, _keys.INSERTED, _keys.Z]).astype({_keys.SUPPORT: str})
        rows.uns = {_keys.SPATIAL: rows.uns[_keys.SPATIAL][name], _keys.VIRTUAL_HISTOLOGY: name in painted}
        del rows.obsm[_keys.SPATIAL_3D]
        inside = np.flatnonzero(made.frame.obs[_keys.tissue(name)].to_numpy())
        block = io.Block(len(inside), layers=made.layers.section(i, inside), gap=place.first)
        parts[place.name] = Part(rows, block)
    return parts


def stacked(
    parts: Mapping[str, Part],
    places: Sequence[Place],
    own: Sequence[str],
    lattice: Lattice,
    key: str,
    record: Mapping[str, Any],
) -> AnnData:
    """All sections in order of z, without their values."""
    names = [place.name for place in places]
    lengths = [parts[name].rows.n_obs for name in names]
    for part in parts.values():  # columns that only some sections have would be lost
        for column in (_keys.LIBRARY_SIZE, _keys.CONFIDENCE):
            if column not in part.rows.obs and any(column in other.rows.obs for other in parts.values()):
                part.rows.obs[column] = np.nan
    stack = ad.concat({name: parts[name].rows for name in names}, index_unique="-", merge="same")
    xy, z = np.asarray(stack.obsm[_keys.SPATIAL]), np.repeat([place.z for place in places], lengths)
    bins = lattice.bins(xy)
    row, column = np.where(bins >= 0, np.divmod(bins, lattice.shape[1]), -1)
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
    _tell_spots(stack, {name: parts[name].said for name in names})
    of_bins = [f"{name}_{r}_{c}" for name, r, c in zip(stack.obs[_keys.SECTION], row, column, strict=True)]
    called = np.where(stack.obs[_keys.INSERTED], of_bins, _names_of_spots(parts, names))
    stack.obs_names = pd.Index(called)
    stack.obsm[_keys.SPATIAL_3D] = np.column_stack([xy, z])
    inserted = [place for place in places if place.inserted]
    scale = _result.log1p_of(record)
    if scale is not None:
        stack.uns[_keys.LOG1P] = scale
    stack.uns[_keys.SPATIAL] = {name: parts[name].rows.uns[_keys.SPATIAL] for name in names}
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
        "lattice": io.lattice_as_dict(lattice),
        _keys.VIRTUAL_HISTOLOGY: np.array(
            [place.name for place in inserted if parts[place.name].rows.uns[_keys.VIRTUAL_HISTOLOGY]], dtype=str
        ),
        **{k: v for k, v in record.items() if k != _keys.LOG1P},
    }
    return stack


def _names_of_spots(parts: Mapping[str, Part], names: Sequence[str]) -> list[str]:
    """Names of all rows: of spots their own, behind that of the section where two sections call spots alike."""
    own = [parts[name].rows.obs_names.astype(str) for name in names]
    spots = [called for name, called in zip(names, own, strict=True) if parts[name].said is not None]
    alike = bool(spots) and not spots[0].append(spots[1:]).is_unique
    return [f"{name}_{one}" if alike else one for name, called in zip(names, own, strict=True) for one in called]


def _tell_spots(stack: AnnData, said: Mapping[str, pd.DataFrame | None]) -> None:
    """Add the columns that the measured sections have of their own; missing in the others."""
    section = stack.obs[_keys.SECTION].astype(str)
    tables = {name: table for name, table in said.items() if table is not None and len(table.columns)}
    for column in dict.fromkeys(chain.from_iterable(table.columns for table in tables.values())):
        if column in stack.obs:
            continue
        having = {name: table[column] for name, table in tables.items() if column in table}
        together = pd.concat([series.astype(_nullable(series)) for series in having.values()], ignore_index=True)
        together.index = stack.obs_names[section.isin(list(having))]
        stack.obs[column] = together.reindex(stack.obs_names)
        if any(isinstance(series.dtype, pd.CategoricalDtype) for series in having.values()):
            stack.obs[column] = stack.obs[column].astype("category")


def _nullable(series: pd.Series) -> Any:
    """A kind of column that can be missing in some rows."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return "boolean"
    if isinstance(series.dtype, pd.CategoricalDtype):
        return object
    return "float64" if pd.api.types.is_integer_dtype(series.dtype) else series.dtype
