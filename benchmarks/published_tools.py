"""Published methods beside c2sti on the same held-out sections: PCC, RMSE, RV and seconds of the processor of each.

``--sections a.h5ad b.h5ad c.h5ad`` holds out each interior section of a series of yours by ``c2sti.tl.evaluate``; add
``--align`` where the sections have no common coordinates. ``--scorer FOLDER --data FOLDER`` scores the cases of an
outside scorer instead: its ``cases.py`` gives them, with the coordinates to use, and its ``measures.py`` the scores.
Without either: simulated tissue.

Methods are names of c2sti's models, and ``transport_plain`` and ``transport_fused`` (``published/transport.py``), which
need POT.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from _record import arguments, write

import c2sti

MODELS = ("copy", "linear", "lowrank", "gp")  # what tl.evaluate always scores


def main(given: Sequence[str] | None = None) -> Path:
    """Score, write."""
    options = arguments(
        __doc__,
        given,
        methods={"nargs": "+", "default": ["c2sti", "transport_plain"], "help": "beside copy, linear, lowrank and gp"},
        sections={"nargs": "+", "type": Path, "help": "a series in order of z, AnnData with raw counts"},
        align={"action": "store_true", "help": "bring the sections into common coordinates first"},
        scorer={"type": Path, "help": "folder with cases.py and measures.py"},
        data={"type": Path, "help": "folder of the cases"},
        cases={"nargs": "+", "default": [""], "help": "how the names of cases begin; all by default"},
    )
    methods = [transport(name) if name.startswith("transport") else name for name in options.methods]
    rows = held_out_cases(options, [*MODELS, *methods]) if options.scorer else evaluated(options, methods)
    settings = {name_of(m): str(m) for m in methods if not isinstance(m, str)}
    return write("published_tools", options, means(rows), settings=settings, versions=versions(), cases=rows)


def transport(name: str) -> Callable[..., Any]:
    """The interpolation along an optimal-transport coupling."""
    return importlib.import_module("published.transport").METHODS[name]  # imported where asked for: POT may be missing


def evaluated(options: Any, methods: Sequence[Any]) -> list[dict[str, Any]]:
    """Held-out sections of one series by ``c2sti.tl.evaluate``."""
    if options.sections is None:
        tissue = c2sti.datasets.phantom(seed=options.seed, size=8 if options.quick else 16, n_genes=40)
        name, sections = "simulated", tissue.series([0.0, 100.0, 200.0])
    else:
        name, sections = options.sections[0].stem, [ad.read_h5ad(path) for path in options.sections]
    if options.align:
        c2sti.pp.align_series(sections)
    table = c2sti.tl.evaluate(sections, methods=methods, context=False, **how(options.seed))
    table["series"], table["cpu_s"] = name, float("nan")
    return table[["series", "name", "method", "pcc", "rmse", "rv", "ceiling", "cpu_s"]].to_dict("records")


def held_out_cases(options: Any, methods: Sequence[Any]) -> list[dict[str, Any]]:
    """Cases with one held-out section of an outside scorer."""
    sys.path.insert(0, str(options.scorer))
    reading, scoring = importlib.import_module("cases"), importlib.import_module("measures")
    rows = []
    for case in reading.read_cases(options.data):
        if case["n_slices"] > 1 or not case["id"].startswith(tuple(options.cases)):
            continue
        a, b, (target,), _ = reading.load(options.data, case)
        at, measured = target.obsm["spatial"], np.asarray(target.X)
        for method in methods:
            start = time.process_time()
            out = c2sti.tl.interpolate(a, b, positions=case["positions"], at=at, model=method, **how(options.seed))
            row = {"series": case["series"], "name": case["id"], "method": name_of(method)}
            scores = scoring.score(np.nan_to_num(np.asarray(out.layers["c2sti_1"])), measured)
            rows.append({**row, **scores, "cpu_s": time.process_time() - start})
            print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
    return rows


def how(seed: int) -> dict[str, Any]:
    """Of every call."""
    return {"seed": seed, "show_progress_bar": False, "on_misfit": "ignore", "device": "cpu"}


def name_of(method: Any) -> str:
    """Of a model or a function."""
    return method if isinstance(method, str) else method.__name__


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the sections of each series, by method."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["series"], row["method"]].append(row)
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    return [
        {"series": series, "method": method, "sections": len(group)}
        | {key: float(np.mean([row[key] for row in group])) for key in numbers}
        for (series, method), group in groups.items()
    ]


def versions() -> dict[str, str]:
    """Of POT, where it is installed."""
    try:
        return {"pot": version("pot")}
    except importlib.metadata.PackageNotFoundError:
        return {}


if __name__ == "__main__":
    main()
