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
from graphsci.preprocessing._doubts import doubts_of
from graphsci.preprocessing._opening import Opened, check_is_anndata, find_matrix, open_matrix
from graphsci.preprocessing._refusals import SAMPLE_ROWS, check_values
from graphsci.preprocessing._types import Mask, Names
from graphsci.preprocessing._values import (
    Found,
    Rows,
    scan_file,
    to_checked_csr,
)
from graphsci.preprocessing.normalization import detected_genes, library_sizes

if TYPE_CHECKING:
    from anndata import AnnData

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
    altered: bool  #: by one of them what a molecule is cannot be told: one depth, or doubles


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
    return _count_data(
        opened, counts, scan.found, scan.totals, ~scan.detected, scan.rows, min_cells
    )


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
    doubts = doubts_of(totals, rows, opened.cell_names, opened.gene_names)
    notes = [
        *opened.notes,
        *doubts.said,
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
        doubts.said,
        doubts.altered,
    )


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
