"""The batch of each cell, from a column of ``obs``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._words import check_is_name, few
from graphsci.io.sources import CHUNK_CELLS, CountSource

if TYPE_CHECKING:
    from anndata import AnnData

#: So many counts would be expected of a gene in a batch that has none, and so many such genes and
#: so large a share of all counts are no chance: types of cells lack up to 120, .0013 of the counts.
_SURELY_SEEN, _FEWEST_LACKING, _SMALLEST_SHARE = 10, 20, 0.01
#: A batch of fewer cells hardly teaches its offsets.
_SMALL_BATCH = 10
#: Names that columns of batches usually have, in small letters, and the most that they tell apart.
_USUAL_NAMES = frozenset(
    [
        "batch",
        "batch_id",
        "sample",
        "sample_id",
        "donor",
        "donor_id",
        "patient",
        "replicate",
        "library_id",
        "lane",
        "channel",
        "plate",
        "orig.ident",
        "dataset",
        "experiment",
    ]
)
_MOST_BATCHES = 200
#: From this share of cells with a batch of their own the column is no batch.
_SINGLE_CELLS = 0.9


def extract_batch(
    adata: AnnData, batch_key: str | None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...], list[str]]:
    """Return codes (cells,), batch names and notes."""
    if batch_key is None:
        return None, (), []
    codes, names = read_batches(adata, batch_key)
    if len(names) == 1:
        return None, (), [f"Batch column {batch_key!r} has one level ({names[0]}): not used."]
    sizes = np.bincount(codes)
    n_single = int((sizes == 1).sum())
    if len(codes) > 2 and n_single > _SINGLE_CELLS * len(codes):
        raise ValueError(
            f"batch column {batch_key!r} has a value of its own in {n_single:,} of {len(codes):,} "
            "cells, expected a few groups of cells. Choose another `batch_key` (`--batch-key`)."
        )
    return codes, names, _small_batches(batch_key, names, sizes)


def usual_batches(adata: AnnData) -> dict[str, int]:
    """Columns of ``obs`` that look like batches, and how many values each has."""
    found = {}
    for column in adata.obs.columns:
        if str(column).lower() in _USUAL_NAMES:
            sizes = adata.obs[column].value_counts()
            n_large = int((sizes >= _SMALL_BATCH).sum())
            if n_large > 1 and len(sizes) <= _MOST_BATCHES:
                found[str(column)] = len(sizes)
    return found


def unused_batches(adata: AnnData) -> list[str]:
    """Name columns that look like batches, for data of which none was given."""
    found = [f"{column!r} ({n} values)" for column, n in usual_batches(adata).items()]
    if not found:
        return []
    return [
        f"No batch_key was given in training, and obs had {few(found)}. If these are batches, what "
        "differs between them was taken for states of the cells, and relates genes in a network "
        "that have nothing else in common: name the column (`batch_key`, `--batch-key`)."
    ]


def genes_without_a_batch(
    counts: CountSource, gene_names: NDArray[np.str_], *batches: pd.Series
) -> str | None:
    """Return a warning if a batch has not a single count of genes that the others have.

    An outer join fills genes that a batch did not measure with zeros, which look like measured
    ones. Of several such batches the one that lacks most is described, of several columns the
    first that has one. One pass over the counts for as many columns as have 200 batches together;
    memory of these x genes, so that a column with more of them is not looked at.

    Parameters
    ----------
    counts
        (cells, genes)
    gene_names
        (genes,)
    *batches
        Columns of (cells,) any values; a cell without one is left out.
    """
    for columns in _passes(batches):
        totals = _totals_of_batches(counts, columns)
        for column, part in zip(columns, totals, strict=True):
            said = _lacking(column, part, gene_names)
            if said is not None:
                return said
    return None


class _Column(NamedTuple):
    """Batches of the cells."""

    name: str
    codes: NDArray[np.int64]  # (cells,), -1 for none
    batches: pd.Index


def _passes(batches: Sequence[pd.Series]) -> list[list[_Column]]:
    """Columns that are looked at, in groups that one pass over the counts can do."""
    found: list[list[_Column]] = []
    for batch in batches:
        codes, names = pd.factorize(batch)
        if not 1 < len(names) <= _MOST_BATCHES:
            continue
        if not found or sum(len(c.batches) for c in found[-1]) + len(names) > _MOST_BATCHES:
            found.append([])
        found[-1].append(_Column(str(batch.name), codes, names))
    return found


def _totals_of_batches(
    counts: CountSource, columns: Sequence[_Column]
) -> list[NDArray[np.float64]]:
    """Counts of each gene in each batch of each column, (batches, genes)."""
    sizes = [len(column.batches) for column in columns]
    totals = np.zeros((sum(sizes), counts.shape[1]))
    for start in range(0, counts.shape[0], CHUNK_CELLS):
        parts = [column.codes[start : start + CHUNK_CELLS] for column in columns]
        indicators = [_indicator(part, size) for part, size in zip(parts, sizes, strict=True)]
        rows = counts.rows(start, start + len(parts[0]))
        totals += (sparse.vstack(indicators, format="csr") @ rows).toarray()
    return np.split(totals, np.cumsum(sizes)[:-1])


def _indicator(codes: NDArray[np.int64], n_batches: int) -> sparse.csr_matrix:
    """1 where a cell is in a batch, (batches, cells)."""
    known = np.flatnonzero(codes >= 0)
    return sparse.csr_matrix(
        (np.ones(len(known)), (codes[known], known)), shape=(n_batches, len(codes))
    )


def _lacking(
    column: _Column, totals: NDArray[np.float64], gene_names: NDArray[np.str_]
) -> str | None:
    """Warn of the batch that lacks most genes, by the ``totals`` (batches, genes) of a column."""
    whole = totals.sum(0)
    found = dict[str, tuple[float, NDArray[np.int64]]]()
    for name, own in zip(column.batches, totals, strict=True):
        share = (whole - own) / max((whole - own).sum(), 1)
        lacking = np.flatnonzero((own == 0) & (share * own.sum() >= _SURELY_SEEN))
        if len(lacking) >= _FEWEST_LACKING and share[lacking].sum() >= _SMALLEST_SHARE:
            found[str(name)] = float(share[lacking].sum()), lacking
    if not found:
        return None
    worst = max(found, key=lambda name: found[name][0])
    share_elsewhere, lacking = found.pop(worst)
    others = f" Other batches lack genes too: {few([*found])}." if found else ""
    return (
        f"{len(lacking):,} genes have no count in batch {worst!r} of {column.name!r}, and "
        f"{share_elsewhere:.2g} of all counts elsewhere ({few(gene_names[lacking])}): were they "
        f"not measured there, as after an outer join?{others} They are taken for measured zeros: "
        "the cells' states then tell the batches apart, and estimates of these genes are next to 0 "
        "there. Join by the genes that all have (join='inner'), or leave these out."
    )


def read_batches(adata: AnnData, batch_key: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the batch of each cell (cells,), as an index into the names, and the names.

    For training and for later cells alike: whatever the column's type, a name is ``str(value)``.
    """
    categories = pd.Categorical(_batch_column(adata, batch_key)).remove_unused_categories()
    positions, names = pd.factorize(np.array([str(n) for n in categories.categories], object))
    return positions[categories.codes].astype(np.int64), tuple(names)


def _small_batches(batch_key: str, names: tuple[str, ...], sizes: NDArray[np.int64]) -> list[str]:
    """Return a warning if batches have too few cells to learn their offsets from."""
    small = [name for name, size in zip(names, sizes, strict=True) if size < _SMALL_BATCH]
    if not small:
        return []
    return [
        f"Batch column {batch_key!r}: {len(small):,} of {len(names):,} batches have fewer than "
        f"{_SMALL_BATCH} cells ({few(small)}), too few to learn a batch's offsets from. Merge "
        "them, or choose another `batch_key` (`--batch-key`)."
    ]


def _batch_column(adata: AnnData, batch_key: str) -> pd.Series:
    check_is_name(batch_key, option="batch_key")
    if batch_key not in adata.obs.columns:
        present = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise ValueError(
            f"there is no batch column {batch_key!r} in adata.obs; columns present: {present}. "
            "Name one of these, or leave `batch_key` (`--batch-key`) out."
        )
    column: pd.Series = adata.obs[batch_key]
    missing = column.isna().to_numpy()
    if missing.any():
        cells = adata.obs_names[missing]
        raise ValueError(
            f"batch column {batch_key!r} lacks a value for {len(cells):,} cells "
            f"({few(cells)}), expected one for every cell. Fill them in, or remove those cells."
        )
    return column
