"""Does a gene vary with the state of the cell? A score test per gene, over all cells at once.

A gene without evidence keeps its mean share, but for a trace: otherwise its loadings, fitted to
noise, give it a share in every direction of the latent space, and two genes that have nothing to
do with each other come out correlated. See docs/method.md, "No invented correlation".
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

Floats = NDArray[np.float64]

#: p-values are kept this far from 0 and 1: the Cauchy combination's tangent ends there.
_SMALLEST_P, _LARGEST_P = 1e-15, 1 - 1e-9


#: Bins of p-values, and those above which hardly anything but genes without variation is left.
#: The last bin is left out: genes with so few molecules that the test says nothing pile up there.
_BINS, _MOSTLY_NULL = np.linspace(0, 0.95, 20), 0.6
_AS_LIKELY_AS_NOT = 0.5
#: How far genes without evidence follow the state of the cell. Measured in benchmarks/lab.
UNPROVEN = 0.01


#: A direction of the embedding is real if it predicts withheld molecules by this many standard
#: errors (of 32 that say nothing one in 25 models has one).
_PROVEN_Z = 3.0
#: Genes with fewer molecules do not speak for a direction: their scores are too far from normal.
_FEWEST_MOLECULES = 5


class ScoreSums(NamedTuple):
    """Sums over cells that the test needs; those of two sets of cells add up."""

    by_gene: Floats  #: (genes, regressors) sum over cells of target molecules x regressors
    moments: Floats  #: (regressors, regressors) sum of target library x regressor x regressor
    squares: Floats  #: (genes,) sum of squared target molecules / target library
    molecules: Floats  #: (genes,) target molecules
    n_cells: int  #: cells with a target molecule

    def along(self, directions: NDArray[np.bool_]) -> "ScoreSums":
        """Sums for some of the regressors, (regressors,)."""
        return self._replace(
            by_gene=self.by_gene[:, directions], moments=self.moments[directions][:, directions]
        )

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
        (cells, genes) molecules that were not encoded.
    regressors
        (cells, regressors): :func:`nuisance`, then the embedding of other molecules.
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
    constant or has no direction, or there are too few cells.
    """
    score = _score(sums, n_nuisance)
    weights = np.maximum(np.linalg.eigvalsh(score.moments), 0.0)
    if sums.n_cells < 2 or weights.sum() <= 1e-9 * max(1.0, np.trace(sums.moments)):
        return np.ones(len(score.squares))
    scale = (weights**2).sum() / weights.sum()
    p = special.chdtrc(weights.sum() / scale, score.squares.sum(1) / scale)
    return np.where(np.isfinite(p), p, 1.0)


def real_directions(
    withheld: ScoreSums, training: ScoreSums, *, n_nuisance: int
) -> NDArray[np.bool_]:
    """Which directions of the embedding are more than noise that the encoder fits, (latent,).

    The encoder has seen, in training, all molecules that it was trained on, and some of its
    directions may do nothing but tell their noise apart; a test on the same molecules takes that
    for variation, of every gene. For a direction d, the mean over genes of ::

        |sum_c (t_c - p L_c) z~_cd|^2 / (phi p sum_c L_c z~_cd^2)

    is 1 if d says nothing of molecules t withheld from training, and exceeds 1 in proportion to
    their number if it does, as it does for molecules t of the training. Directions that exceed 1
    by three standard errors on withheld molecules are real. The others are real as well, unless
    what they show is likelier if they are noise than if each keeps what the training molecules
    promise of it: with s and q, what is seen and promised of a direction in standard errors, if ::

        sum_d q_d (q_d / 2 - s_d) > 0    and    sum_d q_d^2 > 1

    as little may be withheld, and to see nothing then says nothing. They stand or fall together:
    each alone says too little. A negative promise counts as none.

    Parameters
    ----------
    withheld
        Over cells with withheld molecules; embedding of what training saw of them.
    training
        Of the molecules that training saw, along the same directions.
    n_nuisance
        How many of the regressors come first as nuisance.
    """
    ratios, genes, information = [], np.ones(len(withheld.molecules), dtype=bool), []
    for sums in (withheld, training):
        score = _score(sums, n_nuisance)
        information.append(np.diag(score.moments))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = score.squares / information[-1]
        ratios.append(np.where(information[-1] > 0, ratio, 1.0))  # a dead direction says nothing
        genes &= (sums.molecules >= _FEWEST_MOLECULES) & np.isfinite(ratios[-1]).all(1)
    everything = np.ones(len(information[0]), dtype=bool)
    if not genes.any():
        return everything
    error = np.sqrt(2 / genes.sum())  # of a mean of chi-squares
    seen, in_training = ((ratio[genes].mean(0) - 1) / error for ratio in ratios)
    proven: NDArray[np.bool_] = seen > _PROVEN_Z
    alive = information[1] > 0
    promised = in_training * np.where(alive, information[0] / np.where(alive, information[1], 1), 0)
    s, q = seen[~proven], np.maximum(promised[~proven], 0)
    refuted = (q * (q / 2 - s)).sum() > 0 and (q**2).sum() > 1
    return proven if refuted else everything


class _Score(NamedTuple):
    """The score of every gene along every direction, with what it is measured by."""

    squares: Floats  # (genes, latent) squared scores / (phi p); nan without molecules
    moments: Floats  # (latent, latent) sum_c L_c z~_c z~_c^T, their covariance if z says nothing


def _score(sums: ScoreSums, n_nuisance: int) -> _Score:
    inner, outer = slice(n_nuisance, None), slice(0, n_nuisance)
    moments = sums.moments
    # least squares: a batch may be without cells in this part of the data
    slope = np.linalg.lstsq(moments[outer, outer], moments[outer, inner], rcond=None)[0]
    score = sums.by_gene[:, inner] - sums.by_gene[:, outer] @ slope
    with np.errstate(divide="ignore", invalid="ignore"):
        share = sums.molecules / sums.molecules.sum()
        # sum (t - p L)^2 / (p L), divided by its degrees of freedom
        dispersion = (sums.squares / share - sums.molecules) / (sums.n_cells - 1)
        squares = score**2 / (dispersion * share)[:, None]
    return _Score(squares, moments[inner, inner] - moments[inner, outer] @ slope)


def combine_p_values(p: Floats) -> Floats:
    """Combine dependent p-values along the first axis (Cauchy; doi:10.1080/01621459.2018.1554485).

    ::

        P(Cauchy > mean of tan((1/2 - p) pi))

    Valid for small p whatever the dependence, as between random splits of the same counts.
    """
    tangents = np.tan((0.5 - np.clip(p, _SMALLEST_P, _LARGEST_P)) * np.pi)
    combined: Floats = np.arctan2(1.0, tangents.mean(0)) / np.pi
    return combined


def evidence(p: Floats) -> Callable[[Floats], Floats]:
    """Return the function from a p-value to the probability that such a gene varies at all.

    The p-values tell themselves: those of genes without variation are uniform, so that their
    density is that of the large p-values (Storey 2002, doi:10.1111/1467-9868.00346), here that
    beyond what chance makes of it; what a falling density has above it are genes that vary. The
    probability is 1 minus the local false-discovery rate (Efron 2001,
    doi:10.1198/016214501753382129), interpolated between the centres of bins; below the first
    (.025) it rises in a straight line to 1 at p = 0.

    Parameters
    ----------
    p
        (genes,) p-values of all genes.
    """
    found, edges = np.histogram(p, bins=_BINS)
    if not found.any():
        return lambda p: np.where(p == 0, 1.0, 0.0)
    from scipy.optimize import isotonic_regression  # few need it, and it takes long to import

    density = isotonic_regression(found.astype(float), increasing=False).x
    null = found[edges[:-1] >= _MOSTLY_NULL - 1e-9]
    at_most = (null.sum() + 2 * np.sqrt(null.sum()) + 1) / len(null)
    probability = 1 - np.minimum(at_most / np.maximum(density, at_most), 1)
    points = np.concatenate([[0.0], (edges[1:] + edges[:-1]) / 2])
    return lambda p: np.interp(p, points, np.concatenate([[1.0], probability]))


def level_for(p: Floats, level: float) -> float:
    """Return the p-value above which a gene has no evidence: ``level``, or more if it must be.

    Few cells, or noisy ones, give a weak test: then many genes that do vary lie above any small
    level, and holding them constant takes real variation away. The level is raised to where a
    gene varies as likely as not (:func:`evidence`).

    Parameters
    ----------
    p
        (genes,) p-values.
    level
        Least level; 1 is evidence for all genes.
    """
    grid = np.linspace(0, 1, 101)
    return max(level, float(grid[evidence(p)(grid) > _AS_LIKELY_AS_NOT].max(initial=0.0)))


def state_weights(p: Floats, level: float) -> Floats:
    """Return how far the mean of each gene follows the state of the cell, (genes,) in (0, 1].

    The mean of two models, one in which the gene varies and one in which it does not, weighted
    by their probabilities (:func:`evidence`). Above ``level``, or if the probability is less, the
    weight is ``UNPROVEN``: so little that independent genes stay uncorrelated beside the noise of
    their own counts, and enough for the order of the cells. With ``level`` 1 all weights are 1.

    Parameters
    ----------
    p
        (genes,) p-values.
    level
        What :func:`level_for` returned.
    """
    probability = state_probability(p, level)
    return np.maximum(np.where(p <= level, probability, 0.0), UNPROVEN)


def state_probability(p: Floats, level: float) -> Floats:
    """Return the probability that each gene varies with the state, (genes,): :func:`evidence`.

    With ``level`` 1, where none is asked for evidence, 1.
    """
    return np.ones_like(p) if level >= 1 else evidence(p)(p)
