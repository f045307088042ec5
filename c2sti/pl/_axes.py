"""Parts that all plots share: a result as plots read it, axes, and bins drawn by squidpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.ops import spacing
from c2sti.pl._look import Frame, Panels, figure_of

INSERTED_COLOUR, MEASURED_COLOUR = "#b5402a", "#333333"
INK = "#12203a"  # of lines over bins
PAGE = 7.2  # inches: width of a printed page, which no figure exceeds by itself
PANEL, LARGE_PANEL = 2.6, 4.6  # inches, of one of several panels and of one alone
MOST_COLUMNS = 5  # of a figure: more could not be read on a page
BAR, CAPTION = 0.8, 0.35  # inches, beside the panels for a colour bar and above each for its title
CAPTION_FONT, SMALL_FONT = 7.5, 6.2  # of titles, and of those over panels narrower than
NARROW = 1.4  # inches
HALO = [Stroke(linewidth=2.0, foreground="white"), Normal()]  # around what is written over an image
THIN_HALO = [Stroke(linewidth=1.4, foreground="white"), Normal()]  # around lines over it
VALUE = "value"


def is_dark() -> bool:
    """Whether the style in force writes in a light colour, on a dark background."""
    return float(np.dot(to_rgb(rcParams["text.color"]), (0.299, 0.587, 0.114))) > 0.5


def ink() -> str:
    """Colour of what stands on the background: measured sections, marks, names."""
    return str(rcParams["text.color"]) if is_dark() else MEASURED_COLOUR


def accent() -> str:
    """Colour of interpolated sections, bright enough for the background."""
    return "#ff8466" if is_dark() else INSERTED_COLOUR


def halo() -> list[Any]:
    """Around what is written on the background, over lines."""
    return [Stroke(linewidth=2.0, foreground="black" if is_dark() else "white"), Normal()]


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
        places = self.places = np.asarray(self.record.get(kind, 0))
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

    def interpolated(self, wanted: str | Sequence[str] | None, what: str) -> list[str]:
        """Interpolated sections, by default the middle one; measured ones, which lack `what`, are refused."""
        if wanted is None:
            there = [name for name in self.inserted if self.rows(name).any()] or self.inserted
            return [there[(len(there) - 1) // 2]]
        for name in self.named(wanted):
            if name not in self.inserted:
                others = ", ".join(self.inserted)
                raise ValueError(f"{name} was measured and has no {what}; the interpolated sections are {others}")
        return self.named(wanted)

    def named(self, wanted: str | Sequence[str] | None) -> list[str]:
        """Sections asked for, by default all, in order of z; raises KeyError where one is unknown."""
        if wanted is None:
            return self.names
        found = [self.section(name) for name in _validators.names(wanted, "sections")]
        if not found:
            raise ValueError(f"sections= is empty; name one or more of {', '.join(self.names)}")
        return found

    def drawn(self, wanted: str | Sequence[str] | None) -> list[str]:
        """The same, without sections of which no row is left, as in a part of a result."""
        sections = self.named(wanted)
        self.check_drawn(sections)
        found = [name for name in sections if self.rows(name).any()]
        if not found:
            raise ValueError(f"adata has no row inside the tissue of {', '.join(sections)}: nothing can be drawn")
        return found

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
        return section if kind is None else _keys.layer_of(section, kind)

    def values(self, gene: str, layer: str | None) -> FloatArray:
        """(M,) values of a gene in a layer, lazy or not; `obs` may have a column of that name."""
        matrix = self.adata.X if layer is None else self.adata.layers[layer]
        column = matrix[:, [self.adata.var_names.get_loc(gene)]]
        column = column.compute() if hasattr(column, "compute") else column
        return np.asarray(column.toarray() if sp.issparse(column) else column).ravel()

    def image(self, section: str) -> tuple[NDArray[Any], float] | None:
        """H&E of a section, photographed or virtual, and its pixels per unit of the coordinates; None without one."""
        libraries = self.adata.uns.get(_keys.SPATIAL, {})
        found = (_result.image_of(libraries.get(name, {}), section) for name in (section, self.key))
        return next((image for image in found if image is not None), None)

    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the rows with a margin, unit of the coordinates."""
        margin = 1.5 * self.pitch
        (left, top), (right, bottom) = self.xy.min(axis=0) - margin, self.xy.max(axis=0) + margin
        return left, right, top, bottom

    @property
    def shape(self) -> float:
        """Height of the tissue by its width."""
        left, right, top, bottom = self.extent()
        return float(np.clip((bottom - top) / (right - left), 0.3, 2))

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
        colour = accent() if inserted else ink()
        known = self.record.get("names", {})
        title = f"{known[section]} ({section})" if section in known else section
        words = ["interpolated" if inserted else "measured", self._captions[self.names.index(section)]]
        narrow = ax.get_position().width * figure_of(ax).get_figwidth() < NARROW
        caption = f"{title}\n{', '.join(filter(None, words))}"
        ax.set_title(caption, color=colour, fontsize=SMALL_FONT if narrow else CAPTION_FONT)
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


@dataclass(frozen=True)
class Row:
    """Panels that share a scale.

    Parameters
    ----------
    axes
        The panels.
    key
        An empty axes beside them, for a colour bar or a legend; None where there is none.
    """

    axes: list[Axes]
    key: Axes | None = None


def panels(groups: Sequence[int], look: Frame | Panels, *, shape: float = 1.0, width: float = PANEL) -> list[Row]:
    """Axes for groups of so many panels, each of which begins a row unless it is one panel; or those given.

    `shape` is a panel's height by its width, and `width` the most that it has, inches.
    """
    if look.get("ax") is not None:
        flat = _given(look["ax"], sum(groups))
        starts = np.cumsum([0, *groups])
        return [Row(flat[start:stop]) for start, stop in zip(starts[:-1], starts[1:], strict=True)]
    alone = max(groups) == 1  # each with a key of its own
    longest = len(groups) if alone else max(groups)
    most = MOST_COLUMNS // 2 if alone else MOST_COLUMNS
    asked: Any = look.get("ncols")
    columns = min(asked or -(-longest // -(-longest // most)), longest)  # rows of about one length
    side = min(LARGE_PANEL if longest == 1 else width, (PAGE - BAR * (columns if alone else 1)) / columns)
    lines = [-(-n // columns) for n in ([longest] if alone else groups)]
    per_row = columns * (2 if alone else 1) + (not alone)
    ratios = [side, BAR] * columns if alone else [side] * columns + [BAR]
    size = look.get("figsize") or (sum(ratios), (side * shape + CAPTION) * sum(lines))
    figure = plt.figure(figsize=size, layout="constrained")
    spec = figure.add_gridspec(sum(lines), per_row, width_ratios=ratios)
    if alone:
        places = [divmod(i, columns) for i in range(longest)]
        return [Row([figure.add_subplot(spec[i, 2 * j])], _key(figure, spec[i, 2 * j + 1])) for i, j in places]
    rows = []
    for n, first, count in zip(groups, np.cumsum([0, *lines]), lines, strict=False):
        axes = [figure.add_subplot(spec[first + i // columns, i % columns]) for i in range(n)]
        rows.append(Row(axes, _key(figure, spec[first : first + count, -1])))
    return rows


def _key(figure: Figure, place: SubplotSpec) -> Axes:
    """Room for a key."""
    ax = figure.add_subplot(place)
    ax.set_axis_off()
    return ax


def _given(given: Any, total: int) -> list[Axes]:
    """Axes that were given, one for each panel."""
    found = [given] if isinstance(given, Axes) else _validators.several(given, "ax", "axes, one a panel")
    if isinstance(given, np.ndarray):
        found = list(given.flat)
    if len(found) != total:
        raise ValueError(f"ax holds {len(found)} axes; one for each of {total} panels is needed")
    for ax in found:
        _validators.a(ax, "ax, or one of it,", Axes, "a matplotlib Axes")
    return found


def one_panel(look: Frame, *, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones in a figure of that size, inches."""
    if look.get("ax") is not None:
        return _given(look["ax"], 1)[0]
    return plt.subplots(figsize=look.get("figsize") or size, layout="constrained")[1]
