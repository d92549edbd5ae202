"""scImpute (Li & Li 2018, doi:10.1038/s41467-018-03405-7): our implementation.

Written from the paper's description and what the authors' R program does:

1. ``log10(counts per million + 1.01)``; principal components of the variable genes, enough for
   40 % of the variance; a cell whose nearest neighbour is far (1.5 interquartile ranges) is an
   outlier and stays as it is; the others are put into 5 clusters by spectral clustering.
2. In each cluster every gene is a mixture of a Gamma (dropped or low) and a normal (expressed),
   fitted by EM; d is the probability of the Gamma part, 0 where the value is above the normal's
   mean. Genes whose normal part is not above one molecule per million stay as they are.
3. Values with d > 0.5 are replaced: the cell's other values are regressed, with no negative
   coefficient, on those of the cells of its cluster, at most 1,000 of the nearest, or two
   thirds of the number of values if that is fewer.

The number of clusters has to be given to the original; here it is 5 on every data set. The
scale of the spectral clustering's kernel is the median squared distance. Values are counts at
the cell's own depth, expected before dropout; nothing is rescaled.
"""

import numpy as np
from contract import library_sizes, main
from numba import njit
from scipy import sparse
from scipy.special import digamma, gammaln, polygamma
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances

POINT = np.log10(1.01)
N_CLUSTERS, DROPPED, MAX_NEIGHBOURS = 5, 0.5, 1000
EXPLAINED, MIN_VARIABLE_GENES, MAX_COMPONENTS = 0.4, 500, 200
MAX_SHAPE = 20.0


# --- which cells are alike --------------------------------------------------------------


def variable_genes(values):
    """Return values (cells, genes) of the variable genes; of all if there are few."""
    seen = values > POINT
    n = np.maximum(seen.sum(0), 1)
    mean = (values * seen).sum(0) / n
    sd = np.sqrt((((values - mean) * seen) ** 2).sum(0) / np.maximum(n - 1, 1))
    spread = np.divide(sd, mean, out=np.zeros_like(sd), where=mean > 0)
    chosen = (mean >= 1) & (spread >= np.quantile(spread, 0.25))
    return values[:, chosen] if chosen.sum() >= MIN_VARIABLE_GENES else values


def alike(values, seed):
    """Return each cell's cluster, -1 for outliers, and the distances between cells."""
    n_components = min(MAX_COMPONENTS, min(values.shape) - 1)
    pca = PCA(n_components, svd_solver="randomized", random_state=seed)
    points = pca.fit_transform(variable_genes(values))
    n = int(np.searchsorted(np.cumsum(pca.explained_variance_ratio_), EXPLAINED)) + 1
    points = points[:, : max(n, N_CLUSTERS, 3)]
    distances = pairwise_distances(points)
    nearest = np.where(np.eye(len(points), dtype=bool), np.inf, distances).min(1)
    low, high = np.quantile(nearest, [0.25, 0.75])
    usual = np.flatnonzero(nearest <= high + 1.5 * (high - low))
    squared = distances[np.ix_(usual, usual)] ** 2
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(len(usual), 1)]))
    model = SpectralClustering(N_CLUSTERS, affinity="precomputed", random_state=seed)
    clusters = np.full(len(points), -1)
    clusters[usual] = model.fit_predict(kernel)
    return clusters, distances


# --- which values were dropped ----------------------------------------------------------


def gamma_shape(v):
    """Return the shape a with ``log a - digamma(a) = v``, at most 20; 20 where v <= 0."""
    usable = v > 0
    v = np.where(usable, v, 1.0)
    shape = (3 - v + np.sqrt((v - 3) ** 2 + 24 * v)) / (12 * v)
    for _ in range(5):
        gap = np.log(shape) - digamma(shape) - v
        step = gap / (1 / shape - polygamma(1, shape))
        shape = np.clip(shape - step, shape / 2, shape * 2)
    return np.where(usable, np.minimum(shape, MAX_SHAPE), MAX_SHAPE)


class Mixture:
    """Gamma and normal parts of each gene: rate, shape, scale and the normal's mean and sd."""

    def __init__(self, rate, shape, inverse_scale, mean, sd):
        self.rate, self.shape, self.inverse_scale = rate, shape, inverse_scale
        self.mean, self.sd = mean, sd

    def log_parts(self, x, gene):
        """Return the log weighted densities of values x of the genes ``gene``."""
        a, b = self.shape[gene], self.inverse_scale[gene]
        first = a * np.log(b) - gammaln(a) + (a - 1) * np.log(x) - b * x
        sd = np.maximum(self.sd[gene], 1e-6)
        second = -0.5 * ((x - self.mean[gene]) / sd) ** 2 - np.log(sd) - 0.9189385332046727
        with np.errstate(divide="ignore"):
            return np.log(self.rate[gene]) + first, np.log1p(-self.rate[gene]) + second

    def dropped(self, x, gene):
        """Return the probability of the Gamma part."""
        first, second = self.log_parts(x, gene)
        return 1 / (1 + np.exp(np.clip(second - first, -700, 700)))

    def log_density(self, x, gene):
        """Return the log density."""
        return np.logaddexp(*self.log_parts(x, gene))


def fit_mixtures(values):
    """Fit all genes (cells, genes) at once; entries at the floor share one term per gene."""
    n_cells, n_genes = values.shape
    above = sparse.csc_matrix(np.where(values > POINT, values, 0))
    gene = np.concatenate(
        [np.repeat(np.arange(n_genes), np.diff(above.indptr)), np.arange(n_genes)]
    )
    x = np.concatenate([above.data, np.full(n_genes, POINT)])
    n = np.concatenate([np.ones(above.nnz), n_cells - np.diff(above.indptr)])

    def total(v):
        return np.bincount(gene, v, n_genes)

    seen = np.maximum(total(n * (x > POINT)), 1)
    mean = total(n * x * (x > POINT)) / seen
    sd = np.sqrt(total(n * (x - mean[gene]) ** 2 * (x > POINT)) / np.maximum(seen - 1, 1))
    rate = np.maximum(total(n * (x <= POINT)) / n_cells, 0.01)
    ones = np.ones(n_genes)
    found = Mixture(np.minimum(rate, 1 - 1e-9), 0.5 * ones, ones, mean, sd)
    before = np.zeros(n_genes)
    moving = np.ones(n_genes, dtype=bool)
    for _ in range(100):
        wt = n * found.dropped(x, gene)
        rest = n - wt
        s, t, u = total(wt), total(wt * x), total(wt * np.log(x))
        normal = np.maximum(total(rest), 1e-12)
        mean = total(rest * x) / normal
        sd = np.sqrt(total(rest * (x - mean[gene]) ** 2) / normal)
        s = np.maximum(s, 1e-12)
        shape = gamma_shape(-u / s - np.log(s / np.maximum(t, 1e-12)))
        new = Mixture(np.clip(s / n_cells, 1e-9, 1 - 1e-9), shape, s / t * shape, mean, sd)
        for name, values_ in vars(new).items():
            setattr(found, name, np.where(moving, values_, getattr(found, name)))
        likelihood = total(n * found.log_density(x, gene)) / np.log(10)
        moving &= (likelihood - before) ** 2 > 0.5
        before = likelihood
        if not moving.any():
            break
    return found


def usable_genes(values, mixture):
    """Return the genes with an expressed part that can be told from the dropped one."""
    genes = np.arange(values.shape[1])
    first, second = Mixture(
        np.full(len(genes), 0.5), mixture.shape, mixture.inverse_scale, mixture.mean, mixture.sd
    ).log_parts(mixture.mean + 1, genes)
    low = (mixture.mean <= np.log10(2.01)) | ((first >= second) & (mixture.mean <= 1))
    return np.flatnonzero((values.max(0) > POINT) & ~low)


# --- the regression ---------------------------------------------------------------------


@njit(cache=True)
def non_negative_least_squares(gram, target):
    """Return b >= 0 that minimises ``b' gram b / 2 - target' b``, by coordinate descent."""
    b = np.zeros(target.size)
    slope = target.copy()  # target - gram b
    for _ in range(300):
        largest = 0.0
        for j in range(b.size):
            if gram[j, j] <= 0:
                continue
            found = max(b[j] + slope[j] / gram[j, j], 0.0)
            change = found - b[j]
            if change != 0.0:
                b[j] = found
                slope -= change * gram[j]
                largest = max(largest, abs(change))
        if largest < 1e-5:
            break
    return b


def impute_cell(cell, values, dropped, distances):
    """Return a cell's values (genes,), the dropped ones predicted from the cluster's cells."""
    out = values[cell].copy()
    if not dropped.any() or dropped.all():
        return out
    others = np.flatnonzero(np.arange(len(values)) != cell)
    kept = ~dropped
    if len(others) >= min(MAX_NEIGHBOURS, kept.sum()):
        n = MAX_NEIGHBOURS if kept.sum() > MAX_NEIGHBOURS else round(2 * kept.sum() / 3)
        others = others[np.argsort(distances[others], kind="stable")[:n]]
    known = values[np.ix_(others, np.flatnonzero(kept))]
    gram = (known @ known.T).astype(np.float64)
    b = non_negative_least_squares(gram, (known @ values[cell, kept]).astype(np.float64))
    out[dropped] = b @ values[np.ix_(others, np.flatnonzero(dropped))]
    return out


def impute(values, seed):
    """Return log values (cells, genes) with the dropped ones replaced."""
    out = values.copy()
    clusters, distances = alike(values, seed)
    for cluster in range(N_CLUSTERS):
        cells = np.flatnonzero(clusters == cluster)
        if len(cells) <= 1:
            continue
        mixture = fit_mixtures(values[cells])
        genes = usable_genes(values[cells], mixture)
        if len(genes) <= 10:
            continue
        inside = values[np.ix_(cells, genes)]
        probability = mixture.dropped(inside, np.broadcast_to(genes, inside.shape))
        dropped = (probability > DROPPED) & (inside <= mixture.mean[genes])
        near = distances[np.ix_(cells, cells)]
        single = inside.astype(np.float32)
        found = [impute_cell(i, single, dropped[i], near[i]) for i in range(len(cells))]
        out[np.ix_(cells, genes)] = np.where(dropped, np.stack(found), inside)
    return np.maximum(out, POINT)


def estimate(counts, variant, seed):
    per_million = 1e6 / library_sizes(counts)
    values = np.log10(counts.toarray() * per_million + 1.01)
    return np.maximum(10.0 ** impute(values, seed) - 1.01, 0) / per_million


if __name__ == "__main__":
    main(estimate)
