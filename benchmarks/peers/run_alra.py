"""ALRA (Linderman et al. 2022, doi:10.1038/s41467-021-27729-z): our implementation.

Written from the paper's description and checked against what the authors' R program does:
log1p of counts per 10,000; rank k where a singular value's spacing is last beyond the spacings
of the tail (values 80-100) at p < 1e-10; rank-k SVD; per gene, values up to the absolute 0.1 %
quantile become 0; mean and standard deviation of the gene's non-zero values are matched to those
of its measured non-zeros; negative values become 0; measured non-zeros that became 0 come back.
Differences: a data set with fewer than 100 cells or genes takes all its singular values, the
last fifth of them as the tail; a single-valued spread is not rescaled.

Way back: expm1, rescaled to the cell's library size. ALRA's zeros are exact.
"""

import numpy as np
from contract import at_own_depth, main, per_cell
from scipy.stats import norm
from sklearn.utils.extmath import randomized_svd


def choose_k(values, seed):
    n = min(100, *values.shape)
    tail = 80 if n == 100 else int(0.8 * n)
    _, d, _ = randomized_svd(values, n, n_iter=2, random_state=seed)
    spacings = np.diff(d)  # at most 0
    noise = spacings[tail - 2 : n - 1]
    p = norm.cdf(spacings, noise.mean(), noise.std(ddof=1))
    significant = np.flatnonzero(p < 1e-10)
    return int(significant[-1]) + 1 if significant.size else 1


def nonzero_moments(values):
    """Return mean and standard deviation (n - 1) of each column's non-zeros; NaN without."""
    n = (values != 0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = values.sum(0) / n
        variance = ((values - mean) ** 2 * (values != 0)).sum(0) / (n - 1)
    return mean, np.sqrt(np.where(n > 1, variance, np.nan))


def complete(values, k, seed):
    """Return ALRA's completed matrix of log values (cells, genes)."""
    u, d, v = randomized_svd(values, k, n_iter=10, random_state=seed)
    low_rank = (u * d) @ v
    low_rank[low_rank <= abs(np.quantile(low_rank, 0.001, axis=0))] = 0
    (mean, sd), (measured_mean, measured_sd) = nonzero_moments(low_rank), nonzero_moments(values)
    scaled = np.isfinite(sd) & np.isfinite(measured_sd) & (sd > 0)
    factor = np.where(scaled, measured_sd / np.where(scaled, sd, 1.0), 1.0)
    shift = np.where(scaled, measured_mean - mean * factor, 0.0)
    found = np.maximum(np.where(low_rank == 0, 0.0, low_rank * factor + shift), 0.0)
    return np.where((values > 0) & (found == 0), values, found)


def estimate(counts, variant, seed):
    values = np.log1p(per_cell(counts, 1e4))
    return at_own_depth(np.expm1(complete(values, choose_k(values, seed), seed)), counts)


if __name__ == "__main__":
    main(estimate)
