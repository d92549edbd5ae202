"""The gene network as a result: refined, checked against a null, ranked, exported.

A trained model gives every gene a vector such that the inner product of two vectors is the
strength of their relation (:func:`gene_coordinates`). From it, in blocks of genes and without
any genes x genes matrix:

1. candidates: the strongest partners of every gene, and the edges of the initial graph;
2. evidence for each: initial correlation, refined strength, denoised correlation, prior
   network, stability over models (:func:`refine_network`);
3. a false-discovery rate against genes that are independent by construction: the model is
   trained again with shuffled copies of genes among the real ones (:func:`train_control`).

docs/network.md has the reasons and the measurements.

=============  ===================================================================
``strength``   from a model to a vector per gene
``null``       shuffled genes, and the false-discovery rate they give
``ranking``    the ranked table of edges with its evidence
``posterior``  correlation and variation over draws from the posterior
``modules``    modules, hubs, enrichment
``comparison`` precision and recall against a known network
``files``      TSV, CSV, GraphML, CX2, cyjs, SIF
=============  ===================================================================
"""

from graphsci._choices import FEWEST_LABEL_CELLS, N_NEIGHBORS
from graphsci.network._stored import annotate_network, stored_modules, stored_network
from graphsci.network._table import EDGE_COLUMNS, GeneNetwork, check_confidence
from graphsci.network.comparison import compare_networks
from graphsci.network.files import to_cx2, to_networkx, write_network
from graphsci.network.modules import enrich_modules, find_modules
from graphsci.network.null import Control, train_control
from graphsci.network.posterior import posterior_correlation, posterior_variation
from graphsci.network.ranking import (
    large_groups,
    networks_by_label,
    refine_network,
)
from graphsci.network.strength import Coordinates, gene_coordinates, nearest_pairs

__all__ = [
    "EDGE_COLUMNS",
    "FEWEST_LABEL_CELLS",
    "N_NEIGHBORS",
    "Control",
    "Coordinates",
    "GeneNetwork",
    "annotate_network",
    "check_confidence",
    "compare_networks",
    "enrich_modules",
    "find_modules",
    "gene_coordinates",
    "large_groups",
    "nearest_pairs",
    "networks_by_label",
    "posterior_correlation",
    "posterior_variation",
    "refine_network",
    "stored_modules",
    "stored_network",
    "to_cx2",
    "to_networkx",
    "train_control",
    "write_network",
]
