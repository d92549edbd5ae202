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
#: Whatever else varies makes zeros too. Over all cells the lower quartile of the genes counts, and
#: from this many counts a molecule on cells are grouped (molecules have up to 1.5 in 13 data sets).
_SUSPECT = 2.0
#: Within groups, by the median gene, molecules have at most 1.3 of them in 11 data sets, 2.5 in
#: their most variable tenth of the genes, Splat with dropout 2.6. In fewer than
#: :data:`.zero_inflation.FEWEST_CELLS` cells a group holds several types, whose differences look
#: like copies too: there the lower quartile counts, and nothing is certain but a common divisor.
SIGN_OF_COPIES = 4.0
#: Ratio of what variances say to what zeros say. Copies have more than 1 by definition: 1.0 and
#: more where all are alike, 1.57 and more in 13 data sets where they are geometric. Dropout alone
#: leaves the counts that are seen alike, and has less (Splat, deep: .75 and .93; shallow 1.3).
_OF_COPIES, _CLEARLY_COPIES = 0.98, 1.45
#: Groups of cells, or batches, whose numbers differ by this factor were not counted alike.
_UNLIKE = 3.0
#: Genes of a group that this takes.
_ENOUGH_GENES = 50
#: Cells with less than this share of their group's median library say too little.
_SHALLOW = 0.05
#: Fewer counts per molecule than this are within the error of the estimate.
_ABOUT_NONE = 2.0
#: Counts that a common divisor takes.
_FEWEST_ENTRIES = 100
#: Largest ratio of the mean over counts to that over molecules that is believed: 2 if copies are
#: geometric, 4 for a log-normal of standard deviation 1.2.
_MOST_SKEWED = 4.0
#: Standard deviation over genes of the log copies that molecules seem to have, by what genes do
#: beyond counting: 0 to .26 in 11 data sets.
_OF_GENES = 0.2
#: A gene is read so many times more or less often than the usual one at most.
_MOST_APART = 20.0
_BISECTIONS, _SIZES = 30, 50


class Copies(NamedTuple):
    """Counts per molecule, as two things tell that grow with them; 1 where too few genes do."""

    of_zeros: float  #: from how often a gene is missed: the mean over molecules
    of_variance: float  #: from the variance: the mean over counts, which is larger
    common: int  #: largest number that divides every count
    n_cells: int  #: looked at
    relative: NDArray[np.float64]  #: (genes,) of each gene, against the usual gene; 1 if unknown
    lowest: float = 1.0  #: ``of_zeros`` of the batch or group of cells with least
    highest: float = 1.0  #: and with most

    def __str__(self) -> str:
        if self.unlike:
            return (
                f"some cells look like reads, about {self.highest:.3g} of each molecule, and "
                f"others have {self.lowest:.3g}: these were not counted alike"
            )
        if self.common > 1:
            return f"every count is a multiple of {self.common}, as of molecules that were copied"
        unsure = " (dropout looks alike)"
        if self.n_cells < FEWEST_CELLS:
            unsure = (
                f" ({self.n_cells} cells are too few to tell that from different types of cells)"
            )
        return (
            f"these look like reads: about {self.of_zeros:.3g} of each molecule, as far as zeros "
            f"tell{'' if self.certain else unsure}"
        )

    @property
    def unlike(self) -> bool:
        """Whether some cells are of reads and others of molecules, or of fewer reads."""
        apart = self.highest >= max(SIGN_OF_COPIES, _UNLIKE * self.lowest)
        return apart and self.n_cells >= FEWEST_CELLS

    @property
    def seen(self) -> bool:
        """Whether these are no counts of molecules."""
        many = self.of_zeros >= SIGN_OF_COPIES and self._skew >= _OF_COPIES
        return self.common > 1 or many or self.unlike

    @property
    def _skew(self) -> float:
        return self.of_variance / self.of_zeros

    @property
    def divisor(self) -> float:
        """What the usual gene's counts are divided by to vary as molecules do; else 1."""
        if not self.seen:
            return 1.0
        if self.common > 1:
            return float(self.common)
        return float(np.clip(self.of_variance, self.of_zeros, _MOST_SKEWED * self.of_zeros))

    @property
    def certain(self) -> bool:
        """Whether counts are divided unless somebody says otherwise."""
        clear = self._skew >= _CLEARLY_COPIES and self.n_cells >= FEWEST_CELLS
        return self.common > 1 or (self.seen and clear and not self.unlike)

    def divisors(self, asked: float, *, doubted: bool = False) -> NDArray[np.float32]:
        """What the counts of each gene are divided by, (genes,).

        ``asked``, or if that is 0 what they certainly show; nothing of counts that are ``doubted``
        to be any.
        """
        if asked == 0 and self.certain and not doubted:
            return (self.divisor * self.relative).astype(np.float32)
        return np.full(len(self.relative), asked or 1.0, np.float32)

    def left(self, divisors: NDArray[np.float32]) -> float:
        """Counts per molecule that are left after a division; 1 if that is about none."""
        copies = self.highest if self.unlike else self.of_zeros
        left = copies / float(np.median(divisors))
        return left if self.seen and left >= _ABOUT_NONE else 1.0


def find_copies(
    source: CountSource, *, batch: NDArray[np.int64] | None = None, seed: int = 0
) -> Copies:
    """Tell counts per molecule from zeros and variances of the genes.

    A gene with m counts in the average cell, c of them from each molecule, has s m / c molecules
    in a cell of size factor s. By Poisson it is missed in sum over cells of exp(-s m / c), which
    gives c, and the variance of counts / s is c m mean(1 / s) with c the mean over counts of how
    many their molecule left. Whatever else varies makes more zeros and more variance: if these
    look like copies it is done again within groups of similar cells, since a panel of markers
    looks so over all of them, and the median gene says both.

    Genes are not read equally often: long ones are more often where whole transcripts are read.
    The log of a gene's c, by its zeros, is taken against the median as far as genes differ by
    more than they would for molecules.

    Costs one read of at most 2,000 cells, and their grouping where they look like copies; of the
    data up to the first cell with counts if all of those are empty. Multiplied counts give
    multiplied numbers.

    Parameters
    ----------
    source
        Counts, (cells, genes).
    batch
        (cells,) of each: batches may have been counted differently.
    seed
        Of the grouping.
    """
    counts, cells = _some_cells(source)
    if not len(cells):
        return Copies(1.0, 1.0, 1, 0, np.ones(source.shape[1]))
    common = _common_divisor(counts)
    codes = np.zeros(len(cells), np.int64) if batch is None else batch[cells]
    batches = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    parts = [_tell(counts[part]) for part in batches]
    suspect = max(_quantile([part], 0.25)[0] for part in parts) >= _SUSPECT
    if not suspect:
        return _found(parts, counts, 0.25, common)
    parts = []
    for part in batches:
        groups = similar_cells(counts[part], seed)
        parts += [_tell(counts[part[group]]) for group in groups]
    quantile = 0.25 if counts.shape[0] < FEWEST_CELLS else 0.5
    return _found(parts, counts, quantile, common)


class _Told(NamedTuple):
    """What the genes of some cells tell, those that can."""

    genes: NDArray[np.int64]  # their positions
    seen: NDArray[np.float64]  # cells that show them
    of_zeros: NDArray[np.float64]  # counts per molecule, by zeros
    of_variance: NDArray[np.float64]  # and by variance


def _tell(counts: sparse.csr_matrix) -> _Told:
    library = library_sizes(counts)
    deep = np.flatnonzero(library > _SHALLOW * np.median(library))
    counts, library, n_cells = counts[deep], library[deep], len(deep)
    size_factors = library / library.mean()
    seen = counts.getnnz(axis=0)
    fewest = max(_FEWEST_CELLS, _SEEN * n_cells)
    genes = np.flatnonzero((seen >= fewest) & (seen <= _MOST_SEEN * n_cells))
    mean = np.asarray(counts.mean(0), dtype=np.float64).ravel()[genes]
    of_zeros = _of_zeros(mean, seen[genes], size_factors)
    of_variance = _of_variance(counts[:, genes], size_factors)
    return _Told(genes, seen[genes].astype(np.float64), of_zeros, of_variance)


def _quantile(parts: Sequence[_Told], of_zeros: float) -> tuple[float, float]:
    """Counts per molecule by zeros, that quantile over genes and groups, and by variance."""
    zeros = np.concatenate([part.of_zeros for part in parts])
    variances = np.concatenate([part.of_variance for part in parts])
    if len(zeros) < _FEWEST_GENES:
        return 1.0, 1.0
    return float(np.quantile(zeros, of_zeros)), float(np.median(variances))


def _found(
    parts: Sequence[_Told], counts: sparse.csr_matrix, quantile: float, common: int
) -> Copies:
    n_cells, n_genes = counts.shape
    each = [_quantile([part], quantile)[0] for part in parts if len(part.genes) >= _ENOUGH_GENES]
    return Copies(
        *_quantile(parts, quantile),
        common,
        n_cells,
        np.ones(n_genes) if common > 1 else _relative(parts, n_genes),
        min(each, default=1.0),
        max(each, default=1.0),
    )


def _relative(parts: Sequence[_Told], n_genes: int) -> NDArray[np.float64]:
    """Copies of each gene against those of the median gene, shrunk towards it; (genes,).

    The log of c has a standard error of 1 / root(cells that show the gene).
    """
    total, weight = np.zeros(n_genes), np.zeros(n_genes)
    for part in parts:
        total[part.genes] += part.seen * np.log(part.of_zeros)
        weight[part.genes] += part.seen
    known = weight > 0
    if known.sum() < _FEWEST_GENES:
        return np.ones(n_genes)
    log = total[known] / weight[known]
    log -= np.median(log)
    noise = 1 / weight[known]
    spread = max(float(log.var() - noise.mean()) - _OF_GENES**2, 0.0)
    found = np.zeros(n_genes)
    found[known] = log * spread / (spread + _OF_GENES**2 + noise)
    return np.asarray(np.exp(np.clip(found, -np.log(_MOST_APART), np.log(_MOST_APART))))


def _common_divisor(counts: sparse.csr_matrix) -> int:
    """Largest number that divides every count; 1 for few counts and for fractions."""
    if counts.nnz < _FEWEST_ENTRIES or np.any(counts.data != np.rint(counts.data)):
        return 1
    return int(np.gcd.reduce(counts.data.astype(np.int64)))


def _some_cells(source: CountSource) -> tuple[sparse.csr_matrix, NDArray[np.int64]]:
    """Cells with counts, from places spread evenly over the data, and which.

    If all of those are empty, the first cells of the data that are not.
    """
    n_cells = source.shape[0]
    if n_cells <= CELLS:
        return _filled(source.rows(0, n_cells), np.arange(n_cells))
    width = CELLS // _PLACES
    starts = np.linspace(0, n_cells - width, _PLACES).astype(int)
    cells = (starts[:, None] + np.arange(width)).ravel()
    parts = [source.rows(int(at), int(at) + width) for at in starts]
    found = _filled(sparse.vstack(parts, format="csr"), cells)
    for start in range(0, n_cells, CELLS):
        if len(found[1]):
            break
        stop = min(start + CELLS, n_cells)
        found = _filled(source.rows(start, stop), np.arange(start, stop))
    return found


def _filled(
    counts: sparse.csr_matrix, cells: NDArray[np.int64]
) -> tuple[sparse.csr_matrix, NDArray[np.int64]]:
    """Those of some cells that have counts."""
    filled = np.flatnonzero(counts.getnnz(axis=1))
    return sparse.csr_matrix(counts[filled]), cells[filled]


def _of_zeros(
    mean: NDArray[np.float64], seen: NDArray[np.integer], size_factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The c with sum over cells of 1 - exp(-s m / c) = ``seen``, by bisection; (genes,)."""
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
    unbiased = counts.shape[0] / max(counts.shape[0] - 1, 1)
    return np.asarray(variance * unbiased / (mean * np.mean(1 / size_factors)))


def in_words(divisors: NDArray[np.float32]) -> str:
    """Say what counts are divided by; (genes,)."""
    low, usual, high = np.quantile(divisors, [0.05, 0.5, 0.95])
    return f"{usual:.3g}" + (f" (nine of ten genes {low:.3g} to {high:.3g})" if low < high else "")
