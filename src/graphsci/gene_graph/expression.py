"""Gene graphs from expression: genes whose expression is correlated are joined.

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

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from graphsci.gene_graph._correlation import (
    StandardisedKernel,
    coexpressed_kernel,
    pearson_kernel,
    rate_residuals,
)
from graphsci.gene_graph._edges import EdgeRule, find_edges, symmetric
from graphsci.gene_graph._inputs import (
    cells_by_genes,
    check_gene_names,
    check_options,
    check_size_factors,
    refuse_negative,
)
from graphsci.gene_graph.graph import GeneGraph

PAPER_THRESHOLD = 0.3  #: eq. 2 and the text above it; Fig. S5 tries 0.2-0.5
MIN_COEXPRESSED_CELLS = 10  #: fewer cells and the standard error of r is above 1/3
MIN_VARIANCE_Z = 3.0  #: we divide by this variance: know it to a third of its value
CAUTION = 1.0  #: with 0 the strongest edges are those of the least known reliability


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
    batch: ArrayLike | None = None,
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
    squares, in each batch where there are batches: neither depth nor a batch
    joins genes by itself.

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
    batch
        (cells,) of each; None for one batch.
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
    codes = np.zeros(len(depth), np.int64) if batch is None else np.asarray(batch)
    if codes.shape != depth.shape:
        raise ValueError(f"batch has shape {codes.shape}, expected {depth.shape}: one per cell.")
    residuals, reliability = rate_residuals(values, depth, codes, min_variance_z, caution)
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
    notes: tuple[str, ...] = ()
    if len(residuals.genes) < len(names):
        notes = (
            f"gene graph: only the {len(residuals.genes):,} of {len(names):,} genes that vary "
            "clearly beyond sampling noise can have edges; with more cells more would",
        )
    return GeneGraph(symmetric(edges, len(names)), names, "noise_corrected", parameters, notes)
