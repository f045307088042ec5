"""How well held-out sections were interpolated, and each of their genes; and how the training of a network went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from c2sti import _validators
from c2sti._types import FloatArray
from c2sti.pl._look import CAPTION_FONT, PAGE, Frame, accent, halo, ink, is_dark, one_panel, shares

NAIVE = ("copy", "linear", "lowrank", "gp")  # what every table has beside the methods that were asked for
LABELS = {
    "pcc": "PCC (higher is better)",
    "rmse": "RMSE, log1p (lower is better)",
    "rv": "RV (higher is better)",
    "fraction": "PCC / noise ceiling (higher is better)",
    "share": "share of the PCC with half of the spots (higher is better)",
    "expected_pcc": "expected PCC (higher is better)",
}
# Limits of a PCC that a table may have: how they are called and drawn.
CEILING, HALF = "ceiling", "half_observed"
LIMITS: dict[str, tuple[str, Any]] = {
    CEILING: ("noise ceiling set by count noise", (0, (1, 1))),
    HALF: ("if given half of the section's own spots", "-"),
}
LEAST_CASES = 3  # held-out sections that an interval needs; two would give one without meaning
CONFIDENCE = 0.95
ROW, MARGINS = 0.17, 0.9  # inches, of a gene and of all that is not a gene


@shares(Frame)
def evaluation(table: pd.DataFrame, *, metric: str = "pcc", **look: Unpack[Frame]) -> Axes:
    """Every method on every held-out section, their mean with its interval, and the noise ceiling.

    A line is one held-out section under all methods. The naive methods that :func:`c2sti.tl.evaluate` always adds are
    on the left in grey, the others in colour. For PCC a dotted line is the noise ceiling, which count noise sets, and a
    solid one under a method what it reaches if given half of the section's own spots (``half_observed=True``).

    Parameters
    ----------
    table
        Result of :func:`c2sti.tl.evaluate`.
    metric
        ``"pcc"``, ``"rmse"``, ``"rv"``, ``"fraction"`` or ``"share"``. Use more than one: smoothing raises PCC, lowers
        RMSE and can lower RV.
    %(shared)s

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The table has no such column.

    Notes
    -----
    Intervals are for comparing methods: 95 % by Student's t, after the level of each section has been taken out, since
    sections differ more from each other than methods do (Cousineau–Morey). They are drawn for three held-out sections
    or more. Sections of one block resemble each other: the interval does not extend to other blocks.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 200.0, 400.0])
    >>> ax = c2sti.pl.evaluation(c2sti.tl.evaluate(series, show_progress_bar=False))
    """
    _check_table(table, metric, "method", "section", "position")
    scores = table.pivot_table(index=["section", "position"], columns="method", values=metric, sort=False)
    methods = sorted(scores, key=lambda name: name not in NAIVE)  # `share` is not of all
    scores = scores[methods]
    ax = one_panel(look, size=(min(0.95 * len(methods) + 1.2, PAGE), 3.6))
    handles = _draw_scores(ax, scores)
    limits = [name for name in LIMITS if metric == "pcc" and name in table and table[name].notna().any()]
    if CEILING in limits:
        ceiling = table.drop_duplicates("section")[CEILING].mean()
        handles.append(ax.axhline(ceiling, color=ink(), linestyle=":", label=LIMITS[CEILING][0]))
    if HALF in limits:
        means = table.groupby("method")[HALF].mean().reindex(methods)  # NaN of methods that take no spots
        at = np.flatnonzero(means.notna())
        bars = ax.hlines(means.iloc[at], at - 0.32, at + 0.32, color=ink(), lw=1.2, label=f"mean {LIMITS[HALF][0]}")
        handles.append(bars)
    ax.set_xticks(range(len(methods)), methods)
    ax.set_xlim(-0.5, len(methods) - 0.4)
    low, high = ax.get_ylim()
    ax.set_ylim(min(0, low), high + 0.08 * (high - min(0, low)))  # from 0, or small differences look dramatic
    ax.set_ylabel(LABELS.get(metric, metric))
    ax.legend(handles=handles, fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=1)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _check_table(table: pd.DataFrame, metric: str, *others: str) -> None:
    """Refuse what is no table, or lacks a column, or whose metric holds no numbers."""
    _validators.a(table, "table", pd.DataFrame, "a DataFrame of c2sti.tl.evaluate")
    called = {_validators.text(metric, "metric"): f"{metric!r} (metric=)"} | {name: repr(name) for name in others}
    missing = [called[name] for name in called if name not in table]
    if missing:
        raise KeyError(f"the table has no column {', '.join(missing)}; it has {[str(name) for name in table]}")
    if not pd.api.types.is_numeric_dtype(table[metric]) or not table[metric].notna().any():
        raise ValueError(f"column {metric!r} of the table (metric=) holds no numbers")


def _draw_scores(ax: Axes, scores: pd.DataFrame) -> list[Any]:
    """Lines of (cases, methods), and the mean of each method with its interval; what a legend needs."""
    from scanpy.plotting import palettes  # noqa: PLC0415 - seconds that only a plot should cost

    faint, half = "0.35" if is_dark() else "0.8", _interval(scores.to_numpy())
    others = iter([accent(), *palettes.default_20] * len(scores.columns))
    ax.plot(np.arange(scores.shape[1]), scores.to_numpy().T, color=faint, linewidth=0.8, zorder=1)
    for x, method in enumerate(scores):
        colour, mean = "0.5" if method in NAIVE else next(others), scores[method].mean()
        ax.plot(np.full(len(scores), x), scores[method], "o", color=colour, markersize=3, alpha=0.6)
        ax.plot(x + 0.18, mean, "D", color=colour, markersize=6, zorder=3)
        if half is not None:
            ax.errorbar(x + 0.18, mean, half[x], color=colour, capsize=3, linewidth=1.6, zorder=3)
        place, text = (x + 0.18, mean), f"{mean:.3f}"
        ax.annotate(text, place, (0, 9), textcoords="offset points", ha="center", fontsize=8, path_effects=halo())
    mean_of: dict[str, Any] = {"label": "mean", "linestyle": ""}
    if half is not None:
        mean_of = {"label": "mean, with 95 % interval for comparing methods", "linestyle": "-"}
    return [
        Line2D([], [], color=faint, marker="o", markersize=3, markerfacecolor="0.5", label="a held-out section"),
        Line2D([], [], color=ink(), marker="D", markersize=6, **mean_of),
    ]


def _interval(scores: FloatArray) -> FloatArray | None:
    """Half the width of the interval of each column's mean, (cases, methods) → (methods,); None for too few cases."""
    from scipy import stats  # noqa: PLC0415 - half a second that only this plot should cost

    n_cases, n_methods = scores.shape
    if n_cases < LEAST_CASES or n_methods < 2:
        return None
    centred = scores - scores.mean(axis=1, keepdims=True)
    sd = centred.std(axis=0, ddof=1) * np.sqrt(n_methods / (n_methods - 1))  # Morey's correction
    return stats.t.ppf((1 + CONFIDENCE) / 2, n_cases - 1) * sd / np.sqrt(n_cases)


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
    _check_table(table, metric)
    names = pd.Index(table["gene"] if "gene" in table else table.index).astype(str)
    methods = table["method"].to_numpy() if "method" in table else np.repeat(metric, len(table))
    scores = pd.DataFrame({"gene": names, "method": methods, "score": table[metric].to_numpy()})
    scores = scores.pivot_table(index="gene", columns="method", values="score", observed=True, sort=False)
    scores = scores[sorted(scores, key=lambda name: name in NAIVE)]
    first, n_genes = scores.iloc[:, 0].dropna(), _validators.whole(n_genes, "n_genes")
    if gene is None:
        half, odd = divmod(n_genes, 2)
        order = first.sort_values(ascending=metric == "rmse", kind="stable").index.to_list()
        chosen = order if len(order) <= n_genes else [*order[: half + odd], *order[len(order) - half :]]
    else:
        chosen = _validators.genes(gene, set(scores.index), "the table")
    ax = one_panel(look, size=(5.6, MARGINS + ROW * len(chosen)))
    quarters = np.percentile(first, [25, 50, 75])
    shade = "0.3" if is_dark() else "0.9"
    all_genes = f"middle half of {len(first):,} genes"
    band = ax.axvspan(quarters[0], quarters[2], color=shade, linewidth=0, zorder=0, label=all_genes)
    middle = ax.axvline(quarters[1], color=ink(), linestyle=":", linewidth=1.0, zorder=1, label="their median")
    handles = _draw_methods(ax, scores.loc[chosen])
    own = table["method"].eq(scores.columns[0]).to_numpy() if "method" in table else np.full(len(table), True)
    drawn, rows = [*scores.loc[chosen].to_numpy(), quarters], np.arange(len(chosen))
    for limit, (label, style) in LIMITS.items():
        if metric == "pcc" and limit in table and table.loc[own, limit].notna().any():
            at = table.loc[own, limit].groupby(names[own]).mean().reindex(chosen).to_numpy()
            handles.append(ax.vlines(at, rows - 0.4, rows + 0.4, color=ink(), linestyle=style, lw=1.2, label=label))
            drawn.append(at)
    if gene is None and len(chosen) < len(scores):
        ax.axhline(len(chosen) // 2 - 0.5 + len(chosen) % 2, color=ink(), linewidth=0.8)
    low, high = float(np.nanmin(np.concatenate(drawn))), float(np.nanmax(np.concatenate(drawn)))
    edge = 0.05 * max(high - low, 1e-3)
    ax.set_xlim(min(0.0, low) - edge, high + edge)
    ax.set_ylim(len(chosen) - 0.4, -0.6)
    ax.set_yticks(rows, chosen, fontsize=CAPTION_FONT)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", alpha=0.3, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.set_xlabel(LABELS.get(metric, metric))
    handles += [band, middle]
    ax.legend(handles=handles, fontsize=CAPTION_FONT, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def _draw_methods(ax: Axes, scores: pd.DataFrame) -> list[Any]:
    """Points of (genes, methods), a row a gene; what a legend needs where there are several methods."""
    handles: list[Any] = []
    markers, colours = iter("xd^sv<>"), iter([accent(), *(f"C{i}" for i in range(len(scores.columns)))])
    for place, method in enumerate(scores):
        colour, marker = ("0.55", next(markers)) if method in NAIVE else (next(colours), "o")
        style: dict[str, Any] = {"color": colour, "markersize": 4.5, "zorder": 3 - 0.1 * place}
        handles += ax.plot(scores[method], np.arange(len(scores)), marker, label=str(method), **style)
    return handles if len(handles) > 1 else []


@shares(Frame)
def training_history(model: Any, **look: Unpack[Frame]) -> Axes:
    """Loss of a training, step by step, and on the sections that it was validated on.

    Parameters
    ----------
    model
        A trained model, such as a :class:`c2sti.C2STi`, whose ``card["history"]`` is drawn; or that history itself.
    %(shared)s

    Returns
    -------
    The axes. The thin line is the loss of each step, the thick one its running mean; points are validations, and the
    vertical line is where the loss on them was lowest: the weights are those of that step.

    Raises
    ------
    ValueError
        The model has no history: it was not trained, or by a version that kept none.

    Examples
    --------
    >>> import c2sti
    >>> ax = c2sti.pl.training_history({"loss": [1.0, 0.6, 0.5, 0.4], "validation": [[2, 0.7], [4, 0.8]]})
    """
    history = model if isinstance(model, dict) else getattr(model, "card", {}).get("history", {})
    loss = np.asarray(history.get("loss", ()), dtype=np.float64)
    if len(loss) == 0:
        raise ValueError(
            "the model has no training history; c2sti.training.train and c2sti.tl.train write it into its card"
        )
    ax = one_panel(look, size=(5.2, 3.2))
    steps = np.arange(1, len(loss) + 1)
    ax.plot(steps, loss, color=accent(), linewidth=0.6, alpha=0.5)
    running = pd.Series(loss).rolling(max(len(loss) // 20, 1), min_periods=1).mean()
    ax.plot(steps, running, color=accent(), linewidth=1.8, label="training")
    validation = np.asarray(history.get("validation", ()), dtype=np.float64).reshape(-1, 2)
    if len(validation):
        ax.plot(*validation.T, "o-", color=ink(), markersize=4, linewidth=1.0, label="validation")
        best = validation[validation[:, 1].argmin()]
        ax.axvline(best[0], color=ink(), linestyle=":", linewidth=1.0)
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    return ax
