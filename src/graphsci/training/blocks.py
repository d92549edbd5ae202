"""Cells in chunks: what is learned from is read, shuffled and divided chunk by chunk.

A chunk is :data:`CHUNK_CELLS` consecutive training cells. Training takes several chunks at a
time, in random order, and shuffles the cells within them; up to :data:`MEMORY_CELLS` cells
that is a full shuffle. The same scheme serves memory and disk, so that both give the same
numbers.

Holding molecules out needs no second copy: which molecules of a chunk are withheld follows from
the seed and the chunk's number, and both parts can be made again whenever they are asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.io.sources import CHUNK_CELLS, CountSource, read_ahead
from graphsci.preprocessing import thin_counts

#: Cells that are in memory at once for training, for the gene graph and for the verdict.
MEMORY_CELLS = 20_000
#: Counts above 0 that are in memory at once: 256 MiB of them as CSR float32. With more than
#: 1,677 genes detected in the average cell, fewer cells than MEMORY_CELLS are taken.
MEMORY_ENTRIES = 2**25
#: Which random stream of a chunk: so that rounding and holding out do not share their draws.
_ROUNDING, _HOLDING_OUT = 1, 2

Indices = NDArray[np.int64]


class CountBlocks(ABC):
    """Counts of some cells and genes, served in chunks of consecutive cells."""

    shape: tuple[int, int]  #: (cells, genes)
    n_entries: int  #: counts above 0, before anything was withheld

    @abstractmethod
    def chunk(self, index: int) -> sparse.csr_matrix:
        """Return a chunk, (its cells, genes), canonical CSR float32; always the same."""

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.shape[0] // CHUNK_CELLS)

    @property
    def cells_at_once(self) -> int:
        """Cells to have in memory at once: all, or as many whole chunks as the bounds allow."""
        return cells_at_once(self.shape[0], self.n_entries)

    def read(self, chunks: Indices) -> sparse.csr_matrix:
        """Return several chunks below each other."""
        return stack([self.chunk(int(index)) for index in chunks])


def cells_at_once(n_cells: int, n_entries: int) -> int:
    """Cells whose counts may be in memory together; a multiple of a chunk if not all."""
    allowed = min(MEMORY_CELLS, MEMORY_ENTRIES * n_cells // max(1, n_entries))
    whole = max(1, allowed // CHUNK_CELLS) * CHUNK_CELLS
    return n_cells if n_cells <= allowed else min(n_cells, whole)


def cells_of(index: int, n_cells: int) -> Indices:
    """Positions of the cells of a chunk."""
    return np.arange(index * CHUNK_CELLS, min((index + 1) * CHUNK_CELLS, n_cells))


def stack(parts: list[sparse.csr_matrix]) -> sparse.csr_matrix:
    """Put matrices below each other."""
    return parts[0] if len(parts) == 1 else sparse.csr_matrix(sparse.vstack(parts, format="csr"))


class MemoryBlocks(CountBlocks):
    """Counts in memory, in chunks."""

    def __init__(self, counts: sparse.csr_matrix) -> None:
        self.counts, self.shape, self.n_entries = counts, counts.shape, int(counts.nnz)

    def chunk(self, index: int) -> sparse.csr_matrix:
        """Return a chunk."""
        return self.counts[index * CHUNK_CELLS : (index + 1) * CHUNK_CELLS]

    def read(self, chunks: Indices) -> sparse.csr_matrix:
        """Return several chunks below each other; without a copy if it is all of them."""
        return self.counts if len(chunks) == self.n_chunks else super().read(chunks)


class TrainingBlocks(CountBlocks):
    """The cells and genes of a source that training uses, in whole molecules.

    Parameters
    ----------
    source
        All cells and genes.
    cells, genes
        Positions of those to use, ascending; genes left out have no counts.
    seed
        Of the rounding of fractional counts: up or down at random, keeping their expectation,
        since half a molecule cannot be held out.
    """

    def __init__(self, source: CountSource, cells: Indices, genes: Indices, *, seed: int) -> None:
        self.source, self.cells, self.seed = source, cells, seed
        self.shape, self.n_entries = (len(cells), len(genes)), source.n_entries
        self.was_rounded = False  #: whether a chunk read so far had fractional counts
        self._place = np.full(source.shape[1], -1, dtype=np.int32)
        self._place[genes] = np.arange(len(genes), dtype=np.int32)

    def chunk(self, index: int) -> sparse.csr_matrix:
        """Return a chunk."""
        cells = self.cells[index * CHUNK_CELLS : (index + 1) * CHUNK_CELLS]
        counts = self.source.rows(int(cells[0]), int(cells[-1]) + 1)
        if counts.shape[0] > len(cells):
            counts = counts[cells - cells[0]]
        shape = (len(cells), self.shape[1])
        # whatever the matrix came from may be the user's: only its structure is shared
        arrays = (counts.data, self._place[counts.indices], counts.indptr)
        chunk = sparse.csr_matrix(arrays, shape=shape)
        whole = whole_molecules(chunk, chunk_rng(self.seed, _ROUNDING, index))
        self.was_rounded |= whole is not chunk
        return whole


def whole_molecules(counts: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    """Round fractional counts up or down at random, keeping their expectation."""
    whole = np.floor(counts.data)
    part = counts.data - whole
    if not part.any():
        return counts
    rounded = counts.copy()
    rounded.data = (whole + (rng.random(len(part)) < part)).astype(np.float32)
    rounded.eliminate_zeros()
    return rounded


class Thinning(NamedTuple):
    """Which molecules are held out: each one of the chosen cells, with a probability."""

    fraction: float  #: probability of a molecule to be held out
    cells: NDArray[np.bool_]  #: (cells,) those that molecules are held out of
    seed: int

    def divide(
        self, index: int, counts: sparse.csr_matrix
    ) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Divide the ``counts`` of a chunk into kept and held out; they add up to ``counts``."""
        chosen = self.cells[index * CHUNK_CELLS : index * CHUNK_CELLS + counts.shape[0]]
        rng = chunk_rng(self.seed, _HOLDING_OUT, index)
        if chosen.all():
            return thin_counts(counts, fraction=self.fraction, rng=rng)
        if not chosen.any():
            return counts, sparse.csr_matrix(counts.shape, dtype=np.float32)
        _, part = thin_counts(counts[np.flatnonzero(chosen)], fraction=self.fraction, rng=rng)
        lengths = np.zeros(counts.shape[0], dtype=part.indptr.dtype)
        lengths[chosen] = np.diff(part.indptr)
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(part.indptr.dtype)
        held_out = sparse.csr_matrix((part.data, part.indices, indptr), shape=counts.shape)
        return sparse.csr_matrix(counts - held_out), held_out


class KeptBlocks(CountBlocks):
    """What is left of the training counts when molecules were held out: all that learns sees."""

    def __init__(self, counts: CountBlocks, thinning: Thinning) -> None:
        self.whole, self.thinning = counts, thinning
        self.shape, self.n_entries = counts.shape, counts.n_entries

    def chunk(self, index: int) -> sparse.csr_matrix:
        """Return the kept part of a chunk."""
        return self.thinning.divide(index, self.whole.chunk(index))[0]


def chunk_rng(seed: int, stream: int, index: int) -> np.random.Generator:
    """Return the random numbers of one chunk for one purpose."""
    return np.random.default_rng([seed, stream, index])


# --- reading ahead, shuffling ---------------------------------------------------------


class Minibatch(NamedTuple):
    """Some cells with their counts."""

    cells: Indices  #: (cells,) positions among the training cells
    counts: sparse.csr_matrix  #: (cells, genes)


def chunks_in_order(blocks: CountBlocks) -> Iterator[sparse.csr_matrix]:
    """Yield every chunk from the first to the last, the next one read ahead."""
    return read_ahead(blocks.chunk, range(blocks.n_chunks))


def shuffled(blocks: CountBlocks, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
    """Yield every cell once, in shuffled minibatches; the last takes what is left.

    Groups of random chunks are read ahead and the cells of a group shuffled. No minibatch is
    smaller than ``batch_size`` unless there are fewer cells.
    """
    n_cells = blocks.shape[0]
    n_left, rest = max(1, n_cells // batch_size), None
    for cells, counts in read_ahead(lambda group: _read(blocks, group), _groups(blocks, rng)):
        order = rng.permutation(len(cells))
        while n_left > 1 and _size(rest) + len(order) >= batch_size:
            taken, order = np.split(order, [batch_size - _size(rest)])
            yield _join(rest, _pick(cells, counts, taken))
            n_left, rest = n_left - 1, None
        rest = _join(rest, _pick(cells, counts, order))
        del counts
    assert rest is not None
    yield rest


def _read(blocks: CountBlocks, group: Indices) -> tuple[Indices, sparse.csr_matrix]:
    cells = np.concatenate([cells_of(int(index), blocks.shape[0]) for index in group])
    return cells, blocks.read(group)


def _groups(blocks: CountBlocks, rng: np.random.Generator) -> list[Indices]:
    """Put the chunks into groups that are in memory together, at random if there are several."""
    at_once = max(1, -(-blocks.cells_at_once // CHUNK_CELLS))
    if at_once >= blocks.n_chunks:
        return [np.arange(blocks.n_chunks)]
    order = rng.permutation(blocks.n_chunks)
    return [np.sort(order[at : at + at_once]) for at in range(0, len(order), at_once)]


def _size(batch: Minibatch | None) -> int:
    return 0 if batch is None else len(batch.cells)


def _pick(cells: Indices, counts: sparse.csr_matrix, chosen: Indices) -> Minibatch:
    chosen = np.sort(chosen)
    return Minibatch(cells[chosen], counts[chosen])


def _join(first: Minibatch | None, second: Minibatch) -> Minibatch:
    if first is None:
        return second
    cells = np.concatenate([first.cells, second.cells])
    return Minibatch(cells, stack([first.counts, second.counts]))
