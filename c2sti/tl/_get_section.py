"""One section of a result, as tools for one section take it."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from c2sti import _keys, _result, _validators, io
from c2sti.tl._to_slices import stack_of

LEAST_VIEW = 0.2  # share of squidpy's axes below which the log says how to fit them to the tissue


def get_section(adata: AnnData, section: str, *, key: str = "c2sti") -> AnnData:
    """One section of a result, as scanpy and squidpy take it: ``c2sti.tl.get_section(out, "c2sti_2")``.

    Parameters
    ----------
    adata
        Result of :func:`interpolate`, :func:`interpolate_series`, :func:`interpolate_cells` or :func:`slice_series`, in
        memory or lazy; or what :func:`to_slices` or :func:`sample_counts` make of one.
    section
        Its name, as ``adata.uns["c2sti"]["sections"]`` has it.
    key
        The `key_added` that the result was made with.

    Returns
    -------
    AnnData of the rows in the section's tissue × N genes, all of it in memory:

    - ``X``: expression (float32, log1p), or the counts that were drawn; of a result with uncertainty ``layers["std"]``,
      ``"lower"`` and ``"upper"``.
    - `obs` and `obsm` as of :func:`to_slices`, without columns that have no value here, and z where it is not known.
    - ``uns["spatial"]``: the one library of this section, with its H&E, or white where it has none;
      ``uns["log1p"]``, colours of labels, and ``uns[key]``, the provenance of this section (without gene graphs).

    Raises
    ------
    KeyError
        ``uns[key]`` is missing, the section is not in the result, or its values are missing.

    Notes
    -----
    An interpolated section has means, without the noise of counts: tests on it find far too much. See
    :func:`sample_counts`.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=2, show_progress_bar=False)
    >>> one = c2sti.tl.get_section(out, "c2sti_2")
    >>> list(one.uns["spatial"]), round(one.obs["z"].iloc[0])
    (['c2sti_2'], 267)
    """
    record = _result.record_of(adata, key)
    stacked = _keys.SECTION in adata.obs
    there = [str(name) for name in record["sections"]]
    if stacked:
        rows_of = adata.obs[_keys.SECTION].astype(str).to_numpy()
        there = [name for name in there if name in rows_of]
    if _validators.text(section, "section") not in there:
        raise KeyError(f"there is no section {section!r} in the result; it has {', '.join(there)}")
    whole = io.with_layers(adata, key)
    stack = whole if stacked else stack_of(whole, key, sections=[section])
    if stack.X is None:
        raise KeyError(f"X is missing from the stack, which has no factors to make it of either; {_result.AGAIN}")
    rows = stack[(stack.obs[_keys.SECTION] == section).to_numpy()]
    # anndata warns where it loads a view of tables, and cannot copy one of a file.
    one = io.without_factors((rows if stack.isbacked else rows.copy()).to_memory(), key)
    if not stacked and "z" not in record:  # it would be a fraction, beside x and y
        del one.obs[_keys.Z], one.obsm[_keys.SPATIAL_3D]
    one.obs = one.obs.dropna(axis="columns", how="all")
    for kind in (_keys.STD, _keys.LOWER, _keys.UPPER):  # nothing of them is known where a section was measured
        if kind in one.layers and np.isnan(one.layers[kind]).all():
            del one.layers[kind]
    one.uns[key] = _result.record_of_some(one.uns[key], [section])
    libraries = one.uns.pop(_keys.SPATIAL, {})
    if section in libraries:
        one.uns[_keys.SPATIAL] = {section: libraries[section]}
        io.warn_of_view(libraries[section], section, np.asarray(one.obsm[_keys.SPATIAL]), least=LEAST_VIEW)
    return one
