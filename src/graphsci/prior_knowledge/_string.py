"""STRING: links between proteins, and the genes that these are of."""

from pathlib import Path
from typing import Any

import pandas as pd

from graphsci.prior_knowledge._text import (
    Table,
    edge_table,
    existing,
    first_lines,
    reading,
    require,
)

STRING_MIN_SCORE = 700  #: STRING's own "high confidence", of 1000
#: Sources of aliases that are symbols, best first; what they hold differs by species and version.
STRING_SYMBOL_SOURCES = (
    *("Ensembl_HGNC_symbol", "Ensembl_gene_name", "Ensembl_EntrezGene"),
    *("Ensembl_MGI", "UniProt_GN_Name", "BLAST_UniProt_GN_Name"),
)
_ACCESSION = r"|\d+|[A-Z]+:.*"  #: aliases that are no symbol: none, 14460, MGI:95661
CHUNK_ROWS = 1_000_000  #: STRING's human file has 14 million rows; most score low


def read_string(path: Path, symbols: str | Path | None, min_score: float) -> Table:
    """Read STRING's protein.links, in chunks: the human file has 14 million rows."""
    kept, total = [], 0
    columns = ("protein1", "protein2", "combined_score")
    head = next(iter(first_lines(path)), "")
    marked = {"names": head[1:].split(), "header": None} if head.startswith("#") else {}
    options: dict[str, Any] = {"sep": r"\s+", "comment": "#", "chunksize": CHUNK_ROWS, **marked}
    with pd.read_csv(path, usecols=lambda name: name in columns, **options) as chunks:
        for chunk in chunks:
            require(chunk, columns, path)
            if not pd.api.types.is_numeric_dtype(chunk["combined_score"]):
                raise ValueError(
                    f"{path.name} has values of combined_score that are no numbers. Take "
                    "STRING's file of links as it is, or name the right format."
                )
            total += len(chunk)
            kept.append(chunk.loc[chunk["combined_score"] >= min_score])
    links = pd.concat(kept)
    notes = []
    if len(links) < total:
        notes.append(
            f"{total - len(links)} of {total} edges with a score below {min_score:g} left out"
        )
    table = edge_table(links["protein1"], links["protein2"], links["combined_score"] / 1000)
    if symbols is None:
        return table, notes
    return _name_proteins(table, existing(symbols), notes)


def _name_proteins(table: pd.DataFrame, path: Path, notes: list[str]) -> Table:
    """Replace STRING protein ids by gene symbols; edges of unnamed proteins are left out."""
    naming = _protein_symbols(path)
    named = table.assign(gene_a=table["gene_a"].map(naming), gene_b=table["gene_b"].map(naming))
    named = named.dropna(subset=["gene_a", "gene_b"])
    if len(named) == 0 and len(table):
        raise ValueError(
            f"{path.name} names none of the proteins, e.g. {table['gene_a'].iloc[0]!r}; it has "
            f"{next(iter(naming), None)!r}. Use the file of the same species and STRING version."
        )
    if len(named) < len(table):
        notes = [*notes, f"{len(table) - len(named)} edges of proteins without a symbol left out"]
    return named, notes


def _protein_symbols(path: Path) -> dict[str, str]:
    """Read STRING's protein.info (preferred name) or protein.aliases (symbol sources)."""
    with reading(path):
        frame = pd.read_csv(path, sep="\t", dtype=str, quoting=3, keep_default_na=False)
    frame.columns = frame.columns.str.lstrip("#")
    if {"string_protein_id", "preferred_name"} <= set(frame.columns):
        return dict(zip(frame["string_protein_id"], frame["preferred_name"], strict=True))
    if {"string_protein_id", "alias", "source"} <= set(frame.columns):
        rank = {source: position for position, source in enumerate(STRING_SYMBOL_SOURCES)}
        is_symbol = ~frame["alias"].str.fullmatch(_ACCESSION)
        frame = frame[frame["source"].isin(list(rank)) & is_symbol]
        frame = frame.sort_values("source", key=lambda s: s.map(rank), kind="stable")
        frame = frame.drop_duplicates("string_protein_id")
        return dict(zip(frame["string_protein_id"], frame["alias"], strict=True))
    raise ValueError(
        f"{path.name} is neither STRING's protein.info (columns string_protein_id, "
        "preferred_name) nor protein.aliases (string_protein_id, alias, source); it has "
        f"{list(frame.columns)[:5]}."
    )
