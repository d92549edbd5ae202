"""Molecules split at random in two independent parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.preprocessing._entries import select_entries


def thin_counts(
    counts: sparse.csr_matrix, *, fraction: float, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Split molecules at random in two parts: held_out ~ Binomial(x, fraction).

    Each molecule is held out independently, so for Poisson counts both parts are
    independent Poisson counts with means (1 - fraction) and fraction times the original.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, whole numbers.
    fraction
        Share of the molecules to hold out, in (0, 1).
    rng
        Source of randomness.

    Returns
    -------
    kept, held_out
        (cells, genes) CSR float32 each, without explicit zeros; ``kept + held_out`` is
        ``counts`` exactly.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction is {fraction}, expected a share of the molecules between 0 and 1 "
            "(both excluded), e.g. 0.1."
        )
    molecules = _as_molecules(counts.data)
    held_out = _binomial(molecules, fraction, rng)
    return _with_data(counts, molecules - held_out), _with_data(counts, held_out)


def _as_molecules(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return values as integers; refuse what is not a number of molecules."""
    with np.errstate(invalid="ignore"):
        molecules = values.astype(np.int64)
    if not np.array_equal(molecules, values) or (len(values) and molecules.min() < 0):
        raise ValueError(
            "counts hold values that are not whole numbers >= 0, expected molecules that can be "
            "split one by one. Fractional counts (`allow_fractional`) cannot be thinned: round "
            "them first, or switch off what needs thinning (`--no-check`)."
        )
    return molecules


def _binomial(
    trials: NDArray[np.int64], probability: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw Binomial(trials, probability); single molecules, the majority, by one uniform."""
    drawn = ((rng.random(len(trials)) < probability) & (trials > 0)).astype(np.int64)
    several = np.flatnonzero(trials > 1)
    drawn[several] = rng.binomial(trials[several], probability)
    return drawn


def _with_data(matrix: sparse.csr_matrix, data: NDArray[Any]) -> sparse.csr_matrix:
    """Return a float32 CSR with the structure of ``matrix``, other values, no zeros."""
    return select_entries(
        matrix, data != 0, data.astype(np.float32), matrix.indices, matrix.shape[1]
    )
