"""Which settings of the description should everybody have? One rule for all, stated first.

    python scripts/choices.py --data DIR --out DIR2       an hour of one core; DIR2 gets all scores and the tables

The rule: of all choices for a setting, the one with the best mean rank over series in PCC is taken, RMSE deciding ties;
no series is looked at alone. How well the rule does is told by leaving one series out: the choice is made on the
others, and scored on the one left out. Series are those of the benchmark, one section held out, at most `MOST` cases
each, and simulated blocks: Visium, a pitch of 20 µm, shallow counts, and a panel of 40 genes, scored against the truth
without noise. It is the baseline prediction that is scored, without the network.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

import c2sti
from c2sti import benchmark, io
from c2sti._types import SlicePair
from c2sti.benchmark._leave_out import Target, depths, pair_of, scores_of, target_of, windows
from c2sti.benchmark._series import find_series
from c2sti.field import _field, _kernel
from c2sti.models import block, components
from c2sti.models.components import Settings
from c2sti.models.gp import Baseline, gp

MOST = 3
SIMULATED = {
    "simulated Visium": {"size": 16, "n_genes": 150},
    "simulated, 20 µm": {"size": 20, "n_genes": 100, "pitch": 20.0, "motion": 0.4},
    "simulated, shallow": {"size": 16, "n_genes": 150, "shallow": 0.2},
    "simulated, 40 genes": {"size": 16, "n_genes": 40},
}
BLOCKS = 3  # of each kind
DEFAULT = "as it is"
# By setting, the choices other than today's: fields of Settings, or constants of a module.
CHOICES: dict[str, dict[str, dict[str, Any] | tuple[ModuleType, str, Any]]] = {
    "components": {"40": {"n_components": 40}, "80": {"n_components": 80}},
    "splits of counts": {"none": {"n_splits": 0}, "two": {"n_splits": 2}},
    "weights by counts": {"none": {"counts": False}},
    "kernel": {"Gaussian": {"matern": False}},
    "own length scales": {"none": {"own_lengths": False}},
    "usual length scales": {"not learnt": (_field, "STEPS", 0)},
    "detail": {"none": {"detail": False}},
    "registration": {"none": {"registered": False}},
    "c of two sections": {"1/2": (_kernel, "USUAL", 0.5), "9/10": (_kernel, "USUAL", 0.9)},
    "patches": {"1,000": (block, "PATCHES", 1000), "2,200": (block, "PATCHES", 2200)},
    "leading maps": {"4": (components, "N_LEADING", 4), "16": (components, "N_LEADING", 16)},
}


def cases(data: Path) -> Iterator[tuple[str, SlicePair, float, Target]]:
    """Series, pair, position and what is scored."""
    for series in find_series(data):
        grids = benchmark.read_series(series, data)
        every = list(windows(depths(grids, None), 1))
        chosen = every if len(every) <= MOST else [every[i] for i in np.linspace(0, len(every) - 1, MOST).astype(int)]
        for window in chosen:
            pair, genes = pair_of(grids, window, 1000, context=False)
            target = target_of(grids[window.held_out[0]], pair, genes)
            yield series.group, pair, window.positions[0], target
    for name, how in SIMULATED.items():
        for seed in range(BLOCKS):
            yield name, *_simulated(seed, **how)


def _simulated(seed: int, shallow: float = 1.0, **how: Any) -> tuple[SlicePair, float, Target]:
    tissue = c2sti.datasets.phantom(seed=200 + seed, **how)
    gap = 2 * how.get("pitch", 100.0)
    sections = tissue.series([0.0, gap / 2, gap])
    rng = np.random.default_rng(seed)
    for section in sections:  # each molecule is kept with this probability
        section.X.data = rng.binomial(section.X.data.astype(int), shallow).astype(np.float32)
    a, held_out, b = map(io.read_slice, sections)
    pair, genes = io.make_pair(a, b)
    xy, _, ceiling = target_of(held_out, pair, genes)
    truth = tissue.expression(xy, gap / 2)[:, pd.Index(tissue.gene_names).get_indexer(genes)]
    return pair, 0.5, (xy, truth, ceiling)


@contextmanager
def chosen(choice: dict[str, Any] | tuple[ModuleType, str, Any]) -> Iterator[Baseline]:
    """The method with another setting."""
    if isinstance(choice, dict):
        yield Baseline(Settings(**choice))
        return
    module, name, value = choice
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield Baseline(Settings())
    finally:
        setattr(module, name, before)


def scored(data: Path) -> pd.DataFrame:
    """A row for each case, setting and choice."""
    tried = [("", "gp", {}), ("", DEFAULT, {})]
    tried += [(setting, choice, how) for setting, choices in CHOICES.items() for choice, how in choices.items()]
    rows = []
    for i, (series, pair, position, target) in enumerate(tqdm(list(cases(data)))):
        for setting, choice, how in tried:
            with chosen(how) as model:
                method = gp if choice == "gp" else model
                predicted = method(pair, target[0], [position]).slices[0].expression()
            rows.append(
                {"case": i, "series": series, "setting": setting, "choice": choice} | scores_of(predicted, target)
            )
    return pd.DataFrame(rows)


def table(scores: pd.DataFrame) -> pd.DataFrame:
    """PCC by series of each choice, less that of today's; its mean rank; and what the rule gives, left out."""
    means = scores.groupby(["setting", "choice", "series"], sort=False)[["pcc", "rmse"]].mean()
    today, rows = means.loc["", DEFAULT], []
    for setting, choices in CHOICES.items():
        pcc = pd.DataFrame({DEFAULT: today["pcc"], **{c: means.loc[setting, c]["pcc"] for c in choices}})
        rmse = pd.DataFrame({DEFAULT: today["rmse"], **{c: means.loc[setting, c]["rmse"] for c in choices}})
        ranks = pcc.rank(axis=1, ascending=False)

        def rule(series: pd.Index, ranks: pd.DataFrame = ranks, rmse: pd.DataFrame = rmse) -> str:
            order = pd.DataFrame({"rank": ranks.loc[series].mean(), "rmse": rmse.loc[series].mean()})
            return str(order.sort_values(["rank", "rmse"]).index[0])

        left_out = [pcc.loc[s, rule(pcc.index.drop(s))] - pcc.loc[s, DEFAULT] for s in pcc.index]
        for choice in pcc:
            row = {"setting": setting, "choice": choice, "mean rank": round(ranks[choice].mean(), 2)}
            row |= {"taken": "yes" if choice == rule(pcc.index) else ""}
            row |= {"left out": f"{np.mean(left_out):+.4f}" if choice == DEFAULT else ""}
            gains = pcc[choice] if choice == DEFAULT else pcc[choice] - pcc[DEFAULT]
            rows.append(row | {s: f"{g:.4f}" if choice == DEFAULT else f"{g:+.4f}" for s, g in gains.items()})
    return pd.DataFrame(rows)


def main() -> None:
    """Read the command line, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("C2STI_DATA", "data")))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scores = scored(given.data)
    scores.to_csv(given.out / "choices_cases.csv", index=False)
    found = table(scores)
    found.to_csv(given.out / "choices.csv", index=False)
    print(found.to_string())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
