"""What networks are trained on: hidden sections as they were measured, the same with moved tissue, and made tissue.

One implementation for the checkpoint that comes with the package and for the networks of the benchmark. The order of
the cases is part of it: what a step draws depends on their places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.sparse as sp

from c2sti import datasets, grid
from c2sti._types import FloatArray
from c2sti.benchmark._leave_out import hidden_cases
from c2sti.benchmark._series import Series, Source, read_series, series_of
from c2sti.model import C2STiConfig
from c2sti.training import Case, Example, elastic, make_examples

MOST = 2  # sections hidden in a row
N_MADE = 32  # made tissues
MADE = "made tissue"
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
    return _in_order([series_cases(read_series(one, data)) for one in series_of(groups, without=without)], made_cases())


def _in_order(series: Iterable[list[T]], made: list[T]) -> list[T]:
    return [*(one for cases in series for one in cases), *made]


def series_cases(grids: Sequence[grid.SliceGrid]) -> list[Case]:
    """Hidden sections of a series, then those without context again, their tissue moved in two ways each."""
    hidden = hidden_cases(grids, most=MOST)
    alone = [case for case in hidden if not case.pair.context]
    return [*hidden, *(elastic(case, seed=2 * i + again) for i, case in enumerate(alone) for again in (0, 1))]


def made_cases(n: int = N_MADE, *, size: tuple[int, int] = (14, 22), n_genes: int = 200) -> list[Case]:
    """A hidden section in each of n made tissues."""
    return [_made_case(seed, size, n_genes) for seed in range(n)]


def _made_case(seed: int, size: tuple[int, int], n_genes: int) -> Case:
    """A section of a made tissue: how big it is, how fast it moves and changes, and where it was cut, by the seed."""
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
    pair, genes = grid.make_pair(grid.read_slice(a), grid.read_slice(b))
    xy = hidden.obsm["spatial"]
    # The truth without noise, which only made tissue has.
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
        """Hidden sections that a network of this fold is trained on, in the order of :func:`training_cases`."""
        return _in_order([self._cases_of(s) for s in self.source.lessons(fold)], self._cases_of(None))

    def examples(self, fold: str) -> list[Example]:
        """The same made ready for C2-STi."""
        return _in_order([self._examples_of(s) for s in self.source.lessons(fold)], self._examples_of(None))

    def _cases_of(self, series: Series | None) -> list[Case]:
        """Of a series, or of made tissue."""
        name = MADE if series is None else series.name
        if name not in self._cases:
            self.progress(f"hiding sections of {name}")
            small = self.source.name == "made"
            self._cases[name] = (
                series_cases(self.source.read(series))
                if series is not None
                else (made_cases(2, size=(8, 11), n_genes=60) if small else made_cases())
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
