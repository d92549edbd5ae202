"""Filters, size factors and log-normalisation (eq. 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.io.sources import row_totals
from graphsci.preprocessing._types import Mask


def detected_genes(counts: sparse.csr_matrix, *, min_cells: int = 1) -> Mask:
    """Mark genes that are non-zero in at least ``min_cells`` cells.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR.
    min_cells
        Smallest number of cells.

    Returns
    -------
    (genes,) bool
    """
    columns = counts.indices[counts.data > 0]
    return np.bincount(columns, minlength=counts.shape[1]) >= min_cells


def library_sizes(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the total count of each cell, summed in float64.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, count scale.

    Returns
    -------
    (cells,) float64
    """
    return row_totals(counts)


def fit_median_library_size(counts: sparse.csr_matrix) -> float:
    """Return the median library size of the non-empty cells: the common depth of eq. 1.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR of the *training* cells, count scale.

    Raises
    ------
    ValueError
        All cells are empty.
    """
    return median_size(library_sizes(counts))


def median_size(sizes: NDArray[np.float64]) -> float:
    """Return the median of the library sizes above 0; refuse if there is none."""
    if not sizes.any():
        raise ValueError(
            f"all {len(sizes):,} cells are empty, expected counts to take a median depth from. "
            "Check the filters: was every cell or gene removed?"
        )
    return float(np.median(sizes[sizes > 0]))


def size_factors(
    counts: sparse.csr_matrix,
    *,
    median_library_size: float,
    library: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return s = library size / median library size (eq. 1); 0 for an empty cell.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, count scale.
    median_library_size
        From :func:`fit_median_library_size` on the training cells.
    library
        (cells,) library sizes, if they are others than the sums of ``counts``.

    Returns
    -------
    (cells,) float64
    """
    if not (np.isfinite(median_library_size) and median_library_size > 0):
        raise ValueError(
            f"median_library_size is {median_library_size}, expected a positive number. "
            "Take it from fit_median_library_size(training_counts)."
        )
    return (library_sizes(counts) if library is None else library) / median_library_size


def log_normalize(
    counts: sparse.csr_matrix,
    *,
    median_library_size: float,
    library: NDArray[np.float64] | None = None,
) -> sparse.csr_matrix:
    """Return log1p(counts / s), the encoder's input (eq. 1), as sparse as the counts.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, count scale.
    median_library_size
        From :func:`fit_median_library_size` on the training cells.
    library
        (cells,) library sizes, if they are others than the sums of ``counts``.

    Returns
    -------
    (cells, genes) CSR float32
        log1p scale at the median depth; the row of an empty cell stays zero.
    """
    factors = size_factors(counts, median_library_size=median_library_size, library=library)
    scale = np.divide(1.0, factors, out=np.zeros_like(factors), where=factors > 0)
    per_value = np.repeat(scale.astype(np.float32), np.diff(counts.indptr))
    data = np.log1p(counts.data.astype(np.float32, copy=False) * per_value)
    structure = (counts.indices.copy(), counts.indptr.copy())
    return sparse.csr_matrix((data, *structure), shape=counts.shape)
