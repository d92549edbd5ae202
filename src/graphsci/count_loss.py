"""Losses of held-out counts: Poisson and NB deviance, D2, and paired differences between methods.

Pure functions of keyword arguments. Predictions come in blocks of cells, so that a cells x genes
matrix never has to exist.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit, xlogy

from graphsci.predictions import Floats, Matrix, Predicted, as_csr, iterate_blocks

__all__ = [
    "CHANCE",
    "FLOOR",
    "DevianceSums",
    "PairedDifference",
    "d2",
    "mean_difference",
    "nb_deviance",
    "nb_deviance_sums",
    "paired_difference",
    "poisson_deviance",
    "poisson_deviance_sums",
    "poisson_loss",
    "poisson_loss_sums",
    "significant_z",
]

#: Predicted rates below this are raised to it. A rate of zero where a molecule was held out is
#: infinitely bad, so one entry would decide every comparison; one molecule in a million entries
#: is below what any data set here can measure, and the penalty, 13.8 nats per molecule, stays.
FLOOR = 1e-6

#: A difference counts if chance exceeds it less often than this in one direction; with many cells
#: that is two standard errors.
CHANCE = 0.0228

#: Share of a loss that single precision leaves open.
_ROUNDING = 1e-6


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
    cell hard for both. A millionth of a cell's loss is rounding, and taken as no difference.

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
    difference = candidate.per_cell - reference.per_cell
    rounding = _ROUNDING * np.abs(reference.per_cell)
    difference = np.where(np.abs(difference) > rounding, difference, 0.0)
    return mean_difference(difference / candidate.per_gene.size)


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
