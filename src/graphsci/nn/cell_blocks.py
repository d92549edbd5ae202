"""Cells of a sparse matrix on the device that computes, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from graphsci.nn.model_parts import CellBlock

Indices = NDArray[np.int64]

#: Cells per block where no gradient is needed: few enough that an array of 30,000 genes takes 12
#: MiB (24 in float64), which the allocator hands out again, while larger ones come from the
#: system as empty pages each time; a divisor of the chunks that are read.
EVALUATION_CELLS = 100


def row_blocks(n_cells: int) -> Iterator[tuple[int, Indices]]:
    """Yield the start and the positions of blocks of cells, for work without a gradient."""
    for start in range(0, n_cells, EVALUATION_CELLS):
        yield start, np.arange(start, min(start + EVALUATION_CELLS, n_cells))


def cell_block(
    counts: sparse.csr_matrix, batch: Indices, cells: Indices, device: torch.device
) -> CellBlock:
    """Move some cells of a CSR matrix to the device.

    ``counts`` (all cells, genes) float32; ``batch`` (all cells,); ``cells`` positions.
    """
    return move_cells(counts[cells], batch[cells], device)


def move_cells(
    part: sparse.csr_matrix, batch: Indices, device: torch.device, *, keys: Tensor | None = None
) -> CellBlock:
    """Move cells to the device: counts (cells, genes) and batches (cells,); add their keys."""
    library = np.asarray(part.sum(1), dtype=np.float32).ravel()
    arrays = (part.indptr, part.indices, part.data, library, batch)
    kinds = (torch.int64, torch.int64, torch.float32, torch.float32, torch.int64)
    tensors = [
        torch.as_tensor(array).to(device=device, dtype=kind)
        for array, kind in zip(arrays, kinds, strict=True)
    ]
    return CellBlock(*tensors)._replace(keys=keys)
