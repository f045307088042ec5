"""What a plot shows of a result, section by section: a gene, a label, a number of `obs`, or the H&E."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.patches import Patch
from numpy.typing import NDArray

from c2sti import _keys, _result, _validators
from c2sti._types import FloatArray
from c2sti.pl._axes import CAPTION_FONT, SMALL_FONT, Result, Row
from c2sti.pl._look import Colours, Panels, ends, figure_of

MOST_LABELS = 20  # with colours of scanpy's smaller palette


@dataclass(frozen=True)
class Shown:
    """One thing that is drawn, in the sections that have it.

    Parameters
    ----------
    name
        What the figure calls it.
    values
        (M,) by section, of all rows of the result: codes where it is a label, NaN where there is none.
    unit
        Of the colour bar.
    labels
        Names by code, where it is a label.
    colours
        Of the labels.
    """

    name: str
    values: Mapping[str, FloatArray]
    unit: str = ""
    labels: Sequence[str] = ()
    colours: Sequence[str] = ()

    def scale(self, result: Result, look: Colours | Panels, cmap: str) -> tuple[Normalize, str | Colormap]:
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


def several(color: str | Sequence[str | None] | None) -> list[str | None]:
    """One or several things to show; None is the H&E."""
    if color is None or isinstance(color, str):
        return [color]
    found = [
        _validators.text(one, "color") if one is not None else one
        for one in _validators.several(color, "color", "names")
    ]
    if not found:
        raise ValueError("color= is empty; name a gene or a column of obs, or give None for the H&E")
    return found


def shown(result: Result, sections: Sequence[str], color: str) -> Shown:
    """What is meant by a name: a gene, or else a column of `obs`, of each section or of all rows."""
    adata = result.adata
    columns = {name: _column(result, name, color) for name in sections}
    held = {name: adata.obs[column] for name, column in columns.items() if column is not None}
    if _validators.text(color, "color") in adata.var_names or not held:
        gene = _result.gene_of(adata, color)
        layers = {name: result.layer(name) for name in sections}
        by_layer = {layer: result.values(gene, layer) for layer in dict.fromkeys(layers.values())}
        kind = str(result.record.get("expression", "")).partition(" ")[0]
        return Shown(color, {name: by_layer[layer] for name, layer in layers.items()}, f"{kind} expression")
    if all(pd.api.types.is_numeric_dtype(column) for column in held.values()):
        numbers = {name: column.to_numpy(dtype=float) for name, column in held.items()}
        return Shown(color, _present(result, numbers), color)
    labels, colours = _palette(result, color, list(held.values()))
    code = {label: i for i, label in enumerate(labels)}
    codes = {name: column.astype(object).map(code).to_numpy(dtype=float) for name, column in held.items()}
    return Shown(color, _present(result, codes), color, labels, colours)


def _any(values: FloatArray) -> bool:
    return bool(np.isfinite(values).any())


def _present(result: Result, values: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Sections with a value: a measured one has no confidence, for instance."""
    found = {name: column for name, column in values.items() if _any(column[result.rows(name)])}
    if not found:
        raise ValueError(f"the column of obs is empty in {', '.join(values)}: nothing can be drawn")
    return found


def _column(result: Result, section: str, color: str) -> str | None:
    """Column of `obs` that holds it for a section."""
    own = [] if result.is_stack else [_keys.annotation(section, color)]
    return next((column for column in [*own, color] if column in result.adata.obs), None)


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
