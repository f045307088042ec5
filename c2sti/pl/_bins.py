"""Values of a section's bins, drawn by squidpy in the coordinates of the result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from numpy.typing import NDArray

from c2sti import _keys
from c2sti._types import FloatArray
from c2sti.ops import spacing
from c2sti.pl._record import Record, is_stack, rows_of

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
    """No picture, and bins as wide as their distance, in the unit of the coordinates."""
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
