"""What a result says of how it was made: inputs, model, call. No paths of the machine that it was made on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from c2sti import _keys, grid
from c2sti._types import Interpolator, Lattice
from c2sti.tl._models import NAMED, name_of

LIBRARIES = ("c2sti", "anndata", "numpy", "scipy", "torch")
UNTOLD = ("show_progress_bar", "out")  # arguments that say nothing about a result, or where on a disk it lies
MOST_LISTED = 8


def provenance(
    grids: Sequence[grid.SliceGrid],
    model: Mapping[str, str],
    lattice: Lattice,
    seed: int,
    parameters: Mapping[str, Any],
    call: str | None = None,
) -> dict[str, Any]:
    """What a result says of how it was made; `call` is left out where it is part of a larger one."""
    record: dict[str, Any] = {
        "model": dict(model),
        "expression": _expression(grids),
        "parameters": {k: v for k, v in {"pitch": lattice.pitch, "seed": seed, **parameters}.items() if v is not None},
        "inputs": {_keys.label_column(g.name): _input(g) for g in grids},  # files take "/" for a folder
        "versions": {name: version(name) for name in LIBRARIES},
    }
    if not grids[0].counts and grids[0].log1p is not None:
        record["log1p"] = dict(grids[0].log1p)
    return record if call is None else {**record, "calls": np.array([call], dtype=str)}


def _expression(grids: Sequence[grid.SliceGrid]) -> str:
    """What the expression of a result is, and whether counts were known beside it."""
    if grids[0].counts:
        return "log1p of counts scaled to 1e4"
    return "as given" if any(g.beside is None for g in grids) else "as given; counts of the same sections were known"


def _input(g: grid.SliceGrid) -> dict[str, Any]:
    whole = g.uncut or g
    return {"fingerprint": whole.fingerprint(), "n_obs": len(g.xy), "n_vars": len(whole.genes), "layout": g.layout}


def model_record(model: str | Path | Interpolator, method: Interpolator) -> dict[str, str]:
    """Name of a model, that of the folder alone where it is one, and the hash of its weights where it has any."""
    record = {"name": _told(name_of(model))}
    fingerprint = getattr(method, "fingerprint", None)
    return record if fingerprint is None else {**record, "weights": str(fingerprint())}


def call_of(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """A call as text: its data by their names, and those of its arguments that are not the defaults.

    Parameters
    ----------
    function
        That was called.
    given
        Its arguments by name.
    """
    told = []
    for name, parameter in inspect.signature(function).parameters.items():
        value, default = given[name], parameter.default
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:  # the sections
            told += [name] if value is not None else []
        elif name not in UNTOLD and not (value is default or (_plain(value) and value == default)):
            text = _told(name_of(value)) if name == "model" else value
            told.append(f"{name}={_as_text(text)}")
    return f"c2sti.tl.{function.__name__}({', '.join(told)})"


def _told(name: str) -> str:
    """The name of a model; of a folder only the last part, for the others are of somebody's disk."""
    return name if name in NAMED else Path(name).name


def _plain(value: Any) -> bool:
    return isinstance(value, str | bool | int | float | tuple)


def _as_text(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    if isinstance(value, Path):
        return repr(value.name)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_as_text(k)}: {_as_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, np.ndarray):
        return f"<array of shape {value.shape}>"
    if isinstance(value, Sequence) or type(value).__name__ == "Index":
        if len(value) > MOST_LISTED:
            return f"<{len(value)} values>"
        return "[" + ", ".join(map(_as_text, value)) + "]"
    return f"<{type(value).__name__}>"
