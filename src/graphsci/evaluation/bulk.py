"""Bulk RNA-seq as truth: levels, differential expression, and the paper's bulk experiment."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphsci.evaluation import detection, metrics
from graphsci.evaluation.false_signal import welch_t
from graphsci.predictions import Floats, Matrix, as_dense
from graphsci.simulation import add_exponential_noise

#: Counts per million added before a bulk logarithm, so that a gene without reads has one.
PRIOR_CPM = 1.0


class BulkDifferential(NamedTuple):
    """What bulk samples say of two conditions."""

    log_fold_change: Floats  #: (genes,) log2, first over second
    different: NDArray[np.bool_]  #: (genes,) surely different, see :func:`bulk_differential`
    tested: NDArray[np.bool_]  #: (genes,) expressed enough to be judged


class BulkScores(NamedTuple):
    """Agreement of differential expression between cells with that between bulk samples."""

    auc: float  #: of Welch's |t| for the genes that are different in bulk
    top_overlap: float  #: see :func:`top_overlap`
    fold_change_correlation: float  #: Spearman's, over the tested genes
    n_genes: int  #: tested genes
    n_different: int


class BulkExperiment(NamedTuple):
    """Bulk profiles made single-cell-like."""

    counts: NDArray[np.int64]  #: (samples, genes) for the methods, whole numbers
    truth: NDArray[np.int64]  #: (samples, genes) before the noise, whole numbers
    zero_fraction: float  #: share of zeros in ``counts``


class BulkRecovery(NamedTuple):
    """Agreement of an estimate with the bulk profiles, Pearson's r on the log1p scale."""

    median_per_gene: float  #: over samples, the median of the genes that vary
    median_per_sample: float  #: over genes, the median of the samples


# --- levels and differential expression -------------------------------------------------


def level_correlation(*, profile: ArrayLike, bulk: ArrayLike) -> float:
    """Return Spearman's correlation over genes between a mean profile and bulk.

    Parameters
    ----------
    profile
        (genes,) mean of the estimates of one population; 0 if it is constant.
    bulk
        (genes,) counts or normalised expression of the same population. Reads of whole
        transcripts grow with a gene's length and molecules do not: the best possible value is
        below 1. Compare methods, and use fold changes, in which length cancels.

    Raises
    ------
    ValueError
        If lengths differ or bulk is constant.
    """
    return _spearman(profile, bulk)


def fold_change_correlation(*, estimated: ArrayLike, truth: ArrayLike) -> float:
    """Return Spearman's correlation over genes of log fold changes with those of bulk.

    Parameters
    ----------
    estimated
        (genes,) difference of mean log values between two groups; 0 if all are the same.
    truth
        (genes,) log fold changes of bulk, see :func:`bulk_differential`.

    Raises
    ------
    ValueError
        If lengths differ or the truth is constant.
    """
    return _spearman(estimated, truth)


def bulk_differential(
    *, first: Matrix, second: Matrix, min_fold: float = 2.0, min_cpm: float = 1.0
) -> BulkDifferential:
    """Find genes that differ between bulk conditions beyond doubt and beyond a fold change.

    No distribution is assumed, for there are often two samples a side: a gene is different if
    the *lowest* sample of one condition is at least ``min_fold`` times the *highest* of the
    other, in counts per million plus :data:`PRIOR_CPM`.

    Parameters
    ----------
    first, second
        Counts (samples, genes) of the two conditions.
    min_fold
        Least fold change, above 1.
    min_cpm
        Genes of at least so many counts per million in the mean of one condition are tested.

    Raises
    ------
    ValueError
        If genes differ in number, a sample is empty, or ``min_fold`` is not above 1.
    """
    if not min_fold > 1:
        raise ValueError(f"min_fold is {min_fold}, expected a number above 1, such as 2.")
    one, two = (_cpm(counts) for counts in (first, second))
    if one.shape[1] != two.shape[1]:
        raise ValueError(
            f"first has {one.shape[1]} genes and second {two.shape[1]}, expected the same genes; "
            "align them first."
        )
    tested = np.maximum(one.mean(0), two.mean(0)) >= min_cpm
    logs = [np.log2(group + PRIOR_CPM) for group in (one, two)]
    gap = np.maximum(logs[0].min(0) - logs[1].max(0), logs[1].min(0) - logs[0].max(0))
    return BulkDifferential(
        log_fold_change=logs[0].mean(0) - logs[1].mean(0),
        different=tested & (gap >= np.log2(min_fold)),
        tested=tested,
    )


def score_against_bulk(
    *, first: Matrix, second: Matrix, bulk: BulkDifferential, n_top: int = 500
) -> BulkScores:
    """Compare differential expression between two groups of cells with bulk.

    Genes are ranked by Welch's ``|t|``, whose size is inflated by smoothing but whose order is
    what is judged; fold changes are differences of mean log values.

    Parameters
    ----------
    first, second
        (cells, genes) on the log1p scale at one depth; genes as in ``bulk``.
    bulk
        From :func:`bulk_differential`.
    n_top
        Genes in the two lists that are compared, see :func:`top_overlap`.

    Raises
    ------
    ValueError
        If genes do not fit, or bulk has no different or no equal gene.
    """
    one, two = as_dense(first), as_dense(second)
    if {one.shape[1], two.shape[1]} != {bulk.tested.size}:
        raise ValueError(
            f"the groups have {one.shape[1]} and {two.shape[1]} genes, bulk {bulk.tested.size}, "
            "expected the same genes; align them first."
        )
    tested = np.flatnonzero(bulk.tested)
    strength = np.abs(welch_t(first=one[:, tested], second=two[:, tested]))
    change = (one.mean(0) - two.mean(0))[tested]
    true_change = bulk.log_fold_change[tested]
    n_top = min(n_top, tested.size)
    return BulkScores(
        auc=detection.deg_auc(scores=strength, truly_different=bulk.different[tested]),
        top_overlap=top_overlap(scores=strength, reference=np.abs(true_change), n_top=n_top),
        fold_change_correlation=fold_change_correlation(estimated=change, truth=true_change),
        n_genes=tested.size,
        n_different=int(bulk.different.sum()),
    )


def top_overlap(*, scores: ArrayLike, reference: ArrayLike, n_top: int) -> float:
    """Return the share of the reference's ``n_top`` highest genes that are among the scores'.

    Equal scores share the places they fill: scores that say nothing have the overlap of chance,
    ``n_top / genes``.

    Parameters
    ----------
    scores, reference
        (genes,), higher for a gene more surely different.
    n_top
        Length of both lists.

    Raises
    ------
    ValueError
        If lengths differ or ``n_top`` is not between 1 and the number of genes.
    """
    own, true = (np.asarray(values, dtype=np.float64) for values in (scores, reference))
    if own.shape != true.shape or own.ndim != 1 or not 1 <= n_top <= own.size:
        raise ValueError(
            f"got {own.shape} scores, {true.shape} reference values and n_top={n_top}, expected "
            "one of each per gene and n_top between 1 and their number."
        )
    return float((_share_of_top(own, n_top) * _share_of_top(true, n_top)).sum() / n_top)


def _share_of_top(values: Floats, n_top: int) -> Floats:
    """Return how far each value is among the highest: 1, 0, or a share where the last ones tie."""
    last = np.sort(values)[-n_top]
    above, ties = values > last, values == last
    return above + ties * ((n_top - above.sum()) / ties.sum())


def _cpm(counts: Matrix) -> Floats:
    """Return counts per million of each sample, or refuse them."""
    matrix = as_dense(counts)
    if matrix.ndim != 2 or not (matrix >= 0).all() or not (matrix.sum(1) > 0).all():
        raise ValueError(
            f"bulk counts have shape {matrix.shape}, expected (samples, genes) of at least 0 with "
            "counts in every sample."
        )
    return matrix / matrix.sum(1, keepdims=True) * 1e6


def _spearman(estimate: ArrayLike, truth: ArrayLike) -> float:
    """Return the rank correlation of two vectors; 0 for a constant estimate."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (estimate, truth))
    if a.shape != b.shape or a.ndim != 1 or not np.ptp(b) > 0:
        raise ValueError(
            f"got values of {a.shape} and {b.shape} genes, expected one of each per gene and a "
            "truth that is not the same for all."
        )
    from scipy.stats import rankdata  # takes long to import

    pair = (rankdata(values)[:, None] for values in (a, b))
    return float(metrics.pearson_per_gene(**dict(zip(("estimate", "truth"), pair, strict=True)))[0])


# --- the paper's bulk experiment --------------------------------------------------------


def bulk_experiment(
    *,
    bulk: Matrix,
    scale: Literal["counts", "log1p"],
    zero_fraction: float,
    noise_on: Literal["counts", "log1p"] = "log1p",
    gene_wise: bool = False,
    library_size: float = 1e6,
    rng: np.random.Generator,
) -> BulkExperiment:
    """Make bulk profiles single-cell-like by exponential noise, as whole numbers.

    The paper (Figure 6) subtracts values drawn from an exponential distribution, "gene-wise", so
    that 50-70 % are zero; neither scale nor rate is stated. The defaults are the reading that
    gives the untreated profiles correlations of the size that the paper prints; the others are
    far easier or far harder (docs/evaluation.md). Profiles are scaled to ``library_size`` and
    rounded (the truth); noise is subtracted and what is left is rounded up, so that rounding
    makes no zero. See :func:`graphsci.simulation.add_exponential_noise`.

    Parameters
    ----------
    bulk
        (samples, genes) counts, TPM, or their log1p.
    scale
        Scale of ``bulk``; ``"log1p"`` is undone.
    zero_fraction
        Wanted share of zeros, above that of the rounded profiles.
    noise_on
        Scale that the noise is subtracted on. On counts it takes low genes whole and leaves high
        ones alone; on the logarithm it takes some of all.
    gene_wise
        Whether each gene gets the share of zeros by itself; genes with more zeros keep theirs, so
        the share over all ends above the wanted one. Otherwise one rate serves all genes.
    library_size
        Common library size of the profiles; 1e6 makes TPM.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If bulk is negative or empty, a scale is unknown, or the share cannot be reached.
    """
    if {scale, noise_on} - {"counts", "log1p"}:
        raise ValueError(
            f"got scale {scale!r} and noise_on {noise_on!r}, expected 'counts' or 'log1p'."
        )
    values = as_dense(bulk)
    linear = _cpm(np.expm1(values) if scale == "log1p" else values) * (library_size / 1e6)
    truth = np.rint(linear)
    start = np.log1p(truth) if noise_on == "log1p" else truth
    noisy = add_exponential_noise(start, zero_fraction=zero_fraction, gene_wise=gene_wise, rng=rng)
    left = np.ceil((np.expm1(noisy) if noise_on == "log1p" else noisy) - 1e-9)
    counts = np.minimum(left, truth).astype(np.int64)
    return BulkExperiment(counts, truth.astype(np.int64), float((counts == 0).mean()))


def bulk_recovery(*, estimate: Matrix, truth: Matrix, library_size: float = 1e6) -> BulkRecovery:
    """Return the medians of Pearson's r between an estimate and the profiles before the noise.

    The paper prints one median for each share of zeros and does not say of what; both are here.
    r over genes is high whatever a method does, for genes differ by orders of magnitude: the one
    over samples is the harder and the more telling.

    Parameters
    ----------
    estimate, truth
        (samples, genes) rates or counts, scaled to ``library_size`` and put on the log1p scale.
    library_size
        Common library size.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    a, b = metrics.log_pair(estimate, truth, library_size=library_size)
    per_gene, per_sample = (
        score(estimate=a, truth=b) for score in (metrics.pearson_per_gene, metrics.pearson_per_cell)
    )
    return BulkRecovery(float(np.nanmedian(per_gene)), float(np.nanmedian(per_sample)))
