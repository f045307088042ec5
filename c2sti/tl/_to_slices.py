"""A result as a stack: one row per section and bin."""

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

    A section keeps the rows inside its own tissue. Tools for stacks take it:
    ``sc.pl.embedding(stack, "spatial_3d", projection="3d")``, ``sq.pl.spatial_scatter(stack, library_key="section")``.

    Parameters
    ----------
    adata
        Result of :func:`interpolate`.
    key
        Its `key_added`.
    gap
        Distance from slice_a to slice_b in the unit of the coordinates, where the sections carry no z; z runs from 0
        to 1 without it, with a warning in the log.

    Returns
    -------
    AnnData with expression in ``X``:

    - ``obs["section"]`` (ordered from slice_a to slice_b), ``"inserted"`` (True where nothing was measured), ``"z"``,
      ``"support"``, ``"spot"`` (the measured spot of a row) and ``"library_size"``, NaN in interpolated sections.
    - annotations as ``obs["domain"]``, labels also as ``obsm["domain"]`` and ``uns["domain_colors"]``.
    - of a result with uncertainty ``layers["std"]``, ``"lower"`` and ``"upper"``, ``obs["confidence"]``: NaN where
      measured.
    - ``obsm["spatial"]`` and ``obsm["spatial_3d"]``; ``uns["spatial"]`` with one library a section; the rest as it was.

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


def stack_of(adata: AnnData, key: str, gap: float | None = None, *, sections: Sequence[str] | None = None) -> AnnData:
    """:func:`to_slices` of all sections or of some, without its check of arguments and its warning."""
    stack = frame_of_stack(adata, key, gap, sections=sections)
    names = list(stack.obs[_keys.SECTION].cat.categories)
    _result.check_sections(adata, names)
    rows = _rows_of_each(adata, names)
    stack.X = _below([adata.layers[name][r] for name, r in rows.items()])
    for kind in (_keys.STD, _keys.LOWER, _keys.UPPER):
        found = {name: adata.layers[at] for name in names if (at := _keys.layer_of(name, kind)) in adata.layers}
        if found:
            nothing = da if any(hasattr(layer, "compute") for layer in found.values()) else np
            stack.layers[kind] = _below(
                [
                    found[name][r] if name in found else nothing.full((len(r), stack.n_vars), np.nan, dtype=np.float32)
                    for name, r in rows.items()
                ]
            )
    return stack


def _below(parts: Sequence[Any]) -> Any:
    """Values one below the other, lazy where a part is lazy."""
    if any(hasattr(part, "compute") for part in parts):
        return da.concatenate([da.asarray(part) for part in parts])
    return np.concatenate([part.toarray() if sp.issparse(part) else np.asarray(part) for part in parts])


def _rows_of_each(adata: AnnData, names: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    """By name of some sections of a result, its rows inside the section's tissue."""
    return {name: np.flatnonzero(adata.obs[_keys.tissue(name)].to_numpy()) for name in names}


def frame_of_stack(
    adata: AnnData, key: str, gap: float | None = None, *, sections: Sequence[str] | None = None
) -> AnnData:
    """All of a stack but its values; of all sections or of some."""
    record = _result.record_of(adata, key)
    if _keys.SECTION in adata.obs:
        raise ValueError("adata has one row per section and bin already")
    every = [str(name) for name in record["sections"]]
    names, pitch = every if sections is None else list(sections), _result.lattice_of(record, key).pitch
    depths = _depths(record, key, every, gap)[[every.index(name) for name in names]]
    _result.check_sections(adata, names, layers=False)
    rows = _rows_of_each(adata, names)
    taken, lengths = np.concatenate(list(rows.values())), [len(r) for r in rows.values()]
    label, z = np.repeat(names, lengths), np.repeat(depths, lengths)
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
    # All libraries are as large as the result, so that plots of the sections can be compared.
    points, library = np.asarray(adata.obsm[_keys.SPATIAL]), adata.uns.get(_keys.SPATIAL, {}).get(key, {})
    images = {name: _result.image_of(library, name) for name in names if name in library.get("images", {})}
    stack.uns[_keys.SPATIAL] = {
        name: io.library_of_sections({name: images.get(name)}, name, pitch, points) for name in names
    }
    stack.uns |= {name: adata.uns[name] for name in (key, _keys.LOG1P) if name in adata.uns}
    for column, of_section, kind in (
        (_keys.LIBRARY_SIZE, _keys.library_size, float),
        (_keys.SPOT, _keys.spot, object),
        (_keys.CONFIDENCE, _keys.confidence, float),
    ):
        if any(of_section(name) in adata.obs for name in names):
            missing = pd.Series(None, index=adata.obs_names, dtype=kind)
            of_each = [adata.obs.get(of_section(name), missing).astype(kind).iloc[r] for name, r in rows.items()]
            joined = pd.concat(of_each, ignore_index=True)
            stack.obs[column] = pd.Categorical(joined) if kind is object else joined.to_numpy()
    stack_carried(adata, stack, record, rows)
    return stack


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
