"""Take a result apart: one row per section and bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _logging, _result, _validators, io
from c2sti.tl._labels import stack_carried


def to_slices(adata: AnnData, *, key: str = "c2sti", gap: float | None = None) -> AnnData:
    """One row per section and bin, instead of one layer per section.

    Rows of the measured sections are the bins of the result: resampled, each the nearest spot, which ``obs["spot"]``
    names. The spots themselves, at their own places, are in the stack of :func:`interpolate_series`.

    What tools that expect a stack of sections want: ``sc.pl.embedding(stack, "spatial_3d", projection="3d")``,
    ``sq.pl.spatial_scatter(stack, library_key="section")``. A section keeps the rows inside its own tissue.

    Parameters
    ----------
    adata
        Result of :func:`interpolate`.
    key
        The `key_added` that it was made with.
    gap
        Distance from slice_a to slice_b in the unit of the coordinates, where the sections carry no z. Left out, z
        runs from 0 to 1, which is said in the log.

    Returns
    -------
    AnnData: ``X`` expression; ``obs["section"]`` (ordered from slice_a to slice_b), ``obs["inserted"]`` (True where
    nothing was measured), ``obs["z"]``, ``obs["support"]``; where counts were given, ``obs["library_size"]`` of the
    measured spots, NaN in interpolated sections; ``obs["spot"]``, the measured spot whose values a row has; each
    annotation carried along as ``obs["domain"]``, with ``obsm["domain"]`` and ``uns["domain_colors"]`` if it is a
    label; of a result that says how uncertain it is also ``layers["std"]``, ``layers["lower"]``, ``layers["upper"]``
    and ``obs["confidence"]``, NaN where measured; ``obsm["spatial"]`` and ``obsm["spatial_3d"]``; ``uns["spatial"]``
    with one library a section; `var`, `varp`, ``uns["log1p"]`` and ``uns[key]`` as they were.

    Raises
    ------
    KeyError
        ``uns[key]`` is missing: this is not a result of `interpolate`, or it had another `key_added`.
    ValueError
        `adata` is a stack already.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> stack = c2sti.tl.to_slices(c2sti.tl.interpolate(a, b, show_progress_bar=False))
    >>> list(stack.obs["section"].cat.categories)
    ['slice_a', 'c2sti_1', 'slice_b']
    """
    stack = stack_of(adata, key, None if gap is None else _validators.number(gap, "gap", above=0))
    if gap is None and "z" not in stack.uns[key]:
        _logging.warning(
            "the sections carry no z: in the stack it runs from 0 to 1, beside x and y in the unit of the coordinates. "
            "Give the distance from slice_a to slice_b in that unit: c2sti.tl.to_slices(adata, gap=…)"
        )
    return stack


def stack_of(adata: AnnData, key: str, gap: float | None = None) -> AnnData:
    """The same, for other functions: without a word about z."""
    stack = frame_of_stack(adata, key, gap)
    names = [str(name) for name in stack.uns[key]["sections"]]
    _result.check_sections(adata, names)
    rows = rows_of_each(adata, names)
    stack.X = _below([adata.layers[name][r] for name, r in zip(names, rows, strict=True)])
    for kind in (_keys.STD, _keys.LOWER, _keys.UPPER):
        found = {name: adata.layers[at] for name in names if (at := _keys.doubt(name, kind)) in adata.layers}
        if found:
            nothing = da if any(hasattr(layer, "compute") for layer in found.values()) else np
            parts = [
                found[name][r] if name in found else nothing.full((len(r), stack.n_vars), np.nan, dtype=np.float32)
                for name, r in zip(names, rows, strict=True)
            ]
            stack.layers[kind] = _below(parts)
    return stack


def _below(parts: Sequence[Any]) -> Any:
    """Values one below the other: dense, or lazily where they are lazy."""
    if any(hasattr(part, "compute") for part in parts):
        return da.concatenate([da.asarray(part) for part in parts])
    return np.concatenate([part.toarray() if sp.issparse(part) else np.asarray(part) for part in parts])


def rows_of_each(adata: AnnData, names: Sequence[str]) -> list[NDArray[np.intp]]:
    """Rows of a result inside the tissue of each of its sections."""
    return [np.flatnonzero(adata.obs[_keys.tissue(name)].to_numpy()) for name in names]


def frame_of_stack(adata: AnnData, key: str, gap: float | None = None) -> AnnData:
    """All of a stack but its values."""
    record = _result.record_of(adata, key)
    if _keys.SECTION in adata.obs:
        raise ValueError("adata has one row per section and bin already")
    names = [str(name) for name in record["sections"]]
    depths, pitch = _depths(record, key, names, gap), _result.lattice_of(record, key).pitch
    _result.check_sections(adata, names, layers=False)
    rows = rows_of_each(adata, names)
    label = np.repeat(names, [len(r) for r in rows])
    taken = np.concatenate(rows)
    z = np.repeat(depths, [len(r) for r in rows])
    xy = np.asarray(adata.obsm[_keys.SPATIAL])[taken]
    obs = pd.DataFrame(
        {
            _keys.SECTION: pd.Categorical(label, categories=names, ordered=True),
            _keys.INSERTED: np.isin(label, [str(name) for name in record["inserted"]]),
            _keys.Z: z,
            _keys.SUPPORT: adata.obs[_keys.SUPPORT].to_numpy()[taken],
        },
        index=pd.Index([f"{name}_{row}" for name, row in zip(label, adata.obs_names[taken], strict=True)]),
    )
    stack = AnnData(
        obs=obs,
        var=adata.var.copy(),
        obsm={_keys.SPATIAL: xy, _keys.SPATIAL_3D: np.column_stack([xy, z])},
        varp={k: graph.copy() for k, graph in adata.varp.items()},
    )
    stack.uns[_keys.SPATIAL] = _libraries(adata, key, names, pitch)
    stack.uns |= {name: adata.uns[name] for name in (key, _keys.LOG1P) if name in adata.uns}
    sizes = [adata.obs.get(_keys.library_size(name)) for name in names]
    if sizes[0] is not None:  # counts of the measured sections are known
        parts = [np.full(len(r), np.nan) if s is None else s.to_numpy()[r] for s, r in zip(sizes, rows, strict=True)]
        stack.obs[_keys.LIBRARY_SIZE] = np.concatenate(parts)
    spots = [adata.obs.get(_keys.spot(name)) for name in names]
    if spots[0] is not None:
        none = pd.Series(None, index=adata.obs_names, dtype=object)
        known = [(none if s is None else s.astype(object)).iloc[r] for s, r in zip(spots, rows, strict=True)]
        stack.obs[_keys.SPOT] = pd.Categorical(pd.concat(known, ignore_index=True))
    _add_confidence(adata, stack, names, rows)
    stack_carried(adata, stack, record, names, rows)
    return stack


def _libraries(adata: AnnData, key: str, names: Sequence[str], pitch: float) -> dict[str, Any]:
    """One for each section: its H&E, or white; all as large as the result, so that plots of them can be compared."""
    points, pictures = np.asarray(adata.obsm[_keys.SPATIAL]), adata.uns.get(_keys.SPATIAL, {}).get(key, {})
    shown = pictures.get("images", {})
    found = {name: _result.picture_of(pictures, name) if name in shown else None for name in names}
    return {
        name: io.library_of_section(None if one is None else io.HEImage(*one), pitch, points, name)
        for name, one in found.items()
    }


def _depths(record: Mapping[str, Any], key: str, names: Sequence[str], gap: float | None) -> NDArray[np.float64]:
    """(S + 2,) z of each section: that which it carries, or its position times the gap."""
    kind = "z" if "z" in record and gap is None else "positions"
    if kind not in record or np.shape(record[kind]) != (len(names),):
        held = np.shape(record[kind]) if kind in record else "nothing"
        raise KeyError(
            f"uns[{key!r}][{kind!r}] holds {held}, and not a number for each of the sections {', '.join(names)}; "
            f"{_result.AGAIN}"
        )
    found = _validators.reals(record[kind], f"uns[{key!r}][{kind!r}]")
    return found if kind == "z" else found * (1.0 if gap is None else gap)


def _add_confidence(adata: AnnData, stack: AnnData, names: Sequence[str], rows: Sequence[NDArray[np.intp]]) -> None:
    """Confidence in the bins of the interpolated sections, as one column; NaN where measured."""
    inserted = stack.obs[_keys.INSERTED].to_numpy()
    columns = {name: adata.obs[key] for name in names if (key := _keys.confidence(name)) in adata.obs}
    if columns:
        sure = np.full(stack.n_obs, np.nan)
        sure[inserted] = np.concatenate(
            [columns[name].to_numpy()[r] for name, r in zip(names, rows, strict=True) if name in columns]
        )
        stack.obs[_keys.CONFIDENCE] = sure
