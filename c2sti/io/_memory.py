"""How much memory a result takes, and how many blocks of it are computed at a time within a limit."""

from __future__ import annotations

from dask.utils import parse_bytes

from c2sti import _logging
from c2sti.io._factors import chunks_of

PER_ROW = 300  # bytes of a row's name, coordinates, columns of obs and tree of neighbours
PER_VALUE = 24  # bytes of a measured value: as it was read, with shared genes, and normalised
COMPONENTS = 60  # of the default model's descriptions of a pair, and of "gp"
PER_BLOCK_VALUE, MORE_WITH_STD = 32, 24  # bytes per value of a block while it is computed and written
MEASURED = 100_000_000  # bytes of a piece of a measured section while it is written
DENSE = 10**9  # bytes of a result up to which its layers are dense in memory, where no other limit is given


def memory_of(limit: int | str | None) -> int | None:
    """Bytes of a limit: ``8e9``, ``"8GB"`` (powers of 1000), ``"7.5 GiB"`` (of 1024); ValueError for other text."""
    if limit is None:
        return None
    text = str(limit)
    try:
        size = parse_bytes(text) if any(letter.isdigit() for letter in text) else 0  # dask takes "GB" for 1 GB
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError(f"max_memory = {limit!r} is no amount of memory; give bytes, or text such as '8GB'")
    return size


def is_dense(shape: tuple[int, int], n_layers: int, limit: int | None) -> bool:
    """Whether a result of that many layers, `X` included, is dense in memory; it is lazy otherwise."""
    return 4 * shape[0] * shape[1] * n_layers <= (DENSE if limit is None else limit)


def n_tasks(
    shape: tuple[int, int],
    n_sections: int,
    *,
    n_values: int,
    working: int,
    std: bool,
    interval: bool,
    limit: int | None,
    stored: bool,
    most: int,
) -> int:
    """How many blocks are computed at a time, at most `most`; fewer where a stored result has a limit.

    `n_values` measured values are not zero, and the method takes `working` bytes before anything is written, 0 if
    unknown. ValueError where the limit is too low for the method, or for one block of a stored result.
    """
    worked = working and working + PER_VALUE * n_values + PER_ROW * shape[0]
    if limit is not None and worked > limit:
        raise ValueError(
            f"max_memory = {said(limit)} is too little for the method to work on these sections; about {said(worked)} "
            "are needed before anything is written. Give more, or sections with fewer genes, slice_a[:, names]"
        )
    if not stored:
        return most
    constant, block = held(shape, n_sections, n_values, std, interval), block_size(shape, std or interval)
    fit = most if limit is None else min((limit - constant) // block, most)
    if limit is not None and fit < 1:
        raise ValueError(
            f"max_memory = {said(limit)} is too little for {shape[0]} bins x {shape[1]} genes; at least "
            f"{said(constant + block)} are needed, of which {said(constant)} for the sections and their factors"
        )
    writing = constant + fit * block
    _logging.info(
        f"about {said(max(worked, writing))} of memory are needed: {said(worked)} while sections are described, "
        f"{said(writing)} while they are written, {fit} block(s) at a time"
    )
    return fit


def held(shape: tuple[int, int], n_sections: int, n_values: int, std: bool, interval: bool) -> int:
    """Bytes that are held while a result is written: factors, means, measured values and rows.

    With `std` there are also the factors right beside either section and those of the noise.
    """
    n_rows, n_genes = shape
    sections = n_sections * (1 + std) + (2 if std or interval else 0)
    factors = 8 * COMPONENTS * (sections * n_rows + (1 + std) * n_genes)
    return factors + 8 * sections * n_genes + PER_VALUE * n_values + PER_ROW * n_rows + MEASURED


def block_size(shape: tuple[int, int], more: bool) -> int:
    """Bytes of one task; more with standard deviations or intervals."""
    rows, genes = chunks_of(shape)
    return rows * genes * (PER_BLOCK_VALUE + MORE_WITH_STD * more)


def said(size: int) -> str:
    """Bytes as text, rounded up."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{-(-size * 10 // unit) / 10:g} {name}"
    return f"{-(-size // 1000)} kB"
