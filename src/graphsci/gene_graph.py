"""Gene graphs: who is connected to whom, from the data or from prior knowledge.

Equation 2 of the paper: two genes are joined when the Pearson correlation of
their log-normalised expression exceeds a threshold in absolute value. Three
estimates of that correlation are offered:

==========================================  ============================================
``correlation_graph(cells="all")``          Pearson over all cells (the paper's eq. 2)
``correlation_graph(cells="coexpressed")``  Pearson over cells where both were detected
``noise_corrected_graph``                   correlation of the *rates*, from counts, with
                                            the attenuation by sampling noise removed
==========================================  ============================================

All three walk over pairs of gene blocks, keep what passes the threshold and
forget the rest: no genes x genes matrix exists at any time. The products are
dense matrix products of small (cells, genes) tiles in float32, faster than
sparse-sparse products for expression data (5-20 % non-zeros), and use as many
threads as BLAS is given (``OMP_NUM_THREADS``).
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from graphsci._correlation import (
    StandardisedKernel,
    coexpressed_kernel,
    pearson_kernel,
    rate_residuals,
)
from graphsci._edges import EdgeRule, Edges, canonical, find_edges, symmetric
from graphsci._graph_inputs import (
    cells_by_genes,
    check_gene_names,
    check_options,
    check_size_factors,
    check_symmetric,
    edge_columns,
    examples,
    no_overlap_message,
    refuse_negative,
    refuse_non_finite,
)

PAPER_THRESHOLD = 0.3  #: eq. 2 and the text above it; Fig. S5 tries 0.2-0.5
MIN_COEXPRESSED_CELLS = 10  #: fewer cells and the standard error of r is above 1/3
MIN_VARIANCE_Z = 3.0  #: we divide by this variance: know it to a third of its value
CAUTION = 1.0  #: with 0 the strongest edges are those of the least known reliability


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


# ----------------------------------------------------------------------------
# Graphs from expression
# ----------------------------------------------------------------------------


def correlation_graph(
    log_normalized: sparse.spmatrix | ArrayLike,
    *,
    gene_names: ArrayLike,
    threshold: float = PAPER_THRESHOLD,
    top_k: int | None = None,
    cells: Literal["all", "coexpressed"] = "all",
    min_cells: int | None = None,
    false_discovery_rate: float | None = None,
    block_size: int | None = None,
) -> GeneGraph:
    r"""Join genes whose expression correlates: eq. 2 of the paper.

    .. math:: A_{ij} = r_{ij} \text{ if } |r_{ij}| > \text{threshold, else } 0

    Parameters
    ----------
    log_normalized
        (cells, genes), log1p of counts at a common depth; sparse or dense.
    gene_names
        (genes,), unique.
    threshold
        Edge where abs(r) is above it. The paper takes 0.3.
    top_k
        Keep an edge only if it is among the ``top_k`` strongest of one of its
        two genes. Bounds the number of edges by ``top_k * genes``.
    cells
        ``"all"``, or ``"coexpressed"``: for each pair the cells in which both
        genes were detected (> 0), as the paper's discussion recommends.
    min_cells
        Smallest number of cells an edge may rest on: detected cells of each
        gene for ``"all"`` (default 1: the paper has no such rule), cells
        detecting both for ``"coexpressed"`` (default 10, where r has a
        standard error of 1/3 when nothing correlates).
    false_discovery_rate
        Also require significance, with at most this expected share of chance
        edges (Benjamini-Hochberg over all pairs). See Notes.
    block_size
        Genes per block; affects memory and speed, not the result.

    Returns
    -------
    GeneGraph
        Weights are r. Genes without variance have no edges.

    Raises
    ------
    ValueError
        For NaN or infinite values, a parameter out of range, negative values
        with ``cells="coexpressed"``, or more than ``MAX_EDGES`` edges.

    Notes
    -----
    Cost: genes^2 x cells multiply-adds (6 times that for ``"coexpressed"``);
    memory: the sparse matrix once more, some tiles of 32 MiB, and the edges.

    The correlation of two rarely detected genes is far from normal under
    independence: one shared cell is enough for a large r. P-values for
    ``"all"`` are therefore bounds that use the genes' own moments (see
    ``_log_p_chernoff``), for ``"coexpressed"`` they are Fisher's.

    For counts of mostly 0 and 1, log-normalised values *of detected genes*
    are functions of the cell's depth alone, so that ``"coexpressed"`` joins
    weakly expressed genes through depth: prefer it on deeply sequenced data.

    Source: the paper, eq. 2 and discussion.
    """
    check_options(threshold, top_k, false_discovery_rate)
    if cells not in ("all", "coexpressed"):
        raise ValueError(f"cells must be 'all' or 'coexpressed', got {cells!r}.")
    values = cells_by_genes(log_normalized, "log_normalized")
    names = check_gene_names(gene_names, values.shape[1])
    if min_cells is None:
        min_cells = 1 if cells == "all" else MIN_COEXPRESSED_CELLS
    kernel = pearson_kernel if cells == "all" else coexpressed_kernel
    rule = EdgeRule(threshold, top_k, false_discovery_rate, block_size)
    edges = find_edges(kernel(values, min_cells), rule)
    parameters = {
        "threshold": threshold,
        "top_k": top_k,
        "cells": cells,
        "min_cells": min_cells,
        "false_discovery_rate": false_discovery_rate,
    }
    source = "pearson" if cells == "all" else "pearson_coexpressed"
    return GeneGraph(symmetric(edges, len(names)), names, source, parameters)


def noise_corrected_graph(
    counts: sparse.spmatrix | ArrayLike,
    *,
    size_factors: ArrayLike,
    gene_names: ArrayLike,
    threshold: float = PAPER_THRESHOLD,
    top_k: int | None = None,
    false_discovery_rate: float = 0.01,
    min_variance_z: float = MIN_VARIANCE_Z,
    caution: float = CAUTION,
    block_size: int | None = None,
) -> GeneGraph:
    r"""Join genes whose underlying *rates* correlate, seen through Poisson noise.

    A count is a noisy reading of a rate: x_ci ~ Poisson(s_c lambda_ci). The
    noise is independent between genes, so it leaves covariances alone but
    inflates variances, and the observed correlation of a low-count gene is
    attenuated, down to nothing. With residuals scaled to equal noise,

    .. math::
        e_{ci} &= (x_{ci} - a_i - b_i s_c) / \sqrt{s_c} \\
        \rho_i &= 1 - \frac{\sum_c x_{ci} / s_c}{\sum_c e_{ci}^2}
                  \quad \text{(reliability: share of variance that is not noise)} \\
        r_{ij} &= \frac{\sum_c e_{ci} e_{cj}}
                  {\sqrt{\sum_c e_{ci}^2 \sum_c e_{cj}^2 \; \rho_i \rho_j}}

    since E[e^2 | lambda] = s (lambda - fit)^2 + lambda, and x/s is unbiased
    for lambda. This is Spearman's correction for attenuation with the
    reliability known from the Poisson law. a_i and b_i are fitted by least
    squares: depth itself joins no genes.

    The correction amplifies noise as well as signal, hence three guards:

    1. a gene takes part only if its biological variance
       sum_c (e^2 - x/s) exceeds ``min_variance_z`` standard errors, the larger
       of the Poisson (Dean & Lawless) and the empirical one;
    2. an edge must be significant *before* correction, with
       ``false_discovery_rate`` over all pairs of taking-part genes;
    3. rho is taken ``caution`` of its standard errors above its estimate (at
       most 1), so that an uncertain reliability corrects too little rather
       than too much.

    Parameters
    ----------
    counts
        (cells, genes), raw counts; sparse or dense.
    size_factors
        (cells,), positive: library size / median library size.
    gene_names
        (genes,), unique.
    threshold, top_k, block_size
        As in ``correlation_graph``; apply to the corrected r.
    false_discovery_rate
        Expected share of edges between independent genes.
    min_variance_z
        Guard 1.
    caution
        Guard 3. 0 makes r unbiased; 1 ranks edges better, since correlations
        divided by too small a reliability crowd the top otherwise.

    Returns
    -------
    GeneGraph
        Weights are the corrected r, clipped to [-1, 1]. ``notes`` says how
        many genes took part.

    Raises
    ------
    ValueError
        For negative or non-finite counts, size factors of the wrong length or
        not positive, a parameter out of range, or too many edges.

    Notes
    -----
    Scale: r describes rates, not log rates; an outlying cell weighs as in any
    Pearson correlation. Cost and memory as ``correlation_graph``.

    Source: Spearman (1904), doi:10.2307/1412159; Dean & Lawless (1989),
    doi:10.1080/01621459.1989.10478792. The combination is ours.
    """
    check_options(threshold, top_k, false_discovery_rate)
    values = cells_by_genes(counts, "counts")
    refuse_negative(values, "counts")
    names = check_gene_names(gene_names, values.shape[1])
    depth = check_size_factors(size_factors, values.shape[0])
    if min(min_variance_z, caution) < 0:
        raise ValueError(
            f"min_variance_z and caution count standard errors and must not be negative; got "
            f"{min_variance_z} and {caution}."
        )
    residuals, reliability = rate_residuals(values, depth, min_variance_z, caution)
    kernel = StandardisedKernel(residuals, gain=1 / np.sqrt(reliability))
    edges = find_edges(kernel, EdgeRule(threshold, top_k, false_discovery_rate, block_size))
    edges = edges._replace(weight=np.clip(edges.weight, -1, 1))
    parameters = {
        "threshold": threshold,
        "top_k": top_k,
        "false_discovery_rate": false_discovery_rate,
        "min_variance_z": min_variance_z,
        "caution": caution,
    }
    note = (
        f"gene graph: only the {len(residuals.genes):,} of {len(names):,} genes that vary clearly "
        "beyond sampling noise can have edges; with more cells more would"
    )
    return GeneGraph(symmetric(edges, len(names)), names, "noise_corrected", parameters, (note,))


# ----------------------------------------------------------------------------
# Graphs from prior knowledge
# ----------------------------------------------------------------------------


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
        ``sign`` (as ``gene_sets.read_network`` returns), or (edges, 2) names.
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
        raise ValueError(no_overlap_message(gene_a, gene_b, unknown, names))
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
