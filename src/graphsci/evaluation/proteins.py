"""Surface proteins as truth: the rank correlation of a gene with the protein that it makes.

Antibodies count other molecules of the same cells, so no method can overfit to them; they have a
scale and an error of their own, so that ranks alone are compared.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsci.evaluation import metrics
from graphsci.predictions import Floats, Matrix, as_dense

#: The gene of surface proteins that one gene decides, by antibody name without its panel's
#: suffix; HGNC symbols. Left out: CD15 (a sugar), CD45RA and CD45RO (splice forms of one gene).
PROTEIN_GENES = {
    "CD2": "CD2",
    "CD3": "CD3E",
    "CD4": "CD4",
    "CD5": "CD5",
    "CD8": "CD8A",
    "CD8A": "CD8A",
    "CD10": "MME",
    "CD11B": "ITGAM",
    "CD11C": "ITGAX",
    "CD14": "CD14",
    "CD16": "FCGR3A",
    "CD19": "CD19",
    "CD20": "MS4A1",
    "CD25": "IL2RA",
    "CD27": "CD27",
    "CD28": "CD28",
    "CD34": "CD34",
    "CD38": "CD38",
    "CD56": "NCAM1",
    "CD57": "B3GAT1",
    "CD62L": "SELL",
    "CD69": "CD69",
    "CD80": "CD80",
    "CD86": "CD86",
    "CD127": "IL7R",
    "CD137": "TNFRSF9",
    "CD161": "KLRB1",
    "CD197": "CCR7",
    "CCR7": "CCR7",
    "CD274": "CD274",
    "CD278": "ICOS",
    "CD335": "NCR1",
    "PD-1": "PDCD1",
    "HLA-DR": "HLA-DRA",
    "TIGIT": "TIGIT",
}


class ProteinPairs(NamedTuple):
    """Proteins and the genes that make them."""

    proteins: NDArray[np.int64]  #: (pairs,) positions among the proteins
    genes: NDArray[np.int64]  #: (pairs,) positions among the genes
    names: tuple[str, ...]  #: (pairs,) gene symbols


def match_proteins(*, proteins: Sequence[str], genes: Sequence[str]) -> ProteinPairs:
    """Match antibodies to the genes of their proteins, by :data:`PROTEIN_GENES`.

    Parameters
    ----------
    proteins
        Names of antibodies; what follows an underscore (``CD3_TotalSeqB``) is ignored.
    genes
        Gene symbols of the data.

    Raises
    ------
    ValueError
        If no pair is found.
    """
    place = {gene: index for index, gene in enumerate(genes)}
    wanted = [PROTEIN_GENES.get(name.split("_")[0].upper()) for name in proteins]
    found = [
        (index, place[gene], gene)
        for index, gene in enumerate(wanted)
        if gene is not None and gene in place
    ]
    if not found:
        raise ValueError(
            f"none of {len(proteins)} antibodies could be matched to {len(place)} genes, expected "
            "names such as CD3 or CD3_TotalSeqB and human gene symbols."
        )
    protein, gene, names = zip(*found, strict=True)
    return ProteinPairs(np.array(protein), np.array(gene), names)


def centred_log_ratio(counts: Matrix) -> Floats:
    """Return ``log1p(x) - mean over proteins of log1p(x)``, each cell by itself.

    Parameters
    ----------
    counts
        Antibody counts (cells, proteins), all of the panel.

    References
    ----------
    Stoeckius et al. 2017, doi:10.1038/nmeth.4380.
    """
    logs = np.log1p(as_dense(counts))
    return logs - logs.mean(1, keepdims=True)


def protein_rna_correlation(*, expression: Matrix, proteins: Matrix) -> Floats:
    """Return Spearman's correlation over cells of each gene with its own protein, (pairs,).

    Both vary between cell types, so an estimate that knows the type alone scores well; repeat it
    within a type to see more.

    Parameters
    ----------
    expression
        Estimates (cells, pairs), the genes of :func:`match_proteins` in their order, normalised.
    proteins
        (cells, pairs), see :func:`centred_log_ratio`.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    return metrics.spearman_per_gene(estimate=expression, truth=proteins)
