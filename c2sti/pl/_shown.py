"""A result as plots read it, and what they show of it: a gene, a label, a number of `obs`, or the H&E."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.patches import Patch
from numpy.typing import NDArray

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.ops import spacing
from c2sti.pl._look import CAPTION_FONT, SMALL_FONT, Panels, Row, accent, ends, figure_of, ink

NARROW = 1.4  # inches of a panel, below which its title is small
MOST_LABELS = 20  # with colours of scanpy's smaller palette
Image: TypeAlias = tuple[NDArray[Any], float]  # (H, W, 3) pixels, and how many of them are one unit of the coordinates


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

    def named(self, wanted: str | Sequence[str] | None) -> list[str]:
        """Sections asked for, by default all, in order of z; raises KeyError where one is unknown."""
        if wanted is None:
            return self.names
        found = _validators.names(wanted, "sections")
        if not found:
            raise ValueError(f"sections= is empty; name one or more of {', '.join(self.names)}")
        for name in found:
            if name not in self.names:
                raise KeyError(f"there is no section {name!r}; uns[{self.key!r}] has {', '.join(self.names)}")
        return found

    def interpolated(self, wanted: str | Sequence[str] | None, what: str) -> list[str]:
        """Interpolated sections, by default the middle one; measured ones, which lack `what`, are refused."""
        if wanted is None:
            there = [name for name in self.inserted if self.rows(name).any()] or self.inserted
            return [there[(len(there) - 1) // 2]]
        found = self.named(wanted)
        for name in found:
            if name not in self.inserted:
                others = ", ".join(self.inserted)
                raise ValueError(f"{name} was measured and has no {what}; the interpolated sections are {others}")
        return found

    def drawn(self, wanted: str | Sequence[str] | None) -> list[str]:
        """Sections asked for, without those of which no row is left, as in a part of a result.

        Refuses a result that lacks values, rows or places of the sections.
        """
        sections = self.named(wanted)
        _result.lattice_of(self.record, self.key)
        if self.is_stack:
            _result.check_stack(self.adata)
        else:
            _result.check_sections(self.adata, sections)
        found = [name for name in sections if self.rows(name).any()]
        if not found:
            raise ValueError(f"adata has no row inside the tissue of {', '.join(sections)}: nothing can be drawn")
        return found

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

    def image(self, section: str) -> Image | None:
        """H&E of a section, photographed or virtual; None without one."""
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

    def draw_bins(self, ax: Axes, section: str, values: FloatArray, scale: Normalize, **how: Any) -> None:
        """Draw (M,) values inside the outline of a section; `how` goes to ``squidpy.pl.spatial_scatter``."""
        import squidpy as sq  # noqa: PLC0415 - four seconds that only a plot should cost

        inside = self.rows(section)
        xy = self.xy[inside]
        own_spots = self.is_stack and section not in self.inserted and len(np.unique(xy, axis=0)) > 1
        library = {
            "images": {"hires": np.zeros((1, 1, 3), dtype=np.uint8)},
            "scalefactors": {
                "tissue_hires_scalef": 1.0,
                "spot_diameter_fullres": spacing(xy) if own_spots else self.pitch,
            },
        }
        # A small object of its own: squidpy copies what it is given, and a result may hold gigabytes.
        bins = AnnData(
            obs=pd.DataFrame({"value": values[inside]}, index=self.adata.obs_names[inside]),
            obsm={_keys.SPATIAL: xy},
            uns={_keys.SPATIAL: {self.key: library}},
        )
        look = {"edgecolor": "face", "linewidth": 0.2, **how}  # without edges seams show between the bins
        look |= {"vmin": scale.vmin, "vmax": scale.vmax, "title": "", "axis_label": ["", ""], "colorbar": False}
        sq.pl.spatial_scatter(bins, color="value", shape="square", img=False, ax=ax, **look)

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


def gene_values(adata: AnnData, gene: str, layer: str | None) -> FloatArray:
    """(M,) values of a gene in a layer, or in `X`, lazy or not; `obs` may have a column of that name."""
    matrix = adata.X if layer is None else adata.layers[layer]
    column = matrix[:, [adata.var_names.get_loc(gene)]]
    column = column.compute() if hasattr(column, "compute") else column
    return np.asarray(column.toarray() if sp.issparse(column) else column).ravel()


def draw_image(ax: Axes, image: Image, alpha: float = 1.0) -> None:
    """An image in the coordinates of the result."""
    pixels, scale = image
    height, width = pixels.shape[:2]
    ax.imshow(pixels, extent=(0, width / scale, height / scale, 0), alpha=alpha)


@dataclass(frozen=True)
class Shown:
    """One thing that is drawn, in the sections that have it."""

    name: str  # what the figure calls it
    values: Mapping[str, FloatArray]  # by section: (M,) of all rows; codes where it is a label, NaN where none is known
    unit: str = ""  # of the colour bar; empty of the H&E
    labels: Sequence[str] = ()  # by code, where it is a label
    colours: Sequence[str] = ()  # of the labels

    def scale(self, result: Result, look: Panels, cmap: str) -> tuple[Normalize, str | Colormap]:
        """Scale of all sections together, and colour map."""
        if self.labels:
            return Normalize(-0.5, len(self.labels) - 0.5), ListedColormap(list(self.colours))
        shown = {name: values[result.rows(name)] for name, values in self.values.items()}
        every = np.concatenate(list(shown.values()))
        # Measured spots are noisy: their few largest values would darken everything else.
        tops = [np.nanpercentile(v, 99 if name in result.inserted else 95) for name, v in shown.items() if _any(v)]
        low, high = ends(every, look, high=float(max(tops, default=1.0)))
        return Normalize(low, high), look.get("cmap") or cmap

    def explain(self, row: Row, scale: Normalize, cmap: str | Colormap, *, below: bool = False) -> None:
        """A colour bar or a legend of the labels, in the row's key, or beside or below the panels that were given."""
        if not self.labels:
            colour_bar(row, ScalarMappable(scale, cmap), self.unit, below=below)
            return
        keys = [Patch(color=colour, label=label) for colour, label in zip(self.colours, self.labels, strict=True)]
        beside = row.axes[-1] if row.key is None else row.key
        where: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02 if row.key is None else 0.0, 1.0)}
        if below:
            where = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 3}
        beside.legend(handles=keys, frameon=False, fontsize=SMALL_FONT, borderaxespad=0.0, handlelength=1.0, **where)


def colour_bar(row: Row, colours: ScalarMappable, label: str, *, below: bool = False, extend: str = "both") -> None:
    """A colour bar of some panels."""
    figure = figure_of(row.axes[0])
    if row.key is not None:
        narrow = row.key.inset_axes((0.05, 0.1, 0.14, 0.8))
        bar = figure.colorbar(colours, cax=narrow, extend=extend)
    else:
        where = "horizontal" if below else "vertical"
        bar = figure.colorbar(colours, ax=row.axes, shrink=0.7, aspect=20, pad=0.02, extend=extend, orientation=where)
    bar.set_label(label, fontsize=CAPTION_FONT)
    bar.ax.tick_params(labelsize=SMALL_FONT)


def several_colors(color: str | Sequence[str | None] | None) -> list[str | None]:
    """One or several things to show; None is the H&E."""
    found = [color] if color is None or isinstance(color, str) else _validators.several(color, "color", "names")
    if not found:
        raise ValueError("color= is empty; name a gene or a column of obs, or give None for the H&E")
    return found


def several_genes(gene: str | Sequence[str]) -> list[str]:
    """One or several genes, by their names."""
    found = [_validators.text(one, "gene") for one in _validators.names(gene, "gene")]
    if not found:
        raise ValueError("gene= is empty; name one or more")
    return found


def shown(result: Result, sections: Sequence[str], color: str) -> Shown:
    """What is meant by a name: a gene, or else a column of `obs`, of each section or of all rows."""
    adata, held = result.adata, {}
    for name in sections:
        own = _keys.annotation(name, color)
        column = own if own in adata.obs and not result.is_stack else color
        if column in adata.obs:
            held[name] = adata.obs[column]
    if _validators.text(color, "color") in adata.var_names or not held:
        gene = _result.gene_of(adata, color)
        layers = {name: result.layer(name) for name in sections}
        by_layer = {layer: gene_values(adata, gene, layer) for layer in dict.fromkeys(layers.values())}
        kind = str(result.record.get("expression", "")).partition(" ")[0]
        return Shown(color, {name: by_layer[layer] for name, layer in layers.items()}, f"{kind} expression")
    labels: list[str] = []
    colours: list[str] = []
    if not all(pd.api.types.is_numeric_dtype(column) for column in held.values()):
        labels, colours = _palette(result, color, list(held.values()))
        code = {label: i for i, label in enumerate(labels)}
        held = {name: column.astype(object).map(code) for name, column in held.items()}
    values = {name: column.to_numpy(dtype=float) for name, column in held.items()}
    there = {name: column for name, column in values.items() if _any(column[result.rows(name)])}
    if not there:  # in some is enough: a measured section has no confidence, for instance
        raise ValueError(f"the column of obs is empty in {', '.join(values)}: nothing can be drawn")
    return Shown(color, there, color, labels, colours)


def _any(values: FloatArray) -> bool:
    return bool(np.isfinite(values).any())


def _palette(result: Result, key: str, columns: Sequence[pd.Series]) -> tuple[list[str], list[str]]:
    """Labels of all sections, and the colours that scanpy has given to them, or else would give."""
    from scanpy.plotting import palettes  # noqa: PLC0415 - seconds that only a plot should cost

    every = [c.cat.categories if isinstance(c.dtype, pd.CategoricalDtype) else c.dropna().unique() for c in columns]
    labels = list(dict.fromkeys(str(label) for names in every for label in names))
    held: NDArray[np.str_] = np.asarray(result.adata.uns.get(_keys.colours(key), ()))
    if len(held) == len(labels):
        return labels, [str(colour) for colour in held]
    default = palettes.default_20 if len(labels) <= MOST_LABELS else palettes.default_102
    return labels, [default[i % len(default)] for i in range(len(labels))]
