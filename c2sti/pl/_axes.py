"""What all plots share: axes, files, bins drawn by squidpy, and which sections of a result were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.ops import spacing

INSERTED_COLOUR, MEASURED_COLOUR = "#b5402a", "#333333"
MOST_COLUMNS = 8  # of a figure
BAR = 0.9  # inches beside the panels for a colour bar
HALO = [Stroke(linewidth=2.0, foreground="white"), Normal()]  # around what is written over an image


def panels(names: Sequence[str], axs: Sequence[Axes] | None, *, size: tuple[float, float]) -> list[Axes]:
    """One axes a section, side by side and in several rows where there are many; or those given.

    Raises
    ------
    ValueError, TypeError
        Another number of axes was given, or no axes.
    """
    if axs is None:
        n_rows = -(-len(names) // MOST_COLUMNS)
        n_columns = -(-len(names) // n_rows)
        width, height = size
        _, grid = plt.subplots(
            n_rows,
            n_columns,
            figsize=(width * n_columns + BAR, height * n_rows),
            squeeze=False,
            layout="constrained",
        )
        for unused in grid.flat[len(names) :]:
            unused.remove()
        return list(grid.flat[: len(names)])
    given = _validators.several(axs, "axs", "axes, one a section")
    if len(given) != len(names):
        raise ValueError(f"axs holds {len(given)} axes; one for each of {', '.join(names)} is needed")
    for ax in given:
        _validators.a(ax, "one of axs", Axes, "a matplotlib Axes")
    return given


def one_panel(section: str, ax: Axes | None, *, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones for a section."""
    if ax is not None:
        _validators.a(ax, "ax", Axes, "a matplotlib Axes")
    return panels([section], None if ax is None else [ax], size=size)[0]


def check_look(save: str | Path | None, cmap: str | Colormap | None = None, **ends: float | None) -> None:
    """Refuse a file that cannot be written, colours that do not exist, and ends of a scale that are none.

    Parameters
    ----------
    save, cmap
        Of a plot; None for none, and for matplotlib's own.
    ends
        `vmin` and `vmax` of it.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        Before anything is drawn; the message names the argument.
    """
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"cmap = {cmap!r} is no colour map of matplotlib, such as 'viridis' or 'magma'")
    _validators.a(cmap, "cmap", (str, Colormap, type(None)), "the name of a colour map")
    known = {name: _validators.number(end, name) for name, end in ends.items() if end is not None}
    if len(known) == 2 and not known["vmin"] < known["vmax"]:
        raise ValueError(f"vmin = {known['vmin']:g} must lie below vmax = {known['vmax']:g}")
    if save is None:
        return
    path = check_kind(save, "save")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save = {str(path)!r}: there is no folder {path.parent}; make it first")


def check_kind(file: str | Path, name: str) -> Path:
    """Refuse a file of a kind that matplotlib cannot draw.

    Raises
    ------
    TypeError, ValueError
        It is no path, or ends otherwise.
    """
    path, kinds = _validators.path(file, name), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{name} = {str(path)!r} ends in none of what can be drawn: {', '.join(sorted(kinds))}")
    return path


def figure_of(ax: Axes) -> Figure:
    """The figure that holds the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were drawn into belong to one
    return figure


def mark(ax: Axes, record: Record, section: str) -> None:
    """Title and frame that say whether a section was measured or computed; no ticks."""
    inserted = section in record.inserted
    colour = INSERTED_COLOUR if inserted else MEASURED_COLOUR
    words = ["interpolated" if inserted else "measured", record.captions[section]]
    ax.set_title(f"{record.titles[section]}\n{', '.join(filter(None, words))}", color=colour, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, edgecolor=colour, linestyle="--" if inserted else "-", linewidth=1.2)


def save_figure(ax: Axes, path: str | Path | None) -> None:
    """Write the figure of the axes to a file, if one is named."""
    if path is not None:
        figure_of(ax).savefig(path, bbox_inches="tight", dpi=150)


@dataclass(frozen=True)
class Record:
    """Provenance of a result, ``uns[key]``, as plots read it.

    Parameters
    ----------
    key
        Its name in `uns`.
    names
        All sections in order of z.
    interpolated
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


VALUE = "value"


def draw_bins(
    ax: Axes, adata: AnnData, record: Record, section: str, values: FloatArray, **how: Any
) -> PatchCollection:
    """Draw one value a row of the result, inside the outline of a section; gives back what a colour bar wants.

    Parameters
    ----------
    ax
        Axes to draw into.
    adata, record, section
        The result and one of its sections.
    values
        (M,) numbers, one for each row.
    how
        Goes to ``squidpy.pl.spatial_scatter``.
    """
    import squidpy as sq  # noqa: PLC0415 - four seconds that only a plot should cost

    inside = rows_of(adata, section)
    # A small object of its own: squidpy copies what it is given, and a result may hold gigabytes.
    bins = AnnData(
        obs=pd.DataFrame({VALUE: values[inside]}, index=adata.obs_names[inside]),
        obsm={_keys.SPATIAL: np.asarray(adata.obsm[_keys.SPATIAL])[inside]},
        uns={_keys.SPATIAL: {record.key: _library(_width(adata, record, section, inside))}},
    )
    sq.pl.spatial_scatter(
        bins,
        color=VALUE,
        shape="square",
        img=False,
        ax=ax,
        title="",
        axis_label=["", ""],
        colorbar=False,
        **{"edgecolor": "face", "linewidth": 0.2, **how},  # or seams would show between the bins
    )
    return next(drawn for drawn in reversed(ax.collections) if isinstance(drawn, PatchCollection))


def _width(adata: AnnData, record: Record, section: str, rows: NDArray[np.bool_]) -> float:
    """Side of what is drawn for a row: of a bin, or of the spots of a measured section in a stack."""
    xy = np.asarray(adata.obsm[_keys.SPATIAL])[rows]
    if not is_stack(adata) or section in record.inserted or len(np.unique(xy, axis=0)) < 2:
        return record.pitch
    return spacing(xy)


def _library(pitch: float) -> dict[str, Any]:
    """No image, and bins as wide as their distance, in the unit of the coordinates."""
    return {
        "images": {"hires": np.zeros((1, 1, 3), dtype=np.uint8)},
        "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": pitch},
    }


def fit(ax: Axes, adata: AnnData, record: Record) -> None:
    """The frame of the whole result, so that the eye sees the tissue move; y points down."""
    left, right, top, bottom = extent(adata, record)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")


def panel_size(adata: AnnData, record: Record, width: float) -> tuple[float, float]:
    """Width and height in inches of a panel that is as wide as asked and has the shape of the tissue, with a title."""
    left, right, top, bottom = extent(adata, record)
    return width, float(np.clip(width * (bottom - top) / (right - left), 0.3 * width, 2 * width)) + 0.5


def extent(adata: AnnData, record: Record) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of the result with a margin, unit of the frame."""
    xy, margin = np.asarray(adata.obsm[_keys.SPATIAL]), 1.5 * record.pitch
    (left, top), (right, bottom) = xy.min(axis=0) - margin, xy.max(axis=0) + margin
    return left, right, top, bottom
