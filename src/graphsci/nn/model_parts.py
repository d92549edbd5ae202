"""What both networks share: blocks of cells going in, distributions of counts coming out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from graphsci.nn.cell_random import keep_mask

#: A gene's theta is kept in this range: below, it is all outliers; above, it is Poisson.
SMALLEST_THETA, LARGEST_THETA = 1e-4, 1e6


class CellBlock(NamedTuple):
    """Measured counts of some cells, compressed by row as in scipy's CSR."""

    offsets: Tensor  #: (cells + 1,) where each cell starts in the entries
    genes: Tensor  #: (entries,) gene of each entry
    counts: Tensor  #: (entries,) count of each entry, > 0
    library: Tensor  #: (cells,) total count, over all genes of the model
    batch: Tensor  #: (cells,) batch of each cell; all 0 without batches
    keys: Tensor | None = None  #: (cells,) of a step's random numbers; None outside training

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.library.shape[0]

    def rows(self) -> Tensor:
        """(entries,) cell of each entry, within the block."""
        sizes = self.offsets.diff()
        return torch.repeat_interleave(sizes, output_size=self.genes.shape[0])

    def log_normalized(self, median_library: float) -> Tensor:
        """(entries,) log(1 + x / size factor), eq. 1."""
        library = self.library  # (cells,)
        scale = torch.where(library > 0, median_library / library, 0)
        return torch.log1p(self.counts * scale[self.rows()])

    def dense(self, values: Tensor, n_genes: int) -> Tensor:
        """(cells, genes) block of ``values`` (entries,), zero elsewhere."""
        block = values.new_zeros(self.n_cells, n_genes)
        block[self.rows(), self.genes] = values
        return block


class CountDistribution(NamedTuple):
    """NB or ZINB of every entry of a block, at each cell's own depth."""

    mean: Tensor  #: mu, (cells, genes), before dropout
    inverse_dispersion: Tensor  #: theta, (cells, genes)
    zero_inflation_logits: Tensor | None  #: log(pi / (1 - pi)), (cells, genes); None for NB


class RowDropout(nn.Module):
    """Dropout whose mask belongs to the rows and the step, whatever rows are beside them."""

    def __init__(self, dropout_rate: float) -> None:
        super().__init__()
        self.rate = dropout_rate

    def forward(self, values: Tensor, keys: Tensor | None) -> Tensor:
        """Silence a share of ``values`` (rows, units) in training; ``keys`` (rows,)."""
        if not self.training or self.rate == 0:
            return values
        assert keys is not None, "dropout in training needs the keys of the rows"
        return values * keep_mask(keys, values.shape[1], self.rate).to(values.dtype)
