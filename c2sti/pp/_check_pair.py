"""The pair check: do two sections match? Asked before anything is interpolated between them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
from anndata import AnnData

from c2sti import io
from c2sti._docs import documented
from c2sti.pair_check import LIMITS, measure, misfits

if TYPE_CHECKING:
    from spatialdata import SpatialData


@documented
def check_pair(
    slice_a: AnnData | SpatialData,
    slice_b: AnnData | SpatialData | None = None,
    *,
    library_key: str | None = None,
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    coordinate_system: io.Key = None,
) -> pd.DataFrame:
    """Check whether two sections match, where they lie now.

    :func:`c2sti.tl.interpolate` checks its inputs in the same way, and warns where a number is beyond its limit;
    :doc:`/guide/alignment` says what the numbers notice and what they miss.

    Parameters
    ----------
    slice_a, slice_b
        Sections in common coordinates, see :func:`align`; neither is modified. One object that holds both, with
        `library_key`, may stand for the two.
    %(shared)s

    Returns
    -------
    DataFrame with the columns ``value``; ``limit``, below which two sections misfit; ``passes``, True or False, missing
    where there is no limit or nothing could be computed (too few genes, too little tissue in common: ``value`` is NaN).
    One row each:

    - ``overlap``, 0 to 1: share of one section's spots that lie in the other's tissue, the larger of the two shares.
    - ``spatial_concordance``, up to 1: how well the one section predicts the other's spots, relative to how well these
      predict each other: mean correlations over the 64 genes that vary most from place to place. Low where a section is
      rotated, mirrored, shifted or shuffled.
    - ``spatial_concordance_z``: by how many standard deviations the first correlation exceeds that of the two sections
      rotated and mirrored against each other (11 ways). It has no limit: it is small in any tissue that is round.
    - ``expression_similarity``, -1 to 1: correlation of the two mean log expressions over the genes that a tenth of the
      spots of either section express. Low for two patients, tissues or platforms, wherever the spots lie.
    - ``level``, 0 to 1: whether normalised expression is on one scale, from the ratio of the totals of the spots and
      the unit of the logarithms, 0 where a logarithm is missing; or, where the spots have no common total, the median
      over genes of the ratio of mean expression, less a factor of 1.25. NaN for counts, which c2sti normalises.
    - ``shared_detail``, -1 to 1: correlation of what spots have beyond the mean of the six around them, at the same
      place in both sections. 0 on most tissue; above .05 where sections are so near that cells reach from one into the
      other, which `gp` does not use and the default does. It has no limit.

    Examples
    --------
    >>> import c2sti
    >>> first, second = c2sti.datasets.phantom(seed=0).series([0.0, 100.0])
    >>> found = c2sti.pp.check_pair(first, second)
    >>> bool(found["passes"].all())
    True
    >>> second.obsm["spatial"] = second.obsm["spatial"][::-1].copy()  # every spot in another's place
    >>> found = c2sti.pp.check_pair(first, second)
    >>> list(found.index[found["passes"].eq(False)])
    ['spatial_concordance']
    """
    sources = io.pair_sources(
        slice_a,
        slice_b,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        coordinate_system=coordinate_system,
    )[:2]
    # The H&E has no part in it.
    a, b = (replace(section, image=None) for section in io.on_shared_genes([source.read() for source in sources]))
    pair, _ = io.make_pair(a, b, judged=True)
    found = pd.Series(measure(pair.a, pair.b, pair.spacing, io.overlap(a, b), io.level(a, b)[0]))
    limit = pd.Series(LIMITS).reindex(found.index)
    beyond = found.index.isin(misfits(found))
    fits = pd.Series(~beyond, index=found.index, dtype="boolean").where(found.notna() & limit.notna())
    return pd.DataFrame({"value": found, "limit": limit, "passes": fits})
