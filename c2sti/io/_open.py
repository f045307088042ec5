"""Results with factors, opened: their layers, and `X`, are lazy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from c2sti import _keys, _result, _validators
from c2sti.io._factors import FACTORS, VALUES, StackPart, check_version, densely, layers_of, take, values_lazily
from c2sti.io._store import MEASURED, MEASURED_ROWS

ENTRIES = 2**22  # of a sparse layer that are read together


def completed(adata: AnnData) -> AnnData:
    """The same, with the layers of each result whose factors it holds."""
    for key, record in adata.uns.items():
        if isinstance(record, Mapping) and FACTORS in record:
            adata = with_layers(adata, key)
    return adata


def with_layers(adata: AnnData, key: str) -> AnnData:
    """A result with lazy layers from its factors; a stack with lazy `X` as well."""
    record = _result.record_of(adata, key)
    has_factors = FACTORS in record
    if _keys.SECTION in adata.obs:
        return _stack_with_values(adata, record, key) if has_factors and adata.X is None else adata
    layers: dict[str, Any] = dict(adata.layers) | (take(adata, key).lazily() if has_factors else {})
    names = [str(name) for name in record["sections"]]
    for name in (names[0], names[-1]):
        if name in layers:
            layers[name] = _dense_measured(layers[name], adata.obs[_keys.tissue(name)].to_numpy(dtype=bool))
    order = [*(name for name in names if name in layers), *(name for name in layers if name not in names)]
    inserted = [str(name) for name in record["inserted"]]
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
    check_version(record[FACTORS], key)
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
