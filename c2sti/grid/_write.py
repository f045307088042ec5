"""Arrays → containers: interpolated sections as an AnnData that squidpy draws and that says of itself what it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from c2sti import _keys, _log, _result
from c2sti._types import FloatArray, Lattice, Prediction, Section, SlicePair
from c2sti.grid._histology import HEImage
from c2sti.grid._lattice import Rows
from c2sti.grid._virtual import library_of_sections
from c2sti.ops import nearest
from c2sti.spread import Calibration, Spread, confidence

GENE_CHUNK = 1024
LEAST_VIEW = 0.05  # share of squidpy's axes below which bins are too small to be seen


def write_slices(
    prediction: Prediction,
    pair: SlicePair,
    rows: Rows,
    *,
    var: pd.DataFrame,
    positions: FloatArray,
    graphs: Sequence[sp.csr_array] | None,
    provenance: Mapping[str, Any],
    pictures: Sequence[HEImage] | None = None,
    stained: Collection[float] = (),
    spread: Spread | None = None,
    std: bool = False,
    interval: float | None = None,
    columns: Mapping[str, FloatArray] | None = None,
    key_added: str = _keys.RESULT,
) -> AnnData:
    """Put the measured pair and the interpolated sections side by side, as layers over the same rows.

    Parameters
    ----------
    prediction, pair, rows
        What the interpolator gave, what it was given, and the M points at which it was asked.
    var
        (N, columns) what is said of the genes; its index are their names.
    positions
        (S,) of the interpolated sections.
    graphs
        S + 2 gene graphs (N, N): of slice_a, the interpolated sections, slice_b; None for none.
    provenance
        Goes into ``uns[key_added]`` beside what is written there in any case; has to survive ``write_h5ad``. Its
        ``"log1p"``, what the measured sections say of their logarithm, goes into ``uns["log1p"]``.
    pictures
        S + 2 of :func:`c2sti.grid.section_pictures`; a white one is written where there are none.
    stained
        Positions of interpolated sections whose H&E was photographed.
    spread, std, interval
        Uncertainty of the interpolated sections, where their standard deviations or the intervals of that level are
        wanted.
    columns
        (M,) further columns of `obs`.
    key_added
        Prefix of the interpolated layers and key in `uns`.
    """
    inserted = _keys.inserted(key_added, len(positions))
    shape = (len(rows.points), len(var))
    layers = {name: _filled(s.expression, shape) for name, s in zip(inserted, prediction.slices, strict=True)}
    for name, section, p in ((_keys.SLICE_A, pair.a, 0.0), (_keys.SLICE_B, pair.b, 1.0)):
        layers[name] = _measured_layer(section, rows.points, rows.inside(p))
    doubt: dict[str, NDArray[np.float32]] = {}
    confidences: dict[str, FloatArray] = {}
    for i, name in enumerate(inserted if spread is not None else ()):
        if spread is not None and std:
            doubt[_keys.doubt(name, _keys.STD)] = made_std = _filled(partial(spread.std, i), shape)
            confidences[_keys.confidence(name)] = confidence(layers[name], made_std, rows.inside(positions[i]))
        if spread is not None and spread.calibration is not None and interval is not None:
            doubt |= _intervals(spread.calibration, layers[name], name, interval)
    return frame_slices(
        pair,
        rows,
        var=var,
        positions=positions,
        graphs=graphs,
        notes=prediction.notes,
        provenance=provenance,
        pictures=pictures,
        stained=stained,
        confidences=confidences,
        columns=columns,
        layers={name: layers[name] for name in (_keys.SLICE_A, *inserted, _keys.SLICE_B)} | doubt,
        key_added=key_added,
    )


def frame_slices(
    pair: SlicePair,
    rows: Rows,
    *,
    var: pd.DataFrame,
    positions: FloatArray,
    graphs: Sequence[sp.csr_array] | None,
    notes: Mapping[str, Any],
    provenance: Mapping[str, Any],
    pictures: Sequence[HEImage] | None = None,
    stained: Collection[float] = (),
    confidences: Mapping[str, FloatArray] | None = None,
    columns: Mapping[str, FloatArray] | None = None,
    layers: Mapping[str, NDArray[np.float32]] | None = None,
    key_added: str = _keys.RESULT,
) -> AnnData:
    """All of a result but the values of its sections: what both the result in memory and the one on disk consist of.

    Parameters
    ----------
    pair, rows, var, positions, graphs, provenance, pictures, stained, columns, key_added
        As in :func:`write_slices`.
    notes
        What the method found out.
    confidences
        (M,) columns of `obs`.
    layers
        (M, N) of all sections, where they are in memory; `X` is the middle inserted one, and none where they are not.
    """
    inserted = _keys.inserted(key_added, len(positions))
    names = [_keys.SLICE_A, *inserted, _keys.SLICE_B]
    depths = np.array([0.0, *positions, 1.0])
    middle = inserted[(len(inserted) - 1) // 2]
    tissue = {name: rows.inside(p) for name, p in zip(names, depths, strict=True)}
    made = {} if graphs is None else dict(zip(names, map(sp.csr_matrix, graphs), strict=True))
    adata = AnnData(
        X=None if layers is None else layers[middle].copy(),
        obs=_obs(rows, pair.lattice, tissue).assign(**(confidences or {}), **(columns or {})),
        var=var.copy(),
        layers=None if layers is None else dict(layers),
        obsm={_keys.SPATIAL: rows.points.copy()},
        varp={_keys.graph(name): graph for name, graph in made.items()},
    )
    painted = [] if pictures is None else [s for s, p in zip(inserted, positions, strict=True) if p not in stained]
    shown = {} if pictures is None else dict(zip(names, pictures, strict=True))
    adata.uns[_keys.SPATIAL] = {key_added: library_of_sections(shown, middle, pair.lattice.pitch, rows.points)}
    if "calls" in provenance:  # a result that the user gets as it is
        _tell_view(adata.uns[_keys.SPATIAL][key_added], middle, rows.points)
    scale = _result.log1p_of(provenance)
    if scale is not None:
        adata.uns[_keys.LOG1P] = scale
    adata.uns[key_added] = {
        "synthetic": True,
        "sections": names,
        "inserted": inserted,
        "positions": depths,
        "genes": var.index.to_numpy(dtype=str),
        _keys.COEXPRESSION: {name: graph.copy() for name, graph in made.items()},
        "lattice": lattice_as_dict(pair.lattice),
        "notes": dict(notes),
        _keys.VIRTUAL_HISTOLOGY: np.array(painted, dtype=str),
        **{name: said for name, said in provenance.items() if name != _keys.LOG1P},
    }
    return adata


def _filled(values: Callable[[slice], NDArray[np.float32]], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Dense (M, N), filled chunk by chunk so that the working copy in double precision stays small."""
    layer = np.empty(shape, dtype=np.float32)
    for first in range(0, shape[1], GENE_CHUNK):
        chunk = slice(first, min(first + GENE_CHUNK, shape[1]))
        layer[:, chunk] = values(chunk)
    return layer


def _intervals(
    calibration: Calibration, values: NDArray[np.float32], name: str, level: float
) -> dict[str, NDArray[np.float32]]:
    """Two layers more, filled chunk by chunk."""
    ends = np.empty((2, *values.shape), dtype=np.float32)
    for first in range(0, values.shape[1], GENE_CHUNK):
        chunk = slice(first, min(first + GENE_CHUNK, values.shape[1]))
        ends[:, :, chunk] = calibration.bounds(values[:, chunk], level, chunk)
    return {_keys.doubt(name, _keys.LOWER): ends[0], _keys.doubt(name, _keys.UPPER): ends[1]}


def _measured_layer(section: Section, points: FloatArray, tissue: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The nearest spot's expression, NaN outside of the section's tissue.

    Not smoothed: what was measured keeps its noise. Not zero outside: nothing was measured there.
    """
    layer = section.expression[nearest(section.xy, points)].toarray().astype(np.float32, copy=False)
    layer[~tissue] = np.nan
    return layer


def _obs(rows: Rows, lattice: Lattice, tissue: Mapping[str, NDArray[np.bool_]]) -> pd.DataFrame:
    in_a, in_b = tissue[_keys.SLICE_A], tissue[_keys.SLICE_B]
    support = np.select([in_a & in_b, in_a, in_b], ["both", "a", "b"], default="none")
    row, column = np.divmod(rows.bins, lattice.shape[1])
    obs = pd.DataFrame(
        {
            "array_row": np.where(rows.bins >= 0, row, -1),
            "array_col": np.where(rows.bins >= 0, column, -1),
            _keys.SUPPORT: pd.Categorical(support, categories=["both", "a", "b", "none"]),
            _keys.INSERTED: True,
        },
        index=pd.Index([f"bin_{i}" for i in range(len(row))]),
    )
    for name, inside in tissue.items():
        obs[_keys.tissue(name)] = inside
    return obs


def _tell_view(library: Mapping[str, Any], section: str, points: FloatArray) -> None:
    """Say where squidpy's default plot, whose axes begin with the image at the origin of the frame, shows little."""
    under, scales = library["images"]["hires"], library["scalefactors"]
    if section in library["images"] and under.min() == under.max():
        _log.warning(
            "some bins lie beside the H&E, which begins at the origin of the frame: squidpy draws all bins over white, "
            f"and those that the H&E reaches over it with img_res_key={section!r}"
        )
    size = (np.ptp(points, axis=0) + scales["spot_diameter_fullres"]) * scales["tissue_hires_scalef"]
    share = float(np.prod(size)) / (under.shape[0] * under.shape[1])
    if share < LEAST_VIEW:
        _log.warning(
            f"bins fill {share:.1%} of the axes that squidpy draws from the origin of the frame; "
            "sq.pl.spatial_scatter(…, img=False) fits them to the tissue, as c2sti.pl does"
        )


def lattice_as_dict(lattice: Lattice) -> dict[str, Any]:
    """A lattice as it stands in `uns`."""
    return {"origin": np.array(lattice.origin), "pitch": lattice.pitch, "shape": np.array(lattice.shape)}
