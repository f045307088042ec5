"""How a result was made: the provenance that it carries, and the same in words for a methods section."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
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
NOT_RECORDED = ("show_progress_bar", "out")  # arguments that do not change a result
MOST_LISTED = 8
SHORT = 12  # digits of a hash in words


def describe(adata: AnnData | SpatialData, *, key: str = "c2sti") -> str:
    """How a result was made, in words for a methods section: ``print(c2sti.tl.describe(out))``.

    Parameters
    ----------
    adata
        Result of :func:`interpolate`, :func:`interpolate_series` or :func:`slice_series`, what :func:`to_slices`,
        :func:`to_spatialdata` or :func:`sample_counts` make of it, or any of these with some of its rows or genes; read
        from a file or not.
    key
        The `key_added` that it was made with.

    Returns
    -------
    A paragraph: which sections were computed and where they lie, between which measured ones, by which model, weights
    and versions, with what seed and call, which H&E is virtual, what misleads when it is tested, and the pair check.
    What the provenance lacks is left out.

    Raises
    ------
    KeyError
        The provenance is missing.
    ValueError
        The provenance contradicts itself.

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
    made = _present(tables, record["inserted"])
    sentences = [
        _computed(made, record),
        _origin(record),
        _contents(tables, made, record),
        str(record.get(_keys.STATISTICS, "")) if made else "",
        _histology(adata, tables, record, key),
        _pair_check(record),
        _call(record),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def provenance(
    grids: Sequence[io.SliceGrid],
    model: Mapping[str, str],
    lattice: Lattice,
    seed: int,
    parameters: Mapping[str, Any],
    call: str,
) -> dict[str, Any]:
    """Provenance of a result."""
    expression = "log1p of counts scaled to 1e4"
    if not grids[0].counts:
        known = all(g.beside is not None for g in grids)
        expression = "as given; counts of the same sections were known" if known else "as given"
    record: dict[str, Any] = {
        "model": dict(model),
        "expression": expression,
        "parameters": {k: v for k, v in {"pitch": lattice.pitch, "seed": seed, **parameters}.items() if v is not None},
        "inputs": {
            _keys.label_column(g.name): {  # files take "/" for a folder
                "fingerprint": (g.uncut or g).fingerprint(),
                "n_obs": len(g.xy),
                "n_vars": len((g.uncut or g).genes),
                "layout": g.layout,
            }
            for g in grids
        },
        "versions": {name: version(name) for name in LIBRARIES},
        "calls": np.array([call], dtype=str),
    }
    if not grids[0].counts and grids[0].log1p is not None:
        record["log1p"] = dict(grids[0].log1p)
    return record


def model_record(model: str | Path | Interpolator, method: Interpolator) -> dict[str, str]:
    """Name of a model, and the hash of its weights where it has any."""
    weights = {"weights": str(method.fingerprint())} if hasattr(method, "fingerprint") else {}
    return {"name": _name_of(model), **weights}


def neighbours_of(record: Mapping[str, Any], name: str) -> tuple[str, str, float]:
    """The measured sections on either side of an interpolated one, and its position between them."""
    if "neighbours" in record:
        row = record["neighbours"].loc[name]
        return _result.name_of(record, int(row["a"])), _result.name_of(record, int(row["b"])), float(row["position"])
    position = record["positions"][[str(section) for section in record["sections"]].index(name)]
    return _keys.SLICE_A, _keys.SLICE_B, float(position)


def call_of(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """A call as text: its data by their names, and those of its arguments (`given`) that are not the defaults."""
    arguments = []
    for name, parameter in inspect.signature(function).parameters.items():
        value, default = given[name], parameter.default
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:  # the sections
            arguments += [name] if value is not None else []
        elif name not in NOT_RECORDED and value is not default:
            if not (isinstance(value, str | bool | int | float | tuple) and value == default):
                arguments.append(f"{name}={_as_text(_name_of(value) if name == 'model' else value)}")
    return f"c2sti.tl.{function.__name__}({', '.join(arguments)})"


def _name_of(model: str | Path | Interpolator) -> str:
    """The name of a model; of a folder only the last part, because the others are private."""
    name = name_of(model)
    return name if name in NAMED else Path(name).name


def _as_text(value: Any) -> str:
    """An argument, so short that calls fit on a line."""
    value = value.item() if isinstance(value, np.generic) else value.name if isinstance(value, Path) else value
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_as_text(k)}: {_as_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, np.ndarray):
        return f"<array of shape {value.shape}>"
    if isinstance(value, Sequence | pd.Index):
        return f"[{', '.join(map(_as_text, value))}]" if len(value) <= MOST_LISTED else f"<{len(value)} values>"
    return f"<{type(value).__name__}>"


# ---- sentences


def _tables(adata: AnnData | SpatialData, key: str) -> list[AnnData]:
    """All tables with provenance."""
    if not isinstance(adata, AnnData) and not io.is_spatialdata(adata):
        raise TypeError(f"adata is a {type(adata).__name__}; the result of c2sti.tl.interpolate is needed")
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
    sections = [str(name) for name in record["sections"]]
    found = [f"{str(name)!r} was interpolated" for name in record["inserted"] if str(name) not in sections][:1] or [
        f"{len(record[k])} {k}" for k in ("positions", "z") if k in record and len(record[k]) != len(sections)
    ]
    if found:
        raise ValueError(
            f"uns[{key!r}] contradicts itself: {' and '.join(found)}, and its sections are {sections}; read the result "
            "again, or make it again"
        )


def _present(tables: Sequence[AnnData], names: Iterable[str]) -> list[str]:
    """Those of some sections that have rows: a stack may have been cut."""
    if _keys.SECTION not in tables[0].obs:
        return [str(name) for name in names]
    there = {str(name) for table in tables for name in table.obs[_keys.SECTION].unique()}
    return [str(name) for name in names if str(name) in there]


def _computed(made: Sequence[str], record: Mapping[str, Any]) -> str:
    if not made:
        return "All sections were measured."
    text = f"{len(made)} section{'s were' if len(made) > 1 else ' was'} computed, not measured."
    if (drawn := record.get(_keys.COUNTS)) is not None:
        text += f" Their counts were drawn at random (seed {int(drawn['seed'])}), {drawn['how']}."
    if (plane := record.get(_keys.PLANE)) is not None:
        point, normal = (", ".join(f"{float(value):g}" for value in plane[part]) for part in ("point", "normal"))
        between = ", ".join(map(str, record["slices"]))
        return f"{text} {made[0]} lies in the plane through ({point}) with normal ({normal}), across {between}."
    names, own = [str(name) for name in record["sections"]], record.get("names", {})
    places = []
    for name in made:
        z = f"z {float(record['z'][names.index(name)]):g}, " if "z" in record else ""
        *pair, position = neighbours_of(record, name)
        first, second = (own.get(end, end) for end in pair)
        places.append(f"{name} at {z}{position:.3g} of the way from {first} to {second}")
    return f"{text} {'; '.join(places)}."


def _origin(record: Mapping[str, Any]) -> str:
    """Measured sections, software and model."""
    by_name = sorted(record.get("inputs", {}).items(), key=lambda item: (len(item[0]), item[0]))  # slice_2, slice_10
    inputs = [
        f"{name} ({int(i['n_obs'])} {'cells' if str(i['layout']) == 'cells' else 'spots'}, {int(i['n_vars'])} genes, "
        f"sha256 {str(i['fingerprint'])[:SHORT]})"
        for name, i in by_name
    ]
    versions = {name: str(v) for name, v in sorted(record.get("versions", {}).items())}
    model = record.get("model", {})
    weights = f", weights sha256 {str(model['weights'])[:SHORT]}" if "weights" in model else ""
    own = f" {versions.pop('c2sti')}" if "c2sti" in versions else ""
    software = [f"c2sti{own}, model {str(model.get('name', 'unknown'))!r}{weights}"]
    software += [", ".join(f"{name} {v}" for name, v in versions.items())] if versions else []
    text = f"They were made from {', '.join(inputs)}. " if inputs else ""
    return f"{text}Software: {'; '.join(software)}."


def _contents(tables: Sequence[AnnData], made: Sequence[str], record: Mapping[str, Any]) -> str:
    """Size, expression and uncertainty."""
    pitch = f" of side {float(record['lattice']['pitch']):g} (unit of the coordinates)" if "lattice" in record else ""
    n, before = tables[0].n_vars, len(record.get("genes", ()))
    of = f" of {before}" if before > n else ""
    kind = "measured cells at new places" if _keys.CELLS in record else f"bins{pitch}"
    text = f"The result holds {n}{of} genes in {sum(table.n_obs for table in tables)} rows, {kind}."
    text += f" Expression: {record['expression']}." if "expression" in record else ""
    layers = {str(name) for table in tables for name in table.layers}
    kinds = {_keys.STD: "standard deviations of the means", _keys.UPPER: "intervals for measured values"}
    given = [what for kind, what in kinds.items() if layers & {kind, *(_keys.layer_of(name, kind) for name in made)}]
    return f"{text} With each interpolated value come {' and '.join(given)}." if given else text


def _histology(adata: AnnData | SpatialData, tables: Sequence[AnnData], record: Mapping[str, Any], key: str) -> str:
    names = _present(tables, record["sections"])
    if isinstance(adata, AnnData):
        libraries = adata.uns.get(_keys.SPATIAL, {})
        found = {n: _result.image_of(libraries.get(n, libraries.get(key, {})), n) is not None for n in names}
        virtual = {str(name) for name in np.atleast_1d(record.get(_keys.VIRTUAL_HISTOLOGY, ()))}
    else:
        found = {name: f"{name}_histology" in adata.images for name in names}
        virtual = {str(t.uns[key]["section"]) for t in tables if bool(t.uns[key][_keys.VIRTUAL_HISTOLOGY])}
    made = [name for name in names if found[name] and name in virtual]
    taken = [name for name in names if found[name] and name not in virtual]
    parts = [f"virtual (computed from its neighbours') in {', '.join(made)}"] if made else []
    parts += [f"photographed in {', '.join(taken)}"] if taken else []
    return f"H&E is {', '.join(parts)}." if parts else ""


def _pair_check(record: Mapping[str, Any]) -> str:
    found = record.get(_keys.PAIR_CHECK)
    if found is None or len(found) == 0:
        return ""
    if isinstance(found, pd.DataFrame):
        bad = {str(pair): pair_check.misfits(row.to_dict()) for pair, row in found.iterrows()}
        listed = "; ".join(f"{pair}: {', '.join(names)}" for pair, names in bad.items() if names)
        text = f"Neighbours that do not pass the pair check: {listed}."
        return text if listed else "All neighbours pass the pair check."
    numbers = {str(name): float(value) for name, value in sorted(found.items())}
    text = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in numbers.items() if np.isfinite(value))
    wrong = pair_check.misfits(numbers)
    return f"Pair check: {text}{f'; beyond the limit: {wrong}' if wrong else ''}." if text else ""


def _call(record: Mapping[str, Any]) -> str:
    seed, calls = record.get("parameters", {}).get("seed"), np.atleast_1d(record.get("calls", ()))
    made = f"Made by {', then '.join(map(str, calls))}." if len(calls) else ""
    return made if seed is None else f"Seed {int(seed)}. {made}".rstrip()
