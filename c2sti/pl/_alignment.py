"""Two sections laid on each other, before and after they were aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.transforms import Affine2D

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.ops import spacing
from c2sti.pl._look import CAPTION_FONT, PANEL, SMALL_FONT, Scale, ends, ink, panels, shares
from c2sti.pl._shown import Image, gene_values, several_colors

COLOURS = "#0072b2", "#e69f00"  # of reference and moving: told apart by everyone, on white and on black
FAINTEST, STRONGEST = 0.08, 0.8  # opacity of spots
MOST_PIXELS = 1200  # of an image's longer side: more are not seen on a page


@shares(Scale)
def alignment(
    reference: AnnData,
    moving: AnnData,
    *,
    color: str | Sequence[str | None] | None = None,
    layer: str | None = None,
    spatial_key: str = "spatial",
    aligned_key: str = "spatial_aligned",
    **look: Unpack[Scale],
) -> list[Axes]:
    """Two sections laid on each other, before and after :func:`c2sti.pp.align`: each in its own colour.

    Parameters
    ----------
    reference, moving
        The section that stayed, and the one that was moved; or two of :func:`c2sti.pp.align_series`.
    color
        A gene, or a column of `obs` with numbers, of which both have one; None for the H&E, or for the spots where one
        of them has no image; or a list of these, which begin a row each.
    layer
        Layer with the values of genes; by default `X`.
    spatial_key, aligned_key
        Keys in ``obsm`` of the coordinates before and after.
    %(shared)s

    Returns
    -------
    The axes, `color` by `color`: before, and after. Dark tissue in the H&E, and high values, are opaque; each section
    has a scale of its own, since they may have been sequenced to different depths.

    Raises
    ------
    KeyError
        A section was not aligned, or there is no such gene or column.

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0, size=12, n_genes=50)
    >>> first, second = tissue.section(0.0), tissue.section(100.0, angle=120.0)
    >>> c2sti.pp.align(first, second)
    >>> axes = c2sti.pl.alignment(first, second, color=["gene_001", None])
    """
    both = {"reference": reference, "moving": moving}
    for name, adata in both.items():
        _validators.a(adata, name, AnnData, "an AnnData with one section")
        for key, fix in ((spatial_key, ""), (aligned_key, "; c2sti.pp.align(reference, moving) writes it")):
            if key not in adata.obsm:
                raise KeyError(f"{name} has no obsm[{key!r}], only {sorted(adata.obsm)}{fix}")
    things = several_colors(color)
    opacities = [_opacities(both, one, layer, look) for one in things]
    keys = {spatial_key: "before", aligned_key: _after(moving)}
    places = {key: np.concatenate([_xy(adata, key) for adata in both.values()]) for key in keys}
    margin = 3 * spacing(_xy(reference, spatial_key))
    size = np.max([np.nanmax(xy, axis=0) - np.nanmin(xy, axis=0) for xy in places.values()], axis=0) + margin
    shape = float(np.clip(size[1] / size[0], 0.3, 2))
    rows = panels([2] * len(things), look, shape=shape, width=1.3 * PANEL)
    for thing, opacity, row in zip(things, opacities, rows, strict=True):
        for (key, caption), ax in zip(keys.items(), row.axes, strict=True):
            for (name, adata), colour in zip(both.items(), COLOURS, strict=True):
                if opacity is None:
                    _draw_image(ax, adata, colour, moved=key == aligned_key)
                else:
                    _draw_spots(ax, _xy(adata, key), opacity[name], colour)
            _frame(ax, places[key], size, caption)
        row.axes[0].set_ylabel(thing or ("H&E" if opacity is None else "spots"), fontsize=9, fontweight="bold")
    legend: dict[str, Any] = {"frameon": False, "fontsize": SMALL_FONT, "handlelength": 1.0, "loc": "upper left"}
    legend["handles"] = [Patch(color=colour, label=name) for name, colour in zip(both, COLOURS, strict=True)]
    if rows[0].key is None:
        rows[0].axes[-1].legend(bbox_to_anchor=(1.02, 1.0), **legend)
    else:
        rows[0].key.legend(borderaxespad=0.0, **legend)
    return [ax for row in rows for ax in row.axes]


def _after(moving: AnnData) -> str:
    """What was done to the section."""
    record = moving.uns.get(_keys.ALIGNMENT, {})
    if not {"angle_deg", "fit"} <= set(record):
        return "after"
    mirrored = ", mirrored" if record.get("flipped") else ""
    return f"after: rotated by {float(record['angle_deg']):.0f}°{mirrored}, fit {float(record['fit']):.2f}"


def _opacities(
    both: dict[str, AnnData], color: str | None, layer: str | None, look: Scale
) -> dict[str, FloatArray] | None:
    """(n,) opacity of the spots of either section; None where their H&E is drawn."""
    if color is None:
        if all(_image(adata) is not None for adata in both.values()):
            return None
        return {name: np.full(adata.n_obs, 0.5) for name, adata in both.items()}
    found = {}
    for name, adata in both.items():
        values = _values(adata, name, color, layer)
        low, high = ends(values, look)
        share = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
        found[name] = FAINTEST + (STRONGEST - FAINTEST) * share
    return found


def _values(adata: AnnData, name: str, color: str, layer: str | None) -> FloatArray:
    """(n,) values of a gene or a column."""
    if color not in adata.var_names and color in adata.obs:
        if not pd.api.types.is_numeric_dtype(adata.obs[color]):
            raise ValueError(f"obs[{color!r}] of {name} holds no numbers; colours tell the two sections apart")
        return adata.obs[color].to_numpy(dtype=float)
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"{name} has no layer {layer!r}; it has {sorted(map(str, adata.layers))}")
    return gene_values(adata, _result.gene_of(adata, color), layer).astype(float)


def _xy(adata: AnnData, key: str) -> FloatArray:
    return np.asarray(adata.obsm[key], dtype=float)[:, :2]


def _image(adata: AnnData) -> Image | None:
    """H&E of a section, of whichever library has one."""
    libraries = adata.uns.get(_keys.SPATIAL, {}).values()
    found = (_result.image_of(library, "hires") for library in libraries if "hires" in library.get("images", {}))
    return next((image for image in found if image is not None), None)


def _draw_image(ax: Axes, adata: AnnData, colour: str, *, moved: bool) -> None:
    """The H&E in one colour: the darker, the more opaque; what is white lets the other section through."""
    image = _image(adata)
    assert image is not None
    pixels, scale = image
    height, width = pixels.shape[:2]
    step = -(-max(height, width) // MOST_PIXELS)
    grey = pixels[::step, ::step].reshape(-(-height // step), -(-width // step), -1)[..., :3].mean(axis=2)
    dark, light = np.percentile(grey, [1, 95])
    opacity = np.clip((light - grey) / max(light - dark, 1e-9), 0, 1) * STRONGEST
    layer = np.concatenate([np.broadcast_to(to_rgb(colour), (*grey.shape, 3)), opacity[..., None]], axis=2)
    matrix = np.asarray(adata.uns[_keys.ALIGNMENT]["matrix"]) if moved else np.eye(3)
    extent = (0, width / scale, height / scale, 0)
    ax.imshow(layer, extent=extent, transform=Affine2D(matrix) + ax.transData)


def _draw_spots(ax: Axes, xy: FloatArray, opacity: FloatArray, colour: str) -> None:
    """Spots of their own size in one colour."""
    size = np.full(len(xy), 0.9 * spacing(xy))
    faces = np.column_stack([np.tile(to_rgb(colour), (len(xy), 1)), opacity])
    angles = np.zeros(len(xy))
    ax.add_collection(
        EllipseCollection(
            size, size, angles, units="xy", offsets=xy, offset_transform=ax.transData, facecolors=faces, linewidths=0
        )
    )


def _frame(ax: Axes, places: FloatArray, size: FloatArray, caption: str) -> None:
    """Both sections in view, in a window of that width and height around them, y down, no ticks."""
    left, top = (np.nanmin(places, axis=0) + np.nanmax(places, axis=0) - size) / 2
    ax.set_xlim(left, left + size[0])
    ax.set_ylim(top + size[1], top)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(caption, fontsize=CAPTION_FONT, color=ink())
