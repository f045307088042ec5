"""A series as one AnnData: sections as rows of a stack, in order of z."""

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
from c2sti.tl._labels import Kind, carry_measured
from c2sti.tl._to_slices import frame_of_stack

SUPPORTS = ["measured", "both", "a", "b", "none"]


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
