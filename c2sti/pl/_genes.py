"""How well each gene was interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from c2sti import _validators
from c2sti.pl._axes import CAPTION_FONT, accent, ink, is_dark, one_panel
from c2sti.pl._evaluation import LABELS, NAIVE
from c2sti.pl._look import Frame, shares

# Limits of a gene's PCC that the table may have: how they are called and drawn.
LIMITS: dict[str, tuple[str, Any]] = {
    "ceiling": ("noise ceiling set by count noise", (0, (1, 1))),
    "half_observed": ("if given half of the section's own spots", "-"),
}
ROW, MARGINS = 0.17, 0.9  # inches, of a gene and of all that is not a gene


@shares(Frame)
def genes(
    table: pd.DataFrame,
    gene: str | Sequence[str] | None = None,
    *,
    metric: str = "pcc",
    n_genes: int = 20,
    **look: Unpack[Frame],
) -> Axes:
    """Score of each gene, beside those of all genes: which to believe.

    Parameters
    ----------
    table
        A row for each gene: names as its index or in a column ``"gene"``, scores in a column, such as the second table
        of :func:`c2sti.tl.evaluate` with ``return_genes=True``, or ``var`` of a result. Rows of the same gene are
        averaged; where there is a column ``"method"``, method by method.
    gene
        Names of one or several genes to draw, in that order; by default the best and the worst.
    metric
        Column with the scores.
    n_genes
        How many are drawn where none are named: half of them the best, half the worst.
    %(shared)s

    Returns
    -------
    The axes. A row is a gene, a point its score; naive methods are grey, and other methods come before them. The band
    is the middle half of all genes and the line their median, by the first of the methods, whose scores also set the
    order. For PCC a dotted bar is the gene's noise ceiling, and a solid one what the first method reaches if given half
    of the section's own spots, where the table has them.

    Raises
    ------
    KeyError
        The table has no such column or gene.
    ValueError
        The column holds no numbers.

    Examples
    --------
    >>> import c2sti, pandas as pd
    >>> table = pd.DataFrame({"pcc": [0.9, 0.4, 0.1]}, index=["ERBB2", "CD3D", "MKI67"])
    >>> ax = c2sti.pl.genes(table)
    >>> ax = c2sti.pl.genes(table, ["ERBB2", "MKI67"])
    """
    scores = _scores(table, metric)
    first = scores.iloc[:, 0].dropna()
    chosen = _chosen(scores, gene, _validators.whole(n_genes, "n_genes"), _validators.text(metric, "metric"))
    ax = one_panel(look, size=(5.6, MARGINS + ROW * len(chosen)))
    quarters = np.percentile(first, [25, 50, 75])
    band = ax.axvspan(quarters[0], quarters[2], color="0.3" if is_dark() else "0.9", linewidth=0, zorder=0)
    middle = ax.axvline(quarters[1], color=ink(), linestyle=":", linewidth=1.0, zorder=1)
    rows = np.arange(len(chosen))
    handles: list[Line2D | Patch | LineCollection] = _draw_methods(ax, scores.loc[chosen])
    limits = _limits(table, str(scores.columns[0]), metric)
    for name, (label, style) in LIMITS.items():
        if name in limits:
            ends = limits[name].reindex(chosen).to_numpy()
            handles.append(ax.vlines(ends, rows - 0.4, rows + 0.4, color=ink(), linestyle=style, lw=1.2, label=label))
    if gene is None and len(chosen) < len(scores):
        ax.axhline(len(chosen) // 2 - 0.5 + len(chosen) % 2, color=ink(), linewidth=0.8)
    drawn = np.concatenate([*scores.loc[chosen].to_numpy(), *limits.reindex(chosen).to_numpy(), quarters])
    low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
    edge = 0.05 * max(high - low, 1e-3)
    ax.set_xlim(min(0.0, low) - edge, high + edge)
    ax.set_ylim(len(chosen) - 0.4, -0.6)
    ax.set_yticks(rows, chosen, fontsize=CAPTION_FONT)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", alpha=0.3, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel(LABELS.get(metric, metric))
    for text, handle in ((f"middle half of {len(first):,} genes", band), ("their median", middle)):
        handle.set_label(text)
        handles.append(handle)
    ax.legend(handles=handles, fontsize=CAPTION_FONT, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _draw_methods(ax: Axes, scores: pd.DataFrame) -> list[Any]:
    """Points of (genes, methods), a row a gene; what a legend needs where there are several methods."""
    handles, greys, n_others = [], iter("xd^sv<>"), 0
    for place, method in enumerate(scores):
        colour, marker = ("0.55", next(greys)) if method in NAIVE else ("", "o")
        if not colour:
            colour, n_others = accent() if n_others == 0 else f"C{n_others - 1}", n_others + 1
        style: dict[str, Any] = {"color": colour, "markersize": 4.5, "zorder": 3 - 0.1 * place}
        (points,) = ax.plot(scores[method], np.arange(len(scores)), marker, label=str(method), **style)
        handles.append(points)
    return handles if len(handles) > 1 else []


def _limits(table: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """(genes, limits) what the PCC of each gene cannot pass, and what a method has that is given half of the spots."""
    own = table[table["method"] == method] if "method" in table else table
    names = [name for name in LIMITS if metric == "pcc" and name in own and own[name].notna().any()]
    return own[names].groupby(np.asarray(own["gene"] if "gene" in own else own.index).astype(str)).mean()


def _scores(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """(genes, methods) mean scores."""
    _validators.a(table, "table", pd.DataFrame, "a DataFrame with a score for each gene")
    if _validators.text(metric, "metric") not in table:
        raise KeyError(f"the table has no column {metric!r} (metric=); it has {[str(name) for name in table]}")
    if not pd.api.types.is_numeric_dtype(table[metric]) or not table[metric].notna().any():
        raise ValueError(f"column {metric!r} of the table (metric=) holds no numbers")
    names = table["gene"] if "gene" in table else table.index
    methods = table["method"] if "method" in table else np.repeat(metric, len(table))
    columns = {"gene": np.asarray(names).astype(str), "method": np.asarray(methods), "score": table[metric].to_numpy()}
    scores = pd.DataFrame(columns)
    scores = scores.pivot_table(index="gene", columns="method", values="score", observed=True, sort=False)
    return scores[sorted(scores, key=lambda name: name in NAIVE)]


def _chosen(scores: pd.DataFrame, gene: str | Sequence[str] | None, n: int, metric: str) -> list[str]:
    """Genes that are drawn, from top to bottom."""
    if gene is not None:
        return _validators.genes(gene, set(scores.index), "the table")
    order = scores.iloc[:, 0].dropna().sort_values(ascending=metric == "rmse", kind="stable").index.to_list()
    if len(order) <= n:
        return order
    return [*order[: n - n // 2], *order[len(order) - n // 2 :]]
