"""The gene graph that a model is trained with: computed, given, or both with their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphsci.config import Config
from graphsci.gene_graph._edges import spread
from graphsci.gene_graph.expression import correlation_graph, noise_corrected_graph
from graphsci.gene_graph.graph import GeneGraph, combine_graphs, relative_to_strongest
from graphsci.gene_graph.pidc import pidc_graph
from graphsci.io import refuse_more_than_memory
from graphsci.preprocessing import (
    detected_genes,
    fit_median_library_size,
    log_normalize,
    size_factors,
)

#: Fewest cells for a correlation.
_FEWEST_GRAPH_CELLS = 3
#: Memory that an edge takes in training of the preset `paper`: weights, gradients and moments,
#: and products over the edges. 750,000 edges took 1.4 GiB, 1.9 million 3.1 GiB.
_BYTES_PER_EDGE = 1430


def training_graph(
    counts: sparse.csr_matrix,
    names: NDArray[np.str_],
    genes: NDArray[np.int64],
    batch: NDArray[np.int64],
    config: Config,
    user_graph: GeneGraph | None,
) -> GeneGraph:
    """The gene graph over the training genes: computed, known, or both with their weights.

    ``names`` of the training genes, ``genes`` their positions in a user's graph, ``batch`` (cells,)
    of the counts.
    """
    if user_graph is None:
        graph = _computed_graph(counts, names, batch, config)
    else:
        part = sparse.csr_matrix(user_graph.adjacency[genes][:, genes])
        graph, weight = user_graph._replace(adjacency=part, gene_names=names), config.network_weight
        if weight != 1:
            both = [_computed_graph(counts, names, batch, config), relative_to_strongest(graph)]
            graph = combine_graphs(both, weights=[1 - weight, weight])
    if config.preset == "paper":
        refuse_more_than_memory(
            _BYTES_PER_EDGE * graph.n_edges,
            what=f"graph: {graph.n_edges:,} edges, with which the preset 'paper' takes about",
            remedy="Keep fewer: a higher graph_threshold, or graph_top_k (command line: "
            "--graph-threshold, --graph-top-k).",
        )
    return graph


def _computed_graph(
    counts: sparse.csr_matrix, names: NDArray[np.str_], batch: NDArray[np.int64], config: Config
) -> GeneGraph:
    """The gene graph from the kept molecules alone."""
    limits: dict[str, Any] = {"top_k": config.graph_top_k or None}
    if config.graph != "pidc":  # its confidences are no correlations, and have a threshold apart
        limits["threshold"] = config.graph_threshold
    n_cells = int((counts.getnnz(axis=1) > 0).sum())
    if config.graph == "none" or n_cells < _FEWEST_GRAPH_CELLS:
        empty = sparse.csr_matrix((len(names), len(names)), dtype=np.float32)
        few = f"gene graph: none, as {n_cells} cells with counts are too few for correlations"
        return GeneGraph(empty, names, "none", {}, () if config.graph == "none" else (few,))
    median = fit_median_library_size(counts)
    if config.graph == "noise":
        factors = size_factors(counts, median_library_size=median)
        cells = factors > 0
        return _expand(
            counts[cells],
            names,
            lambda part, kept_names: noise_corrected_graph(
                part,
                size_factors=factors[cells],
                batch=batch[cells],
                gene_names=kept_names,
                **limits,
            ),
        )
    if config.graph == "pidc":
        graph = _expand(
            counts,
            names,
            lambda part, kept_names: pidc_graph(
                log_normalize(part, median_library_size=median), gene_names=kept_names, **limits
            ),
        )
    else:
        graph = correlation_graph(
            log_normalize(counts, median_library_size=median),
            gene_names=names,
            cells="coexpressed" if config.graph == "coexpressed" else "all",
            **limits,
        )
    if batch.any():
        said = (
            f"gene graph: {graph.source} is taken over all batches together, so that genes which "
            "differ between batches are joined; graph='noise' looks within them"
        )
        graph = graph._replace(notes=(*graph.notes, said))
    return graph


def _expand(
    counts: sparse.csr_matrix,
    names: NDArray[np.str_],
    build: Callable[[sparse.csr_matrix, NDArray[np.str_]], GeneGraph],
) -> GeneGraph:
    """Build a graph over the genes still detected; the others get no edges."""
    genes = np.flatnonzero(detected_genes(counts))
    graph = build(counts[:, genes], names[genes])
    adjacency = spread(graph.adjacency, genes, len(names))
    return graph._replace(adjacency=adjacency, gene_names=names)


def describe_graph(graph: GeneGraph) -> str:
    """One line on the gene graph."""
    degree = np.diff(graph.adjacency.indptr)
    connected = int((degree > 0).sum())
    return (
        f"gene graph ({graph.source}): {graph.n_edges:,} edges, "
        f"{connected:,} of {graph.n_genes:,} genes connected"
    )


def mask_edges(adjacency: sparse.csr_matrix) -> torch.Tensor:
    """Ordered pairs of A and of every gene with itself (its correlation with itself is 1)."""
    with_self = sparse.coo_matrix(adjacency + sparse.eye_array(adjacency.shape[0]))
    return torch.as_tensor(np.stack([with_self.row, with_self.col])).long()


def averaging_operator(adjacency: sparse.csr_matrix) -> sparse.csr_matrix | None:
    """Signed average over neighbours, weighted by absolute correlation; None without edges."""
    if adjacency.nnz == 0:
        return None
    total = np.asarray(abs(adjacency).sum(1)).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total, dtype=float), where=total > 0)
    return sparse.csr_matrix(sparse.diags_array(scale.astype(np.float32)) @ adjacency)
