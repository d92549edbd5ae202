"""The two denoising metrics of Open Problems, as that benchmark codes them.

Read from ``openproblems-bio/task_denoising`` (``src/metrics``), its forerunners
``openproblems-v2`` and ``openproblems`` v1; described at doi:10.1038/s41587-025-02694-w. The
benchmark holds out 10 % of the molecules; ``denoised`` is a method's output at the depth of the
kept counts and ``held_out`` the test counts.

Both are quoted, not trusted. The Poisson loss calls ``poisson_nll_loss(y_pred, y_true)``. Read
in v1 and in ``openproblems-v2`` it is called with the test counts first: the arguments are
swapped, so that an empty matrix scores 0, the best value it reports. Read in ``task_denoising``
at commit 2008913 they are in order. Which of the two made the published leaderboard we could not
verify; both are here.
The mean squared error compares a prediction with log1p of a 10 % sample, most of which is zero
by chance, so it rewards under-estimation.
"""

import math

import numpy as np

from graphsci.predictions import Floats, Matrix, as_dense

#: Library size that both matrices are scaled to before log1p.
TARGET_SUM = 10_000.0
#: Cells whose expectations are computed at once.
_CELLS = 200
#: Probability of larger counts at which a sum over counts ends.
_REST = 1e-9
#: Halvings of the multiplier's range, and Newton's steps for the logarithms at each.
_HALVINGS, _STEPS, _LAST_STEPS = 30, 1, 10


def openproblems_mse(
    *, denoised: Matrix, held_out: Matrix, target_sum: float = TARGET_SUM
) -> float:
    """Return Open Problems' mean squared error on log1p of counts per 10,000.

    Each matrix is scaled to 10,000 per cell *by its own totals*, then log1p; mean over all
    entries. Cells without any count stay zero, as scanpy's ``normalize_total`` leaves them.

    Parameters
    ----------
    denoised
        Method's output (cells, genes) on the count scale.
    held_out
        Test counts (cells, genes).
    target_sum
        v1 of the benchmark used the median library size of the test counts.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    test, predicted = _checked(held_out, denoised)
    errors = _log_per(test, target_sum) - _log_per(predicted, target_sum)
    return float((errors**2).mean())


def openproblems_poisson_swapped(*, denoised: Matrix, held_out: Matrix, train_sum: float) -> float:
    """Return Open Problems' Poisson loss as v1 and ``openproblems-v2`` code it: swapped arguments.

    ``mean(y - d log(y + 1e-6))`` with ``d = denoised * sum(y) / train_sum``. Where ``y`` is 0,
    nearly everywhere, each predicted molecule costs 13.8; where it is above 1, more is better
    without end.

    Parameters
    ----------
    denoised, held_out
        As :func:`openproblems_mse`.
    train_sum
        Molecules in the kept counts.

    Raises
    ------
    ValueError
        If shapes differ or ``train_sum`` is not positive.
    """
    test, scaled = _checked(held_out, _rescaled(denoised, held_out, train_sum))
    return _poisson_nll(y_pred=test, y_true=scaled)


def openproblems_poisson(*, denoised: Matrix, held_out: Matrix, train_sum: float) -> float:
    """Return the same loss with its arguments in order: ``mean(d - y log(d + 1e-6))``.

    As in ``task_denoising`` at commit 2008913. Parameters and errors as
    :func:`openproblems_poisson_swapped`.
    """
    test, scaled = _checked(held_out, _rescaled(denoised, held_out, train_sum))
    return _poisson_nll(y_pred=scaled, y_true=test)


def expected_log_estimate(
    *, rate: Matrix, rate_sd: Matrix, fraction: float, target_sum: float = TARGET_SUM
) -> Floats:
    """Return what Open Problems' mean squared error rewards; not an estimate of expression.

    The best answer to a squared error on log1p of a sparse sample is not the rate, but the
    expectation e of that log1p, which lies below. The benchmark brings every answer to
    ``target_sum`` per cell before it takes logarithms, so that of all answers m with that sum the
    one with the least squared error is returned: (log1p(m) - e) / (1 + m) is the same for all genes
    of a cell. How far zeros shrink depends on ``fraction``, how deep the sample is, and on nothing
    biological; use ``denoised`` for everything but this leaderboard.

    Parameters
    ----------
    rate, rate_sd
        (cells, genes) posterior mean and standard deviation of the rate of the kept counts:
        ``denoised`` and ``denoised_sd``, counts at own depth. Taken as a Gamma distribution.
    fraction
        Share of the molecules that is held out, 0.1 in the benchmark.

    Returns
    -------
    (cells, genes) dense, ``target_sum`` per cell; a cell without any rate stays zero.

    Raises
    ------
    ValueError
        If shapes differ or ``fraction`` is not between 0 and 1.
    """
    mean, sd = _checked(rate, rate_sd)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected a share between 0 and 1.")
    ratio = fraction / (1 - fraction)
    found = np.zeros_like(mean)
    for start in range(0, len(mean), _CELLS):
        rows = slice(start, start + _CELLS)
        sampled = mean[rows] * ratio
        sizes = sampled.sum(1, keepdims=True)
        scale = target_sum / np.where(sizes > 0, sizes, 1.0)
        expected = _expected_log1p(sampled, sd[rows] * ratio, scale)
        found[rows] = np.where(sizes > 0, _with_sum(expected, target_sum), 0.0)
    return found


def _expected_log1p(mean: Floats, sd: Floats, scale: Floats) -> Floats:
    """Return E[log1p(scale x y)] for y ~ Poisson(Gamma of this mean and standard deviation)."""
    positive = (mean > 0) & (sd > 0)
    shape = np.where(positive, (mean / np.where(positive, sd, 1.0)) ** 2, 1.0)
    stays = mean / (mean + shape)  # NB: mass(k) = mass(k - 1) (k - 1 + shape) / k x stays
    mass = np.exp(-shape * np.log1p(mean / shape))
    left, expected = 1 - mass, np.zeros_like(mean)
    for count in range(1, math.ceil((mean + 40 * np.sqrt(mean + sd**2)).max()) + 2):
        mass = mass * stays * (count - 1 + shape) / count
        expected += mass * np.log1p(count * scale)
        left -= mass
        if left.max() < _REST:
            break
    return expected


def _with_sum(expected: Floats, total: float) -> Floats:
    """Return m, with this sum in each row, that is nearest to ``expected`` in log1p.

    Between the two multipliers of the rows that are tried first every sum is met: at 0 the sum is
    that of expm1(e), at the largest the gene with the largest e is e times as large as there. What
    is still lacking then goes to that gene; what is too much at 0 is taken off by a negative one.
    """
    top = expected.max(1, keepdims=True)
    low, high = -np.exp(-top), np.exp(-(top + 1))
    logs = expected
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        logs = _stationary(expected, middle, logs, _STEPS)
        too_small = np.expm1(logs).sum(1, keepdims=True) < total
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    found = np.expm1(_stationary(expected, low, logs, _LAST_STEPS))
    largest = expected.argmax(1)[:, None]
    lacking = np.maximum(total - found.sum(1, keepdims=True), 0.0)
    np.put_along_axis(found, largest, np.take_along_axis(found, largest, 1) + lacking, 1)
    return found


def _stationary(expected: Floats, multiplier: Floats, logs: Floats, n_steps: int) -> Floats:
    """Return log1p of the m >= 0 next to e with log1p(m) - e = multiplier x (1 + m).

    By Newton's method from ``logs``.
    """
    for _ in range(n_steps):
        pull = multiplier * np.exp(logs)
        step = (logs - expected - pull) / np.maximum(1 - pull, 1e-3)
        logs = np.clip(logs - step, 0.0, expected + 1)
    return logs


def _poisson_nll(*, y_pred: Floats, y_true: Floats) -> float:
    """Return the loss that the benchmark copied from molecular cross-validation."""
    return float((y_pred - y_true * np.log(y_pred + 1e-6)).mean())


def _rescaled(denoised: Matrix, held_out: Matrix, train_sum: float) -> Floats:
    """Return the output at the depth of the test counts."""
    if not train_sum > 0:
        raise ValueError(
            f"train_sum is {train_sum}, expected the number of molecules in the kept counts."
        )
    return as_dense(denoised) * (as_dense(held_out).sum() / train_sum)


def _log_per(values: Floats, target_sum: float) -> Floats:
    """Return log1p of values scaled to ``target_sum`` per cell."""
    totals = values.sum(1, keepdims=True)
    return np.log1p(values * (target_sum / np.where(totals == 0, 1.0, totals)))


def _checked(held_out: Matrix, denoised: Matrix) -> tuple[Floats, Floats]:
    """Return both dense and of one shape, or refuse them."""
    test, predicted = as_dense(held_out), as_dense(denoised)
    if test.shape != predicted.shape:
        raise ValueError(
            f"denoised has shape {predicted.shape}, held_out {test.shape}, expected the same "
            "(cells, genes); align cells and genes first."
        )
    return test, predicted
