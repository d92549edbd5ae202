"""Edges of a gene network against those of a known one."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from graphsci.predictions import Matrix


class EdgeScores(NamedTuple):
    """How well predicted edges agree with a known network."""

    precision: float  #: known among predicted; 0 if none is predicted
    recall: float  #: predicted among known
    auprc: float  #: area under the precision-recall curve of the edge weights
    auprc_by_chance: float  #: the share of gene pairs that are known: what a coin scores
    n_predicted: int
    n_known: int


def edge_scores(
    *, weights: Matrix, known: Matrix, universe: NDArray[np.bool_] | None = None
) -> EdgeScores:
    """Compare a weighted gene network with a known one, pair by pair.

    A pair counts once, the diagonal never. Pairs without a weight share the lowest place.

    Parameters
    ----------
    weights
        (genes, genes), symmetric, at least 0; zero or absent means no edge.
    known
        (genes, genes), symmetric; non-zero means a known edge, whatever its sign.
    universe
        Genes (genes,) that the known network could have spoken about; by default those with at
        least one known edge, for a gene that no one studied is not known to lack edges.

    Raises
    ------
    ValueError
        If shapes differ, a matrix is not symmetric, a weight is negative, or no pair or no known
        edge is left.

    References
    ----------
    Saito & Rehmsmeier 2015, doi:10.1371/journal.pone.0118432.
    """
    predicted, true = _checked_graphs(weights, known)
    keep = np.diff(true.indptr) > 0 if universe is None else np.asarray(universe)
    predicted, true = (_upper_pairs(graph[keep][:, keep]) for graph in (predicted, true))
    n_genes, n_known = predicted.shape[0], true.nnz
    if not n_known:
        raise ValueError(
            f"no known edge joins any of the {n_genes} genes, expected at least one; "
            "check that both networks name their genes alike."
        )
    is_known = np.isin(_pair_numbers(predicted), _pair_numbers(true), assume_unique=True)
    chance = n_known / (n_genes * (n_genes - 1) / 2)
    return EdgeScores(
        precision=float(is_known.mean()) if is_known.size else 0.0,
        recall=float(is_known.sum() / n_known),
        auprc=_average_precision(predicted.data, is_known, n_known=n_known, chance=chance),
        auprc_by_chance=chance,
        n_predicted=is_known.size,
        n_known=n_known,
    )


def _checked_graphs(weights: Matrix, known: Matrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return both networks as CSR without a diagonal, or refuse them."""
    graphs = [sp.csr_matrix(graph, dtype=np.float64, copy=True) for graph in (weights, known)]
    for graph in graphs:
        graph.sum_duplicates()
        rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
        graph.data[graph.indices == rows] = 0
        graph.eliminate_zeros()
    n_genes = graphs[0].shape[0]
    for name, graph in zip(("weights", "known"), graphs, strict=True):
        if graph.shape != (n_genes, n_genes) or abs(graph - graph.T).max() > 1e-8:
            raise ValueError(
                f"{name} has shape {graph.shape}, expected a symmetric ({n_genes}, {n_genes}) "
                "matrix in the same gene order; symmetrise it with (A + A.T) / 2."
            )
    if graphs[0].nnz and graphs[0].data.min() < 0:
        raise ValueError(
            f"the smallest weight is {graphs[0].data.min()}, expected none below 0; "
            "pass absolute correlations."
        )
    return graphs[0], graphs[1]


def _upper_pairs(graph: sp.csr_matrix) -> sp.csr_matrix:
    """Return the strict upper triangle, one stored positive value per pair, rows sorted."""
    upper = sp.csr_matrix(sp.triu(graph, k=1))
    upper.eliminate_zeros()
    upper.sort_indices()
    return upper


def _pair_numbers(upper: sp.csr_matrix) -> NDArray[np.int64]:
    """Return one number per stored pair, in the order of the stored values."""
    rows = np.repeat(np.arange(upper.shape[0], dtype=np.int64), np.diff(upper.indptr))
    return rows * upper.shape[0] + upper.indices


def _average_precision(
    weights: NDArray[np.float64], is_known: NDArray[np.bool_], *, n_known: int, chance: float
) -> float:
    """Return ``sum (R_n - R_n-1) P_n`` over the weights' thresholds, from the edges alone.

    Pairs without an edge tie in last place, where recall is 1 and precision is chance.
    """
    order = np.argsort(-weights, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(weights[order]) != 0, True)[: order.size])
    hits = np.cumsum(is_known[order])[last_of_tie]
    precision = hits / (last_of_tie + 1)
    gains = np.diff(hits, prepend=0) / n_known
    found = float(hits[-1]) / n_known if hits.size else 0.0
    return float((gains * precision).sum() + (1.0 - found) * chance)
