"""Open-ST: the series that the paper was made with, from the files that the openst pipeline writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset
from numpy.typing import NDArray
from scipy import sparse

from c2sti import _keys, _logging, _validators
from c2sti._types import FloatArray

BARCODES = ("spatial_manual_fine", "spatial_pairwise_aligned_fine", "spatial_pairwise_aligned_coarse")  # best first
CENTROIDS = "spatial"  # of segmented cells; of barcodes it is where the sequencer saw them, not on the image
STACKED = "spatial_3d_aligned"
CELL, SECTION = "cell_ID_mask", "n_section"
# Coordinates of older pipelines are those of the image that was rotated, which then stands beside the raw one.
IMAGES = ("spatial_pairwise_aligned/staining_image_transformed", "spatial/staining_image")
SPACEMAKE = "multimodal/stitched_segmented.h5ad"
NUMBERED = re.compile(r"(?:^|[^0-9A-Za-z])[Ss]?(\d+)$")
UM_PER_PX = 0.345  # of the microscope that the authors used, at 20x
THICKNESS_UM = 10.0  # sections 2 to 36 then span 350 µm, as published
CELL_UM = 10.0  # drawn size of a cell
MANY = 1_000_000  # points of a section, from which on they should be gathered
BAND = 256  # rows of pixels that are reduced at a time


def openst(
    path: str | Path,
    *,
    sections: Sequence[int] | None = None,
    pitch: float | None = None,
    genes: Sequence[str] | None = None,
    pattern: str = "*.h5ad",
    spatial_key: str | None = None,
    um_per_px: float = UM_PER_PX,
    thickness_um: float = THICKNESS_UM,
    image_px: int = 4096,
) -> list[ad.AnnData]:
    """Read a series of Open-ST sections, such as the human metastatic lymph node of Schott et al. (2024).

    Parameters
    ----------
    path
        A folder with one file a section, named by its number at the end (``GSM7990100_metastatic_lymph_node_S2.h5ad``,
        or ``mLN_S2/multimodal/stitched_segmented.h5ad`` below it); or one file that holds the registered series
        (``GSE251926_metastatic_lymph_node_3d.h5ad``). Unpack ``.gz`` first.
    sections
        Numbers of the sections to read; by default all.
    pitch
        Side of square bins, µm, to gather cells or barcodes into; all sections share the lattice, whose borders are
        multiples of it. By default every point is kept, which for 0.6 µm barcodes is millions.
    genes
        Names to keep, in this order; by default all. Less memory, and other counts for the library size.
    pattern
        Which files of a folder: the deposit also holds other specimens.
    spatial_key
        Coordinates in ``obsm``. By default ``"spatial_3d_aligned"`` of a registered series, ``"spatial"`` of segmented
        cells, and of barcodes the best alignment that the pipeline has made.
    um_per_px
        Side of a pixel of the full H&E, in which openst gives coordinates.
    thickness_um
        Distance in z of sections whose numbers follow each other.
    image_px
        Most pixels a side of the H&E that are kept. 4096 are the paper's eight patches of 512, 50 MB a section.

    Returns
    -------
    Sections in the order of their numbers, each cells (or bins) × genes:

    - ``X``: counts, CSR float32; those of one gene name are added up. Of the registered series the layer ``"raw"``.
    - ``obs``: what the file has for cells, or ``array_row``, ``array_col`` and ``n_points`` of bins; ``z_um``.
    - ``obsm["spatial"]``: (n, 2) x and y, µm.
    - ``uns["spatial"][section]``: the H&E and scale factors, as squidpy wants them; absent where the file has none.
    - ``uns["section"]``: ``section_id``, ``section_index``, ``n_sections``, ``registered``, ``um_per_px_fullres`` (1,
      as coordinates are in µm), ``um_per_px_image``, ``section_thickness_um``, ``has_image``.

    Notes
    -----
    Coordinates of openst are (row, column) of the H&E, here swapped to x and y; the first row of segmented cells pools
    what belongs to no cell, here left out. No file states the size of a pixel (0.345 µm, Keyence, 20x) and the
    thickness (10 µm), which are those that others use for these data: check yours.

    Files of sections are not in register with each other: run :func:`c2sti.pp.align_series`. The registered series is,
    and is read without H&E. It was read here from simulated files of this layout only.

    References
    ----------
    Schott et al. (2024), *Cell* 187, 3953–3972. Data: GEO GSE251926. Pipeline: https://github.com/rajewsky-lab/openst

    Examples
    --------
    >>> slices = openst("GSE251926", pattern="*metastatic_lymph_node_S*.h5ad", pitch=20.0)  # doctest: +SKIP
    """
    if pitch is not None:
        _validators.number(pitch, "pitch", above=0)
    for what, value in (("um_per_px", um_per_px), ("thickness_um", thickness_um)):
        _validators.number(value, what, above=0)
    image_px = _validators.whole(image_px, "image_px")
    _validators.text(pattern, "pattern")
    if spatial_key is not None:
        _validators.text(spatial_key, "spatial_key")
    genes = None if genes is None else _validators.gene_names(genes)
    where = _validators.path(path, "path").expanduser()
    there = _stacked(where) if where.is_file() else _numbered(where, pattern)
    slices = []
    for number in _chosen(there, sections):
        name = f"S{number} ({there[number].name})"
        _logging.info(f"reading {name}")
        with _opened(there[number]) as file:
            adata = _section(file, number, pitch, genes, spatial_key, um_per_px, name)
            if not _is_stack(file):
                _add_image(adata, file, number, pitch, um_per_px, image_px, name)
        adata.obs[_keys.Z_UM] = number * thickness_um
        adata.uns["section"].update(n_sections=len(there), section_thickness_um=thickness_um)
        slices.append(adata)
    return slices


# -- which sections there are


def _stacked(file: Path) -> dict[int, Path]:
    with _opened(file) as held:
        if not _is_stack(held):
            return _by_number([file])
        return {int(number): file for number in np.unique(_section_numbers(held))}


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no file or folder {folder}")
    files = sorted(folder.glob(pattern)) or sorted(folder.rglob(SPACEMAKE))
    if not files:
        packed = len(list(folder.glob(pattern + ".gz")))
        fix = f"; {packed} files end in .gz: unpack them (gunzip)" if packed else ""
        raise FileNotFoundError(f"no section in {folder}: looked for {pattern} and, below it, */{SPACEMAKE}{fix}")
    return _by_number(files)


def _by_number(files: Sequence[Path]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for file in files:
        label = file.parents[1].name if file.match(SPACEMAKE) else file.stem
        match = NUMBERED.search(label)
        if match is None:
            raise ValueError(
                f"{label!r} does not end in the number of its section (…_S2), so the order of the sections is unknown; "
                "rename it, choose files with pattern=, or, if it holds a whole series, give its path"
            )
        number = int(match[1])
        if number in found:
            raise ValueError(
                f"{found[number].name} and {file.name} both have the number {number}, so the order of the sections is "
                "unknown; choose those of one specimen with pattern="
            )
        found[number] = file
    return found


def _chosen(there: dict[int, Path], sections: Sequence[int] | None) -> list[int]:
    if sections is None:
        return sorted(there)
    sections = [
        _validators.whole(n, "sections: a number", least=0)
        for n in _validators.several(sections, "sections", "numbers")
    ]
    missing = sorted(set(sections) - set(there))
    if missing:
        raise ValueError(f"there is no section {missing[0]}; those that exist are {', '.join(map(str, sorted(there)))}")
    return sorted(set(sections))


# -- one section


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an h5ad ({error}); copy or download it again") from error


def _is_stack(file: h5py.File) -> bool:
    """Whether the file holds a series of registered sections."""
    return SECTION in file["obs"]


def _section_numbers(file: h5py.File) -> NDArray[np.intp]:
    """(n,) number of the section that each row of a stack belongs to."""
    found = pd.Series(np.asarray(read_elem(file["obs"][SECTION]))).astype(str)
    number = pd.to_numeric(found, errors="coerce")
    odd = number.isna() | (number != number.round())
    if odd.any():
        raise ValueError(
            f"obs[{SECTION!r}] of {file.filename} holds {found[odd].iloc[0]!r}; numbers that count sections are needed"
        )
    return number.to_numpy(dtype=np.intp)


def _section(
    file: h5py.File,
    number: int,
    pitch: float | None,
    genes: list[str] | None,
    spatial_key: str | None,
    um_per_px: float,
    name: str,
) -> ad.AnnData:
    xy = _positions(file, spatial_key, name) * um_per_px
    # What no cell was found for is pooled by openst in one row, cell 0 at (0, 0).
    rows = np.asarray(read_elem(file["obs"][CELL])) != 0 if CELL in file["obs"] else np.ones(len(xy), dtype=bool)
    if _is_stack(file):
        rows &= _section_numbers(file) == number
    if not rows.any():
        raise ValueError(f"{name} holds no point but the pooled one: the section is empty; leave it out with sections=")
    xy = xy[rows]
    values, names = _counts(file, rows, genes, name)
    if pitch is None:
        obs = read_elem(file["obs"]).loc[rows]
        if len(xy) > MANY:
            _logging.warning(f"{name} has {len(xy):,} points; pitch=20.0, say, gathers them into bins of 20 µm")
    else:
        obs, xy, values = _gather(xy, values, pitch)
    obs.index = [f"S{number}_{row}" for row in obs.index]
    adata = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=names), obsm={_keys.SPATIAL: xy})
    adata.uns["section"] = {
        "dataset": "openst",
        "section_id": f"S{number}",
        "section_index": number,
        "registered": _is_stack(file),
        "um_per_px_fullres": 1.0,
        "um_per_px_image": um_per_px,
        "has_image": False,
    }
    return adata


def _positions(file: h5py.File, key: str | None, name: str) -> FloatArray:
    """(n, 2) x and y in pixels of the H&E; openst keeps (row, column)."""
    there = sorted(file.get("obsm", {}))
    usual = (STACKED,) if _is_stack(file) else (CENTROIDS,) if CELL in file["obs"] else BARCODES
    wanted = (key,) if key is not None else usual
    found = next((k for k in wanted if k in there), None)
    if found is None:
        fix = ""
        if key is None and CENTROIDS in there:
            fix = (
                f"; {CENTROIDS!r} of barcodes is not on the H&E: run `openst pairwise_aligner`, or name the "
                f"coordinates to take with spatial_key= and their unit with um_per_px="
            )
        raise KeyError(
            f"{name} has no spatial coordinates: looked for obsm {', '.join(map(repr, wanted))}, there is {there}{fix}"
        )
    values = read_elem(file["obsm"][found])
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return np.ascontiguousarray(values[:, 1::-1], dtype=np.float64)


def _counts(file: h5py.File, rows: NDArray[np.bool_], genes: list[str] | None, name: str) -> tuple[Any, pd.Index]:
    """Counts of some rows, CSR float32, and the names of the genes; columns of one gene name are added up.

    A layer ``"raw"``, which the published stack has, goes before `X`.
    """
    where = file["layers"]["raw"] if "raw" in file.get("layers", {}) else file["X"]
    names = read_elem(file["var"]).index.astype(str)
    codes, unique = pd.factorize(names)
    values = _matrix(where, np.flatnonzero(rows))
    if len(unique) < len(names):
        _logging.info(f"{name}: {len(names) - len(unique)} columns of the same gene names are added up")
        values = values @ sparse.csr_matrix((np.ones(len(codes), dtype=np.float32), (np.arange(len(codes)), codes)))
    if genes is not None:
        missing = [gene for gene in genes if gene not in unique]
        if missing:
            raise KeyError(f"{name} lacks {len(missing)} of {len(genes)} genes= (first: {missing[0]!r})")
        values, unique = values[:, unique.get_indexer(genes)], pd.Index(genes)
    return sparse.csr_matrix(values, dtype=np.float32), unique


def _matrix(where: h5py.Group | h5py.Dataset, rows: NDArray[np.intp]) -> sparse.csr_matrix:
    """Rows of a matrix on disk; where they lie together, as the sections of a stack do, only these are read."""
    dense = isinstance(where, h5py.Dataset)
    if not dense and where.attrs["encoding-type"] != "csr_matrix":
        return sparse.csr_matrix(read_elem(where))[rows]
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    return sparse.csr_matrix((where if dense else sparse_dataset(where))[span])[rows - span.start]


def _gather(
    xy: FloatArray, values: sparse.csr_matrix, pitch: float
) -> tuple[pd.DataFrame, FloatArray, sparse.csr_matrix]:
    """Counts summed over square bins whose borders are multiples of the pitch: the same ones in every section."""
    column, row = np.floor(xy / pitch).astype(np.int64).T
    left, width = column.min(), np.ptp(column) + 1
    bins, index = np.unique(row * width + (column - left), return_inverse=True)
    member = sparse.csr_matrix((np.ones(len(xy), dtype=np.float32), (index, np.arange(len(xy)))))
    row, column = bins // width, bins % width + left
    obs = pd.DataFrame({"array_row": row, "array_col": column, "n_points": np.bincount(index)})
    obs.index = obs["array_row"].astype(str) + "x" + obs["array_col"].astype(str)
    centres: NDArray[np.floating] = (np.column_stack([column, row]) + 0.5) * pitch
    return obs, centres, sparse.csr_matrix(member @ values)


def _add_image(
    adata: ad.AnnData, file: h5py.File, number: int, pitch: float | None, um_per_px: float, longest: int, name: str
) -> None:
    """The H&E of a file, if it has one, with at most `longest` pixels a side: means over blocks, read in bands."""
    image = next((file["uns"][key] for key in IMAGES if key in file.get("uns", {})), None)
    if image is None:
        _logging.info(f"{name} has no H&E")
        return
    if image.ndim != 3 or image.shape[2] < 3 or image.dtype != np.uint8:
        _logging.warning(f"{name}: the image of shape {image.shape} and type {image.dtype} is no H&E and is not used")
        return
    factor = -(-max(image.shape[:2]) // longest)
    band = max(BAND // factor, 1) * factor
    bands = [_block_means(image[first : first + band, :, :3], factor) for first in range(0, image.shape[0], band)]
    diameter = CELL_UM if pitch is None else pitch
    scale = {"tissue_hires_scalef": 1 / (um_per_px * factor)}
    scale |= {"spot_diameter_fullres": diameter, "fiducial_diameter_fullres": diameter}
    adata.uns[_keys.SPATIAL] = {f"S{number}": {"images": {"hires": np.concatenate(bands)}, "scalefactors": scale}}
    adata.uns["section"]["has_image"] = True


def _block_means(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means of blocks of `factor` pixels; the last block of a row or column may hold fewer."""
    if factor == 1:
        return pixels
    total = pixels.astype(np.float32)
    for axis in (0, 1):
        starts = np.arange(0, pixels.shape[axis], factor)
        size = np.diff(np.append(starts, pixels.shape[axis]))
        total = np.add.reduceat(total, starts, axis=axis) / np.expand_dims(size, (1, 2) if axis == 0 else (0, 2))
    return np.rint(total).astype(np.uint8)
