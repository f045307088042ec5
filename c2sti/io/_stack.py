"""Sections one below the other: their values lazily, dense, or in a store as measured spots and factors.

In a stack every section has rows of its own. Those of a measured section are its spots; those of an interpolated one
are bins, whose factors belong to the loadings of the gap in which the section lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from c2sti import _keys, _result
from c2sti._backed import Expression, blocks
from c2sti.factors import TOLERANCE
from c2sti.io._factors import (
    CHUNK_ROWS,
    FACTORS,
    VERSION,
    Layers,
    check_version,
    densely,
    ends_of,
    layers_of,
    put_loadings,
    rows_lazily,
    store,
    weights_of,
)
from c2sti.io._store import ARRAY, append_rows, codec, new_group

MEASURED = "measured"  # layer of a store: the spots of measured sections
VALUES = None  # kind of a section's own values, beside standard deviations and ends of intervals


@dataclass(frozen=True)
class Block:
    """The values of one section of a stack.

    Parameters
    ----------
    n_rows
        Of the section.
    measured
        (n, N) expression of its spots, or a lazy array of sparse blocks of it; None of an interpolated section.
    layers
        What an interpolated section is made from, itself alone; None of a measured one.
    gap
        Number of the gap that an interpolated section lies in.
    """

    n_rows: int
    measured: Expression | da.Array | None = None
    layers: Layers | None = None
    gap: int = -1


def values_lazily(stack: Sequence[Block], n_genes: int, kinds: Sequence[str], *, by_rows: bool) -> dict[Any, da.Array]:
    """(M, N) values of all sections, and by kind what is beside those of the interpolated ones, NaN where measured."""
    found: dict[Any, list[da.Array]] = {kind: [] for kind in (VALUES, *kinds)}
    for block in stack:
        made = {} if block.layers is None else block.layers.lazily(by_rows=by_rows)
        for kind, parts in found.items():
            if block.layers is not None:
                (name,) = block.layers.names
                parts.append(made[name if kind is VALUES else _keys.doubt(name, kind)])
            elif kind is VALUES and isinstance(block.measured, da.Array):
                parts.append(densely(block.measured))
            elif kind is VALUES and block.measured is not None:
                parts.append(rows_lazily(block.measured, np.arange(block.n_rows)))
            else:
                parts.append(da.full((block.n_rows, n_genes), np.nan, dtype=np.float32, chunks=(8192, n_genes)))
    return {kind: da.concatenate(parts) for kind, parts in found.items()}


def add_values(
    frame: AnnData,
    stack: Sequence[Block],
    kinds: Sequence[str],
    *,
    dense: bool,
    n_threads: int,
) -> None:
    """Put the values of all sections into `X`, and what is beside them into layers: dense, or lazily."""
    lazy = values_lazily(stack, frame.n_vars, kinds, by_rows=dense)
    made: dict[Any, Any] = lazy
    if dense:
        made = {kind: np.empty(values.shape, dtype=np.float32) for kind, values in lazy.items()}
        store(list(lazy.values()), list(made.values()), n_threads=n_threads)
    frame.X = made.pop(VALUES)
    for kind, values in made.items():
        frame.layers[kind] = values


# ---- in a store


def write_stack(folder: Path, frame: AnnData, stack: Sequence[Block], key: str) -> None:
    """Write a stack: its small parts, the spots of measured sections as CSR, and the factors of the others."""
    weights = _put(frame, stack, key)
    with new_group(folder, frame) as group:
        for name, of_each in weights.items():
            _write_rows(group["obsm"], name, of_each, [block.n_rows for block in stack])
        spots = chain.from_iterable(_spots(block, frame.n_vars) for block in stack)
        append_rows(group.require_group("layers"), MEASURED, spots, frame.shape)


def _write_rows(obsm: Any, name: str, parts: Sequence[Any], lengths: Sequence[int]) -> None:
    """Write matrices one below the other, as wide as the widest, zero where there is none; they may be large."""
    width = max(part.shape[1] for part in parts if part is not None)
    chunks = (max(min(CHUNK_ROWS, sum(lengths)), 1), width)
    how = {"dtype": "float32", "compressors": codec(), "attributes": ARRAY, "fill_value": 0}
    written = obsm.create_array(name, shape=(sum(lengths), width), chunks=chunks, **how)
    for part, stop, n in zip(parts, np.cumsum(lengths).tolist(), lengths, strict=True):
        if part is not None:
            written[stop - n : stop, : part.shape[1]] = part


def _spots(block: Block, n_genes: int) -> Iterator[sp.csr_array]:
    """Spots of a section; of an interpolated one, rows that are empty."""
    if block.measured is None or isinstance(block.measured, da.Array):
        yield sp.csr_array((block.n_rows, n_genes), dtype=np.float32)
    else:
        yield from (rows for _, rows in blocks(block.measured))


def _put(frame: AnnData, stack: Sequence[Block], key: str) -> dict[str, list[Any]]:
    """Write the loadings of each gap, and the factors of all rows where they are sparse; gives back those to write."""
    lengths = [block.n_rows for block in stack]
    first = {block.gap: block.layers for block in reversed(stack) if block.layers is not None}
    gaps = {str(gap): put_loadings(frame, layers, key, suffix=f"_{gap}") for gap, layers in sorted(first.items())}
    weights = [{} if block.layers is None else weights_of(block.layers, 0) | ends_of(block.layers) for block in stack]
    dense: dict[str, list[Any]] = {}
    for kind in dict.fromkeys(chain.from_iterable(weights)):
        of_each = [own.get(kind) for own in weights]
        if any(map(sp.issparse, of_each)):
            frame.obsm[f"{key}_{kind}"] = _below(of_each, lengths)
        else:
            dense[f"{key}_{kind}"] = of_each
    loadings = [None if block.layers is None else gaps[str(block.gap)]["loadings"] for block in stack]
    frame.obs[f"{key}_{FACTORS}"] = pd.Categorical(np.repeat(np.array(loadings, dtype=object), lengths))
    frame.uns[key][FACTORS] = {"version": VERSION, "tolerance": TOLERANCE, "gaps": gaps}
    return dense


def _below(parts: Sequence[Any], lengths: Sequence[int]) -> sp.csr_matrix:
    """Sparse matrices one below the other, as wide as the widest; empty where there is none."""
    width = max(part.shape[1] for part in parts if part is not None)
    wide = [
        sp.csr_matrix((n, width), dtype=np.float32)
        if part is None
        else sp.csr_matrix((part.data.astype(np.float32), part.indices, part.indptr), shape=(n, width))
        for part, n in zip(parts, lengths, strict=True)
    ]
    return sp.vstack(wide, format="csr")


def with_values(adata: AnnData, key: str) -> AnnData:
    """A stack as it was stored, with `X` and layers that are made when somebody looks at them."""
    record = adata.uns[key]
    check_version(record[FACTORS], key)
    if MEASURED not in adata.layers:
        raise KeyError(f"layers[{MEASURED!r}] is missing from the stack; {_result.AGAIN}")
    section, neighbours = adata.obs[_keys.SECTION].astype(str).to_numpy(), record["neighbours"]
    kinds: list[str] = []
    stack, places = [], []
    for name in dict.fromkeys(section):
        rows = np.flatnonzero(section == name)
        places.append(rows)
        if name not in neighbours.index:
            together = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows
            stack.append(Block(len(rows), measured=adata.layers[MEASURED][together]))
            continue
        gap, position = int(neighbours.loc[name, "a"]), float(neighbours.loc[name, "position"])
        told = record[FACTORS]["gaps"][str(gap)]
        own = layers_of(adata, key, told, [name], [position], prefixes=[key], rows=rows, suffix=f"_{gap}")
        stack.append(Block(len(rows), layers=own, gap=gap))
        kinds = own.kinds()
    made = values_lazily(stack, adata.n_vars, kinds, by_rows=False)
    back = np.argsort(np.concatenate(places), kind="stable")  # rows of one section are together, unless they were moved
    if (np.diff(back) != 1).any():
        made = {kind: values[back] for kind, values in made.items()}
    parts = {part: dict(getattr(adata, part)) for part in ("obsm", "varm", "obsp", "varp", "uns")}
    values = made.pop(VALUES)
    return AnnData(X=values, obs=adata.obs.copy(), var=adata.var.copy(), layers=made, **parts)
