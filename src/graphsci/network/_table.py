"""The result: a ranked table of edges with the evidence for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._choices import MODULE_CONFIDENCE, N_SHOWN_GENES

#: The columns of an edge table, in order.
EDGE_COLUMNS = (
    "gene_a",
    "gene_b",
    "sign",
    "initial_correlation",
    "raw_correlation",
    "refined",
    "probability",
    "denoised_correlation",
    "prior_weight",
    "stability",
    "q_value",
    "confidence",
)


class GeneNetwork(NamedTuple):
    """A refined gene network.

    ``edges`` is ranked, strongest first, a negative relation by half its strength; its columns are

    - ``gene_a``, ``gene_b``, ``sign`` (1 or -1);
    - ``initial_correlation``: weight in the model's gene graph, NaN for a new edge;
    - ``raw_correlation``: Pearson, of the log-normalised counts, over
      ``parameters["n_cells_correlated"]`` cells, 2,000 at most;
    - ``refined``: strength of the relation, from the gene embedding;
    - ``probability``: sigmoid(z_a . z_b), preset ``paper`` (eq. 18); NaN otherwise;
    - ``denoised_correlation``: of the posterior rates, their uncertainty counted as variance,
      over the same cells;
    - ``prior_weight``: in the prior network, 0 if it has no such edge;
    - ``stability``: share of the models that rank the pair as highly, with this sign;
    - ``q_value``: expected share of chance edges (of a gene that follows no other) among this
      edge and all stronger ones;
    - ``confidence``: 1 - ``q_value``.

    Evidence that was not asked for is NaN.
    """

    edges: pd.DataFrame
    gene_names: NDArray[np.str_]  #: (genes,) all genes of the model, isolated ones included
    parameters: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        edges = self.edges
        genes = pd.unique(edges[["gene_a", "gene_b"]].to_numpy().ravel())
        new = edges["initial_correlation"].isna().sum()
        trust = "confidence unknown"
        if edges["confidence"].notna().any():
            sure = (edges["confidence"] >= MODULE_CONFIDENCE).sum()
            trust = f"{sure:,} of confidence {MODULE_CONFIDENCE} or more"
        first = edges.head(3)[["gene_a", "gene_b", "refined"]].itertuples(index=False, name=None)
        strongest = ", ".join(f"{a} - {b} ({strength:.2f})" for a, b, strength in first)
        return (
            f"GeneNetwork: {len(edges):,} edges ({new:,} new; {trust}) "
            f"among {len(genes):,} of {len(self.gene_names):,} genes\n"
            f"strongest: {strongest or 'none'}; all in .edges, {len(self.notes)} in .notes"
        )

    @property
    def n_edges(self) -> int:
        """Number of edges, each counted once."""
        return len(self.edges)

    @property
    def linked_genes(self) -> NDArray[np.str_]:
        """Genes with a positive relation, which can be in a module; in the order of the genes."""
        related = self.edges[positive_relations(self.edges)]
        linked = pd.unique(related[["gene_a", "gene_b"]].to_numpy().ravel())
        return self.gene_names[pd.Index(self.gene_names).isin(linked)]

    def adjacency(self, column: str = "refined") -> sparse.csr_matrix:
        """Return the symmetric (genes, genes) matrix of a column of the table.

        Parameters
        ----------
        column
            A column of numbers, NaN where nothing is known of a pair.
        """
        index = pd.Index(self.gene_names)
        rows, columns = (
            index.get_indexer(pd.Index(self.edges[name])) for name in ("gene_a", "gene_b")
        )
        values = self.edges[column].to_numpy(dtype=np.float32)
        size = (len(index), len(index))
        upper = sparse.coo_matrix((values, (rows, columns)), shape=size)
        return sparse.csr_matrix(upper + upper.T)

    def confident(self, min_confidence: float) -> GeneNetwork:
        """Keep edges of at least this confidence."""
        check_confidence(min_confidence)
        if self.n_edges and self.edges["confidence"].isna().all():
            raise ValueError(
                "min_confidence needs a control: no edge of this network has a confidence. Pass "
                "control=train_control(model, adata)."
            )
        kept = self.edges["confidence"] >= min_confidence
        return self._replace(edges=self.edges[kept].reset_index(drop=True))

    def around(
        self, genes: Sequence[str], *, max_genes: int = N_SHOWN_GENES, max_edges: int | None = None
    ) -> GeneNetwork:
        """Keep chosen genes, their strongest partners up to ``max_genes``, and edges among them.

        The chosen genes take turns, so that one with weaker relations has partners too, and
        edges if only ``max_edges`` are kept.

        Parameters
        ----------
        genes
            Names of the chosen genes.
        max_genes
            Genes that are kept, the chosen ones included.
        max_edges
            Edges that are kept, the strongest; all if None.

        Raises
        ------
        ValueError
            If a gene is not in the network.
        """
        wanted = [genes] if isinstance(genes, str) else list(genes)
        known = set(self.gene_names)
        unknown = [gene for gene in wanted if gene not in known]
        if unknown or not wanted:
            raise ValueError(
                f"genes: {', '.join(map(repr, unknown[:5])) or 'none given'} not among the "
                f"{len(self.gene_names)} genes of the network, e.g. {str(self.gene_names[0])!r}. "
                "Check spelling and case."
            )
        chosen = dict.fromkeys(wanted)
        touching = self.edges[self.edges["gene_a"].isin(wanted) | self.edges["gene_b"].isin(wanted)]
        touching = _by_turns(touching, wanted)
        for pair in zip(touching["gene_a"], touching["gene_b"], strict=True):
            if len(chosen | dict.fromkeys(pair)) <= max_genes:
                chosen |= dict.fromkeys(pair)
        inside = self.edges["gene_a"].isin(chosen) & self.edges["gene_b"].isin(chosen)
        edges = _by_turns(self.edges[inside], wanted).iloc[:max_edges].sort_index()
        names = self.gene_names[np.isin(self.gene_names, list(chosen))]
        return self._replace(edges=edges.reset_index(drop=True), gene_names=names)


def positive_relations(edges: pd.DataFrame) -> pd.Series:
    """Which edges join genes that go up and down together; one of strength 0 joins nothing."""
    return (edges["sign"] > 0) & (edges["refined"] > 0)


def check_confidence(min_confidence: float) -> None:
    """Refuse what is no share."""
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence must be in [0, 1], got {min_confidence}.")


def _by_turns(edges: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """Order ranked edges: the first of each of these genes, their second ones, ..., the others."""
    turn = np.full(len(edges), len(edges))
    for gene in genes:
        own = np.flatnonzero((edges["gene_a"] == gene) | (edges["gene_b"] == gene))
        turn[own] = np.minimum(turn[own], np.arange(len(own)))
    return edges.iloc[np.argsort(turn, kind="stable")]
