"""How well do the numbers of `c2sti.pp.check_pair` tell sections of one block from others? See docs/experiments.md.

    python scripts/pair_check.py --data DIR --out DIR2      a quarter of an hour; DIR2 gets all pairs and the figure

Pairs that match: all sections of a series, in a common coordinate system as the benchmark brings them there.
Pairs that do not: sections of two patients, laid on each other by `c2sti.pp.align` and by hand (same middle, same
extent); and neighbours of one series that lie wrong: every spot in another's place, turned by 90 or 180 degrees,
mirrored. The developing heart has other gene names than the others and is no stranger to them here. Limits were set on
her2st A and B and the heart; her2st C, D and Ståhl's breast are what they are checked on.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import mannwhitneyu
from tqdm.auto import tqdm

import c2sti
from c2sti import benchmark, io, pair_check
from c2sti.io import SliceGrid

SEEN = {"her2st A", "her2st B", "heart"}  # limits were set on these
COLUMNS = ["overlap", "spatial_concordance_z", "spatial_concordance", "expression_similarity", "score"]
SAME, ALIGNED, BY_HAND = "one series", "two patients, aligned", "two patients, by hand"
WRONG = ["shuffled", "turned by 90°", "turned by 180°", "mirrored"]


def score(found: dict[str, float]) -> float:
    """The least margin: of each number its distance to the limit over that from the limit to 1; < 0 misfits."""
    limits = pair_check.LIMITS
    margins = [(x - limits[name]) / (1 - limits[name]) for name, x in found.items() if name in limits and x == x]
    return float(min(margins, default=float("nan")))


def judged(kind: str, a: SliceGrid, b: SliceGrid, of: tuple[str, str], apart: int = 0) -> dict[str, object]:
    """One row of the table of pairs."""
    pair, _ = io.make_pair(a, b, judged=True)
    found = pair_check.measure(pair.a, pair.b, pair.spacing, io.overlap(a, b))
    seen = {"set on": set(of) <= SEEN, "checked": not set(of) & SEEN}
    return {"kind": kind, "a": a.name, "b": b.name, "apart": apart, **seen, **found, "score": score(found)}


def moved(b: SliceGrid, xy: np.ndarray, pitch: float | None = None) -> SliceGrid:
    """The section with its spots elsewhere; what was photographed stays behind."""
    return replace(b, xy=xy, pitch=pitch or b.pitch, image=None)


def wrong(b: SliceGrid) -> Iterator[tuple[str, SliceGrid]]:
    """The section as it should not lie."""
    middle = b.xy.mean(axis=0)
    x, y = (b.xy - middle).T
    places = [b.xy[np.random.default_rng(0).permutation(len(b.xy))] - middle]
    places += [np.column_stack(p) for p in ((-y, x), (-x, -y), (-x, y))]
    for kind, place in zip(WRONG, places, strict=True):
        yield kind, moved(b, place + middle)


def by_hand(a: SliceGrid, b: SliceGrid) -> SliceGrid:
    """The section laid on another by its middle and its extent."""
    scale = np.ptp(a.xy, axis=0) / np.ptp(b.xy, axis=0)
    xy = (b.xy - b.xy.mean(axis=0)) * scale + a.xy.mean(axis=0)
    return moved(b, xy, b.pitch * float(np.sqrt(scale.prod())))


def aligned(a: SliceGrid, b: SliceGrid) -> SliceGrid:
    """The section laid on another by `c2sti.pp.align`."""
    first, second = (AnnData(g.values, var=pd.DataFrame(index=g.genes), obsm={"spatial": g.xy}) for g in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they fit poorly is the point
        c2sti.pp.align(first, second)
    return replace(io.read_slice(second, spatial_key="spatial_aligned"), name=b.name)


def pairs(series: dict[str, list[SliceGrid]]) -> Iterator[dict[str, object]]:
    """All rows."""
    for name, sections in series.items():
        for i, j in combinations(range(len(sections)), 2):
            yield judged(SAME, sections[i], sections[j], (name, name), j - i)
        for a, b in zip(sections, sections[1:], strict=False):
            for kind, lying in wrong(b):
                yield judged(kind, a, lying, (name, name), 1)
    patients = [name for name in series if name != "heart"]
    for one, other in combinations(patients, 2):
        for i, a in enumerate(series[one]):
            for b in series[other]:
                yield judged(BY_HAND, a, by_hand(a, b), (one, other))
            shift = patients.index(one) + patients.index(other)
            if i < len(series[other]):
                b = series[other][(i + shift) % len(series[other])]
                yield judged(ALIGNED, a, aligned(a, b), (one, other))


def auc(good: pd.Series, bad: pd.Series) -> float:
    """Probability that a pair that belongs together has more than one that does not; unknown counts as fitting."""
    x, y = (v.fillna(np.inf).clip(upper=1e9) for v in (good, bad))
    return float(mannwhitneyu(x, y).statistic / (len(x) * len(y)))


def table_of_auc(table: pd.DataFrame, most_apart: int) -> pd.DataFrame:
    """Area under the ROC curve of each number, by what does not match."""
    good = table[(table["kind"] == SAME) & (table["apart"] <= most_apart)]
    kinds = [ALIGNED, BY_HAND, *WRONG]
    rows = {kind: table[table["kind"] == kind] for kind in kinds} | {"all": table[table["kind"] != SAME]}
    return pd.DataFrame(
        {kind: {"pairs": len(bad), **{c: auc(good[c], bad[c]) for c in COLUMNS}} for kind, bad in rows.items()}
    ).T


def table_of_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Share of pairs that are called a misfit, where limits were set and where they were checked."""
    kind = table["kind"].where(table["kind"] != SAME, SAME + ", " + table["apart"].astype(str) + " apart")
    kind = kind.where(table["apart"] <= 5, f"{SAME}, 6 or 7 apart")
    beyond = {name: table[name] < limit for name, limit in pair_check.LIMITS.items() if name in table}
    flagged = table.assign(kind=kind, misfit=table["score"] < 0, **{f"by {n}": b for n, b in beyond.items()})
    columns = ["misfit", *(c for c in flagged if str(c).startswith("by "))]
    parts = {"set on": flagged[flagged["set on"]], "checked on": flagged[flagged["checked"]], "all": flagged}
    found = {}
    for name, part in parts.items():
        groups = part.groupby("kind", sort=False)
        found[name, "pairs"] = groups.size()
        for column in columns if name == "all" else ["misfit"]:
            found[name, column] = groups[column].mean()
    return pd.DataFrame(found).loc[flagged["kind"].unique()]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Spatial concordance and expression similarity of all pairs, with the limits."""
    fig, ax = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    near = table["apart"] <= 4
    groups = {
        "one series, up to 4 apart": ((table["kind"] == SAME) & near, "o", "#1b7f5c"),
        "one series, farther apart": ((table["kind"] == SAME) & ~near, "o", "#9ccfb9"),
        "neighbours that lie wrong": (table["kind"].isin(WRONG[:3]), "x", "#d1782a"),
        "neighbours, one mirrored": (table["kind"] == WRONG[3], "+", "#d1782a"),
        "two patients, by hand": (table["kind"] == BY_HAND, ".", "#8d86c9"),
        "two patients, aligned": (table["kind"] == ALIGNED, "s", "#4b3f9e"),
    }
    for label, (which, marker, colour) in groups.items():
        part = table[which]
        ax.scatter(
            part["spatial_concordance"],
            part["expression_similarity"],
            22,
            color=colour,
            marker=marker,
            lw=1.2,
            label=label,
            alpha=0.8,
        )
    ax.axvline(pair_check.LIMITS["spatial_concordance"], color="0.4", lw=0.8, ls="--")
    ax.axhline(pair_check.LIMITS["expression_similarity"], color="0.4", lw=0.8, ls="--")
    ax.set(xlabel="spatial concordance", ylabel="expression similarity")
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside right upper", frameon=False, fontsize=8)
    fig.savefig(path, dpi=130)


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("C2STI_DATA", "data")))
    parser.add_argument("--out", type=Path, default=Path("pair_check"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    every = benchmark.series_of(["her2st", "heart", "stahl"])
    series = {one.name: benchmark.read_series(one, given.data) for one in tqdm(every, desc="reading")}
    table = pd.DataFrame(tqdm(pairs(series), desc="pairs"))
    table.to_csv(given.out / "pairs.csv", index=False)
    report(table, given.out)


def report(table: pd.DataFrame, out: Path) -> None:
    """Tables to stdout, figure into the folder."""
    for most in (1, 4, 7):
        print(f"\nArea under the ROC curve, sections of one series up to {most} apart")
        print(table_of_auc(table, most).round(3).to_string())
    print("\nShare of pairs that are called a misfit")
    print(table_of_errors(table).round(2).to_string())
    draw(table, out / "pair_check.png")


if __name__ == "__main__":
    main()
