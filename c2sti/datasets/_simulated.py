"""Serial sections of a simulated tissue whose truth is known at every z."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import zoom
from scipy.sparse import csr_matrix

from c2sti import _validators
from c2sti._types import TARGET_SUM
from c2sti.datasets._anatomy import (
    DOMAINS,
    LOOKS,
    PROGRAMMES,
    Anatomy,
    Array,
    Motion,
    fat_cells,
    haematoxylin_eosin,
)

SLIDE = 1.4  # side of the slide in tissue widths: room to move and to lie misaligned
SPOT_DIAMETER = 0.55  # in pitches, as Visium's
CELL_SPACING = 0.18  # of neighbouring cell positions, in pitches
MAX_PIXELS = 512  # a side, unless the pixel size is given
HOUSEKEEPING = "housekeeping"  # the programme of genes that have none
LIBRARY_SD = 0.5  # standard deviation of the logarithm of a spot's counts
COUNTS_PER_GENE = {"square": 2.5, "hex": 2.5, "cells": 0.5}  # by layout, where no library size is given


def square(side: float, pitch: float) -> Array:
    """Centres (n, 2) of a square array that covers the slide, row by row."""
    steps = np.arange(pitch / 2, side, pitch)
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)


def honeycomb(side: float, pitch: float) -> Array:
    """Centres (n, 2) of a hexagonal array that covers the slide, row by row."""
    x, y = np.meshgrid(np.arange(pitch / 2, side - pitch / 2, pitch), np.arange(pitch / 2, side, pitch * np.sqrt(0.75)))
    x[1::2] += pitch / 2
    return np.column_stack([x.ravel(), y.ravel()])


def placement(side: float, *, angle: float, shift: tuple[float, float], flip: bool) -> Array:
    """Matrix (3, 3) that mirrors x, rotates by `angle` degrees about the middle of the slide, then shifts."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    rotation = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    middle = np.full(2, side / 2)
    matrix = np.eye(3)
    matrix[:2, :2] = rotation
    matrix[:2, 2] = middle - rotation @ middle + shift
    return matrix


def move(xy: Array, matrix: Array) -> Array:
    """Points (n, 2) moved by a matrix (3, 3)."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def move_back(xy: Array, matrix: Array) -> Array:
    """Points (n, 2) from which the matrix (3, 3) takes to `xy`."""
    return (xy - matrix[:2, 2]) @ np.linalg.inv(matrix[:2, :2]).T


@dataclass(frozen=True)
class Phantom:
    """A simulated tissue; its parameters are those of :func:`phantom`, which makes one.

    It draws everything from its seed when it is needed. Points are (n, 2) as x, y in µm from the corner of the slide,
    y downwards, in the frame in which sections lie unless misplaced; z is in µm.

    Examples
    --------
    >>> from c2sti.datasets import phantom
    >>> tissue = phantom(seed=0, size=12, n_genes=50)
    >>> section = tissue.section(100.0)
    >>> tissue.expression(section.obsm["spatial"], 100.0).shape == section.shape
    True
    """

    seed: int = 0
    n_genes: int = 200
    size: int = 20
    pitch: float = 100.0
    motion: float = 0.5
    change: float = 1.0
    overdispersion: float = 0.05

    def __post_init__(self) -> None:
        for name, least in {"seed": 0, "n_genes": 2, "size": 4}.items():
            _validators.whole(getattr(self, name), name, least=least)
        for name in ("motion", "change", "overdispersion"):
            _validators.number(getattr(self, name), name, least=0)
        _validators.number(self.pitch, "pitch", above=0)

    # ---------------------------------------------------------------- truth

    @property
    def side(self) -> float:
        """Side of the slide in µm; the tissue lies around its middle."""
        return SLIDE * self._width

    @property
    def gene_names(self) -> list[str]:
        """Names (N,) of the genes."""
        digits = max(3, len(str(self.n_genes)))
        return [f"gene_{i:0{digits}d}" for i in range(1, self.n_genes + 1)]

    @property
    def programmes(self) -> pd.DataFrame:
        """Loading (N genes, 9) of each gene on each expression pattern, 0 where it has no part in it."""
        return pd.DataFrame(self._genes[1], index=self.gene_names, columns=list(PROGRAMMES))

    def inside(self, xy: ArrayLike, z: float) -> NDArray[np.bool_]:
        """Whether there is tissue (n,) at `xy` (n, 2) in µm, at `z` in µm."""
        return self._anatomy.surface(self._pattern(xy, z), self._age(z)) > 0

    def domain(self, xy: ArrayLike, z: float) -> pd.Categorical:
        """Tissue domain (n,) at `xy` (n, 2) in µm, at `z` in µm; outside of the tissue, the nearest."""
        codes = self._anatomy.depths(self._pattern(xy, z), self._age(z)).argmax(1)
        return pd.Categorical(np.array(DOMAINS)[codes], categories=DOMAINS)

    def expression(self, xy: ArrayLike, z: float) -> NDArray[np.float32]:
        """Expression without noise (n, N) at `xy` (n, 2) in µm, at `z` in µm: log1p of counts per 10,000."""
        return np.log1p(TARGET_SUM * self._fractions(self._pattern(xy, z), z)).astype(np.float32)

    def displacement(self, xy: ArrayLike, z0: float, z1: float) -> Array:
        """How far (n, 2) in µm the material at `xy` (n, 2) at `z0` lies from there at `z1`."""
        points = self._widths(xy)
        material = self._motion.backward(points, z0 / self._width)
        return (self._motion.forward(material, z1 / self._width) - points) * self._width

    def coexpression(self, zs: Iterable[float] = (0.0,)) -> Array:
        """Correlation (N, N) of the genes' expression without noise over the tissue at `zs` in µm.

        A gene that does not vary correlates 0 with the others.
        """
        grid = square(self.side, self.pitch / 2)
        truth = np.concatenate([self.expression(grid[self.inside(grid, z)], z) for z in zs]).astype(np.float64)
        truth -= truth.mean(0)
        truth /= np.maximum(np.linalg.norm(truth, axis=0), 1e-12)
        return truth.T @ truth

    # ------------------------------------------------------------- sections

    def series(self, zs: Iterable[float], **section: Any) -> list[AnnData]:
        """Sections at `zs` in µm; keywords are those of :meth:`section`."""
        return [self.section(z, **section) for z in _validators.several(zs, "zs", "z in µm")]

    def section(
        self,
        z: float,
        *,
        layout: str = "square",
        library_size: float | None = None,
        image: bool = True,
        um_per_px: float | None = None,
        truth: bool = False,
        angle: float = 0.0,
        shift: tuple[float, float] = (0.0, 0.0),
        flip: bool = False,
        seed: int | None = None,
    ) -> AnnData:
        """Cut, lay on a slide and measure the section at one z.

        The array of spots belongs to the slide: it stays upright when the tissue is misaligned, and tissue beyond the
        edge is lost. One z gives the same counts with the image and without; sections differ in their noise.

        Parameters
        ----------
        z
            In µm.
        layout
            ``"square"`` array, ``"hex"`` honeycomb, or ``"cells"``: one row for each of the cells that the image shows.
        library_size
            Median counts per row; by default 2.5 per gene, and 0.5 for cells.
        image
            Draw the H&E stain. Without it `uns["spatial"]` is absent.
        um_per_px
            Pixel size in µm; by default a 25th of the pitch, or coarser to keep the image within 512 pixels a side.
        truth
            Write `layers["truth"]`, at the cost of a dense (n, N) array.
        angle
            Rotation of the tissue about the middle of the slide in degrees, from x towards y.
        shift
            Move of the tissue in µm, after the rotation.
        flip
            Mirror x before the rotation.
        seed
            Draw other noise for the same z: other cells, counts and texture.

        Returns
        -------
        The section:

        - `X`: (n, N) raw counts, CSR float32
        - `obsm["spatial"]`: (n, 2) x, y in µm on the slide; a pixel reaches from i to i + 1 times `um_per_px`
        - `obs["domain"]`: categorical; `obs["z_um"]`: float
        - `var["programme"]`: categorical, the gene's main pattern or ``"housekeeping"``
        - `layers["truth"]`: (n, N) expression without noise, with `truth`
        - `uns["spatial"][library]`: (H, W, 3) uint8 H&E and its scale factors, as Visium has them, with `image`
        - `uns["section"]`: `z_um`, `spot_pitch_um`, `um_per_px` (with `image`), and `placement`: the (3, 3) matrix
          that takes homogeneous x, y, 1 in µm from the tissue's frame to the slide
        """
        if not isinstance(layout, str) or layout not in COUNTS_PER_GENE:
            raise ValueError(f"There is no layout {layout!r}; choose one of {', '.join(COUNTS_PER_GENE)}.")
        z, angle = _validators.number(z, "z"), _validators.number(angle, "angle")
        move_by = _validators.reals(shift, "shift")
        if move_by.shape != (2,) or not np.isfinite(move_by).all():
            raise ValueError(f"shift = {_validators.shown(shift)}; two finite numbers, µm along x and y, are needed")
        seed = None if seed is None else _validators.seed(seed)
        library_size = COUNTS_PER_GENE[layout] * self.n_genes if library_size is None else library_size
        um_per_px = max(self.pitch / 25, self.side / MAX_PIXELS) if um_per_px is None else um_per_px
        _validators.number(library_size, "library_size", above=0)
        _validators.number(um_per_px, "um_per_px", above=0, most=self.side)

        matrix = placement(self.side, angle=angle, shift=shift, flip=flip)
        if layout == "cells":
            slide = move(self._cells(z, seed=seed), matrix)
        else:
            slide = (square if layout == "square" else honeycomb)(self.side, self.pitch)
        xy = move_back(slide, matrix)
        held = self.inside(xy, z) & ((slide >= 0) & (slide < self.side)).all(1)
        if not held.any():
            raise ValueError(f"No tissue lies on the slide, of {self.side:g} µm a side, after the shift {shift}.")
        slide, xy = slide[held], xy[held]

        kind = "cell" if layout == "cells" else "spot"
        section = {"dataset": "phantom", "z_um": float(z), "spot_pitch_um": float(self.pitch), "placement": matrix}
        adata = AnnData(
            X=self._count(xy, z, library_size=library_size, rng=self._rng("counts", z, seed)),
            obs=pd.DataFrame(
                {"domain": self.domain(xy, z), "z_um": float(z)},
                index=[f"z{z:g}_{kind}_{i:05d}" for i in range(len(xy))],
            ),
            var=pd.DataFrame({"programme": self._main_programme()}, index=self.gene_names),
            obsm={"spatial": slide},
            uns={"section": section},
        )
        if truth:
            adata.layers["truth"] = self.expression(xy, z)
        if image:
            hires = self._stain(z, um_per_px=um_per_px, matrix=matrix, seed=seed)
            spot = (CELL_SPACING if layout == "cells" else SPOT_DIAMETER) * self.pitch
            scalefactors = {"tissue_hires_scalef": 1 / um_per_px, "spot_diameter_fullres": spot}
            adata.uns["spatial"] = {f"phantom_z{z:g}": {"images": {"hires": hires}, "scalefactors": scalefactors}}
            section["um_per_px"] = um_per_px
        return adata

    # ------------------------------------------------------ what is measured

    def _count(self, xy: Array, z: float, *, library_size: float, rng: np.random.Generator) -> csr_matrix:
        """Counts (n, N): gamma-Poisson, with fewer molecules where there are fewer cells."""
        pattern = self._pattern(xy, z)
        size = rng.lognormal(0, LIBRARY_SD, len(xy)) * np.sqrt(self._cellularity(pattern, z))
        rates = self._fractions(pattern, z) * (library_size * size / np.median(size))[:, None]
        if self.overdispersion:
            rates *= rng.gamma(1 / self.overdispersion, self.overdispersion, rates.shape)
        return csr_matrix(rng.poisson(rates).astype(np.float32))

    def _cells(self, z: float, *, seed: int | None) -> Array:
        """Cells (n, 2) in µm in the tissue's frame: a shaken lattice, occupied as the domain is dense."""
        rng = self._rng("cells", z, seed)
        xy = square(self.side, CELL_SPACING * self.pitch)
        xy += rng.uniform(-0.5, 0.5, xy.shape) * CELL_SPACING * self.pitch
        pattern = self._pattern(xy, z)
        occupied = rng.uniform(size=len(xy)) < self._cellularity(pattern, z)
        return xy[occupied & (self._anatomy.surface(pattern, self._age(z)) > 0)]

    def _stain(self, z: float, *, um_per_px: float, matrix: Array, seed: int | None) -> NDArray[np.uint8]:
        """Draw the H&E image (H, W, 3) of the slide."""
        rng = self._rng("stain", z, seed)
        cells = self._cells(z, seed=seed)
        share = self._anatomy.membership(self._pattern(cells, z), self._age(z))
        radii, chromatin = _looks("radius", "chromatin") @ share.T
        return haematoxylin_eosin(
            self._ground(z, um_per_px=um_per_px, matrix=matrix, rng=rng),
            nuclei=move(cells, matrix) / um_per_px,
            radii=radii * rng.uniform(0.8, 1.25, len(cells)) * CELL_SPACING * self.pitch / um_per_px,
            chromatin=chromatin * rng.uniform(0.7, 1.2, len(cells)),
            rng=rng,
        )

    def _ground(self, z: float, *, um_per_px: float, matrix: Array, rng: np.random.Generator) -> Array:
        """Density (H, W) of eosin between the nuclei, 0 on glass."""
        n = int(np.ceil(self.side / um_per_px / 2))  # the anatomy is smooth: every other pixel will do
        coarse = self._pattern(move_back(square(n, 1.0) * 2 * um_per_px, matrix), z)
        surface = self._anatomy.surface(coarse, self._age(z))
        share = self._anatomy.membership(coarse, self._age(z))
        maps = np.column_stack(
            [surface, share[:, DOMAINS.index("adipose")], share @ _looks("eosin", "fibre").T, coarse]
        )
        maps = zoom(maps.reshape(n, n, -1), (2, 2, 1), order=1, mode="nearest", grid_mode=True)

        tissue = maps[..., 0] > 0
        _, fat, eosin, fibre, *q = maps[tissue].T
        pattern = np.column_stack(q)
        density = eosin * (1 + fibre * self._anatomy.fibres(pattern))
        vacuolar = fat > 0.5
        density[vacuolar] *= fat_cells(pattern[vacuolar], diameter=0.6 * self.pitch / self._width, rng=rng)
        ground = np.zeros(tissue.shape)
        ground[tissue] = density
        return ground

    def _fractions(self, q: Array, z: float) -> Array:
        """Share (n, N) of each gene in the transcripts, where the pattern is `q`."""
        abundance, loadings = self._genes
        rates = np.exp(abundance + self._anatomy.activity(q, self._age(z)) @ loadings.T)
        return rates / rates.sum(1, keepdims=True)

    def _cellularity(self, q: Array, z: float) -> Array:
        """Share (n,) of the cell positions that are occupied."""
        return self._anatomy.membership(q, self._age(z)) @ _looks("cells")[0]

    def _main_programme(self) -> pd.Categorical:
        loadings = self._genes[1]
        names = np.array([*PROGRAMMES, HOUSEKEEPING])
        return pd.Categorical(names[np.where(loadings.any(1), loadings.argmax(1), -1)], categories=names)

    # ------------------------------------------------- what the seed decides

    @cached_property
    def _motion(self) -> Motion:
        return Motion(self._rng("motion"), speed=self.motion)

    @cached_property
    def _anatomy(self) -> Anatomy:
        return Anatomy(self._rng("anatomy"), grain=self.pitch / self._width)

    @cached_property
    def _genes(self) -> tuple[Array, Array]:
        """Log abundance (N,) and loadings (N, 9): a fifth keep house, others mark a pattern or two, some are rare."""
        rng = self._rng("genes")
        n, genes = self.n_genes, np.arange(self.n_genes)
        loadings = np.zeros((n, len(PROGRAMMES)))
        main = rng.permutation(genes % len(PROGRAMMES))  # programmes of equal size
        second = (main + rng.integers(1, len(PROGRAMMES), n)) % len(PROGRAMMES)
        loadings[genes, main] = rng.uniform(1.0, 2.8, n)
        loadings[genes, second] = np.where(rng.random(n) < 0.3, rng.uniform(-0.8, 1.2, n), 0)
        loadings[rng.random(n) < 0.2] = 0
        rare = rng.random(n) < 0.15
        return rng.normal(0, 1.1, n) - 2.0 * rare, loadings

    def _rng(self, purpose: str, z: float | None = None, seed: int | None = None) -> np.random.Generator:
        """Independent noise for each purpose, z and seed: what one draws does not move the others."""
        at = [] if z is None else [int(np.float64(z + 0.0).view(np.uint64))]
        again = [] if seed is None else [seed]
        return np.random.default_rng(np.random.SeedSequence([self.seed, *purpose.encode(), *at, *again]))

    # ---------------------------------------------- µm to widths, and material

    @property
    def _width(self) -> float:
        return self.size * self.pitch

    def _widths(self, xy: ArrayLike) -> Array:
        return (np.asarray(xy, dtype=np.float64) - self.side / 2) / self._width

    def _age(self, z: float) -> float:
        """Z of the biology, in widths."""
        return self.change * z / self._width

    def _pattern(self, xy: ArrayLike, z: float) -> Array:
        """Where (n, 2) in the anatomy the points `xy` in µm at `z` lie."""
        return self._anatomy.wrinkle(self._motion.backward(self._widths(xy), z / self._width))


def phantom(
    seed: int = 0,
    *,
    n_genes: int = 200,
    size: int = 20,
    pitch: float = 100.0,
    motion: float = 0.5,
    change: float = 1.0,
    overdispersion: float = 0.05,
) -> Phantom:
    """Make a tissue from which sections can be cut at any z, and whose truth is known there.

    Six domains (stroma, fat, muscle, ducts, a tumour, lymphoid follicles) and nine gene programmes: one a domain, that
    of muscle in bands, a hypoxic core, mixed cells, and zones across the tissue. Along z the material is displaced, and
    beyond that changes: the tumour divides, its core fades, other cells take over.

    Parameters
    ----------
    seed
        Decides everything: the same seed gives the same tissue and, at the same z, the same section.
    n_genes
        Number of genes N, a fifth of them housekeeping.
    size
        Width of the tissue in spots. 12 gives about 100 spots a section, 20 about 280, 28 about 550.
    pitch
        Distance between spots in µm.
    motion
        Displacement between sections that are close, in µm (root mean square) a µm of z. 0 holds it still.
    change
        Pace of the biology that is not displacement. 0 makes the sections images of one another.
    overdispersion
        Variance of the counts beyond Poisson's, in squared means. 0 gives Poisson counts.

    Returns
    -------
    The tissue. :meth:`~Phantom.section` and :meth:`~Phantom.series` measure it; :meth:`~Phantom.expression`,
    :meth:`~Phantom.displacement`, :meth:`~Phantom.domain`, :meth:`~Phantom.inside`, :attr:`~Phantom.programmes` and
    :meth:`~Phantom.coexpression` are its truth.

    Examples
    --------
    >>> import c2sti
    >>> tissue = c2sti.datasets.phantom(seed=0, size=12)
    >>> first, missing, last = tissue.series([0.0, 200.0, 400.0])
    >>> truth = tissue.expression(missing.obsm["spatial"], 200.0)
    """
    return Phantom(
        seed=seed, n_genes=n_genes, size=size, pitch=pitch, motion=motion, change=change, overdispersion=overdispersion
    )


def _looks(*fields: str) -> Array:
    """Values (k, 6) of `fields` of the looks of `DOMAINS`."""
    return np.array([[LOOKS[name][field] for name in DOMAINS] for field in fields])
