"""The table of held-out molecules: every prediction beside the controls, with its error."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from graphsci.evaluation import metrics
from graphsci.evaluation._blocks import Matrix, Predicted, as_csr
from graphsci.evaluation.controls import gene_mean
from graphsci.evaluation.designs import MoleculeSplit


class HeldOutScore(NamedTuple):
    """How well one prediction fits the held-out molecules."""

    name: str
    poisson_loss: float  #: mean per entry, lower is better
    poisson_deviance: float  #: mean per entry, lower is better
    d2: float  #: share of the gene means' deviance that is explained, higher is better
    against_gene_mean: metrics.PairedDifference  #: of the Poisson loss; negative: better
    sums: metrics.DevianceSums  #: Poisson loss, total, per cell and per gene


def score_held_out(
    *, split: MoleculeSplit, predictions: Mapping[str, Predicted]
) -> tuple[HeldOutScore, ...]:
    """Score predictions of the same held-out molecules; each is read once, in blocks.

    Parameters
    ----------
    split
        From :func:`graphsci.evaluation.designs.hold_out_molecules`.
    predictions
        Expected held-out counts (cells, genes) by name, such as the controls of
        :data:`graphsci.evaluation.CONTROLS` or a method's rates times ``split.ratio``.

    Returns
    -------
    One score for each prediction, in the order given.

    Raises
    ------
    ValueError
        If a prediction does not fit the held-out counts, see
        :func:`graphsci.evaluation.metrics.poisson_loss_sums`.
    """
    reference = metrics.poisson_loss_sums(
        predicted=gene_mean(split.kept, ratio=split.ratio), held_out=split.held_out
    )
    saturated = _saturated_loss(split.held_out)
    return tuple(
        _score(name, predicted, split, reference=reference, saturated=saturated)
        for name, predicted in predictions.items()
    )


def _score(
    name: str,
    predicted: Predicted,
    split: MoleculeSplit,
    *,
    reference: metrics.DevianceSums,
    saturated: float,
) -> HeldOutScore:
    """Score one prediction; its deviance is twice the loss above the saturated model's."""
    sums = metrics.poisson_loss_sums(predicted=predicted, held_out=split.held_out)
    deviance, of_means = (2.0 * (loss.mean - saturated) for loss in (sums, reference))
    return HeldOutScore(
        name=name,
        poisson_loss=sums.mean,
        poisson_deviance=deviance,
        d2=metrics.d2(deviance=deviance, reference_deviance=of_means),
        against_gene_mean=metrics.paired_difference(candidate=sums, reference=reference),
        sums=sums,
    )


def _saturated_loss(held_out: Matrix) -> float:
    """Return the mean Poisson loss of predicting each count by itself, ``mean(y - y log y)``."""
    counts = as_csr(held_out, name="held_out")
    return float((counts.data - xlogy(counts.data, counts.data)).sum() / np.prod(counts.shape))
