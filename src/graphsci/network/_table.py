"""The result: a ranked table of edges with the evidence for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._annotation import annotate_genes
from graphsci._edges import spread
from graphsci._keys import DEFAULT_KEY, keys

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.imputer import GraphSCI

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
    - ``raw_correlation``: Pearson, of the log-normalised counts;
    - ``refined``: strength of the relation, from the gene embedding;
    - ``probability``: sigmoid(z_a . z_b), preset ``paper`` (eq. 18); NaN otherwise;
    - ``denoised_correlation``: of the posterior rates, their uncertainty counted as variance;
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
        """Return the symmetric (genes, genes) matrix of a column of the table."""
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
        self, genes: Sequence[str], *, max_genes: int = 50, max_edges: int | None = None
    ) -> GeneNetwork:
        """Keep chosen genes, their strongest partners up to ``max_genes``, and edges among them.

        The chosen genes take turns, so that one with weaker relations has partners too, and
        edges if only ``max_edges`` are kept.

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


def annotate_network(
    adata: AnnData,
    network: GeneNetwork,
    *,
    modules: pd.DataFrame | None = None,
    model: GraphSCI | None = None,
    key_added: str = DEFAULT_KEY,
) -> None:
    """Write a network where :func:`stored_network` finds it again.

    Written are ``varp[key_added + "_network"]``, the matrix of strengths, and ``uns`` of that
    name, a dictionary of ``edges`` (the table), ``parameters`` and ``notes``.

    Parameters
    ----------
    adata
        Genes that the network does not have get no edges.
    network
        From :func:`~graphsci.network.refine_network`.
    modules
        From :func:`~graphsci.network.find_modules`; written to ``var[key_added + "_module"]``,
        -1 outside of modules; None removes those of an earlier network.
    model
        That the network is of. What it learned of genes, its gene graph included, is written as
        ``graphsci.tl.impute`` does, unless ``adata`` has a run of this name.
    key_added
        Name of the run.
    """
    slots = keys(key_added)
    position = pd.Index(network.gene_names).get_indexer(adata.var_names)
    known = np.flatnonzero(position >= 0)
    strengths = network.adjacency()[position[known]][:, position[known]]
    adata.varp[slots.network] = spread(strengths, known, adata.n_vars)
    adata.uns[slots.network] = {
        "edges": network.edges,
        "parameters": network.parameters,
        "notes": list(network.notes),
    }
    adata.var.drop(columns=slots.module, errors="ignore", inplace=True)
    if modules is not None:
        module = modules.set_index("gene")["module"]
        values = module.reindex(adata.var_names).fillna(-1).to_numpy(dtype=np.int64)
        adata.var[slots.module] = values
    if model is not None and slots.uns not in adata.uns:
        annotate_genes(model, adata, slots)


def stored_network(adata: AnnData, key_added: str = DEFAULT_KEY) -> GeneNetwork:
    """Return the network that :func:`annotate_network` wrote, also after a file was read.

    Its genes are those of ``adata``: in a part of the genes, edges to others are left out.

    Raises
    ------
    ValueError
        If there is none.
    """
    slot = keys(key_added).network
    if slot not in adata.uns:
        raise ValueError(
            f"adata.uns has no network {slot!r}; it has "
            f"{', '.join(map(repr, adata.uns)) or 'nothing'}. Run graphsci.tl.gene_network first, "
            "or give the key of its run."
        )
    record = adata.uns[slot]
    edges = record["edges"]
    inside = edges["gene_a"].isin(adata.var_names) & edges["gene_b"].isin(adata.var_names)
    return GeneNetwork(
        edges[inside].reset_index(drop=True),
        np.asarray(adata.var_names, dtype=np.str_),
        dict(record["parameters"]),
        tuple(map(str, record["notes"])),
    )


def stored_modules(adata: AnnData, key_added: str = DEFAULT_KEY) -> pd.DataFrame | None:
    """Return ``gene`` and ``module`` as :func:`annotate_network` wrote them, None without any."""
    column = keys(key_added).module
    if column not in adata.var:
        return None
    found = adata.var[column][adata.var[column] >= 0]
    return pd.DataFrame({"gene": found.index, "module": found.to_numpy()})
