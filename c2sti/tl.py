"""Tools: make the missing sections, take the result apart, and measure how well it works on one's own series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scanpy import logging
from spatialdata import SpatialData
from tqdm.auto import tqdm

from c2sti import _keys, benchmark, grid, ops
from c2sti._types import FloatArray, Interpolator, SlicePair
from c2sti.baselines import METHODS, USES_CONTEXT

__all__ = ["coexpression", "evaluate", "interpolate", "to_slices"]

N_EDGES = 30  # co-expression edges kept for each gene
GRAPH_GENES = 2000  # genes between which edges are sought: correlations of rarely seen genes are noise
GRAPH_WIDTH = 0.6  # smoothing before correlating, in spot spacings
LIBRARIES = ("c2sti", "anndata", "numpy", "scipy", "torch")


def interpolate(
    slice_a: AnnData | SpatialData,
    slice_b: AnnData | SpatialData,
    *,
    n_slices: int = 1,
    positions: Sequence[float] | None = None,
    at: FloatArray | None = None,
    context: Mapping[float, AnnData | SpatialData] | None = None,
    model: str | Interpolator = "gp",
    layer: str | None = None,
    spatial_key: str = "spatial",
    table_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str = "global",
    pitch: float | None = None,
    genes: Sequence[str] | pd.Index | None = None,
    device: str | None = None,
    seed: int = 0,
    key_added: str = "c2sti",
    show_progress_bar: bool = True,
) -> AnnData:
    """Make the missing sections between two measured ones.

    Neither input is modified. Both have to lie in one frame: see :func:`c2sti.pp.align`.

    Parameters
    ----------
    slice_a, slice_b
        Neighbouring sections: raw counts (scaled to 1e4 a spot and log1p'd here) or log-normalised expression (taken as
        it is, and returned on the same scale). Spots, bins or single cells; genes are matched by name.
    n_slices
        Number of sections to insert, at i / (n_slices + 1), i = 1 … n_slices.
    positions
        Where to insert sections instead: fractions in (0, 1) of the way from `slice_a` to `slice_b`, or depths in the
        unit of ``obs["z_um"]`` (or ``obs["z"]``) when both sections carry one.
    at
        (M, 2) points of the frame, in its unit, at which the sections are wanted. By default the bins of a common
        lattice inside the union of both tissues.
    context
        Further sections of the series, in the same frame, by their position on the scale of the pair (`slice_a` is 0,
        `slice_b` is 1): ``{-1.0: before, 2.0: after}``. Worth having: on real series they raise the correlation with
        the hidden section by several per cent. ``"copy"`` and ``"linear"`` ignore them.
    model
        ``"gp"`` (Gaussian process on each principal axis), ``"lowrank"``, ``"linear"``, ``"copy"``, or any
        callable of the same form.
    layer
        Layer that holds the expression; `X` by default.
    spatial_key
        Key of the coordinates in ``obsm``, ``"spatial_aligned"`` after :func:`c2sti.pp.align`.
    table_key, coordinate_system
        Table and coordinate system of a SpatialData.
    image_key
        Which picture of ``uns[spatial_key]`` belongs to the section, where it has several.
    pitch
        Side of a bin of the result, in the unit of the frame. By default the distance between neighbouring spots; for
        single cells (1,000 or more irregular points) the side of a bin that holds about four. Points finer than two
        thirds of it are gathered into its bins.
    genes
        Names of the genes wanted; by default all that the sections share.
    device
        Where the work is done, ``"cpu"`` or ``"cuda"``; by default a GPU where there is one.
    seed
        Of every random choice.
    key_added
        Prefix of the inserted layers, and key of the provenance in `uns`.
    show_progress_bar
        Whether to show one.

    Returns
    -------
    AnnData of M bins (or points) × N genes, float32, log1p expression:

    - ``layers["slice_a"]``, ``layers["slice_b"]``: the measured sections, nearest spot, NaN outside of their tissue.
    - ``layers["c2sti_1"]`` …: the inserted sections, ≥ 0. ``X`` is the middle one.
    - ``obsm["spatial"]``: (M, 2) in the unit of the frame.
    - ``obs["support"]``: which measured section covers a row. ``obs["c2sti_1_tissue"]`` …: whether the row lies inside
      the
      outline of that section.
    - ``varp["coexpression_c2sti_1"]`` …, ``uns["c2sti"]["coexpression"]``: gene graph of each section, CSR (N, N), the
      30
      strongest Pearson correlations a gene, made from the measured sections weighted by 1 − p and p (eq. 2). Among more
      than 2,000 genes it spans the 2,000 most variable.
    - ``uns["c2sti"]``: positions, depths, model, parameters, versions, fingerprints of the inputs, ``synthetic: True``.
    - ``uns["spatial"]["c2sti"]``: a blank picture, so that ``sq.pl.spatial_scatter(out, color=gene, layer="c2sti_1",
      shape="square")`` draws at once.

    Raises
    ------
    KeyError, ValueError
        An input cannot be used; the message names it, what was found and what to do. Nothing is written.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> out = c2sti.tl.interpolate(a, b, n_slices=3, show_progress_bar=False)
    >>> list(out.uns["c2sti"]["sections"])
    ['slice_a', 'c2sti_1', 'c2sti_2', 'c2sti_3', 'slice_b']
    """
    method = _method(model)
    read = partial(
        grid.read_slice,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    a, b = read(slice_a, name=_keys.SLICE_A), read(slice_b, name=_keys.SLICE_B)
    around = {float(q): read(s, name=f"context[{q}]") for q, s in (context or {}).items()}
    if around and model in METHODS and model not in USES_CONTEXT:
        logging.warning(f"model={model!r} looks at two sections only; context is ignored")
    fractions = _fractions(n_slices, positions, a.z, b.z)
    lattice = grid.common_lattice(a, b, pitch=pitch)
    pair, names = grid.make_pair(a, b, context=around, lattice=lattice, genes=genes)
    rows = grid.rows_of(a, b, lattice, at)
    with tqdm(total=100, desc=f"inserting {len(fractions)} section(s)", disable=not show_progress_bar) as bar:
        prediction = method(
            pair,
            rows.points,
            fractions.tolist(),
            device=_device(device),
            seed=seed,
            progress=lambda share: bar.update(100 * share),
        )
    provenance = {
        "model": {"name": model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)},
        "expression": "log1p of counts scaled to 1e4" if a.counts else "as given",
        "parameters": _without_none({"pitch": lattice.pitch, "seed": seed, "layer": layer, "spatial_key": spatial_key}),
        "inputs": {g.name: _input(g) for g in (a, b, *around.values())},
        "versions": {name: version(name) for name in LIBRARIES},
        **_depths(a, b, fractions),
    }
    out = grid.write_slices(
        prediction,
        pair,
        rows,
        genes=names,
        positions=fractions,
        graphs=_graphs(pair, [0.0, *fractions, 1.0]),
        provenance=provenance,
        key_added=key_added,
    )
    added = ", ".join(_keys.inserted(key_added, len(fractions)))
    logging.info(f"inserted {added} into `.layers` ({out.n_obs} bins x {out.n_vars} genes)")
    return out


def _method(model: str | Interpolator) -> Interpolator:
    if not isinstance(model, str):
        return model
    if model not in METHODS:
        raise ValueError(f"there is no model {model!r}; those that exist are {', '.join(METHODS)}")
    return METHODS[model]


def _device(device: str | None) -> str:
    if device is not None:
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _fractions(n_slices: int, positions: Sequence[float] | None, z_a: float | None, z_b: float | None) -> FloatArray:
    if positions is not None:
        return grid.position_of(positions, z_a, z_b)
    if n_slices < 1 or n_slices != int(n_slices):
        raise ValueError(f"n_slices = {n_slices} must be a whole number of at least 1")
    return np.arange(1, int(n_slices) + 1) / (int(n_slices) + 1)


def _depths(a: grid.SliceGrid, b: grid.SliceGrid, fractions: FloatArray) -> dict[str, FloatArray]:
    if a.z is None or b.z is None:
        return {}
    return {"z": a.z + np.array([0.0, *fractions, 1.0]) * (b.z - a.z)}


def _input(g: grid.SliceGrid) -> dict[str, Any]:
    return {"fingerprint": g.fingerprint(), "n_obs": len(g.xy), "n_vars": len(g.genes), "layout": g.layout}


def _without_none(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if value is not None}


def _graphs(pair: SlicePair, positions: Sequence[float]) -> list[sp.csr_array]:
    """Gene graph of each position, N × N; edges between the most variable genes."""
    genes = np.sort(ops.most_variable([pair.a.expression, pair.b.expression], GRAPH_GENES))
    values = [ops.graph_values(s.xy, s.expression[:, genes], GRAPH_WIDTH * pair.spacing) for s in (pair.a, pair.b)]
    graphs = (ops.pearson_graph(values, (1 - p, p), N_EDGES) for p in positions)
    return [_spread_out(graph, genes, pair.n_genes) for graph in graphs]


def _spread_out(graph: sp.csr_array, genes: NDArray[np.intp], n_genes: int) -> sp.csr_array:
    """The graph of some genes as one of all genes."""
    coo = graph.tocoo()
    return sp.coo_array((coo.data, (genes[coo.row], genes[coo.col])), shape=(n_genes, n_genes)).tocsr()


def coexpression(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_edges: int = N_EDGES,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Gene co-expression graph of a section by Pearson correlation (eq. 2).

    Of a measured section, or of a layer of :func:`interpolate`'s result. The graphs which that result brings along are
    made from the measured neighbours; this one is of the layer's own values, which an interpolation has smoothed:
    expect stronger correlations.

    Parameters
    ----------
    adata
        M spots × N genes, log1p expression.
    layer
        Layer to use; `X` by default. Rows that hold NaN (outside of a section's tissue) are left out.
    n_edges
        Strongest correlations, by absolute value, kept for each gene; an edge that either end keeps is kept.
    key_added
        Key in ``varp``; ``"coexpression"`` or ``"coexpression_<layer>"`` by default.
    copy
        Return a changed copy instead of writing into `adata`.

    Returns
    -------
    None or, with `copy`, AnnData. Writes ``varp[key_added]``: CSR float32 (N, N), symmetric, zero diagonal.

    Raises
    ------
    KeyError
        There is no such layer.

    Examples
    --------
    >>> import c2sti, scanpy as sc
    >>> section = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).section(0.0)
    >>> sc.pp.normalize_total(section, target_sum=1e4)
    >>> sc.pp.log1p(section)
    >>> c2sti.tl.coexpression(section)
    >>> section.varp["coexpression"].shape
    (50, 50)
    """
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"there is no layer {layer!r}; the layers are {grid.layer_names(adata)}")
    values = adata.X if layer is None else adata.layers[layer]
    dense = np.asarray(values.todense() if sp.issparse(values) else values, dtype=np.float32)
    dense = dense[~np.isnan(dense).any(axis=1)]
    adata = adata.copy() if copy else adata
    key = key_added or (_keys.COEXPRESSION if layer is None else _keys.graph(layer))
    adata.varp[key] = sp.csr_matrix(ops.pearson_graph([dense], [1.0], n_edges))
    return adata if copy else None


def to_slices(adata: AnnData, *, key: str = "c2sti", gap: float | None = None) -> AnnData:
    """One row per section and bin, instead of one layer per section.

    What tools that expect a stack of sections want: ``sc.pl.embedding(stack, "spatial_3d", projection="3d")``,
    ``sq.pl.spatial_scatter(stack, library_key="section")``. A section keeps the rows inside its own tissue.

    Parameters
    ----------
    adata
        Result of :func:`interpolate`.
    key
        The `key_added` that it was made with.
    gap
        Distance from slice_a to slice_b in the unit of the coordinates, where the sections carry no depth. Left out, z
        runs from 0 to 1.

    Returns
    -------
    AnnData: ``X`` expression; ``obs["section"]`` (ordered from slice_a to slice_b), ``obs["inserted"]`` (True where
    nothing was measured), ``obs["z"]``, ``obs["support"]``; ``obsm["spatial"]`` and ``obsm["spatial_3d"]``;
    ``uns["spatial"]`` with one library a section; `varp` and ``uns[key]`` as they were.

    Raises
    ------
    KeyError
        ``uns[key]`` is missing: this is not a result of `interpolate`, or it had another `key_added`.

    Examples
    --------
    >>> import c2sti
    >>> a, b = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 400.0])
    >>> stack = c2sti.tl.to_slices(c2sti.tl.interpolate(a, b, show_progress_bar=False))
    >>> list(stack.obs["section"].cat.categories)
    ['slice_a', 'c2sti_1', 'slice_b']
    """
    if key not in adata.uns or "sections" not in adata.uns[key]:
        raise KeyError(f"uns[{key!r}] does not hold the result of c2sti.tl.interpolate; uns has {sorted(adata.uns)}")
    record = adata.uns[key]
    names = [str(name) for name in record["sections"]]
    depths = np.asarray(record["z"] if "z" in record and gap is None else record["positions"] * (gap or 1.0))
    rows = [np.flatnonzero(adata.obs[_keys.tissue(name)].to_numpy()) for name in names]
    label = np.repeat(names, [len(r) for r in rows])
    taken = np.concatenate(rows)
    z = np.repeat(depths, [len(r) for r in rows])
    xy = np.asarray(adata.obsm[_keys.SPATIAL])[taken]
    obs = pd.DataFrame(
        {
            _keys.SECTION: pd.Categorical(label, categories=names, ordered=True),
            _keys.INSERTED: np.isin(label, [str(name) for name in record["inserted"]]),
            _keys.Z: z,
            _keys.SUPPORT: adata.obs[_keys.SUPPORT].to_numpy()[taken],
        },
        index=pd.Index([f"{name}_{row}" for name, row in zip(label, adata.obs_names[taken], strict=True)]),
    )
    stack = AnnData(
        X=np.concatenate([np.asarray(adata.layers[name])[r] for name, r in zip(names, rows, strict=True)]),
        obs=obs,
        var=adata.var.copy(),
        obsm={_keys.SPATIAL: xy, _keys.SPATIAL_3D: np.column_stack([xy, z])},
        varp={k: graph.copy() for k, graph in adata.varp.items()},
    )
    blank = grid.blank_library(np.asarray(adata.obsm[_keys.SPATIAL]), float(record["lattice"]["pitch"]))
    stack.uns[_keys.SPATIAL] = dict.fromkeys(names, blank)
    stack.uns[key] = record
    return stack


def evaluate(
    slices: Sequence[AnnData | SpatialData],
    *,
    methods: Sequence[str] = (),
    n_slices: int = 1,
    z: Sequence[float] | None = None,
    context: bool = True,
    n_genes: int = 1000,
    layer: str | None = None,
    spatial_key: str = "spatial",
    table_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str = "global",
    device: str | None = None,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> pd.DataFrame:
    """Hide measured sections of one's own series, make them again, and compare.

    Every run of `n_slices` interior sections is hidden in turn and made from its two neighbours (and their neighbours,
    as context). The hidden section touches nothing: genes are chosen from the neighbours alone.

    Parameters
    ----------
    slices
        The series in order of depth, all in one frame (see :func:`c2sti.pp.align_series`); at least ``n_slices + 2``.
    methods
        Models to judge beside ``"copy"``, ``"linear"``, ``"lowrank"`` and ``"gp"``, which always are.
    n_slices
        Sections hidden in a row.
    z
        Depths of the sections; by default ``obs["z_um"]`` or ``obs["z"]`` where all sections carry one, else even
        steps.
    context
        Whether models that can use them see the series' sections beyond the pair.
    n_genes
        The most variable genes among those detected in at least 10 % of the spots of both neighbours are scored.
    layer, spatial_key, table_key, image_key, coordinate_system, device, seed, show_progress_bar
        As in :func:`interpolate`.

    Returns
    -------
    One row per method and hidden section: ``section`` (its place in `slices`), ``position``, ``method``, ``pcc`` (mean
    over genes of the correlation over spots), ``rmse`` (log1p), ``rv`` (co-expression kept, 1 is perfect), ``ceiling``
    (the PCC that the section's own count noise allows; NaN without counts), ``fraction`` (pcc / ceiling), ``n_spots``,
    ``n_genes``, ``seconds``.

    Raises
    ------
    ValueError
        Too few sections, or one that cannot be used.

    Warns
    -----
    UserWarning
        A neighbour of a hidden section holds some of its spots, with the very same expression. It happens: two of the
        nine published sections of the developing heart share 85 of their 90 spots, and copying looks brilliant there.

    Examples
    --------
    >>> import c2sti
    >>> series = c2sti.datasets.phantom(seed=0, size=12, n_genes=50).series([0.0, 200.0, 400.0])
    >>> table = c2sti.tl.evaluate(series, show_progress_bar=False)
    >>> sorted(table["method"])
    ['copy', 'gp', 'linear', 'lowrank']
    """
    read = partial(
        grid.read_slice,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    grids = [read(s, name=f"slices[{i}]") for i, s in enumerate(slices)]
    return benchmark.leave_sections_out(
        grids,
        methods={name: _method(name) for name in dict.fromkeys([*METHODS, *methods])},
        n_slices=n_slices,
        z=z,
        context=context,
        n_genes=n_genes,
        device=_device(device),
        seed=seed,
        show_progress_bar=show_progress_bar,
    )
