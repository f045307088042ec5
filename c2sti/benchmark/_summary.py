"""From scores to what a table says: means, intervals over cases, paired differences, cases ahead."""

from __future__ import annotations

import numpy as np
import pandas as pd

from c2sti._types import FloatArray
from c2sti.benchmark._methods import NAIVE

SCORES = {"psnr": 1, "ssim": 1, "pcc": 1, "rmse": -1, "rv": 1}  # 1: higher is better, -1: lower
FEWEST = 3  # cases that an interval needs
RESAMPLES = 10_000
LEVEL = 0.95


def by_case(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a method and case: means over the hidden sections of a case, then over networks of all folds and seeds.

    Parameters
    ----------
    rows
        As :func:`c2sti.benchmark._scores.collect` gives them.
    """
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
    """One row a series, number of hidden sections and method.

    Parameters
    ----------
    rows
        As :func:`c2sti.benchmark._scores.collect` gives them.

    Returns
    -------
    Columns ``series``, ``n_slices``, ``method``, ``n_cases``; of every score its mean, ``_low`` and ``_high``;
    ``ceiling``, ``fraction``, ``seconds``; ``seeds``, the deviation between seeds; ``reference``, the training-free
    method with the best mean PCC; ``gain``, ``gain_low``, ``gain_high``: PCC less that of the reference, paired by
    case; ``ahead``: cases in which it is higher.
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
            row |= {"seeds": seeds[series, n_slices, method], **_against(pcc, str(method), reference)}
            found.append(row)
    return pd.DataFrame(found)


def reference_of(pcc: pd.DataFrame) -> str:
    """The training-free method with the best mean, of (cases, methods); empty where there is none."""
    naive = [method for method in NAIVE if method in pcc]
    return str(pcc[naive].mean().idxmax()) if naive else ""


def _against(pcc: pd.DataFrame, method: str, reference: str) -> dict[str, float | str]:
    if reference in ("", method):
        return {"reference": reference, "gain": np.nan, "gain_low": np.nan, "gain_high": np.nan, "ahead": np.nan}
    gain = (pcc[method] - pcc[reference]).to_numpy()
    low, high = interval(gain)
    return {
        "reference": reference,
        "gain": gain.mean(),
        "gain_low": low,
        "gain_high": high,
        "ahead": int((gain > 0).sum()),
    }


def best(summary: pd.DataFrame, score: str) -> str:
    """The method with the best mean of a score, in the rows of one series and number of hidden sections."""
    means = summary.set_index("method")[score] * SCORES[score]
    return str(means.idxmax()) if means.notna().any() else ""


def verdicts(summary: pd.DataFrame, labels: dict[str, str]) -> list[str]:
    """What the rows of one series and number of hidden sections say, in plain words."""
    said = _where_naive_wins(summary, labels)
    leader = best(summary, "pcc")
    row = summary.set_index("method").loc[leader]
    if leader in NAIVE or not row["reference"]:
        return said
    lead = f"{labels[leader]} leads {row['reference']}, the best without training, by {row['gain']:+.4f} in PCC"
    if np.isnan(row["gain_low"]):
        return [f"{lead}; {row['n_cases']} hidden are too few for an interval.", *said]
    if row["gain_low"] <= 0:
        return [f"{lead}, but the interval of the difference includes 0: no lead is shown.", *said]
    return [f"{lead}, and is ahead in {row['ahead']:.0f} of {row['n_cases']}.", *said]


def _where_naive_wins(summary: pd.DataFrame, labels: dict[str, str]) -> list[str]:
    wins: dict[str, list[str]] = {}
    for score in SCORES:
        wins.setdefault(best(summary, score), []).append(score.upper())
    return [
        f"**{labels[method]}**, which needs no training, has the best {' and '.join(scores)} of all."
        for method, scores in wins.items()
        if method in NAIVE
    ]
