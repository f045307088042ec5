"""Parts that all plots share: a result as plots read it, axes, files, and bins drawn by squidpy."""

from __future__ import annotations

from collections.abc import Sequence
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
INK = "#12203a"  # of lines over bins
LARGE_PANEL = 4.6  # inches, of a figure with one panel
MOST_COLUMNS = 8  # of a figure
BAR = 0.9  # inches beside the panels for a colour bar
HALO = [Stroke(linewidth=2.0, foreground="white"), Normal()]  # around what is written over an image
VALUE = "value"


class Result:
    """A result, or a stack of sections, and its provenance."""

    def __init__(self, adata: AnnData, key: str) -> None:
        self.adata, self.key = adata, key
        self.record = _result.record_of(adata, key)
        self.names = [str(name) for name in self.record["sections"]]  # in order of z
        inserted = {str(name) for name in self.record["inserted"]}
        self.inserted = [name for name in self.names if name in inserted]
        self.is_stack = _keys.SECTION in adata.obs  # sections are rows, as of tl.to_slices, not layers
        if _keys.PLANE in self.record:  # a section at an angle has no z of its own
            self._captions = ["oblique"]
            return
        kind = "z" if "z" in self.record else "positions"
        places = np.asarray(self.record.get(kind, 0))
        if places.shape != (len(self.names),):
            raise KeyError(
                f"uns[{key!r}][{kind!r}] does not hold a number for each of {len(self.names)} sections; {_result.AGAIN}"
            )
        self._captions = [f"z = {z:.0f}" if kind == "z" else "" if z in (0, 1) else f"at {z:.2f}" for z in places]

    @property
    def pitch(self) -> float:
        """Side of a bin, unit of the coordinates."""
        return _result.lattice_of(self.record, self.key).pitch

    @property
    def xy(self) -> FloatArray:
        """(M, 2) places of the rows, unit of the coordinates."""
        return np.asarray(self.adata.obsm[_keys.SPATIAL])

    def section(self, name: str) -> str:
        """The section, if there is one of that name; raises KeyError otherwise."""
        if name not in self.names:
            raise KeyError(f"there is no section {name!r}; uns[{self.key!r}] has {', '.join(self.names)}")
        return name

    def interpolated(self, name: str | None, what: str) -> str:
        """An interpolated section, by default the middle one; measured ones, which lack `what`, are refused."""
        if name is None:
            return self.inserted[(len(self.inserted) - 1) // 2]
        if self.section(name) not in self.inserted:
            others = ", ".join(self.inserted)
            raise ValueError(f"{name} was measured and has no {what}; the interpolated sections are {others}")
        return name

    def check_drawn(self, sections: Sequence[str]) -> None:
        """Refuse a result whose sections cannot be drawn, because values, rows or places are missing."""
        _result.lattice_of(self.record, self.key)
        if self.is_stack:
            _result.check_stack(self.adata)
        else:
            _result.check_sections(self.adata, sections)

    def rows(self, section: str) -> NDArray[np.bool_]:
        """(M,) rows inside the tissue of a section."""
        if self.is_stack:
            return (self.adata.obs[_keys.SECTION] == section).to_numpy()
        return self.adata.obs[_keys.tissue(section)].to_numpy(dtype=bool)

    def layer(self, section: str, kind: str | None = None) -> str | None:
        """Layer with the values of a section, or their uncertainty of some kind; None for `X`."""
        if self.is_stack:
            return kind
        return section if kind is None else _keys.doubt(section, kind)

    def values(self, gene: str, layer: str | None) -> FloatArray:
        """(M,) values of a gene in a layer, lazy or not; `obs` may have a column of that name."""
        matrix = self.adata.X if layer is None else self.adata.layers[layer]
        column = matrix[:, [self.adata.var_names.get_loc(gene)]]
        column = column.compute() if hasattr(column, "compute") else column
        return np.asarray(column.toarray() if sp.issparse(column) else column).ravel()

    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the rows with a margin, unit of the coordinates."""
        margin = 1.5 * self.pitch
        (left, top), (right, bottom) = self.xy.min(axis=0) - margin, self.xy.max(axis=0) + margin
        return left, right, top, bottom

    def panel_size(self, width: float) -> tuple[float, float]:
        """Width and height in inches of a panel in the shape of the tissue, with a title."""
        left, right, top, bottom = self.extent()
        return width, float(np.clip(width * (bottom - top) / (right - left), 0.3 * width, 2 * width)) + 0.5

    def draw_bins(self, ax: Axes, section: str, values: FloatArray, **how: Any) -> PatchCollection:
        """Draw (M,) values inside the outline of a section; `how` goes to ``squidpy.pl.spatial_scatter``."""
        import squidpy as sq  # noqa: PLC0415 - four seconds that only a plot should cost

        inside = self.rows(section)
        xy = self.xy[inside]
        own_spots = self.is_stack and section not in self.inserted and len(np.unique(xy, axis=0)) > 1
        width = spacing(xy) if own_spots else self.pitch
        library = {
            "images": {"hires": np.zeros((1, 1, 3), dtype=np.uint8)},
            "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": width},
        }
        # A small object of its own: squidpy copies what it is given, and a result may hold gigabytes.
        bins = AnnData(
            obs=pd.DataFrame({VALUE: values[inside]}, index=self.adata.obs_names[inside]),
            obsm={_keys.SPATIAL: xy},
            uns={_keys.SPATIAL: {self.key: library}},
        )
        look = {"edgecolor": "face", "linewidth": 0.2, **how}  # without edges seams show between the bins
        sq.pl.spatial_scatter(
            bins, color=VALUE, shape="square", img=False, ax=ax, title="", axis_label=["", ""], colorbar=False, **look
        )
        return next(drawn for drawn in reversed(ax.collections) if isinstance(drawn, PatchCollection))

    def mark(self, ax: Axes, section: str) -> None:
        """Title and frame that say whether a section was measured or interpolated; no ticks."""
        inserted = section in self.inserted
        colour = INSERTED_COLOUR if inserted else MEASURED_COLOUR
        known = self.record.get("names", {})
        title = f"{known[section]} ({section})" if section in known else section
        words = ["interpolated" if inserted else "measured", self._captions[self.names.index(section)]]
        ax.set_title(f"{title}\n{', '.join(filter(None, words))}", color=colour, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(visible=True, edgecolor=colour, linestyle="--" if inserted else "-", linewidth=1.2)

    def fit(self, ax: Axes) -> None:
        """The extent of all sections, so that the eye sees the tissue move; y points down."""
        left, right, top, bottom = self.extent()
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
        ax.set_aspect("equal")


def panels(names: Sequence[str], axs: Sequence[Axes] | None, *, size: tuple[float, float]) -> list[Axes]:
    """One axes a section, side by side and in several rows where there are many; or those given."""
    if axs is None:
        n_rows = -(-len(names) // MOST_COLUMNS)
        n_columns = -(-len(names) // n_rows)
        figsize = (size[0] * n_columns + BAR, size[1] * n_rows)
        _, grid = plt.subplots(n_rows, n_columns, figsize=figsize, squeeze=False, layout="constrained")
        for unused in grid.flat[len(names) :]:
            unused.remove()
        return list(grid.flat[: len(names)])
    given = _validators.several(axs, "axs", "axes, one a section")
    if len(given) != len(names):
        raise ValueError(f"axs holds {len(given)} axes; one for each of {', '.join(names)} is needed")
    for ax in given:
        _validators.a(ax, "one of axs", Axes, "a matplotlib Axes")
    return given


def one_panel(ax: Axes | None, *, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones."""
    _validators.a(ax, "ax", (Axes, type(None)), "a matplotlib Axes")
    return panels([""], None, size=size)[0] if ax is None else ax


def check_look(save: str | Path | None, cmap: str | Colormap | None = None, **ends: float | None) -> None:
    """Refuse a file that cannot be written, colours that do not exist, and a `vmin` that is not below `vmax`."""
    if isinstance(cmap, str) and cmap not in colormaps:
        raise ValueError(f"cmap = {cmap!r} is no colour map of matplotlib, such as 'viridis' or 'magma'")
    _validators.a(cmap, "cmap", (str, Colormap, type(None)), "the name of a colour map")
    known = {name: _validators.number(end, name) for name, end in ends.items() if end is not None}
    if len(known) == 2 and not known["vmin"] < known["vmax"]:
        raise ValueError(f"vmin = {known['vmin']:g} must lie below vmax = {known['vmax']:g}")
    if save is not None and not (path := check_kind(save, "save")).parent.is_dir():
        raise FileNotFoundError(f"save = {str(path)!r}: there is no folder {path.parent}; make it first")


def check_kind(file: str | Path, name: str) -> Path:
    """A file of a kind that matplotlib can draw; raises ValueError for others."""
    path, kinds = _validators.path(file, name), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{name} = {str(path)!r} ends in none of what can be drawn: {', '.join(sorted(kinds))}")
    return path


def figure_of(ax: Axes) -> Figure:
    """The figure that holds the axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that were drawn into belong to one
    return figure


def save_figure(ax: Axes, path: str | Path | None) -> None:
    """Write the figure of the axes to a file, if one is named."""
    if path is not None:
        figure_of(ax).savefig(path, bbox_inches="tight", dpi=150)
