"""Networks against a known one: precision, recall, AUPRC, early precision, odds ratio."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci.edge_scores import edge_scores
from graphsci.gene_graph.graph import GeneGraph
from graphsci.network._arrays import Indices, lookup


def compare_networks(
    networks: Mapping[str, sparse.spmatrix | GeneGraph],
    known: GeneGraph,
    *,
    n_edges: int | None = None,
    threshold: float = 0.5,
) -> pd.DataFrame:
    r"""Compare ranked networks with a known one, all at the same number of edges.

    Pairs of genes that the known network mentions count, each once.

    Parameters
    ----------
    networks
        Name to (genes, genes) symmetric weights over ``known.gene_names``, or a graph over these
        genes; ranked by size.
    known
        The known network.
    n_edges
        Strongest edges taken of each network; default those of the smallest that has any between
        genes that the known network mentions.
    threshold
        Edges of at least this size count for ``precision_above``, the paper's measure: it says
        something of weights that are correlations or probabilities.

    Returns
    -------
    pandas.DataFrame
        By name: ``n_edges`` (taken), ``precision``, ``recall`` (of these), ``auprc`` (of all),
        ``early_precision`` (of as many edges as are known: BEELINE), ``chance`` (share of
        pairs that are known), ``n_above`` and ``precision_above`` (edges above the threshold, and
        the share of them that is known; NaN of none), ``odds_ratio``: against the hits expected
        of a network that joins genes by their known degrees k alone,

        .. math:: E = \sum_{\text{edges}} \min(1, k_i k_j / 2m)

        so that a preference for well-studied genes earns nothing.

    Raises
    ------
    ValueError
        If there is no network, one has no edge or weights that are not finite, a shape or the
        genes differ, or ``n_edges`` is below 1.

    References
    ----------
    Pratapa et al. 2020 (BEELINE), doi:10.1038/s41592-019-0690-6.
    """
    if not networks:
        raise ValueError("networks: got none, expected at least one.")
    if not known.n_edges:
        raise ValueError("known: got a network without edges, expected at least one.")
    if n_edges is not None and (not isinstance(n_edges, int | np.integer) or n_edges < 1):
        raise ValueError(f"n_edges: got {n_edges}, expected a whole number, 1 or more, or None.")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: got {threshold}, expected a number.")
    weights = {name: _weights(name, network, known) for name, network in networks.items()}
    degree = np.diff(known.adjacency.indptr)
    spoken = np.flatnonzero(degree)
    truth, degree = known.adjacency[spoken][:, spoken], degree[spoken]
    ranked = {name: _ranked_pairs(matrix[spoken][:, spoken]) for name, matrix in weights.items()}
    if n_edges is None:
        n_edges = min((len(size) for *_, size in ranked.values() if len(size)), default=0)
    chance = truth.nnz / (len(spoken) * (len(spoken) - 1))
    rows = {}
    for name, (first, second, size) in ranked.items():
        hit = lookup(truth, first, second, absent=0.0) != 0
        taken, n_known = hit[:n_edges], truth.nnz // 2
        expected = np.minimum(degree[first] * degree[second] / truth.nnz, 1)[:n_edges].sum()
        above = hit[size >= threshold]
        rows[name] = {
            "n_edges": len(taken),
            "precision": taken.mean() if len(taken) else 0.0,
            "recall": taken.sum() / n_known,
            "auprc": edge_scores(weights=abs(weights[name]), known=known.adjacency).auprc,
            "early_precision": hit[:n_known].mean() if len(hit) else 0.0,
            "odds_ratio": _odds_ratio(float(taken.sum()), float(expected), len(taken)),
            "chance": chance,
            "n_above": len(above),
            "precision_above": above.mean() if len(above) else np.nan,
        }
    return pd.DataFrame(rows).T.astype({"n_edges": int, "n_above": int})


def _weights(
    name: str, network: sparse.spmatrix | GeneGraph, known: GeneGraph
) -> sparse.csr_matrix:
    """Return the weights of a network over the genes of the known one, checked."""
    if isinstance(network, GeneGraph):
        if not np.array_equal(network.gene_names, known.gene_names):
            raise ValueError(
                f"network {name!r} has other genes than the known one, or another order of them. "
                "Build both over the same genes."
            )
        network = network.adjacency
    n_genes = known.n_genes
    if network.shape != (n_genes, n_genes):
        raise ValueError(
            f"network {name!r} has shape {network.shape}, expected ({n_genes}, {n_genes}): the "
            "genes of the known network."
        )
    weights = sparse.csr_matrix(network, dtype=np.float64)
    if not np.isfinite(weights.data).all():
        raise ValueError(f"network {name!r} has weights that are not finite; set them to 0.")
    if not sparse.triu(weights, k=1).data.any():
        raise ValueError(f"network {name!r} has no edge; leave it out.")
    return weights


def _ranked_pairs(
    weights: sparse.csr_matrix,
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Pairs of genes with a weight and its size, strongest first."""
    upper = sparse.triu(weights, k=1, format="coo")
    size = np.abs(upper.data)
    order = np.argsort(-size, kind="stable")[: np.count_nonzero(size)]
    return (*(ends[order].astype(np.int64) for ends in (upper.row, upper.col)), size[order])


def _odds_ratio(hits: float, expected: float, n: int) -> float:
    """Odds of a hit against the odds expected; half a hit is added to avoid 0 / 0."""
    return ((hits + 0.5) / (n - hits + 0.5)) / ((expected + 0.5) / (n - expected + 0.5))
