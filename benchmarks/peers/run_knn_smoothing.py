"""kNN-smoothing 2 (Wagner et al. 2018, doi:10.1101/217737): our implementation.

Steps t = 1, 2, ... with k_t = min(2^t - 1, k) neighbours: the matrix smoothed so far is scaled
to its median library size, Freeman-Tukey transformed (sqrt(x) + sqrt(x + 1)) and projected on 10
principal components; a dither of 3 % of each component's range is added; every cell becomes the
sum of the *raw* counts of itself and its k_t nearest cells. k = 15 unless the variant says so.

Way back: sums of k + 1 cells are rescaled to the cell's own library size.
"""

import numpy as np
from contract import at_own_depth, library_sizes, main
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances

N_COMPONENTS, DITHER = 10, 0.03


def smooth(counts, k, seed):
    rng = np.random.default_rng(seed)
    smoothed = counts
    for step in range(1, int(np.ceil(np.log2(k + 1))) + 1):
        n_neighbours = min(2**step - 1, k, counts.shape[0] - 1)
        points = components(smoothed, seed)
        points += (rng.random(points.shape) - 0.5) * np.ptp(points, axis=0) * DITHER
        nearest = np.argsort(pairwise_distances(points), axis=1, kind="stable")
        nearest = nearest[:, : n_neighbours + 1]
        pointers = np.arange(len(nearest) + 1) * nearest.shape[1]
        sums = sparse.csr_matrix((np.ones(nearest.size), nearest.ravel(), pointers))
        smoothed = sparse.csr_matrix(sums @ counts)
    return smoothed


def components(smoothed, seed):
    library = library_sizes(smoothed)
    x = smoothed.toarray() * (np.median(library) / library)
    transformed = np.sqrt(x) + np.sqrt(x + 1)
    n = min(N_COMPONENTS, min(x.shape) - 1)
    return PCA(n, svd_solver="randomized", random_state=seed).fit_transform(transformed)


def estimate(counts, variant, seed):
    counts = sparse.csr_matrix(counts, dtype=np.float64)
    return at_own_depth(smooth(counts, int(variant or 15), seed).toarray(), counts)


if __name__ == "__main__":
    main(estimate)
