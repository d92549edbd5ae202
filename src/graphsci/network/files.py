"""A gene network on disk: TSV, CSV, GraphML, Cytoscape's CX2 and .cyjs, and SIF."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from graphsci._optional import networkx
from graphsci.io.files import atomic_path
from graphsci.network._table import GeneNetwork

#: Relation words of SIF and Cytoscape files.
_RELATIONS = {1: "positive", -1: "negative"}
#: Data types of CX2 attributes.
_CX2_TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}


def write_network(
    network: GeneNetwork, path: str | Path, *, modules: pd.DataFrame | None = None
) -> None:
    """Write a network in the format of the file's ending, complete or not at all.

    Parameters
    ----------
    network
        To be written; genes without an edge are left out.
    path
        ``.tsv`` (tabs) and ``.csv`` (commas): the edge table. ``.graphml`` (Cytoscape, Gephi,
        networkx), ``.cx2`` (Cytoscape 3.10 and newer, Cytoscape Web, NDEx) and ``.cyjs``
        (Cytoscape): edges with all evidence, genes with module, degree and hub rank. ``.sif``:
        gene, ``positive`` or ``negative``, gene.
    modules
        From :func:`~graphsci.network.find_modules`.

    Raises
    ------
    ValueError
        For another ending.
    ImportError
        If networkx is missing (GraphML, cyjs).

    References
    ----------
    CX2: https://cytoscape.org/cx/cx2/specification
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"{path}: got the ending {path.suffix!r}, expected {', '.join(SUFFIXES)}.")
    with atomic_path(path) as temporary:
        writer(network, modules, temporary)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table with commas to ``.csv``, with tabs otherwise."""
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    table.to_csv(path, sep=separator, index=False, float_format="%.6g")


def to_networkx(network: GeneNetwork, modules: pd.DataFrame | None = None) -> Any:
    """Return a ``networkx.Graph``: genes by name, evidence as attributes; NaN is left out.

    Parameters
    ----------
    network
        To be turned; genes without an edge are left out.
    modules
        From :func:`~graphsci.network.find_modules`: attributes of the genes.
    """
    graph = networkx().Graph(name="graphsci")
    for gene_a, gene_b, evidence in _edges(network):
        graph.add_edge(gene_a, gene_b, **evidence)
    facts = _gene_facts(modules)
    for gene in graph:
        graph.nodes[gene].update({"name": str(gene), **facts.get(gene, {})})
    return graph


def to_cx2(network: GeneNetwork, modules: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Return the network as a CX2 document: a list of aspects, ready for ``json.dump``.

    Parameters
    ----------
    network
        To be written; genes without an edge are left out.
    modules
        From :func:`~graphsci.network.find_modules`: attributes of the genes.
    """
    edges = list(_edges(network))
    number = {
        gene: i for i, gene in enumerate(dict.fromkeys(g for a, b, _ in edges for g in (a, b)))
    }
    facts = _gene_facts(modules)
    nodes: list[dict[str, Any]] = [
        {"id": i, "v": {"name": gene, **facts.get(gene, {})}} for gene, i in number.items()
    ]
    links: list[dict[str, Any]] = [
        {"id": i, "s": number[a], "t": number[b], "v": {"interaction": _relation(v), **v}}
        for i, (a, b, v) in enumerate(edges)
    ]
    about = {"name": "graphsci", **_plain(network.parameters)}
    aspects = {
        "attributeDeclarations": [
            {
                "networkAttributes": _declared([about]),
                "nodes": _declared(node["v"] for node in nodes),
                "edges": _declared(link["v"] for link in links),
            }
        ],
        "networkAttributes": [about],
        "nodes": nodes,
        "edges": links,
    }
    counts = [{"name": name, "elementCount": len(found)} for name, found in aspects.items()]
    return [
        {"CXVersion": "2.0", "hasFragments": False},
        {"metaData": counts},
        *({name: found} for name, found in aspects.items()),
        {"status": [{"success": True, "error": ""}]},
    ]


def _edges(network: GeneNetwork) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Yield gene, gene and the evidence that there is, in plain Python values."""
    for edge in network.edges.to_dict("records"):
        evidence = _plain({str(name): value for name, value in edge.items()})
        ends = evidence.pop("gene_a"), evidence.pop("gene_b")
        yield *ends, {"weight": abs(evidence["refined"]), **evidence}


def _gene_facts(modules: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    if modules is None:
        return {}
    # edges within the module, in the whole network: not those of what is written
    renamed = modules.rename(columns={"degree": "module_degree"})
    facts = renamed.set_index("gene").to_dict("index")
    return {str(gene): _plain(values) for gene, values in facts.items()}


def _plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Numpy scalars as Python's; None and NaN are left out."""
    plain = {str(k): v.item() if hasattr(v, "item") else v for k, v in values.items()}
    return {name: value for name, value in plain.items() if _told(value)}


def _told(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _relation(evidence: Mapping[str, Any]) -> str:
    return _RELATIONS[evidence["sign"]]


def _declared(values: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Name and type of every attribute."""
    kinds: dict[str, type] = {}
    for attributes in values:
        kinds |= {name: type(value) for name, value in attributes.items() if name not in kinds}
    return {name: {"d": _CX2_TYPES[kind]} for name, kind in kinds.items()}


def _table(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    write_table(network.edges, path)


def _graphml(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    networkx().write_graphml(to_networkx(network, modules), path)


def _cx2(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    path.write_text(json.dumps(to_cx2(network, modules)), encoding="utf-8")


def _cyjs(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    document = networkx().cytoscape_data(to_networkx(network, modules))
    path.write_text(json.dumps(document), encoding="utf-8")


def _sif(network: GeneNetwork, modules: pd.DataFrame | None, path: Path) -> None:
    columns = (network.edges[name] for name in ("gene_a", "sign", "gene_b"))
    lines = [f"{a}\t{_RELATIONS[sign]}\t{b}\n" for a, sign, b in zip(*columns, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")


_WRITERS: Mapping[str, Callable[[GeneNetwork, pd.DataFrame | None, Path], None]] = {
    ".tsv": _table,
    ".csv": _table,
    ".graphml": _graphml,
    ".cx2": _cx2,
    ".cyjs": _cyjs,
    ".sif": _sif,
}
#: Endings that :func:`write_network` knows.
SUFFIXES = tuple(_WRITERS)
