"""From scores to tables in Markdown and their figure: means, intervals over cases, paired differences.

Scores (`rows`) are as :func:`c2sti.benchmark._scores.collect` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from c2sti._atomic import atomic_write
from c2sti._types import FloatArray
from c2sti.benchmark._networks import NAIVE, OURS, ROWS
from c2sti.benchmark._scores import DATA_RANGE
from c2sti.pl._look import INSERTED_COLOUR, MEASURED_COLOUR

SCORES = {"psnr": 1, "ssim": 1, "pcc": 1, "rmse": -1, "rv": 1}  # 1: higher is better, -1: lower
DIGITS = {"psnr": 2, "ssim": 3, "pcc": 4, "rmse": 4, "rv": 3}
FEWEST = 3  # cases that an interval needs
RESAMPLES = 10_000
LEVEL = 0.95
NAIVE_COLOUR = "0.55"
FAR = ("copy", "linear")  # so far behind on most tissue that an axis with them shows nothing of the others
MARGIN = 0.12  # of the axis beyond the outermost case
LABELS = {name: row.label for name, row in ROWS.items()}
SERIES = {"stahl": "Ståhl", "dlpfc": "cortex (DLPFC)", "starmap": "STARmap", "made": "simulated tissue"}
TITLES = {
    "1": "Table 1: one section held out",
    "2": "Table 2: several sections held out in a row",
    "ablation": "Ablations",
}
HEADER = [
    "method",
    "positions",
    *(f"{name.upper()} {'↑' if sign > 0 else '↓'}" for name, sign in SCORES.items()),
    "of noise ceiling",
    "PCC − reference",
    "ahead",
    "seeds",
    "seconds",
    "parameters",
]
NOTE = f"""\
Means over cases (a case is a run of held-out sections) of means over genes; the best of a column is bold. The \
reference is the training-free method with the best mean PCC; differences to it are paired by case, with a 95 % \
bootstrap interval over cases where there are three or more (those of the scores themselves are in the CSV). *Ahead*: \
cases in which PCC is higher than that of the reference. *Seeds*: standard deviation of the mean PCC between seeds of \
the training. *Of noise ceiling*: PCC over what the held-out section's own count noise allows. PSNR and SSIM: \
data_range = ln(1 + 10⁴) = {DATA_RANGE:.3f} for all genes. *Seconds*: of a processor, for one held-out section."""


def by_case(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a method and case: means over its held-out sections, then over networks of all folds and seeds."""
    keys = ["series", "n_slices", "method", "case"]
    values = [*SCORES, "ceiling", "fraction", "seconds"]
    networks = rows.groupby([*keys, "fold", "seed"], sort=False)[values].mean()
    return networks.groupby(keys, sort=False).mean().reset_index()


def between_seeds(rows: pd.DataFrame) -> pd.Series:
    """Standard deviation between seeds of the mean PCC, by series, n_slices and method; NaN for one seed."""
    keys = ["series", "n_slices", "method"]
    networks = rows.groupby([*keys, "seed", "fold", "case"], sort=False)["pcc"].mean()
    cases = networks.groupby([*keys, "seed", "case"], sort=False).mean()
    return cases.groupby([*keys, "seed"], sort=False).mean().groupby(keys, sort=False).std(ddof=1)


def interval(values: FloatArray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (n,) values, drawn with one fixed seed; NaN for fewer than three."""
    if len(values) < FEWEST:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    tails = (1 - LEVEL) / 2
    low, high = np.quantile(np.asarray(values)[drawn].mean(axis=1), [tails, 1 - tails])
    return float(low), float(high)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a series, number of held-out sections and method.

    Columns: ``n_cases``; of every score its mean, ``_low`` and ``_high``; ``ceiling``, ``fraction``, ``seconds``;
    ``seeds``, the deviation between seeds; ``reference``, the training-free method with the best mean PCC; ``gain``,
    ``gain_low``, ``gain_high``: PCC less that of the reference, paired by case; ``ahead``: cases in which it is higher.
    """
    cases, seeds = by_case(rows), between_seeds(rows)
    found = []
    for (series, n_slices), group in cases.groupby(["series", "n_slices"], sort=False):
        pcc = group.pivot(index="case", columns="method", values="pcc")
        reference = reference_of(pcc)
        for method, own in group.groupby("method", sort=False):
            row = {"series": series, "n_slices": n_slices, "method": method, "n_cases": len(own)}
            for name in SCORES:
                low, high = interval(own[name].to_numpy())
                row |= {name: own[name].mean(), f"{name}_low": low, f"{name}_high": high}
            row |= {name: own[name].mean() for name in ("ceiling", "fraction", "seconds")}
            row |= {"seeds": seeds[series, n_slices, method], "reference": reference}
            row |= dict.fromkeys(("gain", "gain_low", "gain_high", "ahead"), np.nan)
            if reference not in ("", method):
                gain = (pcc[method] - pcc[reference]).to_numpy()
                low, high = interval(gain)
                row |= {"gain": gain.mean(), "gain_low": low, "gain_high": high, "ahead": int((gain > 0).sum())}
            found.append(row)
    return pd.DataFrame(found)


def reference_of(pcc: pd.DataFrame) -> str:
    """The training-free method with the best mean, of (cases, methods); empty where there is none."""
    naive = [method for method in NAIVE if method in pcc]
    return str(pcc[naive].mean().idxmax()) if naive else ""


def best(summary: pd.DataFrame, score: str) -> str:
    """The method with the best mean of a score, in the rows of one series and number of held-out sections."""
    means = summary.set_index("method")[score] * SCORES[score]
    return str(means.idxmax()) if means.notna().any() else ""


def verdicts(summary: pd.DataFrame) -> list[str]:
    """What the rows of one series and number of held-out sections say, in sentences."""
    wins: dict[str, list[str]] = {}
    for score in SCORES:
        wins.setdefault(best(summary, score), []).append(score.upper())
    said = [
        f"**{LABELS[method]}**, which needs no training, has the best {' and '.join(scores)} of all."
        for method, scores in wins.items()
        if method in NAIVE
    ]
    leader = best(summary, "pcc")
    row = summary.set_index("method").loc[leader]
    if leader in NAIVE or not row["reference"]:
        return said
    lead = f"{LABELS[leader]} leads {row['reference']}, the best without training, by {row['gain']:+.4f} in PCC"
    if np.isnan(row["gain_low"]):
        lead += f"; {row['n_cases']} held out are too few for an interval."
    elif row["gain_low"] <= 0:
        lead += ", but the interval of the difference includes 0: no lead is shown."
    else:
        lead += f", and is ahead in {row['ahead']:.0f} of {row['n_cases']}."
    return [lead, *said]


def markdown(
    table: str, summary: pd.DataFrame, *, parameters: Mapping[str, int], methods: Sequence[str], about: str
) -> str:
    """A page: a table for each series and number of held-out sections, and what it says in words."""
    parts = [f"## {TITLES[table]}", about, NOTE]
    for (series, n_slices), group in summary.groupby(["series", "n_slices"], sort=False):
        rows = group.set_index("method", drop=False).loc[[m for m in methods if m in set(group["method"])]]
        first = rows.iloc[0]
        parts += [
            f"### {title(str(series), int(n_slices))}",
            f"{first['n_cases']} case{'s' if first['n_cases'] > 1 else ''}, noise ceiling "
            f"{short(first['ceiling'], 3)}, reference: {LABELS.get(first['reference'], 'none')}.",
            _grid(rows, parameters),
            "\n".join(f"- {said}" for said in verdicts(rows)),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(series: str, n_slices: int) -> str:
    """Of what is said of one series and number of held-out sections."""
    held_out = "one section held out" if n_slices == 1 else f"{n_slices} sections held out in a row"
    return f"{SERIES.get(series, series)}, {held_out}"


def _grid(rows: pd.DataFrame, parameters: Mapping[str, int]) -> str:
    first = {score: best(rows, score) for score in SCORES}
    lines = [HEADER, ["---"] * len(HEADER)]
    for name, row in rows.iterrows():
        means = {score: short(row[score], DIGITS[score]) for score in SCORES}
        gain = "" if np.isnan(row["gain"]) else f"{row['gain']:+.4f}"
        if not np.isnan(row["gain_low"]):
            gain += f" ({row['gain_low']:+.4f} to {row['gain_high']:+.4f})"
        learnt = parameters.get(str(name), 0)
        lines.append(
            [
                LABELS[str(name)],
                "arbitrary" if ROWS[str(name)].arbitrary else "pre-defined",
                *(f"**{mean}**" if first[score] == name else mean for score, mean in means.items()),
                short(row["fraction"], 3),
                gain,
                "" if np.isnan(row["ahead"]) else f"{row['ahead']:.0f} of {row['n_cases']}",
                short(row["seeds"], 4),
                f"{row['seconds']:.1f}",
                f"{learnt:,}" if learnt else "none",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def short(value: float, digits: int) -> str:
    """A number without the zero before its point; empty for NaN."""
    if np.isnan(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def draw(rows: pd.DataFrame, methods: Sequence[str], path: Path) -> None:
    """Draw PCC less that of the reference: a panel for each series (down) and number of held-out sections (across)."""
    cases = by_case(rows)
    series, numbers = (list(dict.fromkeys(cases[key])) for key in ("series", "n_slices"))
    # Side by side where one number only is held out, else series by series.
    lines, columns = (1, len(series)) if len(numbers) == 1 else (len(series), len(numbers))
    size = (0.6 + 4.2 * columns, 0.8 + lines * (0.8 + 0.23 * len(methods)))
    figure = Figure(figsize=size, layout="constrained")
    axs = figure.subplots(lines, columns, squeeze=False)
    for (name, n_slices), ax in zip(product(series, numbers), axs.flat, strict=True):
        group = cases[(cases["series"] == name) & (cases["n_slices"] == n_slices)]
        if group.empty:  # too short a series
            ax.remove()
            continue
        pcc = group.pivot(index="case", columns="method", values="pcc")
        _panel(ax, pcc[[m for m in methods if m in pcc]], title(str(name), int(n_slices)))
    key = [
        Line2D([], [], color="0.4", marker="o", markersize=2.5, linestyle="", alpha=0.6, label="a case"),
        Line2D([], [], color="0.4", marker="D", markersize=5, linewidth=1.8, label="mean, 95 % interval over cases"),
        Line2D([], [], color="0.4", marker="<", markersize=6, linestyle="", label="mean off the axis"),
        Line2D([], [], linestyle="", label="beside the names: mean PCC"),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=4 if columns > 1 else 2, fontsize=8, frameon=False)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150)


def _panel(ax: Axes, pcc: pd.DataFrame, name: str) -> None:
    """One panel of (cases, methods)."""
    reference = reference_of(pcc)
    gains = pcc.sub(pcc[reference], axis=0) if reference else pcc
    near = gains[[m for m in gains if m not in FAR]] if set(gains) - {*FAR, reference} else gains
    low, high = min(0.0, float(near.min().min())), max(0.0, float(near.max().max()))
    space = MARGIN * (high - low) or 0.01
    low, high = low - space, high + space
    edge = low + 0.02 * (high - low)
    ax.axvline(0, color=NAIVE_COLOUR, linewidth=0.8, zorder=0)
    for y, method in enumerate(pcc):
        values, shade = gains[method].to_numpy(), colour(str(method))
        if values.mean() < edge:  # off the axis: an arrow says on which side
            ax.plot(edge, y, "<", color=shade, markersize=6)
            continue
        if method != reference:
            # Cases below the interval, not on it: a dot on a line of its own colour is not seen.
            ax.plot(interval(values), [y, y], color=shade, linewidth=1.8, solid_capstyle="butt")
            ax.plot(values, np.full(len(values), y + 0.28), "o", color=shade, markersize=2.5, alpha=0.6)
        ax.plot(values.mean(), y, "D", color=shade, markersize=5)
    ax.set_xlim(low, high)
    ax.set_yticks(range(len(pcc.columns)), [f"{LABELS[str(m)]}  {short(pcc[m].mean(), 4)}" for m in pcc], fontsize=8)
    ax.set_ylim(len(pcc.columns) - 0.4, -0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_xlabel(f"PCC − PCC of {reference}" if reference else "PCC", fontsize=8)
    ax.set_title(f"{name} ({len(pcc)})".replace(", ", "\n"), fontsize=9, loc="left")


def colour(method: str) -> str:
    """Of a method: grey where nothing is trained, red for C2-STi whole or in parts, else dark."""
    if method in NAIVE:
        return NAIVE_COLOUR
    return INSERTED_COLOUR if method == "bundled" or ROWS[method].model == OURS else MEASURED_COLOUR
