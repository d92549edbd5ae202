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

import numpy as np

from graphsci.evaluation._blocks import Floats, Matrix, as_dense

#: Library size that both matrices are scaled to before log1p.
TARGET_SUM = 10_000.0


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
