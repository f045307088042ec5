"""How far, and where to, the tissue of an interpolated section was moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.spatial import KDTree

from c2sti import _result, _validators
from c2sti._types import FloatArray
from c2sti.pl._look import CAPTION_FONT, INK, THIN_HALO, Panels, ink, panels, shares
from c2sti.pl._shown import Image, Result, Shown, draw_image, shown

ARROWS = 14  # about as many along the longer side
STILL = 1e-3  # bins: tissue that moves less is drawn as still


@shares(Panels)
def displacement(
    adata: AnnData,
    sections: str | Sequence[str] | None = None,
    *,
    color: str | None = None,
    key: str = "c2sti",
    img: bool | np.ndarray = True,
    scale_factor: float | None = None,
    img_alpha: float = 0.75,
    scalebar_dx: float | None = None,
    scalebar_units: str = "µm",
    **look: Unpack[Panels],
) -> list[Axes]:
    """Where the tissue of interpolated sections was moved, as arrows over the H&E, a gene, a label or the distance.

    The arrows point the way that the tissue takes from slice_a to slice_b, magnified as the legend says. A displacement
    of zero has none.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate` by a network.
    sections
        One or several interpolated sections; the middle one by default.
    color
        A gene or a column of `obs` to draw under the arrows; by default the H&E, or the distance where there is none.
    img
        Whether to draw the H&E in ``uns["spatial"]``, of the section or of the result; or another image, (h, w, 3), in
        the coordinates of the result.
    scale_factor
        Pixels of such an image in one unit of the coordinates.
    img_alpha
        Opacity of the image.
    scalebar_dx, scalebar_units
        How many units of that name are one unit of the coordinates: 1 where they are in µm, µm per pixel where they are
        pixels. By default lengths are in units of the coordinates.
    %(shared)s

    Returns
    -------
    The axes, one a section; their coordinates are those of ``obsm["spatial"]``.

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
    >>> axes = c2sti.pl.displacement(out, scalebar_dx=1.0)
    """
    result = Result(adata, key)
    wanted = result.interpolated(sections, "displacement")
    _validators.number(img_alpha, "img_alpha", least=0, most=1)
    if scalebar_dx is not None:
        _validators.number(scalebar_dx, "scalebar_dx", above=0)
    there = result.drawn(wanted)
    unit = (1.0, "units") if scalebar_dx is None else (scalebar_dx, scalebar_units)
    fields = _fields(result)
    moves = {name: fields[result.inserted.index(name)] for name in there}
    centres = _centres(result, fields.shape[2:])
    images = {name: None if color is not None else _image(result, name, img, scale_factor) for name in there}
    bare = [name for name in there if images[name] is None]
    under = None
    if bare and color is not None:
        under = shown(result, bare, color)
    elif bare:
        nearest = KDTree(centres.reshape(2, -1).T).query(result.xy)[1]
        far = {name: np.hypot(*moves[name]).ravel()[nearest] * unit[0] for name in bare}
        under = Shown("distance", far, f"distance moved ({unit[1]})")
    (row,) = panels([len(there)], look, shape=result.shape)
    for name, ax in zip(there, row.axes, strict=True):
        if (image := images[name]) is not None:
            draw_image(ax, image, img_alpha)
        elif under is not None and name in under.values:
            scale, cmap = under.scale(result, look, "viridis")
            result.draw_bins(ax, name, under.values[name], scale, cmap=cmap, alpha=0.6, edgecolor="none", linewidth=0)
        _draw_arrows(ax, result, name, -moves[name], centres, unit)
        result.mark(ax, name)
        result.fit(ax)
    if under is not None:
        under.explain(row, *under.scale(result, look, "viridis"))
    return row.axes


def _fields(result: Result) -> FloatArray:
    """(S, 2, H, W) displacement of the interpolated sections, unit of the coordinates."""
    where, notes = f"uns[{result.key!r}]['notes']", result.record.get("notes", {})
    if "displacement" not in notes:
        raise KeyError(
            f"{where} has no displacement: the model {result.record['model']['name']!r} moves nothing. Only networks "
            "do: interpolate with model='c2sti', or with one from c2sti.tl.train"
        )
    n, fields = len(result.inserted), _validators.reals(notes["displacement"], f"{where}['displacement']")
    if fields.ndim != 4 or fields.shape[:2] != (n, 2) or 0 in fields.shape:
        raise ValueError(
            f"{where}['displacement'] has shape {fields.shape}; (dx, dy) on a lattice for each of {n} interpolated "
            f"sections, ({n}, 2, H, W), is needed: {_result.AGAIN}"
        )
    return fields


def _centres(result: Result, shape: tuple[int, ...]) -> FloatArray:
    """(2, H, W) centres of the bins of a displacement. On large lattices these are blocks of the result's bins."""
    lattice = _result.lattice_of(result.record, result.key)
    factor = -(-max(lattice.shape) // max(shape))
    start = np.asarray(lattice.origin, dtype=np.float64) + (factor - 1) / 2 * lattice.pitch
    rows, columns = np.indices(shape)
    return np.stack([columns, rows]) * lattice.pitch * factor + start[:, None, None]


def _image(result: Result, section: str, img: bool | np.ndarray, scale_factor: float | None) -> Image | None:
    """What to draw under the arrows."""
    if isinstance(img, bool):
        return result.image(section) if img else None
    if scale_factor is None:
        raise ValueError("img is an image; say with scale_factor= how many of its pixels are one unit of coordinates")
    pixels = np.asarray(img)
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)) or not _validators.is_real(pixels.dtype):
        raise ValueError(
            f"img holds {pixels.dtype} of shape {pixels.shape}; True, False or an image, (h, w, 3), is needed"
        )
    return pixels, _validators.number(scale_factor, "scale_factor", above=0)


def _draw_arrows(
    ax: Axes, result: Result, section: str, moves: FloatArray, centres: FloatArray, unit: tuple[float, str]
) -> None:
    """Arrows of (2, H, W) moves from the centres that lie in the tissue, and a legend of their length."""
    side = float(centres[0, 0, 1] - centres[0, 0, 0])
    distance = KDTree(result.xy[result.rows(section)]).query(centres.reshape(2, -1).T)[0]
    inside = (distance <= 0.75 * max(result.pitch, side)).reshape(centres.shape[1:])
    length = np.hypot(*moves)[inside]
    if length.size == 0 or length.max() < STILL * result.pitch:
        ax.text(0.5, -0.02, "nothing was moved", transform=ax.transAxes, ha="center", va="top", fontsize=CAPTION_FONT)
        return
    step = max(round(max(inside.shape) / ARROWS), 1)
    every = (slice(step // 2, None, step),) * 2
    shown = inside[every]
    (x, y), (dx, dy) = centres[(slice(None), *every)][:, shown], moves[(slice(None), *every)][:, shown]
    magnified = _round(1.5 * step * side / np.percentile(length, 98))
    scale = 1 / magnified
    arrows = ax.quiver(
        x, y, dx, dy, angles="xy", scale_units="xy", scale=scale, color=INK, width=0.0035, headwidth=3.5, zorder=3
    )
    arrows.set_path_effects(THIN_HALO)
    ruler = _round(float(np.percentile(length, 98)) * unit[0])
    label = f"{ruler:g} {unit[1]}" + (f" (arrows {magnified:g} ×)" if magnified != 1 else "")
    left, right, *_ = result.extent()
    half = 0.5 * magnified * ruler / unit[0] / (right - left)  # of the arrow in the legend, in widths of the panel
    ax.quiverkey(arrows, 0.02 + half, -0.045, ruler / unit[0], "", coordinates="axes", color=ink())
    # Layouts do not see a key's own label.
    ax.text(0.04 + 2 * half, -0.045, label, transform=ax.transAxes, va="center", fontsize=CAPTION_FONT)


def _round(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)))
