"""PIDC: gene graphs from partial information decomposition and context.

Chan, Stumpf & Babtie (2017), doi:10.1016/j.cels.2017.08.014. Two genes are
joined when the information they share is *theirs*, not what either could
have had from some third gene:

1. expression of each gene is cut into bins, by Bayesian blocks (Scargle et al.
   2013) or of equal width; probabilities are bin frequencies (maximum
   likelihood), as in the authors' own program;
2. mutual information I(X; Y) of all pairs, in bits;
3. for every triplet, the redundancy of Y and Z about X (Williams & Beer 2010)
   is what both tell about the same states of X; the rest of I(X; Y) is
   unique to Y. The *proportional unique contribution* u_XY adds up the unique
   shares over all Z and both targets;
4. the confidence of an edge is F_X(u_XY) + F_Y(u_XY), F_X the distribution of
   gene X's own scores: the context.

Step 3 visits n^3 triplets in the original. Here the sum over Z of
min(a_Y, a_Z) comes from sorting: n^2 log n per bin, seconds for 2,000 genes.

Unlike the graphs in ``gene_graph`` this needs dense genes x genes matrices of
scores, since every score depends on all genes: see ``MAX_GENES``.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

from graphsci.gene_graph._edges import Edges, strongest, symmetric
from graphsci.gene_graph._inputs import cells_by_genes, check_gene_names, check_options
from graphsci.gene_graph.graph import GeneGraph

MAX_GENES = 5_000  #: five dense genes x genes float64 matrices: 1 GB at 5,000 genes
MAX_EQUAL_BINS = 10  #: more bins than this leave few cells per pair of bins
CHANGE_POINT_P = 0.05  #: chance of a false change point in Bayesian blocks
BIN_BLOCK = 256  #: bins (rows) per block of joint frequencies
CONFIDENT = 0.95  #: an edge is among the top 5 % of its genes' scores, on average
NEWTON_STEPS = 20  #: the shape of a gamma distribution converges in about 5

Discretization = Literal["bayesian_blocks", "equal_width"]


class PidcScores(NamedTuple):
    """Scores of all pairs of genes; (genes, genes), symmetric, zero diagonal."""

    mutual_information: NDArray[np.float64]  #: bits, not negative
    unique_contribution: NDArray[np.float64]  #: u: sum of 2 (genes - 2) shares in [0, 1]
    confidence: NDArray[np.float64]  #: c / 2, in [0, 1]: mean of the two percentiles


def pidc_graph(
    log_normalized: sparse.spmatrix | ArrayLike,
    *,
    gene_names: ArrayLike,
    threshold: float = CONFIDENT,
    top_k: int | None = None,
    discretization: Discretization = "bayesian_blocks",
    n_bins: int | None = None,
    max_genes: int = MAX_GENES,
) -> GeneGraph:
    """Join genes by PIDC.

    Parameters
    ----------
    log_normalized
        (cells, genes), sparse or dense; any continuous scale will do, since
        only the bins matter.
    gene_names
        (genes,), unique.
    threshold
        Edge where the confidence c / 2, in [0, 1], is above it.
    top_k
        Keep an edge only if it is among the ``top_k`` strongest of one of its
        genes.
    discretization
        ``"bayesian_blocks"`` chooses number and width of bins for each gene;
        ``"equal_width"`` cuts its range into ``n_bins``.
    n_bins
        For ``"equal_width"``; default sqrt(cells), at most 10.
    max_genes
        Refuse more genes than this.

    Returns
    -------
    GeneGraph
        Weights are c / 2: information has no sign.

    Raises
    ------
    ValueError
        For more than ``max_genes`` genes, fewer than three, fewer than three
        cells, NaN, or options out of range.

    Notes
    -----
    Cost at n genes, b bins each (Bayesian blocks find 3 to 10) and m cells:
    joint frequencies (n b)^2 m multiply-adds, redundancy b n^2 log n, Bayesian
    blocks up to n m^2; memory 5 n^2 float64.
    """
    check_options(threshold, top_k, None)
    values = cells_by_genes(log_normalized, "log_normalized")
    names = check_gene_names(gene_names, values.shape[1])
    scores = pidc_scores(values, discretization=discretization, n_bins=n_bins, max_genes=max_genes)
    row, column = np.nonzero(np.triu(scores.confidence > threshold, 1))
    edges = Edges(row, column, scores.confidence[row, column])
    if top_k is not None:
        edges = edges.where(strongest(edges, top_k))
    parameters = {
        "threshold": threshold,
        "top_k": top_k,
        "discretization": discretization,
        "n_bins": n_bins,
    }
    return GeneGraph(symmetric(edges, len(names)), names, "pidc", parameters)


def pidc_scores(
    log_normalized: sparse.spmatrix | ArrayLike,
    *,
    discretization: Discretization = "bayesian_blocks",
    n_bins: int | None = None,
    max_genes: int = MAX_GENES,
) -> PidcScores:
    """Score all pairs of genes; arguments and errors as in ``pidc_graph``."""
    values = cells_by_genes(log_normalized, "log_normalized")
    _check_size(values.shape[1], max_genes)
    bins = discretize(values, discretization=discretization, n_bins=n_bins)
    information, redundancy = _information_and_redundancy(bins)
    unique = _unique_contribution(information, redundancy)
    return PidcScores(information, unique, _confidence(unique))


# ----------------------------------------------------------------------------
# 1. Bins
# ----------------------------------------------------------------------------


def discretize(
    values: sparse.spmatrix | ArrayLike,
    *,
    discretization: Discretization = "bayesian_blocks",
    n_bins: int | None = None,
) -> NDArray[np.int32]:
    """Return the bin (0, 1, ...) of every entry, for each gene (column) its own bins.

    Empty bins are skipped in the numbering. Shape (cells, genes).
    """
    columns = sparse.csc_matrix(values)
    bins = np.zeros(columns.shape, dtype=np.int32)
    if discretization not in ("bayesian_blocks", "equal_width"):
        raise ValueError(
            f"discretization must be 'bayesian_blocks' or 'equal_width', got {discretization!r}."
        )
    if n_bins is None:
        n_bins = int(np.clip(round(np.sqrt(columns.shape[0])), 2, MAX_EQUAL_BINS))
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2, got {n_bins}.")
    for gene in range(columns.shape[1]):
        x = columns[:, [gene]].toarray().ravel().astype(np.float64)
        if discretization == "bayesian_blocks":
            edges = bayesian_blocks(x)
        else:
            edges = np.linspace(x.min(), x.max(), n_bins + 1)
        raw = np.searchsorted(edges[1:-1], x, side="right")
        bins[:, gene] = np.unique(raw, return_inverse=True)[1]
    return bins


def bayesian_blocks(x: ArrayLike) -> NDArray[np.float64]:
    r"""Return the edges of the optimal piecewise constant density of ``x``.

    Maximises over all segmentations, by dynamic programming,

    .. math:: \sum_k \left[ N_k \log (N_k / T_k) - \gamma \right], \quad
              \gamma = 4 - \log(73.53 \, p_0 \, N^{-0.478})

    with N_k values in a block of width T_k and N the distinct values up to the
    block's end (as in PIDC's own program; Scargle's eq. 21 has all of them).

    Source: Scargle et al. (2013), doi:10.1088/0004-637X/764/2/167, eq. 19.
    Cost: O(distinct values^2).
    """
    distinct, counts = np.unique(np.asarray(x, dtype=np.float64), return_counts=True)
    n = len(distinct)
    if n == 1:
        return np.repeat(distinct, 2)
    edges = np.concatenate([distinct[:1], (distinct[1:] + distinct[:-1]) / 2, distinct[-1:]])
    total = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    best = np.zeros(n + 1)  # best[k]: fitness of the first k values
    last = np.zeros(n, dtype=np.intp)  # start of the last block of the first k + 1
    for k in range(1, n + 1):
        number = total[k] - total[:k]
        penalty = 4 - np.log(73.53 * CHANGE_POINT_P * k**-0.478)
        fitness = number * (np.log(number) - np.log(edges[k] - edges[:k])) - penalty + best[:k]
        last[k - 1] = np.argmax(fitness)
        best[k] = fitness[last[k - 1]]
    starts = [n]
    while starts[-1] > 0:
        starts.append(int(last[starts[-1] - 1]))
    return edges[starts[::-1]]


# ----------------------------------------------------------------------------
# 2. and 3. Information
# ----------------------------------------------------------------------------


def _information_and_redundancy(
    bins: NDArray[np.int32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return I(X; Y) and R_XY = sum over Z of the redundancy of Y and Z about X.

    .. math::
        w_x(Y) &= \sum_y p(x, y) \log_2 \frac{p(x, y)}{p(x) p(y)} \ge 0
            \quad\text{(p(x) times the specific information)} \\
        I(X; Y) &= \sum_x w_x(Y), \qquad
        R_{XY} = \sum_{Z \ne X, Y} \sum_x \min(w_x(Y), w_x(Z))

    Rows of both results are targets X; (genes, genes), zero diagonal.
    """
    n_cells, n_genes = bins.shape
    first = np.concatenate([[0], np.cumsum(bins.max(axis=0) + 1)])  # first bin of each gene
    target = np.repeat(np.arange(n_genes), np.diff(first))  # gene of each bin
    member = _one_hot(bins, first)
    share = np.asarray(member.sum(axis=0)).ravel() / n_cells  # p of each bin
    information, redundancy = np.zeros((n_genes, n_genes)), np.zeros((n_genes, n_genes))
    for start in range(0, len(share), BIN_BLOCK):
        rows = slice(start, min(start + BIN_BLOCK, len(share)))
        joint = (member[:, rows].T @ member).toarray() / n_cells  # (block, bins)
        w = _specific_information(joint, share[rows], share, first)  # (block, genes)
        w[np.arange(len(w)), target[rows]] = 0  # a gene is no source about itself
        np.add.at(information, target[rows], w)
        np.add.at(redundancy, target[rows], _sum_of_minima(w) - w)  # without Z = Y
    np.fill_diagonal(redundancy, 0)
    return (information + information.T) / 2, np.maximum(redundancy, 0)


def _one_hot(bins: NDArray[np.int32], first: NDArray[np.int64]) -> sparse.csc_matrix:
    """Return the (cells, bins of all genes) indicator matrix."""
    n_cells, n_genes = bins.shape
    column = (bins + first[:-1]).ravel()
    pointers = np.arange(0, n_cells * n_genes + 1, n_genes)
    ones = np.ones(len(column))
    return sparse.csr_matrix((ones, column, pointers), shape=(n_cells, first[-1])).tocsc()


def _specific_information(
    joint: NDArray[np.floating],
    p_row: NDArray[np.float64],
    p_column: NDArray[np.float64],
    first: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return w (bins in the block, genes), in bits."""
    ratio = np.where(joint > 0, joint / (p_row[:, None] * p_column), 1)
    terms = joint * np.log2(ratio)
    return np.maximum(np.add.reduceat(terms, first[:-1], axis=1), 0)


def _sum_of_minima(w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum_Z min(w_Y, w_Z) for each entry Y of each row, by sorting.

    In increasing order, min is the other value for those before Y and Y's own
    for Y and those after.
    """
    order = np.argsort(w, axis=1)
    ordered = np.take_along_axis(w, order, axis=1)
    remaining = np.arange(w.shape[1], 0, -1)
    sums = np.cumsum(ordered, axis=1) - ordered + ordered * remaining
    result = np.empty_like(w)
    np.put_along_axis(result, order, sums, axis=1)
    return result


def _unique_contribution(
    information: NDArray[np.float64], redundancy: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""Return u_XY = sum_Z [(I - red(X; Y, Z)) + (I - red(Y; X, Z))] / I; 0 where I is."""
    others = len(information) - 2
    informed = information > 1e-12  # below it rounding errors divide rounding errors
    shared = (redundancy + redundancy.T) / np.where(informed, information, 1)
    unique = np.where(informed, np.clip(2 * others - shared, 0, 2 * others), 0)
    np.fill_diagonal(unique, 0)
    return unique


# ----------------------------------------------------------------------------
# 4. Context
# ----------------------------------------------------------------------------


def _confidence(unique: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (F_X(u) + F_Y(u)) / 2, F a gamma distribution fitted to each gene's scores.

    Genes without any score (constant ones) have confidence 0.
    """
    shape, scale = _fit_gamma(unique)
    percentile = special.gammainc(shape[:, None], unique / scale[:, None])
    confidence = (percentile + percentile.T) / 2
    confidence[unique == 0] = 0
    return confidence


def _fit_gamma(unique: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Fit a gamma distribution to the positive off-diagonal scores of each row.

    Maximum likelihood: the shape k solves log k - digamma(k) = log(mean) - mean(log),
    by Newton's method from Minka's approximation; scale = mean / k.
    """
    positive = unique > 0
    number = np.maximum(positive.sum(axis=1), 1)
    mean = np.maximum(unique.sum(axis=1) / number, np.finfo(float).tiny)
    mean_log = np.where(positive, np.log(np.where(positive, unique, 1)), 0).sum(axis=1) / number
    gap = np.maximum(np.log(mean) - mean_log, 1e-8)  # 0 if all scores are equal
    shape = (3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(NEWTON_STEPS):
        error = np.log(shape) - special.digamma(shape) - gap
        shape = np.maximum(shape - error / (1 / shape - special.polygamma(1, shape)), shape / 2)
    return shape, mean / shape


def _check_size(n_genes: int, max_genes: int) -> None:
    if n_genes < 3:
        raise ValueError(f"PIDC compares triplets: it needs at least 3 genes, got {n_genes}.")
    if n_genes > max_genes:
        memory = 5 * 8 * n_genes**2 / 2**30
        raise ValueError(
            f"PIDC needs dense genes x genes matrices: about {memory:.1f} GiB for {n_genes:,} "
            f"genes, and max_genes is {max_genes:,}. Choose the most variable genes, use "
            "correlation_graph, or raise max_genes."
        )
