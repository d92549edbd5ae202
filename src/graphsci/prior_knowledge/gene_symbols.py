"""Gene symbols of a known network found among the genes of the data."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from graphsci.gene_graph._inputs import examples

CHANCE_SHARE = 0.01  #: below it matches are accidents (names of one letter, digits)
CASE_SHARE = 0.8  #: share of symbols in one style that shows a species' convention


class MatchedEdges(NamedTuple):
    """Edges between genes of the data, and how well the symbols matched."""

    edges: pd.DataFrame  #: as ``read_network``, symbols as the data spell them
    n_network_genes: int  #: genes the network names
    n_matched_genes: int  #: of these, genes of the data
    n_network_edges: int
    notes: tuple[str, ...]  #: what a user should be told


def match_symbols(
    edges: pd.DataFrame, gene_names: ArrayLike, *, ignore_case: bool = False
) -> MatchedEdges:
    """Keep the edges between genes of the data and say how well the symbols fit.

    Parameters
    ----------
    edges
        With ``gene_a`` and ``gene_b``.
    gene_names
        (genes,): the genes of the data.
    ignore_case
        Match TP53 with Tp53. Human and mouse orthologs mostly share their
        symbol up to case, but not always: this is your decision, never made
        silently. Genes of the data that differ in case alone stay unmatched.

    Returns
    -------
    MatchedEdges

    Raises
    ------
    ValueError
        If no edge joins two genes of the data, or under 1 % of the symbols
        match and case is the reason. The message says so when the network
        looks human and the genes look mouse, or the reverse, and when it holds
        protein or Ensembl ids.
    """
    missing = {"gene_a", "gene_b"} - set(edges.columns)
    if missing:
        raise ValueError(
            f"The edge table lacks {sorted(missing)}; it has {list(edges.columns)}. "
            "Rename its columns to gene_a and gene_b."
        )
    names = np.asarray(gene_names).astype(str)
    both = pd.concat([edges["gene_a"], edges["gene_b"]], ignore_index=True)
    network = np.asarray(pd.unique(both.astype(str)))
    spelling = _spelling(network, names, ignore_case)
    matched = edges.assign(
        gene_a=edges["gene_a"].astype(str).map(spelling),
        gene_b=edges["gene_b"].astype(str).map(spelling),
    ).dropna(subset=["gene_a", "gene_b"])
    problem = None if ignore_case else _case_problem(network, names, spelling)
    if len(matched) == 0:
        raise ValueError(_nothing_matched(network, names, problem))
    if problem and len(spelling) < CHANCE_SHARE * len(network):
        raise ValueError(problem)
    n_matched = len(spelling)
    notes = [
        f"{n_matched} of {len(network)} genes of the network ({n_matched / len(network):.0%}) and "
        f"{len(matched)} of {len(edges)} edges are in the data"
    ]
    if ignore_case:
        respelled = sum(theirs != ours for theirs, ours in spelling.items())
        notes.append(f"{respelled} symbols matched by ignoring case")
    if problem:
        notes.append(problem)
    return MatchedEdges(
        matched.reset_index(drop=True), len(network), n_matched, len(edges), tuple(notes)
    )


def _spelling(network: ArrayLike, names: NDArray[np.str_], ignore_case: bool) -> dict[str, str]:
    """Map the network's symbols to the data's; unmatched ones are absent."""
    exact = set(names)
    if not ignore_case:
        return {str(gene): str(gene) for gene in np.asarray(network) if gene in exact}
    lower = pd.Series(names, index=pd.Series(names).str.lower())
    lower = lower[~lower.index.duplicated(keep=False)]  # ambiguous by case
    found = {
        gene: gene if gene in exact else lower.get(gene.lower()) for gene in np.asarray(network)
    }
    return {str(theirs): str(ours) for theirs, ours in found.items() if ours is not None}


def _case_problem(
    network: ArrayLike, names: NDArray[np.str_], spelling: dict[str, str]
) -> str | None:
    """Say so if ignoring case would match at least twice as many genes."""
    loose = len(_spelling(network, names, True))
    if loose == 0 or loose < 2 * len(spelling):
        return None
    theirs, ours = _species_style(np.asarray(network)), _species_style(names)
    looks = (
        f"This looks like a {theirs} network for {ours} genes"
        if theirs and ours and theirs != ours
        else "Symbols differ in upper and lower case"
    )
    return (
        f"{looks}: {loose} of {len(np.asarray(network))} symbols would match if case were ignored, "
        f"{len(spelling)} match as written. Use a network of the right species, or pass "
        "ignore_case=True (match_symbols, read_known_networks; --ignore-case on the command line) "
        "if orthologs of the same name will do."
    )


def _species_style(symbols: ArrayLike) -> str | None:
    """Return human for upper-case symbols (TP53), mouse for Title case (Trp53)."""
    series = pd.Series(np.asarray(symbols)).astype(str)
    series = series[series.str.contains(r"[A-Za-z]{2}")]
    if len(series) == 0:
        return None
    # C1orf112 and Rik genes break the rule; the majority keeps it
    if (series == series.str.upper()).mean() >= CASE_SHARE:
        return "human"
    titled = series.str.match(r"[A-Z][a-z0-9.\-]*$")
    return "mouse" if titled.mean() >= CASE_SHARE else None


def _nothing_matched(network: ArrayLike, names: NDArray[np.str_], problem: str | None) -> str:
    genes = np.asarray(network)
    start = (
        f"No edge of the network joins two genes of the data (network: {examples(genes)}; "
        f"data: {examples(names)}). "
    )
    if problem:
        return start + problem
    if pd.Series(genes[:100]).str.contains(r"^\d+\.ENS\w*P\d").mean() > 0.5:
        return start + (
            "The network names STRING proteins: pass STRING's protein.info file as symbols."
        )
    for label, values in (("network", genes), ("data", names)):
        if pd.Series(values[:100]).str.contains(r"^ENS[A-Z]*G\d").mean() > 0.5:
            return start + f"The {label} uses Ensembl ids: convert them to gene symbols first."
    return start + "Check that both are of the same species and use gene symbols."
