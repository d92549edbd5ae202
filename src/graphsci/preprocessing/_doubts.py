"""Counts that pass every check and still seem to be no raw counts of cells: the doubts."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsci._words import few
from graphsci.preprocessing._types import Names
from graphsci.preprocessing._values import Rows
from graphsci.preprocessing.names import genes_every_cell_has

#: Library sizes are one if 5 % and 95 % of the cells are this near, relative to the median: counts
#: rounded at a depth of 10,000 or more are, sequenced cells differ several-fold (1.1 and more in
#: eight data sets).
_ONE_DEPTH, _MIN_CELLS_OF_ONE_DEPTH = 0.02, 20
#: Rounded at the median depth they are .03 to .24 apart in these, and the numbers of their genes
#: with counts, which normalising leaves as they were, by more than this and so many times more.
_NEARLY_ONE_DEPTH, _GENES_APART, _TIMES_APART = 0.25, 0.3, 3
#: Rounded down, or after genes were chosen, they may be so far apart; then there are cells without
#: any 1 among at least so many genes, in this share and more (nobody's in ten sets of molecules).
_LOOSELY_ONE_DEPTH, _GENES_WITH_ONES, _WITHOUT_ONES = 0.6, 30, 0.05
#: Names of common genes among those of the cells from which a matrix seems to have genes in rows.
_MIN_GENES_AMONG_CELLS = 3

#: A barcode with fewer molecules holds hardly a cell where some have so many times the median: in
#: droplets that were not filtered most are of the ambient solution.
_EMPTY_DROPLET, _TIMES_MEDIAN, _SOME_CELLS = 20, 20, 20
#: In cells of so many molecules some gene has more than one.
_MOLECULES_OF_MORE_THAN_ONE = 200
#: Names of antibodies, as 10x files of protein and RNA have them.
_ANTIBODY = re.compile(r".*[_-]TotalSeq-?[A-D]?|(ADT|HTO)[_-].+", re.IGNORECASE)
_FEWEST_ANTIBODIES = 3


class Doubts(NamedTuple):
    """Reasons to doubt that counts are raw counts of cells."""

    said: tuple[str, ...]  #: a warning for each
    altered: bool  #: cells have one depth, or are there twice: what a molecule is cannot be told


def doubts_of(
    totals: NDArray[np.float64], rows: Rows, cell_names: Names, gene_names: Names
) -> Doubts:
    """Return what there is to doubt.

    Parameters
    ----------
    totals
        (cells,) counts in all genes.
    rows
        What is known of every cell's counts.
    cell_names, gene_names
        (cells,), (genes,)
    """
    altered = [
        *_one_depth(totals, rows),
        *_presence(totals, rows),
        *_doubles(rows.fingerprints, cell_names),
    ]
    others = [
        *_droplets(totals),
        *_transposed(cell_names, gene_names),
        *_antibodies(gene_names),
    ]
    return Doubts((*altered, *others), bool(altered))


def _one_depth(totals: NDArray[np.float64], rows: Rows) -> list[str]:
    """Return a warning if practically all cells have one library size, as no sequencer gives."""
    filled = totals > 0
    if filled.sum() < _MIN_CELLS_OF_ONE_DEPTH:
        return []
    low, median, high = np.quantile(totals[filled], [0.05, 0.5, 0.95])
    apart = (high - low) / median
    fewest, usual, most = np.quantile(rows.n_genes[filled], [0.05, 0.5, 0.95])
    genes_apart = (most - fewest) / usual
    rounded = apart <= _NEARLY_ONE_DEPTH and genes_apart > max(_GENES_APART, _TIMES_APART * apart)
    without_ones = (rows.n_ones == 0)[rows.n_genes >= _GENES_WITH_ONES]
    floored = (
        apart <= _LOOSELY_ONE_DEPTH
        and genes_apart > _GENES_APART
        and len(without_ones) >= _MIN_CELLS_OF_ONE_DEPTH
        and without_ones.mean() > _WITHOUT_ONES
    )
    if apart > _ONE_DEPTH and not (rounded or floored):
        return []
    return [
        f"Practically all cells have one library size ({low:,.0f} to {high:,.0f}): these look "
        "like rounded CPM, or counts normalised to a common depth otherwise, and not like raw "
        "counts; expected a library size of its own for each cell. Estimates, intervals and the "
        "verdict take every unit for a molecule: bring the counts as they were before any "
        "normalisation. Only cells that were down-sampled to one depth are right as they are."
    ]


def _presence(totals: NDArray[np.float64], rows: Rows) -> list[str]:
    """Return a warning if no count exceeds 1 in cells that have many."""
    filled = totals > 0
    if not filled.any() or (totals != rows.n_ones).any():
        return []
    if (median := np.median(totals[filled])) < _MOLECULES_OF_MORE_THAN_ONE:
        return []
    return [
        f"No count is larger than 1, in cells with {median:,.0f} of them (median): these seem to "
        "say which genes were seen, not how often. Estimates, intervals and the verdict take each "
        "for a molecule: bring the counts."
    ]


def _doubles(fingerprints: NDArray[np.float64], cell_names: Names) -> list[str]:
    """Return a warning if cells have the very counts of another."""
    order = np.argsort(fingerprints, kind="stable")  # nan, which equals nothing, comes last
    again = np.zeros(len(order), dtype=bool)
    again[order[1:]] = np.diff(fingerprints[order]) == 0
    if not again.any():
        return []
    return [
        f"{again.sum():,} of {len(again):,} cells have exactly the counts of an earlier one "
        f"({few(cell_names[again])}): was a sample added twice, or cells drawn with replacement? "
        "What is held out of a cell is then in its double, so that the verdict is too good, and "
        "each counts twice. Leave the doubles out."
    ]


def _transposed(cell_names: Names, gene_names: Names) -> list[str]:
    """Return a warning if the cells are named as genes are, and the genes are not."""
    like_genes = genes_every_cell_has(cell_names)
    if len(like_genes) < _MIN_GENES_AMONG_CELLS or len(genes_every_cell_has(gene_names)):
        return []
    return [
        f"{len(like_genes)} cells have names of genes ({few(like_genes)}), and no gene has such a "
        "name: this matrix seems to have genes in rows; expected cells in rows. Transpose it "
        "(adata.T; tables: --genes-in)."
    ]


def _droplets(totals: NDArray[np.float64]) -> list[str]:
    """Return a warning if most barcodes have next to nothing, and some very much more."""
    filled = np.sort(totals[totals > 0])
    if len(filled) <= 2 * _SOME_CELLS:
        return []
    n_nearly_empty = int(np.searchsorted(filled, _EMPTY_DROPLET))
    if n_nearly_empty <= len(filled) / 2 or filled[-_SOME_CELLS] < _TIMES_MEDIAN * np.median(
        filled
    ):
        return []
    return [
        f"{n_nearly_empty:,} of {len(filled):,} barcodes have fewer than {_EMPTY_DROPLET} "
        f"molecules, others {filled[-_SOME_CELLS]:,.0f} and more: these seem to be all droplets, "
        "most of them without a cell (10x: raw_feature_bc_matrix). What is learned, and the "
        "verdict, would be of the ambient solution: bring the filtered counts, or filter "
        "(scanpy.pp.filter_cells)."
    ]


def _antibodies(gene_names: Names) -> list[str]:
    """Return a warning if some genes are called as antibodies are."""
    found = [name for name in gene_names if _ANTIBODY.fullmatch(name)]
    if not _FEWEST_ANTIBODIES <= len(found) < len(gene_names):
        return []
    return [
        f"{len(found)} genes are called like antibodies ({few(found)}): they would count as the "
        "cell's molecules. Leave them out, and bring genes alone."
    ]
