"""Detection scores: differentially expressed genes (eqs. 26-27) and edges of a gene network."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from graphsci.edge_scores import EdgeScores as EdgeScores
from graphsci.edge_scores import edge_scores
from graphsci.predictions import Matrix


def deg_accuracy(*, detected: ArrayLike, truly_different: ArrayLike) -> float:
    """Return the share of genes that are judged rightly, different or not (eq. 26, as 0-1).

    Parameters
    ----------
    detected, truly_different
        Booleans (genes,).

    Raises
    ------
    ValueError
        If lengths differ or values are not boolean.
    """
    found, true = _checked_flags(detected, truly_different)
    return float((found == true).mean())


def deg_f_score(*, detected: ArrayLike, truly_different: ArrayLike) -> float:
    """Return ``TP / (TP + (FP + FN) / 2)`` (eq. 27); 0 if nothing is right.

    Parameters and errors as :func:`deg_accuracy`.
    """
    found, true = _checked_flags(detected, truly_different)
    hits, misses = int((found & true).sum()), int((found != true).sum())
    return hits / (hits + misses / 2) if hits else 0.0


def deg_auc(*, scores: ArrayLike, truly_different: ArrayLike) -> float:
    """Return the area under the ROC curve of a gene score.

    Parameters
    ----------
    scores
        (genes,), larger for a gene more surely different, such as ``-log10 p``.
    truly_different
        Booleans (genes,), of both kinds.

    Raises
    ------
    ValueError
        If lengths differ, a score is NaN, or all genes are of one kind.

    References
    ----------
    Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    values, true = _checked_scores(scores, truly_different)
    return float(roc_auc_score(true, values))


def edge_precision(
    *, weights: Matrix, known: Matrix, universe: NDArray[np.bool_] | None = None
) -> float:
    """Return the share of predicted edges that are known: see :func:`edge_scores`."""
    return edge_scores(weights=weights, known=known, universe=universe).precision


def edge_recall(
    *, weights: Matrix, known: Matrix, universe: NDArray[np.bool_] | None = None
) -> float:
    """Return the share of known edges that are predicted: see :func:`edge_scores`."""
    return edge_scores(weights=weights, known=known, universe=universe).recall


def edge_auprc(
    *, weights: Matrix, known: Matrix, universe: NDArray[np.bool_] | None = None
) -> float:
    """Return the area under the precision-recall curve: see :func:`edge_scores`."""
    return edge_scores(weights=weights, known=known, universe=universe).auprc


def _checked_flags(
    detected: ArrayLike, truly_different: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return both as booleans of one length, or refuse them."""
    found, true = np.asarray(detected), np.asarray(truly_different)
    if (
        found.shape != true.shape
        or found.ndim != 1
        or {found.dtype, true.dtype} != {np.dtype(bool)}
    ):
        raise ValueError(
            f"got {found.dtype} {found.shape} and {true.dtype} {true.shape}, expected two boolean "
            "vectors with one value per gene; threshold p-values first."
        )
    return found, true


def _checked_scores(
    scores: ArrayLike, truly_different: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores and flags of one length, or refuse them."""
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(truly_different, dtype=bool)
    if values.shape != true.shape or values.ndim != 1 or np.isnan(values).any():
        raise ValueError(
            f"got scores {values.shape} ({int(np.isnan(values).sum())} NaN) and flags "
            f"{true.shape}, expected one number per gene; give untested genes the lowest score."
        )
    if true.all() or not true.any():
        raise ValueError(
            f"{int(true.sum())} of {true.size} genes are truly different, expected some of both "
            "kinds; an AUC compares the two."
        )
    return values, true
