"""The measured series of a folder, and the training data made from them: as measured, moved, or simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TypeVar

import anndata as ad
import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from c2sti import _keys, datasets, io, pp
from c2sti._types import FloatArray
from c2sti.benchmark._leave_out import held_out_cases
from c2sti.nn.c2sti import C2STiConfig
from c2sti.training import Case, Example, elastic, make_examples

PATIENTS = "ABCD"  # of her2st: those with six sections


@dataclass(frozen=True)
class Series:
    """Sections of one block, in the order of cutting.

    Parameters
    ----------
    name
        What tables call it: ``"her2st A"``.
    files
        Of the sections, below the data folder and without their ending.
    in_register
        Whether the authors brought the sections into a common coordinate system, ``obsm["spatial_3d"]`` in µm.
    """

    name: str
    files: tuple[str, ...]
    in_register: bool = False

    @property
    def group(self) -> str:
        """The study: ``"her2st"``."""
        return self.name.split()[0]

    @property
    def patient(self) -> str:
        """The patient within the study, ``"A"``; empty where the study has one block."""
        return self.name.removeprefix(self.group).strip()

    def paths(self, data: Path) -> list[Path]:
        """Files of the sections."""
        return [data / f"{file}.h5ad" for file in self.files]


SERIES = (
    *(Series(f"her2st {p}", tuple(f"her2st/her2st_{p}{i}" for i in range(1, 7))) for p in PATIENTS),
    # Sections 1 and 2 share most of their spots, count for count: one of them is left out.
    Series("heart", tuple(f"dev_heart/heart6.5_{i}" for i in range(2, 10)), in_register=True),
    Series("stahl", tuple(f"stahl_bc/BC{i}" for i in range(1, 5))),
)


def series_of(groups: Sequence[str], *, without: str = "") -> list[Series]:
    """Known series of some studies, less some patients of her2st.

    Raises
    ------
    ValueError
        There is no such study.
    """
    known = list(dict.fromkeys(s.group for s in SERIES))
    unknown = [group for group in groups if group not in known]
    if unknown:
        raise ValueError(f"there is no series {unknown[0]!r}; those that exist are {', '.join(known)}")
    return [s for s in SERIES if s.group in groups and not (s.patient and s.patient in without)]


def find_series(data: Path) -> list[Series]:
    """The series that a folder holds.

    Raises
    ------
    FileNotFoundError
        None; the message says what was looked for.
    """
    found = [s for s in SERIES if all(path.is_file() for path in s.paths(data))]
    if not found:
        looked = ", ".join(f"{s.files[0]}.h5ad … {Path(s.files[-1]).name}.h5ad" for s in SERIES)
        raise FileNotFoundError(
            f"{data} holds no measured series; looked for {looked}. Name the folder with --data, or see "
            "c2sti.datasets.sections for what can be fetched"
        )
    return found


def read_series(series: Series, data: Path) -> list[io.SliceGrid]:
    """Sections of a series in order of depth, in a common coordinate system."""
    sections = [ad.read_h5ad(path) for path in series.paths(data)]
    if series.in_register:
        sections = [_registered(section) for section in sections]
    else:
        pp.align_series(sections)
    return io.on_shared_genes(
        [
            io.read_slice(section, name=Path(file).name, spatial_key=_keys.ALIGNED)
            for section, file in zip(sections, series.files, strict=True)
        ]
    )


def _registered(section: AnnData) -> AnnData:
    """A section in the frame into which its authors registered it, in µm."""
    xyz = section.obsm["spatial_3d"]
    section.obsm[_keys.ALIGNED] = xyz[:, :2]
    section.obs[_keys.Z_UM] = xyz[:, 2].mean()
    section.uns.pop(_keys.SPATIAL, None)
    return section


def fingerprints(series: Sequence[Series], data: Path) -> dict[str, str]:
    """Hash of each section as it lies in its file, before it is brought into a frame: what a recipe remembers."""
    return {
        Path(file).name: io.read_slice(ad.read_h5ad(path), name=Path(file).name).fingerprint()[:16]
        for one in series
        for file, path in zip(one.files, one.paths(data), strict=True)
    }


@dataclass(frozen=True)
class Source:
    """Where the benchmark has its sections from.

    Parameters
    ----------
    name
        ``"measured"`` or ``"made"``.
    series
        What there is.
    read
        Sections of a series in a common coordinate system; read once.
    prints
        Fingerprints of the sections by name.
    """

    name: str
    series: tuple[Series, ...]
    read: Callable[[Series], list[io.SliceGrid]]
    prints: dict[str, str]

    @property
    def taught(self) -> str:
        """The study that networks are trained on: the one with patients; empty where there is none."""
        return next((s.group for s in self.series if s.patient), "")

    @property
    def folds(self) -> list[str]:
        """Patients, each of which is left out once."""
        return [s.patient for s in self.series if s.patient]

    def lessons(self, fold: str) -> list[Series]:
        """What a network is trained on that has not seen a patient."""
        return [s for s in self.series if s.patient and s.patient != fold]

    def known(self, series: Sequence[Series]) -> dict[str, str]:
        """Fingerprints of the sections of some series."""
        return {Path(file).name: self.prints[Path(file).name] for s in series for file in s.files}


def measured(data: Path) -> Source:
    """The series of a folder."""
    series = tuple(find_series(data))
    return Source("measured", series, cache(partial(read_series, data=data)), fingerprints(series, data))


@cache
def made() -> Source:
    """Two blocks of simulated tissue of four small sections, as if of two patients: to see that all works."""
    series = tuple(Series(f"made {p}", tuple(f"made_{p}{i}" for i in range(1, 5)), in_register=True) for p in "AB")

    @cache
    def read(one: Series) -> list[io.SliceGrid]:
        tissue = datasets.phantom(seed=50 + ord(one.patient), size=10, n_genes=60)
        sections = tissue.series([0.0, 150.0, 300.0, 450.0])
        return [io.read_slice(s, name=file) for s, file in zip(sections, one.files, strict=True)]

    return Source("made", series, read, {g.name: g.fingerprint()[:16] for one in series for g in read(one)})


MOST = 2  # sections held out in a row
N_MADE = 32  # simulated tissue
MADE = "simulated tissue"
T = TypeVar("T")


def training_cases(data: Path, groups: Sequence[str], *, without: str = "") -> list[Case]:
    """Everything that a network is trained on, from some studies and without some patients of her2st.

    Parameters
    ----------
    data
        Folder with the sections.
    groups
        Studies: ``"her2st"``, ``"heart"``, ``"stahl"``.
    without
        Patients of her2st to leave out: ``"A"``, ``"AB"``.
    """
    return _in_order(
        [series_cases(read_series(one, data)) for one in series_of(groups, without=without)], simulated_cases()
    )


def _in_order(series: Iterable[list[T]], made: list[T]) -> list[T]:
    return [*(one for cases in series for one in cases), *made]


def series_cases(grids: Sequence[io.SliceGrid]) -> list[Case]:
    """Held-out sections of a series, then those without context again, their tissue moved in two ways each."""
    hidden = held_out_cases(grids, most=MOST)
    alone = [case for case in hidden if not case.pair.context]
    return [*hidden, *(elastic(case, seed=2 * i + again) for i, case in enumerate(alone) for again in (0, 1))]


def simulated_cases(n: int = N_MADE, *, size: tuple[int, int] = (14, 22), n_genes: int = 200) -> list[Case]:
    """A held-out section in each of n simulated tissues."""
    return [_made_case(seed, size, n_genes) for seed in range(n)]


def _made_case(seed: int, size: tuple[int, int], n_genes: int) -> Case:
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
    a, hidden, b = (tissue.section(z, layout=layout) for z in (0.0, t * gap, gap))
    pair, genes = io.make_pair(io.read_slice(a), io.read_slice(b))
    xy = hidden.obsm["spatial"]
    # The truth without noise, which only simulated tissue has.
    truth = sp.csr_array(tissue.expression(xy, t * gap)[:, hidden.var_names.get_indexer(genes)])

    def motion(points: FloatArray) -> tuple[FloatArray, FloatArray]:
        return tissue.displacement(points, t * gap, 0.0), tissue.displacement(points, t * gap, gap)

    return Case(pair, xy, t, truth, f"{MADE} {seed}", motion)


class Material:
    """What the folds of a benchmark are trained on; a series that several folds share is made ready once.

    Parameters
    ----------
    source
        Where the sections come from.
    config
        Settings of C2-STi. Its ablations share the examples: the switches are no part of the base.
    device
        Where the work is done, and examples live.
    progress
        Called with a word on what is being done.
    """

    def __init__(
        self, source: Source, config: C2STiConfig, *, device: str, progress: Callable[[str], object] = lambda word: None
    ) -> None:
        self.source, self.config, self.device, self.progress = source, config, device, progress
        self._cases: dict[str, list[Case]] = {}
        self._examples: dict[str, list[Example]] = {}

    def cases(self, fold: str) -> list[Case]:
        """Held-out sections that a network of this fold is trained on, in the order of :func:`training_cases`."""
        return _in_order([self._cases_of(s) for s in self.source.lessons(fold)], self._cases_of(None))

    def examples(self, fold: str) -> list[Example]:
        """The same made ready for C2-STi."""
        return _in_order([self._examples_of(s) for s in self.source.lessons(fold)], self._examples_of(None))

    def _cases_of(self, series: Series | None) -> list[Case]:
        """Of a series, or of simulated tissue."""
        name = MADE if series is None else series.name
        if name not in self._cases:
            self.progress(f"holding out sections of {name}")
            small = self.source.name == "made"
            self._cases[name] = (
                series_cases(self.source.read(series))
                if series is not None
                else (simulated_cases(2, size=(8, 11), n_genes=60) if small else simulated_cases())
            )
        return self._cases[name]

    def _examples_of(self, series: Series | None) -> list[Example]:
        name = MADE if series is None else series.name
        if name not in self._examples:
            cases = self._cases_of(series)
            done = count(1)
            self._examples[name] = make_examples(
                cases,
                self.config,
                device=self.device,
                progress=lambda case: self.progress(f"looking at {name}: {next(done)} of {len(cases)}"),
            )
        return self._examples[name]
