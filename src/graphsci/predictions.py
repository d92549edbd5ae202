"""Predictions that are read in blocks of cells, so that cells x genes never exists."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Block = tuple[int, NDArray[np.floating]]
Matrix: TypeAlias = NDArray[np.generic] | sp.spmatrix | sp.sparray

#: Rows of one dense block. 100 cells x 30,000 genes in float64 are 24 MB: the allocator has such
#: arrays at hand, and asks the system for larger ones each time.
BLOCK_ROWS = 100


@dataclass(frozen=True)
class Prediction:
    """Expected counts of every cell and gene, made block by block when iterated.

    Iterating yields ``(row_start, block)`` with ``block`` dense, float64,
    (rows, genes). It can be iterated any number of times.

    Parameters
    ----------
    shape
        (cells, genes).
    rows
        Returns the dense block of the cells ``start:stop``.
    block_rows
        Cells in one block.
    """

    shape: tuple[int, ...]
    rows: Callable[[int, int], Floats]
    block_rows: int = BLOCK_ROWS

    def __iter__(self) -> Iterator[Block]:
        n_cells = self.shape[0]
        for start in range(0, n_cells, self.block_rows):
            yield start, self.rows(start, min(start + self.block_rows, n_cells))

    def genes(self, index: NDArray[np.integer]) -> Floats:
        """Return the dense columns ``index``, (cells, len(index)), read block by block."""
        return np.concatenate([block[:, index] for _, block in self])

    def toarray(self) -> Floats:
        """Return everything as one dense matrix (cells, genes); for small data only."""
        return np.concatenate([block for _, block in self])


Predicted: TypeAlias = Floats | sp.spmatrix | sp.sparray | Prediction | Iterable[Block]


def as_csr(counts: Matrix, *, name: str = "counts") -> sp.csr_matrix:
    """Return ``counts`` (cells, genes) as CSR with float64 values.

    Raises
    ------
    ValueError
        If it is not a matrix, or holds a negative or non-finite value.
    """
    matrix = sp.csr_matrix(counts, dtype=np.float64) if np.ndim(counts) == 2 else None
    if matrix is None:
        raise ValueError(
            f"{name} has {np.ndim(counts)} dimensions, expected a matrix (cells, genes); "
            "pass a two-dimensional array or a sparse matrix."
        )
    if not matrix.has_canonical_format:
        matrix = matrix.copy()  # it may share the caller's arrays
        matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise ValueError(
            f"{name} holds negative or non-finite values, expected counts of at least 0; "
            "pass counts before any centring or log transform."
        )
    return matrix


def iterate_blocks(predicted: Predicted, *, shape: tuple[int, int]) -> Iterator[Block]:
    """Yield ``(row_start, dense block)`` of ``predicted`` in row order, and check each block.

    Parameters
    ----------
    predicted
        Dense or sparse (cells, genes), a :class:`Prediction`, or any iterable of
        ``(row_start, block)`` whose blocks follow each other from row 0.
    shape
        The (cells, genes) that it must have.

    Raises
    ------
    ValueError
        If a block is missing, out of order or of the wrong shape, or holds a
        negative or non-finite value.
    """
    expected_start = 0
    for start, block in _blocks_of(predicted, shape=shape):
        block = np.asarray(block, dtype=np.float64)
        _check_block(start, block, expected_start=expected_start, shape=shape)
        yield start, block
        expected_start = start + len(block)
    if expected_start != shape[0]:
        raise ValueError(
            f"the prediction ended after {expected_start} cells, expected {shape[0]}; "
            "yield one block for every cell of the held-out counts."
        )


def _blocks_of(predicted: Predicted, *, shape: tuple[int, int]) -> Iterable[Block]:
    """Cut a matrix into blocks; hand an iterable on as it is."""
    if isinstance(predicted, np.ndarray):
        dense: Floats = predicted
        matrix = Prediction(dense.shape, lambda start, stop: dense[start:stop])
    elif sp.issparse(predicted):
        csr = sp.csr_matrix(predicted)
        matrix = Prediction(csr.shape, lambda start, stop: csr[start:stop].toarray())
    else:
        return cast(Iterable[Block], predicted)
    if matrix.shape != shape:
        raise ValueError(
            f"predicted has shape {matrix.shape}, expected {shape} as the held-out counts; "
            "align cells and genes first."
        )
    return matrix


def _check_block(start: int, block: Floats, *, expected_start: int, shape: tuple[int, int]) -> None:
    """Refuse a block that is out of order, misshapen or not a rate."""
    if start != expected_start:
        raise ValueError(
            f"got a block that starts at cell {start}, expected cell {expected_start}; "
            "yield the blocks in row order, each cell once."
        )
    if block.ndim != 2 or block.shape[1] != shape[1] or start + len(block) > shape[0]:
        raise ValueError(
            f"the block at cell {start} has shape {block.shape}, expected (rows, {shape[1]}) "
            f"and at most {shape[0]} cells in all; align cells and genes first."
        )
    if not np.isfinite(block).all() or (block < 0).any():
        raise ValueError(
            f"the block at cell {start} holds negative or non-finite rates, expected counts of "
            "at least 0; predictions must be on the count scale."
        )


def as_dense(values: Matrix) -> Floats:
    """Return ``values`` as a dense float64 matrix."""
    if sp.issparse(values):
        return np.asarray(sp.csr_matrix(values).toarray(), dtype=np.float64)
    return np.asarray(values, dtype=np.float64)
