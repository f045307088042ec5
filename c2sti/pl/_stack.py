"""The sections of a result in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from c2sti import _keys, _validators
from c2sti.pl._look import CAPTION_FONT, PAGE, SMALL_FONT, Panels, Row, accent, ink, panels, shares
from c2sti.pl._shown import Result, Shown, several_colors, shown

SIDE = 4.2  # inches of a panel
FAINTEST, STRONGEST = 0.15, 0.95  # opacity of low values, which would hide what lies behind them, and of high ones
FILLED, LINE = 0.5, 9.0  # share of a panel's side that the tissue takes; points between the names of sections
SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])  # corners of a bin, halves of its side


@shares(Panels)
def stack(
    adata: AnnData,
    color: str | Sequence[str],
    *,
    sections: str | Sequence[str] | None = None,
    key: str = "c2sti",
    z_scale: float = 1.0,
    elev: float = 25.0,
    azim: float = -60.0,
    **look: Unpack[Panels],
) -> list[Axes]:
    """Genes or labels in three dimensions: every section at its z, in true proportions.

    Parameters
    ----------
    adata
        Result of :func:`c2sti.tl.interpolate`, or a stack of :func:`c2sti.tl.to_slices` or
        :func:`c2sti.tl.interpolate_series`, whose sections have a z; or some of its rows.
    color
        A gene, a column of `obs` as in :func:`c2sti.pl.sections`, or a list of these, a panel each.
    z_scale
        How many times longer z is drawn than x and y. Set it where z is in another unit, such as µm beside pixels, or
        to spread the sections of a thin block; the axis then says so.
    elev, azim
        Where it is seen from, degrees above the sections and around them.
    %(shared)s

    Returns
    -------
    The three-dimensional axes. Low values of a gene are transparent. Names of interpolated sections are red.

    Raises
    ------
    KeyError
        `adata` is not such a result, its sections have no z, or there is no such gene or column.
    TypeError
        `ax` is not three-dimensional.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=2, show_progress_bar=False)
    >>> axes = c2sti.pl.stack(out, out.var_names[0])
    """
    result = Result(adata, key)
    _validators.number(z_scale, "z_scale", above=0)
    view = _validators.number(elev, "elev"), _validators.number(azim, "azim")
    if "z" not in result.record or _keys.PLANE in result.record:
        raise KeyError(f"uns[{key!r}] has no z of the sections; interpolate sections that carry obs['z_um']")
    there = result.drawn(sections)
    things = [shown(result, there, _validators.text(one, "color")) for one in several_colors(color)]
    axes = _axes(len(things), look)
    for ax, thing in zip(axes, things, strict=True):
        _validators.a(ax, "ax", Axes3D, "an axes with projection='3d'")
        scale, cmap = thing.scale(result, look, "viridis")
        ax.view_init(*view)
        _draw(ax, result, thing, scale, cmap, z_scale)
        longer = "" if z_scale == 1 else f"\nz drawn {z_scale:g} × as long"
        ax.set_title(f"{thing.name}{longer}", fontsize=CAPTION_FONT)
        thing.explain(Row([ax]), scale, cmap, below=True)
    return axes


def _axes(n: int, look: Panels) -> list[Any]:
    """Axes in three dimensions, or those given."""
    if look.get("ax") is not None:
        return [row.axes[0] for row in panels([1] * n, look)]
    columns = min(n, look.get("ncols") or 2)
    rows = -(-n // columns)
    side = min(SIDE, PAGE / columns)
    size = look.get("figsize") or (columns * side, rows * 0.85 * side)
    figure = plt.figure(figsize=size, layout="constrained")
    return [figure.add_subplot(rows, columns, place, projection="3d") for place in range(1, n + 1)]


def _draw(ax: Any, result: Result, thing: Shown, scale: Normalize, cmap: str | Colormap, z_scale: float) -> None:
    """Bins as squares at their places, sections in the proportions of the tissue."""
    z_of_all = dict(zip(result.names, result.places.tolist(), strict=True))
    z_of = {name: z_of_all[name] for name in thing.values}
    left, right, top, bottom = result.extent()
    low, high = min(z_of.values()), max(z_of.values())
    height = max((high - low) * z_scale, result.pitch)
    ax.computed_zorder = False  # sections do not cross, so that what is seen from above is drawn last
    for place, name in enumerate(sorted(z_of, key=z_of.__getitem__, reverse=ax.elev < 0)):
        inside = result.rows(name)
        inside[inside] = np.isfinite(thing.values[name][inside])
        share = np.clip(np.asarray(scale(thing.values[name][inside])), 0, 1)
        faces = (colormaps[cmap] if isinstance(cmap, str) else cmap)(share)
        faces[:, 3] = STRONGEST if thing.labels else FAINTEST + (STRONGEST - FAINTEST) * share
        corners = result.xy[inside][:, None] + 0.5 * result.pitch * SQUARE
        squares = np.concatenate([corners, np.full((len(corners), 4, 1), z_of[name])], axis=2)
        ax.add_collection3d(Poly3DCollection(squares, facecolors=faces, linewidths=0, zorder=place))
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_zlim(low - 0.5 * result.pitch / z_scale, high + 0.5 * result.pitch / z_scale)
    ax.set_box_aspect((right - left, bottom - top, height + result.pitch), zoom=1.1)
    ax.set_proj_type("ortho")
    points = 72 * FILLED * min(ax.get_figure(root=True).get_size_inches())  # that the longest side of the tissue takes
    tall = points * height / max(right - left, bottom - top, height)
    _mark(ax, result, z_of, most=max(int(tall / LINE), 2))


def _mark(ax: Any, result: Result, z_of: dict[str, float], most: int) -> None:
    """Names of the sections at their z, of as many as find room, and no other ticks."""
    ax.set_xticks([])
    ax.set_yticks([])
    last = len(z_of) - 1
    named = {last, *range(0, last, -(-last // (most - 1)) or 1)}
    labels = [f"{name}, {z:.0f}" if i in named else "" for i, (name, z) in enumerate(z_of.items())]
    ax.set_zticks(list(z_of.values()), labels)
    for text, name in zip(ax.get_zticklabels(), z_of, strict=True):
        text.set(fontsize=SMALL_FONT, color=accent() if name in result.inserted else ink(), ha="left")
    ax.tick_params(axis="z", pad=0)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_facecolor("none")
        axis.pane.set_edgecolor(ink())
        axis.pane.set_alpha(0.15)
    ax.grid(visible=False)
