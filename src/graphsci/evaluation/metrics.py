"""Scores of dense estimates against a dense truth: errors, correlations, intervals.

Every function is pure and takes keyword arguments only. Losses of held-out counts are in
:mod:`graphsci.evaluation.count_loss`; :data:`graphsci.evaluation.METRICS` lists label, direction,
range, scale and source of all.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphsci.predictions import Floats, Matrix, as_dense

Entries = Literal["all", "dropped", "observed"]


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


def log_pair(estimate: Matrix, truth: Matrix, *, library_size: float) -> tuple[Floats, Floats]:
    """Return both as log1p at one library size, (cells, genes) each: see :func:`on_scale`.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    one = on_scale(estimate, scale="log1p", library_size=library_size)
    other = on_scale(truth, scale="log1p", library_size=library_size)
    if one.shape != other.shape:
        raise ValueError(
            f"estimate has shape {one.shape} and truth {other.shape}, expected the same "
            "(cells, genes); align cells and genes first."
        )
    return one, other


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
