"""Which z a series has, and which of them are wanted: so many in each gap, to a spacing, or at given z."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from c2sti import _keys, _logging, _validators, io
from c2sti._types import FloatArray

SAME = 1e-6  # of the series' thickness: nearer to a measured section, a z is that section's
MOST_Z = 10_000  # more are a spacing in the wrong unit
MEASURED = "slice"  # that names of measured sections begin with


def _z_of(grids: Sequence[io.SliceGrid], z: Sequence[float] | None) -> FloatArray:
    """(n_sections,) increasing z: those given, or those that the sections carry."""
    if z is None:
        without = [g.name for g in grids if g.z is None]
        if without:
            raise ValueError(
                f"{', '.join(without)} carry no z; give z=[…] in µm, one a section, or put it into obs['z_um']"
            )
        z = [g.z for g in grids if g.z is not None]
        unnamed = [g.name for g in grids if g.obs is not None and _keys.Z_UM not in g.obs and _keys.Z in g.obs]
        if unnamed:  # a stack lays z beside x and y
            _logging.warning(
                f"obs['z'] of {', '.join(unnamed)} names no unit, and obsm['spatial_3d'] has it beside x and y as it "
                "is. Put z in the unit of x and y into obs['z_um'], or give it: z=[…]"
            )
    zs = io.depth_of_each(z, len(grids))
    _check_increasing(zs, "z of the sections", "put slices (and z) in order, and leave out what is twice")
    return zs


def _check_increasing(zs: FloatArray, what: str, fix: str) -> None:
    if not np.isfinite(zs).all() or (np.diff(zs) <= 0).any():
        raise ValueError(f"{what}, {zs.tolist()}, must increase without repeats; {fix}")


def z_wanted(
    zs: FloatArray,
    at_z: Sequence[float] | None = None,
    spacing: float | None = None,
    n_slices: int | Sequence[int] | None = None,
) -> FloatArray:
    """(S,) z of the sections wanted: those given, or all that were measured and even steps in each gap between them."""
    top, bottom = zs[[0, -1]]
    gaps = np.diff(zs)
    if sum(given is not None for given in (at_z, spacing, n_slices)) != 1:
        raise ValueError(
            f"give one of n_slices= (sections in each gap), spacing= (the sections are {gaps.min():g} to "
            f"{gaps.max():g} apart) and at_z= (z from {top:g} to {bottom:g})"
        )
    if at_z is not None:
        return _z_given(zs, at_z)
    n_steps = 1 + _numbers_given(n_slices, len(gaps)) if spacing is None else _steps(gaps, spacing)
    if n_steps.sum() > MOST_Z:
        asked = f"n_slices = {_validators.shown(n_slices)}" if spacing is None else f"spacing = {spacing:g}"
        raise ValueError(
            f"{asked} makes {n_steps.sum():.0f} sections between {top:g} and {bottom:g}; "
            + ("choose fewer" if spacing is None else "is it in the unit of z?")
        )
    inner = [
        np.linspace(above, below, int(n) + 1)[:-1] for above, below, n in zip(zs[:-1], zs[1:], n_steps, strict=True)
    ]
    return np.append(np.concatenate(inner), bottom)


def _steps(gaps: FloatArray, spacing: float) -> FloatArray:
    """(G,) how many even steps each gap has: where there are several, each is 2/3 to 5/4 of the spacing."""
    if not 0 < _validators.number(spacing, "spacing") <= gaps.sum():
        raise ValueError(f"spacing = {spacing:g} must be positive and at most {gaps.sum():g}, the whole series")
    n_steps = np.floor(gaps / spacing + 0.5 + SAME)
    if n_steps.max() < 2:
        raise ValueError(
            f"spacing = {spacing:g} leaves no room for a section in any gap: the sections are {gaps.min():g} to "
            f"{gaps.max():g} apart; give spacing={gaps.max() / 2:g} or less, or n_slices=1"
        )
    return np.asarray(np.maximum(n_steps, 1))


def _numbers_given(n_slices: int | Sequence[int] | None, n_gaps: int) -> FloatArray:
    """(G,) how many sections are wanted in each gap."""
    if not isinstance(n_slices, Iterable):
        return np.full(n_gaps, _validators.whole(n_slices, "n_slices"))
    given = _validators.several(n_slices, "n_slices", "whole numbers, one for each gap")
    if len(given) != n_gaps:
        raise ValueError(f"n_slices holds {len(given)} number(s); one for each of the {n_gaps} gaps is needed")
    return np.array([_validators.whole(n, "n_slices", least=0) for n in given])


def _z_given(zs: FloatArray, at_z: Sequence[float]) -> FloatArray:
    """(S,) `at_z`, which must increase within the series."""
    top, bottom = zs[[0, -1]]
    wanted = np.atleast_1d(_validators.reals(at_z, "at_z"))
    if wanted.ndim != 1 or len(wanted) == 0:
        raise ValueError(f"at_z has shape {wanted.shape}; a list of z is needed")
    _check_increasing(wanted, "at_z", f"try {np.unique(wanted).tolist()}")
    slack = SAME * (bottom - top)
    outside = wanted[(wanted < top - slack) | (wanted > bottom + slack)]
    if len(outside):
        raise ValueError(
            f"at_z = {outside.tolist()} lie outside of the series, which runs from {top:g} to {bottom:g}; sections can "
            "be interpolated between measured ones only"
        )
    return wanted


def places_of(zs: FloatArray, wanted: FloatArray, own: Sequence[str], key_added: str) -> pd.DataFrame:
    """By name of each section of the result: its z, the measured section before it, and its position from that.

    `position` is the fraction of the way to the next measured section, and 0 for a measured section itself.
    """
    nearest = np.abs(zs[:, None] - wanted).argmin(axis=0)
    measured = np.abs(zs[nearest] - wanted) <= SAME * np.ptp(zs)
    gap = np.clip(np.searchsorted(zs, wanted) - 1, 0, len(zs) - 2)
    position = np.where(measured, 0.0, (wanted - zs[gap]) / np.diff(zs)[gap])
    inserted = iter(_keys.inserted(key_added, int((~measured).sum())))
    names = [own[place] if known else next(inserted) for place, known in zip(nearest, measured, strict=True)]
    z, first = np.where(measured, zs[nearest], wanted), np.where(measured, nearest, gap)
    return pd.DataFrame({"z": z, "first": first, "position": position}, index=names)


def read_series(
    found: Sequence[io.Source],
    z: Sequence[float] | None,
    *,
    window: io.Windows,
    obs_keys: str | Sequence[str],
    obsm_keys: str | Sequence[str],
    key_added: str,
) -> tuple[list[io.SliceGrid], list[str], FloatArray]:
    """The sections of a series on the genes that they share, their names in a result, and (n_sections,) z.

    Names are those of `library_key`, with "|" for "/", or places in the series.
    """
    windows = io.window_for_each(window, [source.name for source in found])
    grids = io.on_shared_genes(
        [
            source.read(obs_keys=obs_keys, obsm_keys=obsm_keys, window=given, measured=True)
            for source, given in zip(found, windows, strict=True)
        ]
    )
    own = [_keys.label_column(source.name) if source.library else _keys.measured(i) for i, source in enumerate(found)]
    for name in own:
        if name.startswith(f"{key_added}_"):
            raise ValueError(
                f"the section {name!r} is called like an interpolated one; choose another prefix for those: key_added="
            )
    zs = _z_of(grids, z)
    io.check_unit(zs, grids[0].pitch)
    return [replace(g, z=own_z) for g, own_z in zip(grids, zs.tolist(), strict=True)], own, zs
