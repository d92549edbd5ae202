"""Gene graphs: who is connected to whom. What one is, made from edges or a matrix, combined."""

from collections.abc import Sequence
from textwrap import shorten
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from graphsci.gene_graph._edges import Edges, canonical, symmetric
from graphsci.gene_graph._inputs import (
    check_gene_names,
    check_symmetric,
    edge_columns,
    examples,
    no_overlap_message,
    refuse_non_finite,
)


class GeneGraph(NamedTuple):
    """An undirected, weighted graph over genes.

    ``adjacency`` is symmetric with an empty diagonal. Its values are edge
    weights; correlations keep their sign. ``notes`` says what was done to the
    input on the way (duplicates merged, unknown genes left out, ...).
    """

    adjacency: sparse.csr_matrix  #: (genes, genes) float32
    gene_names: NDArray[np.str_]  #: (genes,)
    source: str  #: e.g. ``"pearson"``
    parameters: dict[str, Any]  #: plain values: enough to repeat the construction
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        values = self.adjacency.data
        weights = f"weights {values.min():.3g} to {values.max():.3g}" if len(values) else "no edge"
        return (
            f"GeneGraph: {self.n_edges:,} edges among {self.n_genes:,} genes, "
            f"source {self.source!r}\n{weights}; {shorten(given, 80, placeholder=' ...')}"
        ).removesuffix("; ")

    @property
    def n_genes(self) -> int:
        """Number of genes (nodes), isolated ones included."""
        return self.adjacency.shape[0]

    @property
    def n_edges(self) -> int:
        """Number of edges, each counted once."""
        return self.adjacency.nnz // 2

    def mask(self) -> sparse.csr_matrix:
        """Return the 0/1 adjacency (genes, genes), float32: A of eq. 2."""
        ones = np.ones_like(self.adjacency.data)
        return sparse.csr_matrix(
            (ones, self.adjacency.indices, self.adjacency.indptr), shape=self.adjacency.shape
        )

    def edge_table(self) -> pd.DataFrame:
        """Return columns ``gene_a``, ``gene_b``, ``weight``; each edge once, gene order kept."""
        upper = sparse.triu(self.adjacency, k=1, format="coo")
        return pd.DataFrame(
            {
                "gene_a": self.gene_names[upper.row],
                "gene_b": self.gene_names[upper.col],
                "weight": upper.data,
            }
        )


def graph_from_edges(
    edges: pd.DataFrame | ArrayLike,
    *,
    gene_names: ArrayLike,
    weights: ArrayLike | None = None,
    source: str = "prior",
    parameters: dict[str, Any] | None = None,
) -> GeneGraph:
    """Build a graph from pairs of gene names.

    Parameters
    ----------
    edges
        A DataFrame with ``gene_a``, ``gene_b`` and optionally ``weight`` and
        ``sign`` (as ``prior_knowledge.read_network`` returns), or (edges, 2) names.
    gene_names
        (genes,), unique: the genes of the data, in the data's order.
    weights
        (edges,), finite; overrides the column. Default 1. Zero means no edge.
    source, parameters
        Recorded in the result.

    Returns
    -------
    GeneGraph
        Self-loops dropped, duplicated and mirrored edges merged (the weight
        largest in absolute value stays), edges to genes outside the data left
        out; ``notes`` counts each of these.

    Raises
    ------
    ValueError
        If no edge joins two genes of the data, a weight is not finite, or the
        lengths disagree.
    """
    names = check_gene_names(gene_names)
    gene_a, gene_b, weight = edge_columns(edges, weights)
    index = pd.Index(names)
    row = index.get_indexer(pd.Index(gene_a))
    column = index.get_indexer(pd.Index(gene_b))
    known = (row >= 0) & (column >= 0)
    unknown = pd.unique(np.concatenate([gene_a[row < 0], gene_b[column < 0]]))
    if not known.any():
        raise ValueError(no_overlap_message(len(gene_a), unknown, names))
    notes: list[str] = []
    if not known.all():
        notes.append(
            f"{np.sum(~known)} of {len(known)} edges name genes that are not in the data and were "
            f"left out ({len(unknown)} such genes, e.g. {examples(unknown)})"
        )
    kept = Edges(row[known], column[known], weight[known])
    adjacency = _merge(kept, len(names), notes, listed=True)
    return GeneGraph(adjacency, names, source, dict(parameters or {}), tuple(notes))


def graph_from_matrix(
    matrix: sparse.spmatrix | ArrayLike,
    *,
    gene_names: ArrayLike,
    source: str = "prior",
    parameters: dict[str, Any] | None = None,
) -> GeneGraph:
    """Build a graph from a (genes, genes) matrix of edge weights.

    Parameters
    ----------
    matrix
        (genes, genes), sparse or dense; zero means no edge. May be one-sided.
    gene_names
        (genes,), unique: names of rows and columns.
    source, parameters
        Recorded in the result.

    Returns
    -------
    GeneGraph
        Diagonal dropped, one-directional edges made symmetric (the weight
        larger in absolute value of the two directions stays); see ``notes``.

    Raises
    ------
    ValueError
        If the matrix is not square, does not fit ``gene_names``, holds NaN or
        infinite weights, or holds no edge between two different genes.
    """
    names = check_gene_names(gene_names)
    coo = sparse.coo_matrix(matrix)
    if coo.shape != (len(names), len(names)):
        raise ValueError(
            f"The network is a {coo.shape[0]} x {coo.shape[1]} matrix; expected "
            f"{len(names)} x {len(names)}, one row and one column for each of gene_names. "
            "Pass the matrix of all genes, or an edge list to graph_from_edges."
        )
    refuse_non_finite(coo.data, "weights in the network")
    coo.sum_duplicates()
    notes: list[str] = []
    _note(
        notes,
        _count_asymmetric(coo),
        "edges differed between their two directions, or had "
        "only one, and were made symmetric (the stronger weight stays)",
    )
    edges = Edges(coo.row, coo.col, np.asarray(coo.data, dtype=np.float64))
    adjacency = _merge(edges, len(names), notes, listed=False)
    return GeneGraph(adjacency, names, source, dict(parameters or {}), tuple(notes))


def relative_to_strongest(graph: GeneGraph) -> GeneGraph:
    """The graph with weights as shares of its strongest: scores of 1000 and correlations alike."""
    strongest = abs(graph.adjacency).max() if graph.n_edges else 1.0
    shares = sparse.csr_matrix(graph.adjacency / max(strongest, 1e-12))
    return graph._replace(adjacency=shares)


def combine_graphs(
    graphs: Sequence[GeneGraph],
    *,
    weights: Sequence[float] | None = None,
    how: Literal["union", "intersection"] = "union",
) -> GeneGraph:
    r"""Combine graphs over the same genes.

    .. math:: |A_{ij}| = \sum_g w_g |A^{(g)}_{ij}| / \sum_g w_g

    An absent edge counts as 0. The sign is that of the weighted sum over the
    graphs that know signs (have a negative weight); a prior of positive
    weights never cancels a negative correlation.

    Parameters
    ----------
    graphs
        One or more, with identical gene names in the same order.
    weights
        One positive number per graph; default all 1.
    how
        ``"union"``: edges of any graph; ``"intersection"``: of every graph.

    Returns
    -------
    GeneGraph

    Raises
    ------
    ValueError
        If the genes differ, or weights are not positive or of wrong number.
    """
    shares = _check_combination(graphs, weights, how)
    size = graphs[0].adjacency.shape
    magnitude, signed = sparse.csr_matrix(size), sparse.csr_matrix(size)
    votes = sparse.csr_matrix(size)
    for graph, share in zip(graphs, shares, strict=True):
        magnitude = magnitude + share * abs(graph.adjacency)
        votes = votes + graph.mask()
        if graph.n_edges and graph.adjacency.data.min() < 0:
            signed = signed + share * graph.adjacency
    if how == "intersection":
        magnitude = magnitude.multiply(votes == len(graphs))
    combined = magnitude - 2 * magnitude.multiply(signed < 0)
    parameters = {
        "how": how,
        "weights": [float(share) for share in shares],
        "sources": [graph.source for graph in graphs],
    }
    return GeneGraph(
        canonical(combined),
        graphs[0].gene_names,
        "+".join(graph.source for graph in graphs),
        parameters,
        tuple(f"{graph.source}: {note}" for graph in graphs for note in graph.notes),
    )


def normalized_adjacency(
    adjacency: sparse.spmatrix, *, weighted: bool = False
) -> sparse.csr_matrix:
    r"""Return the graph convolution's propagation matrix (eqs. 3-4).

    .. math:: \tilde A = D^{-1/2} (A + I) D^{-1/2}, \quad D_{ii} = \sum_j (A + I)_{ij}

    Parameters
    ----------
    adjacency
        (genes, genes), symmetric, sparse. A diagonal, if any, is ignored.
    weighted
        False: A is 0/1, as in the paper. True: A is the absolute edge weight.

    Returns
    -------
    scipy.sparse.csr_matrix
        (genes, genes) float32, symmetric, eigenvalues in [-1, 1]. A gene
        without edges has 1 on the diagonal: it hears only itself.

    Raises
    ------
    ValueError
        If the adjacency is not square, not finite or not symmetric.

    Source: Kipf & Welling (2017), arXiv:1609.02907.
    """
    graph = sparse.csr_matrix(adjacency, dtype=np.float64, copy=True)
    check_symmetric(graph)
    graph.setdiag(0)
    graph.eliminate_zeros()
    graph.data = np.abs(graph.data) if weighted else np.ones_like(graph.data)
    with_loops = graph + sparse.identity(graph.shape[0], format="csr")
    scale = sparse.diags(1 / np.sqrt(np.asarray(with_loops.sum(axis=1)).ravel()))
    return sparse.csr_matrix(scale @ with_loops @ scale, dtype=np.float32)


def _merge(edges: Edges, n_genes: int, notes: list[str], *, listed: bool) -> sparse.csr_matrix:
    """Drop loops and zero weights, merge parallel edges, append to ``notes`` what was done.

    ``listed`` edges stand for both directions, so a second mention is a
    duplicate; entries of a matrix come in pairs.
    """
    loops, zeros = edges.row == edges.column, edges.weight == 0
    _note(notes, np.sum(loops), "self-loops dropped")
    _note(notes, np.sum(zeros & ~loops), "edges of weight 0 dropped")
    edges = edges.where(~loops & ~zeros)
    if len(edges.row) == 0:
        raise ValueError(
            "The network has no edge between two different genes of the data. "
            "Pass edges that join different genes with weights other than 0."
        )
    first, last = np.minimum(edges.row, edges.column), np.maximum(edges.row, edges.column)
    key = first.astype(np.int64) * n_genes + last
    order = np.lexsort((-edges.weight, -np.abs(edges.weight), key))
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    strongest = order[starts]
    if listed:
        merged = len(key) - len(strongest)
        _note(notes, merged, "duplicated or mirrored edges merged (the strongest weight stays)")
        negative = np.add.reduceat(edges.weight[order] < 0, starts, dtype=np.int64)
        both = (negative > 0) & (negative < np.diff(starts, append=len(order)))
        _note(notes, both.sum(), "pairs listed with both signs (of equal weights the positive)")
    return symmetric(edges.where(strongest), n_genes)


def _count_asymmetric(matrix: sparse.coo_matrix) -> int:
    """Count pairs of genes whose two entries differ."""
    csr = matrix.tocsr()
    return int(sparse.triu(csr - csr.T, k=1).count_nonzero())


def _note(notes: list[str], count: int, what: str) -> None:
    """Append "count what" if there is anything to tell."""
    if count:
        notes.append(f"{count} {what}")


def _check_combination(
    graphs: Sequence[GeneGraph], weights: Sequence[float] | None, how: str
) -> NDArray[np.float64]:
    """Return each graph's share; shares sum to one."""
    if not graphs:
        raise ValueError("combine_graphs needs at least one graph, got none.")
    if how not in ("union", "intersection"):
        raise ValueError(f"how must be 'union' or 'intersection', got {how!r}.")
    for graph in graphs[1:]:
        if not np.array_equal(graph.gene_names, graphs[0].gene_names):
            raise ValueError(
                f"Graph {graph.source!r} is over other genes, or another order of them, than "
                f"{graphs[0].source!r}. Build all with the same gene_names."
            )
    shares = np.ones(len(graphs)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(graphs),) or not np.all(np.isfinite(shares)) or shares.min() <= 0:
        raise ValueError(
            f"weights must be {len(graphs)} positive numbers, one for each graph; got {weights}."
        )
    return shares / shares.sum()
