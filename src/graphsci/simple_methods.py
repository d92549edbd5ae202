"""Simple methods: predictions of held-out counts that ours must beat.

Each takes the kept counts of a molecule split and ``ratio`` = held-out fraction / kept fraction,
and returns a :class:`~graphsci.predictions.Prediction` of the held-out counts, read block by
block. With x ~ Poisson(rate) per molecule, thinning makes the held-out expectation ``ratio``
times the kept one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from graphsci.predictions import Floats, Matrix, Prediction, as_csr, iterate_blocks
from graphsci.preprocessing import fit_median_library_size, log_normalize

__all__ = [
    "THETA_BOUNDS",
    "PooledNeighbours",
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
]

Codes = NDArray[np.int64]
#: Expected kept counts of consecutive cells, (stop - start, genes).
Rows = Callable[[int, int], Floats]

#: Bounds of the moment estimate of theta: below, a gene's counts are all but unpredictable;
#: above, they are Poisson for any count a cell can hold.
THETA_BOUNDS = (1e-2, 1e6)


class PooledNeighbours(NamedTuple):
    """Counts of each cell's neighbourhood, kept as a sparse cell-by-cell sum."""

    kept: sp.csr_matrix  #: (cells, genes)
    weights: sp.csr_matrix  #: (cells, cells), one where a cell is summed
    pseudo_cell: Floats  #: (genes,), the mean profile, added once to every pool
    library: Floats  #: (cells,), molecules of each cell

    def expected_kept(self, start: int, stop: int) -> Floats:
        """Return the pool's profile at the cells' own depth, (stop - start, genes)."""
        pooled = (self.weights[start:stop] @ self.kept).toarray() + self.pseudo_cell
        return pooled * (self.library[start:stop] / pooled.sum(1))[:, None]


def nothing(kept: Matrix, *, ratio: float, seed: int = 0) -> Prediction:
    """Predict the held-out counts by the kept ones: ``ratio * x``."""
    del seed  # nothing is drawn; the argument keeps all methods alike
    counts, ratio = as_csr(kept, name="kept"), checked_ratio(ratio)
    return Prediction(counts.shape, lambda start, stop: ratio * counts[start:stop].toarray())


def gene_mean(
    kept: Matrix, *, ratio: float, batch: Codes | None = None, seed: int = 0
) -> Prediction:
    """Predict by the gene's share of all molecules: ``ratio * l_i * sum_i x_ij / sum_ij x_ij``.

    ``l_i`` is the cell's kept library size. The reference of D2. With a ``batch`` of each cell
    (cells,), the shares are those of its batch and of one pseudo-cell of the mean profile, so that
    a gene that a small batch does not show is not predicted at exactly zero.
    """
    del seed
    counts, ratio = as_csr(kept, name="kept"), checked_ratio(ratio)
    mean = _gene_means(counts, batch)
    return Prediction(counts.shape, lambda start, stop: ratio * mean(start, stop))


def gene_mean_posterior(
    kept: Matrix,
    *,
    ratio: float,
    batch: Codes | None = None,
    theta: Floats | None = None,
    seed: int = 0,
) -> Prediction:
    """Predict by :func:`gene_mean` combined with the cell's own counts.

    ``ratio * (x + theta_j) * mu / (mu + theta_j)`` as :func:`neighbour_pooling_posterior`, with the
    gene's mean share as ``mu``: nothing is borrowed from other cells but the mean and theta. What a
    method with the same ``theta`` (genes,) explains beyond it, it has learned of cells.
    """
    del seed
    counts, ratio = as_csr(kept, name="kept"), checked_ratio(ratio)
    return _with_own_counts(counts, _gene_means(counts, batch), ratio, theta)


def neighbour_pooling(
    kept: Matrix,
    *,
    ratio: float,
    k: int = 30,
    n_components: int = 30,
    seed: int = 0,
) -> Prediction:
    """Predict by the pooled profile of the k nearest cells, at the cell's own depth.

    ``ratio * l_i * (sum_n x_nj + p_j) / sum_j (sum_n x_nj + p_j)``, n over the cell itself and
    its k - 1 nearest in Euclidean distance on the leading principal components of the
    log-normalised kept counts. ``p`` is one pseudo-cell of the mean profile, so that a gene no
    neighbour shows is not predicted at exactly zero.

    Parameters
    ----------
    kept
        Counts (cells, genes).
    ratio
        Held-out fraction / kept fraction.
    k
        Cells in a pool, the cell itself included; at most all of them.
    n_components
        Principal components; at most one fewer than cells and genes.
    seed
        Seed of ARPACK's starting vector.

    Raises
    ------
    ValueError
        If counts or ratio are not valid, k < 1 or n_components < 1.

    References
    ----------
    Wagner et al. 2018, doi:10.1101/217737 (kNN-smoothing), in its simplest form.
    """
    checked_ratio(ratio)  # before the work
    pools = pool_neighbours(kept, k=k, n_components=n_components, seed=seed)
    return pooled(pools, ratio=ratio)


def pooled(pools: PooledNeighbours, *, ratio: float) -> Prediction:
    """Predict as :func:`neighbour_pooling` from pools that are there already."""
    ratio = checked_ratio(ratio)
    return Prediction(
        pools.kept.shape, lambda start, stop: ratio * pools.expected_kept(start, stop)
    )


def neighbour_pooling_posterior(
    kept: Matrix,
    *,
    ratio: float,
    k: int = 30,
    n_components: int = 30,
    seed: int = 0,
) -> Prediction:
    """Predict by neighbour pooling combined with the cell's own counts.

    ``ratio * (x + theta_j) * mu / (mu + theta_j)``: the posterior mean of a Poisson rate with a
    Gamma prior of mean ``mu``, the pooled expectation of :func:`neighbour_pooling` at the kept
    depth, and shape ``theta_j``, one per gene by moments (:func:`theta_by_moments`). Parameters
    and errors as :func:`neighbour_pooling`.
    """
    checked_ratio(ratio)  # before the work
    pools = pool_neighbours(kept, k=k, n_components=n_components, seed=seed)
    return pooled_posterior(pools, ratio=ratio)


def pooled_posterior(
    pools: PooledNeighbours, *, ratio: float, theta: Floats | None = None
) -> Prediction:
    """Predict as :func:`neighbour_pooling_posterior` from pools that are there already.

    ``theta`` (genes,): instead of that by moments.
    """
    return _with_own_counts(pools.kept, pools.expected_kept, checked_ratio(ratio), theta)


def pool_neighbours(
    kept: Matrix, *, k: int = 30, n_components: int = 30, seed: int = 0
) -> PooledNeighbours:
    """Return each cell's pool of neighbours; see :func:`neighbour_pooling`."""
    counts = as_csr(kept, name="kept")
    neighbours = nearest_cells(
        principal_components(counts, n_components=n_components, seed=seed), k=k
    )
    n_cells = counts.shape[0]
    pointers = np.arange(n_cells + 1) * neighbours.shape[1]
    ones = np.ones(neighbours.size)
    weights = sp.csr_matrix((ones, neighbours.ravel(), pointers), shape=(n_cells, n_cells))
    return PooledNeighbours(
        counts, weights, np.asarray(counts.mean(0)).ravel(), np.asarray(counts.sum(1)).ravel()
    )


def principal_components(counts: Matrix, *, n_components: int = 30, seed: int = 0) -> Floats:
    """Return the leading principal components of log-normalised counts, (cells, components).

    Centred without being made dense (ARPACK). Fewer components are returned if cells or genes
    do not allow as many.
    """
    matrix = as_csr(counts)
    n_components = min(_at_least_one(n_components, "n_components"), min(matrix.shape) - 1)
    # a cell without molecules has no depth: its row stays 0
    median = fit_median_library_size(matrix[np.asarray(matrix.sum(1)).ravel() > 0])
    logs = log_normalize(matrix, median_library_size=median)
    pca = PCA(n_components, svd_solver="arpack", random_state=seed)
    return pca.fit_transform(sp.csr_matrix(logs, dtype=np.float64))


def nearest_cells(points: Floats, *, k: int) -> NDArray[np.int64]:
    """Return the k nearest cells of each, itself first, (cells, min(k, cells))."""
    n_neighbours = min(_at_least_one(k, "k"), len(points)) - 1
    own = np.arange(len(points))[:, None]
    if n_neighbours == 0:
        return own
    search = NearestNeighbors(n_neighbors=n_neighbours).fit(points)
    return np.hstack([own, search.kneighbors(return_distance=False)])


def theta_by_moments(*, counts: Matrix, expected: Prediction) -> Floats:
    """Return each gene's inverse dispersion around an expectation, by moments, (genes,).

    From ``Var(x_ij) = mu_ij + mu_ij^2 / theta_j``:
    ``theta_j = sum_i mu_ij^2 / sum_i ((x_ij - mu_ij)^2 - mu_ij)``, kept within
    :data:`THETA_BOUNDS`; its upper bound where the counts vary no more than Poisson.

    Parameters
    ----------
    counts
        Counts x (cells, genes).
    expected
        mu, on the same scale.
    """
    matrix = as_csr(counts)
    squares, excess = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1])
    for start, mu in iterate_blocks(expected, shape=matrix.shape):
        residuals = matrix[start : start + len(mu)].toarray() - mu
        squares += (mu**2).sum(0)
        excess += (residuals**2 - mu).sum(0)
    low, high = THETA_BOUNDS
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.where(excess > 0, squares / excess, high)
    return np.clip(theta, low, high)


def _with_own_counts(
    counts: sp.csr_matrix, expected: Rows, ratio: float, theta: Floats | None = None
) -> Prediction:
    """Return the posterior mean of Poisson rates with a Gamma prior around the expected counts."""
    if theta is None:
        theta = theta_by_moments(counts=counts, expected=Prediction(counts.shape, expected))

    def rows(start: int, stop: int) -> Floats:
        mu = expected(start, stop)
        own = counts[start:stop].toarray()
        return ratio * (own + theta) * mu / (mu + theta)

    return Prediction(counts.shape, rows)


def _gene_means(counts: sp.csr_matrix, batch: Codes | None) -> Rows:
    """Return what gives the genes' mean shares at the cells' own depth, (stop - start, genes)."""
    share = _gene_share(counts)[None]
    library = np.asarray(counts.sum(1)).ravel()
    if batch is None:
        return lambda start, stop: library[start:stop, None] * share
    codes = np.unique(batch, return_inverse=True)[1]
    of_batch = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))))
    totals = (of_batch @ counts).toarray() + library.mean() * share  # (batches, genes)
    shares = totals / totals.sum(1, keepdims=True)
    return lambda start, stop: library[start:stop, None] * shares[codes[start:stop]]


def _gene_share(counts: sp.csr_matrix) -> Floats:
    """Return each gene's share of all molecules, (genes,)."""
    per_gene = np.asarray(counts.sum(0)).ravel()
    if not per_gene.sum() > 0:
        raise ValueError(
            "kept holds no molecule, expected at least one; lower the held-out fraction."
        )
    return per_gene / per_gene.sum()


def checked_ratio(ratio: float) -> float:
    """Return the ratio of held-out to kept molecules, or refuse it."""
    if not (np.isfinite(ratio) and ratio > 0):
        raise ValueError(
            f"ratio is {ratio}, expected a positive number: held-out fraction / kept fraction, "
            "for example 0.1 / 0.9."
        )
    return float(ratio)


def _at_least_one(value: int, name: str) -> int:
    """Return a count of at least one, or refuse it."""
    if value < 1:
        raise ValueError(f"{name} is {value}, expected at least 1; the default is 30.")
    return int(value)
