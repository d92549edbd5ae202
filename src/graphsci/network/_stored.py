"""A network in an AnnData, and back: that of all cells, and those of groups of cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graphsci._imputing.annotation import annotate_genes
from graphsci._keys import DEFAULT_KEY, keys
from graphsci._words import few
from graphsci.gene_graph._edges import spread
from graphsci.network._table import EDGE_COLUMNS, GeneNetwork

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.imputer import GraphSCI


def annotate_network(
    adata: AnnData,
    network: GeneNetwork,
    *,
    modules: pd.DataFrame | None = None,
    by_label: Mapping[str, GeneNetwork] | None = None,
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
    by_label
        From :func:`~graphsci.network.networks_by_label`; written to
        ``uns[key_added + "_network_by_label"]``, a dictionary of three tables that have a column
        ``label``: ``edges`` (all networks, one below the other), ``parameters`` (one row for
        each) and ``notes``. None removes those of an earlier network.
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
    adata.uns.pop(slots.networks_by_label, None)
    if by_label:
        adata.uns[slots.networks_by_label] = _tables(by_label)
    adata.var.drop(columns=slots.module, errors="ignore", inplace=True)
    if modules is not None:
        module = modules.set_index("gene")["module"]
        values = module.reindex(adata.var_names).fillna(-1).to_numpy(dtype=np.int64)
        adata.var[slots.module] = values
    if model is not None and slots.uns not in adata.uns:
        annotate_genes(model, adata, slots)


def stored_network(
    adata: AnnData, key_added: str = DEFAULT_KEY, *, label: str | None = None
) -> GeneNetwork:
    """Return the network that :func:`annotate_network` wrote, also after a file was read.

    Its genes are those of ``adata``: in a part of the genes, edges to others are left out.

    Parameters
    ----------
    adata, key_added
        Where it was written, and the name of its run.
    label
        Group of cells whose network is meant; that of all cells if None.

    Raises
    ------
    ValueError
        If there is none, or none of this group.
    """
    slots = keys(key_added)
    slot = slots.network if label is None else slots.networks_by_label
    if slot not in adata.uns:
        options = "" if label is None else " with label_key"
        raise ValueError(
            f"adata.uns has no network {slot!r}; it has "
            f"{', '.join(map(repr, adata.uns)) or 'nothing'}. Run graphsci.tl.gene_network"
            f"{options} first, or give the key of its run."
        )
    record = adata.uns[slot]
    if label is not None:
        record = _of_label(record, str(label))
    edges = record["edges"]
    inside = edges["gene_a"].isin(adata.var_names) & edges["gene_b"].isin(adata.var_names)
    return GeneNetwork(
        edges[inside].reset_index(drop=True),
        np.asarray(adata.var_names, dtype=np.str_),
        dict(record["parameters"]),
        tuple(map(str, record["notes"])),
    )


def stored_modules(adata: AnnData, key_added: str = DEFAULT_KEY) -> pd.DataFrame | None:
    """Return ``gene`` and ``module`` as :func:`annotate_network` wrote them, None without any.

    Parameters
    ----------
    adata, key_added
        Where they were written, and the name of the run.
    """
    column = keys(key_added).module
    if column not in adata.var:
        return None
    found = adata.var[column][adata.var[column] >= 0]
    return pd.DataFrame({"gene": found.index, "module": found.to_numpy()})


def edges_by_label(networks: Mapping[str, GeneNetwork]) -> pd.DataFrame:
    """Return the edges of all networks in one table, the first column their ``label``."""
    tables = [network.edges.assign(label=label) for label, network in networks.items()]
    return pd.concat(tables, ignore_index=True)[["label", *EDGE_COLUMNS]]


def _tables(networks: Mapping[str, GeneNetwork]) -> dict[str, pd.DataFrame]:
    """As :func:`annotate_network` writes them: a label may have a slash, and no name in a file."""
    told = [(label, note) for label, network in networks.items() for note in network.notes]
    facts = [{"label": label, **network.parameters} for label, network in networks.items()]
    return {
        "edges": edges_by_label(networks).astype({"label": "category"}),
        "parameters": pd.DataFrame(facts).assign(label=list(networks)),
        "notes": pd.DataFrame(told, columns=["label", "note"], dtype=object),
    }


def _of_label(tables: Mapping[str, pd.DataFrame], label: str) -> dict[str, Any]:
    """Return what is stored of one network, as that of all cells is."""
    labels = tables["parameters"]["label"].astype(str)
    if label not in set(labels):
        raise ValueError(
            f"label: no network of {label!r}; there are those of {few([*map(repr, labels)])}."
        )
    own = {name: table[table["label"].astype(str) == label] for name, table in tables.items()}
    return {
        "edges": own["edges"].drop(columns="label"),
        "parameters": own["parameters"].iloc[0].to_dict(),
        "notes": own["notes"]["note"],
    }
