"""Published tools on arrays: ``python tools.py NAME`` in the environment of the tool; see ``outside.py``.

Reads a line ``IN<tab>OUT`` of stdin for each interpolation and answers ``done`` or what went wrong. Every function gets
the arrays of IN and returns (M, N) log expression at the held-out points. Where a tool leaves a setting open, it was
chosen on her2st B and D (docs/published_tools.md). Nothing of c2sti is imported.
"""

# ruff: noqa: PLC0415 - a tool is imported where it is called: each lives in an environment of its own

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

N_POINTS = 16  # of Spateo's VTK interpolation, which has no default
THICKNESS = 1.0  # distance of the two sections in spot spacings, which many series do not state


def main() -> None:
    """Answer until stdin ends."""
    tool, answer = TOOLS[sys.argv[1]], sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # tools print
        for line in sys.stdin:
            question, result = line.rstrip("\n").split("\t")
            try:
                with np.load(question) as arrays:
                    np.save(result, tool(dict(arrays)).astype(np.float32))
                said = "done"
            except Exception as error:  # noqa: BLE001 - whatever a tool raises is passed on
                said = f"{type(error).__name__}: {error}".replace("\n", " ")
            print(said, file=answer, flush=True)


def spateo_vtk(given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Spateo's interpolation of points in 3-D by VTK: the inverse of the squared distance to the nearest spots."""
    import spateo as st

    block, target = _block(given)
    out = st.tdr.vtk_interpolation(block, target_points=target, keys=list(block.var_names), n_points=N_POINTS)
    return np.asarray(out.X)


def spateo_kernel(given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Spateo's regression by kernels (sparseVFC), its defaults, all genes at once."""
    import spateo as st

    block, target = _block(given)
    return np.asarray(st.tdr.kernel_interpolation(block, target_points=target, keys=list(block.var_names)).X)


def feast(given: Mapping[str, np.ndarray]) -> np.ndarray:
    """FEAST's interpolated section, from a PASTE alignment with its defaults, read at the nearest of its spots."""
    import ot
    from FEAST.interpolation import interpolate_slices
    from scipy.spatial import cKDTree

    sections = [_section(given, name) for name in "ab"]
    distances = [ot.dist(s.obsm["spatial"], s.obsm["spatial"], metric="euclidean") for s in sections]
    probabilities = [(s.X + 0.01) / (s.X + 0.01).sum(axis=1, keepdims=True) for s in sections]
    a, b = probabilities
    divergence = (a * np.log(a)).sum(axis=1)[:, None] - a @ np.log(b).T
    shares = [np.full(s.n_obs, 1 / s.n_obs) for s in sections]
    coupling = ot.gromov.fused_gromov_wasserstein(divergence, *distances, *shares, alpha=0.1, max_iter=200)
    out = interpolate_slices(*sections, coupling, t=float(given["position"]), random_seed=int(given["seed"]))
    counts = out.X.toarray() if hasattr(out.X, "toarray") else np.asarray(out.X)
    # Scaled as the sections are: their mean total of these genes after normalisation.
    total = np.mean([np.expm1(s.X).sum(axis=1).mean() for s in sections])
    expression = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * total)
    return expression[cKDTree(out.obsm["spatial"]).query(given["at"])[1]]


TOOLS = {tool.__name__: tool for tool in (spateo_vtk, spateo_kernel, feast)}


def _section(given: Mapping[str, np.ndarray], name: str) -> AnnData:
    from anndata import AnnData

    section = AnnData(given[f"{name}_expression"])
    section.var_names = [f"gene{i}" for i in range(section.n_vars)]
    section.obsm["spatial"] = given[f"{name}_xy"]
    if f"{name}_counts" in given:
        section.layers["counts"] = given[f"{name}_counts"]
    return section


def _block(given: Mapping[str, np.ndarray]) -> tuple[AnnData, np.ndarray]:
    """Both sections in three dimensions, and the points between them."""
    from anndata import AnnData

    a, b = (_section(given, name) for name in "ab")
    depth = THICKNESS * float(given["spacing"])
    block = AnnData(np.vstack([a.X, b.X]), var=a.var)
    z = np.repeat([0.0, depth], [a.n_obs, b.n_obs])
    block.obsm["spatial"] = np.column_stack([np.vstack([a.obsm["spatial"], b.obsm["spatial"]]), z])
    at = given["at"]
    return block, np.column_stack([at, np.full(len(at), float(given["position"]) * depth)])


if __name__ == "__main__":
    main()
