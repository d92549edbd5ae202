"""A gene network on disk: TSV, GraphML, Cytoscape's .cyjs and SIF."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from graphsci.io import atomic_path
from graphsci.network import _RELATIONS, GeneNetwork, _needed

#: Endings that :func:`write_network` knows.
SUFFIXES = (".tsv", ".graphml", ".cyjs", ".sif")


def write_network(
    network: GeneNetwork, path: str | Path, *, modules: pd.DataFrame | None = None
) -> None:
    """Write a network in the format of the file's ending, complete or not at all.

    Parameters
    ----------
    network
        To be written; genes without an edge are left out.
    path
        ``.tsv``: the edge table. ``.graphml`` (Cytoscape, Gephi, networkx) and ``.cyjs``
        (Cytoscape): edges with all evidence, genes with module, degree and hub rank.
        ``.sif``: gene, ``positive`` or ``negative``, gene.
    modules
        From ``network.find_modules``.

    Raises
    ------
    ValueError
        For another ending, or if networkx is missing (GraphML, cyjs).
    """
    path = Path(path)
    writers = {
        ".tsv": _tsv,
        ".graphml": _graphml,
        ".cyjs": _cyjs,
        ".sif": _sif,
    }
    if path.suffix.lower() not in writers:
        raise ValueError(f"{path}: got the ending {path.suffix!r}, expected {', '.join(SUFFIXES)}.")
    with atomic_path(path) as temporary:
        writers[path.suffix.lower()](network, modules, temporary)


def to_networkx(network: GeneNetwork, modules: pd.DataFrame | None = None) -> Any:
    """Return a ``networkx.Graph``: genes by name, evidence as attributes; NaN is left out."""
    nx = _needed("networkx")
    graph = nx.Graph(name="graphsci")
    facts = {} if modules is None else modules.set_index("gene").to_dict("index")
    for edge in network.edges.to_dict("records"):
        evidence = {str(name): value for name, value in edge.items() if _told(value)}
        ends = evidence.pop("gene_a"), evidence.pop("gene_b")
        graph.add_edge(*ends, weight=abs(edge["refined"]), **evidence)
    for gene in graph:
        graph.nodes[gene]["name"] = str(gene)
        graph.nodes[gene].update(facts.get(gene, {}))
    return graph


def _told(value: Any) -> bool:
    return not (isinstance(value, float) and math.isnan(value))


def _tsv(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    network.edges.to_csv(path, sep="\t", index=False, float_format="%.6g")


def _graphml(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    _needed("networkx").write_graphml(to_networkx(network, modules), path)


def _cyjs(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    nx = _needed("networkx")
    document = nx.cytoscape_data(to_networkx(network, modules))
    path.write_text(json.dumps(document, default=lambda value: value.item()), encoding="utf-8")


def _sif(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    columns = (network.edges[name] for name in ("gene_a", "sign", "gene_b"))
    lines = [f"{a}\t{_RELATIONS[sign]}\t{b}\n" for a, sign, b in zip(*columns, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")
