"""The protocol of the paper: sections cut into patches, patches of consecutive sections into windows, three parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from c2sti import _keys, _validators, io
from c2sti._types import FloatArray, Lattice

PARTS = ("train", "validation", "test")
PAPER = (852, 100, 264)  # patches of the three parts
PAPER_SIZE = 512  # pixels a side of its patches
ACROSS = 8  # patches along the longer side of the frame: 852 + 100 + 264 = 19 sections × 8 × 8

Window = list[ad.AnnData]
Frame = tuple[FloatArray, float, tuple[int, int]]  # top left corner; side of a patch; rows and columns of patches


def patches(
    slices: Sequence[ad.AnnData],
    *,
    size: int = 512,
    pixel_um: float | None = None,
    window: int = 3,
    split: Literal["section", "patch"] = "section",
    shares: Sequence[float] = PAPER,
    least: float = 0.25,
    spatial_key: str = _keys.SPATIAL,
    seed: int = 0,
) -> dict[str, list[Window]]:
    """Cut a registered series into patches, and put windows of consecutive ones into three parts.

    Parameters
    ----------
    slices
        Sections in order of z, in a common coordinate system (:func:`openst`, then :func:`c2sti.pp.align_series`).
    size
        Pixels a side of a patch.
    pixel_um
        Side of a pixel, in the unit of the coordinates. By default such that 8 patches of 512 pixels lie along the
        longer side of the frame.
    window
        Patches in a window, N + 2: the first and the last are given, the N between them are to be interpolated.
    split
        ``"section"`` gives each part sections of its own, in one block. ``"patch"`` is the split of the paper, which
        leaks: every section is in all three parts.
    shares
        Sizes of the parts in proportion; those of the paper are 852, 100 and 264 patches. 0 leaves a part empty.
    least
        Share of the points in the section's fullest patch that a patch needs to be used.
    spatial_key
        Coordinates in ``obsm``, and images in ``uns``.
    seed
        Of the order of the parts along the series (``"section"``) or of the places (``"patch"``).

    Returns
    -------
    ``{"train": …, "validation": …, "test": …}``, each a list of windows, each a list of `window` patches of the same
    place in consecutive sections; windows that overlap hold the very same objects. A patch is cells (or bins) × genes:

    - ``X``, ``obs``: of the section's points that lie in the patch.
    - ``obsm["spatial"]``: (n, 2), from the patch's top left corner, which is one for all of its window.
    - ``uns["spatial"]``: the H&E, `size` × `size` pixels, 8 bits; absent where the section has none.
    - ``uns["patch"]``: ``section`` (index in `slices`), ``row``, ``column``, ``origin`` (x, y of the corner), ``side``,
      ``pixel``.
    - ``uns["section"]``: as the section has it.

    Notes
    -----
    By patch, patches are listed place by place, places at random, each from first to last section, and the list is cut
    in proportion; a window lies in one part as a whole. By section, each part holds at least one window; the sections
    at a border of two parts resemble each other as neighbours do.

    Examples
    --------
    >>> from c2sti.datasets import patches, phantom
    >>> tissue = phantom(seed=0, size=12, n_genes=10)
    >>> series = [tissue.section(100.0 * i, image=False) for i in range(9)]
    >>> parts = patches(series, pixel_um=2.0)  # one place of 1024 µm
    >>> {part: len(windows) for part, windows in parts.items()}
    {'train': 1, 'validation': 1, 'test': 1}
    """
    _check_sizes(size, pixel_um, window, shares, least)
    _validators.one_of(split, "split", ("section", "patch"))
    seed = _validators.seed(seed)
    if isinstance(slices, ad.AnnData):
        raise TypeError("slices is one AnnData; give a list, one AnnData a section")
    slices = _validators.several(slices, "slices", "sections")
    if len(slices) < window:
        raise ValueError(f"{len(slices)} sections are too few for windows of {window}; give {window} or more")
    grids = [io.read_slice(s, name=f"slices[{i}]", spatial_key=spatial_key) for i, s in enumerate(slices)]
    _check_order(grids)
    frame = _frame([g.xy for g in grids], size, pixel_um)
    cut = [_cut(s, g, i, frame, size, least) for i, (s, g) in enumerate(zip(slices, grids, strict=True))]
    rng = np.random.default_rng(seed)
    if split == "section":
        parts = _by_section(cut, window, shares, rng)
    else:
        parts = _by_patch(cut, frame[2][0] * frame[2][1], shares, rng)
        warnings.warn(
            'split="patch" leaks: patches of train and test lie beside each other in the very same sections, so scores '
            'on test are better than on held-out sections; split="section" holds out sections',
            UserWarning,
            stacklevel=2,
        )
    return {name: list(_windows(cut, own, window)) for name, own in parts.items()}


def _check_sizes(size: int, pixel_um: float | None, window: int, shares: Sequence[float], least: float) -> None:
    _validators.whole(size, "size")
    if pixel_um is not None:
        _validators.number(pixel_um, "pixel_um", above=0)
    _validators.whole(window, "window", least=3)
    _validators.number(least, "least", least=0, most=1)
    parts = _validators.reals(shares, "shares")
    if parts.shape != (len(PARTS),) or not np.isfinite(parts).all() or parts.min() < 0 or not parts.sum() > 0:
        given = np.asarray(shares).tolist()
        raise ValueError(f"shares = {given}; a number, not negative, for each of {', '.join(PARTS)} is needed")


def _check_order(grids: Sequence[io.SliceGrid]) -> None:
    z = [g.z for g in grids]
    if None in z:
        return
    steps = np.diff(np.array(z, dtype=np.float64))
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"the z of the sections, {z}, must run one way; put the slices in their order")


# -- patches


def _frame(places: Sequence[FloatArray], size: int, pixel_um: float | None) -> Frame:
    low, high = np.min([xy.min(axis=0) for xy in places], axis=0), np.max([xy.max(axis=0) for xy in places], axis=0)
    width, height = (high - low).tolist()
    side = size * (max(width, height) / (ACROSS * PAPER_SIZE) if pixel_um is None else pixel_um)
    if min(width, height) < side:
        raise ValueError(
            f"the sections are {width:.4g} x {height:.4g}, less than one patch of {side:.4g} x {side:.4g}; choose a "
            "smaller size= or pixel_um="
        )
    columns, rows = (max(int(np.ceil(length / side - 1e-6)), 1) for length in (width, height))
    return low, side, (rows, columns)


def _cut(
    adata: ad.AnnData, section: io.SliceGrid, index: int, frame: Frame, size: int, least: float
) -> dict[int, ad.AnnData]:
    """Patches of one section that hold enough of it, by place, counted row by row."""
    corner, side, shape = frame
    most = np.array(shape[::-1]) - 1  # points on the far border belong to the last patch
    column, row = np.clip(np.floor((section.xy - corner) / side), 0, most).astype(np.intp).T
    places = row * shape[1] + column
    n = np.bincount(places)
    found = {}
    for place in np.flatnonzero(n >= max(least * n.max(), io.LEAST_SPOTS)).tolist():
        rows, (i, j) = np.flatnonzero(places == place), divmod(place, shape[1])
        origin, pixel = corner + side * np.array([j, i]), side / size
        patch = ad.AnnData(
            adata.X[rows],
            obs=adata.obs.iloc[rows].copy(),
            var=adata.var.copy(),
            obsm={_keys.SPATIAL: section.xy[rows] - origin},
        )
        about = {"section": index, "row": i, "column": j, "origin": origin, "side": side, "pixel": pixel}
        patch.uns["patch"] = about
        if "section" in adata.uns:
            patch.uns["section"] = dict(adata.uns["section"])
        if section.image is not None:
            images = {"hires": _pixels(section.image, origin, pixel, size)}
            scale = {"tissue_hires_scalef": 1 / pixel, "spot_diameter_fullres": section.pitch}
            patch.uns[_keys.SPATIAL] = {f"slice_{index}": {"images": images, "scalefactors": scale}}
        found[place] = patch
    return found


def _pixels(image: io.HEImage, corner: FloatArray, pixel: float, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) mean colours of the pixels of a patch; white off the image."""
    x, y = (corner + pixel / 2).tolist()
    colours = io.histology_on(image, Lattice((x, y), pixel, (size, size)))
    return np.rint(255 * np.nan_to_num(colours, nan=1.0)).astype(np.uint8).transpose(1, 2, 0)


# -- parts: which patches, by section and place


def _by_section(
    cut: Sequence[dict[int, ad.AnnData]], window: int, shares: Sequence[float], rng: np.random.Generator
) -> dict[str, set[tuple[int, int]]]:
    """All patches of the sections of each part, which lie in one block."""
    n, used = len(cut), [part for part, share in zip(PARTS, shares, strict=True) if share > 0]
    if n < window * len(used):
        raise ValueError(
            f"{n} sections are too few to give {', '.join(used)} {window} of their own each; give {window * len(used)} "
            'or more, leave a part empty with shares=, or split="patch"'
        )
    lengths = dict(zip(PARTS, _lengths(n, window, shares), strict=True))
    blocks, first = {}, 0
    for part in rng.permutation(PARTS).tolist():
        last = first + lengths[part]
        blocks[part] = {(section, place) for section in range(first, last) for place in cut[section]}
        first = last
    return {part: blocks[part] for part in PARTS}


def _lengths(n: int, least: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to n, nearly in proportion, none below `least` but where the share is 0."""
    wanted = np.array(shares, dtype=np.float64) / sum(shares) * n
    lengths = [0 if share == 0 else max(least, round(length)) for share, length in zip(shares, wanted, strict=True)]
    while sum(lengths) != n:  # what rounding and least sizes have added is taken where it is the smallest share
        step = int(np.sign(n - sum(lengths)))
        free = [i for i, length in enumerate(lengths) if length > least or (step > 0 and length > 0)]
        i = max(free, key=lambda i: step * (wanted[i] - lengths[i]) / wanted[i])
        lengths[i] += step
    return lengths


def _by_patch(
    cut: Sequence[dict[int, ad.AnnData]], n_places: int, shares: Sequence[float], rng: np.random.Generator
) -> dict[str, set[tuple[int, int]]]:
    """The list of all patches, place by place, cut in proportion."""
    every = [
        (section, place)
        for place in rng.permutation(n_places).tolist()
        for section, found in enumerate(cut)
        if place in found
    ]
    ends = np.rint(np.cumsum([0, *shares]) / sum(shares) * len(every)).astype(int).tolist()
    return {part: set(every[first:last]) for part, first, last in zip(PARTS, ends[:-1], ends[1:], strict=True)}


def _windows(cut: Sequence[dict[int, ad.AnnData]], own: set[tuple[int, int]], window: int) -> Iterator[Window]:
    """Runs of patches of a part at one place in consecutive sections, place by place from top left."""
    for place in sorted({place for _, place in own}):
        for first in range(len(cut) - window + 1):
            run = range(first, first + window)
            if own.issuperset((section, place) for section in run):
                yield [cut[section][place] for section in run]
