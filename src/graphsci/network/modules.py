"""Modules of genes that go up and down together, their hubs and what they are enriched in."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphsci._choices import MODULE_CONFIDENCE
from graphsci._optional import needed
from graphsci.network._table import GeneNetwork, positive_relations


def trusted(network: GeneNetwork) -> GeneNetwork:
    """The edges that modules are made of: the confident ones; all if none has a confidence."""
    known = network.edges["confidence"].notna().any()
    return network.confident(MODULE_CONFIDENCE) if known else network


def leiden() -> tuple[Any, Any]:
    """Import what :func:`find_modules` needs, igraph and leidenalg, or say how to get it."""
    igraph, leidenalg = (
        needed(name, "finding modules", "graphsci[network]") for name in ("igraph", "leidenalg")
    )
    return igraph, leidenalg


def find_modules(
    network: GeneNetwork, *, resolution: float = 1.0, min_genes: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Cut a network into modules of genes that go up and down together (Leiden).

    Parameters
    ----------
    network
        Its positive relations are used, weighted by ``refined``. Keep confident edges first:
        ``network.confident(0.9)``.
    resolution
        Larger gives more and smaller modules.
    min_genes
        Smaller modules are no modules.
    seed
        Of the Leiden algorithm.

    Returns
    -------
    pandas.DataFrame
        One row per gene in a module: ``gene``, ``module`` (0 is the largest), ``degree``
        (edges within the module), ``strength`` (their sum), ``hub_rank`` (1 is the strongest).

    References
    ----------
    Traag et al. 2019, doi:10.1038/s41598-019-41695-z.
    """
    igraph, leidenalg = leiden()
    edges = network.edges[positive_relations(network.edges)]
    names = pd.Index(pd.unique(edges[["gene_a", "gene_b"]].to_numpy().ravel()))
    ends = np.column_stack([names.get_indexer(edges["gene_a"]), names.get_indexer(edges["gene_b"])])
    weights = edges["refined"].to_numpy(dtype=np.float64)
    graph = igraph.Graph(n=len(names), edges=ends.tolist())
    partition = leidenalg.find_partition(
        graph,
        leidenalg.RBConfigurationVertexPartition,
        weights=weights.tolist(),
        resolution_parameter=resolution,
        seed=seed,
        n_iterations=-1,
    )
    return _describe_modules(names, np.asarray(partition.membership), ends, weights, min_genes)


def _describe_modules(
    names: pd.Index,
    membership: NDArray[Any],
    ends: NDArray[Any],
    weights: NDArray[np.float64],
    min_genes: int,
) -> pd.DataFrame:
    inside = membership[ends[:, 0]] == membership[ends[:, 1]] if len(ends) else np.zeros(0, bool)
    ends, weights = ends[inside].astype(np.int64).ravel(), np.repeat(weights[inside], 2)
    table = pd.DataFrame(
        {
            "gene": names,
            "module": membership.astype(np.int64),
            "degree": np.bincount(ends, minlength=len(names)),
            "strength": np.bincount(ends, weights=weights, minlength=len(names)),
        }
    )
    sizes = table["module"].value_counts(sort=False).sort_index()
    order = sizes.sort_values(ascending=False, kind="stable")
    order = order[order >= min_genes]
    table = table[table["module"].isin(order.index)].copy()
    table["module"] = table["module"].map({old: new for new, old in enumerate(order.index)})
    table = table.sort_values(
        ["module", "strength", "gene"], ascending=[True, False, True], ignore_index=True
    )
    table["hub_rank"] = table.groupby("module").cumcount() + 1
    return table


def sets_inside(gene_sets: Mapping[str, Iterable[str]], universe: set[str]) -> dict[str, set[str]]:
    """Gene sets within the genes of the data, of two genes or more; refuse if there are none."""
    sets = _inside(gene_sets, universe)
    if not sets:
        example = next((gene for genes in gene_sets.values() for gene in genes), None)
        raise ValueError(
            f"none of {len(gene_sets)} gene sets holds two of the {len(universe)} genes of the "
            f"data (sets: {example!r}; data: {min(universe, default=None)!r}). Check that both "
            "are of the same species and use the same identifiers."
        )
    return sets


def _inside(gene_sets: Mapping[str, Iterable[str]], universe: set[str]) -> dict[str, set[str]]:
    """Parts of two genes or more that gene sets have in a universe."""
    sets = {name: universe.intersection(genes) for name, genes in gene_sets.items()}
    return {name: genes for name, genes in sets.items() if len(genes) >= 2}


def enrich_modules(
    modules: pd.DataFrame,
    gene_sets: Mapping[str, Sequence[str]],
    *,
    background: Sequence[str] | NDArray[np.str_],
    min_overlap: int = 2,
) -> pd.DataFrame:
    """Test each module for each gene set (hypergeometric), Benjamini-Hochberg over all tests.

    The test takes every gene of the background for as likely to be in a module as any other.
    Well-measured genes are likelier, and curated sets hold many of them, so that even random sets
    of well-expressed genes come out significant: read the order of the sets and the overlap, and
    compare with sets of equally expressed genes, rather than trust a small q alone.

    Parameters
    ----------
    modules
        From :func:`find_modules`.
    gene_sets
        Name to genes, e.g. from ``prior_knowledge.read_gene_sets``.
    background
        Genes that could have been in a module: ``network.linked_genes`` of the network that was
        cut. Genes without a relation could not, and would make every set look enriched.
    min_overlap
        Rows with fewer common genes are tested but not listed.

    Returns
    -------
    pandas.DataFrame
        ``module``, ``gene_set``, ``overlap``, ``module_size``, ``set_size``, ``expected``,
        ``p_value``, ``q_value``, ``genes``; smallest p first.

    Warns
    -----
    UserWarning
        If no set holds two genes of the background; the table is empty then.
    """
    universe = set(map(str, background))
    sets = _inside(gene_sets, universe)
    if not sets:
        warnings.warn(
            f"no gene set holds two of the {len(universe)} genes of the background: there is "
            "nothing to test. Are both of one species, and of the same identifiers?",
            stacklevel=2,
        )
    from scipy import stats  # takes long to import

    rows = [
        (module, name, genes & inside, len(inside), len(genes))
        for module, members in modules.groupby("module")["gene"]
        for inside in [universe.intersection(members)]
        for name, genes in sets.items()
    ]
    table = pd.DataFrame(rows, columns=["module", "gene_set", "genes", "module_size", "set_size"])
    table["overlap"] = table["genes"].map(len)
    table["expected"] = table["module_size"] * table["set_size"] / len(universe)
    table["p_value"] = stats.hypergeom.sf(
        table["overlap"].to_numpy(dtype=np.int64) - 1,
        len(universe),
        table["set_size"].to_numpy(dtype=np.int64),
        table["module_size"].to_numpy(dtype=np.int64),
    )
    adjusted = stats.false_discovery_control(table["p_value"]) if len(table) else []
    table["q_value"] = np.asarray(adjusted, dtype=np.float64)
    table["genes"] = table["genes"].map(lambda genes: ",".join(sorted(genes)))
    table = table[table["overlap"] >= min_overlap].sort_values("p_value", kind="stable")
    columns = ["module", "gene_set", "overlap", "module_size", "set_size", "expected"]
    return table[[*columns, "p_value", "q_value", "genes"]].reset_index(drop=True)
