"""The tables as Markdown, for pages and terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from c2sti.benchmark._methods import ROWS
from c2sti.benchmark._scores import DATA_RANGE
from c2sti.benchmark._summary import SCORES, best, verdicts

LABELS = {name: row.label for name, row in ROWS.items()}
TITLES = {
    "1": "Table 1: one section hidden",
    "2": "Table 2: several sections hidden in a row",
    "ablation": "Ablations",
}
DIGITS = {"psnr": 2, "ssim": 3, "pcc": 4, "rmse": 4, "rv": 3}
HEADER = [
    "method",
    "positions",
    *(f"{name.upper()} {'↑' if sign > 0 else '↓'}" for name, sign in SCORES.items()),
    "of ceiling",
    "PCC − reference",
    "ahead",
    "seeds",
    "seconds",
    "parameters",
]
NOTE = """\
Means over cases (a case is a run of hidden sections) of means over genes; the best of a column is bold. The \
reference is the training-free method with the best mean PCC; differences to it are paired by case, with a 95 % \
bootstrap interval over cases where there are three or more (those of the scores themselves are in the CSV). *Ahead*: \
cases in which PCC is higher than that of the reference. *Seeds*: standard deviation of the mean PCC between seeds of \
the training. *Of ceiling*: PCC over what the hidden section's own count noise allows. PSNR and SSIM: \
data_range = ln(1 + 10⁴) = {data_range:.3f} for all genes. *Seconds*: of a processor, for one hidden \
section."""
SERIES = {"stahl": "Ståhl", "made": "made tissue"}


def markdown(
    table: str, summary: pd.DataFrame, *, parameters: Mapping[str, int], methods: Sequence[str], about: str
) -> str:
    """A page: a table for each series and number of hidden sections, and what it says in words.

    Parameters
    ----------
    table
        ``"1"``, ``"2"`` or ``"ablation"``.
    summary
        Of :func:`c2sti.benchmark._summary.summarise`.
    parameters
        Numbers that each method has learnt.
    methods
        Rows, in their order.
    about
        Words on what was trained and seen.
    """
    parts = [f"## {TITLES[table]}", about, NOTE.format(data_range=DATA_RANGE)]
    for (series, n_slices), group in summary.groupby(["series", "n_slices"], sort=False):
        rows = group.set_index("method", drop=False).loc[[m for m in methods if m in set(group["method"])]]
        first = rows.iloc[0]
        parts.append(f"### {title(str(series), int(n_slices))}")
        parts.append(
            f"{first['n_cases']} case{'s' if first['n_cases'] > 1 else ''}, ceiling {short(first['ceiling'], 3)}, "
            f"reference: {LABELS.get(first['reference'], 'none')}."
        )
        parts.append(_grid(rows, parameters))
        parts += ["\n".join(f"- {said}" for said in verdicts(rows, LABELS))]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(series: str, n_slices: int) -> str:
    """Of what is said of one series and number of hidden sections."""
    hidden = "one section hidden" if n_slices == 1 else f"{n_slices} sections hidden in a row"
    return f"{SERIES.get(series, series)}, {hidden}"


def _grid(rows: pd.DataFrame, parameters: Mapping[str, int]) -> str:
    first = {score: best(rows, score) for score in SCORES}
    lines = [HEADER, ["---"] * len(HEADER)]
    for name, row in rows.iterrows():
        learnt = parameters.get(str(name), 0)
        lines.append(
            [
                LABELS[str(name)],
                "arbitrary" if ROWS[str(name)].arbitrary else "pre-defined",
                *(_score(row, score, bold=first[score] == name) for score in SCORES),
                short(row["fraction"], 3),
                _gain(row),
                "" if np.isnan(row["ahead"]) else f"{row['ahead']:.0f} of {row['n_cases']}",
                short(row["seeds"], 4),
                f"{row['seconds']:.1f}",
                f"{learnt:,}" if learnt else "none",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _score(row: pd.Series, score: str, *, bold: bool) -> str:
    mean = short(row[score], DIGITS[score])
    return f"**{mean}**" if bold else mean


def _gain(row: pd.Series) -> str:
    if np.isnan(row["gain"]):
        return ""
    known = not np.isnan(row["gain_low"])
    return f"{row['gain']:+.4f}" + (f" ({row['gain_low']:+.4f} to {row['gain_high']:+.4f})" if known else "")


def short(value: float, digits: int) -> str:
    """A number without the zero before its point; empty for NaN."""
    if np.isnan(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text
