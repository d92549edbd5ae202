"""Small helpers on pairs of genes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.int64]


def lookup(
    adjacency: sparse.csr_matrix, rows: Indices, columns: Indices, *, absent: float
) -> NDArray[np.float64]:
    """Weights of pairs in a sparse graph; (pairs,)."""
    if len(rows) == 0:
        return np.zeros(0)
    values = np.asarray(sparse.csr_matrix(adjacency)[rows, columns], dtype=np.float64).ravel()
    return np.where(values == 0, absent, values)
