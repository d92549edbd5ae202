"""Quantiles of Gamma distributions, many at once.

An inverse incomplete gamma function takes a microsecond, and an interval of every entry two of
them. For one probability it is a function of the shape alone, smooth in logarithms, so that a
table and its cubic spline do.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import special

#: Logarithms of the shapes in the table, evenly spaced; the spline errs by 1e-9 between them.
_FIRST, _LAST, _STEP = np.log(1e-3), np.log(1e7), 0.005
#: A quantile below this is known from the first term of its series, to the last digit.
_TINY = 1e-200
#: Entries worked on at once: what is done to them finds them in the cache.
_AT_ONCE = 1 << 14


def gamma_quantile(shape: NDArray[np.float64], probability: float) -> NDArray[np.float64]:
    """Quantiles of Gamma distributions of scale 1, relative error about 1e-9.

    Parameters
    ----------
    shape
        Any array, > 0.
    probability
        In (0, 1).
    """
    coefficients, flat = _spline(probability), np.ravel(shape)
    quantile = np.empty(len(flat))
    for start in range(0, len(flat), _AT_ONCE):
        piece = slice(start, start + _AT_ONCE)
        quantile[piece] = _interpolated(flat[piece], probability, coefficients)
    return quantile.reshape(np.shape(shape))


def _interpolated(
    shape: NDArray[np.float64], probability: float, coefficients: NDArray[np.float64]
) -> NDArray[np.float64]:
    log = np.log(shape)
    place = (log - _FIRST) * (1 / _STEP)
    outside = np.flatnonzero((place < 0) | (place >= len(coefficients)))
    place[outside] = 0
    number = place.astype(np.int32)
    past = (place - number) * _STEP
    of_piece = coefficients.take(number, axis=0)
    relative = of_piece[:, 0] * past
    for power in (1, 2):
        relative += of_piece[:, power]
        relative *= past
    relative += of_piece[:, 3]
    quantile = np.exp(relative, out=relative)
    quantile *= shape
    quantile[outside] = special.gammaincinv(shape[outside], probability)
    return quantile


@functools.lru_cache(maxsize=16)
def _spline(probability: float) -> NDArray[np.float64]:
    """Cubic pieces of log(quantile / shape) over log shape, (pieces, 4), highest power first."""
    from scipy.interpolate import CubicSpline  # takes long to import

    log = np.arange(_FIRST, _LAST + _STEP, _STEP)
    shape = np.exp(log)
    quantile = special.gammaincinv(shape, probability)
    with np.errstate(divide="ignore"):
        of_series = (np.log(probability) + special.gammaln(1 + shape)) / shape
        values = np.where(quantile < _TINY, of_series, np.log(quantile))
    return np.ascontiguousarray(CubicSpline(log, values - log).c.T)
