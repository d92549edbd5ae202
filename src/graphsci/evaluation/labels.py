"""Agreement of a clustering with known labels (eqs. 23-25)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.metrics.cluster import contingency_matrix

from graphsci.predictions import Floats

Labels = ArrayLike | Sequence[str]


def adjusted_rand_index(*, labels: Labels, clusters: Labels) -> float:
    """Return the adjusted Rand index (eq. 23): 1 for the same partition, 0 expected by chance.

    Parameters
    ----------
    labels, clusters
        One per cell (cells,), of any hashable kind; names carry no meaning.

    Raises
    ------
    ValueError
        If the two differ in length or are empty.

    References
    ----------
    Hubert & Arabie 1985, doi:10.1007/BF01908075.
    """
    return float(adjusted_rand_score(*_checked(labels, clusters)))


def clustering_accuracy(*, labels: Labels, clusters: Labels) -> float:
    """Return the share of cells that are right under the best one-to-one naming (eq. 24).

    ``max_m sum_i [s_i = m(r_i)] / n`` over one-to-one mappings m of clusters to labels, found by
    the Hungarian algorithm; a cluster too many maps to nothing. Parameters and errors as
    :func:`adjusted_rand_index`. With two equal groups the best mapping is never below 1/2.
    """
    table = contingency_matrix(*_checked(labels, clusters))
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def normalized_mutual_information(*, labels: Labels, clusters: Labels) -> float:
    """Return mutual information / mean of the two entropies, between 0 and 1.

    Parameters and errors as :func:`adjusted_rand_index`. Source: Strehl & Ghosh 2002, JMLR 3.
    """
    return float(normalized_mutual_info_score(*_checked(labels, clusters)))


def silhouette(*, points: Floats, labels: Labels) -> float:
    """Return the mean of ``(b - a) / max(a, b)`` over cells (eq. 25), between -1 and 1.

    ``a`` is a cell's mean distance to its own group and ``b`` its mean distance to the nearest
    other one (Euclidean; 0 in a group of one). The paper's sentence says "minimum distance of
    sample i to all points in any other cluster"; this is the definition of the work it cites.

    Parameters
    ----------
    points
        (cells, dimensions).
    labels
        (cells,), two groups or more, fewer groups than cells.

    Raises
    ------
    ValueError
        If lengths differ, or there is one group, or as many groups as cells.

    References
    ----------
    Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    groups, _ = _checked(labels, np.arange(len(points)))
    n_groups = len(np.unique(groups))
    if not 1 < n_groups < len(groups):
        raise ValueError(
            f"got {n_groups} groups of {len(groups)} cells, expected at least two groups and "
            "fewer groups than cells; a silhouette compares within with between."
        )
    return float(silhouette_score(np.asarray(points), groups))


def expected_ari_of_two_equal_groups(*, accuracy: float) -> float:
    """Return the ARI that two large, equal groups must have at a clustering accuracy.

    ``(2 CA - 1)^2``, exact in the limit of many cells if errors fall alike on both groups, and
    less if they do not: what shows that a printed (ARI, CA) pair cannot come from one division
    into two clusters. For means over runs see :func:`largest_mean_ari_of_two_equal_groups`.
    """
    return (2.0 * accuracy - 1.0) ** 2


def largest_mean_ari_of_two_equal_groups(*, accuracy: float) -> float:
    """Return the largest mean ARI over runs that a mean clustering accuracy allows.

    ``2 CA - 1``, for two large, equal groups and two clusters: each run's ARI is at most
    ``(2 CA - 1)^2``, which is convex, so a mean is largest when each run is all right (CA = ARI
    = 1) or all wrong (CA = 1/2, ARI = 0).
    """
    return 2.0 * accuracy - 1.0


def _checked(labels: Labels, clusters: Labels) -> tuple[NDArray, NDArray]:
    """Return both as arrays of one length, or refuse them."""
    first, second = np.asarray(labels), np.asarray(clusters)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(
            f"labels have shape {first.shape} and clusters {second.shape}, expected one of each "
            "per cell; align the cells first."
        )
    return first, second
