"""A result that is left on disk, or as its factors, brought into memory: all of it, or some genes."""

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
        Result of :func:`interpolate` whose layers are made when somebody looks at them; or as ``anndata.read_zarr``
        or ``anndata.read_h5ad`` reads one, with its factors and without its layers. Rows and genes may have been
        taken out, or genes renamed.
    genes
        Names of the genes wanted, or what a text column of `var` calls them; all by default.
    key
        The `key_added` that it was made with.

    Returns
    -------
    AnnData of these genes, with ``X`` and all layers as :func:`interpolate` gives them in memory. The factors are left
    out: nothing is to be made from them any more.

    Raises
    ------
    KeyError
        It is no result, or parts of it are missing.
    ValueError
        It holds rows of another result; or is of another version.
    MemoryError
        It does not fit: the message says how much is needed, and how much there is.

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
    _check_room(some)
    return io.without_factors(some.to_memory(), key)


def _check_room(adata: AnnData) -> None:
    """Refuse what does not fit into memory.

    Raises
    ------
    MemoryError
        It does not.
    """
    needed, room = 4 * adata.n_obs * adata.n_vars * (len(adata.layers) + 1), psutil.virtual_memory().available
    if needed > room:
        raise MemoryError(
            f"{len(adata.layers)} layers of {adata.n_obs} bins x {adata.n_vars} genes take {io.said(needed)}, and "
            f"{io.said(room)} of memory are free; name some of the genes: genes="
        )
