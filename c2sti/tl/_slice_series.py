"""A section at any angle through a series, as a microtome would have cut it from the same block.

Rows of its bins are horizontal, so that all bins of a row have one z. A row is then what an interpolator calls points
at a position: the rows in a gap are asked for together, from the description of the series that the others are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from c2sti import _keys, _logging, _result, _validators, io
from c2sti._docs import documented
from c2sti._tasks import compute
from c2sti._types import FloatArray, Interpolator, Lattice
from c2sti.models._registry import available, resolve, sees_context
from c2sti.pair_check import OnMisfit
from c2sti.tl._describe import call_of, model_record, provenance
from c2sti.tl._gap import check_settings
from c2sti.tl._labels import note_carried, recompose, shared_labels
from c2sti.tl._series import filled, stacked
from c2sti.tl._series_z import SAME, read_series

if TYPE_CHECKING:
    from spatialdata import SpatialData

AXES = "xyz"
LEVEL = 1e-9  # horizontal share of a unit normal up to which a plane is parallel to the sections
MOST_BINS = 20_000_000
ROWS = 8  # asked for together: each at the places of all of them, so that more would cost more than they save

PlaneLike: TypeAlias = Mapping[str, float] | tuple[ArrayLike, ArrayLike]


# ---- the plane


@dataclass(frozen=True)
class Plane:
    """A plane through a series, in the unit of the common coordinates and of z.

    Parameters
    ----------
    point
        (3,) through which it goes, the origin of its coordinates.
    normal
        (3,) of length 1.
    """

    point: FloatArray
    normal: FloatArray

    @classmethod
    def of(cls, given: PlaneLike) -> Plane:
        """From (point, normal), or from the value of x, y or z on it; an error that names `plane` for all else."""
        if isinstance(given, Mapping):
            if len(given) != 1 or not set(given) <= set(AXES):
                raise ValueError(
                    f"plane = {_validators.shown(given)} must name one of x, y and z, such as {{'x': 3000}}"
                )
            ((axis, value),) = given.items()
            along = np.eye(3)[AXES.index(axis)]
            return cls(_validators.number(value, f"plane[{axis!r}]") * along, along)
        parts = _validators.several(given, "plane", "a point and a normal, or {'x': 3000}")
        if len(parts) != 2:
            raise ValueError(f"plane holds {len(parts)} part(s); a point and a normal are needed, (x, y, z) each")
        point, normal = _three(parts[0], "the point of plane"), _three(parts[1], "the normal of plane")
        length = np.linalg.norm(normal)
        if length == 0:
            raise ValueError("the normal of plane is zero and has no direction; (0, 0, 1) is that of the sections")
        return cls(point, normal / length)

    @property
    def tilt(self) -> float:
        """Sine of the angle between the plane and the sections; 0 if they are parallel."""
        flat = float(np.hypot(*self.normal[:2]))
        return flat if flat > LEVEL else 0.0

    @property
    def axes(self) -> FloatArray:
        """(2, 3) directions of its coordinates: along the sections, and from them to larger z. Never mirrored."""
        if not self.tilt:
            return np.eye(3)[:2]
        x, y, z = self.normal
        along = np.array([-y, x, 0]) / self.tilt
        along *= np.sign(z) if abs(z) > LEVEL else np.sign(along[np.abs(along).argmax()])
        return np.stack([along, np.array([-x * z, -y * z, self.tilt**2]) / self.tilt])

    def cut(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """(n, 2) coordinates of the corners at which the plane cuts the edges of a box; none where it misses it."""
        corners = np.array(list(product(*zip(low, high, strict=True))))
        height = (corners - self.point) @ self.normal
        height[np.abs(height) < SAME * np.linalg.norm(high - low)] = 0
        ends = [(i, j) for i in range(8) for j in range(i) if (corners[i] != corners[j]).sum() == 1]
        crossed = [(i, j) for i, j in ends if height[i] * height[j] < 0]
        between = [corners[i] + (corners[j] - corners[i]) * height[i] / (height[i] - height[j]) for i, j in crossed]
        found = np.array([*corners[height == 0], *between]).reshape(-1, 3)
        return (found - self.point) @ self.axes.T

    def places(self, uv: FloatArray) -> FloatArray:
        """(n, 3) places in the frame of (n, 2) coordinates."""
        return self.point + uv @ self.axes

    def __str__(self) -> str:
        point, normal = (", ".join(f"{value:g}" for value in values.tolist()) for values in (self.point, self.normal))
        return f"the plane through ({point}) with normal ({normal})"


def _three(value: Any, what: str) -> FloatArray:
    found = _validators.reals(value, what)
    if found.shape != (3,) or not np.isfinite(found).all():
        raise ValueError(f"{what} is {_validators.shown(value)}; three finite numbers, (x, y, z), are needed")
    return found


def bins_of(plane: Plane, low: FloatArray, high: FloatArray, pitch: float) -> tuple[Lattice, NDArray[np.intp]]:
    """Bins of a plane in the box of a series, from its corner of least coordinates on; and those that lie in it."""
    cut = plane.cut(low, high)
    if len(cut) == 0:
        ends = ", ".join(f"{axis} from {a:g} to {b:g}" for axis, a, b in zip(AXES, low, high, strict=True))
        raise ValueError(f"{plane} lies outside of the series, which spans {ends}; name a plane that cuts it")
    first, extent = cut.min(axis=0), np.ptp(cut, axis=0)
    columns, rows = np.floor(extent / pitch * (1 + SAME) + SAME) + 1
    if rows * columns > MOST_BINS:
        raise ValueError(
            f"pitch = {pitch:g} makes {columns:.0f} x {rows:.0f} bins over {extent.round(1).tolist()}; choose a larger "
            "pitch=, and give x, y and z in one unit"
        )
    lattice = Lattice((float(first[0]), float(first[1])), pitch, (int(rows), int(columns)))
    xyz, slack = plane.places(lattice.centres), SAME * (high - low)
    return lattice, np.flatnonzero(((low - slack <= xyz) & (xyz <= high + slack)).all(axis=1))


# ---- the section


@documented
def slice_series(
    slices: Sequence[AnnData | SpatialData] | AnnData | SpatialData,
    *,
    plane: PlaneLike,
    library_key: str | None = None,
    z: Sequence[float] | None = None,
    n_context: int = 2,
    model: str | Path | Interpolator = "c2sti",
    layer: io.Key = None,
    spatial_key: str | None = None,
    table_key: io.Key = None,
    image_key: io.Key = None,
    coordinate_system: io.Key = None,
    window: io.Windows = None,
    pitch: float | None = None,
    genes: Sequence[str] | pd.Index | None = None,
    obs_keys: str | Sequence[str] = (),
    obsm_keys: str | Sequence[str] = (),
    std: bool = False,
    interval: float | None = None,
    on_misfit: OnMisfit = "warn",
    device: str | None = None,
    seed: int = 0,
    key_added: str = "c2sti",
    show_progress_bar: bool = True,
    max_memory: int | str | None = None,
) -> AnnData:
    """Cut a section at any angle through a series.

    Every bin is interpolated at its own z between the measured sections around it, as :func:`interpolate_series` does
    for whole sections. What the plane shares with a measured section is interpolated, too: nothing of it is measured.

    Parameters
    ----------
    plane
        A point on it and its normal, ``((x, y, z), (nx, ny, nz))``; or the value of one coordinate that all of it has,
        ``{"x": 3000.0}``. x and y in the unit of the common coordinates, z in that of the sections; they should be
        the same.
    pitch
        Side of a bin, in the same unit; by default the mean of the sections' pitches. Across sections that are closer
        than that, give their distance to see each of them.
    key_added
        Key of the record in `uns`; the section is called ``"c2sti_1"`` by it.
    %(shared)s

    Returns
    -------
    AnnData of M bins × N genes, float32 log1p expression in ``X``, those bins of the plane that lie in tissue. The rest
    is as in :func:`interpolate_series`, without H&E and measured rows, but for:

    - ``obsm["spatial"]`` (M, 2): distance from the point of the plane (from the origin, where one coordinate names the
      plane) along its two directions, the first of which is horizontal; where x is given they are y and z, and so on.
      ``obsm["spatial_3d"]`` (M, 3): x, y and z.
    - ``uns["c2sti"]["plane"]``: point, normal and the two directions, as rows of ``"axes"``.

    Raises
    ------
    KeyError, ValueError
        A section cannot be used; z are missing or out of order; the plane has no normal, misses the series or its
        tissue.

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0, size=12, n_genes=50)
    >>> series = tissue.series([0.0, 100.0, 250.0])
    >>> middle = tissue.side / 2
    >>> cut = c2sti.tl.slice_series(series, plane={"x": middle}, model="linear", pitch=50.0, show_progress_bar=False)
    >>> sorted(cut.obs["z"].unique().tolist())
    [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]
    >>> tilted = ((middle, middle, 125.0), (0.1, 0.0, 1.0))
    >>> cut = c2sti.tl.slice_series(series, plane=tilted, model="linear", show_progress_bar=False)
    """
    call = call_of(slice_series, locals())  # before there are other names than those of the arguments
    through = Plane.of(plane)
    check_settings(key_added, on_misfit, seed, interval)
    limit = io.memory_of(max_memory)
    device, method = available(device), resolve(model)
    n_context = _validators.whole(n_context, "n_context", least=0)
    n_context = n_context if sees_context(method) else 0
    found = io.sources(
        slices,
        least=2,
        library_key=library_key,
        layer=layer,
        spatial_key=spatial_key,
        table_key=table_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
    )
    grids, own, zs = read_series(found, z, window=window, obs_keys=obs_keys, obsm_keys=obsm_keys, key_added=key_added)
    lattice = io.common_lattice(*grids)
    side = lattice.pitch if pitch is None else _validators.number(pitch, "pitch", above=0)
    xy = np.concatenate([g.xy for g in grids])
    bins, inside = bins_of(through, np.append(xy.min(axis=0), zs[0]), np.append(xy.max(axis=0), zs[-1]), side)
    labels, var = shared_labels(grids), io.shared_var(grids)
    if genes is not None:
        var = var.loc[_result.genes_of(genes, var.index, var, "all sections")]
    xyz = through.places(bins.centres[inside])
    places, place_of_each = _places(xyz[:, 2], zs)
    parts, checks = filled(
        grids,
        zs,
        list(_together(places, place_of_each, xyz[:, :2])),
        n_context=n_context,
        show_progress_bar=show_progress_bar,
        method=method,
        lattice=lattice,
        genes=var.index,
        device=device,
        seed=seed,
        key_added=key_added,
        labels=labels,
        whole=False,
        std=std,
        interval=interval,
        on_misfit=on_misfit,
    )
    if not parts:
        raise ValueError(f"{through} meets no tissue between the sections; name one that cuts it")
    parameters = {**found[0].parameters(), "n_context": n_context, "interval": interval, "pitch": side}
    record = provenance(grids, model_record(model, method), lattice, seed, parameters, call)
    stack = stacked(parts, places.loc[list(parts)], checks, own, lattice, key_added, record)
    cut = _laid_flat(stack, through, bins, key_added)
    recompose(cut, labels)
    note_carried(cut, grids, labels, key_added)
    kinds = [_keys.STD] * std + [_keys.LOWER, _keys.UPPER] * (interval is not None)
    dense = io.is_dense(cut.shape, 1 + len(kinds), limit)
    n_threads = torch.get_num_threads()
    io.add_values(cut, [part.values for part in parts.values()], kinds, dense=dense, n_threads=n_threads)
    if std:  # of each row it says how the row's bins differ, and not how those of the section do
        whole = io.confidence(cut.X, cut.layers[_keys.STD], np.ones(cut.n_obs, dtype=bool))
        cut.obs[_keys.CONFIDENCE] = compute([whole], n_threads=n_threads)[0]
    _logging.info(f"cut {through} into {cut.n_obs} bins x {cut.n_vars} genes, across {len(checks)} gap(s)")
    return cut


def _places(z: FloatArray, zs: FloatArray) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """Rows of bins, as :func:`c2sti.tl._series_z.places_of` has sections; and (M,) which of them each bin is in."""
    z, place_of_each = np.unique(np.clip(z, *zs[[0, -1]]).round(9), return_inverse=True)
    first = np.clip(np.searchsorted(zs, z, side="right") - 1, 0, len(zs) - 2)
    position = np.clip((z - zs[first]) / np.diff(zs)[first], SAME, 1 - SAME)  # nearer, an interpolator is not asked
    names = [f"row_{i}" for i in range(len(z))]
    return pd.DataFrame({"z": z, "first": first, "position": position}, index=names), place_of_each


def _together(
    places: pd.DataFrame, place_of_each: NDArray[np.intp], xy: FloatArray
) -> Iterator[tuple[pd.DataFrame, FloatArray, NDArray[np.intp]]]:
    """Rows of one gap that are asked for together, the (m, 2) points of all of them, and which row each is in."""
    number = np.arange(len(places))
    for _, of_gap in pd.Series(number).groupby(places["first"].to_numpy()):
        for some in np.array_split(of_gap.to_numpy(), -(-len(of_gap) // ROWS)):
            points = np.isin(place_of_each, some)
            yield places.iloc[some], xy[points], place_of_each[points] - some[0]


def _laid_flat(stack: AnnData, plane: Plane, bins: Lattice, key: str) -> AnnData:
    """The rows of a plane, stacked as if each were a section, as one section in the coordinates of the plane."""
    (name,) = _keys.inserted(key, 1)
    held = bins.bins((np.asarray(stack.obsm[_keys.SPATIAL_3D]) - plane.point) @ plane.axes.T)
    row, column = np.divmod(held, bins.shape[1])
    uv = bins.centres[held]
    stack.obs = stack.obs.drop(columns=[_keys.SPOT, _keys.LIBRARY_SIZE], errors="ignore")  # of measured rows
    stack.obs[_keys.SECTION] = pd.Categorical([name] * stack.n_obs, ordered=True)
    stack.obs["array_row"], stack.obs["array_col"] = row, column
    stack.obs_names = pd.Index([f"{name}_{r}_{c}" for r, c in zip(row, column, strict=True)])
    stack.obsm[_keys.SPATIAL] = uv
    stack.uns[_keys.SPATIAL] = {name: io.library_of_sections({name: None}, name, bins.pitch, uv)}
    record = {k: v for k, v in stack.uns[key].items() if k not in ("z", "neighbours")}
    stack.uns[key] = {
        **record,
        "sections": [name],
        "inserted": [name],
        _keys.PLANE: {"point": plane.point, "normal": plane.normal, "axes": plane.axes},
        "lattice": io.lattice_as_dict(bins),
    }
    return stack
