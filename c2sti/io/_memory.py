"""How much memory a result takes, and how many blocks of it are worked on at a time so that a limit is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from c2sti import _logging
from c2sti.io._factors import chunks_of

UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
PER_ROW = 300  # bytes of a row's name, coordinates, columns of obs and tree of neighbours
PER_VALUE = 24  # bytes of a measured value: as it was read, with shared genes, and normalised
COMPONENTS = 60  # of the default model's descriptions of a pair, and of "gp"
MADE, MADE_BESIDE = 32, 24  # bytes per value of a block while it is made and written; more for what is beside it
MEASURED = 100_000_000  # bytes of a piece of a measured section while it is written
DENSE = 10**9  # bytes of a result up to which its layers are dense in memory, where no other limit is given


@dataclass(frozen=True)
class Extent:
    """What the memory for a result depends on.

    Parameters
    ----------
    n_rows, n_genes, n_sections
        M, N, S.
    n_components
        K: numbers by which an interpolated value is weighted, of dense weights the number of components, of sparse ones
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
        """Interpolated layers of a section: itself, its standard deviations, both ends of its intervals."""
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

    @property
    def block(self) -> int:
        """Bytes of one task: 32 for each value of its chunk, 24 more with standard deviations or intervals."""
        rows, genes = chunks_of((self.n_rows, self.n_genes))
        return rows * genes * (MADE + MADE_BESIDE * (self.std or self.interval))


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


def is_dense(extent: Extent, limit: int | None) -> bool:
    """Whether layers are made dense in memory, or left to be made when somebody looks at them."""
    return extent.dense <= (DENSE if limit is None else limit)


def check_work(extent: Extent, limit: int | None) -> None:
    """Refuse a pair that the method cannot describe in so little, whether the result is streamed or not.

    Raises
    ------
    ValueError
        It cannot.
    """
    if limit is not None and extent.worked > limit:
        raise ValueError(
            f"max_memory = {said(limit)} is too little for the method to work on these sections; about "
            f"{said(extent.worked)} are needed before anything is written. Give more, or sections with fewer genes, "
            "slice_a[:, names]"
        )


def n_tasks(extent: Extent, limit: int | None, most: int) -> int:
    """As many blocks at a time as the limit allows, and no more than `most`.

    Raises
    ------
    ValueError
        Not even one fits.
    """
    if limit is None:
        return most
    fit = (limit - extent.held) // extent.block
    if fit < 1:
        raise ValueError(
            f"max_memory = {said(limit)} is too little for {extent.n_rows} bins x {extent.n_genes} genes; at least "
            f"{said(extent.held + extent.block)} are needed, of which {said(extent.held)} for the sections and what "
            "the result is made of"
        )
    return min(fit, most)


def tell(extent: Extent, n_tasks: int) -> None:
    """Say in the log what is going to be needed."""
    writing = extent.held + n_tasks * extent.block
    _logging.info(
        f"about {said(max(extent.worked, writing))} of memory for a result of {said(extent.dense)}: "
        f"{said(extent.worked)} while sections are described, {said(writing)} while they are written, "
        f"{n_tasks} block(s) at a time"
    )


def said(size: int) -> str:
    """Bytes for people, rounded up, so that what is called enough is enough."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            tenths = -(-size * 10 // unit)
            return f"{tenths / 10:g} {name}"
    return f"{-(-size // 1000)} kB"
