"""Controls: predictions of held-out counts that a method must beat, and their ceiling.

The simple methods of :mod:`graphsci.simple_methods`, all of which are here too, and what only
the judge needs.
"""

from collections.abc import Callable

import numpy as np

from graphsci.predictions import Matrix, Prediction, as_csr
from graphsci.simple_methods import (
    THETA_BOUNDS,
    PooledNeighbours,
    checked_ratio,
    gene_mean,
    gene_mean_posterior,
    nearest_cells,
    neighbour_pooling,
    neighbour_pooling_posterior,
    nothing,
    pool_neighbours,
    pooled,
    pooled_posterior,
    principal_components,
    theta_by_moments,
)

__all__ = [
    "CONTROLS",
    "THETA_BOUNDS",
    "Control",
    "PooledNeighbours",
    "empty",
    "gene_mean",
    "gene_mean_posterior",
    "nearest_cells",
    "neighbour_pooling",
    "neighbour_pooling_posterior",
    "nothing",
    "pool_neighbours",
    "pooled",
    "pooled_posterior",
    "principal_components",
    "theta_by_moments",
    "truth",
]


def empty(kept: Matrix, *, ratio: float, seed: int = 0) -> Prediction:
    """Predict no molecule anywhere: what a metric must never rank above the counts."""
    del seed
    counts, _ = as_csr(kept, name="kept"), checked_ratio(ratio)
    return Prediction(counts.shape, lambda start, stop: np.zeros((stop - start, counts.shape[1])))


def truth(expected: Matrix) -> Prediction:
    """Predict by the truth: expected held-out counts where known, or the held-out counts.

    Held-out counts themselves are a ceiling that no method can reach, for their Poisson noise
    cannot be predicted; the true rates of a simulation are one that could be.
    """
    counts = as_csr(expected, name="expected")
    return Prediction(counts.shape, lambda start, stop: counts[start:stop].toarray())


Control = Callable[..., Prediction]

#: Controls that are methods: ``CONTROLS[name](kept, ratio=..., seed=...)``.
CONTROLS: dict[str, Control] = {
    "nothing": nothing,
    "gene_mean": gene_mean,
    "gene_mean_posterior": gene_mean_posterior,
    "neighbour_pooling": neighbour_pooling,
    "neighbour_pooling_posterior": neighbour_pooling_posterior,
    "empty": empty,
}
