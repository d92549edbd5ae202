"""Does a gene vary with the state of the cell? A score test per gene, over all cells at once.

A gene without evidence keeps its mean share: otherwise its loadings, fitted to noise, give it
a share in every direction of the latent space, and two genes that have nothing to do with each
other come out correlated. See docs/method.md, "No invented correlation".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

Floats = NDArray[np.float64]

#: p-values are kept this far from 0 and 1: the Cauchy combination's tangent ends there.
_SMALLEST_P, _LARGEST_P = 1e-15, 1 - 1e-9


#: Bins of p-values, and those above which hardly anything but genes without variation is left.
#: The last bin is left out: genes with so few molecules that the test says nothing pile up there.
_BINS, _MOSTLY_NULL = np.linspace(0, 0.95, 20), 0.6


class ScoreSums(NamedTuple):
    """Sums over cells that the test needs; those of two sets of cells add up."""

    by_gene: Floats  #: (genes, regressors) sum over cells of target molecules x regressors
    moments: Floats  #: (regressors, regressors) sum of target library x regressor x regressor
    squares: Floats  #: (genes,) sum of squared target molecules / target library
    molecules: Floats  #: (genes,) target molecules
    n_cells: int  #: cells with a target molecule

    def plus(self, other: "ScoreSums") -> "ScoreSums":
        """Sums over both sets of cells."""
        return ScoreSums(
            self.by_gene + other.by_gene,
            self.moments + other.moments,
            self.squares + other.squares,
            self.molecules + other.molecules,
            self.n_cells + other.n_cells,
        )


def nuisance(library: Floats, batch: NDArray[np.int64], *, n_batches: int) -> Floats:
    """What may drive a gene without the cell's state: (cells, n_batches + 2).

    Its batch, and any relation to depth between none at all and proportional: the columns
    log(depth) and 1 / depth let the share of a gene, counts / depth, go from constant to
    1 / depth.

    Parameters
    ----------
    library
        (cells,) molecules of each cell, > 0.
    batch
        (cells,) 0 to ``n_batches`` - 1.
    """
    batches = np.eye(n_batches)[batch]
    return np.column_stack([batches, np.log(library), library.mean() / library])


def score_sums(target: sparse.csr_matrix, regressors: Floats) -> ScoreSums:
    """Sums of a block of cells.

    Parameters
    ----------
    target
        (cells, genes) molecules that the encoder did not see.
    regressors
        (cells, regressors): :func:`nuisance`, then the embedding of the molecules that it saw.
    """
    library = np.asarray(target.sum(1), dtype=np.float64).ravel()
    inverse = np.divide(1.0, library, out=np.zeros_like(library), where=library > 0)
    return ScoreSums(
        by_gene=np.asarray(target.T @ regressors),
        moments=regressors.T @ (library[:, None] * regressors),
        squares=np.asarray(target.multiply(target).T @ inverse).ravel(),
        molecules=np.asarray(target.sum(0), dtype=np.float64).ravel(),
        n_cells=int((library > 0).sum()),
    )


def p_values(sums: ScoreSums, *, n_nuisance: int) -> Floats:
    """P-value of each gene under "its share does not depend on the embedding", (genes,).

    A variance-component score test (Lin 1997, doi:10.1093/biomet/84.2.309). With t_c the gene's
    target molecules, L_c the target library, p the gene's share and z~ the embedding with the
    nuisance regressed out (weights L), loadings drawn from N(0, tau^2 I) have the score ::

        Q = |sum_c (t_c - p L_c) z~_c|^2 / (phi p)

    which for tau = 0 is a sum of chi-squares weighted by the eigenvalues of
    sum_c L_c z~_c z~_c^T, approximated by the scaled chi-square of the same mean and variance
    (Satterthwaite 1946). phi is the gene's Pearson dispersion, so that noise beyond Poisson
    is no evidence.

    Parameters
    ----------
    sums
        Over all cells.
    n_nuisance
        How many of the regressors come first as nuisance.

    Returns
    -------
    In [0, 1]; 1 for a gene without target molecules, and everywhere if the embedding is
    constant or there are too few cells.
    """
    inner, outer = slice(n_nuisance, None), slice(0, n_nuisance)
    moments = sums.moments
    # least squares: a batch may be without cells in this part of the data
    slope = np.linalg.lstsq(moments[outer, outer], moments[outer, inner], rcond=None)[0]
    score = sums.by_gene[:, inner] - sums.by_gene[:, outer] @ slope  # (genes, latent)
    weights = np.linalg.eigvalsh(moments[inner, inner] - moments[inner, outer] @ slope)
    weights = np.maximum(weights, 0.0)
    total = sums.molecules.sum()
    if sums.n_cells < 2 or weights.sum() <= 1e-9 * max(1.0, np.trace(moments)):
        return np.ones(len(score))
    share = sums.molecules / total
    with np.errstate(divide="ignore", invalid="ignore"):
        # sum (t - p L)^2 / (p L), divided by its degrees of freedom
        dispersion = (sums.squares / share - sums.molecules) / (sums.n_cells - 1)
        statistic = (score**2).sum(1) / (dispersion * share)
    scale = (weights**2).sum() / weights.sum()
    p = stats.chi2.sf(statistic / scale, weights.sum() / scale)
    return np.where(np.isfinite(p), p, 1.0)


def combine_p_values(p: Floats) -> Floats:
    """Combine dependent p-values along the first axis (Cauchy; doi:10.1080/01621459.2018.1554485).

    ::

        P(Cauchy > mean of tan((1/2 - p) pi))

    Valid for small p whatever the dependence, as between random splits of the same counts.
    """
    tangents = np.tan((0.5 - np.clip(p, _SMALLEST_P, _LARGEST_P)) * np.pi)
    combined: Floats = stats.cauchy.sf(tangents.mean(0))
    return combined


def level_for(p: Floats, level: float) -> float:
    """Return the p-value above which genes are held constant: ``level``, or more if it must be.

    Few cells, or noisy ones, give a weak test: then many genes that do vary lie above any small
    level, and holding them constant takes real variation away. The p-values tell how many: those of
    genes without variation are uniform, so that their density is that of the large p-values (Storey
    2002, doi:10.1111/1467-9868.00346). The level is raised over all p-values that are more common
    than twice that, beyond chance: a gene there varies more likely than not (its local
    false-discovery rate is below a half; Efron 2001, doi:10.1198/016214501753382129).

    Parameters
    ----------
    p
        (genes,) p-values.
    level
        Least level; 1 lets all genes vary.
    """
    found, edges = np.histogram(p, bins=_BINS)
    if level >= 1 or not found.any():
        return level
    from sklearn.isotonic import IsotonicRegression

    falling = IsotonicRegression(increasing=False).fit_transform(np.arange(len(found)), found)
    null = found[edges[:-1] >= _MOSTLY_NULL - 1e-9]
    at_most = (null.sum() + 2 * np.sqrt(null.sum()) + 1) / len(null)
    return max(level, float(edges[1:][falling > 2 * at_most].max(initial=0.0)))
