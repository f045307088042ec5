"""What sections have in common: genes, the scale of their expression, and spots, where a section is given twice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from c2sti import _logging, _validators
from c2sti._backed import Expression, per_row, some_genes
from c2sti.io._read import SliceGrid
from c2sti.pair_check import LEAST_GENES, sampled, seen_genes
from c2sti.thinning import row_hashes

FEW_GENES = 0.5  # of the smaller panel: sections that share fewer were named in different ways, or cut to other genes
FEW_COUNTS = 0.25  # of a section's counts: with fewer in the shared genes, values are shares of a small panel
SHOWN = 3  # names of genes in a message
LEAST_TELLING = 20  # genes that a spot expresses, below which two may be equal by chance
LOGARITHMS = {
    math.e: "natural logarithm",
    2.0: "logarithm to base 2",
    10.0: "logarithm to base 10",
    1.0: "no logarithm",
}
MOST_LOG = 20.0  # logarithm of a million to base 2: larger values are not logarithms
MOST_SHARE = 100.0  # total of shares in per cent, which need no logarithm
CONSTANT = 0.01  # of the total of a spot: totals that vary by less were normalised
DISTINCT = 4.0  # times as constant as by any other logarithm, totals tell the logarithm
ALIKE = 1.25  # factor by which genes of neighbours differ (median): 1.15 at most on real ones, 1.34 among 100 genes
# What names of one kind often differ by: versions of Ensembl ids, and capitals.
SPELLINGS: dict[str, Callable[[pd.Index], pd.Index]] = {
    '.str.split(".").str[0]': lambda names: names.str.split(".").str[0],
    ".str.upper()": lambda names: names.str.upper(),
}

Scale = tuple[float, float, float]  # base of the logarithm (1: none), total of a spot, largest value; NaN: not known


# ---- genes


def shared_genes(
    grids: Sequence[SliceGrid], genes: Sequence[str] | pd.Index | None = None, *, stacklevel: int = 2
) -> pd.Index:
    """Names of the genes that all sections have, in the order of the first; or those asked for, in their order.

    ValueError where there is none in common, KeyError where one that was asked for is missing. A warning, whose
    `stacklevel` counts from here, says where fewer than half of the smaller panel are shared.
    """
    common = _common(grids)
    if genes is not None:
        return pd.Index(_validators.genes(genes, common, "all sections"))
    if _are_few(grids, common):
        found = f"only {len(common)} genes are in all sections ({_panels(grids)})"
        warnings.warn(f"{found}: {_names_that_differ(grids)}", UserWarning, stacklevel=stacklevel)
    elif len(common) < max(len(g.genes) for g in grids):
        _logging.info(f"{len(common)} genes are in all sections ({_panels(grids)})")
    return common


def on_shared_genes(grids: Sequence[SliceGrid], *, stacklevel: int = 3) -> list[SliceGrid]:
    """The sections with the genes that all of them have, in the order of the first; library sizes count these alone.

    A section that has no others is returned as it is. Normalised expression keeps its values. Errors and warnings are
    those of :func:`shared_genes`; a warning also says where a section has few of its counts in the shared genes. By
    default warnings point to the line that calls the caller.
    """
    genes = shared_genes(grids, stacklevel=stacklevel + 1)
    cut = [_with_genes(grid, genes) for grid in grids]
    thin = [
        f"{after.library.sum() / before.library.sum():.1%} of those of {before.name}"
        for before, after in zip(grids, cut, strict=True)
        if before.counts and after.library.sum() < FEW_COUNTS * before.library.sum()
    ]
    if thin and not _are_few(grids, genes):
        warnings.warn(
            f"counts are normalised by the {len(genes)} genes that all sections share ({_panels(grids)}), which hold "
            f"only {', '.join(thin)}. That is right where panels differ; a section that was cut to some genes is "
            "better given whole",
            UserWarning,
            stacklevel=stacklevel,
        )
    without = [grid.name for grid in cut if grid.beside is None]
    if not any(grid.counts for grid in cut) and 0 < len(without) < len(cut):
        _logging.warning(
            f"counts of {', '.join(without)} are not known, so those of the other sections are not used: models read "
            "log expression alone. Keep the counts of all in one layer, such as layers['counts']"
        )
    return cut


def values_of(grid: SliceGrid, genes: pd.Index) -> Expression:
    """(n, N) values of some genes of a section."""
    return grid.values if genes.equals(grid.genes) else some_genes(grid.values, grid.genes.get_indexer(genes))


def _values_of_both(a: SliceGrid, b: SliceGrid) -> tuple[Expression, Expression]:
    """(n, N) values of two sections for the genes that they share."""
    genes = _common([a, b])
    return values_of(a, genes), values_of(b, genes)


def _common(grids: Sequence[SliceGrid]) -> pd.Index:
    common = grids[0].genes
    for grid in grids[1:]:
        common = common[common.isin(grid.genes)]
    if len(common) == 0:
        raise ValueError(f"the sections have no gene in common: {_names_that_differ(grids)}")
    return common


def _with_genes(grid: SliceGrid, genes: pd.Index) -> SliceGrid:
    if genes.equals(grid.genes):
        return grid
    index = grid.genes.get_indexer(genes)
    values = some_genes(grid.values, index)
    var = grid.var.iloc[index] if len(grid.var) else grid.var
    beside = None if grid.beside is None else some_genes(grid.beside, index)
    cut = replace(grid, values=values, genes=genes, var=var, beside=beside, uncut=grid.uncut or grid)
    if len(genes) == len(grid.genes):
        return cut
    sums = per_row(values, lambda x: np.asarray(x.sum(axis=1, dtype=np.float64)).ravel())
    if not sums.any():
        raise ValueError(
            f"{grid.name} has no expression in the {len(genes)} genes that all sections share "
            f"({', '.join(genes[:SHOWN])}, …); give sections that were measured with the same genes"
        )
    return replace(cut, library=sums) if grid.counts else cut


def _are_few(grids: Sequence[SliceGrid], common: pd.Index) -> bool:
    return len(common) < FEW_GENES * min(len(g.genes) for g in grids)


def _panels(grids: Sequence[SliceGrid]) -> str:
    return ", ".join(f"{g.name}: {len(g.genes)}" for g in grids)


def _names_that_differ(grids: Sequence[SliceGrid]) -> str:
    """Genes of the two sections that share the fewest, and the fix: as code, where other names make them alike."""
    a, b = min(combinations(grids, 2), key=lambda pair: int(pair[0].genes.isin(pair[1].genes).sum()))
    parts = []
    for g, other in ((a, b), (b, a)):
        alone = g.genes[~g.genes.isin(other.genes)]
        if len(alone):
            parts.append(f"only {g.name} has {', '.join(alone[:SHOWN])}{', …' if len(alone) > SHOWN else ''}")
    enough = max(int(a.genes.isin(b.genes).sum()) + 1, FEW_GENES * min(len(a.genes), len(b.genes)))
    n, code = max(_renamings(a, b), default=(0, ""))
    fix = "give both the same kind of names in var_names"
    return "; ".join([*parts, f"{fix}: {code}" if n >= enough else fix])


def _renamings(a: SliceGrid, b: SliceGrid) -> Iterator[tuple[int, str]]:
    """How many genes two sections would share by other names, and the code that gives them these."""
    for one, other in ((a, b), (b, a)):
        for column, held in one.var.select_dtypes(exclude=["number", "bool"]).items():
            names = pd.Index(held.astype(str))
            text = ".astype(str)" if isinstance(held.dtype, pd.CategoricalDtype) else ""
            unique = "" if names.is_unique else f"; {one.name}.var_names_make_unique()"
            code = f'{one.name}.var_names = {one.name}.var["{column}"]{text}{unique}'
            yield int(other.genes.isin(names).sum()), code
    for spelling, spelt in SPELLINGS.items():
        changed = [g.name for g in (a, b) if not spelt(g.genes).equals(g.genes)]
        code = "; ".join(f"{name}.var_names = {name}.var_names{spelling}" for name in changed)
        yield int(spelt(a.genes).isin(spelt(b.genes)).sum()), code


# ---- spots


def shared_profiles(a: SliceGrid, b: SliceGrid) -> int:
    """How many spots of the one section are found in the other with the very same expression.

    Two sections that were measured apart share none: the counts of a spot are as good as a fingerprint. Near-empty
    spots, which agree by chance, are left out, and a spot that a section holds twice counts once. They are known by a
    hash of their genes and values.
    """
    one, other = (per_row(values, _hashes) for values in _values_of_both(a, b))
    return int(np.count_nonzero(np.intersect1d(one, other)))


def _hashes(values: sp.csr_array) -> NDArray[np.uint64]:
    """(n,) hashes of the rows; 0 for a row of too few genes to tell."""
    return np.where(np.diff(values.indptr) >= LEAST_TELLING, row_hashes(values), np.uint64(0))


# ---- scale of expression


def level(a: SliceGrid, b: SliceGrid) -> tuple[float, str]:
    """Ratio of the scales of two sections, in [0, 1], and the scales in words.

    Where the values tell both scales: the ratio of the totals, times that of the logarithms' units. 0 where one has a
    logarithm and the other has none, or neither has. Else the median over genes of the ratio of mean expression, as if
    the logarithm were natural; as neighbours differ, too, a factor of `ALIKE` is taken off. NaN for counts, which are
    normalised by c2sti, and where too few genes are found in both.
    """
    if a.counts or b.counts:
        return float("nan"), "counts"
    first, second = (sampled(values) for values in _values_of_both(a, b))
    scales = _scale_of(first), _scale_of(second)
    words = f"{a.name}: {_in_words(scales[0])}; {b.name}: {_in_words(scales[1])}"
    (base, total, _), (other_base, other_total, _) = scales
    mixed = 1.0 in (base, other_base) and {base, other_base} & {math.e, 2.0, 10.0}
    if mixed or any(_lacks_logarithm(scale) for scale in scales):
        return 0.0, words
    if np.isfinite([base, other_base]).all():
        units = 1.0 if base == other_base else _ratio(np.log(base), np.log(other_base))
        return units * _ratio(total, other_total), words
    both = seen_genes(first) & seen_genes(second)
    if both.sum() < LEAST_GENES:
        factor = float("nan")
    else:
        means = [np.asarray(x[:, both].astype(np.float64).expm1().mean(axis=0)).ravel() for x in (first, second)]
        factor = float(np.median(means[1] / means[0]))
    words = f"over {both.sum()} genes, expression of {b.name} is {factor:.3g} times that of {a.name} (median)"
    return float(np.minimum(ALIKE * _ratio(factor, 1.0), 1.0)), words


def _scale_of(expression: sp.csr_array) -> Scale:
    """The scale of some spots: (n, N) normalised expression."""
    most = float(expression.data.max(initial=0))
    totals = {base: _total(expression, base) for base in LOGARITHMS if base == 1 or most <= MOST_LOG}
    (varies, base), *others = sorted((varies, base) for base, (_, varies) in totals.items())
    if varies > CONSTANT or (others and others[0][0] <= DISTINCT * varies):
        return float("nan"), float("nan"), most
    return base, totals[base][0], most


def _total(expression: sp.csr_array, base: float) -> tuple[float, float]:
    """Median total of the spots that have any, and by how much of it nine of ten differ."""
    values = expression.astype(np.float64)
    totals = (values if base == 1 else (values * np.log(base)).expm1()).sum(axis=1)
    if not (totals > 0).any():
        return float("nan"), float("inf")
    low, middle, high = np.quantile(totals[totals > 0], [0.05, 0.5, 0.95])
    return float(middle), float((high - low) / middle)


def _lacks_logarithm(scale: Scale) -> bool:
    """Whether there is no logarithm where one is expected: shares and percentages may come without."""
    base, total, most = scale
    return most > MOST_LOG or (base == 1 and total > (1 + CONSTANT) * MOST_SHARE)


def _in_words(scale: Scale) -> str:
    base, total, most = scale
    if np.isnan(base):
        return f"values up to {most:.4g}, no logarithm" if _lacks_logarithm(scale) else "totals of spots differ"
    return f"normalised to {total:{',.0f' if total >= MOST_SHARE else '.4g'}} a spot, {LOGARITHMS[base]}"


def _ratio(one: float, other: float) -> float:
    """The smaller of two numbers over the larger."""
    return float(np.minimum(one, other) / np.maximum(one, other))
