"""Scores of predicted expression: held-out counts, errors, correlations, intervals.

Every function is pure and takes keyword arguments only. Scores of held-out counts read
the prediction in blocks of cells, so that a cells x genes matrix never has to exist.
:data:`graphsci.evaluation.METRICS` lists label, direction, range, scale and source of each.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit, xlogy

from graphsci.evaluation._blocks import Floats, Matrix, Predicted, as_csr, as_dense, iterate_blocks

#: Predicted rates below this are raised to it. A rate of zero where a molecule was held out is
#: infinitely bad, so one entry would decide every comparison; one molecule in a million entries
#: is below what any data set here can measure, and the penalty, 13.8 nats per molecule, stays.
FLOOR = 1e-6

#: A difference counts if chance exceeds it less often than this in one direction; with many cells
#: that is two standard errors.
CHANCE = 0.0228

Entries = Literal["all", "dropped", "observed"]


class DevianceSums(NamedTuple):
    """A count loss summed over all entries, over genes, and over cells."""

    total: float
    per_cell: NDArray[np.float64]  #: (cells,)
    per_gene: NDArray[np.float64]  #: (genes,)

    @property
    def mean(self) -> float:
        """Mean over all entries, zeros included."""
        return self.total / (self.per_cell.size * self.per_gene.size)


class PairedDifference(NamedTuple):
    """Mean difference of a loss between two predictions of the same cells."""

    difference: float  #: mean over entries, candidate - reference; negative: candidate better
    standard_error: float  #: over cells
    z: float  #: difference / standard_error; 0 if both are 0, the largest float if the error is
    n_cells: int

    @property
    def significant(self) -> float:
        """Standard errors from 0 that count (:func:`significant_z`)."""
        return significant_z(self.n_cells)


def significant_z(n_cells: int) -> float:
    """Standard errors from 0 that count: of Student's t, since the error itself is estimated.

    The level is :data:`CHANCE`; the error comes from ``n_cells`` cells.
    """
    return -float(stdtrit(n_cells - 1, CHANCE))


def poisson_deviance_sums(
    *,
    predicted: Predicted,
    held_out: Matrix,
    floor: float = FLOOR,
    positive_only: bool = False,
) -> DevianceSums:
    """Return the Poisson deviance of held-out counts, summed over entries, genes and cells.

    ``2 [y log(y / mu) - y + mu]`` with ``mu = max(predicted, floor)`` and ``0 log 0 = 0``.

    Parameters
    ----------
    predicted
        Expected held-out counts (cells, genes): dense, sparse, or an iterable of
        ``(row_start, dense block)``.
    held_out
        Held-out counts y (cells, genes), dense or sparse.
    floor
        Smallest rate; see :data:`FLOOR`.
    positive_only
        Sum over entries with a held-out count alone: for hidden entries, all of which are
        positive. ``.mean`` still divides by all entries; divide the sums by their number.

    Raises
    ------
    ValueError
        If shapes differ or a value is negative or not finite.

    References
    ----------
    McCullagh & Nelder, Generalized Linear Models (1989), section 2.3.
    """
    if positive_only:
        return _count_loss_sums(
            predicted,
            held_out,
            floor=floor,
            at_zero=np.zeros_like,
            extra=lambda y, mu, _: 2.0 * (xlogy(y, y / mu) - y + mu),
        )
    return _count_loss_sums(
        predicted,
        held_out,
        floor=floor,
        at_zero=lambda mu: 2.0 * mu,
        extra=lambda y, mu, _: 2.0 * (xlogy(y, y / mu) - y),
    )


def poisson_deviance(*, predicted: Predicted, held_out: Matrix, floor: float = FLOOR) -> float:
    """Return the mean Poisson deviance per entry: :func:`poisson_deviance_sums`, ``.mean``."""
    return poisson_deviance_sums(predicted=predicted, held_out=held_out, floor=floor).mean


def poisson_loss_sums(
    *, predicted: Predicted, held_out: Matrix, floor: float = FLOOR
) -> DevianceSums:
    """Return the sums of ``mu - y log mu``, the Poisson log loss without ``log y!``.

    Parameters and errors as :func:`poisson_deviance_sums`, from which it differs by a function
    of ``held_out`` alone and a factor of two. This is the loss of molecular cross-validation
    (Batson et al. 2019, doi:10.1101/786269).
    """
    return _count_loss_sums(
        predicted,
        held_out,
        floor=floor,
        at_zero=lambda mu: mu,
        extra=lambda y, mu, _: -xlogy(y, mu),
    )


def poisson_loss(*, predicted: Predicted, held_out: Matrix, floor: float = FLOOR) -> float:
    """Return the mean of ``mu - y log mu`` over entries: :func:`poisson_loss_sums`, ``.mean``."""
    return poisson_loss_sums(predicted=predicted, held_out=held_out, floor=floor).mean


def nb_deviance_sums(
    *,
    predicted: Predicted,
    held_out: Matrix,
    inverse_dispersion: float | Floats,
    floor: float = FLOOR,
) -> DevianceSums:
    """Return the negative binomial deviance of held-out counts, summed as for Poisson.

    ``2 [y log(y / mu) - (y + theta) log((y + theta) / (mu + theta))]``, where the variance of
    ``y`` is ``mu + mu^2 / theta``; it tends to the Poisson deviance as theta grows.

    Parameters
    ----------
    predicted, held_out, floor
        As :func:`poisson_deviance_sums`.
    inverse_dispersion
        theta of the held-out counts: a number, or one per gene (genes,). Binomial thinning
        leaves theta of the counts as it is.

    Raises
    ------
    ValueError
        As :func:`poisson_deviance_sums`, and if theta is not positive or not one per gene.

    References
    ----------
    Hilbe, Negative Binomial Regression (2011), doi:10.1017/CBO9780511973420.
    """
    theta = _theta_per_gene(inverse_dispersion, n_genes=np.shape(held_out)[1])

    def extra(y: Floats, mu: Floats, genes: NDArray[np.integer]) -> Floats:
        shape = theta[genes]
        full = xlogy(y, y / mu) - (y + shape) * np.log((y + shape) / (mu + shape))
        return 2.0 * (full - shape * np.log1p(mu / shape))

    return _count_loss_sums(
        predicted,
        held_out,
        floor=floor,
        at_zero=lambda mu: 2.0 * theta * np.log1p(mu / theta),
        extra=extra,
    )


def nb_deviance(
    *,
    predicted: Predicted,
    held_out: Matrix,
    inverse_dispersion: float | Floats,
    floor: float = FLOOR,
) -> float:
    """Return the mean NB deviance per entry: :func:`nb_deviance_sums`, ``.mean``."""
    return nb_deviance_sums(
        predicted=predicted,
        held_out=held_out,
        inverse_dispersion=inverse_dispersion,
        floor=floor,
    ).mean


def d2(*, deviance: float, reference_deviance: float) -> float:
    """Return the fraction of the reference's deviance that is explained.

    ``1 - deviance / reference_deviance``: 1 for a perfect prediction, 0 for one as good as the
    reference (the gene means, unless said otherwise), negative for a worse one.

    Raises
    ------
    ValueError
        If the reference deviance is not positive.
    """
    if not reference_deviance > 0:
        raise ValueError(
            f"the reference deviance is {reference_deviance}, expected a positive number; "
            "hold out at least one molecule and compare with the gene means."
        )
    return 1.0 - deviance / reference_deviance


def paired_difference(*, candidate: DevianceSums, reference: DevianceSums) -> PairedDifference:
    """Return how much two predictions of the same held-out cells differ, with its error.

    The cells are the sample: with ``d_i`` the difference of cell i's mean loss, the difference
    is ``mean(d)`` and its standard error ``sd(d) / sqrt(cells)``. Pairing removes what makes a
    cell hard for both.

    Raises
    ------
    ValueError
        If the two were not computed on the same number of cells and genes, or on one cell.
    """
    shapes = [(s.per_cell.size, s.per_gene.size) for s in (candidate, reference)]
    if shapes[0] != shapes[1] or shapes[0][0] < 2:
        raise ValueError(
            f"got losses of {shapes[0]} and {shapes[1]} (cells, genes), expected the same two or "
            "more cells; score both predictions on the same held-out counts."
        )
    return mean_difference((candidate.per_cell - reference.per_cell) / candidate.per_gene.size)


def mean_difference(per_cell: Floats) -> PairedDifference:
    """Return the mean of the cells' differences (cells,), at least two, with its error."""
    error = float(per_cell.std(ddof=1) / np.sqrt(per_cell.size))
    mean = float(per_cell.mean())
    if error > 0:
        z = mean / error
    else:  # all cells differ alike
        z = float(np.copysign(np.finfo(np.float64).max, mean)) if mean else 0.0
    return PairedDifference(mean, error, z, per_cell.size)


def _count_loss_sums(
    predicted: Predicted,
    held_out: Matrix,
    *,
    floor: float,
    at_zero: Callable[[Floats], Floats],
    extra: Callable[[Floats, Floats, NDArray[np.integer]], Floats],
) -> DevianceSums:
    """Sum a loss that is ``at_zero(mu)`` everywhere plus ``extra(y, mu, gene)`` where y > 0."""
    counts = as_csr(held_out, name="held_out")  # the caller's own arrays, if they are float64
    n_cells, n_genes = counts.shape
    per_cell, per_gene = np.zeros(n_cells), np.zeros(n_genes)
    for start, block in iterate_blocks(predicted, shape=(n_cells, n_genes)):
        mu = np.maximum(block, floor)
        y = counts[start : start + len(mu)].tocoo()
        y.eliminate_zeros()
        everywhere, seen = at_zero(mu), extra(y.data, mu[y.row, y.col], y.col)
        per_cell[start : start + len(mu)] = everywhere.sum(1)
        per_cell[start : start + len(mu)] += np.bincount(y.row, seen, len(mu))
        per_gene += everywhere.sum(0) + np.bincount(y.col, seen, n_genes)
    return DevianceSums(float(per_cell.sum()), per_cell, per_gene)


def _theta_per_gene(inverse_dispersion: float | Floats, *, n_genes: int) -> Floats:
    """Return theta as (genes,), or refuse it."""
    theta = np.asarray(inverse_dispersion, dtype=np.float64)
    if theta.shape not in {(), (n_genes,)} or not (theta > 0).all():
        raise ValueError(
            f"inverse_dispersion has shape {theta.shape} and minimum {theta.min()}, expected one "
            f"positive number or {n_genes}, one per gene; infinity is written as 1e12."
        )
    return np.broadcast_to(theta, (n_genes,))


def mean_absolute_error(
    *, estimate: Matrix, truth: Matrix, entries: Entries = "all", observed: Matrix | None = None
) -> float:
    """Return the mean of ``|estimate - truth|`` over chosen entries.

    Both must be on one scale, and the number means nothing without its name (counts at the
    cell's own depth, log1p of counts at the median depth, ...): see :func:`on_scale`.

    Parameters
    ----------
    estimate, truth
        (cells, genes), dense or sparse.
    entries
        ``"all"``; ``"dropped"``: truth positive but the observed count zero; ``"observed"``: the
        observed count positive.
    observed
        Counts (cells, genes) that the method was given; needed unless ``entries="all"``.

    Raises
    ------
    ValueError
        If shapes differ, ``observed`` is missing, or no entry is of the chosen kind.

    References
    ----------
    The paper's reconstruction error on simulated data (supplement, Evaluation metrics).
    """
    errors = _errors(estimate, truth, entries, observed)
    return float(np.abs(errors).mean())


def root_mean_squared_error(
    *, estimate: Matrix, truth: Matrix, entries: Entries = "all", observed: Matrix | None = None
) -> float:
    """Return the root of the mean of ``(estimate - truth)^2`` over chosen entries.

    Parameters and errors as :func:`mean_absolute_error`.
    """
    errors = _errors(estimate, truth, entries, observed)
    return float(np.sqrt(np.mean(errors**2)))


def on_scale(
    values: Matrix, *, scale: Literal["counts", "log1p"], library_size: float | None = None
) -> Floats:
    """Return counts or rates, dense, on a named scale.

    ``"counts"``: as they are. ``"log1p"``: log1p of each cell's values at a common library size.

    Parameters
    ----------
    values
        Counts or rates (cells, genes).
    scale
        Name of the scale.
    library_size
        Common library size; needed for ``"log1p"``. Use one number, the median library size of
        the truth, for everything that is compared.

    Raises
    ------
    ValueError
        If the scale is unknown or the library size is missing.
    """
    matrix = as_dense(values)
    if scale == "counts":
        return matrix
    if scale != "log1p" or not (library_size and library_size > 0):
        raise ValueError(
            f"got scale {scale!r} and library_size {library_size}, expected 'counts', or 'log1p' "
            "with a positive library_size; pass the median library size of the truth."
        )
    totals = matrix.sum(1, keepdims=True)
    return np.log1p(matrix * (library_size / np.where(totals > 0, totals, 1.0)))


def pearson_per_gene(*, estimate: Matrix, truth: Matrix) -> Floats:
    """Return Pearson's correlation of estimate and truth over cells, for each gene (genes,).

    A gene that is constant in the truth has no correlation (NaN); one that is constant in the
    estimate alone scores 0, for it says nothing about the cells.

    Parameters
    ----------
    estimate, truth
        (cells, genes), dense or sparse, at least two cells; on one scale.

    Raises
    ------
    ValueError
        If shapes differ or there are fewer than two cells.
    """
    return _correlate_columns(*_dense_pair(estimate, truth))


def pearson_per_cell(*, estimate: Matrix, truth: Matrix) -> Floats:
    """Return Pearson's correlation over genes for each cell (cells,): see `pearson_per_gene`."""
    estimate_, truth_ = _dense_pair(estimate, truth)
    return _correlate_columns(estimate_.T, truth_.T)


def spearman_per_gene(*, estimate: Matrix, truth: Matrix) -> Floats:
    """Return Spearman's rank correlation over cells for each gene (genes,).

    Ties share their mean rank. Unlike Pearson's it does not depend on the scale. Constant genes
    as in :func:`pearson_per_gene`.
    """
    estimate_, truth_ = _dense_pair(estimate, truth)
    return _correlate_columns(_ranks(estimate_), _ranks(truth_))


def spearman_per_cell(*, estimate: Matrix, truth: Matrix) -> Floats:
    """Return Spearman's correlation over genes for each cell: see :func:`spearman_per_gene`."""
    estimate_, truth_ = _dense_pair(estimate, truth)
    return _correlate_columns(_ranks(estimate_.T), _ranks(truth_.T))


def _ranks(values: Floats) -> Floats:
    """Ranks in every column, ties sharing their mean rank."""
    from scipy.stats import rankdata  # takes long to import

    ranks: Floats = rankdata(values, axis=0)
    return ranks


def interval_coverage(*, lower: Matrix, upper: Matrix, truth: Matrix) -> float:
    """Return the share of entries whose truth lies within ``[lower, upper]``.

    It should equal the interval's nominal level; neither more nor less is better. On sparse
    counts ``[0, 0]`` covers every zero, so read it with :func:`interval_score`.

    Parameters
    ----------
    lower, upper, truth
        (cells, genes), dense or sparse, on one scale.

    Raises
    ------
    ValueError
        If shapes differ or a lower end is above its upper end.
    """
    low, high, true = _interval(lower, upper, truth)
    return float(((true >= low) & (true <= high)).mean())


def interval_width(*, lower: Matrix, upper: Matrix) -> float:
    """Return the mean of ``upper - lower``; narrow is good only at the same coverage."""
    low, high, _ = _interval(lower, upper, lower)
    return float((high - low).mean())


def interval_score(*, lower: Matrix, upper: Matrix, truth: Matrix, level: float) -> float:
    """Return the mean interval score: width plus a fine for what lies outside.

    ``(u - l) + 2/a max(l - y, 0) + 2/a max(y - u, 0)`` with ``a = 1 - level``. It is proper: the
    true ``a/2`` and ``1 - a/2`` quantiles have the lowest expected score.

    Parameters
    ----------
    lower, upper, truth
        As :func:`interval_coverage`.
    level
        Nominal coverage, between 0 and 1.

    Raises
    ------
    ValueError
        As :func:`interval_coverage`, and if the level is not between 0 and 1.

    References
    ----------
    Gneiting & Raftery 2007, eq. 43, doi:10.1198/016214506000001437.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1, such as 0.9.")
    low, high, true = _interval(lower, upper, truth)
    outside = np.maximum(low - true, 0.0) + np.maximum(true - high, 0.0)
    return float((high - low + 2.0 / (1.0 - level) * outside).mean())


def _dense_pair(estimate: Matrix, truth: Matrix) -> tuple[Floats, Floats]:
    """Return both as dense matrices of one shape, or refuse them."""
    pair = as_dense(estimate), as_dense(truth)
    if pair[0].shape != pair[1].shape or pair[0].ndim != 2:
        raise ValueError(
            f"estimate has shape {pair[0].shape} and truth {pair[1].shape}, expected the same "
            "(cells, genes); align cells and genes first."
        )
    if not all(np.isfinite(values).all() for values in pair):
        raise ValueError(
            "estimate or truth holds NaN or infinity, expected finite numbers; "
            "a method that returns them has failed and has no score."
        )
    return pair


def _errors(estimate: Matrix, truth: Matrix, entries: Entries, observed: Matrix | None) -> Floats:
    """Return estimate - truth at the chosen entries, flat."""
    estimate_, truth_ = _dense_pair(estimate, truth)
    chosen = _chosen(truth_, entries, observed)
    if not chosen.any():
        raise ValueError(
            f"no entry is {entries!r}, expected at least one; check that observed holds the "
            "counts after dropout and truth those before."
        )
    return (estimate_ - truth_)[chosen]


def _chosen(truth: Floats, entries: Entries, observed: Matrix | None) -> NDArray[np.bool_]:
    """Return which entries are scored, (cells, genes)."""
    if entries == "all":
        return np.ones(truth.shape, dtype=bool)
    if entries not in {"dropped", "observed"} or observed is None:
        raise ValueError(
            f"got entries={entries!r} and observed={type(observed).__name__}, expected 'all', or "
            "'dropped' or 'observed' together with the observed counts; pass observed=counts."
        )
    observed_, truth = _dense_pair(observed, truth)
    return observed_ > 0 if entries == "observed" else (observed_ == 0) & (truth > 0)


def _correlate_columns(estimate: Floats, truth: Floats) -> Floats:
    """Return Pearson's r of matching columns; NaN where the truth is constant."""
    if len(truth) < 2:
        raise ValueError(
            f"got {len(truth)} values to correlate, expected at least two; "
            "pass more cells (or genes, for a correlation per cell)."
        )
    estimate, truth = estimate - estimate.mean(0), truth - truth.mean(0)
    covariance = (estimate * truth).sum(0)
    scale = np.sqrt((estimate**2).sum(0) * (truth**2).sum(0))
    constant_truth = np.ptp(truth, axis=0) == 0
    informative = (np.ptp(estimate, axis=0) > 0) & ~constant_truth & (scale > 0)
    r = np.divide(covariance, scale, out=np.zeros_like(scale), where=informative)
    return np.where(constant_truth, np.nan, r)


def _interval(lower: Matrix, upper: Matrix, truth: Matrix) -> tuple[Floats, Floats, Floats]:
    """Return dense interval ends and truth, or refuse them."""
    low, true = _dense_pair(lower, truth)
    high, _ = _dense_pair(upper, truth)
    if (low > high).any():
        raise ValueError(
            f"{int((low > high).sum())} lower ends are above their upper ends, expected none; "
            "check the order of the arguments."
        )
    return low, high, true
