"""From an AnnData to checked counts: all of them, once, in memory or in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci._words import few
from graphsci.io.sources import (
    CountSource,
    DiskCounts,
    DiskMatrix,
    MemoryCounts,
    as_float32,
    canonical_csr,
    is_on_disk,
)
from graphsci.preprocessing._opening import Opened, check_is_anndata, find_matrix, open_matrix
from graphsci.preprocessing._refusals import SAMPLE_ROWS, check_values
from graphsci.preprocessing._types import Mask, Names
from graphsci.preprocessing._values import (
    Found,
    Rows,
    scan_file,
    to_checked_csr,
)
from graphsci.preprocessing.names import genes_every_cell_has
from graphsci.preprocessing.normalization import detected_genes, library_sizes

if TYPE_CHECKING:
    from anndata import AnnData

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

#: Counts as a matrix in memory, or as a source that is read in rows.
Counts = TypeVar("Counts", sparse.csr_matrix, CountSource)


class CountData(NamedTuple, Generic[Counts]):
    """Checked raw counts with everything that travels along.

    All genes and cells are there, in the order they came in; the masks say which of them
    carry no information, so that training can leave them out and output can hold them.
    """

    counts: Counts  #: (cells, genes) float32, canonical, count scale
    cell_names: Names  #: (cells,)
    gene_names: Names  #: (genes,)
    batch: NDArray[np.int64] | None  #: (cells,) index into ``batch_names``, or None
    batch_names: tuple[str, ...]  #: empty without batches
    totals: NDArray[np.float64]  #: (cells,) counts in all genes
    empty_cells: Mask  #: (cells,) no molecule in any gene
    undetected_genes: Mask  #: (genes,) no molecule in any cell
    notes: tuple[str, ...]  #: one sentence for every treatment applied, and the doubts
    doubts: tuple[str, ...]  #: why these may be no raw counts after all


def extract_counts(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    min_cells: int = 2,
) -> CountData[sparse.csr_matrix]:
    """Take raw counts out of an AnnData and check every one of them.

    Parameters
    ----------
    adata
        Cells x genes; in memory or backed, sparse or dense, any numeric dtype. It is not
        changed. A canonical float32 CSR matrix is *not copied*: treat the result as
        read-only.
    layer
        Layer that holds the counts; ``adata.X`` if None.
    batch_key
        Column of ``adata.obs`` with the batch of each cell.
    allow_fractional
        Accept non-integral values: ambient-corrected or expected counts. They must be
        non-negative and finite all the same.
    min_cells
        Fewest cells with counts: 2 to learn from, 1 to apply a trained model to.

    Returns
    -------
    CountData
        Counts on the count scale, with names, batches, masks and notes.

    Raises
    ------
    TypeError
        ``adata`` is no AnnData, or the values are not real numbers.
    ValueError
        The values are not raw counts (negative, not finite, not integral, too large, all
        zero), gene names repeat, there is a single cell or gene, or a layer or batch is missing.
    """
    opened = open_matrix(adata, layer, batch_key, min_cells)
    counts, found = to_checked_csr(opened.matrix)
    check_values(found, opened, adata, layer, counts, allow_fractional)
    totals, rows = library_sizes(counts), Rows.of(counts)
    return _count_data(opened, counts, found, totals, ~detected_genes(counts), rows, min_cells)


def open_counts(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    min_cells: int = 2,
) -> CountData[CountSource]:
    """Check raw counts and leave them where they are: in memory, or in a file.

    A backed AnnData, or one whose matrix is a dataset of a file, is read once from end to end
    in chunks of rows, and never as a whole. Parameters and errors as for
    :func:`extract_counts`; a file that is stored by columns (CSC) is refused.
    """
    check_is_anndata(adata)
    if not is_on_disk(find_matrix(adata, layer)):
        data = extract_counts(
            adata,
            layer=layer,
            batch_key=batch_key,
            allow_fractional=allow_fractional,
            min_cells=min_cells,
        )
        return CountData(MemoryCounts(data.counts), *data[1:])
    opened = open_matrix(adata, layer, batch_key, min_cells)
    matrix = DiskMatrix(opened.matrix, opened.where)
    scan = scan_file(matrix)
    first_rows = as_float32(canonical_csr(matrix.rows(0, min(SAMPLE_ROWS, matrix.shape[0]))))
    check_values(scan.found, opened, adata, layer, first_rows, allow_fractional, scan.n_entries)
    counts = DiskCounts(matrix, n_entries=scan.n_entries, totals=scan.totals)
    seen = ~scan.detected
    return _count_data(opened, counts, scan.found, scan.totals, seen, scan.rows, min_cells)


def _count_data(
    opened: Opened,
    counts: Any,
    found: Found,
    totals: NDArray[np.float64],
    undetected_genes: Mask,
    rows: Rows,
    min_cells: int,
) -> CountData[Any]:
    empty_cells = totals == 0
    n_filled = len(totals) - int(empty_cells.sum())
    if n_filled < min_cells:
        raise ValueError(
            f"{opened.where} has counts in {n_filled:,} of {len(totals):,} cells, expected at "
            f"least {min_cells} cells with counts. Check that the file was read fully."
        )
    n_detected = int((~undetected_genes).sum())
    if min_cells >= 2 and n_detected < 2:
        raise ValueError(
            f"{opened.where} has counts of {n_detected} of {len(undetected_genes):,} genes, "
            "expected at least 2: genes are predicted from each other. Check that the file was "
            "read fully."
        )
    doubts = [
        *_one_depth(totals, rows),
        *_doubles(rows.fingerprints, opened.cell_names),
        *_transposed(opened.cell_names, opened.gene_names),
    ]
    notes = [
        *opened.notes,
        *doubts,
        *_describe(found, empty_cells, opened.cell_names, undetected_genes, opened.gene_names),
    ]
    return CountData(
        counts,
        opened.cell_names,
        opened.gene_names,
        opened.batch,
        opened.batch_names,
        totals,
        empty_cells,
        undetected_genes,
        tuple(notes),
        tuple(doubts),
    )


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


def _describe(
    found: Found, empty_cells: Mask, cell_names: Names, undetected_genes: Mask, gene_names: Names
) -> list[str]:
    """Return a sentence for each treatment."""
    notes = []
    if found.n_fractional:
        notes.append(f"{found.n_fractional:,} values are not whole numbers; allowed on request.")
    if empty_cells.any():
        names = few(cell_names[empty_cells])
        notes.append(
            f"Cells without any count: {empty_cells.sum():,} ({names}); "
            "they say nothing, and stay in the output."
        )
    if undetected_genes.any():
        names = few(gene_names[undetected_genes])
        notes.append(
            f"Genes without any count: {undetected_genes.sum():,} ({names}); "
            "they say nothing, and stay in the output."
        )
    return notes
