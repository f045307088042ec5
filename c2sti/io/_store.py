"""A result as a zarr store: small parts, measured sections as CSR, interpolated ones as factors or as dense layers.

Opened again, its layers and `X` are lazy.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from math import ceil, log2
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _result, _validators
from c2sti._atomic import atomic_write
from c2sti._backed import Expression, blocks
from c2sti._types import SlicePair
from c2sti.factors import TOLERANCE
from c2sti.io._anndata import add_confidence
from c2sti.io._factors import (
    CHUNK_ROWS,
    FACTORS,
    VALUES,
    VERSION,
    Layers,
    StackPart,
    add_stack_confidence,
    densely,
    layers_of,
    put,
    put_loadings,
    spot_of_each,
    store,
    values_lazily,
    weights_of,
)

MANTISSA = 23  # bits of a float32
MOST_DIGITS = 7  # that a float32 holds
LEVEL = 5
SPARSE_CHUNK = 2**20
MEASURED_ROWS = 2048  # rows of a measured section that are read and written together
ENTRIES = 2**22  # of a sparse layer that are read together
MEASURED = "measured"  # layer of a stored stack: the spots of measured sections
# Warnings of libraries for their own developers, at every write.
OF_NO_USE = (".*autosharding will be the default", "Consolidated metadata is currently not part")
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}  # anndata's mark of a dense array


@contextmanager
def new_store(path: str | Path) -> Iterator[Path]:
    """A folder to write a store into, which is moved to its place when the block ends; see :mod:`c2sti._atomic`.

    The place is checked before and after the block. If the block fails, or is interrupted, nothing is left.
    """
    path = _validators.path(path, "out")
    _check_free(path)
    try:
        with atomic_write(path) as part:
            yield part
            _check_free(path)  # another process may have been quicker
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = f"no space is left in {path.parent} for {path.name}; what was written of it has been removed again"
            raise OSError(error.errno, full) from error
        raise


def _check_free(path: Path) -> None:
    if path.suffix != ".zarr":
        raise ValueError(f"out={str(path)!r} must end in .zarr: results are written as zarr stores")
    if path.is_symlink() or path.exists():
        raise FileExistsError(f"{path} exists; name another one with out=, or remove it first")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into; make it first")


# ---- a pair, and a stack


def write_store(
    folder: Path,
    frame: AnnData,
    layers: Layers,
    pair: SlicePair,
    *,
    key: str,
    dense: bool,
    digits: int | None,
    n_threads: int,
    progress: Callable[[float], object] = lambda share: None,
) -> None:
    """Write the result of a pair into a new folder: `frame`, its measured sections, and factors or dense layers."""
    lazy = layers.lazily()
    add_confidence(frame, layers, lazy, n_threads)
    if not dense:
        put(frame, layers, key)
    with new_group(folder, frame) as group:
        on_disk = group.require_group("layers")
        for name, section in ((_keys.SLICE_A, pair.a), (_keys.SLICE_B, pair.b)):
            rows = _rows_of(section.expression, spot_of_each(section, frame, name))
            append_rows(on_disk, name, rows, frame.shape)
        if not dense:
            progress(1.0)
            return
        wanted = {name: da.map_blocks(rounded, values, digits) for name, values in lazy.items()}
        targets = [
            on_disk.create_array(
                name,
                shape=values.shape,
                chunks=values.chunksize,
                dtype="float32",
                compressors=codec(),
                attributes=ARRAY,
                config={"write_empty_chunks": True},
            )
            for name, values in wanted.items()
        ]
        store(list(wanted.values()), targets, n_threads=n_threads, progress=progress)
        lost = sum(array.nchunks - array.nchunks_initialized for array in targets)
        if lost:
            raise FileNotFoundError(
                f"{lost} blocks are not in {folder}: workers of the cluster have to see the file system of out="
            )


def _rows_of(expression: Expression, spot: NDArray[np.intp]) -> Iterator[sp.csr_array]:
    """Rows of a matrix by their number, block after block; empty where that is -1."""
    nothing = sp.csr_array((1, expression.shape[1]), dtype=np.float32)
    for first in range(0, len(spot), MEASURED_ROWS):
        here = spot[first : first + MEASURED_ROWS]
        held = here >= 0
        rows = sp.vstack([expression[here[held]], nothing], format="csr")
        yield rows[np.where(held, np.cumsum(held) - 1, held.sum())]


def write_stack(
    folder: Path, frame: AnnData, stack: Sequence[StackPart], kinds: Sequence[str], key: str, n_threads: int
) -> None:
    """Write a stack, whose record names the gap of each interpolated section, with spots as CSR and factors."""
    if _keys.STD in kinds:
        add_stack_confidence(frame, stack, values_lazily(stack, frame.n_vars, kinds), n_threads)
    lengths = [part.shape[0] for part in stack]
    dense = _put_stack(frame, stack, lengths, key)
    with new_group(folder, frame) as group:
        for name, weights in dense.items():
            _write_rows(group["obsm"], name, weights, lengths)
        spots = chain.from_iterable(_spots(part, frame.n_vars) for part in stack)
        append_rows(group.require_group("layers"), MEASURED, spots, frame.shape)


def _put_stack(
    frame: AnnData, stack: Sequence[StackPart], lengths: Sequence[int], key: str
) -> dict[str, list[NDArray[np.float32] | None]]:
    """Put the loadings of each gap, and sparse factors, into a stack; returns the dense ones, which may be large."""
    record = frame.uns[key]
    gap_of = record["neighbours"]["a"].to_dict()
    gaps: dict[str, dict[str, Any]] = {}
    loadings, weights = [], []
    for part in stack:
        found = None
        if isinstance(part, Layers):
            gap = str(gap_of[part.names[0]])
            if gap not in gaps:
                gaps[gap] = put_loadings(frame, part, key, suffix=f"_{gap}")
            found = gaps[gap]["loadings"]
        loadings.append(found)
        weights.append(weights_of(part, 0) if isinstance(part, Layers) else {})
    dense = {}
    for kind in dict.fromkeys(chain.from_iterable(weights)):
        of_each = [own.get(kind) for own in weights]
        if any(map(sp.issparse, of_each)):
            frame.obsm[f"{key}_{kind}"] = _one_below_the_other(of_each, lengths)
        else:
            dense[f"{key}_{kind}"] = of_each
    frame.obs[f"{key}_{FACTORS}"] = pd.Categorical(np.repeat(np.array(loadings, dtype=object), lengths))
    record[FACTORS] = {"version": VERSION, "tolerance": TOLERANCE, "gaps": gaps}
    return dense


def _one_below_the_other(parts: Sequence[sp.csr_matrix | None], lengths: Sequence[int]) -> sp.csr_matrix:
    """Sparse matrices one below the other, as wide as the widest; empty where there is none."""
    width = max(part.shape[1] for part in parts if part is not None)
    wide = [
        sp.csr_matrix((n, width), dtype=np.float32)
        if part is None
        else sp.csr_matrix((part.data.astype(np.float32), part.indices, part.indptr), shape=(n, width))
        for part, n in zip(parts, lengths, strict=True)
    ]
    return sp.vstack(wide, format="csr")


def _write_rows(obsm: Any, name: str, parts: Sequence[NDArray[np.float32] | None], lengths: Sequence[int]) -> None:
    """Write dense matrices one below the other, as wide as the widest, zero where there is none."""
    width = max(part.shape[1] for part in parts if part is not None)
    chunks = (max(min(CHUNK_ROWS, sum(lengths)), 1), width)
    how = {"dtype": "float32", "compressors": codec(), "attributes": ARRAY, "fill_value": 0}
    written = obsm.create_array(name, shape=(sum(lengths), width), chunks=chunks, **how)
    for part, stop, n in zip(parts, np.cumsum(lengths).tolist(), lengths, strict=True):
        if part is not None:
            written[stop - n : stop, : part.shape[1]] = part


def _spots(part: StackPart, n_genes: int) -> Iterator[sp.csr_array]:
    """Spots of a section; empty rows of an interpolated one."""
    if isinstance(part, Layers):
        yield sp.csr_array((part.shape[0], n_genes), dtype=np.float32)
    else:
        yield from (rows for _, rows in blocks(part))


# ---- arrays and their compression


@contextmanager
def new_group(folder: Path, frame: AnnData) -> Iterator[Any]:
    """A new store with all of a result but its layers, which the block writes."""
    import zarr  # noqa: PLC0415 - heavy, and only a stored result needs it
    from anndata.io import write_elem  # noqa: PLC0415

    with warnings.catch_warnings():
        for text in OF_NO_USE:
            warnings.filterwarnings("ignore", text)
        group = zarr.open_group(str(folder), mode="w-", zarr_format=3)
        frame.strings_to_categoricals()
        write_elem(group, "/", frame)
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        yield group
        zarr.consolidate_metadata(group.store)


def append_rows(layers: Any, name: str, parts: Iterable[sp.csr_array | sp.csr_matrix], shape: tuple[int, int]) -> None:
    """Write a CSR layer, block of rows after block of rows."""
    from anndata.io import sparse_dataset, write_elem  # noqa: PLC0415 - anndata loads zarr with it

    # Of no rows, so that all chunks are of one size; 64 bits where there may be so many values.
    none = sp.csr_matrix((0, shape[1]), dtype=np.float32)
    bits = np.dtype("int64" if shape[0] * shape[1] > np.iinfo(np.int32).max else "int32")
    how = {"chunks": (SPARSE_CHUNK,), "compressors": codec(), "indptr_dtype": bits}
    write_elem(layers, name, none, dataset_kwargs=how)
    written = sparse_dataset(layers[name])
    for rows in parts:
        written.append(sp.csr_matrix(rows, dtype=np.float32))


def codec() -> Any:
    """Compression of all arrays: of zstd 1 and 3, lz4 1 and 5, by bytes and by bits, a small one among the fastest."""
    from zarr.codecs import BloscCodec  # noqa: PLC0415 - heavy, and only a stored result needs it

    return BloscCodec(cname="lz4", clevel=LEVEL, shuffle="bitshuffle")


def check_digits(digits: int | None) -> None:
    """Refuse a number of digits that a float32 cannot have."""
    if digits is not None:
        _validators.whole(digits, "digits", most=MOST_DIGITS)


def rounded(values: NDArray[np.float32], digits: int | None) -> NDArray[np.float32]:
    """The values to that many significant decimal digits: the mantissa to the nearest of ⌈digits · log₂ 10⌉ bits.

    The rest of the mantissa is zero, which compresses well. NaN and infinite values stay as they are.
    """
    dropped = 0 if digits is None else MANTISSA - ceil(digits * log2(10))
    if dropped <= 0:
        return values
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    last = (bits >> np.uint32(dropped)) & np.uint32(1)  # ties go to the even neighbour
    near = (bits + np.uint32((1 << (dropped - 1)) - 1) + last) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    return np.where(np.isfinite(values), near.view(np.float32), values)


# ---- opened


def completed(adata: AnnData) -> AnnData:
    """The same, with the layers of each result whose factors it holds."""
    for key, record in adata.uns.items():
        if isinstance(record, Mapping) and FACTORS in record:
            adata = with_layers(adata, key)
    return adata


def with_layers(adata: AnnData, key: str) -> AnnData:
    """A result with lazy layers from its factors; a stack with lazy `X` as well."""
    record = _result.record_of(adata, key)
    factors = record.get(FACTORS)
    if factors is not None and int(factors.get("version", 0)) != VERSION:
        raise ValueError(
            f"the factors of uns[{key!r}] are of version {factors.get('version')}, and this c2sti reads {VERSION}; "
            "read them with the c2sti that wrote them, or make the result again"
        )
    if _keys.SECTION in adata.obs:
        return adata if factors is None or adata.X is not None else _stack_with_values(adata, record, key)
    layers: dict[str, Any] = dict(adata.layers)
    names, inserted = ([str(name) for name in record[part]] for part in ("sections", "inserted"))
    if factors is not None:
        positions = np.asarray(record["positions"], dtype=float)[1:-1].tolist()
        layers |= layers_of(adata, key, factors, inserted, positions, prefixes=inserted).lazily()
    for name in (names[0], names[-1]):
        if name in layers:
            layers[name] = _dense_measured(layers[name], adata.obs[_keys.tissue(name)].to_numpy(dtype=bool))
    order = [*(name for name in names if name in layers), *(name for name in layers if name not in names)]
    middle = inserted[(len(inserted) - 1) // 2]
    return _with(adata, layers.get(middle), {name: layers[name] for name in order})


def _with(adata: AnnData, values: Any, layers: dict[str, Any]) -> AnnData:
    """An AnnData with other values and layers."""
    rest = {part: dict(getattr(adata, part)) for part in ("obsm", "varm", "obsp", "varp", "uns")}
    return AnnData(X=values, obs=adata.obs.copy(), var=adata.var.copy(), layers=layers, **rest)


def _dense_measured(values: Any, tissue: Any) -> Any:
    """(M, N) dense, lazily: rows of a CSR matrix, NaN outside of the tissue; what is dense already as it is."""
    if sp.issparse(values):
        values = da.from_array(values, chunks=(MEASURED_ROWS, values.shape[1]), asarray=False, name=False)
    if not sp.issparse(getattr(values, "_meta", None)):
        return values
    inside = da.from_array(tissue[:, None], chunks=(values.chunks[0], 1))
    return da.where(inside, densely(values), np.float32(np.nan))


def _stack_with_values(adata: AnnData, record: Mapping[str, Any], key: str) -> AnnData:
    """A stack as it was stored, with lazy values."""
    if MEASURED not in adata.layers:
        raise KeyError(f"layers[{MEASURED!r}] is missing from the stack; {_result.AGAIN}")
    section, neighbours = adata.obs[_keys.SECTION].astype(str).to_numpy(), record["neighbours"]
    kinds: list[str] = []
    stack: list[StackPart] = []
    places = []
    for name in dict.fromkeys(section):
        rows = np.flatnonzero(section == name)
        places.append(rows)
        if name not in neighbours.index:
            together = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows
            stack.append(adata.layers[MEASURED][together])
            continue
        gap, position = int(neighbours.loc[name, "a"]), float(neighbours.loc[name, "position"])
        of_gap = record[FACTORS]["gaps"][str(gap)]
        own = layers_of(adata, key, of_gap, [name], [position], prefixes=[key], rows=rows, suffix=f"_{gap}")
        stack.append(own)
        kinds = own.kinds()
    values: dict[Any, da.Array] = values_lazily(stack, adata.n_vars, kinds)
    back = np.argsort(np.concatenate(places), kind="stable")  # rows of one section are together, unless they were moved
    if (np.diff(back) != 1).any():
        values = {kind: layer[back] for kind, layer in values.items()}
    return _with(adata, values.pop(VALUES), values)


def read_zarr(path: str | Path, *, key: str = _keys.RESULT) -> AnnData:
    """A result that was written with ``out=``, with lazy layers.

    Parameters
    ----------
    path
        The store.
    key
        Its `key_added`.

    Returns
    -------
    AnnData as :func:`c2sti.tl.interpolate` or :func:`c2sti.tl.interpolate_series` returns it. Layers, and `X`, are
    arrays of dask; the rest is in memory. :func:`c2sti.tl.materialize` computes layers, or some of their genes.

    Raises
    ------
    FileNotFoundError, ValueError, KeyError
        There is no zarr store at the path, or it is no result, or parts of it are missing.

    Examples
    --------
    >>> import c2sti, tempfile
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = c2sti.tl.interpolate(a, b, out=f"{folder}/sections.zarr", show_progress_bar=False)
    ...     out = c2sti.read_zarr(f"{folder}/sections.zarr")
    ...     out[:, "gene_001"].to_memory().layers["c2sti_1"].shape == (out.n_obs, 1)
    True
    """
    import zarr  # noqa: PLC0415
    from anndata.experimental import read_elem_lazy  # noqa: PLC0415
    from anndata.io import read_elem  # noqa: PLC0415

    path = _validators.path(path, "path")
    if not path.is_dir():
        raise FileNotFoundError(f"there is no zarr store {path}")
    try:
        store = zarr.open_group(str(path), mode="r")
        small = ("obs", "var", "obsm", "varm", "varp", "uns")
        parts: dict[str, Any] = {name: read_elem(store[name]) for name in small if name in store}
        on_disk: Any = store["layers"] if "layers" in store else {}
        layers = {name: read_elem_lazy(on_disk[name], chunks=_rows_at_once(on_disk[name])) for name in on_disk}
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is no store that c2sti wrote, or it is cut off ({error}); make it again") from error
    return with_layers(AnnData(layers=layers, **parts), key)


def _rows_at_once(layer: Any) -> tuple[int, int] | None:
    """Chunks of a CSR layer by about `ENTRIES` entries; None for a dense one, which has its own."""
    if hasattr(layer, "shape"):  # an array, and no group of those that make a CSR matrix
        return None
    n_rows, n_genes = layer.attrs["shape"]
    return max(int(ENTRIES * n_rows / max(layer["data"].shape[0], 1)), 1), n_genes
