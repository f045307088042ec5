"""How a result was made: the record that it carries, and the same in words for a methods section."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from c2sti import _keys, _result, _validators, io, pair_check
from c2sti._types import Interpolator, Lattice
from c2sti.models._registry import NAMED, name_of

if TYPE_CHECKING:
    from spatialdata import SpatialData


LIBRARIES = ("c2sti", "anndata", "numpy", "scipy", "torch")
UNTOLD = ("show_progress_bar", "out")  # arguments that say nothing about a result, or where on a disk it lies
MOST_LISTED = 8


def provenance(
    grids: Sequence[io.SliceGrid],
    model: Mapping[str, str],
    lattice: Lattice,
    seed: int,
    parameters: Mapping[str, Any],
    call: str | None = None,
) -> dict[str, Any]:
    """What a result says of how it was made; `call` is left out where it is part of a larger one."""
    record: dict[str, Any] = {
        "model": dict(model),
        "expression": _expression_of(grids),
        "parameters": {k: v for k, v in {"pitch": lattice.pitch, "seed": seed, **parameters}.items() if v is not None},
        "inputs": {_keys.label_column(g.name): _input(g) for g in grids},  # files take "/" for a folder
        "versions": {name: version(name) for name in LIBRARIES},
    }
    if not grids[0].counts and grids[0].log1p is not None:
        record["log1p"] = dict(grids[0].log1p)
    return record if call is None else {**record, "calls": np.array([call], dtype=str)}


def _expression_of(grids: Sequence[io.SliceGrid]) -> str:
    """What the expression of a result is, and whether counts were known beside it."""
    if grids[0].counts:
        return "log1p of counts scaled to 1e4"
    return "as given" if any(g.beside is None for g in grids) else "as given; counts of the same sections were known"


def _input(g: io.SliceGrid) -> dict[str, Any]:
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


SHORT = 12  # digits of a hash that are told


def describe(adata: AnnData | SpatialData, *, key: str = "c2sti") -> str:
    """Say in words how a result was made, for a methods section: ``print(c2sti.tl.describe(out))``.

    Parameters
    ----------
    adata
        Result of :func:`interpolate` or :func:`interpolate_series`, what :func:`to_slices`, :func:`to_spatialdata` or
        :func:`sample_counts` make of it, or any of these with some of its rows or genes; read from a file or not.
    key
        The `key_added` that it was made with.

    Returns
    -------
    A paragraph: which sections were computed and where they lie, between which measured ones, by which model, weights
    and versions, with what seed and call, what of the H&E is virtual, and how well the sections fit. What the result
    does not say of itself is left out.

    Raises
    ------
    KeyError
        The provenance is missing; the message says how it may have been lost.
    ValueError
        The provenance contradicts itself: it was altered, or the file that it came from is damaged.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, show_progress_bar=False)
    >>> c2sti.tl.describe(out).split(".")[0]
    '1 section was computed, not measured'
    """
    tables = _tables(adata, key)
    record = tables[0].uns[key]
    _check_consistent(record, key)
    made = _present(tables, record, [str(name) for name in record["inserted"]])
    sentences = [
        _made(made, record),
        _placed(made, record),
        _between(record),
        _by(record),
        _size(tables, record),
        _expression(record),
        _sureness(tables, made),
        _pictures(adata, tables, record, key),
        _pair_check(record),
        _how(record),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _tables(adata: AnnData | SpatialData, key: str) -> list[AnnData]:
    if not isinstance(adata, AnnData) and not io.is_spatialdata(adata):
        raise TypeError(
            f"adata is a {type(adata).__name__}; what c2sti.tl.interpolate gave, or was made of it, is needed"
        )
    tables = [adata] if isinstance(adata, AnnData) else list(adata.tables.values())
    found = [table for table in tables if "inserted" in table.uns.get(_validators.text(key, "key"), {})]
    if found:
        _result.record_of(found[0], key)
        return found
    rows = [table.obs[_keys.INSERTED] for table in tables if _keys.INSERTED in table.obs]
    known = f"; obs['inserted'] says of {sum(int(r.sum()) for r in rows)} rows that they were computed" if rows else ""
    raise KeyError(
        f"uns[{key!r}], which says how a result was made, is missing{known}. anndata.concat drops it, unless it "
        f"is given uns_merge='first'; a result made with another key_added is described by key="
    )


def _check_consistent(record: Mapping[str, Any], key: str) -> None:
    """Refuse a record whose parts are not of one result."""
    sections = [str(name) for name in record.get("sections", ())]
    strangers = [str(name) for name in record["inserted"] if str(name) not in sections]
    lengths = {k: len(record[k]) for k in ("positions", "z") if k in record and len(record[k]) != len(sections)}
    if not strangers and not lengths:
        return
    found = f"{strangers[0]!r} was inserted" if strangers else " and ".join(f"{n} {k}" for k, n in lengths.items())
    raise ValueError(
        f"uns[{key!r}] contradicts itself: {found}, and its sections are {sections}; read the result again, or make it "
        "anew"
    )


def _present(tables: Sequence[AnnData], record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of some sections that are there still: of a stack rows may have been left out."""
    if _keys.SECTION not in tables[0].obs:
        return list(names)
    there = {str(name) for table in tables for name in table.obs[_keys.SECTION].unique()}
    return [name for name in names if name in there]


def _made(made: Sequence[str], record: Mapping[str, Any]) -> str:
    if not made:
        return "All sections were measured."
    drawn = record.get(_keys.COUNTS)
    text = f"{len(made)} section{'s were' if len(made) > 1 else ' was'} computed, not measured."
    if drawn is None:
        return text
    return f"{text} Their counts were drawn at random (seed {int(drawn['seed'])}), {drawn['how']}."


def _placed(made: Sequence[str], record: Mapping[str, Any]) -> str:
    if not made:
        return ""
    names = [str(name) for name in record["sections"]]
    places = []
    for name in made:
        depth = f"z {float(record['z'][names.index(name)]):g}" if "z" in record else ""
        if "neighbours" in record:
            row = record["neighbours"].loc[name]
            first, second = (_result.name_of(record, int(row[side])) for side in "ab")
            way = f"{row['position']:.3g} of the way from {first} to {second}"
        else:
            own = {side: str(record.get("names", {}).get(side, side)) for side in (_keys.SLICE_A, _keys.SLICE_B)}
            position = float(record["positions"][names.index(name)])
            way = f"{position:.3g} of the way from {own[_keys.SLICE_A]} to {own[_keys.SLICE_B]}"
        places.append(f"{name} at {', '.join(filter(None, (depth, way)))}")
    return f"{'; '.join(places)}."


def _between(record: Mapping[str, Any]) -> str:
    inputs = record.get("inputs", {})
    told = [
        f"{name} ({int(i['n_obs'])} {'cells' if str(i['layout']) == 'cells' else 'spots'}, {int(i['n_vars'])} genes, "
        f"sha256 {str(i['fingerprint'])[:SHORT]})"
        for name, i in sorted(inputs.items(), key=lambda item: (len(item[0]), item[0]))  # files sort them by letters
    ]
    return f"They were made from {', '.join(told)}." if told else ""


def _by(record: Mapping[str, Any]) -> str:
    versions = {name: str(v) for name, v in sorted(record.get("versions", {}).items())}
    model = record.get("model", {})
    weights = f", weights sha256 {str(model['weights'])[:SHORT]}" if "weights" in model else ""
    own = f" {versions.pop('c2sti')}" if "c2sti" in versions else ""
    others = ", ".join(f"{name} {v}" for name, v in versions.items())
    text = f"c2sti{own}, model {str(model.get('name', 'unknown'))!r}{weights}"
    return f"Software: {text}{'; ' if others else ''}{others}."


def _size(tables: Sequence[AnnData], record: Mapping[str, Any]) -> str:
    pitch = f" of side {float(record['lattice']['pitch']):g} (unit of the coordinates)" if "lattice" in record else ""
    n, before = tables[0].n_vars, len(record.get("genes", ()))
    of = f" of {before}" if before > n else ""
    return f"The result holds {n}{of} genes in {sum(table.n_obs for table in tables)} rows, bins{pitch}."


def _expression(record: Mapping[str, Any]) -> str:
    return f"Expression: {record['expression']}." if "expression" in record else ""


def _sureness(tables: Sequence[AnnData], made: Sequence[str]) -> str:
    layers = {str(name) for table in tables for name in table.layers}
    kinds = {_keys.STD: "standard deviations of the means", _keys.UPPER: "intervals for measured values"}
    told = [
        text
        for kind, text in kinds.items()
        if kind in layers or any(_keys.doubt(name, kind) in layers for name in made)
    ]
    return f"With each interpolated value come {' and '.join(told)}." if told else ""


def _pictures(adata: AnnData | SpatialData, tables: Sequence[AnnData], record: Mapping[str, Any], key: str) -> str:
    names = _present(tables, record, [str(name) for name in record["sections"]])
    shown = [name for name in names if _has_picture(adata, name, key)]
    if not shown:
        return ""
    painted = record.get(_keys.VIRTUAL_HISTOLOGY, ())
    if isinstance(adata, AnnData):
        virtual = {str(name) for name in np.atleast_1d(painted)}
    else:
        virtual = {str(t.uns[key]["section"]) for t in tables if bool(t.uns[key][_keys.VIRTUAL_HISTOLOGY])}
    made, taken = [n for n in shown if n in virtual], [n for n in shown if n not in virtual]
    parts = [f"virtual (computed from its neighbours') in {', '.join(made)}"] if made else []
    parts += [f"photographed in {', '.join(taken)}"] if taken else []
    return f"H&E is {', '.join(parts)}."


def _has_picture(adata: AnnData | SpatialData, name: str, key: str) -> bool:
    """Whether a section has H&E: what lies under the others is blank."""
    if not isinstance(adata, AnnData):
        return f"{name}_histology" in adata.images
    libraries = adata.uns.get(_keys.SPATIAL, {})
    return _result.picture_of(libraries.get(name, libraries.get(key, {})), name) is not None


def _pair_check(record: Mapping[str, Any]) -> str:
    found = record.get(_keys.PAIR_CHECK)
    if found is None or len(found) == 0:
        return ""
    if isinstance(found, pd.DataFrame):
        bad = {str(pair): pair_check.misfits(row.to_dict()) for pair, row in found.iterrows()}
        told = "; ".join(f"{pair}: {', '.join(names)}" for pair, names in bad.items() if names)
        return f"Neighbours that do not pass the pair check: {told}." if told else "All neighbours pass the pair check."
    numbers = {str(name): float(value) for name, value in sorted(found.items())}
    text = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in numbers.items() if np.isfinite(value))
    wrong = pair_check.misfits(numbers)
    return f"Pair check: {text}{f'; beyond the limit: {wrong}' if wrong else ''}." if text else ""


def _how(record: Mapping[str, Any]) -> str:
    seed = record.get("parameters", {}).get("seed")
    calls = [str(call) for call in np.atleast_1d(record.get("calls", ()))]
    return " ".join(
        ([] if seed is None else [f"Seed {int(seed)}."]) + ([f"Made by {', then '.join(calls)}."] if calls else [])
    )
