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

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse, special

PAPER_THRESHOLD = 0.3  #: eq. 2 and the text above it; Fig. S5 tries 0.2-0.5
MIN_COEXPRESSED_CELLS = 10  #: fewer cells and the standard error of r is above 1/3
MIN_VARIANCE_Z = 3.0  #: we divide by this variance: know it to a third of its value
CAUTION = 1.0  #: with 0 the strongest edges are those of the least known reliability
MAX_EDGES = 50_000_000  #: 800 MB as symmetric CSR; beyond it the graph tells nothing
CELL_CHUNK = 4096  #: cells per dense tile: 2048 genes x 4096 cells x 4 bytes = 32 MiB
GENE_BLOCK = 2048  #: genes per dense tile; larger gains no speed
COEXPRESSED_GENE_BLOCK = 1024  #: six accumulators per pair of blocks instead of one
ORDERS = (2, 3, 4, 5, 6)  #: moments behind p-values; the last must be even
CHERNOFF_STEPS = 12  #: trial points of the bound; doubling them gains 1 % of log p
CONSTANT = 1e-10  #: a variance below this share of the mean square is rounding error
MIN_RELATIVE_VARIANCE = 1e-3  #: same for float32 sums over a pair's common cells

Block = slice
FloatArray = NDArray[np.floating[Any]]


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
    _check_options(threshold, top_k, false_discovery_rate)
    if cells not in ("all", "coexpressed"):
        raise ValueError(f"cells must be 'all' or 'coexpressed', got {cells!r}.")
    values = _cells_by_genes(log_normalized, "log_normalized")
    names = _check_gene_names(gene_names, values.shape[1])
    if min_cells is None:
        min_cells = 1 if cells == "all" else MIN_COEXPRESSED_CELLS
    kernel = _pearson_kernel if cells == "all" else _coexpressed_kernel
    rule = _EdgeRule(threshold, top_k, false_discovery_rate, block_size)
    edges = _find_edges(kernel(values, min_cells), rule)
    parameters = {
        "threshold": threshold,
        "top_k": top_k,
        "cells": cells,
        "min_cells": min_cells,
        "false_discovery_rate": false_discovery_rate,
    }
    source = "pearson" if cells == "all" else "pearson_coexpressed"
    return GeneGraph(_symmetric(edges, len(names)), names, source, parameters)


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
    _check_options(threshold, top_k, false_discovery_rate)
    values = _cells_by_genes(counts, "counts")
    _refuse_negative(values, "counts")
    names = _check_gene_names(gene_names, values.shape[1])
    depth = _check_size_factors(size_factors, values.shape[0])
    if min(min_variance_z, caution) < 0:
        raise ValueError(
            f"min_variance_z and caution count standard errors and must not be negative; got "
            f"{min_variance_z} and {caution}."
        )
    residuals, reliability = _rate_residuals(values, depth, min_variance_z, caution)
    kernel = _StandardisedKernel(residuals, len(names), gain=1 / np.sqrt(reliability))
    edges = _find_edges(kernel, _EdgeRule(threshold, top_k, false_discovery_rate, block_size))
    edges = edges._replace(weight=np.clip(edges.weight, -1, 1))
    parameters = {
        "threshold": threshold,
        "top_k": top_k,
        "false_discovery_rate": false_discovery_rate,
        "min_variance_z": min_variance_z,
        "caution": caution,
    }
    note = (
        f"{len(residuals.genes)} of {len(names)} genes vary by significantly more than "
        "sampling noise; the others have no edges"
    )
    return GeneGraph(_symmetric(edges, len(names)), names, "noise_corrected", parameters, (note,))


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
    names = _check_gene_names(gene_names)
    gene_a, gene_b, weight = _edge_columns(edges, weights)
    index = pd.Index(names)
    row = index.get_indexer(pd.Index(gene_a))
    column = index.get_indexer(pd.Index(gene_b))
    known = (row >= 0) & (column >= 0)
    unknown = pd.unique(np.concatenate([gene_a[row < 0], gene_b[column < 0]]))
    if not known.any():
        raise ValueError(_no_overlap_message(gene_a, gene_b, unknown, names))
    notes: list[str] = []
    if not known.all():
        notes.append(
            f"{np.sum(~known)} of {len(known)} edges name genes that are not in the data and were "
            f"left out ({len(unknown)} such genes, e.g. {_examples(unknown)})"
        )
    kept = _Edges(row[known], column[known], weight[known])
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
    names = _check_gene_names(gene_names)
    coo = sparse.coo_matrix(matrix)
    if coo.shape != (len(names), len(names)):
        raise ValueError(
            f"The network is a {coo.shape[0]} x {coo.shape[1]} matrix; expected "
            f"{len(names)} x {len(names)}, one row and one column for each of gene_names. "
            "Pass the matrix of all genes, or an edge list to graph_from_edges."
        )
    _refuse_non_finite(coo.data, "weights in the network")
    coo.sum_duplicates()
    notes: list[str] = []
    _note(
        notes,
        _count_asymmetric(coo),
        "edges differed between their two directions, or had "
        "only one, and were made symmetric (the stronger weight stays)",
    )
    edges = _Edges(coo.row, coo.col, np.asarray(coo.data, dtype=np.float64))
    adjacency = _merge(edges, len(names), notes, listed=False)
    return GeneGraph(adjacency, names, source, dict(parameters or {}), tuple(notes))


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
        _canonical(combined),
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
    _check_symmetric(graph)
    graph.setdiag(0)
    graph.eliminate_zeros()
    graph.data = np.abs(graph.data) if weighted else np.ones_like(graph.data)
    with_loops = graph + sparse.identity(graph.shape[0], format="csr")
    scale = sparse.diags(1 / np.sqrt(np.asarray(with_loops.sum(axis=1)).ravel()))
    return sparse.csr_matrix(scale @ with_loops @ scale, dtype=np.float32)


# ----------------------------------------------------------------------------
# Standardised columns, one dense tile at a time
# ----------------------------------------------------------------------------


class _Moments(NamedTuple):
    """Moments of standardised columns."""

    powers: NDArray[np.float64]  #: (orders, genes): mean of z^k for k in ORDERS
    peak: NDArray[np.float64]  #: (genes,): largest abs(z)


class _Standardised(NamedTuple):
    """Columns of zero mean and unit norm, stored as sparse minus low rank.

    Dense values are ``values - design @ loadings``; only tiles are ever made.
    """

    values: sparse.csc_matrix  #: (cells, kept genes) float32
    design: NDArray[np.float32]  #: (cells, q): what was regressed out
    loadings: NDArray[np.float32]  #: (q, kept genes)
    genes: NDArray[np.intp]  #: (kept genes,): their index in the data
    norms: NDArray[np.float64]  #: (kept genes,): the columns' norms before scaling

    def tiles(self, block: Block) -> Iterator[NDArray[np.float32]]:
        """Yield dense (cell chunk, block) tiles, from the first cell to the last."""
        values = self.values[:, block].tocsr()
        loadings = self.loadings[:, block]
        for chunk in _blocks(values.shape[0], CELL_CHUNK):
            tile = values[chunk].toarray(order="C")  # (chunk, block)
            # tile -= design @ loadings in place: a temporary as large costs more than the product
            yield linalg.blas.sgemm(
                -1, loadings.T, self.design[chunk].T, beta=1, c=tile.T, overwrite_c=True
            ).T

    def keep(self, kept: NDArray[np.bool_]) -> "_Standardised":
        """Return the columns where ``kept`` is true."""
        return self._replace(
            values=self.values[:, kept],
            loadings=self.loadings[:, kept],
            genes=self.genes[kept],
            norms=self.norms[kept],
        )

    def moments(self) -> "_Moments":
        """Return moments over cells of z, the columns at unit variance."""
        n_cells, n_genes = self.values.shape
        powers, peak = np.zeros((len(ORDERS), n_genes)), np.zeros(n_genes)
        for block in _blocks(n_genes, GENE_BLOCK):
            for tile in self.tiles(block):
                tile *= np.float32(np.sqrt(n_cells))
                peak[block] = np.maximum(peak[block], np.abs(tile).max(axis=0))
                power = tile
                for index in range(len(ORDERS)):
                    power = power * tile
                    powers[index, block] += power.sum(axis=0, dtype=np.float64)
        return _Moments(powers / n_cells, peak)

    def inflation(self) -> float:
        """Return n sum_c v_c^2 / (sum_c v_c)^2, v_c the mean square of cell c; at least 1.

        The variance of sum_c z_ci z_cj under independence, in units of n, when
        some cells (the deep or the shallow ones) vary more than others in all
        genes.
        """
        n_cells = self.values.shape[0]
        squares = np.zeros(n_cells)
        for block in _blocks(len(self.genes), GENE_BLOCK):
            squares += np.concatenate([np.sum(tile**2, axis=1) for tile in self.tiles(block)])
        return float(max(n_cells * np.sum(squares**2) / max(np.sum(squares), 1e-30) ** 2, 1.0))


def _standardise(values: sparse.csc_matrix, design: FloatArray) -> _Standardised:
    """Regress ``design`` (cells, q) out of every column and scale to unit norm.

    Columns that the design explains entirely (constant genes) are left out.
    Sums run in float64.
    """
    basis = linalg.orth(design)  # (cells, q), collinear columns merged
    loadings, norms = _project(values, basis)
    residual = norms - np.sum(loadings**2, axis=0)
    kept = np.flatnonzero(residual > CONSTANT * norms)
    norms = np.sqrt(residual[kept])
    return _Standardised(
        _scale_columns(values[:, kept], 1 / norms),
        basis.astype(np.float32),
        (loadings[:, kept] / norms).astype(np.float32),
        kept,
        norms,
    )


def _project(
    values: sparse.csc_matrix, basis: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return basis^T values (q, genes) and column sums of squares (genes,), in float64."""
    n_cells, n_genes = values.shape
    loadings = np.zeros((basis.shape[1], n_genes))
    norms = np.zeros(n_genes)
    for block in _blocks(n_genes, GENE_BLOCK):
        part = values[:, block].astype(np.float64)
        loadings[:, block] = (part.T @ basis).T
        norms[block] = part.power(2).T @ np.ones(n_cells)
    return loadings, norms


def _scale_columns(values: sparse.csc_matrix, scale: FloatArray) -> sparse.csc_matrix:
    """Multiply column j by ``scale[j]``; float32."""
    factors = np.repeat(scale.astype(np.float32), np.diff(values.indptr))
    data = values.data.astype(np.float32) * factors
    return sparse.csc_matrix((data, values.indices, values.indptr), shape=values.shape)


def _rate_residuals(
    counts: sparse.csc_matrix,
    size_factors: NDArray[np.float64],
    min_variance_z: float,
    caution: float,
) -> tuple[_Standardised, NDArray[np.float64]]:
    """Return the residuals e of ``noise_corrected_graph`` and their reliability.

    Only genes whose excess variance is above ``min_variance_z`` standard
    errors are kept; their reliability is ``caution`` errors above its estimate.
    """
    root = np.sqrt(size_factors)
    residuals = _standardise(_scale_rows(counts, 1 / root), np.column_stack([root, 1 / root]))
    excess, error = _excess_variance(counts, residuals, size_factors)
    kept = excess > min_variance_z * error
    reliability = (excess + caution * error)[kept] / residuals.norms[kept] ** 2
    return residuals.keep(kept), np.minimum(reliability, 1)


def _excess_variance(
    counts: sparse.csc_matrix, residuals: _Standardised, size_factors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_c t and its standard error, t = e^2 - x/s; both (kept genes,).

    Under the Poisson law Var t = 2 m^2, m the mean rate (Dean & Lawless 1989).
    The error is the larger of that and the empirical sqrt(sum t^2), which
    keeps one outlying cell from passing for variation. The factor 1 - 2/n
    pays for the two fitted parameters.
    """
    n_cells, n_genes = len(size_factors), len(residuals.genes)
    excess, squares = np.zeros(n_genes), np.zeros(n_genes)
    for block in _blocks(n_genes, GENE_BLOCK):
        rates = _scale_rows(counts[:, residuals.genes[block]], 1 / size_factors).tocsr()
        chunks = _blocks(n_cells, CELL_CHUNK)
        for chunk, tile in zip(chunks, residuals.tiles(block), strict=True):
            terms = (tile * residuals.norms[block]) ** 2  # (chunk, block) float64
            terms -= (1 - 2 / n_cells) * rates[chunk].toarray()
            excess[block] += terms.sum(axis=0)
            squares[block] += (terms**2).sum(axis=0)
    totals = counts[:, residuals.genes].T @ np.ones(n_cells)
    poisson = 2 * n_cells * (totals / size_factors.sum()) ** 2
    return excess, np.sqrt(np.maximum(squares, poisson))


def _scale_rows(values: sparse.csc_matrix, scale: NDArray[np.float64]) -> sparse.csc_matrix:
    """Multiply row i by ``scale[i]``; float32."""
    data = values.data * scale.astype(np.float32)[values.indices]
    return sparse.csc_matrix((data, values.indices, values.indptr), shape=values.shape)


# ----------------------------------------------------------------------------
# Kernels: the weights between two blocks of genes, and their p-values
# ----------------------------------------------------------------------------


class _Kernel(Protocol):
    """Weights between blocks of the genes that may have edges."""

    genes: NDArray[np.intp]  #: (kept genes,): their index in the data
    n_genes: int  #: number of genes in the data
    block_size: int  #: genes per block that suits the kernel's memory

    def prepare(self) -> None:
        """Compute what p-values need."""

    def pair(
        self, left: Block, right: Block
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return weights (left, right), and the cells each rests on if they differ."""

    def log_p(self, edges: "_Edges", support: NDArray[np.float32] | None) -> FloatArray:
        """Return the log p-values of some entries, under independence."""


class _StandardisedKernel:
    """Inner products of standardised columns, times a gain per gene."""

    block_size = GENE_BLOCK

    def __init__(
        self,
        columns: _Standardised,
        n_genes: int,
        *,
        gain: FloatArray | None = None,
    ) -> None:
        self.columns = columns
        self.genes = columns.genes
        self.n_genes = n_genes
        self.gain = np.ones(len(columns.genes)) if gain is None else gain
        self.moments = _Moments(np.zeros((len(ORDERS), 0)), np.zeros(0))
        self.inflation = 1.0

    def prepare(self) -> None:
        """Compute the genes' moments and the variance inflation."""
        self.moments, self.inflation = self.columns.moments(), self.columns.inflation()

    def pair(self, left: Block, right: Block) -> tuple[NDArray[np.float32], None]:
        """Return gain_i gain_j sum_c z_ci z_cj; (left, right)."""
        total: Any = np.float32(0)
        for z_left, z_right in zip(
            self.columns.tiles(left), self.columns.tiles(right), strict=True
        ):
            total = total + z_left.T @ z_right
        total *= self.gain[left, None].astype(np.float32)
        total *= self.gain[right].astype(np.float32)
        return total, None

    def log_p(self, edges: "_Edges", support: NDArray[np.float32] | None) -> FloatArray:
        """Return the bound on log P(abs(r) this large), before the gain."""
        row, column, weight = edges
        r = weight / (self.gain[row] * self.gain[column])
        powers, peak = self.moments
        products = _Moments(powers[:, row] * powers[:, column], peak[row] * peak[column])
        return _log_p_chernoff(r, products, self.columns.values.shape[0], self.inflation)


def _log_p_chernoff(
    r: FloatArray, products: _Moments, n_cells: int, inflation: float = 1.0
) -> NDArray[np.float64]:
    r"""Bound the log p-value of correlations between independent genes of any distribution.

    S = n r is a sum of n terms z_i z_j. When the genes are independent the
    k-th moment of a term is the product kappa_k of the genes' own, kappa_1 = 0,
    and the terms are bounded by M. Chernoff's inequality, the exponential
    series written out to order K and its rest bounded by M:

    .. math::
        \log P(|S| \ge n |r|) &\le \log 2 + \min_{\theta > 0}
            n \left(\psi(\theta) - \theta |r|\right) \\
        \psi(\theta) &= \sum_{k=2}^{K} \frac{(\pm\theta)^k}{k!} \kappa_k
            + \frac{\kappa_K}{M^K} \sum_{k > K} \frac{(\theta M)^k}{k!}

    with the sign of r; K = 2 would be Bennett's inequality (1962,
    doi:10.1080/01621459.1962.10482149). For two rarely detected genes this is
    the Poisson tail of the number of common cells, where Fisher's z is wrong
    by orders of magnitude; for normal variables it is the normal tail. Any
    theta gives a valid bound; a few between the optima of these two cases
    are tried. ``inflation`` multiplies psi (see ``_Standardised.inflation``).

    Parameters
    ----------
    r
        (pairs,).
    products
        Products of the two genes' moments and peaks; (orders, pairs), (pairs,).
    """
    strength, sign = np.abs(r).astype(np.float64), np.sign(r)
    kappa, peak = products
    small = np.log1p(peak * strength / inflation) / peak  # optimum for K = 2
    large = strength / inflation  # optimum for normal variables
    best = np.zeros(len(r))
    for step in np.linspace(0, 1, CHERNOFF_STEPS):
        theta = small ** (1 - step) * large**step
        psi = kappa[-1] / peak ** ORDERS[-1] * _exponential_rest(theta * peak, ORDERS[-1])
        for order, moment in zip(ORDERS, kappa, strict=True):
            psi += (sign * theta) ** order / math.factorial(order) * moment
        best = np.minimum(best, n_cells * (inflation * psi - theta * strength))
    return np.minimum(np.log(2) + best, 0)


def _exponential_rest(y: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Return sum_{k > order} y^k / k!, infinite where it overflows."""
    head = sum(y**k / math.factorial(k) for k in range(order + 1))
    with np.errstate(over="ignore"):
        return np.maximum(np.exp(y) - head, 0)


def _pearson_kernel(values: sparse.csc_matrix, min_cells: int) -> _StandardisedKernel:
    """Pearson correlation over all cells."""
    columns = _standardise(values, np.ones((values.shape[0], 1)))
    detected = np.diff(values.indptr)[columns.genes]
    return _StandardisedKernel(columns.keep(detected >= min_cells), values.shape[1])


class _CoexpressedKernel:
    r"""Pearson correlation over the cells in which both genes are detected.

    With b = 1 where a gene is detected and z its value there (0 elsewhere),
    every sum over common cells is a matrix product:

    .. math:: n = b_i^T b_j, \; S_i = z_i^T b_j, \; S_j = b_i^T z_j, \;
              Q_i = (z_i^2)^T b_j, \; Q_j = b_i^T z_j^2, \; P = z_i^T z_j

    .. math:: r = \frac{n P - S_i S_j}{\sqrt{(n Q_i - S_i^2)(n Q_j - S_j^2)}}

    z is standardised over the gene's own detected cells, so that the sums are
    well conditioned in float32. A pair whose common cells show no variance in
    one of the genes has weight 0.
    """

    block_size = COEXPRESSED_GENE_BLOCK

    def __init__(
        self, values: sparse.csc_matrix, genes: NDArray[np.intp], n_genes: int, min_cells: int
    ) -> None:
        self.values = values  #: (cells, kept genes): z
        self.detected = sparse.csc_matrix(
            (np.ones_like(values.data), values.indices, values.indptr), shape=values.shape
        )
        self.genes = genes
        self.n_genes = n_genes
        self.min_cells = min_cells

    def prepare(self) -> None:
        """Do nothing: Fisher's z needs n and r alone."""

    def pair(self, left: Block, right: Block) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return r and n, both (left, right)."""
        n, s_i, s_j, q_i, q_j, product = self._sums(left, right)
        var_i, var_j = n * q_i - s_i**2, n * q_j - s_j**2
        defined = (n >= self.min_cells) & (np.minimum(var_i, var_j) > MIN_RELATIVE_VARIANCE * n**2)
        scale = np.sqrt(np.where(defined, var_i * var_j, 1))
        r = np.where(defined, (n * product - s_i * s_j) / scale, 0)
        return np.clip(r, -1, 1).astype(np.float32), n.astype(np.float32)

    def _sums(self, left: Block, right: Block) -> NDArray[np.float64]:
        """Return n, S_i, S_j, Q_i, Q_j, P; (6, left, right)."""
        total: Any = np.float64(0)
        for (z_i, b_i), (z_j, b_j) in zip(self._tiles(left), self._tiles(right), strict=True):
            parts = [b_i.T @ b_j, z_i.T @ b_j, b_i.T @ z_j]
            parts += [(z_i**2).T @ b_j, b_i.T @ z_j**2, z_i.T @ z_j]
            total = total + np.stack(parts)
        return np.asarray(total, dtype=np.float64)

    def _tiles(self, block: Block) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield dense z and b, both (cell chunk, block)."""
        values, detected = self.values[:, block].tocsr(), self.detected[:, block].tocsr()
        for chunk in _blocks(values.shape[0], CELL_CHUNK):
            yield values[chunk].toarray(), detected[chunk].toarray()

    def log_p(self, edges: "_Edges", support: NDArray[np.float32] | None) -> FloatArray:
        """Return Fisher's log p: atanh(r) sqrt(n - 3) is standard normal."""
        cells = np.asarray(support, dtype=np.float64)
        r = np.minimum(np.abs(edges.weight.astype(np.float64)), 1 - 1e-7)
        z = np.arctanh(r) * np.sqrt(np.maximum(cells - 3, 0))
        return np.log(2) + special.log_ndtr(-z)


def _coexpressed_kernel(values: sparse.csc_matrix, min_cells: int) -> _CoexpressedKernel:
    """Standardise every gene over the cells that detect it."""
    _refuse_negative(values, "log_normalized with cells='coexpressed'")
    if min_cells < 3:
        raise ValueError(
            f"min_cells must be at least 3 with cells='coexpressed', got {min_cells}: "
            "two cells always correlate perfectly."
        )
    detected = np.diff(values.indptr)
    ones = np.ones(values.shape[0])
    mean = (values.T.astype(np.float64) @ ones) / np.maximum(detected, 1)
    centred = values.data - np.repeat(mean, detected)
    gene = np.repeat(np.arange(values.shape[1]), detected)
    squares = np.bincount(gene, weights=centred**2, minlength=values.shape[1])
    variance = squares / np.maximum(detected, 1)
    kept = np.flatnonzero((detected >= min_cells) & (variance > CONSTANT * mean**2))
    scale = np.sqrt(np.where(variance > 0, variance, 1))
    z = (centred / np.repeat(scale, detected)).astype(np.float32)
    standardised = sparse.csc_matrix((z, values.indices, values.indptr), shape=values.shape)
    return _CoexpressedKernel(standardised[:, kept], kept, values.shape[1], min_cells)


# ----------------------------------------------------------------------------
# From weights to edges
# ----------------------------------------------------------------------------


class _EdgeRule(NamedTuple):
    """What makes an edge."""

    threshold: float
    top_k: int | None
    false_discovery_rate: float | None
    block_size: int | None


class _Edges(NamedTuple):
    """Edges as three equally long columns."""

    row: NDArray[np.integer[Any]]
    column: NDArray[np.integer[Any]]
    weight: FloatArray

    def where(self, kept: NDArray[Any]) -> "_Edges":
        """Return the chosen edges."""
        return _Edges(self.row[kept], self.column[kept], self.weight[kept])


def _find_edges(kernel: _Kernel, rule: _EdgeRule) -> _Edges:
    """Visit every pair of blocks once and return the edges, each once."""
    if rule.false_discovery_rate is not None:
        kernel.prepare()
    found = [_Edges(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))]
    log_p: list[FloatArray] = [np.zeros(0)]
    size = rule.block_size or kernel.block_size
    for left, right in _block_pairs(len(kernel.genes), size):
        edges, p = _edges_between(kernel, rule, left, right)
        found.append(edges)
        log_p.append(p)
        _check_edge_count(sum(len(part.row) for part in found), rule)
    edges = _Edges(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    if rule.false_discovery_rate is not None:
        n_tests = len(kernel.genes) * (len(kernel.genes) - 1) // 2
        edges = edges.where(
            _benjamini_hochberg(np.concatenate(log_p), n_tests, rule.false_discovery_rate)
        )
    edges = edges._replace(row=kernel.genes[edges.row], column=kernel.genes[edges.column])
    if rule.top_k is not None:
        edges = edges.where(_strongest(edges, rule.top_k))
    return edges


def _edges_between(
    kernel: _Kernel, rule: _EdgeRule, left: Block, right: Block
) -> tuple[_Edges, FloatArray]:
    """Return the candidate edges between two blocks and their log p-values."""
    weights, support = kernel.pair(left, right)
    # the strongest of the *significant* edges are wanted: prune only if all are
    top_k = rule.top_k if rule.false_discovery_rate is None else None
    passing = _passing(weights, rule.threshold, top_k, same=left == right)
    chosen = np.flatnonzero(passing)
    row, column = np.divmod(chosen, weights.shape[1])
    row, column = (row + left.start).astype(np.int32), (column + right.start).astype(np.int32)
    edges = _Edges(row, column, weights.ravel()[chosen])
    if rule.false_discovery_rate is None:
        return edges, np.zeros(0)
    log_p = kernel.log_p(edges, None if support is None else support.ravel()[chosen])
    likely = log_p <= np.log(rule.false_discovery_rate)  # p above it is never accepted
    return edges.where(likely), log_p[likely].astype(np.float32)


def _passing(
    weights: NDArray[np.float32], threshold: float, top_k: int | None, *, same: bool
) -> NDArray[np.bool_]:
    """Mark weights above the threshold and among the k strongest of their row or column."""
    strength = np.abs(weights)
    if same:
        np.fill_diagonal(strength, 0)
    passing = strength > threshold
    if top_k is not None:
        of_row = _kth_largest(strength, top_k)[:, None]
        of_column = _kth_largest(np.ascontiguousarray(strength.T), top_k)
        passing &= (strength >= of_row) | (strength >= of_column)
    return np.triu(passing, 1) if same else passing


def _kth_largest(values: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the k-th largest value of each row, 0 if the row is shorter."""
    if k >= values.shape[1]:
        return np.zeros(len(values), np.float32)
    return np.partition(values, -k, axis=1)[:, -k]


def _strongest(edges: _Edges, top_k: int) -> NDArray[np.bool_]:
    """Mark edges that are among the k strongest of at least one of their genes."""
    gene = np.concatenate([edges.row, edges.column])
    other = np.concatenate([edges.column, edges.row])
    strength = np.abs(np.concatenate([edges.weight, edges.weight]))
    order = np.lexsort((other, -strength, gene))
    ordered = gene[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = np.zeros(len(edges.row), dtype=bool)
    kept[order[rank < top_k] % max(len(edges.row), 1)] = True
    return kept


def _benjamini_hochberg(
    log_p: FloatArray, n_tests: int, false_discovery_rate: float
) -> NDArray[np.bool_]:
    """Mark accepted p-values; those not listed among the ``n_tests`` are not accepted.

    Largest k with p_(k) <= k q / n_tests. Leaving out pairs below the
    threshold on abs(r) lowers k only, so the rate is kept.

    Source: Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    ordered = np.sort(log_p)
    ranks = np.arange(1, len(log_p) + 1)
    accepted = np.flatnonzero(ordered <= np.log(false_discovery_rate * ranks / max(n_tests, 1)))
    if len(accepted) == 0:
        return np.zeros(len(log_p), dtype=bool)
    return log_p <= ordered[accepted[-1]]


def _symmetric(edges: _Edges, n_genes: int) -> sparse.csr_matrix:
    """Return the (genes, genes) adjacency of edges given once each."""
    row = np.concatenate([edges.row, edges.column])
    column = np.concatenate([edges.column, edges.row])
    weight = np.concatenate([edges.weight, edges.weight]).astype(np.float32)
    return _canonical(sparse.coo_matrix((weight, (row, column)), shape=(n_genes, n_genes)))


def _canonical(matrix: sparse.spmatrix) -> sparse.csr_matrix:
    """Return CSR, float32, sorted, without explicit zeros."""
    result = sparse.csr_matrix(matrix, dtype=np.float32)
    result.eliminate_zeros()
    result.sort_indices()
    return result


def _merge(edges: _Edges, n_genes: int, notes: list[str], *, listed: bool) -> sparse.csr_matrix:
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
    order = np.lexsort((-np.abs(edges.weight), key))
    strongest = order[np.flatnonzero(np.diff(key[order], prepend=-1))]
    if listed:
        merged = len(key) - len(strongest)
        _note(notes, merged, "duplicated or mirrored edges merged (the strongest weight stays)")
    return _symmetric(edges.where(strongest), n_genes)


def _count_asymmetric(matrix: sparse.coo_matrix) -> int:
    """Count pairs of genes whose two entries differ."""
    csr = matrix.tocsr()
    return int(sparse.triu(csr - csr.T, k=1).count_nonzero())


def _note(notes: list[str], count: int, what: str) -> None:
    """Append "count what" if there is anything to tell."""
    if count:
        notes.append(f"{count} {what}")


# ----------------------------------------------------------------------------
# Blocks and checks
# ----------------------------------------------------------------------------


def _blocks(n: int, size: int) -> list[Block]:
    """Cut range(n) into slices of at most ``size``."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _block_pairs(n: int, size: int) -> Iterator[tuple[Block, Block]]:
    """Yield every unordered pair of blocks once, equal pairs included."""
    blocks = _blocks(n, size)
    for position, left in enumerate(blocks):
        for right in blocks[position:]:
            yield left, right


def _check_options(threshold: float, top_k: int | None, false_discovery_rate: float | None) -> None:
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), a bound on abs(r); got {threshold}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}. Use None for no limit.")
    if false_discovery_rate is not None and not 0 < false_discovery_rate < 1:
        raise ValueError(
            f"false_discovery_rate must be between 0 and 1, got {false_discovery_rate}."
        )


def _check_edge_count(count: int, rule: _EdgeRule) -> None:
    if count > MAX_EDGES:
        raise ValueError(
            f"More than {MAX_EDGES:,} gene pairs have abs(r) above {rule.threshold}. A graph this "
            "dense tells nothing: raise threshold, set top_k, or check that the data are "
            "log-normalised at a common depth."
        )


def _cells_by_genes(matrix: sparse.spmatrix | ArrayLike, name: str) -> sparse.csc_matrix:
    """Return a finite (cells, genes) CSC float32 without explicit zeros; input untouched."""
    if not sparse.issparse(matrix) and np.ndim(matrix) != 2:
        raise ValueError(f"{name} must be a (cells, genes) matrix, got {np.ndim(matrix)} axes.")
    values = sparse.csc_matrix(matrix, dtype=np.float32)
    _refuse_non_finite(values.data, name)
    if values.shape[0] < 3:
        raise ValueError(f"A correlation needs at least 3 cells, {name} has {values.shape[0]}.")
    if np.any(values.data == 0):
        values = values.copy()
        values.eliminate_zeros()
    return values


def _refuse_non_finite(data: ArrayLike, name: str) -> None:
    bad = int(np.sum(~np.isfinite(np.asarray(data, dtype=np.float64))))
    if bad:
        raise ValueError(
            f"{bad} {'value is' if bad == 1 else 'values are'} NaN or infinite in {name}. "
            "Remove or replace them first."
        )


def _refuse_negative(values: sparse.csc_matrix, name: str) -> None:
    if values.nnz and values.data.min() < 0:
        raise ValueError(
            f"{name} must not be negative (detected means > 0); the smallest value is "
            f"{values.data.min():g}. Pass unscaled, uncentred data."
        )


def _check_gene_names(gene_names: ArrayLike, n_genes: int | None = None) -> NDArray[np.str_]:
    names = np.asarray(gene_names).astype(str)
    if names.ndim != 1 or (n_genes is not None and len(names) != n_genes):
        raise ValueError(
            f"gene_names has shape {names.shape}, expected ({n_genes or 'genes'},): "
            "one name for each column of the data."
        )
    unique, count = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        raise ValueError(
            f"gene_names must be unique; {np.sum(count > 1)} names occur more than once, "
            f"e.g. {_examples(unique[count > 1])}. Make them unique first "
            "(in scanpy: adata.var_names_make_unique())."
        )
    return names


def _check_size_factors(size_factors: ArrayLike, n_cells: int) -> NDArray[np.float64]:
    depth = np.asarray(size_factors, dtype=np.float64)
    if depth.shape != (n_cells,):
        raise ValueError(f"size_factors has shape {depth.shape}, expected ({n_cells},).")
    if not np.all(np.isfinite(depth)) or depth.min() <= 0:
        raise ValueError(
            "size_factors must be finite and positive. Remove cells without reads first."
        )
    return depth


def _edge_columns(
    edges: pd.DataFrame | ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.float64]]:
    """Return the two name columns and signed weights of an edge list."""
    frame = edges if isinstance(edges, pd.DataFrame) else _pairs(edges)
    missing = {"gene_a", "gene_b"} - set(frame.columns)
    if missing:
        raise ValueError(
            f"The edge table lacks {sorted(missing)}; it has {list(frame.columns)}. "
            "Rename its columns to gene_a and gene_b."
        )
    if weights is not None:
        weight = np.asarray(weights, dtype=np.float64)
    else:
        weight = np.asarray(frame["weight"] if "weight" in frame else np.ones(len(frame)), float)
        if "sign" in frame:
            weight = np.where(np.asarray(frame["sign"]) < 0, -np.abs(weight), weight)
    if weight.shape != (len(frame),):
        raise ValueError(f"weights has shape {weight.shape}, expected ({len(frame)},).")
    _refuse_non_finite(weight, "edge weights")
    return (
        np.asarray(frame["gene_a"]).astype(str),
        np.asarray(frame["gene_b"]).astype(str),
        weight,
    )


def _pairs(edges: ArrayLike) -> pd.DataFrame:
    pairs = np.asarray(edges)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"edges has shape {pairs.shape}, expected (edges, 2): one pair of gene names per row."
        )
    return pd.DataFrame({"gene_a": pairs[:, 0], "gene_b": pairs[:, 1]})


def _no_overlap_message(
    gene_a: NDArray[np.str_],
    gene_b: NDArray[np.str_],
    unknown: NDArray[np.str_],
    names: NDArray[np.str_],
) -> str:
    if len(gene_a) == 0:
        return "The edge list is empty. Pass at least one pair of gene names."
    return (
        f"None of the {len(gene_a)} edges joins two of the {len(names)} genes of the data "
        f"(network: {_examples(unknown)}; data: {_examples(names)}). "
        "Check that both are of the same species and use the same identifiers; "
        "gene_sets.match_symbols tells what differs."
    )


def _examples(names: NDArray[np.str_], count: int = 3) -> str:
    return ", ".join(repr(str(name)) for name in names[:count])


def _check_symmetric(adjacency: sparse.csr_matrix) -> None:
    if adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(f"The adjacency must be square (genes, genes), got {adjacency.shape}.")
    _refuse_non_finite(adjacency.data, "the adjacency")
    difference = abs(adjacency - adjacency.T)
    if difference.nnz and difference.max() > 1e-6 * abs(adjacency).max():
        raise ValueError(
            "The adjacency is not symmetric; a gene graph is undirected. "
            "Pass it through graph_from_matrix first."
        )


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
