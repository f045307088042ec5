"""What a result has to hold so that it can be taken apart, drawn or described: its record, and the parts it names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData

from c2sti import _check, _keys
from c2sti._types import Lattice

NAMES = ("sections", "inserted")
AGAIN = "make the result again, or keep what it came with"


def is_result(adata: AnnData, key: str) -> bool:
    """Whether ``uns[key]`` is a record that names sections."""
    record = adata.uns.get(key)
    return isinstance(record, Mapping) and "sections" in record


def record_of(adata: AnnData, key: str, needs: Collection[str] = NAMES) -> Mapping[str, Any]:
    """The record of a result, ``uns[key]``.

    Parameters
    ----------
    adata
        What was given as one.
    key
        The `key_added` that it was made with.
    needs
        What the record has to hold.

    Raises
    ------
    TypeError
        It is no AnnData.
    KeyError
        There is no record, or it lacks something.
    """
    _check.a(adata, "adata", AnnData, "the AnnData that c2sti.tl.interpolate gave")
    record = adata.uns.get(_check.text(key, "key"))
    if not isinstance(record, Mapping) or not record:
        raise KeyError(f"uns[{key!r}] does not hold the result of c2sti.tl.interpolate; uns has {sorted(adata.uns)}")
    lacking = [name for name in needs if name not in record]
    if lacking:
        raise KeyError(
            f"uns[{key!r}] lacks {', '.join(map(repr, lacking))}, which the result of c2sti.tl.interpolate holds; "
            f"{AGAIN}"
        )
    return record


def lattice_of(record: Mapping[str, Any], key: str) -> Lattice:
    """The lattice of a record.

    Raises
    ------
    KeyError
        It is not there, or not whole.
    """
    stored = record.get("lattice")
    if not isinstance(stored, Mapping) or not {"origin", "pitch", "shape"} <= set(stored):
        held = sorted(stored) if isinstance(stored, Mapping) else "nothing"
        raise KeyError(f"uns[{key!r}]['lattice'] holds {held}, not origin, pitch and shape; {AGAIN}")
    where = f"uns[{key!r}]['lattice']"
    x, y = _check.reals(stored["origin"], f"{where}['origin']").tolist()
    height, width = (_check.whole(n, f"{where}['shape']") for n in np.asarray(stored["shape"]).tolist())
    return Lattice((x, y), _check.number(stored["pitch"], f"{where}['pitch']", above=0), (height, width))


def check_parts(
    adata: AnnData,
    *,
    layers: Sequence[str] = (),
    obs: Sequence[str] = (),
    obsm: Sequence[str] = (),
) -> None:
    """Refuse a result that has lost something.

    Raises
    ------
    KeyError
        A layer, column or array is not there; the message names it, and those that are.
    """
    for where, held, wanted in (("layers", adata.layers, layers), ("obs", adata.obs, obs), ("obsm", adata.obsm, obsm)):
        there = sorted(str(name) for name in held if name is not None)
        for name in wanted:
            if name not in there:
                raise KeyError(f"{where}[{name!r}] is missing from the result, which has {there}; {AGAIN}")


def check_sections(adata: AnnData, names: Sequence[str], *, layers: bool = True) -> None:
    """Refuse a result, of one layer a section, that lacks a section's values or rows."""
    check_parts(
        adata,
        layers=names if layers else (),
        obs=[_keys.SUPPORT, *map(_keys.tissue, names)],
        obsm=[_keys.SPATIAL],
    )


def check_stack(adata: AnnData) -> None:
    """Refuse a stack, of one row for each section and bin, that lacks places or depths."""
    check_parts(adata, obs=[_keys.SECTION, _keys.INSERTED, _keys.Z], obsm=[_keys.SPATIAL])
