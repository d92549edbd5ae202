"""Held-out designs: what is hidden from a method, and what it is judged on.

Each is seeded by its ``rng`` and leaks nothing: what is scored never reaches the training
counts.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from graphsci.predictions import Matrix
from graphsci.preprocessing import fit_median_library_size, thin_counts


class MoleculeSplit(NamedTuple):
    """Every molecule is in exactly one of two matrices."""

    kept: sp.csr_matrix  #: (cells, genes), for training
    held_out: sp.csr_matrix  #: (cells, genes), for the judge; kept + held_out = counts
    ratio: float  #: held-out fraction / kept fraction: scales a rate from one to the other


class EntrySplit(NamedTuple):
    """Some non-zero entries are set to zero."""

    masked: sp.csr_matrix  #: (cells, genes), for training; zero where hidden
    cells: NDArray[np.int64]  #: (entries,) row of each hidden entry
    genes: NDArray[np.int64]  #: (entries,) column of each hidden entry
    values: NDArray[np.float64]  #: (entries,) the hidden counts


class CellSplit(NamedTuple):
    """Cells for training and cells for testing."""

    train: NDArray[np.int64]  #: sorted indices
    test: NDArray[np.int64]  #: sorted indices


class DepthSplit(NamedTuple):
    """A deep matrix thinned to a shallow one, with the deep one's rates as truth."""

    shallow: sp.csr_matrix  #: (cells, genes), for training
    rest: sp.csr_matrix  #: (cells, genes), the molecules left out, independent of ``shallow``
    fraction: float  #: share of the molecules kept
    truth: sp.csr_matrix  #: (cells, genes) ``rest * fraction / (1 - fraction)``: shallow's rates


def hold_out_molecules(
    counts: Matrix, *, fraction: float = 0.1, rng: np.random.Generator
) -> MoleculeSplit:
    """Split the molecules at random: held out ~ Binomial(x, fraction), kept the rest.

    For Poisson counts the two parts are independent given the rates, so the held-out part
    judges a prediction made from the kept part without bias.

    Parameters
    ----------
    counts
        Whole numbers (cells, genes).
    fraction
        Share of the molecules to hold out, between 0 and 1.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If the fraction is out of range or counts are not whole numbers.

    References
    ----------
    Batson et al. 2019, doi:10.1101/786269.
    """
    kept, held_out = thin_counts(sp.csr_matrix(counts), fraction=fraction, rng=rng)
    return MoleculeSplit(kept, held_out, fraction / (1.0 - fraction))


def hold_out_entries(
    counts: Matrix, *, fraction: float = 0.1, rng: np.random.Generator
) -> EntrySplit:
    """Set a share of the non-zero entries to zero, and keep their values aside.

    The dropout that DCA, DeepImpute and the paper assume. Unlike the molecules' split it tells
    the judge that the entry was not zero, so it rewards over-estimation; read it beside that.

    Parameters
    ----------
    counts
        Counts (cells, genes).
    fraction
        Share of the non-zero entries to hide, between 0 and 1.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If the fraction is out of range or hides no entry.
    """
    _check_fraction(fraction)
    entries = sp.csr_matrix(counts).tocoo()
    entries.eliminate_zeros()
    hidden = rng.choice(entries.nnz, size=round(fraction * entries.nnz), replace=False)
    if not hidden.size:
        raise ValueError(
            f"a fraction of {fraction} hides none of the {entries.nnz} non-zero entries, "
            "expected at least one; raise the fraction."
        )
    hidden.sort()
    left = np.ones(entries.nnz, dtype=bool)
    left[hidden] = False
    masked = sp.csr_matrix(
        (entries.data[left], (entries.row[left], entries.col[left])), shape=entries.shape
    )
    rows, columns = (axis[hidden].astype(np.int64) for axis in (entries.row, entries.col))
    return EntrySplit(masked, rows, columns, entries.data[hidden].astype(np.float64))


def hold_out_cells(n_cells: int, *, fraction: float = 0.2, rng: np.random.Generator) -> CellSplit:
    """Choose cells for testing; 80/20 as the paper's independent test.

    Parameters
    ----------
    n_cells
        Number of cells.
    fraction
        Share of the cells for testing, between 0 and 1.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If the fraction is out of range or leaves one side empty.
    """
    _check_fraction(fraction)
    n_test = round(fraction * n_cells)
    if not 0 < n_test < n_cells:
        raise ValueError(
            f"a fraction of {fraction} puts {n_test} of {n_cells} cells in the test set, expected "
            "at least one on either side; change the fraction or use more cells."
        )
    order = rng.permutation(n_cells).astype(np.int64)
    return CellSplit(np.sort(order[n_test:]), np.sort(order[:n_test]))


def thin_to_depth(
    counts: Matrix, *, median_library_size: float, rng: np.random.Generator
) -> DepthSplit:
    """Thin a deep data set to a median depth; the molecules left out say what is true.

    Molecules are kept with one probability for all cells, the wanted median library size over
    the present one. The truth is built from the molecules *left out*, scaled to the shallow
    depth, and never from the shallow counts: a method that returns its input gains nothing.

    Parameters
    ----------
    counts
        Whole numbers (cells, genes).
    median_library_size
        Wanted median molecules per cell that is not empty, below the present one.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If the wanted depth is not positive and below the present one.
    """
    matrix = sp.csr_matrix(counts)
    present = fit_median_library_size(matrix)
    if not 0 < median_library_size < present:
        raise ValueError(
            f"got a wanted median of {median_library_size} molecules per cell, expected a number "
            f"between 0 and the present {present:.0f}; thinning cannot deepen."
        )
    fraction = median_library_size / present
    rest, shallow = thin_counts(matrix, fraction=fraction, rng=rng)
    return DepthSplit(shallow, rest, fraction, rest * (fraction / (1.0 - fraction)))


def _check_fraction(fraction: float) -> None:
    """Refuse a share that is not between 0 and 1."""
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction is {fraction}, expected a number between 0 and 1, both excluded, "
            "such as 0.1."
        )
