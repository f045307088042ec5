"""How fast an interpolated section is written out, beside what the machine can do.

``InterpolatedSection.expression`` over chunks of genes: dense factors (``c2sti``, ``gp``), and sparse ones (``linear``,
``copy``). In the same run, with the same threads: the bandwidth of ``np.copyto`` between arrays that fit no cache, and
the rate of numpy's single-precision matrix product of one chunk.

Bytes are those that have to pass between processor and main memory at the very least: each factor in once (of CSR, 4
bytes a value and 4 an index), the result out once. A copy counts its bytes in and out. Arithmetic is 2 · M · K · N for
dense factors, 2 · entries of the weights · N for sparse ones. Rates are by seconds of the processor, of the limits as
of what is held against them: set one thread, and other programs on the machine disturb them least.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from _record import arguments, timed, write

from c2sti._types import InterpolatedSection
from c2sti.ops import gaussian_operator, nearest_operator

CHUNK = 1024  # genes at a time, as results are filled


def main(given: Sequence[str] | None = None) -> Path:
    """Measure, write."""
    options = arguments(__doc__, given, bins={"type": int, "default": 4000}, genes={"type": int, "default": 15_000})
    bins, genes = (300, 400) if options.quick else (options.bins, options.genes)
    rng = np.random.default_rng(options.seed)
    limits = {"copy_gb_s": copy_bandwidth(2**20 if options.quick else 2**26, options.repeats)}
    limits["sgemm_gflop_s"] = product_rate(bins, min(CHUNK, genes), rng, options.repeats)
    rows = []
    for name, section in sections(bins, genes, rng).items():
        took = timed(lambda s=section: written(s, genes), options.repeats)
        bytes_, flop = traffic(section, bins, genes)
        floors = {"memory": bytes_ / limits["copy_gb_s"] / 1e9, "arithmetic": flop / limits["sgemm_gflop_s"] / 1e9}
        rows.append(
            {
                "factors": name,
                **took,
                "gb_s": bytes_ / took["cpu_s"] / 1e9,
                "gflop_s": flop / took["cpu_s"] / 1e9,
                "floor": max(floors, key=lambda k: floors[k]),
                "share_of_floor": max(floors.values()) / took["cpu_s"],
                "share_of_copy": floors["memory"] / took["cpu_s"],
            }
        )
    return write("throughput", options, rows, bins=bins, genes=genes, limits=limits)


def copy_bandwidth(values: int, repeats: int) -> float:
    """GB/s of np.copyto, in and out, of single-precision values."""
    source = np.ones(values, dtype=np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / timed(lambda: np.copyto(target, source), repeats)["cpu_s"] / 1e9


def product_rate(bins: int, genes: int, rng: np.random.Generator, repeats: int, k: int = 300) -> float:
    """GFLOP/s of a matrix product of the size of one chunk, into memory that is there already."""
    a, b = rng.random((bins, k), dtype=np.float32), rng.random((k, genes), dtype=np.float32)
    out = np.empty((bins, genes), dtype=np.float32)
    return 2 * bins * k * genes / timed(lambda: np.matmul(a, b, out=out), repeats)["cpu_s"] / 1e9


def sections(bins: int, genes: int, rng: np.random.Generator, k: int = 300) -> dict[str, InterpolatedSection]:
    """Interpolated sections as methods give them: 300 maps, or weights of two sections, a fifth of them not zero."""
    side = bins**0.5
    at, spots = rng.random((bins, 2)) * side, rng.random((bins // 2, 2)) * side
    measured = sp.random_array((2 * len(spots), genes), density=0.2, rng=rng, format="csr", dtype=np.float32)
    nothing = np.zeros(genes)
    near = gaussian_operator(spots, at, 0.8)
    return {
        "dense": InterpolatedSection(
            rng.standard_normal((bins, k), dtype=np.float32), rng.random((k, genes), dtype=np.float32), nothing
        ),
        "linear": InterpolatedSection(sp.hstack([0.5 * near, 0.5 * near], format="csr"), measured, nothing),
        "copy": InterpolatedSection(nearest_operator(spots, at), measured[: len(spots)], nothing),
    }


def written(section: InterpolatedSection, genes: int) -> None:
    """All genes, chunk by chunk; each chunk is dropped when the next is asked for."""
    for first in range(0, genes, CHUNK):
        section.expression(slice(first, min(first + CHUNK, genes)))


def traffic(section: InterpolatedSection, bins: int, genes: int) -> tuple[float, float]:
    """Least bytes in and out of main memory, and arithmetic."""
    factors = [f.nnz * 8 if isinstance(f, sp.sparray) else f.nbytes for f in (section.weights, section.basis)]
    taps = section.weights.nnz if isinstance(section.weights, sp.sparray) else section.weights.size
    return sum(factors) + 4 * bins * genes, 2 * taps * genes


if __name__ == "__main__":
    main()
