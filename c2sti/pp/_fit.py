"""Whether two sections belong together, asked before anything is inserted between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from anndata import AnnData

from c2sti import _keys, grid
from c2sti.fit import LIMITS, measure, misfits

if TYPE_CHECKING:
    from spatialdata import SpatialData


def fit(
    slice_a: AnnData | SpatialData,
    slice_b: AnnData | SpatialData,
    *,
    layer: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    table_key: str | None = None,
    coordinate_system: str = "global",
) -> pd.DataFrame:
    """How well do two sections fit, where they lie now?

    :func:`c2sti.tl.interpolate` asks the same of its inputs, and warns where a number is beyond its limit.

    Parameters
    ----------
    slice_a, slice_b
        Sections in one frame, see :func:`align`; neither is modified.
    layer
        Layer with the expression, counts or log-normalised; `X` by default.
    spatial_key
        Key of the coordinates in ``obsm``, ``"spatial_aligned"`` after :func:`align`.
    table_key, coordinate_system
        Table and coordinate system of a SpatialData.

    Returns
    -------
    DataFrame with the columns ``value``; ``limit``, below which two sections misfit; ``fits``, True or False, missing
    where there is no limit or nothing could be told (too few genes, too little tissue in common: ``value`` is NaN).
    One row each:

    - ``overlap``, 0 to 1: share of one section's spots that lie in the other's tissue, the larger of the two shares.
    - ``agreement``, up to 1: how well the one section tells the other's spots, beside how well these tell each other.
      Of the 64 genes that vary most from place to place, each spot is predicted by the smoothed other section at the
      same place, and by its own neighbours without itself; the mean correlation of the first over that of the second.
      Low where a section lies wrong: turned, mirrored, shifted, shuffled.
    - ``agreement_z``: by how many standard deviations the first correlation exceeds that of the two sections turned and
      mirrored against each other (11 ways). It has no limit: of tissue that is round it is small in any case.
    - ``likeness``, -1 to 1: correlation of the two mean log expressions over the genes that a tenth of the spots of
      either section express. Low for two patients, two tissues or two platforms; where spots lie does not matter.

    Raises
    ------
    KeyError, ValueError
        A section cannot be used, or the two have no gene in common; the message says what to do.

    Notes
    -----
    Limits were set on some measured series and checked on others, see `experiments <../experiments.html>`__. They
    notice another patient's tumour, not another healthy donor's organ if it looks the same; and of a section that was
    mirrored nothing where the tissue is nearly symmetric.

    Examples
    --------
    >>> import c2sti
    >>> first, second = c2sti.datasets.phantom(seed=0).series([0.0, 100.0])
    >>> found = c2sti.pp.fit(first, second)
    >>> bool(found["fits"].all())
    True
    >>> second.obsm["spatial"] = second.obsm["spatial"][::-1].copy()  # every spot in another's place
    >>> found = c2sti.pp.fit(first, second)
    >>> list(found.index[found["fits"].eq(False)])
    ['agreement']
    """
    a, b = (
        grid.read_slice(
            section,
            name=name,
            layer=layer,
            spatial_key=spatial_key,
            table_key=table_key,
            coordinate_system=coordinate_system,
        )
        for section, name in ((slice_a, _keys.SLICE_A), (slice_b, _keys.SLICE_B))
    )
    pair, _ = grid.make_pair(a, b, judged=True)
    found = pd.Series(measure(pair.a, pair.b, pair.spacing, grid.overlap(a, b)))
    limit = pd.Series(LIMITS).reindex(found.index)
    beyond = found.index.isin(misfits(found))
    fits = pd.Series(~beyond, index=found.index, dtype="boolean").where(found.notna() & limit.notna())
    return pd.DataFrame({"value": found, "limit": limit, "fits": fits})
