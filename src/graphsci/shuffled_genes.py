"""Shuffled copies of genes: independent of all others by construction, or given the group."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from graphsci.predictions import Matrix
from graphsci.preprocessing import detected_genes, library_sizes

#: Cells of about one depth among which a copy that follows depth is shuffled.
CELLS_OF_ONE_DEPTH = 20
#: Bits of the random numbers that order the cells of a group, behind the number of the group.
_RANDOM_BITS = 32


class WithShuffledGenes(NamedTuple):
    """Counts with shuffled copies of real genes behind the real ones."""

    counts: sp.csr_matrix  #: (cells, genes + copies), in the dtype of the input
    sources: NDArray[np.int64]  #: (copies,) the gene that each copy was made from
    copies: NDArray[np.int64]  #: (copies,) column of each copy


def append_shuffled_genes(
    counts: Matrix,
    *,
    n_copies: int = 100,
    min_cells: int = 10,
    groups: NDArray[np.int64] | None = None,
    rng: np.random.Generator,
) -> WithShuffledGenes:
    """Append copies of real genes, each with its cells in a random order of its own.

    A copy has a real gene's distribution and is independent of every other gene and of all other
    copies: simply without ``groups``, with them given the group alone, as a copy then follows what
    its gene has in common with the group (depth, batch). What a method makes of copies that
    correlate beyond that is its own invention.

    Library sizes change little if copies are few; note that a copy does not grow with its cell's
    library, so that dividing by it correlates all copies in truth: compare with the raw counts,
    not with zero, and look at :func:`.false_signal.correlation_given_depth`. With ``groups`` of
    :func:`cells_of_one_depth` it does grow, as its gene does.

    Parameters
    ----------
    counts
        (cells, genes).
    n_copies
        Genes to copy, without repetition.
    min_cells
        Only genes seen in at least as many cells are copied: a gene that is zero everywhere has
        no correlation to invent.
    groups
        (cells,) of each: cells change places within a group alone, so that a copy differs between
        groups (batches, depths) as its gene does.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If fewer than two copies are asked for, or fewer genes than copies are seen often enough.
    """
    matrix = sp.csc_matrix(counts)
    eligible = genes_to_copy(matrix, n_copies=n_copies, min_cells=min_cells)
    sources = np.sort(rng.choice(eligible, size=n_copies, replace=False)).astype(np.int64)
    among = None if groups is None else _Grouped.of(groups)
    shuffled = sp.hstack([_shuffled_column(matrix, gene, among, rng) for gene in sources])
    copies = np.arange(n_copies, dtype=np.int64) + matrix.shape[1]
    return WithShuffledGenes(sp.csr_matrix(sp.hstack([matrix, shuffled])), sources, copies)


def genes_to_copy(counts: Matrix, *, n_copies: int = 100, min_cells: int = 10) -> NDArray[np.int64]:
    """Return the genes of which :func:`append_shuffled_genes` chooses; errors as there."""
    eligible = np.flatnonzero(detected_genes(sp.csr_matrix(counts), min_cells=min_cells))
    if not 2 <= n_copies <= eligible.size:
        raise ValueError(
            f"got n_copies={n_copies}, expected 2 to {eligible.size}, the genes seen in at least "
            f"{min_cells} cells; change n_copies or min_cells."
        )
    return eligible


def cells_of_one_depth(
    counts: sp.csr_matrix, batch: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Groups of about twenty cells of one batch with the most similar library sizes, (cells,).

    Parameters
    ----------
    counts
        (cells, genes).
    batch
        (cells,); None for one.
    """
    library = library_sizes(counts)
    batch = np.zeros(len(library), np.int64) if batch is None else batch
    groups, n_groups = np.empty(len(library), np.int64), 0
    for one in np.unique(batch):
        cells = np.flatnonzero(batch == one)
        cells = cells[np.argsort(library[cells], kind="stable")]
        n_here = max(1, len(cells) // CELLS_OF_ONE_DEPTH)
        groups[cells] = n_groups + np.arange(len(cells)) * n_here // len(cells)
        n_groups += n_here
    return groups


class _Grouped(NamedTuple):
    """Cells in the order of their groups, found once for all copies."""

    order: NDArray[np.int64]  # (cells,)
    places: NDArray[np.int64]  # (cells,) where each cell stands in that order
    keys: NDArray[np.int64]  # (cells,) in that order: number of the group, then zero bits

    @classmethod
    def of(cls, groups: NDArray[np.int64]) -> "_Grouped":
        numbers = np.unique(groups, return_inverse=True)[1].astype(np.int64)
        order = np.argsort(numbers, kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return cls(order, places, numbers[order] << _RANDOM_BITS)

    def drawn(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A random cell of its own group for each cell, (cells,), every cell once."""
        random = rng.integers(1 << _RANDOM_BITS, size=len(self.keys))
        return self.order[np.argsort(self.keys | random)][self.places]


def _shuffled_column(
    matrix: sp.csc_matrix,
    gene: int,
    among: _Grouped | None,
    rng: np.random.Generator,
) -> sp.csc_matrix:
    """Return one gene with its values in random cells, of those of a group in that group."""
    n_cells, entries = matrix.shape[0], slice(matrix.indptr[gene], matrix.indptr[gene + 1])
    rows, values = matrix.indices[entries], matrix.data[entries]
    if among is None:
        cells = rng.choice(n_cells, size=values.size, replace=False)
    else:
        cells = among.drawn(rng)[rows]
    found = values, (cells, np.zeros(values.size, dtype=np.int64))
    return sp.csc_matrix(found, shape=(n_cells, 1))
