"""How well held-out sections were interpolated, and how the training of a network went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from c2sti import _validators
from c2sti._types import FloatArray
from c2sti.pl._axes import PAGE, accent, halo, ink, is_dark, one_panel
from c2sti.pl._look import Frame, shares

NAIVE = ("copy", "linear", "lowrank", "gp")  # what every table has beside the methods that were asked for
LABELS = {
    "pcc": "PCC (higher is better)",
    "rmse": "RMSE, log1p (lower is better)",
    "rv": "RV (higher is better)",
    "fraction": "PCC / noise ceiling (higher is better)",
    "share": "share of the PCC with half of the spots (higher is better)",
    "expected_pcc": "expected PCC (higher is better)",
}
LEAST_CASES = 3  # held-out sections that an interval needs; two would give one without meaning
CONFIDENCE = 0.95


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
    _validators.a(table, "table", pd.DataFrame, "the DataFrame that c2sti.tl.evaluate gave")
    needed = {_validators.text(metric, "metric"), "method", "section", "position"}
    if not needed <= set(table):
        missing = sorted(needed - set(table))
        raise KeyError(f"the table has no column {', '.join(map(repr, missing))}; it has {list(table.columns)}")
    if not pd.api.types.is_numeric_dtype(table[metric]) or not table[metric].notna().any():
        raise ValueError(f"column {metric!r} of the table (metric=) holds no numbers; c2sti.tl.evaluate writes some")
    scores = table.pivot_table(index=["section", "position"], columns="method", values=metric, sort=False)
    methods = sorted(scores, key=lambda name: name not in NAIVE)  # `share` is not of all
    scores = scores[methods]
    ax = one_panel(look, size=(min(0.95 * len(methods) + 1.2, PAGE), 3.6))
    handles: list[Any] = [_draw_cases(ax, scores), _draw_means(ax, scores)]
    if metric == "pcc" and "ceiling" in table and table["ceiling"].notna().any():
        ceiling, label = table.drop_duplicates("section")["ceiling"].mean(), "noise ceiling set by count noise"
        handles.append(ax.axhline(ceiling, color=ink(), linestyle=":", label=label))
    if metric == "pcc" and "half_observed" in table and table["half_observed"].notna().any():
        handles.append(_draw_half(ax, table.groupby("method")["half_observed"].mean().reindex(methods)))
    ax.set_xticks(range(len(methods)), methods)
    ax.set_xlim(-0.5, len(methods) - 0.4)
    low, high = ax.get_ylim()
    ax.set_ylim(min(0, low), high + 0.08 * (high - min(0, low)))  # from 0, or small differences look dramatic
    ax.set_ylabel(LABELS.get(metric, metric))
    ax.legend(handles=handles, fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=1)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _draw_cases(ax: Axes, scores: pd.DataFrame) -> Line2D:
    ax.plot(np.arange(scores.shape[1]), scores.to_numpy().T, color=_faint(), linewidth=0.8, zorder=1)
    for x, method in enumerate(scores):
        ax.plot(np.full(len(scores), x), scores[method], "o", color=_colour(scores, method), markersize=3, alpha=0.6)
    return Line2D([], [], color=_faint(), marker="o", markersize=3, markerfacecolor="0.5", label="a held-out section")


def _faint() -> str:
    return "0.35" if is_dark() else "0.8"


def _draw_means(ax: Axes, scores: pd.DataFrame) -> Line2D:
    half = _interval(scores.to_numpy())
    for x, method in enumerate(scores):
        colour, mean = _colour(scores, method), scores[method].mean()
        ax.plot(x + 0.18, mean, "D", color=colour, markersize=6, zorder=3)
        if half is not None:
            ax.errorbar(x + 0.18, mean, half[x], color=colour, capsize=3, linewidth=1.6, zorder=3)
        place, text = (x + 0.18, mean), f"{mean:.3f}"
        ax.annotate(text, place, (0, 9), textcoords="offset points", ha="center", fontsize=8, path_effects=halo())
    label = "mean" if half is None else "mean, with 95 % interval for comparing methods"
    return Line2D([], [], color=ink(), marker="D", linestyle="" if half is None else "-", markersize=6, label=label)


def _draw_half(ax: Axes, means: pd.Series) -> LineCollection:
    """(methods,) what each reaches that is given half of the section's own spots; NaN of those that take none."""
    places = np.flatnonzero(means.notna())
    label = "mean if given half of the section's own spots"
    return ax.hlines(means.iloc[places], places - 0.32, places + 0.32, color=ink(), linewidth=1.2, label=label)


def _colour(scores: pd.DataFrame, method: str) -> str:
    from scanpy.plotting import palettes  # noqa: PLC0415 - seconds that only a plot should cost

    if method in NAIVE:
        return "0.5"
    asked = [name for name in scores if name not in NAIVE]
    return [accent(), *palettes.default_20][asked.index(method) % 21]


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
    ax.plot(steps, _running_mean(loss), color=accent(), linewidth=1.8, label="training")
    validation = np.asarray(history.get("validation", ()), dtype=np.float64).reshape(-1, 2)
    if len(validation):
        ax.plot(*validation.T, "o-", color=ink(), markersize=4, linewidth=1.0, label="validation")
        best = validation[validation[:, 1].argmin()]
        ax.axvline(best[0], color=ink(), linestyle=":", linewidth=1.0)
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    return ax


def _running_mean(values: Sequence[float] | FloatArray, share: float = 0.05) -> FloatArray:
    """(n,) mean over the last steps, a twentieth of all."""
    width = max(int(share * len(values)), 1)
    total = np.cumsum(np.concatenate([[0.0], values]))
    first = np.maximum(np.arange(1, len(values) + 1) - width, 0)
    return (total[1:] - total[first]) / (np.arange(1, len(values) + 1) - first)
