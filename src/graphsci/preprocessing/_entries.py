"""Stored entries of a sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.preprocessing._types import Mask


def select_entries(
    matrix: sparse.csr_matrix,
    keep: Mask,
    data: NDArray[Any],
    indices: NDArray[Any],
    n_columns: int,
) -> sparse.csr_matrix:
    """Keep some stored entries of a CSR, with new values and columns."""
    kept = np.flatnonzero(keep)
    indptr = np.searchsorted(kept, matrix.indptr).astype(matrix.indptr.dtype)
    shape = (matrix.shape[0], n_columns)
    return sparse.csr_matrix((data[kept], indices[kept], indptr), shape=shape)
