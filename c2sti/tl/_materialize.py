"""A result on disk, or as its factors, brought into memory: all of it, or some genes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import psutil
from anndata import AnnData

from c2sti import _result, _validators, io


def materialize(adata: AnnData, *, genes: Sequence[str] | pd.Index | None = None, key: str = "c2sti") -> AnnData:
    """Layers of a result in memory, as arrays of numpy.

    Parameters
    ----------
    adata
        Result of :func:`interpolate` or :func:`interpolate_series` with lazy layers; or with its factors and without
        layers, as ``anndata.read_zarr`` reads one. It may have been subset, and genes renamed.
    genes
        Names of the genes wanted, or what a text column of `var` calls them; all by default.
    key
        Its `key_added`.

    Returns
    -------
    AnnData of these genes, with ``X`` and all layers as :func:`interpolate` gives them in memory, without factors.

    Raises
    ------
    KeyError, ValueError
        It is no result, or incomplete, or of another version; or it holds rows of another result.
    MemoryError
        It does not fit.

    Examples
    --------
    >>> import c2sti, tempfile
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = c2sti.tl.interpolate(a, b, out=f"{folder}/sections.zarr", show_progress_bar=False)
    ...     few = c2sti.tl.materialize(out, genes=["gene_001", "gene_002"])
    >>> few.layers["c2sti_1"].shape == (out.n_obs, 2)
    True
    """
    _validators.a(adata, "adata", AnnData, "the AnnData that c2sti.tl.interpolate gave")
    whole = io.with_layers(adata, key)
    some = whole if genes is None else whole[:, _result.genes_of(genes, whole.var_names, whole.var)]
    needed, room = 4 * some.n_obs * some.n_vars * (len(some.layers) + 1), psutil.virtual_memory().available
    if needed > room:
        raise MemoryError(
            f"{len(some.layers)} layers of {some.n_obs} bins x {some.n_vars} genes take {io.said(needed)}, and "
            f"{io.said(room)} of memory are free; name some of the genes: genes="
        )
    return io.without_factors(some.to_memory(), key)
