"""Count splitting: the molecules of a section into two independent sections of half the library size.

Each molecule goes to one of the two with probability one half, so that of Poisson counts both are Poisson and
independent (data thinning; Neufeld et al., Biostatistics 2024). The draws depend on the gene's key, the spot's own
counts and the seeds, and not on the order in which genes, spots or entries are stored.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

WORD = np.uint64(64)  # draws of one number


def split(counts: sp.csr_array, gene_keys: NDArray[np.uint64], *seeds: int) -> NDArray[np.floating]:
    """(nnz,) how many molecules of each entry of (n, N) whole counts go to the first of two sections.

    `gene_keys` (N,) are a number for each gene, such as the hash of its name; `seeds` are of the draws.
    """
    seed = np.uint64(0)
    for one in seeds:
        seed = mixed(np.array([seed + np.uint64(one)]))[0]
    spots = np.repeat(row_hashes(counts, gene_keys), np.diff(counts.indptr))
    entry = mixed(spots ^ mixed(gene_keys ^ seed)[counts.indices])
    whole = counts.data.astype(np.uint64)
    first = np.bitwise_count(mixed(entry) >> (WORD - np.minimum(whole, WORD))).astype(counts.dtype)
    first[whole == 0] = 0  # a shift by a whole word is none
    left, word = np.flatnonzero(whole > WORD), 1
    while len(left):  # as many words of coin tosses as the largest counts need
        tosses = mixed(entry[left] + np.uint64(word))
        taken = np.minimum(whole[left] - WORD * np.uint64(word), WORD)
        first[left] += np.bitwise_count(tosses >> (WORD - taken))
        word += 1
        left = left[whole[left] > WORD * np.uint64(word)]
    return first


def row_hashes(values: sp.csr_array, gene_keys: NDArray[np.uint64] | None = None) -> NDArray[np.uint64]:
    """(n,) sums over a row of 64 well mixed bits for each gene and value: the same in whatever order it is stored."""
    bits = values.data.astype(np.float32, copy=False).view(np.uint32).astype(np.uint64)
    keys = np.arange(values.shape[1], dtype=np.uint64) if gene_keys is None else gene_keys
    entries = mixed(bits ^ mixed(keys)[values.indices])
    until = np.concatenate([np.zeros(1, np.uint64), np.cumsum(entries, dtype=np.uint64)])
    return until[values.indptr[1:]] - until[values.indptr[:-1]]


def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number mixed until all bits depend on all, one to one (Steele, Lea and Flood: SplitMix64, OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x
