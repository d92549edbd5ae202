"""Are there more zeros than counting explains? Decides between NB and ZINB.

Molecule counts (UMI) are NB: their zeros are the low end of the same distribution
(Svensson 2020, doi:10.1038/s41587-019-0379-5). Reads of plate protocols often have more.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from graphsci.preprocessing import library_sizes

#: Genes below this mean count say little: nearly all of their zeros are expected anyway.
SMALLEST_MEAN = 0.5
#: Mean over genes of 2 log(likelihood of ZINB / of NB). By chance it is near 0.5, half of a
#: chi-square of one degree of freedom. At most 0.8 on 13 sets of molecule counts and on simulated
#: NB counts of theta 0.3 to 10,000, at least 3.5 on reads and on Splat with dropout.
EVIDENCE = 1.7
#: A gene's likelihood ratio that speaks for itself: by chance 2 % of the genes exceed it.
CLEAR_GAIN = 4.0
#: Share of genes above it. At most 0.03 on 11 sets of molecule counts, at least 0.32 on Splat with
#: dropout, also where most genes are so deep that their median entry drops 2 %.
CLEAR_SHARE = 0.1
#: Shares of entries dropped and inverse dispersions whose likelihoods are compared.
_SHARES = np.array([0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
_THETAS = np.geomspace(0.1, 100.0, 13)
#: Genes and cells of one group that are looked at: more change nothing but the time.
_MOST_GENES, _MOST_GROUP_CELLS = 100, 200
_MOST_CELLS = 3000
#: Cells of one group are compared with each other, or a gene that is on in one cell type and
#: off in another would look dropped. A group needs this many cells for its moments.
_CELLS_PER_GROUP = 30
_MOST_GROUPS = 10
#: With fewer cells a group holds several cell types, and their mixture looks like dropout: 65
#: libraries of 11 cell lines (Pollen 2014) did, and filling in what never was took the estimate
#: away from the same libraries sequenced 35 x deeper (benchmarks/lab). nb takes zeros as measured.
FEWEST_CELLS = 200


class ZeroInflation(NamedTuple):
    """Evidence for dropout beyond sampling."""

    evidence: float  #: mean over genes of 2 log(likelihood of ZINB / of NB)
    share: float  #: median over genes of the share of entries dropped
    clear: float  #: share of the genes, in each group, whose ratio exceeds :data:`CLEAR_GAIN`
    n_genes: int  #: genes looked at
    n_cells: int  #: cells looked at

    @property
    def zero_inflated(self) -> bool:
        """Whether dropout is certain, and seen in more than a few genes."""
        return self.evidence > EVIDENCE and self.clear > CLEAR_SHARE

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
        numbers = (
            f"dropout gains {self.evidence:.1f} in likelihood ratio a gene, by chance 0.5, zinb "
            f"above {EVIDENCE}; it is clear in {self.clear:.0%} of {self.n_genes} genes, by chance "
            f"2%, zinb above {CLEAR_SHARE:.0%}; median share dropped {self.share:.0%}"
        )
        if self.zero_inflated:
            return f"likelihood zinb: zeros exceed what a negative binomial predicts ({numbers})"
        if self.evidence > EVIDENCE or self.clear > CLEAR_SHARE:
            return (
                "likelihood nb: zeros exceed what a negative binomial predicts, but in too few "
                f"genes or by too little for dropout; choose zinb yourself for reads ({numbers})"
            )
        return f"likelihood nb: zeros match what a negative binomial predicts ({numbers})"


def detect_zero_inflation(counts: sparse.csr_matrix, *, seed: int = 0) -> ZeroInflation:
    """Compare NB and ZINB by their likelihoods, gene by gene, within groups of similar cells.

    With size factors s_c and a gene's mean m of x / s, every share pi and inverse dispersion
    theta of a grid gives x_c the distribution ZINB(s_c m / (1 - pi), theta, pi), whose mean is
    s_c m whatever pi. The best pi = 0 is compared with the best of all. Only genes with m above
    0.5 in a group count. ZINB is chosen if the mean likelihood ratio exceeds :data:`EVIDENCE`
    and the share of genes with one above :data:`CLEAR_GAIN` exceeds :data:`CLEAR_SHARE`.

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
        return ZeroInflation(0.0, 0.0, 0.0, 0, len(cells))
    if len(cells) > _MOST_CELLS:
        cells = np.sort(rng.choice(cells, _MOST_CELLS, replace=False))
    counts = counts[cells]
    size_factor = library[cells] / np.median(library[cells])
    fits = [
        _fit_dropout(counts[group], size_factor[group], rng)
        for group in similar_cells(counts, seed)
    ]
    n_genes = len(np.unique(np.concatenate([fit.genes for fit in fits]))) if fits else 0
    if n_genes == 0:
        return ZeroInflation(0.0, 0.0, 0.0, 0, len(cells))
    ratios = 2 * np.concatenate([fit.gain for fit in fits])
    return ZeroInflation(
        evidence=float(ratios.mean()),
        share=float(np.median(np.concatenate([fit.share for fit in fits]))),
        clear=float((ratios > CLEAR_GAIN).mean()),
        n_genes=n_genes,
        n_cells=len(cells),
    )


class _Dropout(NamedTuple):
    """Best ZINB of some genes in a group of cells, (genes,) each."""

    genes: NDArray[np.int64]
    share: NDArray[np.float64]  # pi of the best ZINB
    gain: NDArray[np.float64]  # its log-likelihood less that of the best NB, >= 0


def similar_cells(counts: sparse.csr_matrix, seed: int) -> list[NDArray[np.int64]]:
    """Group cells by K-means on principal components."""
    n_groups = min(_MOST_GROUPS, counts.shape[0] // _CELLS_PER_GROUP)
    if n_groups < 2:
        return [np.arange(counts.shape[0])]
    from sklearn.cluster import KMeans

    from graphsci.simple_methods import principal_components

    points = principal_components(counts, n_components=10, seed=seed)
    labels = KMeans(n_groups, n_init=3, random_state=seed).fit_predict(points)
    groups = [np.flatnonzero(labels == group) for group in range(n_groups)]
    return [group for group in groups if len(group) >= _CELLS_PER_GROUP // 2]


def _fit_dropout(
    counts: sparse.csr_matrix, size_factor: NDArray[np.float64], rng: np.random.Generator
) -> _Dropout:
    """Best NB and ZINB of the genes with enough counts, over the grid."""
    if len(size_factor) > _MOST_GROUP_CELLS:
        cells = np.sort(rng.choice(len(size_factor), _MOST_GROUP_CELLS, replace=False))
        counts, size_factor = counts[cells], size_factor[cells]
    mean = np.asarray((sparse.diags_array(1 / size_factor) @ counts).mean(0)).ravel()
    genes = np.flatnonzero(mean > SMALLEST_MEAN)
    if len(genes) > _MOST_GENES:
        genes = np.sort(rng.choice(genes, _MOST_GENES, replace=False))
    x = counts[:, genes].toarray().astype(np.float64)
    expected = size_factor[:, None] * mean[genes]
    likelihood = np.stack([_log_likelihoods(x, expected, theta) for theta in _THETAS])
    profile = likelihood.max(0)  # (shares, genes)
    best = profile.argmax(0)
    gain = profile.max(0) - profile[0]
    return _Dropout(genes, _SHARES[best], gain)


def _log_likelihoods(
    x: NDArray[np.float64], expected: NDArray[np.float64], theta: float
) -> NDArray[np.float64]:
    """Log-likelihood of each gene for every share dropped, (shares, genes), up to a constant.

    log x! is left out: it is the same for all. With mean = expected / (1 - share) and
    L = log(1 + mean / theta), a cell without counts has share + (1 - share) exp(-theta L), and
    one with x of them (1 - share) (mean / theta)^x exp(-(theta + x) L) times
    Gamma(x + theta) / Gamma(theta).
    """
    unmeasured = x == 0
    n_measured, total = (~unmeasured).sum(0), x.sum(0)
    odds, power = expected / theta, -(theta + x)
    distinct, which = np.unique(x, return_inverse=True)  # few, and log-gammas are slow
    choose = special.gammaln(distinct + theta) - special.gammaln(theta)
    constant = (choose[which.reshape(x.shape)] + x * np.log(odds)).sum(0)
    found = np.empty((len(_SHARES), x.shape[1]))
    for row, share in enumerate(_SHARES):
        logs = np.log(1 + odds / (1 - share))
        terms = power * logs
        if share > 0:
            terms[unmeasured] = np.log(share + (1 - share) * np.exp(terms[unmeasured]))
        found[row] = terms.sum(0) + constant + (n_measured - total) * np.log1p(-share)
    return found
