"""Products of a fixed sparse matrix with a dense one, with a gradient; sums in one order.

torch's own sparse products add up in any order on a GPU, and repeat themselves no more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

#: Share of non-zero entries above which a dense product beats the sparse one (measured on
#: two CPU cores with 128 hidden units; on a GPU the dense one always does).
DENSE_ABOVE = 0.12


class FixedMatrix(NamedTuple):
    """A sparse matrix that is not learned, by rows and, for the gradient, by columns.

    Each element of its products is summed in one order, on any device; torch's own sparse
    products leave the order to the GPU.
    """

    columns: Tensor  #: (entries,) by rows
    row_offsets: Tensor  #: (rows + 1,) where each row starts
    values: Tensor  #: (entries,)
    rows: Tensor  #: (entries,) by columns
    column_offsets: Tensor  #: (columns + 1,)
    values_by_column: Tensor  #: (entries,)

    @classmethod
    def of(
        cls,
        matrix: sparse.spmatrix,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> FixedMatrix:
        """Move a scipy matrix to the device."""
        tensors = []
        for part in (sparse.csr_matrix(matrix), sparse.csc_matrix(matrix)):
            places = (torch.as_tensor(places).long() for places in (part.indices, part.indptr))
            tensors += [*places, torch.as_tensor(part.data).to(dtype)]
        return cls(*(tensor.to(device) for tensor in tensors))

    def times(self, dense: Tensor) -> Tensor:
        """Multiply ``dense`` (columns, n) to (rows, n)."""
        product: Tensor = _FixedProduct.apply(dense, *self)
        return product


class StandardizedMatrix(NamedTuple):
    """A sparse matrix that is not learned, its rows taken to mean 0 and standard deviation 1.

    It stays sparse: with means m and deviations s its product with X is (P X - m 1^T X) / s.
    """

    matrix: FixedMatrix  #: P
    mean: Tensor  #: (rows, 1)
    deviation: Tensor  #: (rows, 1); 1 for a row that does not vary

    @classmethod
    def of(
        cls,
        matrix: sparse.spmatrix,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> StandardizedMatrix:
        """Move a scipy matrix to the device."""
        moments = (torch.as_tensor(moment).to(device, dtype) for moment in row_moments(matrix))
        return cls(FixedMatrix.of(matrix, device, dtype), *moments)

    def times(self, dense: Tensor) -> Tensor:
        """Multiply ``dense`` (columns, n) to (rows, n)."""
        return (self.matrix.times(dense) - self.mean * dense.sum(0)) / self.deviation


def row_moments(matrix: sparse.spmatrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of rows, (rows, 1) each; of a constant row 1."""
    rows = sparse.csr_matrix(matrix, dtype=np.float64)
    mean = np.asarray(rows.mean(1)).reshape(-1, 1)
    squares = np.asarray(rows.multiply(rows).mean(1)).reshape(-1, 1)
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    return mean, np.where(deviation > 1e-6 * (1 + mean), deviation, 1.0)


def product_by_rows(dense: Tensor, columns: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """P X of a sparse P that is given by rows alone; CPU, (rows, n).

    The gradient of X needs P by columns: it is turned when that is asked for.
    """
    product: Tensor = _FixedProduct.apply(dense, columns, offsets, values)
    return product


class _FixedProduct(torch.autograd.Function):
    """P X of a sparse P, by rows; the gradient of X is P^T times that of the product.

    The parts of P by columns are given, or made when the gradient is asked for, on a CPU.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, dense: Tensor, *matrix: Tensor) -> Tensor:
        ctx.save_for_backward(*matrix)
        ctx.n_columns = len(dense)  # type: ignore[attr-defined]
        columns, offsets, values = matrix[:3]
        return weighted_rows(columns, dense, offsets, values)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        matrix = ctx.saved_tensors  # type: ignore[attr-defined]
        columns, offsets, values, *turned = matrix
        if not turned:
            turned = _by_columns(columns, offsets, values, ctx.n_columns)  # type: ignore[attr-defined]
        rows, starts, entries = turned
        by_dense = weighted_rows(rows, gradient.contiguous(), starts, entries)
        return by_dense, *(None for _ in matrix)


def _by_columns(
    columns: Tensor, offsets: Tensor, values: Tensor, n_columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, offsets and values by columns of a sparse matrix by rows."""
    arrays = (values.numpy(), columns.int().numpy(), offsets.int().numpy())
    shape = (len(offsets) - 1, n_columns)
    turned = sparse.csr_matrix(arrays, shape=shape, copy=False).tocsc()
    rows, starts, entries = map(torch.from_numpy, (turned.indices, turned.indptr, turned.data))
    return rows, starts, entries


def weighted_rows(index: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Sums of weighted rows: those of ``index`` between two ``offsets`` (sums + 1,) each."""
    return F.embedding_bag(
        index, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
