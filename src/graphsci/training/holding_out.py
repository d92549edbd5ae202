"""Molecules are held out before anything is learned, and it is settled which cells pay.

Some cells' withheld molecules decide when training stops, those of the others give the verdict.
What has to look at many cells together looks at a random sample, if there are many.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.advance import Meter
from graphsci.config import Config
from graphsci.io.sources import CHUNK_CELLS
from graphsci.preprocessing import library_sizes, median_size
from graphsci.training.blocks import (
    CountBlocks,
    KeptBlocks,
    MemoryBlocks,
    Thinning,
    chunks_in_order,
    stack,
)

#: Fewest cells whose held-out molecules say when to stop, where there are twice as many.
_FEWEST_DECIDING_CELLS = 20


class Sample(NamedTuple):
    """Cells that are looked at together: all of them, or a random choice if there are many."""

    cells: NDArray[np.int64]  # positions among the training cells, ascending
    deciding: NDArray[np.int64]  # positions in the sample: withheld molecules say when to stop
    judging: NDArray[np.int64]  # positions in the sample: withheld molecules give the verdict


class Split(NamedTuple):
    """Counts of the training cells and genes, divided before anything is learned."""

    kept: CountBlocks  # what is learned from
    sample: Sample
    sample_kept: sparse.csr_matrix  # (sample, genes) the sample's part of ``kept``
    held_out: sparse.csr_matrix | None  # (sample, genes) molecules withheld
    molecules: NDArray[np.float64]  # (genes,) kept, over all training cells
    median_kept: float  # median library size of what was kept
    median_all: float  # median library size with all molecules
    checksum: int  # of what was kept, every count in its place


def split_counts(counts: CountBlocks, config: Config) -> Split:
    """Hold out molecules, in one pass over the counts that also takes their totals."""
    n_cells, n_genes = counts.shape
    sample = _sample(counts, config)
    thinning = _thinning(sample, n_cells, config)
    library_all, library_kept = np.zeros(n_cells), np.zeros(n_cells)
    molecules, checksum = np.zeros(n_genes), 0
    sample_kept, held_out = [], []
    meter = Meter("counting molecules" if thinning is None else "holding out molecules", n_cells)
    for index, whole in enumerate(chunks_in_order(counts)):
        kept, withheld = (whole, None) if thinning is None else thinning.divide(index, whole)
        rows = slice(index * CHUNK_CELLS, index * CHUNK_CELLS + whole.shape[0])
        library_all[rows], library_kept[rows] = library_sizes(whole), library_sizes(kept)
        molecules += np.bincount(kept.indices, weights=kept.data, minlength=n_genes)
        checksum = _checksum(kept, checksum)
        inside = sample.cells[slice(*np.searchsorted(sample.cells, [rows.start, rows.stop]))]
        sample_kept.append(kept[inside - rows.start])
        if withheld is not None:
            held_out.append(withheld[inside - rows.start])
        meter.reach(rows.stop)
    together = stack(sample_kept)
    if len(sample.cells) == n_cells:
        remaining: CountBlocks = MemoryBlocks(together)
    else:
        remaining = counts if thinning is None else KeptBlocks(counts, thinning)
    return Split(
        kept=remaining,
        sample=sample,
        sample_kept=together,
        held_out=stack(held_out) if held_out else None,
        molecules=molecules,
        median_kept=median_size(library_kept),
        median_all=median_size(library_all),
        checksum=checksum,
    )


def _checksum(counts: sparse.csr_matrix, before: int) -> int:
    """CRC-32 of counts after what came ``before``, the same from memory and from a file."""
    for values, kind in (
        (counts.indptr, np.int64),
        (counts.indices, np.int32),
        (counts.data, np.float32),
    ):
        before = zlib.crc32(np.ascontiguousarray(values, dtype=kind).data, before)
    return before


def _sample(counts: CountBlocks, config: Config) -> Sample:
    """Choose the cells to look at together, those that decide and those that judge."""
    rng = np.random.default_rng(config.seed)
    n_cells, n_sample = counts.shape[0], counts.cells_at_once
    cells = np.arange(n_cells)
    if n_sample < n_cells:
        cells = np.sort(rng.choice(n_cells, n_sample, replace=False))
    n_deciding = max(round(config.validation_fraction * n_sample), _FEWEST_DECIDING_CELLS)
    if config.validation_fraction == 0:
        n_deciding = 0
    elif n_sample < 2 * n_deciding:
        n_deciding = n_sample // 2
    shuffled = rng.permutation(n_sample)
    return Sample(cells, np.sort(shuffled[:n_deciding]), np.sort(shuffled[n_deciding:]))


def _thinning(sample: Sample, n_cells: int, config: Config) -> Thinning | None:
    """Say whose molecules are held out; None if nobody's are."""
    if not config.check and (config.preset == "paper" or not len(sample.deciding)):
        return None
    paying = np.zeros(n_cells, dtype=bool)  # without the check only the deciding cells pay
    paying[sample.cells if config.check else sample.cells[sample.deciding]] = True
    return Thinning(config.held_out_fraction, paying, config.seed)
