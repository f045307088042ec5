"""Single cells between two sections of single cells: measured cells at new places, with what they express there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from tqdm.auto import tqdm

from c2sti import _keys, _logging, _result, _validators, io, pair_check
from c2sti._backed import in_memory
from c2sti._docs import documented
from c2sti._types import FloatArray, InterpolatedSection, Interpolator, Lattice, Prediction
from c2sti.models import cells
from c2sti.models._registry import available, name_of, resolve, sees_context
from c2sti.models.gp import Describing, with_description
from c2sti.ops import gaussian_operator
from c2sti.pair_check import OnMisfit
from c2sti.tl._describe import call_of, model_record, provenance
from c2sti.tl._gap import PAIR, check_settings
from c2sti.tl._interpolate import _fractions
from c2sti.tl._labels import note_carried, shared_labels
from c2sti.uncertainty import BESIDE, ask

if TYPE_CHECKING:
    from spatialdata import SpatialData

LEAST_CELLS = 50  # of a section, by which composition and spacing can be told from chance
N_FIXED = 20  # steps in which the place of a cell of a section is found at another position
HOLE = 2.0  # cell spacings from a cell, up to which there is tissue
AROUND = 2.0  # cell spacings: width of the Gaussian by which the change of a cell is averaged with those around it
BLOCK = 2**22  # values of cells and genes that are worked on together
TOTAL_COUNTS = "total_counts"  # obs, by scanpy's convention
OWN = _keys.TAKEN | {_keys.FROM_SECTION, _keys.FROM_CELL, TOTAL_COUNTS}  # columns of obs that no labels may be called
HOW = "measured cells of both sections at new places, with what they express there"


@documented
def interpolate_cells(
    slice_a: AnnData | SpatialData,
    slice_b: AnnData | SpatialData | None = None,
    *,
    n_slices: int | None = None,
    positions: Sequence[float] | None = None,
    labels: str | None = None,
    counts: bool = False,
    context: Mapping[float, AnnData | SpatialData | str] | None = None,
    model: str | Path | Interpolator = "c2sti",
    library_key: str | None = None,
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    image_key: io.Key = None,
    coordinate_system: io.Key = None,
    window: io.Windows = None,
    genes: Sequence[str] | pd.Index | None = None,
    on_misfit: OnMisfit = "warn",
    device: str | None = None,
    seed: int = 0,
    key_added: str = "c2sti",
    show_progress_bar: bool = True,
) -> AnnData:
    """Interpolate sections of single cells between two measured ones: cells, not bins.

    Each row is a cell of one of the two sections, at a new place, with its own type and what it expresses there. The
    result is a *sample* that looks like a section; for values at places, with their uncertainty, take
    :func:`interpolate`. :doc:`/guide/cells` says how cells are chosen; another `seed` chooses others.

    Parameters
    ----------
    slice_a, slice_b
        Neighbouring sections of single cells, each of at least 50, in common coordinates.
    labels
        Column of `obs` with the types of cells, in both sections. With it density and neighbourhoods are kept type by
        type; without, of all cells together.
    counts
        Whether `X` holds counts; they are needed in both sections. By default it is log1p expression.
    %(shared)s

    Returns
    -------
    AnnData of cells × N genes, the interpolated sections one below the other, in the layout of :func:`to_slices`:

    - ``X``: CSR float32, log1p expression ≥ 0, or with `counts` whole numbers.
    - ``obs["section"]``, ``"inserted"`` (True), ``"z"``; ``obs["from_section"]`` and ``obs["from_cell"]``, the measured
      cell; ``obs[labels]``; of counts ``obs["library_size"]``, of the measured cell over the genes that sections
      share, and ``obs["total_counts"]``.
    - ``obsm["spatial"]``, ``obsm["spatial_3d"]``.
    - ``uns["c2sti"]``: provenance as of :func:`interpolate`, ``synthetic: True``; in ``"cells"`` what is said of types
      that one section alone has.

    Raises
    ------
    KeyError, ValueError
        A section is an array of spots, has fewer than 50 cells or lacks types (or counts) that are asked for.

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0, size=8, n_genes=30)
    >>> a, b = tissue.series([0.0, 100.0], layout="cells", image=False)
    >>> out = c2sti.tl.interpolate_cells(a, b, labels="domain", show_progress_bar=False)
    >>> bool(out.uns["c2sti"]["synthetic"]), sorted(out.obs["from_section"].unique())
    (True, ['slice_a', 'slice_b'])
    """
    call = call_of(interpolate_cells, locals())
    check_settings(key_added, on_misfit, seed)
    seed, device, method = int(seed), available(device), resolve(model)
    if labels is not None and _validators.text(labels, "labels") in OWN:
        raise ValueError(f"labels={labels!r} is a column of the result itself; rename that of the sections")
    first, second, beside = io.pair_sources(
        slice_a,
        slice_b,
        context,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    windows = io.window_for_each(window, [first.name, second.name])
    keys = () if labels is None else labels
    pair = [
        source.read(obs_keys=keys, window=given, measured=True)
        for source, given in zip((first, second), windows, strict=True)
    ]
    if beside and not sees_context(method):
        _logging.warning(f"model={name_of(model)!r} looks at two sections only; context is ignored")
    a, b, *others = io.on_shared_genes([*pair, *(source.read(measured=True) for source in beside.values())])
    a, b = io.with_distinct_z(a, b)
    types = types_of(a, b, labels)
    for g in (a, b):
        if counts and not g.counts and g.beside is None:
            raise ValueError(
                f"{g.name} holds normalised expression, and counts=True needs counts; name their layer: layer='counts'"
            )
    fractions = _fractions(n_slices, positions, a.z, b.z)
    what = f"interpolating {len(fractions)} section(s) of cells"
    with tqdm(total=len(fractions), desc=what, disable=not show_progress_bar) as bar:
        gap = Gap(
            a,
            b,
            types,
            context=dict(zip(beside, others, strict=True)),
            method=method,
            on_misfit=on_misfit,
            device=device,
            seed=seed,
        )
        var = io.shared_var([a, b, *others]).loc[gap.genes]
        wanted = None if genes is None else _result.genes_of(genes, var.index, var, "all sections")
        made = []
        for p in fractions.tolist():
            made.append(gap.section(p, counts=counts, genes=wanted))
            bar.update()
    parameters = {**first.parameters(), "labels": labels}
    record = provenance([a, b, *others], model_record(model, method), gap.pair.lattice, seed, parameters, call)
    return _framed(gap, made, fractions, record, var if wanted is None else var.loc[wanted], labels, counts, key_added)


# ---- types of cells


@dataclass(frozen=True)
class Types:
    """Types of the cells of both sections."""

    kind: pd.CategoricalDtype | None  # None where types are not asked for
    codes: tuple[NDArray[np.intp], NDArray[np.intp]]  # (n_a,) and (n_b,) numbers of the types, -1 where unknown
    lonely: Mapping[str, str]  # by type that one section alone has, that section


def types_of(a: io.SliceGrid, b: io.SliceGrid, labels: str | None) -> Types:
    """Types that two sections of cells carry; refuses what are no cells, too few of them, or cells without types."""
    for g in (a, b):
        if g.layout in ("square", "hex"):
            raise ValueError(
                f"{g.name} is a {g.layout} array of spots, not of single cells; c2sti.tl.interpolate takes spots"
            )
        if len(g.xy) < LEAST_CELLS:
            raise ValueError(
                f"{g.name} has {len(g.xy)} cells; at least {LEAST_CELLS} are needed to tell how cells lie from chance. "
                "c2sti.tl.interpolate gives expression at places from fewer"
            )
    if labels is None:
        return Types(None, (np.zeros(len(a.xy), np.intp), np.zeros(len(b.xy), np.intp)), {})
    for g in (a, b):
        if labels in g.annotations.absent:
            known = g.annotations.absent[labels]
            raise type(known)(f"{str(known.args[0])}. Types of both sections are needed, or none: labels=None")
    kind = shared_labels([a, b])[labels]
    if not isinstance(kind, pd.CategoricalDtype):
        raise ValueError(f"obs[{labels!r}] (labels=) holds numbers; types of cells are labels: .astype(str)")
    first, second = (pd.Categorical(g.annotations.labels(labels), dtype=kind).codes.astype(np.intp) for g in (a, b))
    lonely = {}
    for g, own, other in ((a, first, second), (b, second, first)):
        if (own < 0).any():
            _logging.warning(f"{int((own < 0).sum())} of {len(own)} cells of {g.name} have no type in obs[{labels!r}]")
        for code in np.setdiff1d(own[own >= 0], other):
            name, n = str(kind.categories[code]), int((own == code).sum())
            lonely[name] = g.name
            _logging.warning(f"type {name!r} is found in {g.name} alone ({n} cells); it fades with the position")
    return Types(kind, (first, second), lonely)


# ---- a gap between two sections


class Gap:
    """Two sections of cells, and what a method says of both and of what lies between them."""

    def __init__(
        self,
        a: io.SliceGrid,
        b: io.SliceGrid,
        types: Types,
        *,
        context: Mapping[float, io.SliceGrid],
        method: Interpolator,
        on_misfit: OnMisfit,
        device: str,
        seed: int,
    ) -> None:
        pair, genes = io.make_pair(a, b, context=context, lattice=io.common_lattice(a, b), judged=True)
        level, scales = io.level(a, b)
        self.fits = pair_check.measure(pair.a, pair.b, pair.spacing, io.overlap(a, b), level)
        pair_check.complain(self.fits, a.name, b.name, on_misfit, scales=scales, stacklevel=4)
        pair = pair.in_memory()
        if isinstance(method, Describing):  # it is asked three times
            method = with_description(method, method.describe(pair, device=device, seed=seed).keeping())
        self.grids, self.types, self.pair, self.genes, self.seed = (a, b), types, pair, genes, seed
        self.n_first = len(a.xy)
        self.method = method
        self.how: dict[str, Any] = {"device": device, "seed": seed}
        # A hole between cells is not the end of the tissue: outlines are those of cells, however few there are.
        first, last = (replace(g, layout="cells", pitch=HOLE * cells.spacing(g.xy)) for g in (a, b))
        self.outlines, self.outline_bins = (first, last), io.common_lattice(first, last)
        from_a, from_b = self._asked(np.concatenate([a.xy, b.xy]), [BESIDE, 1 - BESIDE]).slices
        self.ends = from_a.rows(slice(self.n_first)), from_b.rows(slice(self.n_first, None))

    def _asked(self, points: FloatArray, positions: Sequence[float]) -> Prediction:
        return self.method(self.pair, points, positions, progress=lambda share: None, **self.how)

    def section(
        self, position: float, *, counts: bool = False, genes: pd.Index | None = None
    ) -> tuple[NDArray[np.intp], FloatArray, sp.csr_array]:
        """The m cells at a position.

        Returns (m,) numbers of the measured cells, those of the second section after those of the first; (m, 2) where
        they lie; and (m, N) log1p expression or counts.
        """
        rng = np.random.default_rng([self.seed, int(np.float64(position).view(np.uint64))])
        kept, xy = cells.chosen(self._candidates(position), rng)
        rows = io.rows_of(*self.outlines, self.outline_bins, xy)
        prediction, _ = ask(self.method, self.pair, xy, [position], std=False, blind=rows.blind, **self.how)
        (there,) = prediction.slices
        wanted = np.arange(len(self.genes)) if genes is None else self.genes.get_indexer(genes)
        first = int(np.searchsorted(kept, self.n_first))
        parts: list[sp.csr_array] = []
        for end, start, here in zip(self.ends, (0, self.n_first), (slice(first), slice(first, None)), strict=True):
            # What a model says at a cell's own place has its noise in it, so that cells around are averaged.
            around = sp.csr_array(np.eye(len(xy[here])))
            if len(xy[here]) > 1:
                around = gaussian_operator(xy[here], xy[here], AROUND * cells.spacing(xy[here]))
            before, after = end.rows(kept[here] - start), there.rows(here)
            before, after = (replace(found, weights=around @ found.weights) for found in (before, after))
            parts += self._values(kept[here], before, after, counts, wanted, rng)
        return kept, xy, sp.csr_array(sp.vstack(parts, format="csr"))

    def _candidates(self, position: float) -> cells.Candidates:
        """All cells where they lie at a position, and the share of them that is kept."""
        lattice = self.pair.lattice
        field = self._asked(lattice.centres[:1], [position]).notes.get("displacement")
        field = None if field is None else field[0]
        second = np.repeat([False, True], [len(g.xy) for g in self.grids])
        xy = np.concatenate([_moved(g.xy, field, lattice, position, i) for i, g in enumerate(self.grids)])
        inside = io.rows_of(*self.outlines, self.outline_bins, xy).inside(position)
        there = io.source_places(xy, field, lattice, position)
        covered = np.where(second, self.outlines[0].covers(there[0]), self.outlines[1].covers(there[1]))
        share = np.where(covered, np.where(second, position, 1 - position), 1.0)
        types = np.concatenate(self.types.codes)
        types = np.where(types < 0, types.max() + 1, types)  # what is unknown is a type of its own
        return cells.Candidates(xy, second, types, np.where(inside, share, 0.0), self._nearest)

    def _values(
        self,
        kept: NDArray[np.intp],
        before: InterpolatedSection,
        after: InterpolatedSection,
        counts: bool,
        genes: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> Iterator[sp.csr_array]:
        """What cells of one section express at their new places, of some genes: (m, n), block by block."""
        step = max(BLOCK // len(self.genes), 1)
        for start in range(0, len(kept), step):
            own, block = kept[start : start + step], slice(start, start + step)
            change = after.block(block, slice(None)) - before.block(block, slice(None))
            if counts or self.grids[0].counts:
                found = cells.moved_counts(self._counts[own], change, rng)
                if not counts:
                    found = in_memory(io.log_normalise(found, np.asarray(found.sum(axis=1)).ravel()))
                yield found[:, genes]
            else:
                yield cells.moved_expression(self._expression[own], change)[:, genes]

    @cached_property
    def _nearest(self) -> FloatArray:
        return np.concatenate([cells.nearest_cell(g.xy) for g in self.grids])

    @cached_property
    def _expression(self) -> sp.csr_array:
        """(n, N) values of the cells of both sections, as the sections hold them."""
        return self._together(self.grids)

    @cached_property
    def _counts(self) -> sp.csr_array:
        """(n, N) counts of the cells of both sections."""
        if self.grids[0].counts:
            return self._expression
        return self._together([replace(g, values=g.beside, counts=True) for g in self.grids if g.beside is not None])

    def _together(self, grids: Sequence[io.SliceGrid]) -> sp.csr_array:
        return sp.csr_array(sp.vstack([in_memory(io.values_of(g, self.genes)) for g in grids], format="csr"))


def _moved(xy: FloatArray, field: FloatArray | None, lattice: Lattice, position: float, section: int) -> FloatArray:
    """(n, 2) where at a position the tissue lies that is at places of the first (0) or the second (1) section."""
    if field is None:
        return xy
    points = xy
    for _ in range(N_FIXED):
        points = xy - (io.source_places(points, field, lattice, position)[section] - points)
    return points


# ---- the result


def _framed(
    gap: Gap,
    made: Sequence[tuple[NDArray[np.intp], FloatArray, sp.csr_array]],
    fractions: FloatArray,
    record: Mapping[str, Any],
    var: pd.DataFrame,
    labels: str | None,
    counts: bool,
    key: str,
) -> AnnData:
    """The sections one below the other, with a record of how they were made."""
    a, b = gap.grids
    inserted, depths = _keys.inserted(key, len(made)), np.array([0.0, *fractions, 1.0])
    z = depths if a.z is None or b.z is None else a.z + depths * (b.z - a.z)
    of_each, places, values = zip(*made, strict=True)
    n = [len(own) for own in of_each]
    own, xy, depth = np.concatenate(of_each), np.concatenate(places), np.repeat(z[1:-1], n)
    obs = pd.DataFrame(
        {
            _keys.SECTION: pd.Categorical(np.repeat(inserted, n), categories=inserted, ordered=True),
            _keys.INSERTED: True,
            _keys.Z: depth,
            _keys.FROM_SECTION: pd.Categorical.from_codes((own >= len(a.xy)).astype(int), categories=list(PAIR)),
            _keys.FROM_CELL: np.concatenate([a.names, b.names])[own],
        },
        index=[f"{name}_cell_{i}" for name, m in zip(inserted, n, strict=True) for i in range(m)],
    )
    matrix = sp.csr_matrix(sp.vstack(values, format="csr"))
    if labels is not None:
        obs[labels] = pd.Categorical.from_codes(np.concatenate(gap.types.codes)[own], dtype=gap.types.kind)
    if counts:
        obs[_keys.LIBRARY_SIZE] = np.concatenate([a.library, b.library])[own]
        obs[TOTAL_COUNTS] = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    obsm = {_keys.SPATIAL: xy, _keys.SPATIAL_3D: np.column_stack([xy, depth])}
    out = AnnData(X=matrix, obs=obs, var=var, obsm=obsm)
    scale = None if counts else _result.log1p_of(record)
    if scale is not None:
        out.uns[_keys.LOG1P] = scale
    out.uns[key] = {
        "synthetic": True,
        "sections": [PAIR[0], *inserted, PAIR[1]],
        "inserted": inserted,
        "positions": depths,
        "genes": var.index.to_numpy(dtype=str),
        _keys.PAIR_CHECK: dict(gap.fits),
        _keys.CELLS: {"how": HOW, "types_in_one_section": dict(gap.types.lonely)},
        **({} if a.z is None or b.z is None else {"z": z}),
        **{name: value for name, value in record.items() if name != _keys.LOG1P},
    }
    if labels is not None:
        note_carried(out, (a, b), {labels: gap.types.kind}, key)
    _logging.info(f"interpolated {', '.join(inserted)} ({out.n_obs} cells x {out.n_vars} genes)")
    return out
