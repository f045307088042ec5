"""From inserted values, which are means of logarithms, to the shares of genes in the counts."""

from __future__ import annotations

import numpy as np

from c2sti._types import FloatArray

TARGET_SUM = 1e4  # inserted values are log1p of counts scaled to this
LEAST_DISPERSED, MOST_DISPERSED = 1e-6, 30.0


def expected_log(share: FloatArray, dispersion: float, library: FloatArray) -> FloatArray:
    """(J,) what log1p(1e4 C / L) is on average, for counts C of mean share · L and variance mean + dispersion · mean².

    With log(1 + x) = ∫ (1 − exp(−t x)) exp(−t) / t dt the mean is an integral over the Laplace transform of the
    negative binomial distribution, which is known.

    Parameters
    ----------
    share
        (J,) in [0, 1].
    dispersion
        ≥ 0; 0 is Poisson.
    library
        (l,) library sizes over which the mean is taken as well.
    """
    u, step = np.linspace(-24.0, 4.0, 113, retstep=True)  # log t: beyond, the integrand is nothing
    t = np.exp(u)
    hit = -np.expm1(-t * TARGET_SUM / library[:, None])
    exponent = share[:, None, None] * library[:, None] * hit
    if dispersion > 0:
        exponent = np.log1p(dispersion * exponent) / dispersion
    return (-np.expm1(-exponent) @ (np.exp(-t) * step)).mean(axis=1)


class Shares:
    """Turns inserted values into shares, by a table of :func:`expected_log` for the libraries at hand."""

    def __init__(self, library: FloatArray, n_libraries: int = 9) -> None:
        levels = np.quantile(np.maximum(library, 1), (np.arange(n_libraries) + 0.5) / n_libraries)
        self.log_share = np.linspace(np.log(1e-9), 0.0, 128)
        self.dispersion = np.concatenate([[0.0], np.geomspace(0.03, MOST_DISPERSED, 15)])
        rows = [expected_log(np.exp(self.log_share), d, levels) for d in self.dispersion]
        self.log_value = np.log(rows)

    def of(self, values: FloatArray, dispersion: float) -> FloatArray:
        """(M,) shares of one gene; a value of 0 is a share of 0, and no share is above 1."""
        at = np.clip(dispersion, 0, MOST_DISPERSED)
        k = min(int(np.searchsorted(self.dispersion, at, side="right")) - 1, len(self.dispersion) - 2)
        w = (at - self.dispersion[k]) / (self.dispersion[k + 1] - self.dispersion[k])
        curve = (1 - w) * self.log_value[k] + w * self.log_value[k + 1]
        log_value = np.log(np.maximum(values, 1e-300))
        found = np.exp(np.interp(log_value, curve, self.log_share))
        low = np.exp(np.minimum(log_value - curve[0], 0))  # below the table both are proportional
        return np.where(values > 0, found * low, 0.0)
