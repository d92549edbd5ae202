"""Are there more zeros than counting explains? Decides between NB and ZINB.

Molecule counts (UMI) are NB: their zeros are the low end of the same distribution
(Svensson 2020, doi:10.1038/s41587-019-0379-5). Reads of plate protocols often have more.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.preprocessing import library_sizes

#: Genes below this mean count say little: nearly all of their zeros are expected anyway.
SMALLEST_MEAN = 0.3
#: Median share of a gene's entries that are zero beyond what NB predicts. On ten UMI data
#: sets it is within 0.01 of 0; on Splat with dropout and on Fluidigm reads it is above 0.05.
THRESHOLD = 0.03
_MOST_GENES = 1000
_MOST_CELLS = 3000
#: Cells of one group are compared with each other, or a gene that is on in one cell type and
#: off in another would look dropped. A group needs this many cells for its moments.
_CELLS_PER_GROUP = 30
_MOST_GROUPS = 10
#: Fewer cells make no two groups, and a mixture of two cell types looks like dropout.
FEWEST_CELLS = 2 * _CELLS_PER_GROUP


class ZeroInflation(NamedTuple):
    """Evidence for dropout beyond sampling."""

    excess: float  #: median over genes of observed minus expected share of zeros
    n_genes: int  #: genes looked at
    n_cells: int  #: cells looked at
    zero_inflated: bool

    @property
    def likelihood(self) -> str:
        """The likelihood that the evidence speaks for: ``"nb"`` or ``"zinb"``."""
        return "zinb" if self.zero_inflated else "nb"

    def reason(self) -> str:
        """One sentence for the user."""
        if self.n_cells < FEWEST_CELLS:
            return (
                f"likelihood nb: {self.n_cells} cells are too few to tell dropout from cell types "
                f"(at least {FEWEST_CELLS}); choose zinb yourself for reads with dropout"
            )
        if self.n_genes == 0:
            return (
                "likelihood nb: no gene has enough counts to tell dropout from sampling "
                f"(mean of {SMALLEST_MEAN} or more per cell)"
            )
        verb = "exceed" if self.zero_inflated else "match"
        return (
            f"likelihood {self.likelihood}: zeros {verb} what a negative binomial predicts "
            f"(median excess {self.excess:+.1%} of entries over {self.n_genes} genes; "
            f"zinb above {THRESHOLD:.0%})"
        )


def detect_zero_inflation(counts: sparse.csr_matrix, *, seed: int = 0) -> ZeroInflation:
    """Compare the zeros of each gene with a negative binomial of its mean and variance.

    Within groups of similar cells, with size factors s_c and a gene's mean m and variance v
    of x / s, the dispersion by moments is theta = m^2 / (v - mean(x / s^2)), and the expected
    share of zeros is the mean of (theta / (theta + s_c m))^theta. Only genes with m above
    0.3 in a group count; the verdict is the median of observed minus expected.

    Parameters
    ----------
    counts
        (cells, genes) raw counts.
    seed
        Of the choice of cells and genes if there are many, and of the grouping.
    """
    rng = np.random.default_rng(seed)
    library = library_sizes(counts)
    cells = np.flatnonzero(library > 0)
    if len(cells) < FEWEST_CELLS:
        return ZeroInflation(0.0, 0, len(cells), False)
    if len(cells) > _MOST_CELLS:
        cells = np.sort(rng.choice(cells, _MOST_CELLS, replace=False))
    counts = counts[cells]
    size_factor = library[cells] / np.median(library[cells])
    excess = [
        _excess_zeros(counts[group], size_factor[group], rng)
        for group in _similar_cells(counts, size_factor, seed)
    ]
    pooled = np.concatenate([values for _, values in excess]) if excess else np.zeros(0)
    if not len(pooled):
        return ZeroInflation(0.0, 0, len(cells), False)
    median = float(np.median(pooled))
    n_genes = len(np.unique(np.concatenate([genes for genes, _ in excess])))
    return ZeroInflation(median, n_genes, len(cells), median > THRESHOLD)


def _similar_cells(
    counts: sparse.csr_matrix, size_factor: NDArray[np.float64], seed: int
) -> list[NDArray[np.int64]]:
    """Group cells by K-means on principal components."""
    n_groups = min(_MOST_GROUPS, counts.shape[0] // _CELLS_PER_GROUP)
    from sklearn.cluster import KMeans

    from graphsci.evaluation.controls import principal_components

    points = principal_components(counts, n_components=10, random_state=seed)
    labels = KMeans(n_groups, n_init=3, random_state=seed).fit_predict(points)
    groups = [np.flatnonzero(labels == group) for group in range(n_groups)]
    return [group for group in groups if len(group) >= _CELLS_PER_GROUP // 2]


def _excess_zeros(
    counts: sparse.csr_matrix, size_factor: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Genes with enough counts, and their observed minus expected share of zeros."""
    scaled = sparse.diags_array(1 / size_factor) @ counts
    genes = np.flatnonzero(np.asarray(scaled.mean(0)).ravel() > SMALLEST_MEAN)
    if len(genes) > _MOST_GENES:
        genes = np.sort(rng.choice(genes, _MOST_GENES, replace=False))
    x = counts[:, genes].toarray()
    y = x / size_factor[:, None]
    mean = y.mean(0)
    extra = y.var(0, ddof=1) - (x / size_factor[:, None] ** 2).mean(0)
    theta = mean**2 / np.maximum(extra, 1e-6 * mean**2)
    expected = np.exp(-theta * np.log1p(mean * size_factor[:, None] / theta)).mean(0)
    return genes, (x == 0).mean(0) - expected
