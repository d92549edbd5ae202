"""Genes of new cells, matched by name with those of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._words import few
from graphsci.preprocessing._entries import select_entries
from graphsci.preprocessing._types import Names
from graphsci.preprocessing.names import checked_names


class GeneMatch(NamedTuple):
    """Where each reference gene stands among other names; see :func:`match_genes`."""

    positions: NDArray[np.int64]  #: (reference genes,) index into names, -1 when missing
    n_matched: int
    missing: tuple[str, ...]  #: reference genes that names lacks
    extra: tuple[str, ...]  #: names that the reference lacks

    def summary(self) -> str:
        """One sentence on what matched, what was not measured and what the model lacks."""
        text = f"{self.n_matched:,} of {len(self.positions):,} genes matched by name"
        if self.missing:
            text += f"; {len(self.missing):,} not measured here ({few(self.missing)})"
        if self.extra:
            text += f"; {len(self.extra):,} outside the model ({few(self.extra)})"
        return text + "."


def match_genes(
    reference: Sequence[str] | Names, names: Sequence[str] | Names, *, min_fraction: float = 0.5
) -> GeneMatch:
    """Find each reference gene among ``names``, by exact name.

    Parameters
    ----------
    reference
        (reference genes,) unique names a model was trained with.
    names
        (genes,) unique names of new data.
    min_fraction
        Smallest share of the reference genes that must be found.

    Returns
    -------
    GeneMatch
        Positions, and what is missing or extra.

    Raises
    ------
    ValueError
        Names repeat, or too few match; the message says whether lower/upper case, Ensembl
        versions, or symbols against Ensembl ids is the reason.
    """
    reference_index, index = pd.Index(reference, dtype=object), pd.Index(names, dtype=object)
    checked_names(reference_index, "reference gene", "adata.var_names_make_unique()")
    checked_names(index, "gene", "adata.var_names_make_unique()")
    positions = index.get_indexer(reference_index).astype(np.int64)
    found = positions >= 0
    n_matched = int(found.sum())
    if n_matched == 0 or n_matched < min_fraction * len(positions):
        raise ValueError(
            f"{n_matched:,} of {len(positions):,} genes of the model are in the data, expected at "
            f"least {min_fraction:.0%}. The model has {few(reference_index)}; the data have "
            f"{few(index)}. {_mismatch_guess(reference_index, index, n_matched)}"
        )
    extra = index[~index.isin(reference_index)]
    return GeneMatch(positions, n_matched, tuple(reference_index[~found]), tuple(extra))


def align_counts(counts: sparse.csr_matrix, match: GeneMatch) -> sparse.csr_matrix:
    """Put columns in the order of the reference genes; missing genes are all zero.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, columns as in the ``names`` of :func:`match_genes`.
    match
        Result of :func:`match_genes`.

    Returns
    -------
    (cells, reference genes) CSR
        Same dtype and scale as ``counts``.
    """
    n_names = match.n_matched + len(match.extra)
    if counts.shape[1] != n_names:
        raise ValueError(
            f"counts have {counts.shape[1]:,} genes, expected the {n_names:,} whose names were "
            "matched. Call match_genes with the names of these very columns."
        )
    target = np.full(n_names, -1, dtype=counts.indices.dtype)
    found = match.positions >= 0
    target[match.positions[found]] = np.flatnonzero(found)
    columns = target[counts.indices]
    aligned = select_entries(counts, columns >= 0, counts.data, columns, len(match.positions))
    aligned.sort_indices()
    return aligned


_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")


def _mismatch_guess(reference: pd.Index, names: pd.Index, n_matched: int) -> str:
    """Say in one or two sentences why names may not match, and what to do."""
    ours, theirs = _share_ensembl(reference), _share_ensembl(names)
    if ours > 0.5 > theirs:
        return (
            "The model uses Ensembl ids, the data gene symbols: "
            "set adata.var_names to the ids, often adata.var['gene_ids']."
        )
    if theirs > 0.5 > ours:
        return (
            "The data use Ensembl ids, the model gene symbols: "
            "set adata.var_names to the symbols, often adata.var['gene_symbols']."
        )
    if _n_common(reference, names, _without_version) > n_matched:
        return "Without the version (ENSG....5) more would match: remove it from both."
    n_any_case = _n_common(reference, names, str.upper)
    if n_any_case > n_matched:
        return (
            f"Ignoring case {n_any_case:,} would match: if the species is the same, "
            "change the case, e.g. adata.var_names = adata.var_names.str.upper()."
        )
    return "Is it the same species and gene annotation? Rename the genes, or train a new model."


def _share_ensembl(names: pd.Index) -> float:
    return float(np.mean([bool(_ENSEMBL.match(str(name))) for name in names])) if len(names) else 0


def _without_version(name: str) -> str:
    return name.split(".")[0] if _ENSEMBL.match(name) else name


def _n_common(reference: pd.Index, names: pd.Index, change: Any) -> int:
    """Return how many reference names are in ``names`` when both are changed."""
    there = {change(str(name)) for name in names}
    return sum(change(str(name)) in there for name in reference)
