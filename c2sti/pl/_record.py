"""What plots need to know of a result: which sections it has, which of them were measured, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys


@dataclass(frozen=True)
class Record:
    """Provenance of a result, ``uns[key]``, as plots read it.

    Parameters
    ----------
    key
        Its name in `uns`.
    names
        All sections in order of depth.
    inserted
        Those that were computed.
    captions
        Depth of each section, or its position; empty at the ends of a pair without depths.
    content
        All of ``uns[key]``.
    """

    key: str
    names: tuple[str, ...]
    inserted: frozenset[str]
    captions: Mapping[str, str]
    content: Mapping[str, Any]

    @property
    def pitch(self) -> float:
        """Side of a bin, unit of the frame."""
        return float(self.content["lattice"]["pitch"])

    @property
    def middle(self) -> str:
        """The middle one of the inserted sections, which is also the `X` of a result."""
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


def is_result(adata: AnnData, key: str) -> bool:
    """Whether ``uns[key]`` was written by :func:`c2sti.tl.interpolate` or :func:`c2sti.tl.interpolate_series`."""
    return key in adata.uns and isinstance(adata.uns[key], Mapping) and "sections" in adata.uns[key]


def record_of(adata: AnnData, key: str) -> Record:
    """Read ``uns[key]``.

    Raises
    ------
    KeyError
        `adata` is no result of :func:`c2sti.tl.interpolate`, or was made with another `key_added`.
    """
    if not is_result(adata, key):
        raise KeyError(f"uns[{key!r}] does not hold the result of c2sti.tl.interpolate; uns has {sorted(adata.uns)}")
    content = adata.uns[key]
    names = tuple(str(name) for name in content["sections"])
    return Record(
        key,
        names,
        frozenset(str(name) for name in content["inserted"]),
        dict(zip(names, _captions(content), strict=True)),
        content,
    )


def _captions(content: Mapping[str, Any]) -> list[str]:
    if "z" in content:
        return [f"z = {z:.0f}" for z in np.asarray(content["z"])]
    return ["" if p in (0, 1) else f"at {p:.2f}" for p in np.asarray(content["positions"])]
