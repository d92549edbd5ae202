"""Edge lists: any table whose first two columns are genes, and SIF."""

from pathlib import Path
from typing import Any

import pandas as pd

from graphsci.prior_knowledge._regulation import TRRUST_SIGNS
from graphsci.prior_knowledge._text import (
    EDGE_HEADERS,
    MISSING,
    Table,
    edge_table,
    has_header,
    numbers,
    read_table,
    refuse_twins,
    with_header,
)

EDGE_WEIGHTS = ("weight", "score", "combined_score")
SIF_SIGNS = {"positive": 1.0, "negative": -1.0} | TRRUST_SIGNS  #: ``write_network`` has the first


def read_edges(path: Path) -> Table:
    """Read any table whose first two columns are genes and whose third may be a weight."""
    frame = read_table(path)
    if frame.shape[1] < 2:
        raise ValueError(
            f"{path.name} has one column; an edge list needs two columns of gene symbols, "
            "separated by tabs or commas."
        )
    if is_sif(path):
        return _edges_of_sif(frame, path), []
    if has_header(frame):
        frame = with_header(frame)
        refuse_twins(frame, ("gene_a", "gene_b", *EDGE_WEIGHTS), path)
    first, second = ("gene_a", "gene_b") if "gene_a" in frame else frame.columns[:2]
    weight, notes = _optional_weight(frame, path)
    return edge_table(frame[first], frame[second], weight), notes


def _edges_of_sif(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Gene, relation, gene; a sign where all relations have one."""
    if frame.shape[1] != 3:
        raise ValueError(
            f"{path.name} has {frame.shape[1]} columns; a SIF file has gene, relation and gene, "
            "one pair a line."
        )
    if EDGE_HEADERS & set(frame.iloc[0].str.strip().str.lower()):
        frame = frame.iloc[1:]
    table, sign = edge_table(frame[0], frame[2], 1.0), frame[1].str.lower().map(SIF_SIGNS)
    return table if sign.isna().any() else table.assign(sign=sign.to_numpy())


def _optional_weight(frame: pd.DataFrame, path: Path) -> tuple[Any, list[str]]:
    """Return the column of weights: by its name, or the third if it holds numbers; else 1."""
    named = [name for name in EDGE_WEIGHTS if name in frame]
    if named:
        return numbers(frame[named[0]], path), []
    if frame.shape[1] < 3:
        return 1.0, []
    third = frame.columns[2]
    is_number = pd.to_numeric(frame[third], errors="coerce").notna()
    if (is_number | frame[third].str.strip().str.lower().isin(MISSING)).all() and is_number.any():
        return numbers(frame[third], path), []  # which refuses what is missing
    name = f"column {third!r}" if isinstance(third, str) else "the third column"
    return 1.0, [f"{name} is not numeric and was not used as weight"]


def is_sif(path: Path) -> bool:
    """Whether a file is Cytoscape's SIF, by its name."""
    return path.name.lower().removesuffix(".gz").endswith(".sif")
