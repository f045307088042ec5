"""Make the missing sections between two measured ones."""

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

from c2sti import _keys, _logging, _validators, io
from c2sti._types import FloatArray, Interpolator
from c2sti.models._registry import available, image_encoder, name_of, resolve, sees_context
from c2sti.pair_check import OnMisfit, check_on_misfit
from c2sti.tl._describe import call_of, model_record
from c2sti.tl._gap import SHARES, Stream, check_key, check_level, finished, insert, shares_of
from c2sti.tl._labels import shared_labels

PAIR = (_keys.SLICE_A, _keys.SLICE_B)

if TYPE_CHECKING:
    from spatialdata import SpatialData


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
    """Make the missing sections between two measured ones.

    Neither input is modified. Both have to lie in a common coordinate system: see :func:`c2sti.pp.align`.

    Parameters
    ----------
    slice_a, slice_b
        Neighbouring sections: raw counts (scaled to 1e4 a spot over the genes that the sections share, and log1p'd
        here) or log-normalised expression (taken as it is, and returned on the same scale). Spots, bins or single
        cells; rows that ``obs["in_tissue"]`` says lie outside of the tissue are left out; genes are matched by name.
        One object that holds both, with `library_key`, may stand for the two.
    n_slices
        Number of sections to interpolate, at i / (n_slices + 1), i = 1 … n_slices; 1 by default.
    positions
        Where to interpolate sections instead: fractions in (0, 1) of the way from `slice_a` to `slice_b`, or z in the
        unit of ``obs["z_um"]`` (or ``obs["z"]``) when both sections carry one.
    at
        (M, 2) points of the frame, in its unit, at which the sections are wanted. By default the bins of a common
        lattice inside the union of both tissues.
    context
        Further sections of the series, in the same frame, by their position on the scale of the pair (`slice_a` is 0,
        `slice_b` is 1): ``{-1.0: before, 2.0: after}``, objects or, with `library_key`, names of sections. On real
        series they raise the correlation with a held-out section by several per cent. ``"copy"``, ``"linear"``,
        ``"rbi"`` and the compared networks (``c2sti.training.train_compared``) ignore them.
    model
        ``"c2sti"`` (the checkpoint that comes with the package), a folder with another, or a model of
        :func:`train`; ``"gp"`` (Gaussian process on each principal axis), ``"lowrank"``, ``"linear"``, ``"copy"``,
        ``"rbi"`` (along a registration of the pair; needs the extra ``registration``); any
        callable of the same form.
    library_key
        Column of `obs` that names the section of each row, where one object holds several. They come in order of z,
        where each has one, else in that of the categories; their names stay in messages, figures and ``uns``.
    layer
        Layer that holds the expression; `X` by default. `layer`, `table_key`, `image_key` and `coordinate_system` take
        one value for all sections, a list with one for each (the pair, then `context`), or a dict by name
        (``"slice_a"``, or the name in `library_key`).
    spatial_key
        Key of the coordinates in ``obsm``. By default ``"spatial_aligned"`` where all sections have been aligned (see
        :func:`c2sti.pp.align`), else ``"spatial"``; the log says which.
    table_key, coordinate_system
        Table and coordinate system of a SpatialData. By default the aligned one as above, else "global", else that of
        the spots.
    image_key
        Library of ``uns[spatial_key]``, or image of a SpatialData, that is the section's H&E, where there are several
        and no constant column of `obs` names the library. An image that cannot be used is left out with a warning.
    window
        Capture window of the sections in their frame, (x0, y0, x1, y1) or (k, 2) corners: where a section ends at its
        window the interpolated outline does not shrink, and what one could not see is taken from the other. One for all
        sections, a list, or a dict by name. By default told from off-tissue rows, Visium's array, or straight borders.
    target_images
        H&E of the missing sections themselves, where they were stained though not sequenced: one a section, in order,
        each as a library of ``uns["spatial"]`` (``{"images": {"hires": …}, "scalefactors": {…}}``) in the common frame,
        None where there is none. ``"c2sti"`` lets it decide which neighbour a place is nearer to.
    histology_encoder
        Describes the H&E for a network that was trained with one, see :func:`train`.
    pitch
        Side of a bin of the result, in the unit of the frame. By default the distance between neighbouring spots; for
        single cells (1,000 or more irregular points) the side of a bin that holds about four. Points finer than two
        thirds of it are gathered into its bins.
    genes
        Names of the genes wanted; by default all that the sections share. The model sees all of them in any case.
    obs_keys
        Columns of `obs` to carry into the interpolated sections: labels (cell types, domains, a pathologist's) or
        numbers. They move with the tissue, are averaged as ``"linear"`` averages expression, and context is not used
        for them. Labels are text or categories; whole numbers are labels where another section has text; bool is
        carried as a share. What one section lacks is carried from the other.
    obsm_keys
        Tables of `obsm` to carry along column by column, such as cell-type proportions: DataFrame, array or sparse.
        Columns are matched by name and have to mean the same in both sections. Columns that proportions lack are 0.
    std
        Whether to add how uncertain each interpolated value is. A layer more for each interpolated section; of time
        little.
    interval
        Probability, 0.9 say, of the intervals to add: two layers more for each interpolated section, see Notes.
    on_misfit
        What to do where the two sections do not seem to belong together, by :func:`c2sti.pp.check_pair`: ``"warn"``,
        ``"raise"`` a ValueError, or ``"ignore"``. The numbers are kept in any case.
    device
        Where the work is done, ``"cpu"`` or ``"cuda"``; by default a GPU where there is one.
    seed
        Of every random choice.
    key_added
        Prefix of the interpolated layers, and key of the provenance in `uns`.
    show_progress_bar
        Whether to show one.
    out
        Where to write the result instead of holding it in memory: a zarr store, ``"sections.zarr"``, that is not there
        yet. Returned is the store, opened, with lazy layers.
    dense
        Whether `out` holds the layers themselves, written block by block, and not the factors that make them.
    digits
        Significant decimal digits that `out` keeps of layers with `dense`; by default all that float32 has.
    max_memory
        Memory to get by with, in bytes or as text, ``"8GB"``: a larger result has lazy layers, and with `out` too
        little is refused with the least that works. What the default model needs while it works is counted; that of
        other methods is not, nor what the caller and the libraries hold.

    Returns
    -------
    AnnData of M bins (or points) × N genes, float32, log1p expression:

    - ``layers["slice_a"]``, ``layers["slice_b"]``: the measured sections on the rows of the result, for drawing: the
      nearest spot, which ``obs["slice_a_spot"]`` and ``obs["slice_b_spot"]`` name; NaN outside of their tissue.
    - ``layers["c2sti_1"]`` …: the interpolated sections, ≥ 0. ``X`` is the middle one.
    - with `std`: ``layers["c2sti_1_std"]`` …, float32, standard deviation of each interpolated value as an estimate of
      the mean expression there, see Notes; ``obs["c2sti_1_confidence"]`` …, in [0, 1]: the variance of the interpolated
      values between the bins of the section, over the same plus the bin's own std², both summed over genes. ½ says that
      the bin is as unsure as bins differ.
    - with `interval`: ``layers["c2sti_1_lower"]``, ``layers["c2sti_1_upper"]`` …, float32, ≥ 0: between them a value
      *measured* there would lie with that probability, count noise included.
    - ``obsm["spatial"]``: (M, 2) in the unit of the frame.
    - ``obs["support"]``: which measured section covers a row. ``obs["c2sti_1_tissue"]`` …: whether the row lies inside
      the outline of that section. ``obs["inserted"]``: True, as ``X`` was made and not measured. Where counts were
      given, ``obs["slice_a_library_size"]``, ``obs["slice_b_library_size"]``: those of the measured spot, over all of
      the genes that the sections share, NaN outside of the tissue. Where a section's capture window is known,
      ``obs["slice_a_seen"]``, ``obs["slice_b_seen"]``: whether the row lies in it.
    - with `obs_keys`, for each of them, say "domain": ``obs["c2sti_1_domain"]`` …, the most probable label (or the
      number), NaN where no spot within two spot spacings has one; ``obsm["c2sti_1_domain"]``, probabilities of labels,
      (M, labels) float32, rows add up to 1, "|" for "/" in the columns; ``obs["slice_a_domain"]``,
      ``obs["slice_b_domain"]``, of the nearest spot; ``uns["c2sti_1_domain_colors"]`` … where a section has colours.
      With `obsm_keys`: ``obsm["c2sti_1_<key>"]``, ``obsm["slice_a_<key>"]`` …, (M, columns) float32.
    - ``uns["c2sti"]["coexpression"]``: gene graph of each section, CSR, the 30 strongest Pearson correlations a gene,
      made from the measured sections weighted by 1 − p and p (eq. 2); under ``"genes"`` the names of the genes that it
      joins, the 2,000 most variable. :func:`coexpression` makes those of any gene.
    - ``uns["c2sti"]``: positions, depths, model with the hash of its weights, parameters with the seed, the call,
      versions, fingerprints of the inputs, ``synthetic: True``.
    - ``uns["c2sti"]["pair_check"]``: numbers of :func:`c2sti.pp.check_pair` by name, and ``folded_bins``:
      the share of bins in which the model's displacement turns tissue inside out. NaN where it cannot be told.
    - ``uns["spatial"]["c2sti"]``: virtual H&E of the interpolated sections where both have H&E, else a blank image, so
      that ``sq.pl.spatial_scatter(out, color=gene, layer="c2sti_1", shape="square")`` draws at once. Its image is
      that of ``X``; ``img_res_key="c2sti_1"`` (or ``"slice_a"`` …) chooses that of a section. Names of the sections
      whose image was made are in ``uns["c2sti"]["virtual_histology"]``.

    Raises
    ------
    KeyError, ValueError
        An input cannot be used; the message names it, what was found and what to do. Nothing is written.
    FileExistsError, FileNotFoundError, PermissionError
        There is something at `out`, or no folder to write it into, or not the right to; before any work is done.
    OSError
        The disk is full; what was written has been removed again.

    Warns
    -----
    UserWarning
        The two sections do not seem to belong together; the message says which number is off, and what to do.

    Notes
    -----
    The variance std² has two parts. One is what the noise of the measured spots becomes on its way through the method:
    the posterior variance of the maps times the squared loadings of the genes (``"c2sti"``, ``"gp"``), the sum of the
    squared weights times the noise of a spot (the others; none for a callable that does not tell). The other is what
    the two neighbours disagree on: p (1 − p) times the squared difference between what the method says right beside
    `slice_b` and right beside `slice_a`. Where only one of them has tissue (``obs["support"]`` is "a" or "b") nobody
    knows what the other would say: there it is at least p (for "a") or 1 − p (for "b") times the mean of that squared
    difference over the bins that both cover. It is the doubt about a mean: a measured spot scatters around it by far
    more.

    Intervals are for such a spot. The model predicts the measured spots of `slice_a` as part of a section right beside
    `slice_b`, and the reverse; how the measured values of a gene lie around that, where about as much was predicted,
    gives the ends (split-conformal prediction). They assume that the missing section is sequenced as deeply as the two,
    hold on average over the bins of a gene and not in each of them, and cannot be exact where more zeros are measured
    than the level leaves out: an interval from 0 to 0 may be right more often than it says.

    A prediction is a product of weights and loadings, of the least rank that keeps values to 1e-4 of their spread. If
    the result is larger than `max_memory`, or than 1 GB, or in a store, layers are lazy: arrays of dask that are made
    from the factors when somebody looks at them. The store keeps the factors in `obsm` and `varm`, and the measured
    sections as CSR; :func:`c2sti.read_zarr` opens it. The guide says what is in it, and what is counted as memory.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=3, show_progress_bar=False)
    >>> list(out.uns["c2sti"]["sections"])
    ['slice_a', 'c2sti_1', 'c2sti_2', 'c2sti_3', 'slice_b']

    Into a store, of which one gene is read:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     big = c2sti.tl.interpolate(a, b, out=f"{folder}/sections.zarr", show_progress_bar=False)
    ...     big[:, "gene_001"].to_memory().layers["c2sti_1"].shape == (big.n_obs, 1)
    True
    """
    call = call_of(interpolate, locals())  # before there are other names than those of the arguments
    check_level(interval)
    check_on_misfit(on_misfit)
    check_key(key_added)
    _validators.seed(seed)
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
        # Claimed before any work is done: a place that cannot be written to is better known now.
        store = None if out is None else stack.enter_context(io.new_store(out))
        pair = [
            source.read(obs_keys=obs_keys, obsm_keys=obsm_keys, window=given, measured=True)
            for source, given in zip((first, second), windows, strict=True)
        ]
        if beside and not sees_context(method):
            _logging.warning(f"model={name_of(model)!r} looks at two sections only; context is ignored")
        a, b, *others = io.on_shared_genes([*pair, *(source.read(measured=True) for source in beside.values())])
        a, b = io.with_told_z(a, b)
        fractions = _fractions(n_slices, positions, a.z, b.z)
        what = f"interpolating {len(fractions)} section(s)"
        total = 100 if store is None else 200  # hundredths of what is computed, and of what is written
        bar = stack.enter_context(tqdm(total=total, desc=what, bar_format=SHARES, disable=not show_progress_bar))
        made = insert(
            a,
            b,
            fractions,
            context=dict(zip(beside, others, strict=True)),
            labels=shared_labels([a, b]),
            method=method,
            model=model_record(model, method),
            call=call,
            lattice=io.common_lattice(a, b, pitch=pitch),
            at=at,
            genes=genes,
            encoder=image_encoder(histology_encoder),
            targets=_targets(target_images, fractions),
            std=std,
            interval=interval,
            on_misfit=on_misfit,
            parameters={"interval": interval, **first.told(), "digits": digits},
            names={s: source.name for s, source in zip(PAIR, (first, second), strict=True) if source.keys.library},
            device=device,
            seed=seed,
            key_added=key_added,
            progress=shares_of(bar),
            stored=store is not None,
            max_memory=limit,
        )
        result = finished(
            made,
            key_added=key_added,
            stream=None if store is None else Stream(store, dense, digits),
            max_memory=limit,
            progress=shares_of(bar),
        )
    added = ", ".join(_keys.inserted(key_added, len(fractions)))
    where = "`.layers`" if out is None else f"the layers of {out}"
    _logging.info(f"inserted {added} into {where} ({result.n_obs} bins x {result.n_vars} genes)")
    return result if out is None else io.read_zarr(out, key=key_added)


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
