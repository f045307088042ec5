"""The family of odd sections: a result that keeps its promises, or an error of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import c2sti
from scripts.fuzz.pairs import draw
from scripts.fuzz.promises import NAMED, Nonsense, check, fingerprint
from scripts.fuzz.relations import halves, relate, twins
from scripts.fuzz.uses import contain, use

NEXT = {"relation": 0.62, "halves": 0.08, "twins": 0.08, "container": 0.1, "use": 0.12}


def sections(rng: np.random.Generator, folder: Path) -> str:
    """One pair."""
    case = draw(rng)
    before = [fingerprint(s) for s in (case.a, case.b)]
    out = c2sti.tl.interpolate(case.a, case.b, **case.given)
    check(out, case.given)
    kind = rng.choice(list(NEXT), p=list(NEXT.values()))
    try:
        match kind:
            case "relation":
                relate(out, case, rng)
            case "halves":
                halves(out, case, rng)
            case "twins":
                twins(case, rng)
            case "container":
                contain(out, case, rng, folder)
            case "use":
                use(out, case, rng, folder)
    except NAMED as error:  # what was taken once may not be refused the second time
        raise Nonsense(f"{kind}: {type(error).__name__}: {str(error)[:200]}") from error
    if before != [fingerprint(s) for s in (case.a, case.b)]:
        raise Nonsense(f"{kind}: an input was changed")
    return "correct"
