"""Where the benchmark has its sections from: the measured series of a folder, simulated tissue, the paper's protocol.

And the training data made from them: as measured, moved, or simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, pairwise
from pathlib import Path
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from c2sti import _keys, datasets, io, pp
from c2sti._types import FloatArray
from c2sti.benchmark._leave_out import held_out_cases
from c2sti.datasets._patches import PAPER
from c2sti.nn.c2sti import C2STiConfig
from c2sti.training import Case, Example, elastic, make_examples

PATIENTS = "ABCD"  # of her2st: those with six sections
MOST = 2  # sections held out in a row
N_SIMULATED = 32  # pairs of simulated tissue
MADE = "simulated tissue"
# The paper's protocol
STUDY, VALIDATION, TEST = "open-st", "validation", "test"
SHARES = (10, 3, 6)  # sections of the parts; the paper's would leave 4 to test, and s up to 2
N_SECTIONS, SPACING = 19, 20.0  # of the simulated series, and µm from one section to the next
TISSUE = {"seed": 19, "n_genes": 100, "size": 12, "pitch": 100.0, "motion": 1.0}
SMALL = TISSUE | {"n_genes": 30, "size": 5}
PIXELS, QUICK_PIXELS = 512, 64  # a side of a patch


@dataclass(frozen=True)
class Series:
    """Sections of one block, in the order of cutting."""

    name: str  # in tables: "her2st A"
    files: tuple[str, ...]  # below the data folder, without their ending
    in_register: bool = False  # whether its sections share a coordinate system, obsm["spatial_3d"], or are slabs

    @property
    def group(self) -> str:
        """The study: ``"her2st"``."""
        return self.name.split()[0]

    @property
    def patient(self) -> str:
        """The patient within the study, ``"A"``; empty where the study has one block."""
        return self.name.removeprefix(self.group).strip()

    @property
    def names(self) -> list[str]:
        """Names of the sections."""
        return [Path(file).name for file in self.files]

    def paths(self, data: Path) -> list[Path]:
        """Files of the sections."""
        return [data / f"{file}.h5ad" for file in self.files]


SERIES = (
    *(Series(f"her2st {p}", tuple(f"her2st/her2st_{p}{i}" for i in range(1, 7))) for p in PATIENTS),
    # Sections 1 and 2 share most of their spots, count for count: one of them is left out.
    Series("heart", tuple(f"dev_heart/heart6.5_{i}" for i in range(2, 10)), in_register=True),
    Series("stahl", tuple(f"stahl_bc/BC{i}" for i in range(1, 5))),
    Series("dlpfc", tuple(f"dlpfc/{name}" for name in datasets.sections("dlpfc"))),
    Series("starmap", tuple(f"starmap/starmap_{i}" for i in range(1, 9)), in_register=True),
)


def series_of(groups: Sequence[str], *, without: str = "") -> list[Series]:
    """Known series of some studies, less some patients of her2st."""
    known = list(dict.fromkeys(s.group for s in SERIES))
    unknown = [group for group in groups if group not in known]
    if unknown:
        raise ValueError(f"there is no series {unknown[0]!r}; those that exist are {', '.join(known)}")
    return [s for s in SERIES if s.group in groups and not (s.patient and s.patient in without)]


def find_series(data: Path) -> list[Series]:
    """The series that a folder holds as a whole; a FileNotFoundError where there is none."""
    found = [s for s in SERIES if all(path.is_file() for path in s.paths(data))]
    if not found:
        looked = ", ".join(f"{s.files[0]}.h5ad … {s.names[-1]}.h5ad" for s in SERIES)
        raise FileNotFoundError(
            f"{data} holds no measured series; looked for {looked}. Name the folder with --data, or see "
            "c2sti.datasets.sections for what can be fetched"
        )
    return found


def read_series(series: Series, data: Path) -> list[io.SliceGrid]:
    """Sections of a series in order of z, in a common coordinate system."""
    sections = [ad.read_h5ad(path) for path in series.paths(data)]
    if not series.in_register:
        pp.align_series(sections)
    for section in sections if series.in_register else ():
        if _keys.SPATIAL_3D in section.obsm:  # the coordinates, in µm, into which the authors registered it
            xyz = section.obsm[_keys.SPATIAL_3D]
            section.obsm[_keys.ALIGNED], section.obs[_keys.Z_UM] = xyz[:, :2], xyz[:, 2].mean()
        else:  # a slab of one block
            slab = section.uns["section"]
            section.obsm[_keys.ALIGNED] = section.obsm[_keys.SPATIAL]
            section.obs[_keys.Z_UM] = slab["slab"] * slab["slab_thickness_units"]
        section.uns.pop(_keys.SPATIAL, None)
    named = zip(sections, series.names, strict=True)
    return io.on_shared_genes([io.read_slice(s, name=name, spatial_key=_keys.ALIGNED) for s, name in named])


def fingerprints(series: Sequence[Series], data: Path) -> dict[str, str]:
    """Hash of each section as its file has it, before alignment: what a recipe remembers."""
    files = [(path, name) for one in series for path, name in zip(one.paths(data), one.names, strict=True)]
    return _prints(io.read_slice(ad.read_h5ad(path), name=name) for path, name in files)


def _prints(grids: Iterable[io.SliceGrid]) -> dict[str, str]:
    return {grid.name: grid.fingerprint()[:16] for grid in grids}


@dataclass(frozen=True)
class Source:
    """Where the benchmark has its sections from."""

    name: str  # "measured", "made", or that of a protocol
    series: tuple[Series, ...]
    read: Callable[[Series], list[io.SliceGrid]]  # sections of a series in a common coordinate system, read once
    prints: dict[str, str]  # fingerprints of the sections by name
    folds: Sequence[str]  # patients (parts, in a protocol) of which each is left out of a training, and scored
    simulated: bool = True  # whether networks learn from simulated tissue, too
    # The (n, N) expression without noise of section i of a series, by points and genes, where it is known: scores are
    # then against it.
    truth: Callable[[Series, int, FloatArray, pd.Index], FloatArray] | None = None

    @property
    def scored(self) -> list[Series]:
        """Series of no patient, and those of the patients that are left out."""
        return [s for s in self.series if s.patient in ("", *self.folds)]

    @property
    def taught(self) -> str:
        """The study that networks are trained on: the one with patients; empty where there is none."""
        return next((s.group for s in self.series if s.patient), "")

    def lessons(self, fold: str) -> list[Series]:
        """What a network is trained on that has not seen a patient."""
        return [s for s in self.series if s.patient not in ("", fold, VALIDATION)]

    @property
    def watched(self) -> list[Series]:
        """Series by which a training is validated."""
        return [s for s in self.series if s.patient == VALIDATION]


def measured(data: Path, folds: Sequence[str] | None = None) -> Source:
    """The series of a folder, and which patients are left out of the training in turn; all by default."""
    series = find_series(data)
    patients = [s.patient for s in series if s.patient]
    unknown = [fold for fold in folds or () if fold not in patients]
    if unknown:
        raise ValueError(
            f"--folds {' '.join(unknown)}: {data} holds whole series of the patients {', '.join(patients) or 'none'}"
        )
    read = cache(partial(read_series, data=data))
    return Source("measured", tuple(series), read, fingerprints(series, data), folds or patients)


@cache
def made() -> Source:
    """Two blocks of simulated tissue of four small sections, as if of two patients: to see that all works."""
    series = tuple(Series(f"made {p}", tuple(f"made_{p}{i}" for i in range(1, 5)), in_register=True) for p in "AB")

    @cache
    def read(one: Series) -> list[io.SliceGrid]:
        tissue = datasets.phantom(seed=50 + ord(one.patient), size=10, n_genes=60)
        sections = tissue.series([0.0, 150.0, 300.0, 450.0])
        return [io.read_slice(s, name=name) for s, name in zip(sections, one.names, strict=True)]

    return Source("made", series, read, _prints(grid for one in series for grid in read(one)), "AB")


# ---- the paper's protocol: Open-ST sections cut into patches, windows of consecutive patches, three parts


def open_st(data: Path | None, *, split: Literal["section", "patch"] = "section", quick: bool = False) -> Source:
    """Patches of Open-ST sections in three parts, or of simulated ones where there is no folder.

    The simulated series has 19 sections: cells, H&E that is drawn from the same cells, tissue that bends from section
    to section, and a truth without noise; fewer where it is to be `quick`. `split` says whether parts differ by
    section, or by patch as in the paper (see :func:`c2sti.datasets.patches`).
    """
    tissue, shares = None, SHARES if split == "section" else PAPER
    if data is None:
        tissue = datasets.phantom(**(SMALL if quick else TISSUE))  # type: ignore[arg-type]
        n = N_SECTIONS if not quick else 12
        sections = tissue.series([SPACING * i for i in range(n)], layout="cells", um_per_px=tissue.pitch / 40)
        if quick and split == "section":
            shares = (4, 3, 5)
    else:
        sections = datasets.openst(data)
        pp.align_series(sections)
        for section in sections:
            section.obsm[_keys.SPATIAL] = section.obsm[_keys.ALIGNED]
    size = QUICK_PIXELS if quick else PIXELS
    pixel_um = None if tissue is None else tissue.side / 2 / size  # two patches along a side
    parts = datasets.patches(sections, shares=shares, size=size, pixel_um=pixel_um, split=split)
    runs = [(part, run) for part, found in parts.items() for run in _runs(found)]
    held = {Series(f"{STUDY} {part}", tuple(map(_name, run)), in_register=True): run for part, run in runs}

    @cache
    def read(series: Series) -> list[io.SliceGrid]:
        named = zip(held[series], series.names, strict=True)
        return io.on_shared_genes([io.read_slice(patch, name=name) for patch, name in named])

    def truth(series: Series, i: int, xy: FloatArray, genes: pd.Index) -> FloatArray:
        patch = held[series][i].uns["patch"]
        assert tissue is not None
        every = tissue.expression(xy + patch["origin"], SPACING * patch["section"])
        return every[:, pd.Index(tissue.gene_names).get_indexer(genes)]

    prints = _prints(grid for series in held for grid in read(series))
    name = f"{'simulated ' if tissue else ''}{STUDY}, split by {split}"
    return Source(name, tuple(held), read, prints, [TEST], simulated=False, truth=truth if tissue else None)


def _runs(windows: Sequence[Sequence[AnnData]]) -> list[list[AnnData]]:
    """Patches of consecutive sections at one place, each in one run, from windows that overlap."""
    places: dict[tuple[int, int], dict[int, AnnData]] = {}
    for patch in (patch for window in windows for patch in window):
        about = patch.uns["patch"]
        places.setdefault((about["row"], about["column"]), {})[about["section"]] = patch
    runs = []
    for found in places.values():
        numbers = sorted(found)
        ends = [i for i, (a, b) in enumerate(pairwise(numbers), start=1) if b - a > 1]
        runs += [[found[int(k)] for k in run] for run in np.split(numbers, ends)]
    return [run for run in runs if len(run) > 2]


def _name(patch: AnnData) -> str:
    about = patch.uns["patch"]
    return f"s{about['section']:02d}_r{about['row']}c{about['column']}"


# ---- what networks are trained on


def training_cases(data: Path, groups: Sequence[str], *, without: str = "") -> list[Case]:
    """Everything that a network is trained on: some studies, ``"her2st"`` say, without some patients, ``"AB"`` say."""
    measured = [case for one in series_of(groups, without=without) for case in series_cases(read_series(one, data))]
    return [*measured, *simulated_cases()]


def series_cases(grids: Sequence[io.SliceGrid]) -> list[Case]:
    """Held-out sections of a series, then those without context again, their tissue moved in two ways each."""
    held_out = held_out_cases(grids, most=MOST)
    alone = [case for case in held_out if not case.pair.context]
    return [*held_out, *(elastic(case, seed=2 * i + again) for i, case in enumerate(alone) for again in (0, 1))]


def simulated_cases(n: int = N_SIMULATED, *, size: tuple[int, int] = (14, 22), n_genes: int = 200) -> list[Case]:
    """A held-out section in each of n simulated tissues."""
    return [_simulated_case(seed, size, n_genes) for seed in range(n)]


def _simulated_case(seed: int, size: tuple[int, int], n_genes: int) -> Case:
    """A section of a simulated tissue, whose size, motion and place in the block depend on the seed."""
    rng = np.random.default_rng([7, seed])
    tissue = datasets.phantom(
        seed=1000 + seed,
        n_genes=n_genes,
        size=int(rng.integers(*size)),
        motion=float(rng.uniform(0.3, 1.0)),
        change=float(rng.uniform(0.3, 1.0)),
    )
    gap, t = float(rng.uniform(150, 500)), float(rng.choice([1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4]))
    layout = str(rng.choice(["square", "hex"]))
    a, held_out, b = (tissue.section(z, layout=layout) for z in (0.0, t * gap, gap))
    pair, genes = io.make_pair(io.read_slice(a), io.read_slice(b))
    xy = held_out.obsm["spatial"]
    # The truth without noise, which only simulated tissue has.
    truth = sp.csr_array(tissue.expression(xy, t * gap)[:, held_out.var_names.get_indexer(genes)])

    def motion(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        return tissue.displacement(points, t * gap, 0.0), tissue.displacement(points, t * gap, gap)

    return Case(pair, xy, t, truth, f"{MADE} {seed}", motion)


class Material:
    """Training data of the folds of a benchmark; of a series that several folds share they are made once.

    `configs` has the settings of each network. Its ablations share the examples: switches are no part of the baseline
    prediction. `progress` is called with a word on what is being done.
    """

    def __init__(
        self,
        source: Source,
        configs: Mapping[str, C2STiConfig],
        *,
        device: str,
        progress: Callable[[str], object],
    ) -> None:
        self.source, self.configs = source, configs
        names = {None: MADE} | {series: series.name for series in source.series}

        @cache
        def cases_of(series: Series | None) -> list[Case]:
            progress(f"holding out sections of {names[series]}")
            if series and not source.simulated:  # a protocol: sections as they are
                grids = source.read(series)
                found = held_out_cases(grids, most=min(MOST, len(grids) - 2))
                return [case for case in found if not case.pair.context]
            if series:
                return series_cases(source.read(series))
            return simulated_cases(2, size=(8, 11), n_genes=60) if source.name == "made" else simulated_cases()

        @cache
        def examples_of(series: Series | None, network: str) -> list[Example]:
            cases, done = cases_of(series), count(1)

            def looked(case: Case) -> None:
                progress(f"looking at {names[series]}: {next(done)} of {len(cases)}")

            return make_examples(cases, configs[network], device=device, progress=looked)

        self._cases_of, self._examples_of = cases_of, examples_of

    def cases(self, fold: str) -> list[Case]:
        """Held-out sections that a network of this fold is trained on, in the order of :func:`training_cases`."""
        return [case for series in self._lessons(fold) for case in self._cases_of(series)]

    def examples(self, fold: str, network: str) -> list[Example]:
        """The same, made ready for one of our networks."""
        return [example for series in self._lessons(fold) for example in self._examples_of(series, network)]

    def validation(self, network: str) -> list[Example]:
        """Examples by which a training is validated; none where no section is set aside for that."""
        return [example for series in self.source.watched for example in self._examples_of(series, network)]

    def _lessons(self, fold: str) -> list[Series | None]:
        return [*self.source.lessons(fold), *([None] if self.source.simulated else [])]
