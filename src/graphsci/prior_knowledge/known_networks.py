"""Known networks over the genes of the data, from files or as a user has them: one graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from graphsci.gene_graph.graph import (
    GeneGraph,
    combine_graphs,
    graph_from_edges,
    graph_from_matrix,
    relative_to_strongest,
)
from graphsci.prior_knowledge import detect_format, read_network
from graphsci.prior_knowledge.gene_symbols import match_symbols


def read_known_networks(
    paths: Sequence[str | Path],
    gene_names: ArrayLike,
    *,
    symbols: str | Path | None = None,
    ignore_case: bool = False,
) -> GeneGraph:
    """Read one or more known networks and join them into one graph.

    Parameters
    ----------
    paths
        Files that ``prior_knowledge.read_network`` knows: STRING, GMT, TRRUST, a regulon, or edges.
    gene_names
        (genes,): the genes of the data.
    symbols
        For STRING files: its ``protein.info`` or ``protein.aliases`` file.
    ignore_case
        Match TP53 with Tp53.

    Returns
    -------
    GeneGraph
        Edges of any file. With one file its own weights; with several each file's are divided
        by their largest and averaged, an absent edge counting as 0. ``notes`` says, by file,
        what was left out and how many symbols matched.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``read_network`` and ``match_symbols``: another species, other identifiers, no
        overlap; if ``symbols`` is given and no file is STRING's.
    """
    files = [Path(path) for path in paths]
    formats = [detect_format(path) for path in files]
    if symbols is not None:
        check_symbols(symbols, formats)
    tables = [
        read_network(path, format=kind, symbols=symbols if kind == "string" else None)
        for path, kind in zip(files, formats, strict=True)
    ]
    graphs = [
        _graph(table, path.name, gene_names, ignore_case)
        for table, path in zip(tables, files, strict=True)
    ]
    if len(graphs) == 1:
        return graphs[0]
    return combine_graphs([relative_to_strongest(graph) for graph in graphs])


def check_symbols(symbols: str | Path, formats: Sequence[str]) -> None:
    """Refuse names of STRING's proteins for networks none of which is STRING's."""
    if "string" not in formats:
        raise ValueError(
            f"symbols: {Path(symbols).name} names STRING's proteins, but no network is STRING's "
            f"(read as {', '.join(formats)}). Leave it out."
        )


def user_graph(graph: Any, gene_names: NDArray[np.str_]) -> GeneGraph:
    """Return the graph that a user gives for the genes ``gene_names``, checked.

    Parameters
    ----------
    graph
        A :class:`~graphsci.gene_graph.GeneGraph` over just these genes, a (genes, genes) matrix,
        sparse or dense, or a table of edges, which is matched by name.
    gene_names
        (genes,): the genes of the data.

    Raises
    ------
    ValueError, TypeError
        It is over other genes, no gene of the table is among them, or it is none of these.
    """
    if isinstance(graph, GeneGraph):
        if len(graph.gene_names) != len(gene_names) or not np.array_equal(
            graph.gene_names, gene_names
        ):
            raise ValueError(
                "gene_graph: its genes differ from adata.var_names. Build it over the same genes "
                "in the same order, or give a table of edges, which is matched by name."
            )
        checked = graph_from_matrix(graph.adjacency, gene_names=gene_names)
        return graph._replace(adjacency=checked.adjacency, notes=graph.notes + checked.notes)
    if isinstance(graph, pd.DataFrame):
        matched = match_symbols(graph, gene_names)
        found = graph_from_edges(matched.edges, gene_names=gene_names)
        return found._replace(notes=(*matched.notes, *found.notes))
    is_dense = isinstance(graph, np.ndarray) and graph.ndim == 2 and graph.dtype.kind in "biuf"
    if is_dense or sparse.issparse(graph):
        return graph_from_matrix(graph, gene_names=gene_names)
    raise TypeError(
        f"gene_graph: got {type(graph).__name__}, expected a GeneGraph, a (genes, genes) matrix "
        "of numbers, sparse or dense, or a DataFrame of edges."
    )


def _graph(table: pd.DataFrame, name: str, gene_names: ArrayLike, ignore_case: bool) -> GeneGraph:
    try:
        matched = match_symbols(table, gene_names, ignore_case=ignore_case)
        graph = graph_from_edges(matched.edges, gene_names=gene_names, source=name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return graph._replace(notes=(*table.attrs["notes"], *matched.notes, *graph.notes))
