"""Networks against a known one: precision, recall, AUPRC, early precision, odds ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci.edge_scores import edge_scores
from graphsci.gene_graph import GeneGraph
from graphsci.network._arrays import Indices, lookup


def compare_networks(
    networks: Mapping[str, sparse.spmatrix],
    known: GeneGraph,
    *,
    n_edges: int | None = None,
) -> pd.DataFrame:
    r"""Compare ranked networks with a known one, all at the same number of edges.

    Pairs of genes that the known network mentions count, each once.

    Parameters
    ----------
    networks
        Name to (genes, genes) symmetric weights over ``known.gene_names``; ranked by size.
    known
        The known network.
    n_edges
        Strongest edges taken of each network; default those of the smallest.

    Returns
    -------
    pandas.DataFrame
        By name: ``n_edges`` (taken), ``precision``, ``recall`` (of these), ``auprc`` (of all),
        ``early_precision`` (of as many edges as are known: BEELINE), ``chance`` (share of
        pairs that are known), ``odds_ratio``: against the hits expected of a network that
        joins genes by their known degrees k alone,

        .. math:: E = \sum_{\text{edges}} \min(1, k_i k_j / 2m)

        so that a preference for well-studied genes earns nothing.

    Raises
    ------
    ValueError
        If there is no network, or a shape differs.

    References
    ----------
    Pratapa et al. 2020 (BEELINE), doi:10.1038/s41592-019-0690-6.
    """
    if not networks:
        raise ValueError("networks: got none, expected at least one.")
    if not known.n_edges:
        raise ValueError("known: got a network without edges, expected at least one.")
    degree = np.diff(known.adjacency.indptr)
    spoken = np.flatnonzero(degree)
    truth, degree = known.adjacency[spoken][:, spoken], degree[spoken]
    ranked = {
        name: _ranked_pairs(name, matrix, known.n_genes, spoken)
        for name, matrix in networks.items()
    }
    if n_edges is None:
        n_edges = min(len(pairs[0]) for pairs in ranked.values())
    chance = truth.nnz / (len(spoken) * (len(spoken) - 1))
    rows = {}
    for name, (first, second) in ranked.items():
        hit = lookup(truth, first, second, absent=0.0) != 0
        taken, n_known = hit[:n_edges], truth.nnz // 2
        expected = np.minimum(degree[first] * degree[second] / truth.nnz, 1)[:n_edges].sum()
        weights = abs(sparse.csr_matrix(networks[name], dtype=np.float64))
        rows[name] = {
            "n_edges": len(taken),
            "precision": taken.mean() if len(taken) else 0.0,
            "recall": taken.sum() / n_known,
            "auprc": edge_scores(weights=weights, known=known.adjacency).auprc,
            "early_precision": hit[:n_known].mean() if len(hit) else 0.0,
            "odds_ratio": _odds_ratio(float(taken.sum()), float(expected), len(taken)),
            "chance": chance,
        }
    return pd.DataFrame(rows).T.astype({"n_edges": int})


def _ranked_pairs(
    name: str, matrix: sparse.spmatrix, n_genes: int, spoken: NDArray[Any]
) -> tuple[Indices, Indices]:
    """Pairs of the spoken-of genes with a weight, strongest first."""
    if matrix.shape != (n_genes, n_genes):
        raise ValueError(
            f"network {name!r} has shape {matrix.shape}, expected ({n_genes}, {n_genes}): the "
            "genes of the known network."
        )
    part = sparse.csr_matrix(matrix)[spoken][:, spoken]
    upper = sparse.triu(part, k=1, format="coo")
    strong = upper.data != 0
    order = np.argsort(-np.abs(upper.data[strong]), kind="stable")
    rows, columns = upper.row[strong][order], upper.col[strong][order]
    return rows.astype(np.int64), columns.astype(np.int64)


def _odds_ratio(hits: float, expected: float, n: int) -> float:
    """Odds of a hit against the odds expected; half a hit is added to avoid 0 / 0."""
    return ((hits + 0.5) / (n - hits + 0.5)) / ((expected + 0.5) / (n - expected + 0.5))
