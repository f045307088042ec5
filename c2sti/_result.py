"""What a result holds: its record, and the parts and genes that it names."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _validators
from c2sti._types import Lattice

NAMES = ("sections", "inserted")
STATISTICS = (
    "Interpolated values are expectations, smooth in space and without the noise of counts: tests on them "
    "(differential expression, Moran's I) find far too much. Use the counts of c2sti.tl.sample_counts, "
    "which are as noisy as measured ones, and count neither as a replicate."
)
AGAIN = "make the result again, or keep what it came with"


def is_result(adata: AnnData, key: str) -> bool:
    """Whether ``uns[key]`` is a record that names sections."""
    record = adata.uns.get(key)
    return isinstance(record, Mapping) and "sections" in record


def record_of(adata: AnnData, key: str, needs: Collection[str] = NAMES) -> Mapping[str, Any]:
    """The record of a result, ``uns[key]``; TypeError or KeyError where there is none, or it lacks what is needed."""
    _validators.a(adata, "adata", AnnData, "the AnnData that c2sti.tl.interpolate gave")
    record = adata.uns.get(_validators.text(key, "key"))
    if not isinstance(record, Mapping) or not record:
        raise KeyError(f"uns[{key!r}] does not hold the result of c2sti.tl.interpolate; uns has {sorted(adata.uns)}")
    lacking = [name for name in needs if name not in record]
    if lacking:
        raise KeyError(
            f"uns[{key!r}] lacks {', '.join(map(repr, lacking))}, which the result of c2sti.tl.interpolate holds; "
            f"{AGAIN}"
        )
    return record


def record_of_some(record: Mapping[str, Any], sections: Sequence[str]) -> dict[str, Any]:
    """The record of some sections of a result, without its gene graphs, which are those of all."""
    kept, inserted = ([str(name) for name in record[part]] for part in NAMES)
    places = [kept.index(name) for name in sections]
    made = [name for name in sections if name in inserted]
    found = {k: v for k, v in record.items() if k != _keys.COEXPRESSION}
    found |= {k: np.asarray(record[k])[places] for k in ("positions", "z") if k in record}
    if "neighbours" in found:
        found["neighbours"] = found["neighbours"].loc[made]
    if "displacement" in (notes := found.get("notes", {})):
        moved = np.asarray(notes["displacement"])[[inserted.index(name) for name in made]]
        found["notes"] = {**notes, "displacement": moved}
    if not made:
        found.pop(_keys.STATISTICS, None)
    return {**found, "synthetic": bool(made), "sections": list(sections), "inserted": made}


def lattice_of(record: Mapping[str, Any], key: str) -> Lattice:
    """The lattice of a record; KeyError if it is incomplete."""
    stored, where = record.get("lattice"), f"uns[{key!r}]['lattice']"
    if not isinstance(stored, Mapping) or not {"origin", "pitch", "shape"} <= set(stored):
        held = sorted(stored) if isinstance(stored, Mapping) else "nothing"
        raise KeyError(f"{where} holds {held}, not origin, pitch and shape; {AGAIN}")
    x, y = _validators.reals(stored["origin"], f"{where}['origin']").tolist()
    height, width = (_validators.whole(n, f"{where}['shape']") for n in np.asarray(stored["shape"]).tolist())
    return Lattice((x, y), _validators.number(stored["pitch"], f"{where}['pitch']", above=0), (height, width))


def check_parts(
    adata: AnnData, *, layers: Sequence[str] = (), obs: Sequence[str] = (), obsm: Sequence[str] = ()
) -> None:
    """Refuse a result that lacks a layer, a column of `obs` or an array of `obsm`; KeyError."""
    for where, held, wanted in (("layers", adata.layers, layers), ("obs", adata.obs, obs), ("obsm", adata.obsm, obsm)):
        there = sorted(str(name) for name in held if name is not None)
        for name in wanted:
            if name not in there:
                factors = where == "layers" and any(str(key).endswith("_factors") for key in adata.obsm)
                fix = "c2sti.tl.materialize makes layers of the factors in obsm" if factors else AGAIN
                raise KeyError(f"{where}[{name!r}] is missing from the result, which has {there}; {fix}")


def check_sections(adata: AnnData, names: Sequence[str], *, layers: bool = True) -> None:
    """Refuse a result, of one layer a section, that lacks a section's values or rows."""
    columns = [_keys.SUPPORT, *map(_keys.tissue, names)]
    check_parts(adata, layers=names if layers else (), obs=columns, obsm=[_keys.SPATIAL])


def check_stack(adata: AnnData) -> None:
    """Refuse a stack, of one row for each section and bin, that lacks places or depths."""
    check_parts(adata, obs=[_keys.SECTION, _keys.INSERTED, _keys.Z], obsm=[_keys.SPATIAL])


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name, or where it is taken (in capitals or not) one that begins with ``c2sti_``."""
    lower = {str(one).lower() for one in taken}
    others = (f"{_keys.RESULT}_{name}{end}" for end in chain([""], (f"_{i}" for i in count(2))))
    return next(one for one in chain([name], others) if one.lower() not in lower)


def log1p_of(record: Mapping[str, Any]) -> dict[str, float] | None:
    """``uns["log1p"]`` of a result, so that scanpy knows of its logarithm; None where that is not known.

    The base of the natural logarithm is a number: scanpy's own None makes files that anndata before 0.12 cannot read.
    """
    given = record.get(_keys.LOG1P)
    if given is None and not str(record.get("expression", "")).startswith("log1p of counts"):
        return None
    base = None if given is None else given.get("base")
    return {"base": float(math.e if base is None else base)}


def name_of(record: Mapping[str, Any], place: int) -> str:
    """Name of a measured section of a series, by its place in it."""
    return str(record["slices"][place]) if "slices" in record else _keys.measured(place)


def image_of(library: Mapping[str, Any], section: str) -> tuple[NDArray[Any], float] | None:
    """H&E of a section, (H, W, 3), and its pixels per unit, by a library of ``uns["spatial"]``; None where blank."""
    images = library.get("images", {})
    key = section if section in images else "hires"
    pixels = np.asarray(images.get(key, 0))
    return (pixels, float(library["scalefactors"][f"tissue_{key}_scalef"])) if pixels.min() < pixels.max() else None


# ---- genes, by their names or by others that `var` has for them


def genes_of(wanted: Any, names: pd.Index, var: pd.DataFrame, where: str = "var_names") -> pd.Index:
    """Names of genes, in the order given, each by its name or by a text column of `var`, such as symbols.

    TypeError, ValueError or KeyError where one is unknown, or names several genes, or two name the same; `where` is
    what the message calls `names`.
    """
    given = _validators.gene_names(wanted)
    called = _called([one for one in given if one not in names], names, var)
    meant = [called.get(one, one) for one in given]
    first: dict[str, str] = {}
    for one, gene in zip(given, meant, strict=True):
        if first.setdefault(gene, one) != one:
            raise ValueError(f"genes= names {first[gene]!r} and {one!r}, which are one gene; name each once")
    return pd.Index(_validators.genes(meant, names, where))


def gene_of(adata: AnnData, gene: str) -> str:
    """The one of `var_names` that is meant by a name, or by a text column of `var`; an error where that is not one."""
    if _validators.text(gene, "gene") in adata.var_names:
        return gene
    found = _called([gene], adata.var_names, adata.var)
    if gene not in found:
        first = ", ".join(map(repr, adata.var_names[:1]))
        columns = ", ".join(map(repr, _text_columns(adata.var)))
        beside = f"; no gene of that name is in columns of var, {columns}, either" if columns else ""
        raise KeyError(f"there is no gene {gene!r}; var_names has {adata.n_vars}, such as {first}{beside}")
    return found[gene]


def names_like(adata: AnnData, gene: str) -> pd.Index:
    """(N,) names of all genes by `var_names`, or by the column of `var` that a gene was named by."""
    columns = [] if gene in adata.var_names else _text_columns(adata.var)
    kind = next((column for column in columns if adata.var[column].isin([gene]).any()), None)
    if kind is None:
        return adata.var_names
    return pd.Index(adata.var[kind].astype(object).where(adata.var[kind].notna(), adata.var_names))


def _called(wanted: Sequence[str], names: pd.Index, var: pd.DataFrame) -> dict[str, str]:
    """Genes by what text columns of `var` call them; ValueError where several are called so."""
    found: dict[str, dict[str, str]] = {one: {} for one in wanted}
    for column in _text_columns(var) if wanted else ():
        values = var[column].to_numpy(dtype=object)
        for i in np.flatnonzero(var[column].isin(wanted)):
            found[values[i]][str(names[i])] = column
    for one, genes in found.items():
        if len(genes) > 1:
            listed = ", ".join(list(genes)[:3]) + (", …" if len(genes) > 3 else "")
            raise ValueError(
                f"{one!r} is var[{next(iter(genes.values()))!r}] of {len(genes)} genes ({listed}); name one of these"
            )
    return {one: next(iter(genes)) for one, genes in found.items() if genes}


def _text_columns(var: pd.DataFrame) -> list[str]:
    """Columns that hold text, as strings or as categories."""
    found = []
    for column in var.columns if isinstance(var, pd.DataFrame) else ():  # `var` may be lazy
        kind = var[column].dtype
        kind = kind.categories.dtype if isinstance(kind, pd.CategoricalDtype) else kind
        if pd.api.types.is_object_dtype(kind) or pd.api.types.is_string_dtype(kind):
            found.append(column)
    return found
