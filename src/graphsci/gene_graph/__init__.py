"""Gene graphs: who is connected to whom, from edges, from a matrix, or from counts.

``graph`` says what one is and combines several; ``expression`` makes one from correlated
expression, ``pidc`` from partial information decomposition.
"""

from graphsci.gene_graph.expression import correlation_graph, noise_corrected_graph
from graphsci.gene_graph.graph import (
    GeneGraph,
    combine_graphs,
    graph_from_edges,
    graph_from_matrix,
    normalized_adjacency,
    relative_to_strongest,
)
from graphsci.gene_graph.pidc import pidc_graph

__all__ = [
    "GeneGraph",
    "combine_graphs",
    "correlation_graph",
    "graph_from_edges",
    "graph_from_matrix",
    "noise_corrected_graph",
    "normalized_adjacency",
    "pidc_graph",
    "relative_to_strongest",
]
