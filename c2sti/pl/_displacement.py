"""How far, and where to, the tissue of an interpolated section was moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.spatial import KDTree

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.pl._axes import (
    HALO,
    Record,
    check_drawn,
    check_look,
    draw_bins,
    figure_of,
    fit,
    mark,
    one_panel,
    panel_size,
    record_of,
    rows_of,
    save_figure,
)

PANEL = 4.6  # inches
ARROWS = 20  # about as many along the longer side
STILL = 1e-3  # bins; a field that nowhere moves tissue further moves nothing
INK = "#12203a"


def displacement(
    adata: AnnData,
    section: str | None = None,
    *,
    key: str = "c2sti",
    img: bool | np.ndarray = True,
    scale_factor: float | None = None,
    img_alpha: float = 0.75,
    cmap: str = "viridis",
    scalebar_dx: float | None = None,
    scalebar_units: str = "µm",
    ax: Axes | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Where the tissue of an interpolated section was moved, as arrows over its H&E or over the distance.

    The arrows point the way that the tissue takes from slice_a to slice_b. They are magnified so that they can be seen;
    the arrow below the map says by how much. A model whose displacement is zero is drawn as what it is, without arrows.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate` by a network.
    section
        An interpolated section; the middle one by default.
    key
        The `key_added` that the result was made with.
    img
        Whether to draw the H&E in ``uns["spatial"]``, that of the section or of the result, where it is more than a
        blank; or an image of one's own, (h, w, 3), in the frame of the result.
    scale_factor
        Pixels of `img` in one unit of the frame, if it is an image of one's own.
    img_alpha
        Opacity of the image.
    cmap
        Colours of the distance, which is drawn by ``squidpy.pl.spatial_scatter`` where there is no image.
    scalebar_dx
        `scalebar_units` in one unit of the coordinates: 1 where they are in µm, µm per pixel where they are pixels.
        Left out, lengths are given in units of the coordinates.
    scalebar_units
        Name of that unit.
    ax
        Axes to draw into.
    save
        File to write the figure to.

    Returns
    -------
    The axes; their coordinates are those of ``obsm["spatial"]``.

    Raises
    ------
    KeyError
        `adata` is not such a result, has no such section, or its model has no displacement.
    ValueError
        The section was measured, or `img` comes without its scale.

    Notes
    -----
    ``uns[key]["notes"]["displacement"]``, (S, 2, H, W) in units of the coordinates, points from each bin to where its
    material lies in slice_a; the arrows are its reverse. It is zero at both ends of the gap.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, show_progress_bar=False)
    >>> ax = c2sti.pl.displacement(out, scalebar_dx=1.0)
    """
    record = record_of(adata, key)
    section = _inserted(record, section)
    check_look(save, cmap)
    _validators.number(img_alpha, "img_alpha", least=0, most=1)
    if scalebar_dx is not None:
        _validators.number(scalebar_dx, "scalebar_dx", above=0)
    check_drawn(adata, record, [section])
    field = _field(record, section)
    centres = _centres(record, field)
    inside = _inside(adata, record, section, centres)
    picture = _picture(adata, record, section, img, scale_factor)
    ax = one_panel(section, ax, size=panel_size(adata, record, PANEL))
    unit = (1.0, "units") if scalebar_dx is None else (scalebar_dx, scalebar_units)
    if picture is not None:
        pixels, scale = picture
        height, width = pixels.shape[:2]
        ax.imshow(pixels, extent=(0, width / scale, height / scale, 0), alpha=img_alpha)
    else:
        _draw_distance(ax, adata, record, section, field, centres, cmap, unit)
    _draw_arrows(ax, -field, centres, inside, record, unit)
    mark(ax, record, section)
    fit(ax, adata, record)
    save_figure(ax, save)
    return ax


def _inserted(record: Record, section: str | None) -> str:
    if section is None:
        return record.middle
    if record.check(section) not in record.inserted:
        raise ValueError(
            f"{section} was measured and not moved; the interpolated sections are {', '.join(sorted(record.inserted))}"
        )
    return section


def _field(record: Record, section: str) -> FloatArray:
    """(2, H, W) displacement of the section, unit of the coordinates."""
    notes = record.content.get("notes", {})
    if "displacement" not in notes:
        raise KeyError(
            f"uns[{record.key!r}]['notes'] has no displacement: the model {record.content['model']['name']!r} moves "
            "nothing. Only networks do: interpolate with model='c2sti', or with one from c2sti.tl.train"
        )
    order = [name for name in record.names if name in record.inserted]
    where = f"uns[{record.key!r}]['notes']['displacement']"
    fields = _validators.reals(notes["displacement"], where)
    if fields.ndim != 4 or fields.shape[:2] != (len(order), 2) or 0 in fields.shape:
        raise ValueError(
            f"{where} has shape {fields.shape}; (dx, dy) on a lattice for each of {len(order)} interpolated sections, "
            f"({len(order)}, 2, H, W), is needed: {_result.AGAIN}"
        )
    return fields[order.index(section)]


def _centres(record: Record, field: FloatArray) -> FloatArray:
    """(2, H, W) centres of the field's bins. On large lattices these are blocks of the result's bins."""
    lattice = record.content["lattice"]
    factor = -(-int(max(lattice["shape"])) // max(field.shape[1:]))
    start = np.asarray(lattice["origin"], dtype=np.float64) + (factor - 1) / 2 * record.pitch
    rows, columns = np.indices(field.shape[1:])
    return np.stack([columns, rows]) * record.pitch * factor + start[:, None, None]


def _inside(adata: AnnData, record: Record, section: str, centres: FloatArray) -> NDArray[np.bool_]:
    """(H, W) bins of the field that lie in the tissue of the section."""
    rows = np.asarray(adata.obsm[_keys.SPATIAL])[rows_of(adata, section)]
    reach = 0.75 * max(record.pitch, float(centres[0, 0, 1] - centres[0, 0, 0]))
    return (KDTree(rows).query(centres.reshape(2, -1).T)[0] <= reach).reshape(centres.shape[1:])


def _picture(
    adata: AnnData, record: Record, section: str, img: bool | np.ndarray, scale_factor: float | None
) -> tuple[np.ndarray, float] | None:
    if not isinstance(img, bool):
        if scale_factor is None:
            raise ValueError("img is an image; say with scale_factor= how many of its pixels are one unit of the frame")
        pixels = np.asarray(img)
        if (
            pixels.ndim not in (2, 3)
            or pixels.shape[2:] not in ((), (3,), (4,))
            or not _validators.is_real(pixels.dtype)
        ):
            raise ValueError(
                f"img holds {pixels.dtype} of shape {pixels.shape}; True, False or an image, (h, w, 3), is needed"
            )
        return pixels, _validators.number(scale_factor, "scale_factor", above=0)
    libraries = adata.uns.get(_keys.SPATIAL, {})
    found = (_result.picture_of(libraries.get(name, {}), section) for name in (section, record.key) if img)
    return next((picture for picture in found if picture is not None), None)


def _draw_distance(
    ax: Axes,
    adata: AnnData,
    record: Record,
    section: str,
    field: FloatArray,
    centres: FloatArray,
    cmap: str,
    unit: tuple[float, str],
) -> None:
    nearest = KDTree(centres.reshape(2, -1).T).query(np.asarray(adata.obsm[_keys.SPATIAL]))[1]
    distance = np.hypot(*field).ravel()[nearest] * unit[0]
    top = max(float(distance.max()), STILL * record.pitch * unit[0])
    bins = draw_bins(
        ax, adata, record, section, distance, cmap=cmap, vmin=0, vmax=top, alpha=0.6, edgecolor="none", linewidth=0
    )
    figure_of(ax).colorbar(bins, ax=ax, shrink=0.7, pad=0.02, label=f"distance moved ({unit[1]})")


def _draw_arrows(
    ax: Axes,
    moves: FloatArray,
    centres: FloatArray,
    inside: NDArray[np.bool_],
    record: Record,
    unit: tuple[float, str],
) -> None:
    length = np.hypot(*moves)[inside]
    if length.size == 0 or length.max() < STILL * record.pitch:
        ax.text(0.5, -0.02, "nothing was moved", transform=ax.transAxes, ha="center", va="top", fontsize=9)
        return
    step = max(round(max(inside.shape) / ARROWS), 1)
    every = (slice(step // 2, None, step),) * 2
    shown = inside[every]
    (x, y), (dx, dy) = centres[(slice(None), *every)][:, shown], moves[(slice(None), *every)][:, shown]
    spacing = step * float(centres[0, 0, 1] - centres[0, 0, 0])
    magnified = _round(1.5 * spacing / np.percentile(length, 98))
    arrows = ax.quiver(
        x,
        y,
        dx,
        dy,
        angles="xy",
        scale_units="xy",
        scale=1 / magnified,
        color=INK,
        width=0.0035,
        headwidth=3.5,
        zorder=3,
    )
    arrows.set_path_effects(HALO)
    ruler = _round(float(np.percentile(length, 98)) * unit[0])
    label = f"{ruler:g} {unit[1]}" + (f" (arrows {magnified:g} ×)" if magnified != 1 else "")
    ax.quiverkey(arrows, 0.05, -0.045, ruler / unit[0], "", coordinates="axes")
    ax.text(0.1, -0.045, label, transform=ax.transAxes, va="center", fontsize=9)  # layouts do not see a key's own label


def _round(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)))
