"""Sections between two measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import nn
from tqdm.auto import tqdm

from c2sti import _logging, _validators, io
from c2sti._docs import documented
from c2sti._types import FloatArray, Interpolator
from c2sti.models._registry import available, image_encoder, name_of, resolve, sees_context
from c2sti.pair_check import OnMisfit
from c2sti.tl._describe import call_of, model_record, provenance
from c2sti.tl._gap import PAIR, SHARES, check_settings, insert, shares_of
from c2sti.tl._labels import shared_labels

if TYPE_CHECKING:
    from spatialdata import SpatialData


@documented
def interpolate(
    slice_a: AnnData | SpatialData,
    slice_b: AnnData | SpatialData | None = None,
    *,
    n_slices: int | None = None,
    positions: Sequence[float] | None = None,
    at: FloatArray | None = None,
    context: Mapping[float, AnnData | SpatialData | str] | None = None,
    model: str | Path | Interpolator = "c2sti",
    library_key: str | None = None,
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    image_key: io.Key = None,
    coordinate_system: io.Key = None,
    window: io.Windows = None,
    target_images: Sequence[Mapping[str, Any] | None] | None = None,
    histology_encoder: nn.Module | None = None,
    pitch: float | None = None,
    genes: Sequence[str] | pd.Index | None = None,
    obs_keys: str | Sequence[str] = (),
    obsm_keys: str | Sequence[str] = (),
    std: bool = False,
    interval: float | None = None,
    on_misfit: OnMisfit = "warn",
    device: str | None = None,
    seed: int = 0,
    key_added: str = "c2sti",
    show_progress_bar: bool = True,
    out: str | Path | None = None,
    dense: bool = False,
    digits: int | None = None,
    max_memory: int | str | None = None,
) -> AnnData:
    """Interpolate sections between two measured ones.

    Neither input is modified. Both have to lie in a common coordinate system: see :func:`c2sti.pp.align`.

    Parameters
    ----------
    slice_a, slice_b
        Neighbouring sections of spots, bins or single cells: raw counts, which are normalised here, or log-normalised
        expression. One object that holds both, with `library_key`, may stand for the two.
    at
        (M, 2) points at which the sections are wanted; by default the bins of a common lattice.
    target_images
        H&E of the missing sections themselves: one a section, each as a library of ``uns["spatial"]``, or None.
        ``"c2sti"`` and ``"gp"`` predict expression from them if two measured sections or more have H&E.
    histology_encoder
        Encoder of the H&E for a network that was trained with one, see :func:`train`.
    dense, digits
        Whether `out` holds the layers themselves instead of factors, and how many significant decimal digits of them.
    %(shared)s

    Returns
    -------
    AnnData of M bins (or points) × N genes, float32 log1p expression; :doc:`/guide/result` describes every field:

    - ``layers["c2sti_1"]`` …: the interpolated sections; ``X`` is the middle one. ``layers["slice_a"]``,
      ``layers["slice_b"]``: the nearest measured spot, NaN outside of the section's tissue.
    - ``obs["c2sti_1_tissue"]`` … and ``obs["support"]``; annotations; ``obsm["spatial"]``; ``var["expected_pcc"]``.
    - with `std`: ``layers["c2sti_1_std"]``, ``obs["c2sti_1_confidence"]``; with `interval`: ``layers["c2sti_1_lower"]``
      and ``layers["c2sti_1_upper"]``. ``uns["c2sti"]``: provenance, pair check and gene graphs.

    Raises
    ------
    KeyError, ValueError, OSError
        An input cannot be used, or `out` cannot be written; nothing is written.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=3, show_progress_bar=False)
    >>> list(out.uns["c2sti"]["sections"])
    ['slice_a', 'c2sti_1', 'c2sti_2', 'c2sti_3', 'slice_b']
    """
    call = call_of(interpolate, locals())  # before there are other names than those of the arguments
    check_settings(key_added, on_misfit, seed, interval)
    device = available(device)
    io.check_digits(digits)
    limit = io.memory_of(max_memory)
    if out is None and (dense or digits is not None):
        name = "dense" if dense else "digits"
        raise ValueError(f"{name}= is for results that are written to a store; name one: out='sections.zarr'")
    if digits is not None and not dense:
        raise ValueError(f"digits = {digits} is for values that are written as they are; add dense=True")
    method = resolve(model)
    first, second, beside = io.pair_sources(
        slice_a,
        slice_b,
        context,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    windows = io.window_for_each(window, [first.name, second.name])
    with ExitStack() as stack:
        # Claimed before any work is done, so that a place that cannot be written to is refused at once.
        store = None if out is None else stack.enter_context(io.new_store(out))
        pair = [
            source.read(obs_keys=obs_keys, obsm_keys=obsm_keys, window=given, measured=True)
            for source, given in zip((first, second), windows, strict=True)
        ]
        if beside and not sees_context(method):
            _logging.warning(f"model={name_of(model)!r} looks at two sections only; context is ignored")
        a, b, *others = io.on_shared_genes([*pair, *(source.read(measured=True) for source in beside.values())])
        a, b = io.with_distinct_z(a, b)
        fractions = _fractions(n_slices, positions, a.z, b.z)
        what = f"interpolating {len(fractions)} section(s)"
        total = 100 if store is None else 200  # hundredths of what is computed, and of what is written
        bar = stack.enter_context(tqdm(total=total, desc=what, bar_format=SHARES, disable=not show_progress_bar))
        lattice = io.common_lattice(a, b, pitch=pitch)
        parameters = {"interval": interval, **first.parameters(), "digits": digits}
        record = provenance([a, b, *others], model_record(model, method), lattice, seed, parameters, call)
        names = {s: source.name for s, source in zip(PAIR, (first, second), strict=True) if source.library}
        frame, layers, measured, n_threads = insert(
            a,
            b,
            fractions,
            context=dict(zip(beside, others, strict=True)),
            labels=shared_labels([a, b]),
            method=method,
            record={**record, "names": names} if names else record,
            lattice=lattice,
            at=at,
            genes=genes,
            encoder=image_encoder(histology_encoder),
            targets=_targets(target_images, fractions),
            std=std,
            interval=interval,
            on_misfit=on_misfit,
            device=device,
            seed=seed,
            key_added=key_added,
            progress=shares_of(bar),
            stored=store is not None,
            max_memory=limit,
        )
        how: dict[str, Any] = {"key": key_added, "n_threads": n_threads}
        if store is None:
            n_layers = len(fractions) * (1 + len(layers.kinds())) + 3
            io.add_layers(frame, layers, measured, dense=io.is_dense(frame.shape, n_layers, limit), **how)
        else:
            how |= {"dense": dense, "digits": digits, "progress": shares_of(bar)}
            io.write_store(store, frame, layers, measured, **how)
    where = "`.layers`" if out is None else f"the layers of {out}"
    _logging.info(f"interpolated {', '.join(layers.names)} into {where} ({frame.n_obs} bins x {frame.n_vars} genes)")
    return frame if out is None else io.read_zarr(out, key=key_added)


def _fractions(
    n_slices: int | None, positions: Sequence[float] | None, z_a: float | None, z_b: float | None
) -> FloatArray:
    if positions is None:
        n = _validators.whole(1 if n_slices is None else n_slices, "n_slices")
        return np.arange(1, n + 1) / (n + 1)
    if n_slices is not None:
        raise ValueError(
            f"n_slices = {_validators.shown(n_slices)} and positions = {_validators.shown(positions)} both say which "
            "sections are wanted; give one of the two"
        )
    return io.position_of(positions, z_a, z_b)


def _targets(
    images: Sequence[Mapping[str, Any] | None] | None, fractions: FloatArray
) -> dict[float, io.HEImage] | None:
    if images is None:
        return None
    images = _validators.several(images, "target_images", "images, one a section")
    if len(images) != len(fractions):
        raise ValueError(
            f"target_images holds {len(images)} image(s) for {len(fractions)} section(s); give one a section, None "
            "where there is none"
        )
    pairs = zip(fractions.tolist(), images, strict=True)
    return {p: io.image_of(image, f"target_images[{i}]") for i, (p, image) in enumerate(pairs) if image is not None}
