"""How much memory a result takes, and how much of it is worked on at a time so that a limit is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from c2sti import _log
from c2sti.grid._blocks import chunks_of

UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
PER_ROW = 300  # bytes of a row's name, coordinates, columns of obs and tree of neighbours
PER_VALUE = 24  # bytes of a measured value: as it was read, with shared genes, and normalised
COMPONENTS = 60  # of the default model's descriptions of a pair, and of "gp"
KEPT, MADE = 20, 12  # bytes per value of a layer's chunk until it is written, and while it is computed
MADE_STD, MADE_BOUNDS = 12, 8
SPOTS = 2000 * 40  # bytes per gene of the spots that intervals are calibrated on
MEASURED = 100_000_000  # bytes of a piece of a measured section while it is written
LEAST_ROWS = 256


@dataclass(frozen=True)
class Extent:
    """What the memory for a result depends on.

    Parameters
    ----------
    n_rows, n_genes, n_sections
        M, N, S.
    n_components
        K: numbers by which an inserted value is weighted, of dense weights the number of components, of sparse ones
        one and a half times the number of spots that a row looks at. Known when the method has answered.
    n_values
        Measured values that are not zero, of all sections.
    working
        Bytes that the method takes while it works, before anything is written; 0 where it does not say.
    std, interval
        Whether these are wanted.
    """

    n_rows: int
    n_genes: int
    n_sections: int
    n_components: int = COMPONENTS
    n_values: int = 0
    working: int = 0
    std: bool = False
    interval: bool = False

    @property
    def layers(self) -> int:
        """Inserted layers of a section: itself, its standard deviations, both ends of its intervals."""
        return 1 + self.std + 2 * self.interval

    @property
    def dense(self) -> int:
        """Bytes of a result in memory: 4 M N a layer, of which the two measured sections and X are three."""
        return 4 * self.n_rows * self.n_genes * (self.n_sections * self.layers + 3)

    @property
    def held(self) -> int:
        """Bytes that are held all the time when a result is streamed.

        8 K (S M + N) of the factors, 8 S N of the means, 24 for each measured value and 300 for each row; with `std`,
        the factors right beside either section and those of the noise as well.
        """
        sections = self.n_sections * (1 + self.std) + (2 if self.std or self.interval else 0)
        factors = 8 * self.n_components * (sections * self.n_rows + (1 + self.std) * self.n_genes)
        means = 8 * sections * self.n_genes
        return factors + means + PER_VALUE * self.n_values + PER_ROW * self.n_rows + MEASURED

    @property
    def worked(self) -> int:
        """Bytes at the peak of the method's work, with what is there all the time; 0 where it does not say."""
        return self.working and self.working + PER_VALUE * self.n_values + PER_ROW * self.n_rows

    def block(self, rows_at_once: int) -> int:
        """Bytes of one task: 24 for each value of its chunk, 12 for each that is computed at once; more with doubts."""
        rows, genes = chunks_of((self.n_rows, self.n_genes))
        made = MADE + MADE_STD * self.std + MADE_BOUNDS * self.interval
        spots = SPOTS * genes if self.interval else 0
        return genes * (rows * (KEPT + 4 * self.layers) + min(rows_at_once, rows) * made) + spots


@dataclass(frozen=True)
class Plan:
    """How many tasks work side by side, and how many rows of its block each computes at once."""

    tasks: int
    rows_at_once: int


def memory_of(limit: int | str | None) -> int | None:
    """Bytes of a limit: ``8e9``, ``"8GB"`` (powers of 1000), ``"7.5 GiB"`` (of 1024).

    Raises
    ------
    ValueError
        It is none.
    """
    if limit is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", str(limit), re.IGNORECASE)
    try:
        number, unit, binary = found.groups() if found else ("", "", "")
        size = int(float(number) * (1024 if binary else 1000) ** UNITS[unit.lower()])
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError(f"max_memory = {limit!r} is no amount of memory; give bytes, or text such as '8GB'")
    return size


def check_dense(extent: Extent, limit: int | None) -> None:
    """Refuse a result in memory that is larger than what the caller has.

    Raises
    ------
    ValueError
        It is.
    """
    if limit is not None and extent.dense > limit:
        layers = extent.n_sections * extent.layers + 3
        raise ValueError(
            f"the result takes {_said(extent.dense)} ({extent.n_rows} bins x {extent.n_genes} genes x {layers} layers) "
            f"and max_memory is {_said(limit)}; write it to a store instead, out='sections.zarr' "
            "(--stream on the command line), or choose fewer genes= or a larger pitch="
        )


def check_work(extent: Extent, limit: int | None) -> None:
    """Refuse a pair that the method cannot describe in so little, whether the result is streamed or not.

    Raises
    ------
    ValueError
        It cannot.
    """
    if limit is not None and extent.worked > limit:
        raise ValueError(
            f"max_memory = {_said(limit)} is too little for the method to work on these sections; about "
            f"{_said(extent.worked)} are needed before anything is written. Give more, or sections with fewer genes, "
            "slice_a[:, names]"
        )


def plan(extent: Extent, limit: int | None, n_tasks: int) -> Plan:
    """As many tasks, then as many rows at once, as the limit allows; all of them where there is none.

    Raises
    ------
    ValueError
        Not even one task with the fewest rows fits.
    """
    choices = _rows_at_once(extent)
    if limit is None:
        return Plan(n_tasks, choices[0])
    for tasks in range(n_tasks, 0, -1):
        for at_once in choices:
            if extent.held + tasks * extent.block(at_once) <= limit:
                return Plan(tasks, at_once)
    needed = extent.held + extent.block(choices[-1])
    raise ValueError(
        f"max_memory = {_said(limit)} is too little for {extent.n_rows} bins x {extent.n_genes} genes; at least "
        f"{_said(needed)} are needed, of which {_said(extent.held)} for the sections and what the answer is made of"
    )


def plan_anyway(extent: Extent, limit: int | None, n_tasks: int) -> Plan:
    """The same when there is an answer already: if it is larger than was thought, the least, and a warning."""
    try:
        return plan(extent, limit, n_tasks)
    except ValueError as error:
        _log.warning(f"{error}; going on with the least there is")
        return Plan(1, _rows_at_once(extent)[-1])


def _rows_at_once(extent: Extent) -> list[int]:
    """All rows of a chunk, half of them, and so on, down to `LEAST_ROWS`."""
    rows = chunks_of((extent.n_rows, extent.n_genes))[0]
    halved = [rows >> k for k in range(rows.bit_length())]
    return [n for n in halved if n >= LEAST_ROWS] or [rows]


def tell(extent: Extent, chosen: Plan) -> None:
    """Say in the log what is going to be needed."""
    writing = extent.held + chosen.tasks * extent.block(chosen.rows_at_once)
    _log.info(
        f"about {_said(max(extent.worked, writing))} of memory for a result of {_said(extent.dense)}: "
        f"{_said(extent.worked)} while sections are described, {_said(writing)} while they are written, "
        f"{chosen.tasks} block(s) at a time, {chosen.rows_at_once} rows at once"
    )


def _said(size: int) -> str:
    """Bytes for people, rounded up, so that what is called enough is enough."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            tenths = -(-size * 10 // unit)
            return f"{tenths / 10:g} {name}"
    return f"{-(-size // 1000)} kB"
