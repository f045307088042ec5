"""What plots need to know of a result: which sections it has, which of them were measured, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _result
from c2sti._types import FloatArray


@dataclass(frozen=True)
class Record:
    """Provenance of a result, ``uns[key]``, as plots read it.

    Parameters
    ----------
    key
        Its name in `uns`.
    names
        All sections in order of z.
    inserted
        Those that were computed.
    captions
        z of each section, or its position; empty at the ends of a pair without z.
    titles
        What figures call each section: its name, behind that by which its measured section is known.
    content
        All of ``uns[key]``.
    """

    key: str
    names: tuple[str, ...]
    inserted: frozenset[str]
    captions: Mapping[str, str]
    titles: Mapping[str, str]
    content: Mapping[str, Any]

    @property
    def pitch(self) -> float:
        """Side of a bin, unit of the frame."""
        return _result.lattice_of(self.content, self.key).pitch

    @property
    def middle(self) -> str:
        """The middle one of the interpolated sections, which is also the `X` of a result."""
        order = [name for name in self.names if name in self.inserted]
        return order[(len(order) - 1) // 2]

    def check(self, section: str) -> str:
        """The section, if there is one of that name.

        Raises
        ------
        KeyError
            There is not.
        """
        if section not in self.names:
            raise KeyError(f"there is no section {section!r}; uns[{self.key!r}] has {', '.join(self.names)}")
        return section


def rows_of(adata: AnnData, section: str) -> NDArray[np.bool_]:
    """(M,) rows inside the tissue of a section, whether sections are layers over the same rows or rows of a stack."""
    if is_stack(adata):
        return (adata.obs[_keys.SECTION] == section).to_numpy()
    return adata.obs[_keys.tissue(section)].to_numpy(dtype=bool)


def is_stack(adata: AnnData) -> bool:
    """Whether sections are rows, as :func:`c2sti.tl.to_slices` and :func:`c2sti.tl.interpolate_series` give them."""
    return _keys.SECTION in adata.obs


def record_of(adata: AnnData, key: str) -> Record:
    """Read ``uns[key]``.

    Raises
    ------
    KeyError
        `adata` is no result of :func:`c2sti.tl.interpolate`, or was made with another `key_added`, or lacks a part.
    TypeError
        `adata` is no AnnData.
    """
    content = _result.record_of(adata, key)
    names = tuple(str(name) for name in content["sections"])
    known = content.get("names", {})
    return Record(
        key,
        names,
        frozenset(str(name) for name in content["inserted"]),
        dict(zip(names, _captions(content, key, len(names)), strict=True)),
        {name: f"{known[name]} ({name})" if name in known else name for name in names},
        content,
    )


def check_drawn(adata: AnnData, record: Record, sections: Sequence[str]) -> None:
    """Refuse a result whose sections cannot be drawn, because values, rows or places are missing."""
    _result.lattice_of(record.content, record.key)
    if is_stack(adata):
        _result.check_stack(adata)
    else:
        _result.check_sections(adata, sections)


def values_of(adata: AnnData, gene: str, layer: str | None = None) -> FloatArray:
    """(M,) values of a gene in `X` or a layer, wherever it lies; `obs` may have a column of that name."""
    matrix = adata.X if layer is None else adata.layers[layer]
    column = matrix[:, [adata.var_names.get_loc(gene)]]
    column = column.compute() if hasattr(column, "compute") else column
    return np.asarray(column.toarray() if sp.issparse(column) else column).ravel()


def _captions(content: Mapping[str, Any], key: str, n: int) -> list[str]:
    kind = "z" if "z" in content else "positions"
    if np.shape(content.get(kind, 0)) != (n,):
        raise KeyError(f"uns[{key!r}][{kind!r}] does not hold a number for each of {n} sections; {_result.AGAIN}")
    if kind == "z":
        return [f"z = {z:.0f}" for z in np.asarray(content["z"])]
    return ["" if p in (0, 1) else f"at {p:.2f}" for p in np.asarray(content["positions"])]
