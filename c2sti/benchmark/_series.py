"""The measured series that a folder holds: which there are, whose tissue they are, and how they are read.

A folder is laid out as :mod:`c2sti.datasets` stores sections: ``her2st/her2st_A1.h5ad``, ``dev_heart/heart6.5_2.h5ad``,
``stahl_bc/BC1.h5ad``. A series counts as held only where all of its sections are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import anndata as ad
from anndata import AnnData

from c2sti import _keys, datasets, grid, pp

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
        Whether the authors brought the sections into one frame, ``obsm["spatial_3d"]`` in µm.
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


def read_series(series: Series, data: Path) -> list[grid.SliceGrid]:
    """Sections of a series in order of depth, in one frame."""
    sections = [ad.read_h5ad(path) for path in series.paths(data)]
    if series.in_register:
        sections = [_registered(section) for section in sections]
    else:
        pp.align_series(sections)
    return grid.on_shared_genes(
        [
            grid.read_slice(section, name=Path(file).name, spatial_key=_keys.ALIGNED)
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
        Path(file).name: grid.read_slice(ad.read_h5ad(path), name=Path(file).name).fingerprint()[:16]
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
        Sections of a series in one frame; read once.
    prints
        Fingerprints of the sections by name.
    """

    name: str
    series: tuple[Series, ...]
    read: Callable[[Series], list[grid.SliceGrid]]
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
    """Two blocks of made tissue of four small sections, as if of two patients: to see that all works."""
    series = tuple(Series(f"made {p}", tuple(f"made_{p}{i}" for i in range(1, 5)), in_register=True) for p in "AB")

    @cache
    def read(one: Series) -> list[grid.SliceGrid]:
        tissue = datasets.phantom(seed=50 + ord(one.patient), size=10, n_genes=60)
        sections = tissue.series([0.0, 150.0, 300.0, 450.0])
        return [grid.read_slice(s, name=file) for s, file in zip(sections, one.files, strict=True)]

    return Source("made", series, read, {g.name: g.fingerprint()[:16] for one in series for g in read(one)})
