"""Networks in any format: which it is, and the reader of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from graphsci.prior_knowledge._edge_lists import EDGE_WEIGHTS, is_sif, read_edges
from graphsci.prior_knowledge._gene_sets import MAX_SET_SIZE, edges_of_sets, read_gene_sets
from graphsci.prior_knowledge._regulation import (
    REGULON_SOURCES,
    REGULON_WEIGHTS,
    TRRUST_SIGNS,
    read_regulon,
    read_trrust,
)
from graphsci.prior_knowledge._string import STRING_MIN_SCORE, read_string
from graphsci.prior_knowledge._text import existing, fields, first_lines, reading

Format = Literal["auto", "string", "gmt", "trrust", "regulon", "edges"]
FORMATS: tuple[Format, ...] = get_args(Format)


def read_network(
    path: str | Path,
    *,
    format: Format = "auto",
    symbols: str | Path | None = None,
    min_score: float | None = None,
    confidence: Iterable[str] | None = None,
    max_set_size: int = MAX_SET_SIZE,
) -> pd.DataFrame:
    """Read a prior gene network.

    Parameters
    ----------
    path
        File, gzipped if it ends in ``.gz``.
    format
        One of the table above; ``"auto"`` decides by the first line.
    symbols
        STRING only: its ``protein.info`` or ``protein.aliases`` file, which
        names the proteins. Without it protein ids stay, and match nothing.
    min_score
        Leave out edges with a smaller score. STRING: of 1000, default 700
        ("high confidence"); others: the weight, default none.
    confidence
        Regulons with a ``confidence`` column: levels to keep, e.g. ``"AB"``.
    max_set_size
        GMT only: larger sets are left out, since n genes make n (n - 1) / 2
        edges and membership of a large set says little about a pair.

    Returns
    -------
    pandas.DataFrame
        ``gene_a``, ``gene_b``, ``weight``: for STRING the score / 1000; for
        gene sets the number of sets that hold both genes; for regulons the
        absolute weight; otherwise the third column, or 1. Regulatory networks
        have ``sign`` as well: 1 activation, -1 repression, 0 unknown, and
        ``gene_a`` regulates ``gene_b``. ``attrs["notes"]`` says what was left
        out. Pairs are as in the file: ``graph_from_edges`` merges duplicates.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, empty, not of the stated format, or holds no
        edge after the filters; if an option does not fit the format.
    """
    path = existing(path)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.")
    with reading(path):
        if format == "auto":
            format = _detect(path)
        _check_options(format, symbols=symbols, confidence=confidence)
        if format == "string":
            minimum = STRING_MIN_SCORE if min_score is None else min_score
            table, notes = read_string(path, symbols, minimum)
        elif format == "gmt":
            table, notes = edges_of_sets(read_gene_sets(path), max_set_size)
        elif format == "trrust":
            table, notes = read_trrust(path)
        elif format == "regulon":
            table, notes = read_regulon(path, confidence)
        else:
            table, notes = read_edges(path)
    if min_score is not None and format != "string":
        table, notes = (
            table[table["weight"] >= min_score],
            [*notes, f"weights below {min_score:g} left out"],
        )
    if len(table) == 0:
        raise ValueError(
            f"{path.name} holds no edge{' (' + '; '.join(notes) + ')' if notes else ''}. "
            "Check the file, or relax min_score, confidence or max_set_size."
        )
    table = table.reset_index(drop=True)
    table.attrs["notes"] = tuple(notes)
    table.attrs["format"] = format
    return table


def detect_format(path: str | Path) -> Format:
    """Return the format of a network file, by its name and first line.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, empty, or no text.
    """
    path = existing(path)
    with reading(path):
        return _detect(path)


def _detect(path: Path) -> Format:
    """Decide the format by name and first line."""
    if ".gmt" in path.suffixes:
        return "gmt"
    if is_sif(path):
        return "edges"
    first = first_lines(path)
    if not first:
        raise ValueError(f"{path.name} is empty. Expected a gene network.")
    head, *below = map(fields, first)
    if {"protein1", "protein2"} <= set(first[0].lower().removeprefix("#").split()):
        return "string"
    if set(head) & {*REGULON_WEIGHTS, *EDGE_WEIGHTS}:  # modes in the third column are no weights
        below = []
    if any(line[2:3] and line[2] in TRRUST_SIGNS for line in (head, *below)):
        return "trrust"
    if {"target"} < set(head) and set(REGULON_SOURCES) & set(head):
        return "trrust" if "mode" in head else "regulon"
    return "edges"


def _check_options(format: str, **options: Any) -> None:
    needed = {"symbols": "string", "confidence": "regulon"}
    for name, value in options.items():
        if value is not None and format != needed[name]:
            raise ValueError(
                f"{name} applies to the format {needed[name]!r}, this file is read as {format!r}. "
                "Leave the option out, or name the format."
            )
