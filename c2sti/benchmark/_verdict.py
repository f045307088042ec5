"""What a table of held-out sections says, in one sentence."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from c2sti._types import FloatArray

LEAST = 3  # held-out sections by which two methods can be told apart
CONFIDENCE = 0.95


def verdict(table: pd.DataFrame, simple: Collection[str]) -> str:
    """Which method leads by PCC, and how far it is from the noise ceiling and from `half_observed`.

    The best of the methods that are asked about is compared with the best of the simple ones.

    Parameters
    ----------
    table
        Of :func:`c2sti.tl.evaluate`.
    simple
        Names of the simple methods.
    """
    pcc = table.pivot_table(index=["section", "position"], columns="method", values="pcc", sort=False)
    best = [
        pcc[some].mean().idxmax()
        for some in ([name for name in pcc if (name in simple) == is_simple] for is_simple in (False, True))
        if some
    ]
    name, *other = sorted(best, key=lambda name: -pcc[name].mean())
    rows = table[table["method"] == name]
    text = f"{_called(name, simple, start=True)} has a PCC of {pcc[name].mean():.3f} on {_sections(len(pcc))}"
    limits = _limits(rows)
    text += f", {' and '.join(limits)}" if limits else ""
    if not other:
        return f"{text}."
    ahead = f"{text}, and is ahead of {_called(other[0], simple)} ({pcc[other[0]].mean():.3f})"
    return f"{ahead} {_how_surely((pcc[name] - pcc[other[0]]).to_numpy())}."


def _called(name: str, simple: Collection[str], *, start: bool = False) -> str:
    return f"{'The' if start else 'the'} simple method {name!r}" if name in simple else repr(name)


def _sections(n: int) -> str:
    return f"{n} held-out sections (mean)" if n > 1 else "one held-out section"


def _limits(rows: pd.DataFrame) -> list[str]:
    """The score as shares of the limits that are known."""
    found = []
    if rows["ceiling"].notna().any():
        found.append(f"{rows['fraction'].mean():.0%} of what the noise of the counts allows")
    if "share" in rows and rows["share"].notna().any():
        found.append(f"{rows['share'].mean():.0%} of what it has if given half of the section's spots")
    return found


def _how_surely(differences: FloatArray) -> str:
    """In how many sections, and whether that could be chance, by the interval of Student's t."""
    from scipy import stats  # noqa: PLC0415 - slow to import

    n, ahead = len(differences), int((differences > 0).sum())
    text = f"in {ahead} of {n}"
    if n < LEAST:
        return f"{text}, which is too few to say which is better"
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return text if differences.mean() > half else f"{text}, which may be chance"
