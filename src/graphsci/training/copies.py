"""How many counts a molecule left: one where molecules were counted, many where reads were.

Without barcodes of molecules (Smart-seq2 and its like) a molecule is read many times, and its
reads are lost or found together. Their noise is that of the molecules, which counts / copies
have: a model of those does not take copies for evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.io.sources import CountSource
from graphsci.preprocessing import library_sizes
from graphsci.training.zero_inflation import FEWEST_CELLS, similar_cells

#: Cells that are looked at, in so many places of the data.
CELLS, _PLACES = 2_000, 5
#: A gene must be seen in this share of the cells (and in five), and must be missed in a tenth.
_SEEN, _FEWEST_CELLS, _MOST_SEEN = 0.02, 5, 0.9
#: Genes that this takes.
_FEWEST_GENES = 10
#: Of what genes say by their zeros, and by their variance. Most have more zeros than counting
#: explains; the variance is wanted as large as the usual gene has it.
_QUANTILES = 0.25, 0.5
#: By zeros, molecules have at most 1.4 of them in 13 data sets, at most 2.9 in their most variable
#: tenth of the genes, Splat with dropout 2.2, bulk profiles with dropout 2.0; shallow reads 5.1.
SIGN_OF_COPIES = 4.0
#: In fewer than :data:`.zero_inflation.FEWEST_CELLS` cells a group holds several types, whose
#: differences look like copies too: so many are certain.
MANY_COPIES = 10.0
#: Fewer counts per molecule than this are within the error of the estimate.
_ABOUT_NONE = 2.0
#: In genes seen in at most this share of the cells there are fewer 2s than this many times the 1s
#: (at most .28 in eleven data sets of molecules, .45 in Splat; .76 and more with three copies of a
#: molecule), as far as so many counts can tell. Markers of most groups of cells are seen in more.
_RARE, _MOST_TWOS, _FEWEST_ENTRIES = 0.05, 0.6, 100
#: Largest ratio of the mean over counts to that over molecules that is believed: 2 if copies are
#: geometric, 4 for a log-normal of standard deviation 1.2.
_MOST_SKEWED = 4.0
_BISECTIONS, _SIZES = 30, 50


class Copies(NamedTuple):
    """Counts per molecule, as two things tell that grow with them; 1 where too few genes do."""

    of_zeros: float  #: from how often a gene is missed: the mean over molecules
    of_variance: float  #: from the variance: the mean over counts, which is larger
    few_ones: bool  #: whether rare genes have too many 2s for their 1s
    n_cells: int  #: looked at

    def __str__(self) -> str:
        return (
            f"these look like reads, or like multiplied counts: about {self.of_zeros:.3g} of each "
            "molecule, as far as zeros tell"
        )

    @property
    def seen(self) -> bool:
        """Whether these are no counts of molecules."""
        return self.few_ones or self.of_zeros >= SIGN_OF_COPIES

    @property
    def divisor(self) -> float:
        """What counts are divided by so that they vary as molecules do; 1 for molecules."""
        if not self.seen:
            return 1.0
        return float(np.clip(self.of_variance, self.of_zeros, _MOST_SKEWED * self.of_zeros))

    def chosen(self, asked: float = 0.0) -> float:
        """What counts are divided by: ``asked`` or, if that is 0, what they certainly show."""
        if asked != 0:
            return asked
        fewest = _ABOUT_NONE if self.few_ones else SIGN_OF_COPIES
        if self.n_cells < FEWEST_CELLS:
            fewest = MANY_COPIES
        return self.divisor if self.of_zeros >= fewest else 1.0

    def left(self, divided_by: float) -> float:
        """Counts per molecule that are left after a division; 1 if that is about none."""
        left = self.of_zeros / divided_by
        return left if self.seen and left >= _ABOUT_NONE else 1.0


def find_copies(source: CountSource, *, seed: int = 0) -> Copies:
    """Tell counts per molecule from zeros and variances of the genes.

    A gene with m counts in the average cell, c of them from each molecule, has s m / c molecules
    in a cell of size factor s. By Poisson it is missed in sum over cells of exp(-s m / c), which
    gives c, and the variance of counts / s is c m mean(1 / s) with c the mean over counts of how
    many their molecule left. Whatever else varies makes more zeros and more variance, so that the
    lower quartile of the genes says c, of the variances the median. If that looks like copies it
    is done again within groups of similar cells: a panel of markers looks so over all of them.

    Costs one read of at most 2,000 cells, and their grouping where they look like copies.
    Multiplied counts give multiplied numbers.

    Parameters
    ----------
    source
        Counts, (cells, genes).
    seed
        Of the grouping.
    """
    counts = _some_cells(source)
    few_ones = _few_ones(counts)
    found = _together(counts, [np.arange(counts.shape[0])], few_ones)
    if found.seen:
        library = library_sizes(counts)
        groups = similar_cells(counts, library / np.median(library), seed)
        found = _together(counts, groups, few_ones) if groups else found
    return found


def _few_ones(counts: sparse.csr_matrix) -> bool:
    """Whether there are fewer 1s than molecules have in genes that few cells show.

    Such a gene is counted once where it is seen. A negative binomial of many zeros has half as many
    2s as 1s at most: NB(2) / NB(1) = (theta + 1) / 2 x mu / (mu + theta) is 1/2 for theta = 0, and
    less for others.
    """
    rare = counts[:, np.flatnonzero(counts.getnnz(axis=0) <= _RARE * counts.shape[0])]
    ones, twos = (np.count_nonzero(np.abs(rare.data - value) < 0.5) for value in (1, 2))
    return bool(rare.nnz >= _FEWEST_ENTRIES and twos >= _MOST_TWOS * ones)


def _together(
    counts: sparse.csr_matrix, groups: Sequence[NDArray[np.integer]], few_ones: bool
) -> Copies:
    """Say it from what the genes say in each group of cells."""
    values = np.concatenate([_per_gene(counts[group]) for group in groups], axis=1)
    n_cells = counts.shape[0]
    if values.shape[1] < _FEWEST_GENES:
        return Copies(1.0, 1.0, few_ones, n_cells)
    of_zeros, of_variance = (
        float(np.quantile(x, q)) for x, q in zip(values, _QUANTILES, strict=True)
    )
    return Copies(of_zeros, of_variance, few_ones, n_cells)


def _per_gene(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Counts per molecule by zeros and by variance of the genes that can tell, (2, genes)."""
    n_cells, library = counts.shape[0], library_sizes(counts)
    size_factors = library / library.mean()
    seen = counts.getnnz(axis=0)
    fewest = max(_FEWEST_CELLS, _SEEN * n_cells)
    genes = np.flatnonzero((seen >= fewest) & (seen <= _MOST_SEEN * n_cells))
    mean = np.asarray(counts.mean(0), dtype=np.float64).ravel()[genes]
    return np.stack(
        [
            _of_zeros(mean, seen[genes], size_factors),
            _of_variance(counts[:, genes], size_factors),
        ]
    )


def _some_cells(source: CountSource) -> sparse.csr_matrix:
    """Cells with counts, from places spread evenly over the data."""
    n_cells = source.shape[0]
    if n_cells <= CELLS:
        counts = source.rows(0, n_cells)
    else:
        width = CELLS // _PLACES
        starts = np.linspace(0, n_cells - width, _PLACES).astype(int)
        counts = sparse.vstack(
            [source.rows(int(at), int(at) + width) for at in starts], format="csr"
        )
    return sparse.csr_matrix(counts[np.flatnonzero(counts.getnnz(axis=1))])


def _of_zeros(
    mean: NDArray[np.float64], seen: NDArray[np.integer], size_factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """C with sum over cells of 1 - exp(-s m / c) = ``seen``, by bisection of log c; (genes,)."""
    n_sizes = min(len(size_factors), _SIZES)  # those of so many equal parts of the cells
    sizes = np.quantile(size_factors, (np.arange(n_sizes) + 0.5) / n_sizes, method="hazen")
    low, high = np.log(mean) - 10.0, np.log(mean) + 20.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rate = mean * np.exp(-middle)
        expected = sum(-np.expm1(-s * rate) for s in sizes) * (len(size_factors) / n_sizes)
        low, high = np.where(expected > seen, [middle, high], [low, middle])
    return np.asarray(np.exp((low + high) / 2))


def _of_variance(
    counts: sparse.csr_matrix, size_factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Variance of counts / s over mean times mean(1 / s), (genes,)."""
    scaled = sparse.diags_array(1 / size_factors) @ counts
    mean = np.asarray(scaled.mean(0)).ravel()
    variance = np.asarray(scaled.multiply(scaled).mean(0)).ravel() - mean**2
    unbiased = counts.shape[0] / (counts.shape[0] - 1)
    return np.asarray(variance * unbiased / (mean * np.mean(1 / size_factors)))
