"""Prior knowledge about genes: networks and gene sets, read from their usual files.

======================  =====================================================================
``format``              File
======================  =====================================================================
``string``              STRING ``protein.links[.detailed|.full]`` as downloaded
                        (``protein1 protein2 ... combined_score``), with its ``protein.info``
                        or ``protein.aliases`` file to turn protein ids into symbols
``gmt``                 gene sets (CORUM, Reactome, MSigDB): members of a set are connected
``trrust``              TRRUST: TF, target, mode, PubMed ids; with or without a header
``regulon``             DoRothEA and CollecTRI, decoupler's columns ``source``/``tf``,
                        ``target``, ``weight``/``mor``, ``confidence``
``edges``               any TSV or CSV whose first two columns are gene symbols, with a weight
                        in a column of that name, ``score`` or ``combined_score``, or in the
                        third if it is numeric; SIF (gene, relation, gene)
======================  =====================================================================

``format="auto"`` looks at the first lines. All may be gzipped. Lines that begin with ``#`` are
comments wherever they stand, but for a header above the table that does (``#node1``). The result
is an edge table for ``gene_graph.graph_from_edges``.
"""

from graphsci.prior_knowledge._gene_sets import MAX_SET_SIZE, read_gene_sets
from graphsci.prior_knowledge._reading import FORMATS, Format, detect_format, read_network
from graphsci.prior_knowledge._string import STRING_MIN_SCORE

__all__ = [
    "FORMATS",
    "MAX_SET_SIZE",
    "STRING_MIN_SCORE",
    "Format",
    "detect_format",
    "read_gene_sets",
    "read_network",
]
